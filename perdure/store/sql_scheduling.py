"""The methods of ``SqlJournal`` about schedules and their firings."""

from __future__ import annotations

from perdure.scheduling.definition import Overlap
from perdure.store import sql_invocations, sql_schedule_orders, sql_schedules
from perdure.store.access import Access
from perdure.store.rows import NewMessage, Page
from perdure.store.schedule_rows import (
    InvocationRow,
    InvocationStatus,
    NewInvocation,
    NewSchedule,
    ScheduleChange,
    ScheduleOrder,
    ScheduleRow,
)


class SchedulingMethods(Access):
    """See ``perdure.store.journal.Journal``."""

    async def create_schedule(self, new: NewSchedule, *, most: int, most_of_owner: int) -> ScheduleRow:
        return await self._database.write(lambda c: sql_schedules.create_schedule(c, new, most, most_of_owner))

    async def get_schedule(self, project_id: str, id_or_name: str) -> ScheduleRow:
        return await self._database.read(lambda c: sql_schedules.get_schedule(c, project_id, id_or_name))

    async def find_schedule(self, schedule_id: str) -> ScheduleRow:
        return await self._database.read(lambda c: sql_schedules.find_schedule(c, schedule_id))

    async def list_schedules(
        self, project_id: str, *, limit: int, cursor: str | None, descending: bool, owner: str | None = None
    ) -> Page[ScheduleRow]:
        return await self._database.read(
            lambda c: sql_schedules.list_schedules(c, project_id, limit, cursor, descending, owner)
        )

    async def change_schedule(self, project_id: str, schedule_id: str, change: ScheduleChange) -> ScheduleRow:
        return await self._database.write(lambda c: sql_schedules.change_schedule(c, project_id, schedule_id, change))

    async def accept_trigger(self, schedule_id: str, order_id: str, overlap: Overlap | None) -> int | None:
        return await self._database.write(
            lambda c: sql_schedule_orders.accept_trigger(c, schedule_id, order_id, overlap)
        )

    async def accept_backfill(
        self, schedule_id: str, order_id: str, from_ms: int, to_ms: int, overlap: Overlap
    ) -> None:
        await self._database.write(
            lambda c: sql_schedule_orders.accept_backfill(c, schedule_id, order_id, from_ms, to_ms, overlap)
        )

    async def has_schedule_order(self, order_id: str) -> bool:
        return await self._database.read(lambda c: sql_schedule_orders.has_schedule_order(c, order_id))

    async def take_schedule_order(self, schedule_id: str, *, hold_ms: int) -> ScheduleOrder | None:
        return await self._database.write(lambda c: sql_schedule_orders.take_schedule_order(c, schedule_id, hold_ms))

    async def schedule_order_sent(self, order: ScheduleOrder, *, dropped: int, look_ms: int) -> None:
        await self._database.write(lambda c: sql_schedule_orders.schedule_order_sent(c, order, dropped, look_ms))

    async def hold_schedule_order(self, order_id: str, *, hold_ms: int, again: bool = False) -> None:
        await self._database.write(lambda c: sql_schedule_orders.hold_schedule_order(c, order_id, hold_ms, again))

    async def end_schedule_order(self, order: ScheduleOrder, status: InvocationStatus, reason: str) -> None:
        await self._database.write(lambda c: sql_schedule_orders.end_schedule_order(c, order, status, reason))

    async def due_schedule_orders(self, *, limit: int) -> list[ScheduleOrder]:
        return await self._database.read(lambda c: sql_schedule_orders.due_schedule_orders(c, limit))

    async def unapplied_schedules(self, *, older_than_ms: int, limit: int) -> list[ScheduleRow]:
        return await self._database.read(lambda c: sql_schedules.unapplied_schedules(c, older_than_ms, limit))

    async def applied_schedules(self, *, after: str, limit: int) -> list[ScheduleRow]:
        return await self._database.read(lambda c: sql_schedules.applied_schedules(c, after, limit))

    async def confirm_schedule(self, schedule_id: str, version: int) -> bool:
        return await self._database.write(lambda c: sql_schedules.confirm_schedule(c, schedule_id, version))

    async def open_invocation(self, new: NewInvocation) -> InvocationRow | None:
        about = new.run.run_id if new.run else new.schedule_id
        return await self._write(about, lambda c: sql_invocations.open_invocation(c, new))

    async def deliver_invocation(self, new: NewInvocation, run_id: str, message: NewMessage) -> InvocationRow | None:
        return await self._write(run_id, lambda c: sql_invocations.deliver_invocation(c, new, run_id, message))

    async def list_invocations(
        self, schedule_id: str, *, limit: int, cursor: str | None, descending: bool
    ) -> Page[InvocationRow]:
        return await self._database.read(
            lambda c: sql_invocations.list_invocations(c, schedule_id, limit, cursor, descending)
        )

    async def open_runs(self, schedule_id: str) -> list[str]:
        return await self._database.read(lambda c: sql_invocations.open_runs(c, schedule_id))

    async def settle_schedules(self, *, limit: int) -> int:
        return await self._database.write(lambda c: sql_invocations.settle_schedules(c, limit))
