"""When a schedule fires: its cron lines, calendars, intervals and moments as instants, computed here for previews,
checks and the book of skipped firings. Temporal fires by the same calendars (``perdure/schedules.py``); a test
compares the two. What is wrong with a timing is in ``flaws.py``.

Where clocks are put forward, a time that does not exist does not fire. Where they are put back, a time that comes
twice fires once, the second time; only what fires in every hour of the day fires both times. Temporal takes such hours
differently east and west of Greenwich: what it means by a firing there is said by ``Timetable.meant``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from itertools import product
from zoneinfo import ZoneInfo

from perdure.scheduling.definition import CalendarDefinition, QuietHours, ScheduleDefinition

YEAR_MIN, YEAR_MAX = 2000, 2100  # Temporal's own horizon
EARLIEST_MS = int(datetime(YEAR_MIN, 1, 1, tzinfo=UTC).timestamp() * 1_000)
SPELLED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_FIELDS = ("minute", "hour", "day_of_month", "month", "day_of_week")
_NO_ZONES = ("localtime", "posixrules", "Factory")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class BadTiming(ValueError):
    """Cron or a calendar field that nobody can read; the message says which part and why."""


class UnknownZone(ValueError):
    """No such IANA time zone."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a field of a calendar may hold, and what it holds when it is left out."""

    low: int
    high: int
    default: str
    names: tuple[str, ...] = ()


FIELDS = {
    "second": Field(0, 59, "0"),
    "minute": Field(0, 59, "0"),
    "hour": Field(0, 23, "0"),
    "day_of_month": Field(1, 31, "*"),
    "month": Field(1, 12, "*", _MONTHS),
    "year": Field(YEAR_MIN, YEAR_MAX, "*"),
    "day_of_week": Field(0, 7, "*", _DAYS),  # 7 is Sunday again
}


