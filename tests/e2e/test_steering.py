"""Orders to a running run: messages of the three deliveries, pause and resume, a cancel with last words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from perdure.content import Block
from perdure.store.rows import NewMessage
from perdure.store.sql import open_journal
from tests.e2e.ledgers import ledger
from tests.e2e.stack import Stack
from tests.e2e.story import effects, told_well, types


def say(stack: Stack, run_id: str, text: str, delivery: str, **headers: str) -> Any:
    return stack.http.post(f"/v1/runs/{run_id}/messages", json={"content": text, "delivery": delivery}, headers=headers)


def talking(stack: Stack) -> str:
    """A run whose model talks and is held in the middle of it."""
    stack.close_gate("listener")
    before = stack.held("listener")
    run_id = str(stack.post_run("scripted/listener")["id"])
    stack.wait_until(lambda: stack.held("listener") > before, "the model talks")
    return run_id


def test_an_interrupt_ends_the_model_call_within_a_second_and_keeps_what_was_said(stack: Stack) -> None:
    run_id = talking(stack)
    asked = time.monotonic()
    assert say(stack, run_id, "Stop, something else.", "interrupt").status_code == 202
    stack.wait_until(lambda: types(stack.events(run_id))["model.aborted"] == 1, "the call is aborted", 5)
    took = time.monotonic() - asked
    print(f"[measured] order to abort: {took * 1000:.0f} ms")
    assert took < 1.5
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["output_text"]) == ("completed", "Heard: Stop, something else.")
    messages = stack.http.get(f"/v1/runs/{run_id}/messages").json()["data"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["stop_reason"] == "interrupted"
    assert messages[1]["content"][0]["text"].startswith("I talk and talk. ")
    told = types(stack.events(run_id))
    assert (told["inbox.accepted"], told["inbox.applied"], told["inbox.returned"]) == (1, 1, 0)


def test_an_interrupt_that_came_while_the_worker_was_dead_spares_the_call_that_was_lost(
    build: Callable[..., Stack],
) -> None:
    stack = build().start()
    run_id = talking(stack)
    stack.kill("worker")
    stack.kill("api")
    asyncio.run(_as_an_api_that_died_at_once(stack, run_id))
    stack.spawn("worker", "-m", "worker")
    stack.wait_until(lambda: "model-2" in stack.bill(run_id), "the message is answered, though Temporal knows nothing")
    stack.spawn("api", "-m", "api")
    stack.wait_until(lambda: stack._answers(f"{stack.api_url}/healthz"), "the API answers")
    stack.open_gate("listener")
    assert stack.wait_for_end(run_id)["status"] == "completed"
    assert stack.bill(run_id)["model-1"]["asked"] == 1, "the lost call is not asked again"
    lines = [(line["kind"], line["attempt"]) for line in ledger(stack, run_id) if line["key"] == "model-1"]
    assert lines == [("reserved", 1), ("settled", 1), ("reserved", 2), ("released", 2)], "nor paid for"
    told_well(stack, run_id)


async def _as_an_api_that_died_at_once(stack: Stack, run_id: str) -> None:
    """A message that was accepted, and of which nobody was told."""
    journal = await open_journal(f"sqlite:///{stack.home / 'journal.db'}", stack.home / "blobs")
    try:
        said: list[Block] = [{"type": "text", "text": "Stop, something else."}]
        await journal.accept_message(run_id, NewMessage("msg_late", said, "interrupt"))
    finally:
        await journal.close()


def test_a_steering_message_skips_what_has_not_begun(stack: Stack) -> None:
    run_id = str(stack.post_run("scripted/steered", ["book_when_open", "book_once"])["id"])
    stack.wait_until(lambda: types(stack.events(run_id))["tool.started"] == 1, "the first tool runs")
    assert say(stack, run_id, "Not by car.", "steer").status_code == 202
    stack.wait_until(lambda: types(stack.events(run_id))["tool.failed"] == 2, "the others are skipped")
    stack.effects.with_suffix(".open").touch()
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["output_text"]) == ("completed", "Heard: Not by car.")
    failed = [event["data"]["code"] for event in stack.events(run_id) if event["type"] == "tool.failed"]
    assert failed == ["skipped", "skipped"]
    assert len(effects(stack, run_id)) == 1


def test_an_enqueued_message_waits_for_the_answer_and_is_answered_after_it(stack: Stack) -> None:
    run_id = talking(stack)
    assert say(stack, run_id, "And then?", "enqueue").status_code == 202
    stack.open_gate("listener")
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["output_text"]) == ("completed", "Heard: And then?")
    told_well(stack, run_id)


def test_the_queue_is_listed_withdrawn_from_and_replaced(stack: Stack) -> None:
    run_id = talking(stack)
    first, second = (say(stack, run_id, text, "enqueue").json() for text in ("one", "two"))
    listed = stack.http.get(f"/v1/runs/{run_id}/inbox").raise_for_status().json()["data"]
    assert [message["id"] for message in listed] == [first["id"], second["id"]]
    withdrawn = stack.http.delete(f"/v1/runs/{run_id}/messages/{first['id']}")
    assert (withdrawn.status_code, withdrawn.json()["status"]) == (200, "returned")
    replaced = stack.http.put(
        f"/v1/runs/{run_id}/inbox", json={"messages": [{"content": "three", "delivery": "enqueue"}]}
    )
    assert replaced.status_code == 200, replaced.text
    stack.open_gate("listener")
    ended = stack.wait_for_end(run_id)
    assert ended["output_text"] == "Heard: three"
    told = types(told_well(stack, run_id))
    assert (told["inbox.accepted"], told["inbox.applied"], told["inbox.returned"]) == (3, 1, 2)


def test_a_message_said_twice_under_one_key_is_heard_once(stack: Stack) -> None:
    run_id = talking(stack)
    replies = [say(stack, run_id, "once", "enqueue", **{"idempotency-key": f"{run_id}-m"}) for _ in range(2)]
    assert replies[0].json() == replies[1].json()
    stack.open_gate("listener")
    stack.wait_for_end(run_id)
    assert types(stack.events(run_id))["inbox.applied"] == 1
    late = say(stack, run_id, "too late", "steer")
    assert (late.status_code, late.json()["code"]) == (409, "run_terminal")


def test_a_paused_run_finishes_its_call_and_starts_nothing_until_it_is_resumed(stack: Stack) -> None:
    stack.close_gate("first")
    run_id = str(stack.post_run("scripted/held-twice", ["book_idempotent"])["id"])
    stack.wait_until(lambda: stack.held("first") == 1, "the model talks")
    assert stack.http.post(f"/v1/runs/{run_id}/pause", json={"reason": "lunch"}).status_code == 202
    time.sleep(0.3)
    stack.open_gate("first")
    stack.wait_until(lambda: stack.run(run_id)["status"] == "paused", "the run pauses")
    assert (stack.run(run_id)["turns"], effects(stack, run_id)) == (1, {}), "the answer is in the journal"
    assert stack.run(run_id)["status_reason"] == "lunch"
    stack.open_gate("second")
    assert stack.http.post(f"/v1/runs/{run_id}/resume", json={}).status_code == 202
    assert stack.wait_for_end(run_id)["status"] == "completed"
    told = types(told_well(stack, run_id))
    assert (told["run.paused"], told["run.resumed"]) == (1, 1)


def test_a_cancelled_run_says_what_is_done_when_it_has_done_something(stack: Stack) -> None:
    run_id = str(stack.post_run("scripted/big-spender", ["calculator"], limits={"max_turns": 1_000})["id"])
    stack.wait_until(lambda: stack.run(run_id)["turns"] >= 3, "it works")
    assert stack.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "enough"}).status_code == 202
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["stop_reason"]) == ("cancelled", "enough")
    assert ended["output_text"].startswith("Wrap-up:")
    told_well(stack, run_id)


def test_orders_given_while_no_worker_and_no_temporal_is_there_are_carried_out_later(
    build: Callable[..., Stack],
) -> None:
    stack = build().start()
    run_id = talking(stack)
    stack.kill("worker")
    assert say(stack, run_id, "heard later", "enqueue").status_code == 202
    assert stack.http.post(f"/v1/runs/{run_id}/pause", json={}).status_code == 202
    assert stack.http.post(f"/v1/runs/{run_id}/resume", json={}).status_code == 202
    stack.open_gate("listener")
    stack.spawn("worker", "-m", "worker")
    assert stack.wait_for_end(run_id)["output_text"] == "Heard: heard later"


def test_a_thousand_messages_at_once_are_all_applied_or_returned(stack: Stack) -> None:
    run_id = talking(stack)
    body = {"messages": [{"content": f"number {n}", "delivery": "enqueue"} for n in range(1_000)]}
    assert stack.http.put(f"/v1/runs/{run_id}/inbox", json=body).status_code == 200
    for number in range(20):
        assert say(stack, run_id, f"late {number}", "enqueue").status_code == 202
    stack.open_gate("listener")
    assert stack.wait_for_end(run_id, 120)["status"] == "completed"
    told = types(stack.events(run_id))
    assert told["inbox.accepted"] == 1_020
    assert told["inbox.applied"] + told["inbox.returned"] == 1_020
    assert told["inbox.applied"] >= 1_000


def test_last_words_that_do_not_come_in_time_are_not_waited_for_again(stack: Stack) -> None:
    stack.close_gate("breath")
    run_id = str(stack.post_run("scripted/speechless", ["sleep"], limits={"turn_timeout_seconds": 1})["id"])
    stack.wait_until(lambda: stack.run(run_id)["status"] == "waiting", "the run sleeps")
    stack.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "enough"}).raise_for_status()
    ended = stack.wait_for_end(run_id)
    stack.open_gate("breath")
    assert (ended["status"], ended["stop_reason"]) == ("cancelled", "enough")
    events = stack.events(run_id)
    assert types(events)["model.started"] == 2, "the turn and one attempt at the last word"
    failed = [event["data"] for event in events if event["type"] == "tool.failed"]
    assert [(data["code"], "waited" in data["message"]) for data in failed] == [("cancelled", True)]
