"""``schedule_run``, ``list_schedules``, ``cancel_schedule``: an agent wakes itself up, later or again and again. The
book of its schedules is given with the call; what may be in it is decided there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from perdure.core.state import Json
from perdure.scheduling.definition import TimingDefinition
from perdure.scheduling.timetable import UnknownZone, zone
from perdure.tools.call import current_call
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.port import OwnSchedules, ToolTrouble

EVERY_SECONDS_MIN = 60  # an agent that wakes more often is a loop; people may schedule by the second
TASK_CHARACTERS_MAX = 20_000

Zone = Annotated[str, Field(description="IANA name, for example Europe/Berlin", max_length=64)]


def schedule_tools() -> list[AnyTool]:
    @tool(effect="idempotent", timeout_seconds=30)
    async def schedule_run(
        task: Annotated[str, Field(min_length=1, max_length=TASK_CHARACTERS_MAX, description="what to do then")],
        at: Annotated[str | None, Field(description="once: a time as 2027-01-31T09:00:00, in the time zone")] = None,
        every_seconds: Annotated[int | None, Field(ge=EVERY_SECONDS_MIN, description="again and again")] = None,
        cron: Annotated[str | None, Field(description="five fields, for example 0 9 * * mon-fri")] = None,
        timezone: Zone = "UTC",
        name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = None,
    ) -> dict[str, Json]:
        """Wake yourself up later: at that time this conversation goes on with the task as its next message. Give one
        of at, every_seconds and cron. If you are still at work then, the task is handed to you afterwards."""
        return await _book().add(name, task, _timing(at, every_seconds, cron, timezone), timezone)

    @tool(effect="read", timeout_seconds=30)
    async def list_schedules() -> list[dict[str, Json]]:
        """The schedules that you have made for yourself."""
        return await _book().list()

    @tool(effect="idempotent", timeout_seconds=30)
    async def cancel_schedule(name: Annotated[str, Field(description="its name or id", max_length=64)]) -> str:
        """Remove a schedule that you have made for yourself."""
        return await _book().cancel(name)

    return [schedule_run, list_schedules, cancel_schedule]


def _book() -> OwnSchedules:
    book = current_call().schedules
    if book is None:
        raise ToolTrouble("schedules cannot be kept here", code="no_schedules")
    return book


def _timing(at: str | None, every_seconds: int | None, cron: str | None, timezone: str) -> TimingDefinition:
    if [at, every_seconds, cron].count(None) != 2:
        raise ToolTrouble("give one of at, every_seconds and cron", code="invalid_schedule")
    if cron is not None:
        return {"cron": [cron]}
    if every_seconds is not None:
        return {"every_seconds": every_seconds}
    assert at is not None
    return {"at_ms": [_moment(at, timezone)]}


def _moment(text: str, timezone: str) -> int:
    """Unix milliseconds, whole seconds. A time without an offset is in the time zone."""
    try:
        found = datetime.fromisoformat(text)
        local = found if found.tzinfo else found.replace(tzinfo=zone(timezone))
        return int(local.astimezone(UTC).timestamp()) * 1_000
    except UnknownZone:
        raise ToolTrouble(f"there is no time zone {timezone!r}; give an IANA name", code="unknown_timezone") from None
    except (ValueError, OverflowError):
        raise ToolTrouble(f"{text!r} is not a time as 2027-01-31T09:00:00", code="invalid_schedule") from None
