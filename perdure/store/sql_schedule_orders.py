"""Triggers and backfills that were accepted: they are told to Temporal one at a time, see ``perdure.schedule_orders``.
Whoever writes takes the schedule's row first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from perdure.scheduling.definition import Overlap
from perdure.scheduling.timetable import Timetable
from perdure.store.json_text import load, plain
from perdure.store.run_transaction import now_ms
from perdure.store.schedule_rows import ScheduleOrder
from perdure.store.schema import schedule_orders as orders
from perdure.store.schema import schedules
from perdure.store.sql_invocations import write_unfired
from perdure.store.trouble import NotFound

TRIGGERS_AHEAD_MS = 60_000  # so many triggers of one minute wait for nobody; more are too many
_ELSEWHERE_SECONDS = 60  # how far a trigger goes to keep clear of planned times
_KEPT_MS = 86_400_000  # after the end: as long as a request may come again with its Idempotency-Key

_TAKE = select(schedules).where(schedules.c.id == bindparam("schedule")).with_for_update()
_SHOW = select(orders, schedules.c.id.label("schedule_id")).join(schedules, schedules.c.no == orders.c.schedule_no)
_BY_ID = _SHOW.where(orders.c.id == bindparam("id"))
_UNSENT = (
    _SHOW.where(orders.c.schedule_no == bindparam("schedule"), orders.c.done_ms.is_(None), orders.c.sent_ms.is_(None))
    .order_by(orders.c.no)
    .limit(1)
)
_HELD = select(orders.c.no).where(
    orders.c.schedule_no == bindparam("schedule"), orders.c.done_ms.is_(None), orders.c.sent_ms.is_(None),
    orders.c.held_until_ms > bindparam("now"),
).limit(1)  # fmt: skip
_DUE = (
    _SHOW.where(orders.c.done_ms.is_(None), orders.c.held_until_ms <= bindparam("now"))
    .order_by(orders.c.held_until_ms, orders.c.no)
    .limit(bindparam("most"))
)
_FORGET = delete(orders).where(orders.c.schedule_no == bindparam("schedule"), orders.c.done_ms < bindparam("before"))


def accept_trigger(connection: Connection, schedule_id: str, order_id: str, overlap: Overlap | None) -> int | None:
    row = _schedule(connection, schedule_id)
    known = connection.execute(_BY_ID, {"id": plain(order_id)}).mappings().one_or_none()
    if known is not None:
        return int(known["from_ms"])
    timetable, at_ms = Timetable(load(row["definition"])), now_ms()
    free_ms: int = max(row["triggered_ms"] + 1_000, at_ms - at_ms % 1_000)
    for second in range(_ELSEWHERE_SECONDS):
        if timetable.meant(free_ms + second * 1_000) is None:
            free_ms += second * 1_000
            break
    if free_ms > at_ms + TRIGGERS_AHEAD_MS:
        return None
    connection.execute(update(schedules).where(schedules.c.no == row["no"]).values(triggered_ms=free_ms))
    _add(connection, row, {"id": plain(order_id), "kind": "trigger", "from_ms": free_ms, "overlap": overlap})
    return free_ms


def accept_backfill(
    connection: Connection, schedule_id: str, order_id: str, from_ms: int, to_ms: int, overlap: Overlap
) -> None:
    row = _schedule(connection, schedule_id)
    if connection.execute(_BY_ID, {"id": plain(order_id)}).one_or_none() is None:
        span = {"from_ms": from_ms, "to_ms": to_ms}
        _add(connection, row, {"id": plain(order_id), "kind": "backfill", "overlap": overlap, **span})


def has_schedule_order(connection: Connection, order_id: str) -> bool:
    return connection.execute(_BY_ID, {"id": plain(order_id)}).first() is not None


def _schedule(connection: Connection, schedule_id: str) -> RowMapping:
    row = connection.execute(_TAKE, {"schedule": plain(schedule_id)}).mappings().one_or_none()
    if row is None or row["deleted_ms"] is not None:
        raise NotFound("schedule", schedule_id)
    return row


def _add(connection: Connection, row: RowMapping, values: dict[str, Any]) -> None:
    at_ms = now_ms()
    connection.execute(_FORGET, {"schedule": row["no"], "before": at_ms - _KEPT_MS})
    fresh = {"schedule_no": row["no"], "created_ms": at_ms, "tries": 0, "held_until_ms": at_ms, "dropped": 0}
    connection.execute(insert(orders), {**fresh, **values})


def take_schedule_order(connection: Connection, schedule_id: str, hold_ms: int) -> ScheduleOrder | None:
    try:
        row = _schedule(connection, schedule_id)
    except NotFound:
        return None
    at_ms = now_ms()
    if connection.execute(_HELD, {"schedule": row["no"], "now": at_ms}).first() is not None:
        return None
    found = connection.execute(_UNSENT, {"schedule": row["no"]}).mappings().one_or_none()
    if found is None:
        return None
    connection.execute(update(orders).where(orders.c.no == found["no"]).values(held_until_ms=at_ms + hold_ms))
    return order_of(found)


def schedule_order_sent(connection: Connection, order: ScheduleOrder, dropped: int, look_ms: int) -> None:
    at_ms = now_ms()
    values: dict[str, Any] = {
        "sent_ms": at_ms, "dropped": dropped, "tries": orders.c.tries + 1, "held_until_ms": at_ms + look_ms,
    }  # fmt: skip
    if order.kind == "backfill":
        values["done_ms"] = at_ms
    connection.execute(update(orders).where(orders.c.id == order.id).values(values))


def hold_schedule_order(connection: Connection, order_id: str, hold_ms: int, again: bool) -> None:
    values: dict[str, Any] = {"held_until_ms": now_ms() + hold_ms}
    if again:
        values["sent_ms"] = None
    connection.execute(update(orders).where(orders.c.id == order_id, orders.c.done_ms.is_(None)).values(values))


def end_schedule_order(connection: Connection, order: ScheduleOrder, status: str, reason: str) -> None:
    row = connection.execute(_TAKE, {"schedule": order.schedule_id}).mappings().one()
    open_ = orders.c.done_ms.is_(None)
    ended = connection.execute(update(orders).where(orders.c.id == order.id, open_).values(done_ms=now_ms()))
    if ended.rowcount and order.kind == "trigger" and row["deleted_ms"] is None:
        write_unfired(connection, row, order.from_ms, status, reason)


def due_schedule_orders(connection: Connection, limit: int) -> list[ScheduleOrder]:
    return [order_of(row) for row in connection.execute(_DUE, {"now": now_ms(), "most": limit}).mappings()]


def order_of(row: RowMapping) -> ScheduleOrder:
    return ScheduleOrder(
        id=row["id"],
        schedule_id=row["schedule_id"],
        kind=row["kind"],
        from_ms=row["from_ms"],
        to_ms=row["to_ms"],
        overlap=row["overlap"],
        tries=row["tries"],
        sent=row["sent_ms"] is not None,
        dropped=row["dropped"],
    )