@dataclass(frozen=True, slots=True)
class Calendar:
    """The values of each field, in their order; all must match."""

    second: tuple[int, ...]
    minute: tuple[int, ...]
    hour: tuple[int, ...]
    day_of_month: tuple[int, ...]
    month: tuple[int, ...]
    year: tuple[int, ...]
    day_of_week: tuple[int, ...]

    @property
    def every_hour(self) -> bool:
        return len(self.hour) == 24

    @property
    def every_day(self) -> bool:
        named = (len(self.day_of_month), len(self.month), len(self.day_of_week))
        return named == (31, 12, 7) and len(self.year) == YEAR_MAX + 1 - YEAR_MIN

    def has_day(self, day: date) -> bool:
        return (
            day.year in self.year
            and day.month in self.month
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def has(self, local: datetime) -> bool:
        return (
            self.has_day(local.date())
            and local.hour in self.hour
            and local.minute in self.minute
            and local.second in self.second
        )

    def days(self, first: date) -> Iterator[date]:
        """The matching days from ``first`` on, until nobody looks any further."""
        for year in self.year:
            for month in self.month:
                if (year, month) < (first.year, first.month):
                    continue
                for number in self.day_of_month:
                    try:
                        day = date(year, month, number)
                    except ValueError:  # 31 April
                        break
                    if day >= first and self.has_day(day):
                        yield day


def field_values(name: str, text: str) -> tuple[int, ...]:
    """The values that ``text`` names, in cron's words. BadTiming."""
    field = FIELDS[name]
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(name, step_text, part) if slash else 1
        if step < 1:
            raise BadTiming(f"{name} {part!r}: a step is at least 1")
        if span == "*":
            low, high = field.low, 6 if name == "day_of_week" else field.high
        elif "-" in span:
            first, _, last = span.partition("-")
            low, high = _value(name, field, first, part), _value(name, field, last, part)
            if high < low:
                raise BadTiming(f"{name} {part!r}: the range ends before it begins")
        else:
            low = _value(name, field, span, part)
            high = field.high if slash else low
        values.update(range(low, high + 1, step))
    if name == "day_of_week":
        values = {value % 7 for value in values}
    return tuple(sorted(values))


def calendar_of(definition: CalendarDefinition) -> Calendar:
    """BadTiming."""
    given: dict[str, str] = {**definition}  # type: ignore[dict-item]  # every member is text
    return Calendar(*(field_values(name, given.get(name, field.default)) for name, field in FIELDS.items()))


def cron_calendars(line: str) -> list[Calendar]:
    """Five fields, or ``@daily`` and its like. Where both the day of the month and the day of the week are restricted,
    either may match, as in every cron: these are two calendars. BadTiming."""
    parts = SPELLED.get(line.strip().lower(), line).split()
    if len(parts) != len(_CRON_FIELDS):
        hint = "minute hour day-of-month month day-of-week, or one of " + ", ".join(SPELLED)
        raise BadTiming(f"{line!r} has {len(parts)} fields; a cron line has five: {hint}")
    fields: CalendarDefinition = dict(zip(_CRON_FIELDS, parts, strict=True))  # type: ignore[assignment]
    whole = calendar_of(fields)
    if parts[2].startswith("*") or parts[4].startswith("*"):
        return [whole]
    by_date, by_weekday = {**fields, "day_of_week": "*"}, {**fields, "day_of_month": "*"}
    return [calendar_of(by_date), calendar_of(by_weekday)]  # type: ignore[arg-type]


def zone(name: str) -> ZoneInfo:
    """UnknownZone, also for what a zone database holds beside the IANA names: the machine's own, those with leap
    seconds."""
    if name in _NO_ZONES or name.startswith(("posix/", "right/")):
        raise UnknownZone(name)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # not found, a path, or a folder of the zone database
        raise UnknownZone(name) from None


def clock_minutes(text: str) -> int:
    """``22:30`` as minutes after midnight. BadTiming."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise BadTiming(f"{text!r} is not a time of day as 22:30")
    return int(found[1]) * 60 + int(found[2])


def is_quiet(quiet: QuietHours | None, at_ms: int) -> bool:
    """Whether the instant lies in the quiet hours: from the first minute, up to the last and without it."""
    if quiet is None:
        return False
    begin, end = clock_minutes(quiet["from"]), clock_minutes(quiet["to"])
    local = _instant(at_ms).astimezone(zone(quiet["timezone"]))
    minute = local.hour * 60 + local.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _quiet_until(quiet: QuietHours | None, at_ms: int) -> int:
    """The end of the quiet hours that ``at_ms`` lies in: never before it."""
    assert quiet is not None
    end = clock_minutes(quiet["to"])
    local = _instant(at_ms).astimezone(zone(quiet["timezone"]))
    day = local.date() if local.hour * 60 + local.minute < end else local.date() + timedelta(days=1)
    closes = datetime(day.year, day.month, day.day, end // 60, end % 60, tzinfo=local.tzinfo)
    return max(int(closes.timestamp() * 1_000), at_ms + 1)


class Timetable:
    """The instants of a schedule, in unix milliseconds: whole seconds, without jitter."""

    def __init__(self, definition: ScheduleDefinition) -> None:
        """BadTiming, UnknownZone."""
        timing = definition["timing"]
        self.zone = zone(definition["timezone"])
        self.calendars = [calendar for line in timing.get("cron", []) for calendar in cron_calendars(line)]
        self.calendars += [calendar_of(one) for one in timing.get("calendar", [])]
        self._every, self._offset = timing.get("every_seconds"), timing.get("offset_seconds", 0)
        self._at = sorted(timing.get("at_ms", []))
        self._starts_ms, self._ends_ms = definition["starts_ms"], definition["ends_ms"]
        self._quiet = definition["quiet_hours"]

    def next(self, after_ms: int, *, quiet: bool = False) -> int | None:
        """The first instant after ``after_ms``; with ``quiet`` those count that quiet hours silence."""
        return next(self._instants(after_ms, quiet), None)

    def between(self, after_ms: int, until_ms: int, limit: int, *, quiet: bool = False) -> list[int]:
        """At most ``limit`` instants after ``after_ms``, up to ``until_ms`` and with it."""
        found: list[int] = []
        for at_ms in self._instants(after_ms, quiet):
            if at_ms > until_ms or len(found) == limit:
                break
            found.append(at_ms)
        return found

    def holds(self, at_ms: int) -> bool:
        """Whether the schedule fires at this instant by itself, or would were it not quiet."""
        second = at_ms // 1_000
        if at_ms % 1_000 or not self._within(at_ms):
            return False
        if self._every is not None:
            return (second - self._offset) % self._every == 0
        local = self._local(at_ms)
        first = _again(local) is not None
        named = any(calendar.has(local) and (calendar.every_hour or not first) for calendar in self.calendars)
        return named or at_ms in self._at

    def meant(self, at_ms: int) -> int | None:
        """The instant for which Temporal fires at ``at_ms``, where this is a time of the schedule or an echo of one;
        None where it can only be an order of somebody. Mostly this is the instant itself.

        On the day on which clocks are put back Temporal fires some times twice, and others the first time only: what
        it fires the first time is meant for the second, and what it fires an hour late was meant for an hour before.
        Whether the schedule ``holds`` what was meant is another question: it may have ended by then.
        """
        if self.holds(at_ms):
            return at_ms
        if at_ms % 1_000 or not self.may_echo(at_ms):
            return None
        local = self._local(at_ms)
        again = _again(local)
        if again is not None and any(calendar.has(local) for calendar in self.calendars):
            return int(again.timestamp()) * 1_000
        before = self._local(at_ms - _HOUR_MS)
        return at_ms - _HOUR_MS if any(calendar.has(before) for calendar in self.calendars) else None

    def is_of_all_zones(self) -> bool:
        """Whether it fires at the same instants in every zone that differs from UTC by whole hours, its own for one."""
        always = all(one.every_hour and one.every_day for one in self.calendars)
        return bool(self.calendars) and always and _by_whole_hours(self.zone)

    def may_echo(self, at_ms: int) -> bool:
        """Whether clocks are put back so near this instant that Temporal may fire for it more than once."""
        before, after = (self._local(at_ms + hours * _HOUR_MS).utcoffset() for hours in (-3, 3))
        assert before is not None
        assert after is not None
        return bool(self.calendars) and after < before

    def _local(self, at_ms: int) -> datetime:
        return _instant(at_ms).astimezone(self.zone)

    def _within(self, at_ms: int) -> bool:
        return (self._starts_ms is None or at_ms >= self._starts_ms) and (
            self._ends_ms is None or at_ms <= self._ends_ms
        )

    def _instants(self, after_ms: int, quiet: bool) -> Iterator[int]:
        if self._starts_ms is not None:
            after_ms = max(after_ms, self._starts_ms - 1)
        horizon_ms = self._ends_ms if self._ends_ms is not None else _HORIZON_MS
        silent = 0
        while (at_ms := self._raw(after_ms)) is not None and at_ms <= horizon_ms:
            after_ms = at_ms
            if quiet or not is_quiet(self._quiet, at_ms):
                silent = 0
                yield at_ms
                continue
            silent += 1
            if silent > _SILENT_MAX:
                return
            after_ms = _quiet_until(self._quiet, at_ms) - 1

    def _raw(self, after_ms: int) -> int | None:
        if self._every is not None:
            second = after_ms // 1_000
            return (((second - self._offset) // self._every + 1) * self._every + self._offset) * 1_000
        found = [at_ms for at_ms in self._at if at_ms > after_ms][:1]
        found += [at_ms for calendar in self.calendars if (at_ms := _next(calendar, self.zone, after_ms)) is not None]
        return min(found, default=None)


_HOUR_MS = 3_600_000
_HORIZON_MS = int(datetime(YEAR_MAX, 12, 31, tzinfo=UTC).timestamp() * 1_000)
_SILENT_MAX = 400  # nights without a firing beside them, one after another: more than a year of days


def _next(calendar: Calendar, zone: ZoneInfo, after_ms: int) -> int | None:
    begin = _instant(after_ms).astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)  # clocks go back by less
    for day in calendar.days(begin.date()):
        for hour, minute, fold in _minutes(calendar, day, zone):
            if day == begin.date() and (hour, minute) < (begin.hour, begin.minute):
                continue
            moment = datetime(day.year, day.month, day.day, hour, minute, calendar.second[-1], tzinfo=zone, fold=fold)
            if moment.timestamp() * 1_000 <= after_ms:
                continue
            for second in calendar.second:
                local = moment.replace(second=second)
                instant = local.astimezone(UTC)
                if instant.astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
                    continue  # clocks skip it
                at_ms = int(instant.timestamp()) * 1_000
                if at_ms > after_ms:
                    return at_ms
    return None


@cache
def _by_whole_hours(zone: ZoneInfo) -> bool:
    months = ((year, month) for year in range(YEAR_MIN, YEAR_MAX + 1) for month in range(1, 13))
    return not any(datetime(*month, 1, tzinfo=zone).timestamp() % 3_600 for month in months)


def _minutes(calendar: Calendar, day: date, zone: ZoneInfo) -> Iterable[tuple[int, int, int]]:
    """Hour, minute and fold of that day as they come: what comes twice fires the second time, or both times where all
    hours fire."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    if calendar.every_hour and midnight.utcoffset() != (midnight + timedelta(days=1)).utcoffset():
        return _both_times(calendar.minute, day, zone)
    return product(calendar.hour, calendar.minute, (1,))


@lru_cache(64)
def _both_times(minutes: tuple[int, ...], day: date, zone: ZoneInfo) -> list[tuple[int, int, int]]:
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    both = product(range(24), minutes, (0, 1))
    return sorted(both, key=lambda one: midnight.replace(hour=one[0], minute=one[1], fold=one[2]).timestamp())


def _again(local: datetime) -> datetime | None:
    """The instant at which the clock shows this for the second time; None when this is that, or the only one."""
    again = local.replace(fold=1)
    return None if again.utcoffset() == local.utcoffset() else again


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1_000, UTC)


def _value(name: str, field: Field, text: str, part: str) -> int:
    word = text.lower()[:3]
    if field.names and word in field.names and text.isalpha():
        return field.names.index(word) + field.low
    value = _number(name, text, part)
    if not field.low <= value <= field.high:
        raise BadTiming(f"{name} {part!r}: {value} is not in {field.low}-{field.high}")
    return value


def _number(name: str, text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise BadTiming(f"{name} {part!r}: {text!r} is not a number here; L, W, # and ? are not known")
    return int(text)
