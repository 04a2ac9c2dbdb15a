"""Runs that wait for a person for weeks, on a Temporal server that skips time: real processes, a real journal,
the real HTTP surface; only the clocks of the workflows are fast.

The server is the product's own dev server with time skipping allowed. (The older test server of the Java SDK never
takes a workflow back from the sticky queue of a worker that is gone: no run there outlives its worker.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import TimeSkipper

from perdure import dev_server
from tests.e2e.stack import Stack
from tests.e2e.story import effects, told_well, types

DAYS, RESTARTS = 30, 10
LONGEST_DAYS = 30  # that an approval may be given; one that escalates waits twice as long as it says
DEADLINE_DAYS = 60
WITHIN_SECONDS = 60  # of our clock, for anything that is to happen on a busy machine


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Temporal server skips time for whom it is told to, and whose workflows keep short histories."""
    folder = tmp_path_factory.mktemp("days")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dev_server._DYNAMIC_CONFIG, "frontend.WorkflowTimeSkippingEnabled", "true")
        temporal = dev_server.start_dev_server(folder / "temporal.db")
    stack = Stack(folder / "home", temporal)
    stack.env["PERDURE_WORKER__CONTINUE_AS_NEW_EVENTS"] = "50"
    try:
        yield stack.start()
    finally:
        stack.stop()
        temporal.stop()


def asking(stack: Stack, days: int, on_expiry: str) -> tuple[str, dict[str, Any]]:
    """A run that waits for the approval of its one booking, and the approval."""
    approval = {"expires_seconds": days * 86_400, "on_expiry": on_expiry}
    run = stack.post_run(
        "scripted/booking-once",
        ["book_once"],
        policy={"rules": [{"tool": "book_once", "action": "ask", "approval": approval}]},
        deadline=(datetime.now(UTC) + timedelta(days=DEADLINE_DAYS)).isoformat(),
    )
    becomes(stack, run["id"], "requires_action")
    [asked] = stack.run(run["id"])["pending_actions"]
    return run["id"], asked


def becomes(stack: Stack, run_id: str, status: str) -> None:
    stack.wait_until(lambda: stack.run(run_id)["status"] == status, f"the run is {status}", WITHIN_SECONDS)


def tell(stack: Stack, run_id: str, verb: str) -> None:
    answer = stack.http.post(f"/v1/runs/{run_id}/{verb}", json={})
    assert answer.status_code == 202, answer.text


async def workflow(stack: Stack, run_id: str) -> tuple[Client, WorkflowHandle[Any, Any]]:
    client = await Client.connect(stack.temporal.address)
    return client, client.get_workflow_handle(run_id)


def skip(stack: Stack, run_id: str, days: float) -> bool:
    """Let days go by on the workflow's clock; whether the run is still there then."""

    async def skip() -> bool:
        client, handle = await workflow(stack, run_id)
        return await asyncio.wait_for(TimeSkipper(client).fast_forward(handle, timedelta(days=days)), WITHIN_SECONDS)

    return asyncio.run(skip())


def executions(stack: Stack, run_id: str) -> list[list[HistoryEvent]]:
    """The histories of the run's workflow executions, the oldest first: each but the last continued as new."""

    async def read() -> list[list[HistoryEvent]]:
        client, handle = await workflow(stack, run_id)
        found = [list((await handle.fetch_history()).events)]
        while before := found[0][0].workflow_execution_started_event_attributes.continued_execution_run_id:
            earlier = client.get_workflow_handle(run_id, run_id=before)
            found.insert(0, list((await earlier.fetch_history()).events))
        return found

    return asyncio.run(read())


def lived(histories: list[list[HistoryEvent]]) -> timedelta:
    """How long the run has lasted on its workflow's own clock."""
    return histories[-1][-1].event_time.ToDatetime() - histories[0][0].event_time.ToDatetime()


def timers(histories: list[list[HistoryEvent]]) -> list[timedelta]:
    """What the workflow set its alarm to, each time."""
    return [
        event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        for history in histories
        for event in history
        if event.HasField("timer_started_event_attributes")
    ]


