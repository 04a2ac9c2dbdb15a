"""A schedule as it is stored: plain JSON, described by ``TypedDict``."""

from __future__ import annotations

from typing import Literal, TypedDict

from perdure.content import Block
from perdure.core.state import Json
from perdure.definitions import AgentDefinition, BudgetDefinition, LimitsDefinition, PolicyDefinition

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]
REPLACING: tuple[Overlap, ...] = ("cancel_other", "terminate_other")  # the newest firing ends the run of the one before
SessionConflict = Literal["reject", "enqueue", "steer", "interrupt"]


class CalendarDefinition(TypedDict, total=False):
    """Times of a day and days of a year, each field as cron writes it (``9-17``, ``*/5``, ``mon,fri``). What is left
    out: second, minute and hour are 0, days, months and years are all. All fields must match."""

    second: str
    minute: str
    hour: str
    day_of_month: str
    month: str
    year: str
    day_of_week: str


class TimingDefinition(TypedDict, total=False):
    """When a schedule fires: one of these. ``cron`` has five fields. Intervals count from 1970, by ``offset_seconds``
    later."""

    cron: list[str]
    every_seconds: int
    offset_seconds: int
    calendar: list[CalendarDefinition]
    at_ms: list[int]


QuietHours = TypedDict("QuietHours", {"from": str, "to": str, "timezone": str})  # from is a keyword
"""``from`` and ``to`` as ``22:00``; the night may lie between them."""


class ScheduleSession(TypedDict):
    """``continue``: all runs belong to one session; ``on_conflict`` says what a firing does when a run is active in
    it: nothing (``reject``), or give its input to that run."""

    mode: Literal["new", "continue"]
    on_conflict: SessionConflict


class ScheduleDefinition(TypedDict):
    """A schedule as stored. Either ``agent`` is a reference (``name``, ``name@3``), resolved at each firing, or
    ``inline`` the definition itself. ``budget`` and ``limits`` are what was said over the agent's."""

    agent: str | None
    inline: AgentDefinition | None
    input: list[Block]
    timing: TimingDefinition
    timezone: str
    jitter_seconds: int
    overlap: Overlap
    catchup_window_seconds: int
    pause_on_failure: bool
    starts_ms: int | None
    ends_ms: int | None
    quiet_hours: QuietHours | None
    session: ScheduleSession
    budget: BudgetDefinition | None
    limits: LimitsDefinition
    policy: PolicyDefinition | None
    labels: dict[str, str]
    metadata: dict[str, Json]
