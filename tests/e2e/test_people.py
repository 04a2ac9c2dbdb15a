"""Approvals, questions and client tools over real processes: nothing that asks runs before somebody has said
so, what was said is done once, and a run that waits waits through anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from tests.e2e.stack import Stack
from tests.e2e.story import effects, told_well, types

ASK = {"rules": [{"tool": "book_once", "action": "ask", "reason": "bookings are a person's decision"}]}
TOOLS = ["book_once", "book_idempotent", "book_when_open"]


def start(stack: Stack, script: str, **body: Any) -> str:
    return str(stack.post_run(f"scripted/{script}", TOOLS, **{"policy": ASK, **body})["id"])


def pending(stack: Stack, run_id: str, count: int = 1) -> list[dict[str, Any]]:
    stack.wait_until(lambda: len(stack.run(run_id)["pending_actions"]) == count, "the run asks")
    return list(stack.run(run_id)["pending_actions"])


def decide(stack: Stack, approval: dict[str, Any], actor: str = "ada", **body: Any) -> Any:
    return stack.http.post(f"/v1/approvals/{approval['id']}/decide", json=body, headers={"x-actor": actor})


def test_an_asked_call_runs_once_and_only_after_its_approval(stack: Stack) -> None:
    run_id = start(stack, "booking-once")
    [approval] = pending(stack, run_id)
    stack.wait_until(lambda: stack.run(run_id)["status"] == "requires_action", "the status says so")
    assert (approval["type"], approval["tool"], approval["arguments"]) == ("approval", "book_once", {"what": "hotel"})
    assert effects(stack, run_id) == {}
    for _ in range(2):
        answer = decide(stack, approval, decision="approve", args_sha256=approval["args_sha256"])
        assert (answer.status_code, answer.json()["status"]) == (200, "approved"), answer.text
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert list(effects(stack, run_id).values()) == [1]
    story = told_well(stack, run_id)
    order = [event["type"] for event in story if event["type"].startswith(("approval.", "tool.started"))]
    assert order == ["approval.requested", "approval.decided", "tool.started"]
    [decided] = [event for event in story if event["type"] == "approval.decided"]
    assert (decided["data"]["by"], decided["data"]["decision"]) == ("ada", "approve")
    [requested] = [event for event in story if event["type"] == "tool.requested"]
    assert (requested["data"]["verdict"], requested["data"]["rule"]) == ("ask", "run.rules[0]")


def test_a_denied_call_is_answered_with_the_reason_and_never_runs(stack: Stack) -> None:
    run_id = start(stack, "two-bookings")
    [approval] = pending(stack, run_id)
    assert decide(stack, approval, decision="deny", message="too dear").status_code == 200
    again = decide(stack, approval, decision="approve")
    assert (again.status_code, again.json()["code"]) == (409, "approval_already_resolved")
    assert again.headers["x-should-retry"] == "false"
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert len(effects(stack, run_id)) == 1, "the other call of the turn has run"
    [denied] = [event for event in stack.events(run_id) if event["type"] == "tool.denied"]
    assert "too dear" in denied["data"]["message"]


def test_edited_arguments_are_what_runs(stack: Stack) -> None:
    run_id = start(stack, "booking-once")
    [approval] = pending(stack, run_id)
    wrong = decide(stack, approval, decision="edit", edited_arguments={"where": "x"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "validation_failed")
    edited = decide(stack, approval, decision="edit", edited_arguments={"what": "hostel"})
    assert edited.status_code == 200, edited.text
    assert edited.json()["args_sha256"] != approval["args_sha256"]
    stack.wait_for_end(run_id)
    [done] = [event for event in stack.events(run_id) if event["type"] == "tool.completed"]
    assert "booked hostel" in done["data"]["preview"]


def test_a_person_answers_in_place_of_the_tool(stack: Stack) -> None:
    run_id = start(stack, "two-bookings")
    [approval] = pending(stack, run_id)
    assert decide(stack, approval, decision="respond", message="booked by phone: 42").status_code == 200
    stack.wait_for_end(run_id)
    assert len(effects(stack, run_id)) == 1
    texts = stack.http.get(f"/v1/runs/{run_id}/messages").text
    assert "booked by phone: 42" in texts


def test_an_approval_of_other_arguments_never_applies(stack: Stack) -> None:
    run_id = start(stack, "booking-once")
    [approval] = pending(stack, run_id)
    stale = decide(stack, approval, decision="approve", args_sha256="0" * 64)
    assert (stale.status_code, stale.json()["code"]) == (409, "approval_stale")
    assert effects(stack, run_id) == {}
    decide(stack, approval, decision="deny")
    stack.wait_for_end(run_id)


def test_of_two_who_decide_at_the_same_instant_one_wins_and_the_other_is_told(stack: Stack) -> None:
    for _ in range(5):
        run_id = start(stack, "booking-once")
        [approval] = pending(stack, run_id)
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(decide, stack, approval, who, decision=decision)
                for who, decision in (("ada", "approve"), ("bob", "deny"))
            ]
            answers = [one.result() for one in both]
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        stack.wait_for_end(run_id)
        won = next(answer.json()["status"] for answer in answers if answer.status_code == 200)
        assert len(effects(stack, run_id)) == (1 if won == "approved" else 0)


def test_an_approval_for_the_run_lets_the_very_same_call_pass_again(stack: Stack) -> None:
    run_id = start(stack, "same-booking-twice")
    [approval] = pending(stack, run_id)
    assert decide(stack, approval, decision="approve", scope="run").status_code == 200
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert len(effects(stack, run_id)) == 2
    assert types(stack.events(run_id))["approval.requested"] == 1


def test_an_approval_that_nobody_gives_expires_as_its_rule_says(stack: Stack) -> None:
    def policy(on_expiry: str) -> dict[str, Any]:
        terms = {"expires_seconds": 1, "on_expiry": on_expiry}
        return {"rules": [{"tool": "book_once", "action": "ask", "approval": terms}]}

    denied = start(stack, "booking-once", policy=policy("deny"))
    failed = start(stack, "booking-once", policy=policy("fail"))
    escalated = start(stack, "booking-once", policy=policy("escalate"))
    assert stack.wait_for_end(denied)["status"] == "completed"
    assert types(stack.events(denied))["tool.denied"] == 1
    ended = stack.wait_for_end(failed)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "tool_error")
    assert stack.wait_for_end(escalated)["status"] == "completed"
    assert types(stack.events(escalated))["approval.expired"] == 2
    assert not effects(stack, denied) | effects(stack, failed) | effects(stack, escalated)


def test_four_eyes_and_a_quorum(stack: Stack) -> None:
    terms = {"quorum": 2, "four_eyes": True}
    policy = {"rules": [{"tool": "book_once", "action": "ask", "approval": terms}]}
    agent = {"model": "scripted/booking-once", "tools": TOOLS}
    answer = stack.http.post(
        "/v1/runs", json={"agent_inline": agent, "input": "go", "policy": policy}, headers={"x-actor": "ada"}
    )
    run_id = answer.json()["id"]
    [approval] = pending(stack, run_id)
    own = decide(stack, approval, "ada", decision="approve")
    assert (own.status_code, own.json()["code"]) == (403, "insufficient_scope")
    first = decide(stack, approval, "bob", decision="approve")
    assert (first.status_code, first.json()["status"]) == (200, "open")
    assert effects(stack, run_id) == {}
    assert decide(stack, approval, "eve", decision="approve").json()["status"] == "approved"
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert types(stack.events(run_id))["approval.voted"] == 1


def test_what_policy_denies_nobody_is_asked_about(stack: Stack) -> None:
    run_id = start(stack, "dangerous")
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert effects(stack, run_id) == {}
    told = types(stack.events(run_id))
    assert (told["tool.denied"], told["approval.requested"]) == (1, 0)
    assert "guardrails" in stack.run(run_id)["output_text"]


def test_a_question_is_answered_while_other_tools_go_on(stack: Stack) -> None:
    run_id = str(stack.post_run("scripted/asker", ["ask_user", "book_idempotent"])["id"])
    [question] = pending(stack, run_id)
    assert question["type"] == "question"
    stack.wait_until(lambda: len(effects(stack, run_id)) == 1, "the other tool has run")
    path = f"/v1/questions/{question['id']}/answer"
    wrong = stack.http.post(path, json={"answers": {"env": "moon"}})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/answers/env")
    right = stack.http.post(path, json={"answers": {"env": "staging"}}, headers={"x-actor": "ada"})
    assert (right.status_code, right.json()["status"]) == (200, "answered"), right.text
    ended = stack.wait_for_end(run_id)
    assert ended["status"] == "completed"
    results = [
        block["text"]
        for message in stack.http.get(f"/v1/runs/{run_id}/messages").json()["data"]
        for block in message["content"]
        if block["type"] == "tool_result" and block["name"] == "ask_user"
    ]
    assert "staging" in results[0]
    assert "now" in results[0]


def test_a_client_executes_its_own_tool(stack: Stack) -> None:
    schema = {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]}
    tool = {"name": "look_it_up", "description": "Looks it up.", "parameters": schema}
    run_id = stack.post_run("scripted/client-caller", [], client_tools=[tool])["id"]
    [action] = pending(stack, run_id)
    assert (action["type"], action["name"], action["arguments"]) == ("client_tool", "look_it_up", {"number": "A-17"})
    stack.wait_until(lambda: stack.run(run_id)["status"] == "requires_action", "the status says so")
    path, result = f"/v1/runs/{run_id}/tool_results", {"call_id": action["call_id"], "output": {"found": "blue"}}
    unknown = stack.http.post(path, json={"results": [{"call_id": "call_none", "output": 1}]})
    assert unknown.status_code == 404
    for _ in range(2):
        assert stack.http.post(path, json={"results": [result]}).status_code == 200
    other = stack.http.post(path, json={"results": [{**result, "output": "red"}]})
    assert (other.status_code, other.json()["code"]) in ((409, "tool_result_conflict"), (409, "run_terminal"))
    assert stack.wait_for_end(run_id)["output_text"] == 'The client said: {"found": "blue"}'


@pytest.mark.parametrize("decision", ["approve", "deny", "respond"])
def test_a_person_decides_about_an_unknown_outcome(build: Callable[..., Stack], decision: str) -> None:
    stack = build().start(worker=False)
    mark = stack.home / "killed"
    fault = {"FAULT": "tool.after_effect:book_once", "FAULT_MARK": str(mark)}
    doomed = stack.spawn("doomed", "-m", "tests.e2e.faulty_worker", **fault)
    run_id = start(stack, "booking-once", policy={"unknown_outcome": "ask"})
    doomed.wait(timeout=30)
    stack.spawn("worker", "-m", "worker")
    [approval] = pending(stack, run_id)
    assert approval["about"] == "unknown_outcome"
    assert types(stack.events(run_id))["tool.unknown"] == 1
    assert decide(stack, approval, decision=decision, message="I looked").status_code == 200
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert sum(effects(stack, run_id).values()) == (2 if decision == "approve" else 1), "a person ordered the second"


def test_a_run_that_waits_survives_the_death_of_everything(build: Callable[..., Stack]) -> None:
    stack = build().start()
    run_id = start(stack, "booking-once")
    [approval] = pending(stack, run_id)
    stack.kill("worker")
    stack.kill("api")
    stack.spawn("api", "-m", "api")
    stack.wait_until(lambda: stack._answers(f"{stack.api_url}/healthz"), "the API answers")
    answer = decide(stack, approval, decision="approve")
    assert (answer.status_code, answer.json()["status"]) == (200, "approved"), "no worker is needed to decide"
    stack.kill("api")
    stack.spawn("worker", "-m", "worker")
    stack.spawn("api", "-m", "api")
    stack.wait_until(lambda: stack._answers(f"{stack.api_url}/healthz"), "the API answers")
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert list(effects(stack, run_id).values()) == [1]


def test_a_call_that_fails_the_same_way_again_and_again_is_refused(stack: Stack) -> None:
    run_id = stack.post_run("scripted/failing", ["blow_up"])["id"]
    assert stack.wait_for_end(run_id)["status"] == "completed"
    started = types(stack.events(run_id))["tool.started"]
    assert started == 3
    codes = [event["data"]["code"] for event in stack.events(run_id) if event["type"] == "tool.failed"]
    assert codes[3:] == ["repeated_failure"] * 3


def test_temporals_ui_shows_what_a_run_waits_for_and_the_command_that_resolves_it(stack: Stack) -> None:
    run_id = start(stack, "booking-once")
    [approval] = pending(stack, run_id)
    stack.wait_until(lambda: stack.run(run_id)["status"] == "requires_action", "the status says so")

    async def details() -> str:
        client = await Client.connect(stack.temporal.address)
        handle = client.get_workflow_handle(run_id)
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        found = (await handle.describe()).typed_search_attributes
        assert found[SearchAttributeKey.for_bool("NeedsAction")] is True
        return str(metadata.current_details)

    shown = asyncio.run(details())
    assert "requires_action" in shown
    assert f"perdure approve {run_id} --call {approval['call_id']}" in shown
    decide(stack, approval, decision="deny")
    stack.wait_for_end(run_id)


def test_a_stuck_call_that_is_ordered_to_run_again_twice_at_once_runs_and_its_worker_is_not_called_lost(
    build: Callable[..., Stack],
) -> None:
    stack = build().start()
    run_id = str(stack.post_run("scripted/stuck", ["book_once_when_open"])["id"])
    for number in range(1, 5):
        stack.wait_until(lambda n=number: types(stack.events(run_id))["tool.started"] >= n, "the tool runs")  # type: ignore[misc]
        [call] = [step for step in stack.http.get(f"/v1/runs/{run_id}/steps").json()["data"] if step["kind"] == "tool"]
        for _ in range(2):
            answer = stack.http.post(f"/v1/runs/{run_id}/calls/{call['key']}/retry", json={"reason": "it hangs"})
            assert answer.status_code == 202, answer.text
        stack.wait_until(lambda n=number: types(stack.events(run_id))["tool.started"] > n, "it runs again")  # type: ignore[misc]
    stack.kill("worker")
    assert stack.http.post(f"/v1/runs/{run_id}/calls/{call['key']}/retry", json={}).status_code == 202
    stack.spawn("worker", "-m", "worker")
    time.sleep(5)  # the dead worker's delivery comes again after its heartbeat timeout
    stack.effects.with_suffix(".open").touch()
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["output_text"]) == ("completed", "The last result was: booked hotel")
    told = types(stack.events(run_id))
    assert (told["tool.unknown"], told["tool.failed"], told["tool.completed"]) == (0, 0, 1)
    assert sum(effects(stack, run_id).values()) == 1
