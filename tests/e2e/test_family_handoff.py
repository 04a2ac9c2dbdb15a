"""Agents as tools and hand-off, over real processes: typed both ways, refused in words, once whoever dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.ledgers import held
from tests.e2e.stack import Stack
from tests.e2e.story import told_well, types
from tests.e2e.test_family import BUDGET, all_accounted, children, results, tree
from tests.e2e.test_replay import executions, replayed

RATED = {
    "agent": "rater",
    "name": "rate",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "strict": {"type": "boolean"}},
        "required": ["text"],
    },
    "output_schema": {
        "type": "object",
        "properties": {"stars": {"type": "integer", "maximum": 5}},
        "required": ["stars"],
    },
    "budget": {"max_cost_usd": "0.20"},
    "timeout_seconds": 60,
}


def agent(stack: Stack, name: str, script: str, **more: Any) -> dict[str, Any]:
    body = {"name": name, "model": script if "/" in script else f"scripted/{script}", **more}
    return dict(stack.http.post("/v1/agents", json=body).raise_for_status().json())


def ask(stack: Stack, script: str, tools: list[dict[str, Any]], **body: Any) -> dict[str, Any]:
    """A run of an inline agent that has these agents as tools, at its end."""
    made = {"model": f"scripted/{script}", "agent_tools": tools}
    answer = stack.http.post("/v1/runs", json={"agent_inline": made, "input": "go", **body})
    assert answer.status_code == 201, answer.text
    return stack.wait_for_end(answer.json()["id"])


def failures(stack: Stack, run_id: str) -> list[str]:
    return [event["data"]["code"] for event in stack.events(run_id) if event["type"] == "tool.failed"]


# Agents as tools -----------------------------------------------------------------------------------------


def test_an_agent_that_is_a_tool_is_given_json_and_gives_json(stack: Stack) -> None:
    agent(stack, "rater", "rater-bee", instructions="You rate.")
    run = ask(stack, "calls-a-rater", [RATED], budget=BUDGET)
    assert run["status"] == "completed", run
    (child,) = children(stack, run["id"])
    assert json.loads(child["input"][0]["text"]) == {"text": "tea", "strict": True}
    assert (child["agent"]["name"], child["parent_run_id"]) == ("rater", run["id"])
    assert child["budget"]["limit"]["max_cost_usd"] == "0.20"
    (result,) = results(stack, run["id"])
    assert json.loads(result["text"])["output"] == {"stars": 4, "of": "tea"}
    assert result["is_error"] is False
    assert [node["id"] for node in tree(stack, run["id"])["children"]] == [child["id"]]
    all_accounted(stack, run["id"])


def test_the_only_property_task_is_what_the_agent_reads(stack: Stack) -> None:
    agent(stack, "echo.bee", "echo-bee")
    run = ask(stack, "calls-by-task", [{"agent": "echo.bee"}])
    assert json.loads(results(stack, run["id"])[0]["text"])["output"] == "I got say hello"


def test_half_a_character_in_an_answer_that_is_json_keeps_nobody_waiting(stack: Stack) -> None:
    agent(stack, "rater", "odd-bee")
    run = ask(stack, "calls-a-rater", [RATED])
    assert run["status"] == "completed", run
    (result,) = results(stack, run["id"])
    assert json.loads(result["text"])["output"] == {"stars": 3, "why": "half \ufffd a character"}
    (child,) = children(stack, run["id"])
    assert child["status"] == "completed"


def test_an_answer_that_does_not_fit_fails_the_call_and_not_the_child(stack: Stack) -> None:
    agent(stack, "rater", "chatty-bee")
    run = ask(stack, "calls-a-rater", [RATED])
    (result,) = results(stack, run["id"])
    told = json.loads(result["text"])
    assert failures(stack, run["id"]) == ["output_schema_unsatisfied"]
    assert (told["status"], told["output"]) == ("completed", "Four stars, I would say.")
    assert "no JSON" in told["error"]["message"]
    (child,) = children(stack, run["id"])
    assert child["status"] == "completed"
    assert run["status"] == "completed"


def test_arguments_that_do_not_fit_start_nothing_and_the_model_can_mend_them(stack: Stack) -> None:
    agent(stack, "rater", "rater-bee")
    run = ask(stack, "calls-wrongly", [RATED])
    assert failures(stack, run["id"]) == ["invalid_arguments"]
    assert len(children(stack, run["id"])) == 1
    first, second = results(stack, run["id"])
    assert "text" in first["text"]
    assert json.loads(second["text"])["output"]["stars"] == 4


def test_a_policy_and_a_budget_of_calls_hold_for_an_agent_that_is_a_tool(stack: Stack) -> None:
    agent(stack, "rater", "rater-bee")
    denied = {"rules": [{"tool": "ra*", "action": "deny", "reason": "no ratings"}]}
    run = ask(stack, "calls-a-rater", [RATED], policy=denied)
    assert types(stack.events(run["id"]))["tool.denied"] == 1
    assert children(stack, run["id"]) == []
    run = ask(stack, "calls-a-rater", [RATED], limits={"tools": {"rate": {"max_calls": 0}}})
    assert failures(stack, run["id"]) == ["tool_call_limit"]


# Hand-off ------------------------------------------------------------------------------------------------


def desks(stack: Stack, **more: Any) -> None:
    agent(stack, "billing", "billing-desk", tools=["read_file"], instructions="You bill.")
    agent(stack, "unpriced", "openai/nobody-knows")
    agent(stack, "vault", "billing-desk", tools=["read_file"])
    known = {"tools": ["transfer_to_agent", "calculator"], "agents": ["billing", "nobody", "unpriced", "reception"]}
    for name, script in (("reception", "reception"), ("wrong-door", "wrong-door"), ("two-doors", "two-doors")):
        agent(stack, name, script, **{**known, **more})


def start(stack: Stack, name: str, **body: Any) -> str:
    answer = stack.http.post("/v1/runs", json={"agent": name, "input": "My money!", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def handed_over_well(stack: Stack, run_id: str, **limits: Any) -> list[dict[str, Any]]:
    run = stack.wait_for_end(run_id)
    assert (run["status"], run["output_text"]) == ("completed", "Billing here: My money!"), run
    assert (run["agent"]["name"], run["agent"]["model"]) == ("billing", "scripted/billing-desk")
    events = told_well(stack, run_id)
    (event,) = [event for event in events if event["type"] == "agent.transferred"]
    assert (event["data"]["from"]["name"], event["data"]["to"]["name"]) == ("reception", "billing")
    assert event["data"]["to"]["version"] == run["agent"]["version"]
    models = [event["data"]["model"] for event in events if event["type"] == "model.started"]
    assert list(dict.fromkeys(models)) == ["scripted/reception", "scripted/billing-desk"]
    assert types(events)["run.completed"] == 1
    return events


def test_the_agent_that_is_handed_a_session_answers_in_it_with_its_own_model_and_tools(stack: Stack) -> None:
    desks(stack)
    run_id = start(stack, "reception", budget=BUDGET)
    events = handed_over_well(stack, run_id)
    # Its other call of the turn is done before, by the agent that asked for it.
    ended = [e["data"]["tool"] for e in events if e["type"] in ("tool.completed", "tool.failed")]
    assert ended == ["calculator", "transfer_to_agent", "read_file"]
    told = next(json.loads(one["text"]) for one in results(stack, run_id) if one["name"] == "transfer_to_agent")
    assert (told["transferred_to"], told["message"]) == ("billing", "He wants his money back.")
    held(stack, run_id)
    run = stack.run(run_id)
    assert 0 < Decimal(run["budget"]["spent"]["cost_usd"]) <= Decimal(BUDGET["max_cost_usd"])
    # Another run of the session begins with whoever it names.
    assert stack.http.get(f"/v1/sessions/{run['session_id']}").raise_for_status().json()["id"] == run["session_id"]


def test_what_cannot_be_handed_over_is_an_error_that_the_model_can_mend(stack: Stack) -> None:
    desks(stack)
    run_id = start(stack, "wrong-door", budget=BUDGET)
    run = stack.wait_for_end(run_id)
    assert (run["output_text"], run["agent"]["name"]) == ("I stay.", "wrong-door")
    assert failures(stack, run_id) == ["agent_not_allowed", "agent_not_found", "model_not_priced"]
    assert "billing" in results(stack, run_id)[0]["text"]
    assert types(stack.events(run_id))["agent.transferred"] == 0


def test_a_turn_hands_over_once(stack: Stack) -> None:
    desks(stack)
    run_id = start(stack, "two-doors")
    run = stack.wait_for_end(run_id)
    assert run["agent"]["name"] == "billing"
    assert failures(stack, run_id)[0] == "already_transferred"
    assert types(stack.events(run_id))["agent.transferred"] == 1


def test_the_policy_of_the_run_holds_for_whoever_takes_it_over(stack: Stack) -> None:
    desks(stack)
    narrow = {"rules": [{"tool": "*", "action": "deny", "effect": "read", "reason": "no reading"}]}
    run_id = start(stack, "reception", policy=narrow)
    run = stack.wait_for_end(run_id)
    assert run["agent"]["name"] == "billing"
    denied = [e["data"]["tool"] for e in stack.events(run_id) if e["type"] == "tool.denied"]
    assert denied == ["calculator", "read_file"]


def test_what_the_next_agents_prompt_may_cost_is_bounded_anew_and_no_budget_is_exceeded_by_it(stack: Stack) -> None:
    desks(stack)
    agent(stack, "billing", "billing-desk", tools=["read_file"], instructions="You bill. " * 2_000)
    run_id = start(stack, "reception", budget={"max_tokens": 12_000, "on_limit": "stop"})
    run = stack.wait_for_end(run_id)
    assert (run["status"], run["stop_reason"], run["agent"]["name"]) == ("incomplete", "budget_reached", "billing")
    events = stack.events(run_id)
    assert [e["data"]["model"] for e in events if e["type"] == "model.started"] == ["scripted/reception"]
    assert types(events)["budget.overrun"] == 0
    held(stack, run_id)


@pytest.mark.parametrize("point", ["family.before_call", "family.committed"])
def test_a_worker_killed_around_a_hand_over_hands_over_once(build: Callable[..., Stack], point: str) -> None:
    stack = build().start(worker=False)
    desks(stack)
    mark = stack.home / "killed"
    fault = f"{point}:transfer_to_agent"
    doomed = stack.spawn("doomed", "-m", "tests.e2e.faulty_worker", FAULT=fault, FAULT_MARK=str(mark))
    run_id = start(stack, "reception", budget=BUDGET)
    doomed.wait(timeout=30)
    assert mark.exists(), stack.logs()
    stack.spawn("worker", "-m", "worker")
    handed_over_well(stack, run_id)
    held(stack, run_id)
    assert stack.summary()["paid_twice"] == 0


def test_two_workers_agree_on_who_has_the_session(build: Callable[..., Stack]) -> None:
    """Each has cached the first agent; whichever is asked next knows the second one."""
    stack = build().start()
    stack.spawn("second", "-m", "worker")
    desks(stack)
    for run_id in [start(stack, "reception", budget=BUDGET) for _ in range(6)]:
        handed_over_well(stack, run_id)
        held(stack, run_id)


def test_a_hand_over_survives_continuing_as_new_and_replay_and_tells_temporal_no_content(
    build: Callable[..., Stack],
) -> None:
    stack = build()
    stack.env |= {"PERDURE_PREVIEWS": "false", "PERDURE_WORKER__CONTINUE_AS_NEW_EVENTS": "50"}
    stack.start()
    desks(stack)
    agent(stack, "billing", "busy", tools=["book_idempotent"], instructions="You bill.")
    run = stack.wait_for_end(start(stack, "reception"))
    assert (run["status"], run["output_text"], run["agent"]["version"]) == ("completed", "All is booked.", 2)
    chain = asyncio.run(executions(stack, run["id"]))
    assert len(chain) > 3
    for history in chain:
        assert asyncio.run(replayed(history)) is None
    assert not any(b"money" in event.SerializeToString() for history in chain for event in history.events)
    upserts = [
        event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
        for event in chain[-1].events
        if event.HasField("upsert_workflow_search_attributes_event_attributes")
    ]
    assert [fields["AgentModel"].data for fields in upserts if "AgentModel" in fields] == [b'"scripted/busy"']
