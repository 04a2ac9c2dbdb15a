"""Firings of the day on which clocks are put back: one run for one time. On both databases."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.store.journal import Journal
from perdure.store.schedule_rows import ScheduleRow
from tests.scheduling.definitions import ms, shown
from tests.store.test_schedules import book, fired, made, over

FIRST, SECOND = ms("2026-11-01T05:15:00"), ms("2026-11-01T06:15:00")  # 01:15 in New York, twice


async def nightly(journal: Journal, **more: Any) -> ScheduleRow:
    return await made(journal, {"cron": ["15 1 * * *"]}, timezone="America/New_York", **more)


async def opened(journal: Journal, row: ScheduleRow, planned_ms: int, begun: int = 1) -> bool:
    """Whether the firing that Temporal planned for then has a run."""
    new = fired(row, planned_ms, key=f"{row.id}-{shown(planned_ms)}Z/{begun}")
    one = await journal.open_invocation(new)
    assert one == await journal.open_invocation(new)
    if one is not None:
        await over(journal, one.run_id)
    return one is not None


async def test_of_two_firings_that_are_meant_for_one_time_the_first_has_the_run(journal: Journal) -> None:
    row = await nightly(journal)
    assert await opened(journal, row, FIRST)
    assert not await opened(journal, row, SECOND)
    rows = await book(journal, row)
    assert [(one.planned_ms, one.cause, one.status) for one in rows] == [(SECOND, "schedule", "started")]
    assert await opened(journal, row, FIRST, 2), "another backfill fires again"
    assert not await opened(journal, row, SECOND, 2)


async def test_when_temporal_makes_the_second_firing_first_or_alone_that_has_the_run(journal: Journal) -> None:
    row = await nightly(journal)
    assert await opened(journal, row, SECOND)
    assert not await opened(journal, row, FIRST)
    assert await opened(journal, row, SECOND, 2)
    assert [one.planned_ms for one in await book(journal, row)] == [SECOND, SECOND]


async def test_a_firing_that_was_meant_for_an_hour_before_opens_nothing(journal: Journal) -> None:
    row = await made(journal, {"cron": ["15 1 * * *"]}, timezone="Europe/Berlin")
    assert await opened(journal, row, ms("2026-10-24T23:15:00"))
    assert not await opened(journal, row, ms("2026-10-25T00:15:00"))
    assert len(await book(journal, row)) == 1


async def test_a_firing_that_is_meant_for_a_time_after_the_end_opens_nothing(journal: Journal) -> None:
    row = await nightly(journal, ends_ms=FIRST + 60_000)
    assert not await opened(journal, row, FIRST)
    assert await book(journal, row) == []


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
async def test_a_firing_for_which_the_run_of_the_other_was_ended_has_a_run(journal: Journal, overlap: str) -> None:
    row = await nightly(journal, overlap=overlap)
    assert await opened(journal, row, FIRST)
    assert await opened(journal, row, SECOND)


async def test_a_trigger_keeps_clear_of_what_temporal_may_fire_twice(journal: Journal) -> None:
    row = await nightly(journal)
    assert await opened(journal, row, FIRST + 1_000)
    (one,) = await book(journal, row)
    assert (one.planned_ms, one.cause) == (FIRST + 1_000, "manual")
