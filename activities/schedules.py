"""What a firing of a schedule does: open its invocation with a run, wait for the run, cancel it, pause the schedule."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from temporalio import activity
from temporalio.exceptions import ApplicationError
from ulid import ULID

from activities.lifeline import lifeline
from perdure.contract import (
    AWAIT_RUN,
    CANCEL_RUN,
    OPEN_INVOCATION,
    PAUSE_SCHEDULE,
    Opened,
    OpenInvocationInput,
    RunOfSchedule,
)
from perdure.core.happenings import Order
from perdure.core.state import TERMINAL
from perdure.courier import Courier
from perdure.runs import Runs, TemporalUnavailable
from perdure.schedules import Schedules, apply_newest
from perdure.scheduling.timetable import Timetable
from perdure.store.journal import Journal
from perdure.store.rows import AgentRow, NewMessage, NewRun
from perdure.store.schedule_rows import InvocationRow, NewInvocation, ScheduleChange, ScheduleRow
from perdure.store.trouble import InboxFull, NotFound, RunOver, SessionBusy, SessionDeleted

_TRIES_MAX = 5  # of a session whose run has ended each time when its message came
GRACE_MS = 5_000  # a firing of the time itself comes within this
_LOOK_AGAIN_SECONDS = 10.0  # at a run that is followed: nothing is missed, this is the net

MakeRun = Callable[[ScheduleRow, AgentRow | None, str, int], NewRun]
"""``make_run(schedule, agent, run id, now in ms)``: the run of a firing, its settings resolved."""


@dataclass(frozen=True)
class Firings:
    """The activities with their adapters."""

    journal: Journal
    runs: Runs
    courier: Courier
    schedules: Schedules
    make_run: MakeRun
    beat_every_seconds: float

    @activity.defn(name=OPEN_INVOCATION)
    async def open_invocation(self, order: OpenInvocationInput) -> Opened:
        async with lifeline(self.beat_every_seconds):
            try:
                schedule = await self.journal.find_schedule(order.schedule_id)
            except NotFound:
                return Opened("gone")
            if schedule.deleted:
                return Opened("gone")
            begins_ms = _begins_ms(order, schedule)
            if begins_ms > time.time_ns() // 1_000_000:
                return Opened("early", begins_ms=begins_ms)
            new = await self._new(order, schedule)
            if new.run is not None and schedule.definition["overlap"] == "terminate_other":
                await self._end_others(schedule, new.run.run_id)
            return await self._opened(schedule, await self._in_the_book(schedule, new))

    async def _new(self, order: OpenInvocationInput, schedule: ScheduleRow) -> NewInvocation:
        new = NewInvocation(order.schedule_id, order.version, order.key, order.planned_ms)
        try:
            agent = await self._agent(schedule)
        except NotFound as missing:
            return replace(new, failed=f"there is no agent {missing.id!r}")
        run_id = f"run_{_id_of(order)}"
        return replace(new, run=self.make_run(schedule, agent, run_id, time.time_ns() // 1_000_000))

    async def _agent(self, schedule: ScheduleRow) -> AgentRow | None:
        reference = schedule.definition["agent"]
        if reference is None:
            return None
        name, _, version = reference.partition("@")
        return await self.journal.get_agent(schedule.project_id, name, int(version) if version else None)

    async def _end_others(self, schedule: ScheduleRow, own_run_id: str) -> None:
        """Temporal has ended the workflows of earlier firings by force; their runs are ended here."""
        for run_id in await self.journal.open_runs(schedule.id):
            if run_id != own_run_id:
                with suppress(RunOver):
                    await self.journal.force_cancel(run_id, "ended by the next firing of its schedule")
                with suppress(TemporalUnavailable):
                    await self.runs.terminate(run_id, "ended by the next firing of its schedule")

    async def _in_the_book(self, schedule: ScheduleRow, new: NewInvocation) -> InvocationRow | None:
        conflict = schedule.definition["session"]["on_conflict"]
        for _ in range(_TRIES_MAX):
            try:
                return await self.journal.open_invocation(new)
            except NotFound as missing:
                return await self.journal.open_invocation(replace(new, failed=f"there is no {missing.kind} any more"))
            except SessionDeleted as gone:
                failed = f"session_deleted: session {gone.session_id} was deleted; make a schedule with another"
                return await self.journal.open_invocation(replace(new, failed=failed))
            except SessionBusy as busy:
                if conflict == "reject" or new.run is None:
                    break
                message = NewMessage(f"msg_{new.run.run_id.removeprefix('run_')}", new.run.input, conflict)
                with suppress(RunOver):  # it ended just now: the session is free
                    try:
                        row = await self.journal.deliver_invocation(new, busy.run_id, message)
                    except InboxFull as full:
                        return await self.journal.open_invocation(replace(new, failed=str(full)))
                    with suppress(TemporalUnavailable):
                        await self.courier.carry(busy.run_id)
                    return row
        return await self.journal.open_invocation(replace(new, skipped="session_busy"))

    async def _opened(self, schedule: ScheduleRow, row: InvocationRow | None) -> Opened:
        pauses = schedule.definition["pause_on_failure"]
        if row is None:
            return Opened("gone")
        if row.status != "started" or row.run_id is None:
            return Opened(row.status, pause_on_failure=pauses)
        run = await self.journal.get_run(row.run_id)
        return Opened("started", run.id, self.runs.start_of(run), run.project_id, pauses)

    @activity.defn(name=AWAIT_RUN)
    async def await_run(self, order: RunOfSchedule) -> str:
        """The run's status when it has ended."""
        async with lifeline(self.beat_every_seconds), self.journal.follow(order.run_id) as follower:
            while (status := (await self.journal.get_run(order.run_id)).status) not in TERMINAL:
                await follower.wait(_LOOK_AGAIN_SECONDS)
            return status

    @activity.defn(name=CANCEL_RUN)
    async def cancel_run(self, order: RunOfSchedule) -> None:
        async with lifeline(self.beat_every_seconds):
            with suppress(RunOver):
                if activity.info().attempt == 1 or not await self.journal.undelivered_orders(order.run_id, limit=1):
                    await self.journal.give_order(order.run_id, Order(0, "cancel", reason=order.reason))
                if not await self.courier.carry(order.run_id):
                    raise ApplicationError("the run's workflow has not started yet", type="NotYet")

    @activity.defn(name=PAUSE_SCHEDULE)
    async def pause_schedule(self, order: RunOfSchedule) -> None:
        async with lifeline(self.beat_every_seconds):
            try:
                row = await self.journal.find_schedule(order.schedule_id)
                change = ScheduleChange(paused=True, reason=order.reason)
                row = await self.journal.change_schedule(row.project_id, row.id, change)
            except NotFound:
                return
            with suppress(TemporalUnavailable):  # the reconciler tells it
                await apply_newest(self.journal, self.schedules, row)


def _begins_ms(order: OpenInvocationInput, schedule: ScheduleRow) -> int:
    """When the firing may begin. One that Temporal makes the first time that the clock shows its time is meant for the
    second; a firing of that second time, which Temporal may make or not, goes before."""
    definition = schedule.definition
    meant_ms = Timetable(definition).meant(order.planned_ms)
    if meant_ms is None or meant_ms <= order.planned_ms:
        return 0
    return meant_ms + definition["jitter_seconds"] * 1_000 + GRACE_MS


def _id_of(order: OpenInvocationInput) -> str:
    """The same ULID for the same firing, of the moment at which it began."""
    digest = hashlib.sha256(order.key.encode()).digest()[:10]
    return str(ULID.from_bytes(order.began_ms.to_bytes(6, "big") + digest))
