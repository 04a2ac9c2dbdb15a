"""Moments that a model names: a duration from now, a time with its offset, or local time in a zone. Everything that
cannot be meant is refused in words that the model can act on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from perdure.scheduling.timetable import UnknownZone, zone
from perdure.tools.port import InvalidArguments

SECONDS_MIN = 1
SECONDS_MAX = 31_622_400  # a leap year
ZONE_HINT = "give an IANA name such as UTC, Europe/Berlin or America/New_York"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_WRITTEN = re.compile(rf"\d{{4}}-\d\d-\d\dT{_CLOCK}(?::[0-5]\d(?:\.\d+)?(?:Z|[+-]{_CLOCK})?)?", re.ASCII)
_DEADLINE_MARGIN_SECONDS = 1  # what wakes at its deadline has expired


def zone_of(name: str) -> ZoneInfo | None:
    """None when there is no such zone."""
    try:
        return zone(name)
    except UnknownZone:
        return None


def moment_ms(text: str, timezone: str | None) -> int:
    """Unix milliseconds of ``until``: RFC 3339, or local time together with a zone. InvalidArguments."""
    at = _time(text.strip().upper())
    if at is None:
        raise InvalidArguments(
            f"until: {text[:100]!r} is no time; write 2026-12-01T09:00:00+01:00, "
            "or 2026-12-01T09:00 with timezone Europe/Berlin"
        )
    if at.tzinfo is not None:
        if timezone is not None:
            raise InvalidArguments("until: it has an offset already; leave out either the offset or timezone")
        return _milliseconds(at)
    if timezone is None:
        raise InvalidArguments("until: a time without an offset needs timezone, an IANA name such as Europe/Berlin")
    there_zone = zone_of(timezone)
    if there_zone is None:
        raise InvalidArguments(f"timezone: there is no time zone {timezone[:100]!r}; {ZONE_HINT}")
    there = at.replace(tzinfo=there_zone)  # of a local time that comes twice, the first
    try:
        exists = there.astimezone(UTC).astimezone(there_zone).replace(tzinfo=None) == at
    except OverflowError:
        raise InvalidArguments("until: this time is out of range") from None
    if not exists:
        raise InvalidArguments(f"until: {text[:100]} does not exist in {timezone}: clocks are put forward over it")
    return _milliseconds(there)


def _time(text: str) -> datetime | None:
    """None for what is neither RFC 3339 nor local time: Python itself takes all of ISO 8601, with weeks and ordinals,
    of which nobody knows whether it was meant."""
    try:
        return datetime.fromisoformat(text) if _WRITTEN.fullmatch(text) else None
    except ValueError:
        return None


def within_limits(what: str, until_ms: int, now_ms: int, deadline_ms: int) -> int:
    """``until_ms``, if a run may wait so long: 1 s to a year, and not beyond its deadline. InvalidArguments."""
    seconds = (until_ms - now_ms) / 1_000
    left = (deadline_ms - now_ms) // 1_000 - _DEADLINE_MARGIN_SECONDS
    if seconds < 0:
        raise InvalidArguments(f"{what}: this is {-seconds:.0f} s in the past; it is {shown(now_ms)} now")
    if seconds < SECONDS_MIN:
        raise InvalidArguments(f"{what}: at least {SECONDS_MIN} s from now; it is {shown(now_ms)} now")
    if seconds > SECONDS_MAX:
        raise InvalidArguments(f"{what}: at most a year ({SECONDS_MAX} s) from now, not {seconds:.0f} s")
    if seconds > left:
        most = f"wait at most {left} s" if left >= SECONDS_MIN else "it has no time left to wait: go on without"
        raise InvalidArguments(f"{what}: the run ends at its deadline, {shown(deadline_ms)}; {most}")
    return until_ms


def shown(ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _milliseconds(at: datetime) -> int:
    try:
        return round(at.timestamp() * 1_000)
    except (OverflowError, ValueError):
        raise InvalidArguments("until: this time is out of range") from None
