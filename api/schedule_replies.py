"""What the API answers with about schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.money_replies import AgentBudgetOut
from api.replies import PolicyOut, TextBlockOut
from api.reply import Reply
from perdure.core.state import RunStatus
from perdure.scheduling.definition import Overlap, SessionConflict
from perdure.store.schedule_rows import Cause, InvocationStatus


class CalendarOut(Reply):
    second: str | None = None
    minute: str | None = None
    hour: str | None = None
    day_of_month: str | None = None
    month: str | None = None
    year: str | None = None
    day_of_week: str | None = None


class SpecOut(Reply):
    """One of `cron`, `every_seconds`, `calendar` and `at` is not null."""

    cron: list[str] | None
    every_seconds: int | None
    offset_seconds: int | None
    calendar: list[CalendarOut] | None
    at: list[datetime] | None


class QuietHoursOut(Reply):
    from_: str = Field(alias="from")
    to: str
    timezone: str


class ScheduleSessionOut(Reply):
    mode: Literal["new", "continue"]
    session_id: str | None
    on_conflict: SessionConflict


class InlineAgentOut(Reply):
    name: str
    model: str
    instructions: str
    tools: list[str]
    model_settings: dict[str, Any]
    limits: dict[str, Any]
    budget: AgentBudgetOut | None
    policy: PolicyOut | None


class ScheduleOut(Reply):
    """`applied`: Temporal knows this version; false for a moment after a change, and while Temporal is away."""

    id: str
    object: Literal["schedule"]
    name: str
    status: Literal["active", "paused", "ended"] = Field(description="`ended`: it will never fire again by itself.")
    paused_reason: str | None
    agent: str | None
    agent_inline: InlineAgentOut | None
    input: list[TextBlockOut]
    spec: SpecOut
    timezone: str
    jitter_seconds: int
    overlap: Overlap
    catchup_window_seconds: int
    pause_on_failure: bool
    starts_at: datetime | None
    ends_at: datetime | None
    quiet_hours: QuietHoursOut | None
    session: ScheduleSessionOut
    budget: AgentBudgetOut | None
    limits: dict[str, Any]
    policy: PolicyOut | None
    next_at: datetime | None
    applied: bool
    made_by_run_id: str | None = Field(description="The run whose agent made it with `schedule_run`.")
    requested_by: str = Field(description="Who made it, and asks for its runs.")
    created_at: datetime
    updated_at: datetime
    labels: dict[str, str]
    metadata: dict[str, Any]
    version: int = Field(description="The ETag; it grows with every change.")


class ScheduleTimeOut(Reply):
    id: str
    object: Literal["schedule_time"]
    at: datetime


class InvocationOut(Reply):
    """One firing, or one that did not take place. `cause` is `manual` for triggers. `reason` of a skipped one:
    `overlap` (a run was under way), `quiet_hours`, `missed` (nobody was there in time), `paused`, `changed` (the
    schedule had changed before Temporal heard of it), `session_busy`; of a delivered one, how; of a failed one, why."""

    id: str
    object: Literal["schedule_invocation"]
    schedule_id: str
    planned_at: datetime
    actual_at: datetime | None
    cause: Cause
    status: InvocationStatus
    reason: str | None
    run_id: str | None
    run_status: RunStatus | None
