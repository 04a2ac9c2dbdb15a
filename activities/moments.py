"""Until when a call waits for time or for an event: found out where its arguments are at hand."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.core.state import Json, WaitsFor
from perdure.tools.builtin.polling import Poll, plan_of, poll_ends_ms, polled_tool
from perdure.tools.builtin.waiting import Sleep, WaitForEvent
from perdure.tools.port import InvalidArguments, ToolBox


@dataclass(frozen=True, slots=True)
class Moment:
    """``problem`` is why the call cannot wait so; ``note`` shows people what for. A poll waits only after its first
    try: there is no ``waits``."""

    waits: WaitsFor = ""
    until_ms: int = 0
    note: str = ""
    problem: str | None = None


def moment_of(
    tool: Sleep | WaitForEvent | Poll, toolbox: ToolBox, arguments: dict[str, Json], now_ms: int, deadline_ms: int
) -> Moment:
    """Of arguments that fit the tool's schema. ``toolbox`` is the run's."""
    try:
        if isinstance(tool, Poll):
            plan = plan_of(arguments)
            polled = polled_tool(toolbox, plan)
            poll_ends_ms(plan, now_ms, deadline_ms)
            return Moment(problem=polled if isinstance(polled, str) else None)
        until_ms = tool.until_ms(arguments, now_ms, deadline_ms)
    except InvalidArguments as wrong:
        return Moment(problem=str(wrong))
    return Moment(tool.waits, until_ms, tool.note(arguments, until_ms))
