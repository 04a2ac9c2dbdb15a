"""Runs that were recorded once (``histories/``, by ``make histories``) are understood by the workflow of today: with
children, asleep, polling, continued as new, asked about, interrupted. No processes, no server.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory

from tests.e2e.record_histories import HISTORIES, impersonal
from tests.e2e.test_replay import Hasty, replayed

NAMES = ["answered", "approved", "cancelled", "child", "failed", "family", "long", "steered", "time"]
WHAT_TO_DO = (
    "The workflow decides otherwise than when {name} was recorded: runs in flight would break. Before a release, if it "
    "is meant: `make histories` and commit. After one: keep the old way for old runs with workflow.patched "
    "(docs/architecture.md, Recorded histories). Temporal says: {failure}"
)


def recorded(name: str) -> list[WorkflowHistory]:
    """The executions of a recorded run, the oldest first."""
    filed = json.loads((HISTORIES / f"{name}.json").read_text())
    return [WorkflowHistory.from_json(filed["workflow_id"], {"events": events}) for events in filed["executions"]]


def test_every_recorded_history_is_one_that_is_replayed() -> None:
    assert sorted(path.stem for path in HISTORIES.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_is_understood_by_the_workflow_of_today(name: str) -> None:
    for history in recorded(name):
        failure = asyncio.run(replayed(history))
        assert failure is None, WHAT_TO_DO.format(name=name, failure=failure)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_change_of_the_workflow_is_noticed_in_each_of_them(name: str) -> None:
    failure = asyncio.run(replayed(recorded(name)[-1], Hasty))
    assert "ondeterminis" in f"{type(failure).__name__} {failure}"


def test_the_long_run_goes_on_in_the_middle_of_a_poll_while_a_child_is_at_work() -> None:
    begun = [history.events[0].SerializeToString() for history in recorded("long")]
    assert len(begun) >= 3
    assert any(b'"waits":"poll"' in start and b'"children":["' in start for start in begun)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_history_tells_nothing_of_the_machine(name: str) -> None:
    text = (HISTORIES / f"{name}.json").read_text()
    assert f"@{socket.gethostname()}" not in text
    assert f"{socket.gethostname()}:" not in text
    assert str(Path(__file__).parents[2]) not in text
    events: list[Any] = [event for execution in json.loads(text)["executions"] for event in execution]
    assert impersonal(events) == events
