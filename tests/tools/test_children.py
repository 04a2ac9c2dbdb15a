"""Who a child is and what it may do: never more than its parent, unless a person has said so."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from activities.children import INLINE_INSTRUCTIONS, Nursery, Refused
from activities.transcripts import Transcripts
from activities.verdicts import verdicts
from activities.view import Exact
from perdure.core.budget import Ask, Budget
from perdure.core.happenings import CallAsked
from perdure.core.state import Usage
from perdure.definitions import AgentDefinition, LimitsDefinition
from perdure.providers import PriceConfig, build_catalog
from perdure.store.rows import HandOver, ModelCommit, NewChild, NewRun, RunRow
from perdure.store.sql import SqlJournal, open_journal
from perdure.tools.policy import normalized, policy_of, ruling
from perdure.tools.registry import build_toolbox

BOX = build_toolbox()
FAR = int(time.time() * 1_000) + 1_000_000
LIMITS = LimitsDefinition(
    max_turns=20, max_tool_calls=40, max_questions=3, max_children=5, max_depth=2, max_running_children=4
)
NO_HTTP = normalized({"rules": [{"tool": "http_get", "action": "deny", "reason": "no network"}]}, of_run=True)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqlJournal]:
    opened = await open_journal(f"sqlite:///{tmp_path / 'journal.db'}", tmp_path / "blobs")
    yield opened
    await opened.close()


def agent(name: str, *tools: str, **more: Any) -> AgentDefinition:
    known: Any = {
        "name": name, "model": "openai/priced", "instructions": f"You are {name}.", "tools": list(tools),
        "model_settings": {}, "limits": {}, "policy": normalized(more.pop("policy", None)),
    }  # fmt: skip
    return {**known, **more}


LEAD = agent("lead", "spawn_agent", "calculator", "http_get", run_policy=NO_HTTP)


async def parent(journal: SqlJournal, definition: AgentDefinition = LEAD, **more: Any) -> RunRow:
    new = NewRun("run_0", definition, [{"type": "text", "text": "go"}], FAR, LIMITS, **more)
    return await journal.create_run(new)


def nursery(journal: SqlJournal, **budget: Any) -> Nursery:
    catalog = build_catalog(prices={"openai/priced": PriceConfig(input=1, output=2)})
    return Nursery(journal, catalog, BOX, LimitsDefinition(max_turns=100, max_depth=3), Budget(**budget), 8_192)


async def child(journal: SqlJournal, definition: AgentDefinition = LEAD, /, **arguments: Any) -> NewChild:
    run = await parent(journal, definition)
    return await nursery(journal).child(run, {"task": "look", **arguments})


async def test_an_inline_child_has_its_parents_tools_but_those_that_lead_agents(journal: SqlJournal) -> None:
    made = (await child(journal)).run.definition
    assert made["tools"] == ["calculator", "http_get"]
    assert (made["model"], made["instructions"]) == ("openai/priced", INLINE_INSTRUCTIONS)


async def test_an_inline_child_has_the_board_of_its_parent(journal: SqlJournal) -> None:
    board = ["board_read", "board_post", "board_update", "board_remove"]
    assert (await child(journal, agent("lead", "spawn_agent", *board))).run.definition["tools"] == board


async def test_an_inline_child_is_given_some_of_its_parents_tools_and_no_others(journal: SqlJournal) -> None:
    made = (await child(journal, tools=["spawn_agent", "calculator"], instructions="Count.")).run.definition
    assert (made["tools"], made["instructions"]) == (["spawn_agent", "calculator"], "Count.")
    with pytest.raises(Refused, match=r"no tool 'write_file'.*you have: spawn_agent") as refused:
        await child(journal, tools=["write_file"])
    assert refused.value.code == "unknown_tool"


async def test_a_client_tool_goes_along_only_by_name(journal: SqlJournal) -> None:
    client: Any = {"name": "pick", "description": "", "parameters": {"type": "object"}, "expires_seconds": 60.0}
    lead: AgentDefinition = {**LEAD, "client_tools": [client]}
    assert (await child(journal, lead)).run.definition.get("client_tools") == []
    assert (await child(journal, lead, tools=["pick"])).run.definition.get("client_tools") == [client]


async def test_a_stored_agent_keeps_those_of_its_tools_that_its_parent_has_too(journal: SqlJournal) -> None:
    await journal.put_agent("default", agent("scout", "calculator", "write_file"))
    made = (await child(journal, agent="scout")).run
    assert (made.definition["tools"], made.definition["instructions"]) == (["calculator"], "You are scout.")
    assert made.agent_version == 1


async def test_a_stored_agent_that_its_parent_may_use_keeps_all_of_them(journal: SqlJournal) -> None:
    await journal.put_agent("default", agent("scout", "calculator", "write_file"))
    lead: AgentDefinition = {**LEAD, "agents": ["scout"]}
    assert (await child(journal, lead, agent="scout@1")).run.definition["tools"] == ["calculator", "write_file"]


async def test_the_policies_above_are_asked_beside_the_childs_own_and_the_strictest_stands(journal: SqlJournal) -> None:
    scout = agent("scout", "http_get", "calculator", policy={"rules": [{"tool": "calculator", "action": "ask"}]})
    await journal.put_agent("default", scout)
    made = (await child(journal, agent="scout")).run.definition
    policy = policy_of(made)
    http, calculator = (BOX.describe([name])[0] for name in ("http_get", "calculator"))
    found = ruling(policy, http, {"url": "https://example.com"})
    assert (found.action, found.rule, found.reason) == ("deny", "above[1].rules[0]", "no network")
    assert ruling(policy, calculator, {"expression": "1"}).rule == "rules[0]"
    assert [one["rules"] for one in made.get("further_policies", [])] == [[], NO_HTTP["rules"]]


async def test_an_inline_child_and_its_own_children_are_held_to_the_same_policies(journal: SqlJournal) -> None:
    made = (await child(journal, tools=["spawn_agent", "http_get"])).run
    run = await parent(journal)
    deeper = await nursery(journal).child(
        await journal.create_run(NewRun("run_1", made.definition, made.input, FAR, LIMITS)), {"task": "on"}
    )
    block: Any = {"type": "tool_call", "call_id": "c", "name": "http_get", "arguments": {"url": "https://example.com"}}
    for definition in (made.definition, deeper.run.definition):
        row = await journal.create_run(NewRun(f"run_{id(definition)}", definition, made.input, FAR, LIMITS))
        (verdict,) = await verdicts(journal, BOX, row, [block], 0)
        assert verdict.asked.refusal_code == "tool_denied"
    assert run.id == "run_0"


async def test_limits_time_and_names_come_from_above(journal: SqlJournal) -> None:
    await journal.put_agent("default", agent("scout", limits={"max_turns": 7}))
    inline = (await child(journal, limits={"max_turns": 5, "max_tool_calls": 900})).run
    assert (inline.limits["max_turns"], inline.limits["max_tool_calls"], inline.deadline_ms) == (5, 40, FAR)
    stored = (await child(journal, agent="scout", limits={"max_turns": 9}, timeout_seconds=60)).run
    assert stored.limits["max_turns"] == 7
    assert stored.deadline_ms < time.time() * 1_000 + 61_000
    assert (await child(journal, timeout_seconds=10_000)).run.deadline_ms == FAR


async def test_what_is_wanted_is_exact_to_the_micro_dollar(journal: SqlJournal) -> None:
    for given in ("0.25", 0.25):
        wanted = (await child(journal, budget={"max_cost_usd": given, "max_tokens": 900})).wanted
        assert (wanted.max_cost_micros, wanted.max_tokens) == (250_000, 900)


async def test_what_is_not_there_is_said_with_what_there_is(journal: SqlJournal) -> None:
    await journal.put_agent("default", agent("scout"))
    with pytest.raises(Refused, match="no agent 'nobody'; there are: scout") as refused:
        await child(journal, agent="nobody")
    assert refused.value.code == "agent_not_found"
    with pytest.raises(Refused) as refused:
        await child(journal, model="no such model")
    assert refused.value.code == "unknown_model"


async def test_a_cost_limit_needs_a_model_with_a_price(journal: SqlJournal) -> None:
    unpriced = {"model": "openai/nobody-knows-its-price"}
    with pytest.raises(Refused) as refused:
        await child(journal, budget={"max_cost_usd": 1}, **unpriced)
    assert refused.value.code == "model_not_priced"
    assert (await child(journal, **unpriced)).run.budget is None


# Agents as tools, and hand-off --------------------------------------------------------------------------

RATE: Any = {
    "agent": "rater", "name": "rate", "description": "Rates.",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "output_schema": {"type": "object", "required": ["stars"]}, "budget": {"max_cost_micros": 70},
    "timeout_seconds": 60.0,
}  # fmt: skip


async def test_an_agent_that_is_a_tool_keeps_its_tools_and_is_told_what_to_answer(journal: SqlJournal) -> None:
    await journal.put_agent("default", agent("rater", "write_file", agents=["helper"]))
    run = await parent(journal, {**LEAD, "agent_tools": [RATE]})
    made = await nursery(journal).child_as_tool(run, RATE, {"text": "tea"})
    definition = made.run.definition
    assert (definition["tools"], definition.get("agents")) == (["write_file"], ["helper"])
    assert made.run.input == [{"type": "text", "text": '{"text": "tea"}'}]
    assert definition["instructions"].startswith("You are rater.\n\n[Perdure]")
    assert '"required": ["stars"]' in definition["instructions"]
    assert (definition.get("output_schema"), made.wanted.max_cost_micros) == (RATE["output_schema"], 70)
    assert made.run.deadline_ms < time.time() * 1_000 + 61_000
    assert NO_HTTP in definition.get("further_policies", [])


async def test_an_agent_that_nobody_named_has_only_those_agents_that_its_parent_has_too(journal: SqlJournal) -> None:
    other = {**RATE, "name": "other"}
    scout = agent("scout", "calculator", agents=["vault", "helper"], agent_tools=[RATE, other])
    await journal.put_agent("default", scout)
    lead: AgentDefinition = {**LEAD, "agents": ["helper"], "agent_tools": [other]}
    made = (await child(journal, lead, agent="scout")).run.definition
    assert (made.get("agents"), made.get("agent_tools")) == (["helper"], [other])
    trusted: AgentDefinition = {**LEAD, "agents": ["scout"]}
    await journal.create_run(NewRun("run_9", trusted, [{"type": "text", "text": "go"}], FAR, LIMITS))
    made = (
        await nursery(journal).child(await journal.get_run("run_9"), {"task": "x", "agent": "scout"})
    ).run.definition
    assert (made.get("agents"), made.get("agent_tools")) == (scout.get("agents"), [RATE, other])


async def test_an_agent_that_is_a_tool_goes_along_to_inline_children_only_by_name(journal: SqlJournal) -> None:
    lead: AgentDefinition = {**LEAD, "agent_tools": [RATE], "output_schema": {"type": "object"}}
    made = (await child(journal, lead)).run.definition
    assert made.get("agent_tools") == []
    assert "output_schema" not in made
    assert (await child(journal, lead, tools=["rate"])).run.definition.get("agent_tools") == [RATE]


async def test_whoever_takes_a_session_over_is_held_to_what_the_run_is_held_to(journal: SqlJournal) -> None:
    client: Any = {"name": "pick", "description": "", "parameters": {"type": "object"}, "expires_seconds": 60.0}
    above = normalized({"default": "ask"})
    lead: AgentDefinition = {
        **LEAD, "agents": ["billing"], "client_tools": [client], "further_policies": [above],
        "output_schema": {"type": "object"},
    }  # fmt: skip
    await journal.put_agent("default", agent("billing", "http_get", policy={"repeat_failures_max": 9}))
    new = await nursery(journal).successor(await parent(journal, lead), "billing@1", "Hello")
    made = new.definition
    assert (made["tools"], made.get("client_tools"), new.message, new.agent_version) == (
        ["http_get"],
        [client],
        "Hello",
        1,
    )
    assert (made.get("run_policy"), made.get("further_policies")) == (NO_HTTP, [above])
    http = BOX.describe(["http_get"])[0]
    assert ruling(policy_of(made), http, {"url": "https://example.com"}).action == "deny"
    assert "JSON Schema" in made["instructions"]


async def test_a_session_is_handed_only_to_agents_that_the_definition_names_and_that_can_run(
    journal: SqlJournal,
) -> None:
    await journal.put_agent("default", agent("vault", "write_file"))
    await journal.put_agent("default", {**agent("dear"), "model": "openai/nobody-knows-its-price"})
    await journal.put_agent("default", {**agent("gone"), "tools": ["flown"]})
    lead: AgentDefinition = {**LEAD, "agents": ["dear", "gone", "nobody"]}
    run = await parent(journal, lead, budget=Budget(1_000_000))
    for name, code in (
        ("vault", "agent_not_allowed"),
        ("nobody", "agent_not_found"),
        ("gone", "unknown_tool"),
        ("dear", "model_not_priced"),
    ):
        with pytest.raises(Refused) as refused:
            await nursery(journal).successor(run, name, "")
        assert refused.value.code == code
    with pytest.raises(Refused, match="'vault'; it can be handed to: dear, gone, nobody"):
        await nursery(journal).successor(run, "vault", "")


async def test_a_worker_that_has_read_the_first_agent_knows_the_second_one(journal: SqlJournal) -> None:
    transcripts = Transcripts(journal)
    await parent(journal)
    before = await transcripts.run("run_0")
    assert transcripts.toolbox(before, BOX).names() == LEAD["tools"]
    transcripts.count(before, Exact(50, 1))
    attempt = (await journal.begin_model(
        "run_0", "model-1", 1, model="openai/priced", worker="w", ask=Ask(1, 1, lambda i, o: i + o)
    )).attempt  # fmt: skip
    call: Any = {"type": "tool_call", "call_id": "c1", "name": "transfer_to_agent", "arguments": {}}
    asked = [CallAsked("c1", "transfer_to_agent")]
    commit = ModelCommit([call], "openai/priced", "tool_calls", Usage(50, 5), asked, {"stop": "tool_calls"})
    await journal.commit_model("run_0", "model-1", attempt, commit)
    assert transcripts.exact(before) == Exact(50, 1)
    await journal.hand_over("run_0", "c1", HandOver(agent("billing", "read_file"), "agt_2", 1))
    assert await transcripts.run("run_0") is before, "nobody has said yet that another agent has taken over"
    after = await transcripts.run("run_0", transfers=1)
    assert after.definition["name"] == "billing"
    assert transcripts.toolbox(after, BOX).names() == ["read_file"]
    assert transcripts.exact(after) is None
    transcripts.count(before, Exact(99, 2))  # a call that was made under the first agent comes to its end late
    assert transcripts.exact(after) is None
