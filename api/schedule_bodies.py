"""What clients say of schedules. Whether the times make sense is found out by ``perdure.scheduling.flaws``; here is
what JSON can tell."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from api.body import Body, Labels, Metadata, Moment, Reason
from api.budget_bodies import BudgetIn, LimitsIn
from api.policy_bodies import PolicyIn
from api.requests import AgentReference, InlineAgent, RunInput
from perdure.scheduling.definition import CalendarDefinition, Overlap, SessionConflict, TimingDefinition
from perdure.scheduling.flaws import AT_MAX, CALENDARS_MAX, CATCHUP_SECONDS_DEFAULT, CRON_CHARACTERS_MAX, CRON_MAX

ZONE_CHARACTERS_MAX = 64
FIELD_CHARACTERS_MAX = 256


def _no_id(name: str) -> str:
    if name.startswith("sch_"):
        raise ValueError("names that begin with sch_ are ids of schedules")
    return name


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _field_text(value: Any) -> Any:
    """A number, a text as cron writes it, or a list of both."""
    parts = value if isinstance(value, list) else [value]
    if not parts or any(isinstance(part, bool) or not isinstance(part, int | str) for part in parts):
        raise ValueError("give a number, a text such as 9-17 or */5 or mon-fri, or a list of them")
    return ",".join(str(part) for part in parts)


ScheduleName = Annotated[
    str, AfterValidator(_no_id), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["nightly"])
]
ZoneName = Annotated[
    str, Field(min_length=1, max_length=ZONE_CHARACTERS_MAX, description="IANA name.", examples=["Europe/Berlin"])
]
CalendarField = Annotated[str, BeforeValidator(_field_text), Field(min_length=1, max_length=FIELD_CHARACTERS_MAX)]
Clock = Annotated[str, Field(pattern=r"^\d\d:\d\d$", examples=["22:00"])]
Seconds = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]


class CalendarIn(Body):
    """All fields must match; what is left out is 0 for second, minute and hour, and any for the others. A field is a
    number, a list, or a text as cron writes it."""

    second: CalendarField | None = None
    minute: CalendarField | None = None
    hour: CalendarField | None = None
    day_of_month: CalendarField | None = None
    month: CalendarField | None = None
    year: CalendarField | None = None
    day_of_week: CalendarField | None = Field(default=None, description="0-6 from Sunday, or names.")

    def definition(self) -> CalendarDefinition:
        return cast("CalendarDefinition", self.model_dump(exclude_none=True))


class SpecIn(Body):
    """When it fires: one of `cron`, `every_seconds`, `calendar` and `at`."""

    cron: (
        Annotated[
            list[Annotated[str, Field(max_length=CRON_CHARACTERS_MAX)]],
            BeforeValidator(_listed),
            Field(max_length=CRON_MAX, description="Lines of five fields, or `@daily` and its like; any may match."),
        ]
        | None
    ) = None
    every_seconds: Seconds | None = Field(default=None, description="Counted from 1970-01-01T00:00:00Z.")
    offset_seconds: Seconds | None = None
    calendar: Annotated[list[CalendarIn], BeforeValidator(_listed), Field(max_length=CALENDARS_MAX)] | None = None
    at: Annotated[list[Moment], BeforeValidator(_listed), Field(max_length=AT_MAX)] | None = None

    def definition(self) -> TimingDefinition:
        said: TimingDefinition = {}
        if self.cron is not None:
            said["cron"] = self.cron
        if self.every_seconds is not None:
            said["every_seconds"] = self.every_seconds
        if self.offset_seconds is not None:
            said["offset_seconds"] = self.offset_seconds
        if self.calendar is not None:
            said["calendar"] = [one.definition() for one in self.calendar]
        if self.at is not None:
            said["at_ms"] = sorted({int(at.timestamp()) * 1_000 for at in self.at})
        return said


class QuietHoursIn(Body):
    """Firings planned from `from` until `to` do not take place; the night may lie between them. `timezone` is the
    schedule's when it is left out."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Clock = Field(alias="from")
    to: Clock
    timezone: ZoneName | None = None


class SessionIn(Body):
    """`continue`: all runs belong to one session (`session_id`, or one of the schedule's own). When a run is active in
    it, the firing is skipped (`reject`), or its input becomes a message to that run."""

    mode: Literal["new", "continue"]
    session_id: str | None = Field(default=None, max_length=64)
    on_conflict: SessionConflict = "reject"


class CreateSchedule(Body):
    """Either `agent` or `agent_inline` says who runs. `agent` without a version runs the newest of the day."""

    name: ScheduleName
    agent: AgentReference | None = None
    agent_inline: InlineAgent | None = None
    input: RunInput
    spec: SpecIn
    timezone: ZoneName = "UTC"
    jitter_seconds: Seconds = Field(default=0, description="Each firing is late by a part of this.")
    overlap: Overlap = Field(default="skip", description="What happens when a run of the schedule is under way.")
    catchup_window_seconds: Seconds = Field(
        default=CATCHUP_SECONDS_DEFAULT, description="Firings missed for longer, while Temporal was away, stay missed."
    )
    pause_on_failure: StrictBool = Field(default=False, description="A run that fails or expires pauses the schedule.")
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    quiet_hours: QuietHoursIn | None = None
    session: Literal["new", "continue"] | SessionIn = "new"
    budget: BudgetIn | None = Field(default=None, description="Of each run.")
    limits: LimitsIn = LimitsIn()
    policy: PolicyIn | None = None
    labels: Labels = {}
    metadata: Metadata = {}


class PatchSchedule(Body):
    """What is given replaces what was there. `null` removes `starts_at`, `ends_at`, `quiet_hours`, `budget` and
    `policy`."""

    name: ScheduleName | None = None
    agent: AgentReference | None = None
    agent_inline: InlineAgent | None = None
    input: RunInput | None = None
    spec: SpecIn | None = None
    timezone: ZoneName | None = None
    jitter_seconds: Seconds | None = None
    overlap: Overlap | None = None
    catchup_window_seconds: Seconds | None = None
    pause_on_failure: StrictBool | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    quiet_hours: QuietHoursIn | None = None
    budget: BudgetIn | None = None
    limits: LimitsIn | None = None
    policy: PolicyIn | None = None
    labels: Labels | None = None
    metadata: Metadata | None = None


class PauseSchedule(Body):
    reason: Reason = ""


class ResumeSchedule(Body):
    """Firings planned while it was paused stay out."""


class TriggerSchedule(Body):
    overlap: Overlap | None = Field(default=None, description="In place of the schedule's own.")


class BackfillSchedule(Body):
    """Fire at all times of the schedule between two moments of the past, both included."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Moment = Field(alias="from")
    to: Moment
    overlap: Overlap = Field(default="buffer_all", description="Of these firings: one after another by default.")
