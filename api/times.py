"""Times in their public form: what every rendering of this API shares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]

_EPOCH = datetime(1970, 1, 1)


def time(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"  # %Y is not padded


def time_or_none(ms: int | None) -> str | None:
    return None if ms is None else time(ms)


def milliseconds(at: datetime) -> int:
    """Unix milliseconds; a time that names no zone is UTC."""
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)
