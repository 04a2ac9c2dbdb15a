"""The timetable says what Temporal does: both are asked for the same schedules. Needs a real Temporal dev server."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client

from perdure.dev_server import start_dev_server
from perdure.runs import DATA_CONVERTER
from perdure.schedules import Schedules
from perdure.scheduling.flaws import timing_flaws
from perdure.scheduling.timetable import EARLIEST_MS, Timetable, UnknownZone, zone
from perdure.store.schedule_rows import ScheduleRow
from tests.scheduling.definitions import NOW, defined, ms, shown

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo")
SEEDS = 60


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    server = start_dev_server(tmp_path / "temporal.db")
    yield await Client.connect(server.address, data_converter=DATA_CONVERTER)
    server.stop()


def row_of(definition: Any, id_: str) -> ScheduleRow:
    return ScheduleRow(
        id=id_, project_id="default", name=id_, version=1, timing_version=1, applied_version=0, definition=definition,
        paused=True, paused_reason="", session_id=None, owner=None, made_by_run_id=None, requested_by="ana",
        created_ms=NOW, updated_ms=NOW, deleted=False,
    )  # fmt: skip


def drawn(seed: int) -> Any:
    """A schedule that somebody might write."""
    dice = random.Random(seed)

    def field(low: int, high: int) -> str:
        first, last = sorted((dice.randint(low, high), dice.randint(low, high)))
        return dice.choice(["*", f"*/{dice.randint(2, 9)}", str(first), f"{first}-{last}", f"{first},{last}"])

    minute = dice.choice(["0", "30", "*/15", field(0, 59)])
    line = (
        f"{minute} {field(0, 23)} {dice.choice(['*', field(1, 31)])} {field(1, 12)} {dice.choice(['*', field(0, 6)])}"
    )
    timing: Any = dice.choice(
        [
            {"cron": [line]},
            {"cron": [line, "@daily"]},
            {"every_seconds": dice.randint(60, 90_000), "offset_seconds": dice.randint(0, 59)},
            {"calendar": [{"hour": field(0, 23), "minute": minute, "day_of_week": field(0, 6)}]},
            {"at_ms": [NOW + dice.randint(0, 40) * 86_400_000 for _ in range(5)]},
        ]
    )
    where = dice.choice(ZONES)
    quiet: Any = None
    if dice.random() < 0.4:
        begin, end = dice.sample(range(24), 2)
        quiet = {"from": f"{begin:02d}:{dice.choice((0, 20, 45)):02d}", "to": f"{end:02d}:10", "timezone": where}
    if "at_ms" in timing and quiet:
        quiet["timezone"] = where = "UTC"
    bounds = {"starts_ms": NOW + 86_400_000} if dice.random() < 0.3 else {}
    return defined(timing, timezone=where, quiet_hours=quiet, **bounds)


async def temporals(client: Client, id_: str, from_ms: int, to_ms: int) -> list[int]:
    request = ListScheduleMatchingTimesRequest(
        namespace="default",
        schedule_id=id_,
        start_time=Timestamp(seconds=from_ms // 1_000),
        end_time=Timestamp(seconds=to_ms // 1_000),
    )
    answer = await client.workflow_service.list_schedule_matching_times(request)
    return [at.seconds * 1_000 for at in answer.start_time]


async def test_temporal_fires_exactly_when_the_timetable_says(client: Client) -> None:
    schedules, compared = Schedules(client, task_queue="none", previews=True), 0
    for seed in range(SEEDS):
        definition = drawn(seed)
        if timing_flaws(definition, NOW):
            continue
        await schedules.apply(row_of(definition, f"sch_{seed}"))
        timetable = Timetable(definition)
        for begin in (NOW, ms("2027-03-10T00:00:00"), ms("2027-10-25T00:00:00")):  # clocks change in the latter two
            end = begin + 25 * 86_400_000
            said = [at for at in timetable.between(begin, end, 900) if not timetable.may_echo(at)]
            done = [at for at in await temporals(client, f"sch_{seed}", begin, end) if not timetable.may_echo(at)]
            assert said == done[: len(said)], (seed, definition["timing"], definition["timezone"])
            assert len(said) == len(done) or len(timetable.between(begin, end, 900)) == 900
            compared += len(said)
    assert compared > 5_000


def put_back(zone: ZoneInfo) -> int | None:
    """The first instant of 2027 at which its clocks are put back."""
    day = next(falls(zone, ms("2027-01-01T00:00:00"), 366, 86_400_000), None)
    return None if day is None else next(falls(zone, day - 86_400_000, 97, 900_000))


def falls(zone: ZoneInfo, begin_ms: int, count: int, step_ms: int) -> Iterator[int]:
    """The instants at which the zone is behind of where it was a step before."""
    instants = range(begin_ms, begin_ms + count * step_ms, step_ms)
    offsets = [datetime.fromtimestamp(at / 1_000, zone).utcoffset() or timedelta() for at in instants]
    return (at for at, (one, two) in zip(instants[1:], pairwise(offsets), strict=True) if two < one)


async def test_in_every_zone_each_time_of_the_day_on_which_clocks_are_put_back_has_a_firing_that_is_meant_for_it(
    client: Client,
) -> None:
    schedules, kinds = Schedules(client, task_queue="none", previews=True), dict[tuple[int, Any], str]()
    for name in sorted(available_timezones()):
        with suppress(UnknownZone):
            if at := put_back(zone(name)):
                kinds.setdefault((at, datetime.fromtimestamp(at / 1_000, zone(name)).utcoffset()), name)
    assert len(kinds) > 20
    wrong = []
    for (at, _), name in kinds.items():
        hour = datetime.fromtimestamp(at / 1_000, zone(name)).hour
        lines = [f"{minute} {(hour + more) % 24} * * *" for more in range(-1, 3) for minute in (0, 45)]
        lines += ["20 */2 * * *", f"0 {hour},{(hour + 1) % 24} * * *"]
        for line in [*lines, "0 * * * *", "*/15 * * * *"]:
            definition = defined({"cron": [line]}, timezone=name)
            timetable, span = Timetable(definition), (at - 7 * 3_600_000, at + 7 * 3_600_000)
            if line.endswith(" * * * *") and not timetable.is_of_all_zones():
                continue  # where clocks go by half hours Temporal leaves some out
            id_ = f"sch_{name.replace('/', '-')}-{line.replace(' ', '').replace('*', 'x').replace('/', 'by')}"
            await schedules.apply(row_of(definition, id_))
            fired = await temporals(client, id_, *span)
            if {timetable.meant(one) for one in fired} != set(timetable.between(*span, 900)):
                wrong.append((name, line, [shown(one) for one in fired]))
    assert not wrong


async def test_temporal_takes_the_earliest_moment_that_a_schedule_may_name(client: Client) -> None:
    timing = {"at_ms": [EARLIEST_MS, NOW + 86_400_000]}
    await Schedules(client, task_queue="none", previews=True).apply(row_of(defined(timing, starts_ms=EARLIEST_MS), "s"))
    assert await temporals(client, "s", NOW, NOW + 2 * 86_400_000) == [NOW + 86_400_000]


async def test_a_schedule_is_made_changed_and_removed_in_temporal_as_its_row_says(client: Client) -> None:
    schedules = Schedules(client, task_queue="none", previews=True)
    definition = defined({"cron": ["0 2 * * *"]}, overlap="buffer_one", jitter_seconds=60, timezone="Europe/Berlin")
    row = row_of(definition, "sch_one")
    await schedules.apply(row)
    await schedules.apply(row)
    found = (await client.get_schedule_handle("sch_one").describe()).schedule
    assert (found.policy.overlap.name, found.state.paused) == ("BUFFER_ONE", True)
    assert found.spec.jitter is not None
    assert found.spec.time_zone_name == "Europe/Berlin"
    await schedules.apply(replace(row, paused=False, version=2))
    assert not (await client.get_schedule_handle("sch_one").describe()).schedule.state.paused
    for _ in range(2):
        await schedules.apply(replace(row, deleted=True))
    assert not await schedules.trigger("sch_one", "once", NOW, None)
