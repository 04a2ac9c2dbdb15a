"""Schedules to look at, without an agent behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from perdure.scheduling.definition import ScheduleDefinition

NOW = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1_000)


def defined(timing: Any, **more: Any) -> ScheduleDefinition:
    whole: Any = {
        "agent": "clerk", "inline": None, "input": [{"type": "text", "text": "Go."}], "timing": timing,
        "timezone": "UTC", "jitter_seconds": 0, "overlap": "skip", "catchup_window_seconds": 3_600,
        "pause_on_failure": False, "starts_ms": None, "ends_ms": None, "quiet_hours": None,
        "session": {"mode": "new", "on_conflict": "reject"}, "budget": None, "limits": {}, "policy": None,
        "labels": {}, "metadata": {}, **more,
    }  # fmt: skip
    return whole  # type: ignore[no-any-return]


def ms(text: str) -> int:
    at = datetime.fromisoformat(text)
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)


def shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
