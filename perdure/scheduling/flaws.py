"""What is wrong with the timing of a schedule, told before anything is made: with a pointer, a code and words that a
client or a model can act on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from perdure.scheduling.definition import REPLACING, ScheduleDefinition, TimingDefinition
from perdure.scheduling.timetable import (
    EARLIEST_MS,
    FIELDS,
    BadTiming,
    Timetable,
    UnknownZone,
    clock_minutes,
    cron_calendars,
    field_values,
    zone,
)

EVERY_SECONDS_MIN = 1  # Temporal's own grain
EVERY_SECONDS_MAX = 366 * 86_400
CRON_MAX = 16
CRON_CHARACTERS_MAX = 256
CALENDARS_MAX = 16
AT_MAX = 100
JITTER_SECONDS_MAX = 86_400
CATCHUP_SECONDS_MIN = 10  # Temporal's own least
CATCHUP_SECONDS_MAX = 366 * 86_400
CATCHUP_SECONDS_DEFAULT = 3_600
HORIZON_DAYS_MAX = 40 * 366  # of moments, starts and ends: farther ahead is a slip of the pen


class Flaw(NamedTuple):
    """``pointer`` is a JSON Pointer into the schedule as clients write it."""

    pointer: str
    code: str
    message: str


def timing_flaws(definition: ScheduleDefinition, now_ms: int) -> list[Flaw]:
    """Everything that is wrong; empty when the schedule will fire at least once more."""
    found = [*_zone_flaws(definition), *_spec_flaws(definition["timing"]), *_bound_flaws(definition, now_ms)]
    if found:
        return found
    if Timetable(definition).next(now_ms) is None:
        return [_never(definition, now_ms)]
    return list(_quiet_conflict(definition))


def _never(definition: ScheduleDefinition, now_ms: int) -> Flaw:
    timing = definition["timing"]
    if Timetable(definition).next(now_ms, quiet=True) is not None:
        return Flaw("/quiet_hours", "never_fires", "every firing lies in the quiet hours")
    if "at_ms" in timing:
        return Flaw("/spec/at", "in_the_past", "no moment lies in the future, between starts_at and ends_at")
    unbounded: ScheduleDefinition = {**definition, "starts_ms": None, "ends_ms": None}
    if Timetable(unbounded).next(now_ms) is not None:
        return Flaw("/ends_at", "never_fires", "there is no firing between starts_at (or now) and ends_at")
    if "cron" in timing:
        return Flaw("/spec/cron", "never_fires", "there is no such day in any year, as 31 February")
    return Flaw("/spec/calendar", "never_fires", "there is no such day in any of its years that is still to come")


def _zone_flaws(definition: ScheduleDefinition) -> Iterator[Flaw]:
    named = [("/timezone", definition["timezone"])]
    if (quiet := definition["quiet_hours"]) is not None:
        named.append(("/quiet_hours/timezone", quiet["timezone"]))
        for member, text in (("from", quiet["from"]), ("to", quiet["to"])):
            try:
                clock_minutes(text)
            except BadTiming as bad:
                yield Flaw(f"/quiet_hours/{member}", "invalid_time", str(bad))
        if quiet["from"] == quiet["to"]:
            yield Flaw("/quiet_hours/to", "contradictory", "quiet hours that end when they begin are none, or all")
    for pointer, name in named:
        try:
            zone(name)
        except UnknownZone:
            hint = "give an IANA name such as UTC, Europe/Berlin or America/New_York"
            yield Flaw(pointer, "unknown_timezone", f"there is no time zone {name[:80]!r}; {hint}")


def _spec_flaws(timing: TimingDefinition) -> Iterator[Flaw]:
    kinds = [name for name in ("cron", "every_seconds", "calendar", "at_ms") if name in timing]
    if len(kinds) != 1:
        yield Flaw("/spec", "conflict" if kinds else "missing", "give one of cron, every_seconds, calendar and at")
        return
    if "offset_seconds" in timing and "every_seconds" not in timing:
        yield Flaw("/spec/offset_seconds", "conflict", "an offset belongs to every_seconds")
    yield from _interval_flaws(timing)
    yield from _count_flaws("cron", len(timing.get("cron", ["one"])), CRON_MAX)
    yield from _count_flaws("calendar", len(timing.get("calendar", [{}])), CALENDARS_MAX)
    yield from _count_flaws("at", len(timing.get("at_ms", [0])), AT_MAX)
    for index, line in enumerate(timing.get("cron", [])[:CRON_MAX]):
        try:
            if len(line) > CRON_CHARACTERS_MAX:
                raise BadTiming(f"a cron line has at most {CRON_CHARACTERS_MAX} characters")
            cron_calendars(line)
        except BadTiming as bad:
            yield Flaw(f"/spec/cron/{index}", "invalid_cron", str(bad))
    for index, one in enumerate(timing.get("calendar", [])[:CALENDARS_MAX]):
        for name, text in one.items():
            assert name in FIELDS
            try:
                field_values(name, str(text))
            except BadTiming as bad:
                yield Flaw(f"/spec/calendar/{index}/{name}", "invalid_calendar", str(bad))


def _interval_flaws(timing: TimingDefinition) -> Iterator[Flaw]:
    every, offset = timing.get("every_seconds"), timing.get("offset_seconds", 0)
    if every is None:
        return
    if not EVERY_SECONDS_MIN <= every <= EVERY_SECONDS_MAX:
        most = f"give {EVERY_SECONDS_MIN} to {EVERY_SECONDS_MAX} seconds (a year)"
        yield Flaw("/spec/every_seconds", "out_of_range", most)
    elif not 0 <= offset < every:
        yield Flaw("/spec/offset_seconds", "out_of_range", "an offset is at least 0 and less than every_seconds")


def _count_flaws(name: str, count: int, most: int) -> Iterator[Flaw]:
    if not 1 <= count <= most:
        yield Flaw(f"/spec/{name}", "too_many" if count else "empty", f"give 1 to {most} of them")


def _bound_flaws(definition: ScheduleDefinition, now_ms: int) -> Iterator[Flaw]:
    for member, given, low, high in (
        ("jitter_seconds", definition["jitter_seconds"], 0, JITTER_SECONDS_MAX),
        ("catchup_window_seconds", definition["catchup_window_seconds"], CATCHUP_SECONDS_MIN, CATCHUP_SECONDS_MAX),
    ):
        if not low <= given <= high:
            yield Flaw(f"/{member}", "out_of_range", f"give {low} to {high} seconds")
    starts_ms, ends_ms = definition["starts_ms"], definition["ends_ms"]
    horizon_ms = now_ms + HORIZON_DAYS_MAX * 86_400_000
    moments = [("/starts_at", starts_ms), ("/ends_at", ends_ms)]
    moments += [(f"/spec/at/{index}", at_ms) for index, at_ms in enumerate(definition["timing"].get("at_ms", []))]
    for pointer, at_ms in moments:
        if at_ms is not None and not EARLIEST_MS <= at_ms <= horizon_ms:
            yield Flaw(pointer, "out_of_range", "not before 2000-01-01T00:00:00Z, and at most 40 years ahead")
    if ends_ms is not None and ends_ms <= now_ms:
        yield Flaw("/ends_at", "in_the_past", "the schedule would end before it began")
    elif ends_ms is not None and starts_ms is not None and ends_ms <= starts_ms:
        yield Flaw("/ends_at", "contradictory", "it ends before it starts")


def _quiet_conflict(definition: ScheduleDefinition) -> Iterator[Flaw]:
    """Quiet hours of the schedule's own zone are known to Temporal; others are kept when a firing begins, and by
    then an overlap policy that ends the run before has done so."""
    quiet = definition["quiet_hours"]
    if quiet is None or "every_seconds" in definition["timing"] or quiet["timezone"] == definition["timezone"]:
        return
    if definition["overlap"] in REPLACING:
        message = f"with overlap {definition['overlap']} quiet hours must be in the schedule's own time zone"
        yield Flaw("/quiet_hours/timezone", "contradictory", message)
