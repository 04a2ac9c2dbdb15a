"""``sleep`` and ``wait_for_event``: calls that time and signals answer. No worker ever runs them; what a run waits for
is kept in the journal and in one timer of its workflow.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from perdure.core.state import Json, WaitsFor
from perdure.definitions import ToolDescription
from perdure.tools.arguments import canonical_json
from perdure.tools.function_tool import tool
from perdure.tools.moments import SECONDS_MAX, SECONDS_MIN, moment_ms, shown, within_limits
from perdure.tools.port import InvalidArguments, ToolCallContext, ToolTrouble

SLEEP = "sleep"
WAIT_FOR_EVENT = "wait_for_event"
REASON_CHARS_MAX = 200
EVENT_NAME = r"^[A-Za-z0-9_.:-]{1,64}$"
MATCH_CHARS_MAX = 4_096  # as JSON
MATCH_DEPTH_MAX = 16
_NOTE_CHARS_MAX = 80  # of what people are shown, in Temporal too

Seconds = Annotated[float, Field(ge=SECONDS_MIN, le=SECONDS_MAX)]


@tool(effect="read", parallel=True, name=SLEEP)
def _sleep(
    for_seconds: Annotated[Seconds | None, Field(description="how long")] = None,
    until: Annotated[
        str | None,
        Field(max_length=100, description="when to wake: 2026-12-01T09:00:00Z, or local time with a timezone"),
    ] = None,
    timezone: Annotated[str | None, Field(max_length=100, description="IANA name, for a local until")] = None,
    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX, description="what for; people see it")] = "",
) -> None:
    """Sleep, for a second up to a year: give either for_seconds or until. It costs nothing. A message wakes you, and
    the result says how much was left: you may sleep on."""


@tool(effect="read", parallel=True, name=WAIT_FOR_EVENT)
def _wait_for_event(
    name: Annotated[str, Field(pattern=EVENT_NAME, description="of the event, such as order.paid")],
    timeout_seconds: Annotated[Seconds, Field(description="how long to wait at most")],
    match: Annotated[
        dict[str, Any] | None,
        Field(description="only an event whose payload has all of these members with equal values"),
    ] = None,
) -> None:
    """Wait until an event of this name arrives from outside, or the time is over. The result has its payload. A
    message wakes you earlier: you may wait on."""


class Sleep:
    """The tool. Its arguments are judged here; time answers it."""

    description: ToolDescription = {**_sleep.description, "answered_by": "time"}
    origin = "perdure.tools.builtin.waiting"
    waits: WaitsFor = "timer"

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        if misshapen := _sleep.problem(arguments):
            return misshapen
        given = [name for name in ("for_seconds", "until") if arguments.get(name) is not None]
        if len(given) != 1:
            return "give either for_seconds or until" + (", not both" if given else "")
        if arguments.get("timezone") is not None and "until" not in given:
            return "timezone: only a local until has one; leave it out"
        try:
            _wakes_at(arguments, 0)
        except InvalidArguments as wrong:
            return str(wrong)
        return None

    def until_ms(self, arguments: dict[str, Json], now_ms: int, deadline_ms: int) -> int:
        """When to wake. InvalidArguments when it is past, too far away, or beyond the run's deadline."""
        what = "until" if arguments.get("until") is not None else "for_seconds"
        return within_limits(what, _wakes_at(arguments, now_ms), now_ms, deadline_ms)

    def note(self, arguments: dict[str, Json], until_ms: int) -> str:
        reason = " ".join(str(arguments.get("reason") or "").split())
        return f"sleep until {shown(until_ms)}" + (f": {reason[:_NOTE_CHARS_MAX]}" if reason else "")

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        raise ToolTrouble("sleep is answered by time; no worker can run it", code="answered_by_time")


class WaitForEvent:
    """The tool. Its arguments are judged here; a signal answers it, or time."""

    description: ToolDescription = {**_wait_for_event.description, "answered_by": "time"}
    origin = "perdure.tools.builtin.waiting"
    waits: WaitsFor = "event"

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        if misshapen := _wait_for_event.problem(arguments):
            return misshapen
        match = arguments.get("match")
        if len(canonical_json(match)) > MATCH_CHARS_MAX or _depth(match) > MATCH_DEPTH_MAX:
            return f"match: at most {MATCH_CHARS_MAX} characters as JSON, and {MATCH_DEPTH_MAX} levels"
        return None

    def until_ms(self, arguments: dict[str, Json], now_ms: int, deadline_ms: int) -> int:
        """When the wait is over. InvalidArguments when it is beyond the run's deadline."""
        seconds = float(str(arguments["timeout_seconds"]))
        return within_limits("timeout_seconds", now_ms + int(seconds * 1_000), now_ms, deadline_ms)

    def note(self, arguments: dict[str, Json], until_ms: int) -> str:
        return f"event {arguments['name']}, at most until {shown(until_ms)}"

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        raise ToolTrouble("wait_for_event is answered by signals; no worker can run it", code="answered_by_time")


def waiting_tools() -> list[Sleep | WaitForEvent]:
    return [Sleep(), WaitForEvent()]


def _wakes_at(arguments: dict[str, Json], now_ms: int) -> int:
    seconds, until, timezone = (arguments.get(name) for name in ("for_seconds", "until", "timezone"))
    if until is None:
        return now_ms + int(float(str(seconds)) * 1_000)
    return moment_ms(str(until), None if timezone is None else str(timezone))


def _depth(value: Json) -> int:
    match value:
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case list():
            return 1 + max(map(_depth, value), default=0)
        case _:
            return 0
