"""What a run says it waits for is what it waits for now, also when its status stays the same."""

from __future__ import annotations

from tests.e2e.stack import Stack
from tests.e2e.story import told_well


def test_a_paused_run_that_is_paused_for_another_reason_says_the_new_one(stack: Stack) -> None:
    policy = {"rules": [{"tool": "book_once", "action": "ask"}]}
    run_id = str(stack.post_run("scripted/booking-once", ["book_once"], policy=policy)["id"])
    stack.wait_until(lambda: stack.run(run_id)["status"] == "requires_action", "the run asks")
    for reason in ("lunch", "dinner"):
        stack.http.post(f"/v1/runs/{run_id}/pause", json={"reason": reason}).raise_for_status()
        stack.wait_until(lambda reason=reason: stack.run(run_id)["status_reason"] == reason, f"it waits for {reason}")
    stack.http.post(f"/v1/runs/{run_id}/cancel", json={}).raise_for_status()
    stack.wait_for_end(run_id)
    paused = [event for event in told_well(stack, run_id) if event["type"] == "run.paused"]
    assert [event["data"]["reason"] for event in paused] == ["lunch", "dinner"]
