"""The crash table: a worker killed with SIGKILL at each point where it hurts, on both journals.

Held every time: no answer is bought twice, no effect is repeated, the event log has no gap, and what
the user gets is what an undisturbed run gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.postgres import PostgresServer

POINTS = [
    "model.before_call:model-1",
    "model.committed:model-1",
    "model.committed:model-3",
    "tool.before_effect:book_idempotent",
    "tool.after_effect:book_idempotent",
    "tool.committed:book_idempotent",
]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.fresh_database()


def undisturbed(stack: Stack, run: dict[str, Any]) -> None:
    events = stack.events(run["id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert Counter(event["type"] for event in events)["run.completed"] == 1
    assert events[-1]["type"] == "run.completed"
    bill = stack.summary()
    assert bill["completed"] > 0
    assert bill["paid_twice"] == 0, bill


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_the_worst_moment_costs_nothing_twice(
    build: Callable[..., Stack], database_url: str | None, point: str
) -> None:
    stack = build(database_url).start(worker=False)
    mark = stack.home / "killed"
    doomed = stack.spawn("doomed", "-m", "tests.e2e.faulty_worker", FAULT=point, FAULT_MARK=str(mark))
    run_id = stack.post_run("scripted/booking", ["book_idempotent"])["id"]
    doomed.wait(timeout=30)
    assert mark.exists(), stack.logs()
    stack.spawn("worker", "-m", "worker")
    run = stack.wait_for_end(run_id)
    assert (run["status"], run["output_text"]) == ("completed", "All is booked.")
    undisturbed(stack, run)
    effects = Counter(stack.effects.read_text().split())
    assert len(effects) == 2
    assert set(effects.values()) == {1}


@pytest.mark.parametrize(
    ("point", "effects", "outcome"),
    [
        ("tool.before_effect:book_once", 0, "tool.unknown"),
        ("tool.after_effect:book_once", 1, "tool.unknown"),
        ("tool.committed:book_once", 1, "tool.completed"),
    ],
)
def test_a_once_tool_is_never_run_again_and_the_model_is_told_what_is_known(
    build: Callable[..., Stack], database_url: str | None, point: str, effects: int, outcome: str
) -> None:
    stack = build(database_url).start(worker=False)
    mark = stack.home / "killed"
    doomed = stack.spawn("doomed", "-m", "tests.e2e.faulty_worker", FAULT=point, FAULT_MARK=str(mark))
    run_id = stack.post_run("scripted/booking-once", ["book_once"])["id"]
    doomed.wait(timeout=30)
    assert mark.exists(), stack.logs()
    stack.spawn("worker", "-m", "worker")
    run = stack.wait_for_end(run_id)
    assert (run["status"], run["output_text"]) == ("completed", "All is booked.")
    undisturbed(stack, run)
    types = Counter(event["type"] for event in stack.events(run_id))
    assert types["tool.started"] == 1
    assert types[outcome] == 1
    assert len(stack.effects.read_text().split() if stack.effects.exists() else []) == effects


def test_a_tool_that_kills_its_worker_each_time_is_given_up_and_the_run_goes_on(build: Callable[..., Stack]) -> None:
    stack = build().start()
    run_id = stack.post_run("scripted/deadly-tool", ["die"])["id"]

    def replaced_and_over() -> bool:
        if stack.children["worker"].poll() is not None:
            stack.spawn("worker", "-m", "worker")  # what a supervisor does
        return bool(stack.run(run_id)["status"] == "completed")

    stack.wait_until(replaced_and_over, "the run goes on without the tool", 90)
    failed = [event for event in stack.events(run_id) if event["type"] == "tool.failed"]
    assert [event["data"]["tool"] for event in failed] == ["die"]
