"""What the journal promises when a run is handed to another agent: once, all of it, or nothing."""

from __future__ import annotations

from typing import Any

from perdure.core.budget import Budget
from perdure.definitions import AgentDefinition
from perdure.store.journal import Journal
from perdure.store.rows import HandOver, RunRow, ToolCommit
from tests.store.runs import AGENT, USAGE, all_events, asks, begin, new_run, said, types

BILLING: AgentDefinition = {
    **AGENT, "name": "billing", "model": "scripted/echo", "instructions": "You bill.",
    "limits": {
        "max_turns": 3,
        "tools": {"pay": {"max_calls": 1, "on_exceed": "block"}, "book": {"max_calls": 9, "on_exceed": "steer"}},
    },
}  # fmt: skip
NEW = HandOver(BILLING, "agt_2", 4, "He is angry.")


async def asked(journal: Journal, *calls: str, turn: int = 1, run: RunRow | None = None, **more: Any) -> RunRow:
    run = run or await new_run(journal, **more)
    attempt = await begin(journal, run.id, turn)
    await journal.commit_model(run.id, f"model-{turn}", attempt, asks(*calls))
    return await journal.get_run(run.id)


async def test_a_run_that_is_handed_over_pins_the_other_agent_and_keeps_what_is_its_own(journal: Journal) -> None:
    limits: Any = {"max_turns": 100, "tools": {"book": {"max_calls": 2, "on_exceed": "block"}}}
    run = await asked(journal, "c1", limits=limits, budget=Budget(5_000_000))
    done = await journal.hand_over(run.id, "c1", NEW)
    assert done.call.status == "completed"
    after = await journal.get_run(run.id)
    assert (after.definition, after.agent_id, after.agent_version, after.transfers) == (BILLING, "agt_2", 4, 1)
    assert (after.id, after.session_id, after.budget, after.account) == (
        run.id,
        run.session_id,
        run.budget,
        run.account,
    )
    assert after.deadline_ms == run.deadline_ms
    assert after.limits == {
        "max_turns": 100,
        "tools": {"book": {"max_calls": 2, "on_exceed": "block"}, "pay": {"max_calls": 1, "on_exceed": "block"}},
    }
    (event,) = [event for event in await all_events(journal, run.id) if event.type == "agent.transferred"]
    assert event.data == {"from": {"name": "clerk", "version": None}, "to": {"name": "billing", "version": 4}}
    assert event.call_id == "c1"


async def test_what_a_vendor_has_counted_holds_no_more(journal: Journal) -> None:
    run = await asked(journal, "c1")
    assert run.exact_tokens == 55
    await journal.hand_over(run.id, "c1", NEW)
    after = await journal.get_run(run.id)
    assert (after.exact_tokens, after.exact_number) == (None, 0)
    attempt = await begin(journal, run.id, 2)
    await journal.commit_model(run.id, "model-2", attempt, said("Good day"))
    assert (await journal.get_run(run.id)).exact_tokens == USAGE.input_tokens + USAGE.output_tokens


async def test_a_hand_over_is_carried_out_once_however_often_it_is_tried(journal: Journal) -> None:
    run = await asked(journal, "c1")
    first = await journal.hand_over(run.id, "c1", NEW)
    before = await types(journal, run.id)
    other = HandOver({**BILLING, "name": "other"}, "agt_3", 1)
    for new in (NEW, other, ToolCommit("failed", "there is no such agent", "agent_not_allowed")):
        again = await journal.hand_over(run.id, "c1", new)
        assert (again.call.status, again.call.message_number) == ("completed", first.call.message_number)
    assert await types(journal, run.id) == before
    assert (await journal.get_run(run.id)).agent_id == "agt_2"


async def test_one_turn_hands_over_once_and_the_next_may_again(journal: Journal) -> None:
    run = await asked(journal, "c1", "c2")
    await journal.hand_over(run.id, "c1", NEW)
    for new in (NEW, ToolCommit("failed", "not allowed", "agent_not_allowed")):
        second = await journal.hand_over(run.id, "c2", new)
        assert second.call.error is not None
        assert second.call.error.code == "already_transferred"
    await asked(journal, "c3", turn=2, run=run)
    await journal.hand_over(run.id, "c3", HandOver(AGENT, "agt_1", 1))
    after = await journal.get_run(run.id)
    assert (after.definition["name"], after.transfers) == ("clerk", 2)


async def test_a_refused_hand_over_changes_nothing_but_the_call(journal: Journal) -> None:
    run = await asked(journal, "c1")
    done = await journal.hand_over(run.id, "c1", ToolCommit("failed", "no", "agent_not_allowed"))
    assert done.call.error is not None
    assert done.call.error.code == "agent_not_allowed"
    after = await journal.get_run(run.id)
    assert (after.definition, after.transfers, after.exact_tokens) == (run.definition, 0, run.exact_tokens)
    assert "agent.transferred" not in await types(journal, run.id)
