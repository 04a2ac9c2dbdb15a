"""The rows of schedules and of their invocations, as the journal's port shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.core.state import RunStatus
from perdure.scheduling.definition import Overlap, ScheduleDefinition
from perdure.store.rows import NewRun

INVOCATIONS_KEPT = 1_000  # of one schedule: a day of firings by the minute, and three years of nightly ones

Cause = Literal["schedule", "manual"]
InvocationStatus = Literal["started", "delivered", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """``owner`` is the agent, or the conversation, that made it for itself; people's schedules have none. A schedule
    that continues a session without ``session_id`` gets a session of its own."""

    id: str
    name: str
    definition: ScheduleDefinition
    requested_by: str
    project_id: str = "default"
    session_id: str | None = None
    owner: str | None = None
    made_by_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """The truth about a schedule; what Temporal knows is derived from it. ``version`` counts changes from 1,
    ``applied_version`` is the one Temporal was told of last. ``timing_version`` is the newest version that changed
    when it fires: a firing of an older one is void."""

    id: str
    project_id: str
    name: str
    version: int
    timing_version: int
    applied_version: int
    definition: ScheduleDefinition
    paused: bool
    paused_reason: str
    session_id: str | None
    owner: str | None
    made_by_run_id: str | None
    requested_by: str
    created_ms: int
    updated_ms: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """What is given replaces what was there. ``expected_version``: only when this is still the newest."""

    expected_version: int | None = None
    name: str | None = None
    definition: ScheduleDefinition | None = None
    paused: bool | None = None
    reason: str = ""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class NewInvocation:
    """A firing. ``run`` is what it starts; without one it has ``failed``, or is ``skipped`` for that reason."""

    schedule_id: str
    version: int
    key: str
    planned_ms: int
    run: NewRun | None = None
    failed: str = ""
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class InvocationRow:
    """One firing, or one that did not take place. ``cause`` is ``manual`` for triggers. ``reason`` says why it was
    skipped (overlap, quiet_hours, missed, paused, changed, session_busy) or what failed. ``run_status`` is the run's
    of now."""

    id: str
    schedule_id: str
    planned_ms: int
    actual_ms: int | None
    cause: Cause
    status: InvocationStatus
    reason: str
    run_id: str | None
    run_status: RunStatus | None


@dataclass(frozen=True, slots=True)
class ScheduleOrder:
    """A trigger, whose planned time is ``from_ms``, or a backfill that was accepted. ``sent``: Temporal has shown that
    it took it; it had dropped ``dropped`` firings before. ``tries``: how often it was told."""

    id: str
    schedule_id: str
    kind: Literal["trigger", "backfill"]
    from_ms: int
    to_ms: int | None
    overlap: Overlap | None
    tries: int
    sent: bool
    dropped: int