def restart_worker(stack: Stack, how: str) -> None:
    """A crash, or a deployment; the new process comes up while the test goes on."""
    if how == "crash":
        stack.kill("worker")
    else:
        worker = stack.children.pop("worker")
        worker.terminate()
        assert worker.wait(timeout=WITHIN_SECONDS) == 0
    stack.spawn("worker", "-m", "worker")


def test_a_run_waits_thirty_days_across_ten_worker_restarts_and_goes_on_right(stack: Stack) -> None:
    run_id, approval = asking(stack, 20, "escalate")
    for number, how in zip(range(1, RESTARTS + 1), cycle(["crash", "deployment"]), strict=False):
        restart_worker(stack, how)
        assert skip(stack, run_id, DAYS / RESTARTS), number
        for verb, status in (("pause", "paused"), ("resume", "requires_action")):  # each makes history longer
            tell(stack, run_id, verb)
            becomes(stack, run_id, status)
        [asked] = stack.run(run_id)["pending_actions"]
        assert (asked["id"], asked["escalated"]) == (approval["id"], number * DAYS / RESTARTS > 20), number
    assert effects(stack, run_id) == {}

    body = {"decision": "approve", "args_sha256": approval["args_sha256"]}
    decided = stack.http.post(f"/v1/approvals/{approval['id']}/decide", json=body, headers={"x-actor": "ada"})
    assert (decided.status_code, decided.json()["status"]) == (200, "approved"), decided.text
    ended = stack.wait_for_end(run_id)
    assert (ended["status"], ended["stop_reason"]) == ("completed", "end")
    assert list(effects(stack, run_id).values()) == [1]
    story = types(told_well(stack, run_id))
    assert (story["run.paused"], story["approval.requested"], story["approval.decided"]) == (RESTARTS, 1, 1)
    assert (story["tool.started"], story["tool.completed"]) == (1, 1)
    assert {key: counts["asked"] for key, counts in stack.bill(run_id).items()} == {"model-1": 1, "model-2": 1}

    histories = executions(stack, run_id)
    assert len(histories) >= 3, "two continue-as-news at the least"
    assert timedelta(days=DAYS) <= lived(histories) < timedelta(days=DAYS, hours=1)
    hour, left = timedelta(hours=1), timedelta(days=2 * 20 - DAYS)
    assert any(left - hour < timer <= left for timer in timers(histories)), "ten of the forty days were left"


@pytest.mark.parametrize(("days", "on_expiry", "in_all"), [(LONGEST_DAYS, "deny", 30), (20, "escalate", 40)])
def test_an_approval_that_nobody_gives_for_weeks_is_denied_on_its_day(
    stack: Stack, days: int, on_expiry: str, in_all: int
) -> None:
    run_id, approval = asking(stack, days, on_expiry)
    restart_worker(stack, "crash")
    assert skip(stack, run_id, in_all - 1)
    [asked] = stack.run(run_id)["pending_actions"]
    assert (asked["id"], asked["escalated"]) == (approval["id"], on_expiry == "escalate"), "a day is left"
    skip(stack, run_id, 2)
    assert stack.wait_for_end(run_id)["status"] == "completed", "the model hears of it, and the run goes on"
    assert effects(stack, run_id) == {}
    events = told_well(stack, run_id)
    reasons = [event["data"]["reason"] for event in events if event["type"] == "approval.expired"]
    assert reasons == (["escalate", "deny"] if on_expiry == "escalate" else ["deny"])
    [denied] = [event for event in events if event["type"] == "tool.denied"]
    assert denied["data"]["code"] == "tool_denied"
    assert stack.http.get(f"/v1/approvals/{approval['id']}").json()["status"] == "expired"
    late = stack.http.post(f"/v1/approvals/{approval['id']}/decide", json={"decision": "approve"})
    assert (late.status_code, late.json()["code"]) == (409, "approval_expired")
    assert timedelta(days=in_all) <= lived(executions(stack, run_id)) < timedelta(days=in_all, hours=1)
