"""Runs that go on from others, sessions that are busy, broken, carried away and erased; all on real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from temporalio.client import Client

from tests.e2e.stack import SCRIPTS as SCRIPTS_FOLDER
from tests.e2e.stack import Stack
from tests.e2e.story import effects, told_well, types

SCRIPTS = str(SCRIPTS_FOLDER)


def post(stack: Stack, path: str, **body: Any) -> dict[str, Any]:
    answer = stack.http.post(path, json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def transcript(stack: Stack, session_id: str) -> list[dict[str, Any]]:
    return list(stack.http.get(f"/v1/sessions/{session_id}/messages?limit=100").raise_for_status().json()["data"])


def test_a_run_that_failed_is_retried_from_its_last_good_step_and_pays_and_does_nothing_again(
    build: Callable[..., Stack],
) -> None:
    stack = build()
    stack.env["PERDURE_WORKER__MODEL_MAX_ATTEMPTS"] = "2"
    stack.start()
    run_id = str(stack.post_run("scripted/held-tool", ["book_when_open"])["id"])
    stack.wait_until(lambda: types(stack.events(run_id))["tool.started"] == 1, "the tool runs")
    stack.kill("vendors")
    stack.effects.with_suffix(".open").touch()
    failed = stack.wait_for_end(run_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "retries_exhausted")
    stack.spawn("vendors", "-m", "perdure.providers.scripted", "--port", str(stack.vendor_port), "--scripts", SCRIPTS)
    stack.wait_until(lambda: stack._answers(f"{stack.vendor_url}/_scripted/summary"), "the vendors are back")
    retry = post(stack, f"/v1/runs/{run_id}/retry")
    ended = stack.wait_for_end(retry["id"])
    assert (ended["status"], ended["output_text"]) == ("completed", "It is booked.")
    assert (ended["retry_of"], ended["session_id"]) == (run_id, failed["session_id"])
    assert (len(effects(stack, run_id)), effects(stack, retry["id"])) == (1, {})
    assert {key: counts["completed"] for key, counts in stack.bill(retry["id"]).items()} == {"model-1": 1}
    assert [message["role"] for message in transcript(stack, failed["session_id"])] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    told_well(stack, retry["id"])
    again = stack.http.post(f"/v1/runs/{run_id}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "invalid_transition")


def test_a_fork_goes_another_way_from_an_event_and_shares_what_was_before(stack: Stack) -> None:
    first = stack.wait_for_end(str(stack.post_run("scripted/two-ways", ["book_once"])["id"]))
    assert first["output_text"] == "I heard: go. Done: booked flight."
    results = [event["seq"] for event in stack.events(first["id"]) if event["type"] == "tool.completed"]
    same = stack.wait_for_end(post(stack, f"/v1/runs/{first['id']}/fork", from_seq=results[0])["id"])
    assert same["output_text"] == first["output_text"]
    assert (same["turns"], len(effects(stack, same["id"]))) == (2, 1), "the hotel is not booked, nor paid, again"
    edited = stack.wait_for_end(post(stack, f"/v1/runs/{first['id']}/fork", from_seq=2, input="stay")["id"])
    assert edited["output_text"] == "I heard: stay. Done: booked flight."
    after = stack.wait_for_end(post(stack, f"/v1/runs/{first['id']}/fork", from_seq=results[0], input="enough")["id"])
    assert [message["role"] for message in transcript(stack, after["session_id"])][:4] == [
        "user", "assistant", "tool", "user",
    ]  # fmt: skip
    assert len(transcript(stack, first["session_id"])) == 6, "the first one is as it was"
    for run in (same, edited, after):
        assert run["status"] == "completed"
        assert run["forked_from"]["run_id"] == first["id"]
        told_well(stack, run["id"])


def test_a_fork_of_a_run_at_work_does_not_disturb_it(stack: Stack) -> None:
    stack.close_gate("second")
    stack.open_gate("first")
    run_id = str(stack.post_run("scripted/held-twice", ["book_idempotent"])["id"])
    stack.wait_until(lambda: types(stack.events(run_id))["tool.completed"] == 1, "the first turn is over")
    seq = next(event["seq"] for event in stack.events(run_id) if event["type"] == "tool.completed")
    fork = post(stack, f"/v1/runs/{run_id}/fork", from_seq=seq)
    stack.open_gate("second")
    ends = [stack.wait_for_end(each) for each in (run_id, fork["id"])]
    assert [end["status"] for end in ends] == ["completed", "completed"]
    assert ends[0]["output_text"] == ends[1]["output_text"]


def test_what_is_said_to_a_busy_session_is_answered_by_its_active_run(stack: Stack) -> None:
    stack.close_gate("listener")
    before = stack.held("listener")
    run = stack.post_run("scripted/listener")
    stack.wait_until(lambda: stack.held("listener") > before, "the model talks")
    body = {"agent_inline": {"model": "scripted/listener"}, "input": "And then?", "session_id": run["session_id"]}
    assert stack.http.post("/v1/runs", json=body).status_code == 409
    told = stack.http.post("/v1/runs", json={**body, "on_conflict": "enqueue"})
    assert (told.status_code, told.json()["id"]) == (202, run["id"])
    stack.open_gate("listener")
    ended = stack.wait_for_end(run["id"])
    assert ended["output_text"] == "Heard: And then?"
    again = stack.http.post("/v1/runs", json={**body, "on_conflict": "enqueue"})
    assert again.status_code == 201, "the session is free"
    stack.wait_for_end(again.json()["id"])


def exported(stack: Stack, session_id: str) -> list[dict[str, Any]]:
    text = stack.http.get(f"/v1/sessions/{session_id}/export").raise_for_status().text
    return [json.loads(line) for line in text.splitlines()]


def imported(stack: Stack, lines: list[dict[str, Any]]) -> str:
    body = "".join(json.dumps(line) + "\n" for line in lines)
    headers = {"content-type": "application/jsonl"}
    answer = stack.http.post("/v1/sessions:import", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def broken(stack: Stack) -> list[dict[str, Any]]:
    """A transcript in which a call has lost its result."""
    run = stack.wait_for_end(str(stack.post_run("scripted/booking", ["book_idempotent"])["id"]))
    lines = exported(stack, run["session_id"])
    kept = [line for line in lines if line["type"] != "message" or line["role"] != "tool"]
    for number, line in enumerate(kept[1:-1], 1):
        line["number"] = number
    kept[0]["messages"] = kept[-1]["messages"] = len(kept) - 2
    return kept


def test_a_conversation_is_carried_to_another_journal_and_goes_on_there(
    stack: Stack, build: Callable[..., Stack]
) -> None:
    first = stack.wait_for_end(str(stack.post_run("scripted/remembers", input="one")["id"]))
    elsewhere = build().start()
    session_id = imported(elsewhere, exported(stack, first["session_id"]))
    run = elsewhere.post_run("scripted/remembers", input="two", session_id=session_id)
    assert elsewhere.wait_for_end(run["id"])["output_text"] == "Second: two"
    assert elsewhere.http.delete(f"/v1/sessions/{session_id}").status_code == 204
    assert elsewhere.run(run["id"])["output_text"] is None


def test_a_broken_transcript_is_repaired_for_the_model_and_the_run_says_so(stack: Stack) -> None:
    session_id = imported(stack, broken(stack))
    run = stack.post_run("scripted/forgetful", input="go on", session_id=session_id)
    ended = stack.wait_for_end(run["id"])
    assert (ended["status"], ended["output_text"]) == ("completed", "Answered: go on")
    logs = [event["data"] for event in stack.events(run["id"]) if event["type"] == "log"]
    assert logs == [{"what": "transcript_repaired", "counts": {"orphan_calls": 2}}]


def test_a_broken_transcript_ends_the_run_where_that_is_wanted(build: Callable[..., Stack]) -> None:
    stack = build()
    stack.env["PERDURE_WORKER__STRICT_TRANSCRIPTS"] = "true"
    stack.start()
    session_id = imported(stack, broken(stack))
    run = stack.post_run("scripted/forgetful", input="go on", session_id=session_id)
    ended = stack.wait_for_end(run["id"])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "transcript_broken")
    assert "2 orphan calls" in ended["error"]["message"]
    assert stack.bill(run["id"]) == {}


async def executions(stack: Stack, run_id: str) -> int:
    """How many workflow executions a run is made of."""
    client = await Client.connect(stack.temporal.address)
    count, execution = 1, None
    while True:
        history = await client.get_workflow_handle(run_id, run_id=execution).fetch_history()
        execution = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
        if not execution:
            return count
        count += 1


async def test_a_run_that_continues_as_new_again_and_again_is_one_run_to_whoever_looks(
    build: Callable[..., Stack],
) -> None:
    stack = build()
    stack.env["PERDURE_WORKER__CONTINUE_AS_NEW_EVENTS"] = "50"
    stack.start()
    more = {"budget": {"max_cost_usd": "50.00"}, "limits": {"max_turns": 200}}
    run_id = str(stack.post_run("scripted/busy-day", ["book_idempotent"], **more)["id"])
    for turn in (8, 20):
        stack.wait_until(lambda turn=turn: stack.run(run_id)["turns"] >= turn, f"turn {turn}")  # type: ignore[misc]
        body = {"content": f"said at {turn}", "delivery": "enqueue"}
        stack.http.post(f"/v1/runs/{run_id}/messages", json=body).raise_for_status()
        post(stack, f"/v1/runs/{run_id}/pause")
        stack.wait_until(lambda: stack.run(run_id)["status"] == "paused", "it pauses")
        stack.kill("worker")
        stack.spawn("worker", "-m", "worker")
        post(stack, f"/v1/runs/{run_id}/resume")
    ended = stack.wait_for_end(run_id, 120)
    assert (ended["status"], ended["output_text"]) == ("completed", "All is booked.")
    told = types(told_well(stack, run_id))
    assert (told["inbox.accepted"], told["inbox.applied"], told["run.started"]) == (2, 2, 1)
    assert (told["run.paused"], told["run.resumed"]) == (2, 2)
    assert ended["turns"] == told["turn.completed"] == 52, "25 bookings and an answer, twice"
    assert len(effects(stack, run_id)) == 50
    bill = stack.bill(run_id)
    assert (len(bill), {counts["completed"] for counts in bill.values()}) == (52, {1}), "each is paid once"
    assert await executions(stack, run_id) >= 8
