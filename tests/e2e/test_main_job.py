"""The main job over HTTP through a real Temporal: what a user of a healthy system sees."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.stack import Stack

BUILT_INS = ["current_time", "calculator", "write_file", "read_file", "edit_file", "list_files"]


def texts(message: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"] if block["type"] == "text")


def test_the_tour_runs_from_post_to_completed_and_its_files_are_there(stack: Stack) -> None:
    run = stack.wait_for_end(stack.post_run("scripted/tour", BUILT_INS)["id"])
    assert run["status"] == "completed", run
    assert run["output_text"]
    assert run["usage"]["output_tokens"] > 0
    assert float(run["usage"]["cost_usd"]) > 0
    steps = stack.http.get(f"/v1/runs/{run['id']}/steps").raise_for_status().json()["data"]
    assert {step["status"] for step in steps} == {"completed"}
    assert any((stack.home / "workspaces" / run["id"]).iterdir())


def test_a_reader_sees_every_event_once_and_in_order_and_a_second_reader_the_same(stack: Stack) -> None:
    run_id = stack.post_run("scripted/tour", BUILT_INS)["id"]
    followed = list(stack.follow(run_id))
    assert [event["seq"] for event in followed] == list(range(1, len(followed) + 1))
    assert followed[-1]["type"] == "run.completed"
    assert stack.events(run_id) == followed


def test_a_reader_who_comes_back_misses_nothing_and_hears_nothing_twice(stack: Stack) -> None:
    run_id = stack.post_run("scripted/tour", BUILT_INS)["id"]
    seen: list[dict[str, Any]] = []
    for _ in range(200):
        for event in stack.follow(run_id, after=seen[-1]["seq"] if seen else 0):
            seen.append(event)
            if len(seen) % 7 == 0:
                break  # the connection is dropped
        if seen[-1]["type"] == "run.completed":
            break
    assert seen == stack.events(run_id)


def test_the_text_that_streamed_is_the_text_of_the_message(stack: Stack) -> None:
    run_id = stack.post_run("scripted/tour", BUILT_INS)["id"]
    stack.wait_for_end(run_id)
    live, whole = "", ""
    for event in stack.events(run_id):
        if event["type"] == "text.delta":
            live += event["data"]["text"]
        if event["type"] == "message.added" and event["data"]["message"]["role"] == "assistant":
            whole += texts(event["data"]["message"])
    assert live == whole != ""


def test_a_session_continues_with_the_whole_conversation(stack: Stack) -> None:
    first = stack.wait_for_end(stack.post_run("scripted/echo", input="my name is Ada")["id"])
    second = stack.wait_for_end(stack.post_run("scripted/echo", input="again", session_id=first["session_id"])["id"])
    assert second["session_id"] == first["session_id"]
    messages = stack.http.get(f"/v1/sessions/{first['session_id']}/messages").raise_for_status().json()["data"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert [message["number"] for message in messages] == [1, 2, 3, 4]


@pytest.mark.parametrize("dialect", ["scripted", "scripted-chat", "scripted-messages"])
def test_the_same_script_gives_the_same_transcript_over_every_dialect(stack: Stack, dialect: str) -> None:
    run = stack.wait_for_end(stack.post_run(f"{dialect}/booking", ["book_idempotent"])["id"])
    assert run["status"] == "completed", run
    messages = stack.http.get(f"/v1/runs/{run['id']}/messages").raise_for_status().json()["data"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [texts(message) for message in messages if message["role"] == "assistant"] == [
        "I book the idempotent one.",
        "Now the other.",
        "All is booked.",
    ]


def test_trouble_at_the_vendor_is_waited_out_and_a_refusal_is_told(stack: Stack) -> None:
    flaky = stack.post_run("scripted/flaky")["id"]
    refused = stack.wait_for_end(stack.post_run("scripted/refuse")["id"])
    assert (refused["status"], refused["stop_reason"]) == ("incomplete", "refusal")
    assert stack.wait_for_end(flaky)["status"] == "completed"
    types = [event["type"] for event in stack.events(flaky)]
    assert types.count("model.retrying") == 2


def test_the_turn_limit_ends_a_run_as_incomplete(stack: Stack) -> None:
    run = stack.post_run("scripted/long-run", BUILT_INS, limits={"max_turns": 3})
    run = stack.wait_for_end(run["id"])
    assert (run["status"], run["stop_reason"]) == ("incomplete", "max_turns")


def test_a_tool_that_misbehaves_is_a_failure_the_model_sees_and_the_worker_lives(stack: Stack) -> None:
    worker = stack.children["worker"].pid
    tools = ["hang", "blow_up", "leave", "not_a_number", "broken_text", "calculator"]
    run = stack.wait_for_end(stack.post_run("scripted/odd-tools", tools)["id"])
    assert run["status"] == "completed", run
    failures = {
        (event["data"]["tool"], event["data"].get("code"))
        for event in stack.events(run["id"])
        if event["type"] in ("tool.failed", "tool.denied", "tool.unknown")
    }
    assert {
        ("hang", "tool_timeout"),
        ("blow_up", "tool_error"),
        ("leave", "tool_exited"),
        ("not_a_number", "tool_result_invalid"),
        ("no_such_tool", "unknown_tool"),
        ("calculator", "invalid_arguments"),
    } <= failures
    assert stack.children["worker"].poll() is None
    assert stack.children["worker"].pid == worker


def test_large_results_arguments_and_transcripts_are_ordinary(stack: Stack) -> None:
    filler = "x" * 1_000_000
    run = stack.wait_for_end(stack.post_run("scripted/large", ["huge", "measure"], input=filler)["id"], 90)
    assert run["status"] == "completed", run
    results = [
        block
        for message in stack.http.get(f"/v1/runs/{run['id']}/messages").json()["data"]
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert results[0]["bytes"] == 5 * 1024 * 1024
    assert results[1]["text"] == "1000000"


def test_cancel_ends_a_model_call_in_flight_and_is_the_last_event(stack: Stack) -> None:
    run_id = stack.post_run("scripted/slow")["id"]
    for event in stack.follow(run_id):
        if event["type"] == "text.delta":
            break
    answer = stack.http.post(f"/v1/runs/{run_id}/cancel", json={"mode": "graceful", "reason": "enough"})
    assert answer.status_code == 202, answer.text
    assert stack.wait_for_end(run_id, 10)["status"] == "cancelled"
    types = [event["type"] for event in stack.events(run_id)]
    assert types[-1] == "run.cancelled"
    assert "run.cancelling" in types
    assert "model.aborted" in types
