"""``current_time``: what time it is, where."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.moments import ZONE_HINT, zone_of
from perdure.tools.port import ToolTrouble


def _now() -> datetime:
    return datetime.now(UTC)


def clock_tools(now: Callable[[], datetime] = _now) -> list[AnyTool]:
    """``now`` gives an aware time."""

    @tool(effect="read", timeout_seconds=5)
    def current_time(
        timezone: Annotated[str, Field(description="IANA name, for example Europe/Berlin")] = "UTC",
    ) -> dict[str, str | int]:
        """The current date and time in a time zone (UTC unless another is named)."""
        here = now().astimezone(_zone(timezone))
        return {
            "time": here.isoformat(timespec="seconds"),
            "weekday": here.strftime("%A"),
            "timezone": timezone,
            "unix_seconds": int(here.timestamp()),
        }

    return [current_time]


def _zone(name: str) -> ZoneInfo:
    zone = zone_of(name)
    if zone is None:
        raise ToolTrouble(f"there is no time zone {name!r}; {ZONE_HINT}", code="unknown_timezone")
    return zone
