"""The client of Temporal's schedules: makes each as the journal's row says, triggers and backfills. A schedule in
Temporal is derived from its row, and is made anew when it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import ScheduleOverlapPolicy as OverlapValue
from temporalio.api.schedule.v1 import BackfillRequest, SchedulePatch, TriggerImmediatelyRequest
from temporalio.api.workflowservice.v1 import DescribeScheduleRequest, PatchScheduleRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecutionStatus,
)
from temporalio.service import RPCError, RPCStatusCode

from perdure.contract import SCHEDULED_RUN, SUMMARY_CHARACTERS, TASK_TIMEOUT_SECONDS, ScheduledRunInput
from perdure.runs import RPC, TemporalBusy, temporal_trouble
from perdure.scheduling.definition import Overlap, QuietHours, ScheduleDefinition
from perdure.scheduling.timetable import Calendar, Timetable, clock_minutes
from perdure.store.journal import Journal
from perdure.store.schedule_rows import ScheduleRow

OVERLAPS: dict[Overlap, ScheduleOverlapPolicy] = {
    "skip": ScheduleOverlapPolicy.SKIP,
    "buffer_one": ScheduleOverlapPolicy.BUFFER_ONE,
    "buffer_all": ScheduleOverlapPolicy.BUFFER_ALL,
    "cancel_other": ScheduleOverlapPolicy.CANCEL_OTHER,
    "terminate_other": ScheduleOverlapPolicy.TERMINATE_OTHER,
    "allow_all": ScheduleOverlapPolicy.ALLOW_ALL,
}
_APPLIED_AT_MOST = 5  # versions that came one after another while one was applied; the reconciler takes the rest
_DESCRIBED_AT_MOST = 30  # tries while others ask about the same schedule
_BUSY_SECONDS = 0.05  # between two of them
_ALL_DAY = (ScheduleRange(0, 59),)


@dataclass(frozen=True, slots=True)
class Standing:
    """What Temporal shows of a schedule. ``counted`` grows with each firing that it hears of, whatever becomes of it;
    ``firings`` are the workflow ids of the newest."""

    counted: int
    dropped: int
    buffered: int
    firings: frozenset[str]


def firing_id(schedule_id: str, planned_ms: int) -> str:
    """The workflow id that Temporal gives to a firing."""
    return f"{schedule_id}-{datetime.fromtimestamp(planned_ms // 1_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


class Schedules:
    """Every method raises ``TemporalUnavailable`` when Temporal does not answer."""

    def __init__(self, client: Client, *, task_queue: str, previews: bool) -> None:
        self._client, self._task_queue, self._previews = client, task_queue, previews

    async def apply(self, row: ScheduleRow) -> None:
        """Make the schedule in Temporal as the row says: new, changed, or gone."""
        if row.deleted:
            return await self._remove(row.id)
        wanted = self._schedule(row)
        try:
            async with temporal_trouble():
                await self._client.create_schedule(row.id, wanted, rpc_timeout=RPC)
        except ScheduleAlreadyRunningError:
            await self._update(row.id, wanted)

    async def trigger(self, schedule_id: str, request_id: str, planned_ms: int, overlap: Overlap | None) -> bool:
        """Fire now, whether it is paused or not, under this planned time. False: Temporal does not know the schedule.
        Of several that come close together Temporal keeps the last: see ``perdure.schedule_orders``."""
        given = OverlapValue.SCHEDULE_OVERLAP_POLICY_UNSPECIFIED if overlap is None else OVERLAPS[overlap].value
        patch = SchedulePatch(
            trigger_immediately=TriggerImmediatelyRequest(
                overlap_policy=OverlapValue.ValueType(given), scheduled_time=_timestamp(planned_ms)
            )
        )
        return await self._patch(schedule_id, request_id, patch)

    async def backfill(self, schedule_id: str, request_id: str, from_ms: int, to_ms: int, overlap: Overlap) -> bool:
        """Fire at all times of the schedule from ``from_ms`` to ``to_ms``, both included, as if they were now."""
        request = BackfillRequest(
            start_time=_timestamp(from_ms - 1),  # Temporal takes what lies after it
            end_time=_timestamp(to_ms),
            overlap_policy=OverlapValue.ValueType(OVERLAPS[overlap].value),
        )
        return await self._patch(schedule_id, request_id, SchedulePatch(backfill_request=[request]))

    async def knows(self, schedule_id: str) -> bool:
        """Whether Temporal has the schedule. One that is too busy to be described is there."""
        try:
            return await self._described(schedule_id) is not None
        except TemporalBusy:
            return True

    async def standing(self, schedule_id: str) -> Standing | None:
        """None: Temporal does not know it. What was sent before is in it: a query waits for the signals before it.
        Temporal lets one query wait for a schedule and turns others away, so who is turned away comes again."""
        for _ in range(_DESCRIBED_AT_MOST):
            with suppress(TemporalBusy):
                return await self._described(schedule_id)
            await asyncio.sleep(_BUSY_SECONDS)
        return await self._described(schedule_id)

    async def _described(self, schedule_id: str) -> Standing | None:
        request = DescribeScheduleRequest(namespace=self._client.namespace, schedule_id=schedule_id)
        async with temporal_trouble():
            try:
                info = (await self._client.workflow_service.describe_schedule(request, timeout=RPC)).info
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND:
                    return None
                raise
        dropped = info.overlap_skipped + info.buffer_dropped
        firings = {action.start_workflow_result.workflow_id for action in info.recent_actions}
        firings |= {running.workflow_id for running in info.running_workflows}
        return Standing(info.action_count + dropped + info.buffer_size, dropped, info.buffer_size, frozenset(firings))

    async def firing(self, schedule_id: str, planned_ms: int) -> bool | None:
        """Whether the firing is over; None: there is none."""
        async with temporal_trouble():
            try:
                handle = self._client.get_workflow_handle(firing_id(schedule_id, planned_ms))
                return (await handle.describe(rpc_timeout=RPC)).status != WorkflowExecutionStatus.RUNNING
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND:
                    return None
                raise

    async def known(self) -> set[str]:
        """The ids of all schedules that Temporal has; the newest may be missing for a moment."""
        async with temporal_trouble():
            return {found.id async for found in await self._client.list_schedules(page_size=1_000)}

    async def _patch(self, schedule_id: str, request_id: str, patch: SchedulePatch) -> bool:
        request = PatchScheduleRequest(
            namespace=self._client.namespace,
            schedule_id=schedule_id,
            patch=patch,
            identity=self._client.identity,
            request_id=request_id,
        )
        async with temporal_trouble():
            try:
                await self._client.workflow_service.patch_schedule(request, timeout=RPC)
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND:
                    return False
                raise
        return True

    async def _remove(self, schedule_id: str) -> None:
        async with temporal_trouble():
            try:
                await self._client.get_schedule_handle(schedule_id).delete(rpc_timeout=RPC)
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise

    async def _update(self, schedule_id: str, wanted: Schedule) -> None:
        def as_wanted(_: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(wanted)

        async with temporal_trouble():
            await self._client.get_schedule_handle(schedule_id).update(as_wanted, rpc_timeout=RPC)

    def _schedule(self, row: ScheduleRow) -> Schedule:
        definition = row.definition
        return Schedule(
            action=ScheduleActionStartWorkflow(
                SCHEDULED_RUN,
                args=[ScheduledRunInput(row.id, row.version)],
                id=row.id,
                task_queue=self._task_queue,
                task_timeout=timedelta(seconds=TASK_TIMEOUT_SECONDS),
                static_summary=row.name[:SUMMARY_CHARACTERS] if self._previews else None,
            ),
            spec=_spec(definition),
            # A failed run pauses the row, and the row pauses this: one hand on the switch.
            policy=SchedulePolicy(
                overlap=OVERLAPS[definition["overlap"]],
                catchup_window=timedelta(seconds=definition["catchup_window_seconds"]),
            ),
            state=ScheduleState(paused=row.paused, note=row.paused_reason[:200] or None if self._previews else None),
        )


async def apply_newest(journal: Journal, schedules: Schedules, row: ScheduleRow) -> ScheduleRow:
    """Tell Temporal of the newest version, whoever else does so at this instant: the last word is the row's.
    TemporalUnavailable."""
    for _ in range(_APPLIED_AT_MOST):
        await schedules.apply(row)
        confirmed = await journal.confirm_schedule(row.id, row.version)
        row = await journal.find_schedule(row.id)
        if confirmed and row.applied_version == row.version:
            break
    return row


async def apply_lost(journal: Journal, schedules: Schedules) -> list[str]:
    """Schedules that Temporal should know and does not (its database was lost, or somebody removed them there) are
    made again. Their ids."""
    known, made, after = await schedules.known(), list[str](), ""
    while rows := await journal.applied_schedules(after=after, limit=200):
        for row in rows:
            if row.id not in known:
                with suppress(RPCError):  # one that Temporal refuses does not keep the others
                    await schedules.apply(row)
                    made.append(row.id)
        after = rows[-1].id
    return made


def _spec(definition: ScheduleDefinition) -> ScheduleSpec:
    timetable, timing, quiet = Timetable(definition), definition["timing"], definition["quiet_hours"]
    calendars = [_calendar(calendar) for calendar in timetable.calendars]
    skip = list(_never(timetable.calendars)) if calendars else []
    zone = definition["timezone"]
    intervals = []
    if quiet is None and timetable.is_of_all_zones():
        zone = "UTC"  # has no hours in which Temporal loses its way
    if "every_seconds" in timing:
        every, offset = timing["every_seconds"], timing.get("offset_seconds", 0)
        intervals.append(ScheduleIntervalSpec(timedelta(seconds=every), timedelta(seconds=offset)))
        zone = quiet["timezone"] if quiet else zone  # intervals do not look at clocks
    if "at_ms" in timing:
        calendars, zone = [_moment(at_ms) for at_ms in timing["at_ms"]], "UTC"
    if quiet and quiet["timezone"] == zone:
        skip += _silence(quiet)
    return ScheduleSpec(
        calendars=calendars,
        intervals=intervals,
        skip=skip,
        start_at=_datetime(definition["starts_ms"]),
        end_at=_datetime(definition["ends_ms"]),
        jitter=timedelta(seconds=definition["jitter_seconds"]) if definition["jitter_seconds"] else None,
        time_zone_name=zone,
    )


def _never(calendars: Iterable[Calendar]) -> Iterable[ScheduleCalendarSpec]:
    """The minutes of the day at which no calendar fires. Where clocks are put back Temporal fires at some of them, an
    hour after what was meant, and an overlap policy would end a run for that."""
    unused: dict[tuple[int, ...], list[int]] = {}
    for hour in range(24):
        used = {minute for calendar in calendars if hour in calendar.hour for minute in calendar.minute}
        unused.setdefault(tuple(minute for minute in range(60) if minute not in used), []).append(hour)
    for minutes, hours in unused.items():
        if minutes:
            yield ScheduleCalendarSpec(second=_ALL_DAY, minute=_ranges(minutes), hour=_ranges(tuple(hours)))


def _silence(quiet: QuietHours) -> Iterable[ScheduleCalendarSpec]:
    """The quiet hours as what Temporal leaves out: a part of the first hour, whole hours, a part of the last."""
    begin, end = clock_minutes(quiet["from"]), clock_minutes(quiet["to"])
    spans = [(begin, end)] if begin < end else [(begin, 24 * 60), (0, end)]
    for first, last in spans:
        for hour in range(first // 60, -(-last // 60)):
            minutes = (max(first - hour * 60, 0), min(last - hour * 60, 60) - 1)
            yield ScheduleCalendarSpec(second=_ALL_DAY, minute=[ScheduleRange(*minutes)], hour=[ScheduleRange(hour)])


def _calendar(calendar: Calendar) -> ScheduleCalendarSpec:
    return ScheduleCalendarSpec(
        second=_ranges(calendar.second),
        minute=_ranges(calendar.minute),
        hour=_ranges(calendar.hour),
        day_of_month=_ranges(calendar.day_of_month),
        month=_ranges(calendar.month),
        year=_ranges(calendar.year),
        day_of_week=_ranges(calendar.day_of_week),
    )


def _ranges(values: tuple[int, ...]) -> list[ScheduleRange]:
    """The values as runs of neighbours."""
    ranges: list[list[int]] = []
    for value in values:
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return [ScheduleRange(first, last) for first, last in ranges]


def _moment(at_ms: int) -> ScheduleCalendarSpec:
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    fields = (at.second, at.minute, at.hour, at.day, at.month, at.year)
    second, minute, hour, day, month, year = ([ScheduleRange(value)] for value in fields)
    return ScheduleCalendarSpec(second=second, minute=minute, hour=hour, day_of_month=day, month=month, year=year)


def _datetime(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1_000, UTC)


def _timestamp(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1_000, nanos=at_ms % 1_000 * 1_000_000)
