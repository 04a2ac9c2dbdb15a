"""When schedules fire, and what is wrong with those that cannot. Needs nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from perdure.scheduling.flaws import timing_flaws
from perdure.scheduling.timetable import EARLIEST_MS, BadTiming, Timetable, cron_calendars, is_quiet
from tests.scheduling.definitions import NOW, defined, ms, shown


def times(timing: Any, count: int = 3, after: str = "2026-11-24T12:00:00", **more: Any) -> list[str]:
    return [shown(at_ms) for at_ms in Timetable(defined(timing, **more)).between(ms(after), 2**62, count)]


def test_cron_is_read_in_the_time_zone_of_the_schedule() -> None:
    assert times({"cron": ["0 2 * * *"]}, timezone="Europe/Berlin")[0] == "2026-11-25T01:00:00"
    assert times({"cron": ["0 2 * * *"]}, timezone="America/New_York")[0] == "2026-11-25T07:00:00"
    assert times({"cron": ["*/20 9-10 * * mon-fri"]}, 7)[5:] == ["2026-11-25T10:40:00", "2026-11-26T09:00:00"]


def test_a_cron_line_with_a_date_and_a_weekday_fires_on_either_as_every_cron_does() -> None:
    assert times({"cron": ["0 9 13 * 5"]}, 4) == [
        "2026-11-27T09:00:00", "2026-12-04T09:00:00", "2026-12-11T09:00:00", "2026-12-13T09:00:00",
    ]  # fmt: skip


def test_sunday_is_0_and_7_and_words_are_known() -> None:
    assert cron_calendars("0 0 * * 7") == cron_calendars("0 0 * * 0") == cron_calendars("0 0 * * sun")
    assert cron_calendars("@weekly") == cron_calendars("0 0 * * sunday")
    assert cron_calendars("0 0 1 feb-apr *") == cron_calendars("0 0 1 2,3,4 *")


def test_an_interval_counts_from_1970_whenever_it_was_made() -> None:
    assert times({"every_seconds": 3_600, "offset_seconds": 90}, 2) == ["2026-11-24T12:01:30", "2026-11-24T13:01:30"]


def test_moments_fire_once_each_in_their_order() -> None:
    moments = [ms("2026-12-24T18:00:00"), ms("2026-12-01T18:00:00"), ms("2026-11-01T18:00:00")]
    assert times({"at_ms": moments}) == ["2026-12-01T18:00:00", "2026-12-24T18:00:00"]


def test_a_time_that_clocks_skip_does_not_fire_and_one_that_comes_twice_fires_once() -> None:
    spring = times({"cron": ["30 2 * * *"]}, 2, "2027-03-26T12:00:00", timezone="Europe/Berlin")
    assert spring == ["2027-03-27T01:30:00", "2027-03-29T00:30:00"]
    autumn = times({"cron": ["30 2 * * *"]}, 3, "2027-10-29T12:00:00", timezone="Europe/Berlin")
    assert autumn == ["2027-10-30T00:30:00", "2027-10-31T01:30:00", "2027-11-01T01:30:00"]


@pytest.mark.parametrize(
    ("zone", "line", "at", "meant"),
    [
        ("America/New_York", "15 1 * * *", "2027-11-07T05:15:00", "2027-11-07T06:15:00"),  # fires at both
        ("America/New_York", "15 1 * * *", "2027-11-07T06:15:00", "2027-11-07T06:15:00"),
        ("Europe/Berlin", "0 1,2 * * *", "2027-10-31T00:00:00", "2027-10-31T01:00:00"),  # fires at the first only
        ("Europe/Berlin", "15 1 * * *", "2027-10-31T00:15:00", "2027-10-30T23:15:00"),  # fires again an hour later
        ("Australia/Lord_Howe", "15 1 * * *", "2027-04-03T15:15:00", "2027-04-03T14:15:00"),
        ("America/New_York", "*/10 * * * *", "2027-11-07T05:10:00", "2027-11-07T05:10:00"),  # all hours fire
        ("America/New_York", "15 1 * * *", "2027-11-07T05:15:01", None),
        ("America/New_York", "15 1 * * *", "2027-11-08T07:15:00", None),
        ("UTC", "15 1 * * *", "2027-11-07T02:15:00", None),
    ],
)
def test_what_temporal_fires_while_clocks_are_put_back_is_meant_for_one_time(
    zone: str, line: str, at: str, meant: str | None
) -> None:
    found = Timetable(defined({"cron": [line]}, timezone=zone)).meant(ms(at))
    assert (None if found is None else shown(found)) == meant


def test_a_time_that_is_meant_may_lie_after_the_end_and_then_the_schedule_does_not_hold_it() -> None:
    bounds = {"timezone": "America/New_York", "ends_ms": ms("2027-11-07T05:30:00")}
    timetable = Timetable(defined({"cron": ["15 1 * * *"]}, **bounds))
    meant = timetable.meant(ms("2027-11-07T05:15:00"))
    assert meant is not None
    assert not timetable.holds(meant)


@pytest.mark.parametrize(
    ("zone", "around"),
    [("America/New_York", "2027-11-07"), ("Europe/Berlin", "2027-10-31"), ("Pacific/Chatham", "2027-04-03"),
     ("Australia/Lord_Howe", "2027-04-03"), ("Antarctica/Troll", "2027-10-31"), ("Africa/Cairo", "2027-10-28")],
)  # fmt: skip
def test_what_fires_in_every_hour_fires_on_through_the_hour_that_comes_twice(zone: str, around: str) -> None:
    timetable = Timetable(defined({"cron": ["*/5 * * * *"]}, timezone=zone))
    begin = ms(f"{around}T00:00:00")
    found = timetable.between(begin - 1, begin + 2 * 86_400_000, 9_999)
    assert found == list(range(begin, begin + 2 * 86_400_000 + 1, 300_000))
    assert all(timetable.holds(at_ms) for at_ms in found)


def test_a_schedule_fires_between_its_start_and_its_end_with_both() -> None:
    bounds = {"starts_ms": ms("2026-12-01T00:00:00"), "ends_ms": ms("2026-12-01T02:00:00")}
    assert times({"cron": ["@hourly"]}, 9, **bounds) == [f"2026-12-01T0{hour}:00:00" for hour in range(3)]


def test_quiet_hours_silence_the_night_and_hold_at_its_edges() -> None:
    night: Any = {"from": "22:30", "to": "07:00", "timezone": "UTC"}
    heard = times({"cron": ["*/30 * * * *"]}, 48, quiet_hours=night)
    last = heard.index("2026-11-24T22:00:00")
    assert heard[last + 1] == "2026-11-25T07:00:00"
    assert not [at for at in heard if at[11:16] >= "22:30" or at[11:16] < "07:00"]
    day: Any = {"from": "12:00", "to": "13:00", "timezone": "Asia/Tokyo"}
    assert is_quiet(day, ms("2026-11-24T03:59:59"))
    assert not is_quiet(day, ms("2026-11-24T04:00:00"))


@pytest.mark.parametrize(
    ("timing", "more", "pointer", "code"),
    [
        ({"cron": ["0 0 31 2 *"]}, {}, "/spec/cron", "never_fires"),
        ({"cron": ["0 0 1 1"]}, {}, "/spec/cron/0", "invalid_cron"),
        ({"cron": ["@daily", "61 * * * *"]}, {}, "/spec/cron/1", "invalid_cron"),
        ({"cron": ["*/0 * * * *"]}, {}, "/spec/cron/0", "invalid_cron"),
        ({"cron": ["0 0 L * *"]}, {}, "/spec/cron/0", "invalid_cron"),
        ({"cron": ["5-1 * * * *"]}, {}, "/spec/cron/0", "invalid_cron"),
        ({"cron": []}, {}, "/spec/cron", "empty"),
        ({"cron": ["@daily"] * 17}, {}, "/spec/cron", "too_many"),
        ({"calendar": [{"hour": "25"}]}, {}, "/spec/calendar/0/hour", "invalid_calendar"),
        ({"calendar": [{"month": "2", "day_of_month": "30"}]}, {}, "/spec/calendar", "never_fires"),
        ({"calendar": [{"year": "2001"}]}, {}, "/spec/calendar", "never_fires"),
        ({"every_seconds": 0}, {}, "/spec/every_seconds", "out_of_range"),
        ({"every_seconds": 10**9}, {}, "/spec/every_seconds", "out_of_range"),
        ({"every_seconds": 10, "offset_seconds": 10}, {}, "/spec/offset_seconds", "out_of_range"),
        ({"cron": ["@daily"], "offset_seconds": 1}, {}, "/spec/offset_seconds", "conflict"),
        ({"cron": ["@daily"], "every_seconds": 5}, {}, "/spec", "conflict"),
        ({}, {}, "/spec", "missing"),
        ({"at_ms": [NOW - 1_000]}, {}, "/spec/at", "in_the_past"),
        ({"at_ms": [NOW + 10**13]}, {}, "/spec/at/0", "out_of_range"),
        ({"at_ms": [EARLIEST_MS - 1_000, NOW + 1_000]}, {}, "/spec/at/0", "out_of_range"),
        ({"every_seconds": 5}, {"timezone": "Mars/Olympus"}, "/timezone", "unknown_timezone"),
        ({"every_seconds": 5}, {"timezone": "../etc/passwd"}, "/timezone", "unknown_timezone"),
        ({"every_seconds": 5}, {"jitter_seconds": 10**6}, "/jitter_seconds", "out_of_range"),
        ({"every_seconds": 5}, {"catchup_window_seconds": 1}, "/catchup_window_seconds", "out_of_range"),
        ({"every_seconds": 5}, {"ends_ms": NOW}, "/ends_at", "in_the_past"),
        ({"every_seconds": 5}, {"starts_ms": NOW + 9_000, "ends_ms": NOW + 8_000}, "/ends_at", "contradictory"),
        ({"cron": ["@yearly"]}, {"ends_ms": NOW + 86_400_000}, "/ends_at", "never_fires"),
    ],
)
def test_what_cannot_fire_is_refused_with_a_pointer(timing: Any, more: dict[str, Any], pointer: str, code: str) -> None:
    found = timing_flaws(defined(timing, **more), NOW)
    assert [(flaw.pointer, flaw.code) for flaw in found] == [(pointer, code)]
    assert found[0].message


def test_quiet_hours_that_make_no_sense_are_refused() -> None:
    def flaws(begin: str, end: str, zone: str = "UTC", **more: Any) -> list[tuple[str, str]]:
        quiet: Any = {"from": begin, "to": end, "timezone": zone}
        timing = more.pop("timing", {"cron": ["0 3 * * *"]})
        return [(one.pointer, one.code) for one in timing_flaws(defined(timing, quiet_hours=quiet, **more), NOW)]

    assert flaws("22:00", "06:00") == [("/quiet_hours", "never_fires")]
    assert flaws("9:00", "24:00") == [("/quiet_hours/from", "invalid_time"), ("/quiet_hours/to", "invalid_time")]
    assert flaws("09:00", "09:00") == [("/quiet_hours/to", "contradictory")]
    assert flaws("09:00", "10:00", "Nowhere/Here") == [("/quiet_hours/timezone", "unknown_timezone")]
    elsewhere = flaws("09:00", "10:00", "Asia/Tokyo", overlap="cancel_other")
    assert elsewhere == [("/quiet_hours/timezone", "contradictory")]
    assert flaws("09:00", "10:00", "Asia/Tokyo", overlap="cancel_other", timing={"every_seconds": 60}) == []
    assert flaws("09:00", "10:00", "Asia/Tokyo") == []


def test_a_hostile_timetable_is_answered_quickly() -> None:
    night: Any = {"from": "00:00", "to": "23:59", "timezone": "Europe/Berlin"}
    hostile: list[Any] = [
        {"cron": ["0 0 29 2 *"] * 16},
        {"cron": ["* * 31 2,4,6,9,11 *"] * 16},
        {"calendar": [{"second": "*", "minute": "*", "hour": "*", "month": "2", "day_of_month": "30"}] * 16},
    ]
    began = time.perf_counter()
    for timing in hostile:
        timing_flaws(defined(timing, timezone="Europe/Berlin"), NOW)
        timing_flaws(defined(timing, quiet_hours=night), NOW)
    for timing in ({"every_seconds": 1}, {"every_seconds": 86_400}, {"cron": ["0 3 * * *"] * 16}):
        timing_flaws(defined(timing, quiet_hours=night), NOW)
    assert time.perf_counter() - began < 5


def test_a_planned_time_is_recognised_also_in_quiet_hours() -> None:
    night: Any = {"from": "22:00", "to": "07:00", "timezone": "UTC"}
    timetable = Timetable(defined({"cron": ["0 3 * * *"]}, quiet_hours=night))
    assert timetable.holds(ms("2026-11-25T03:00:00"))
    assert not timetable.holds(ms("2026-11-25T03:00:01"))
    assert Timetable(defined({"every_seconds": 7})).holds(7_000_000)
    assert not Timetable(defined({"every_seconds": 7})).holds(7_001_000)


def test_a_step_over_a_range_that_nobody_can_read_says_which_part() -> None:
    with pytest.raises(BadTiming, match=r"hour '1-x'"):
        cron_calendars("0 1-x * * *")
