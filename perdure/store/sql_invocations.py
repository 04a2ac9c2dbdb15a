"""The book of firings: one row for each that took place, and one for each that did not, with the reason.

Temporal says nothing about firings that it skips. What should have fired is known from the timetable; what did is in
the book; the difference is settled here, as soon as nothing can come late any more. Whoever writes takes the
schedule's row first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, or_, select, update

from perdure.core.state import TERMINAL
from perdure.scheduling.definition import REPLACING, Overlap, ScheduleDefinition
from perdure.scheduling.timetable import Timetable, is_quiet
from perdure.store.json_text import load, plain
from perdure.store.paging import page_of
from perdure.store.rows import NewMessage, Page
from perdure.store.run_transaction import new_id, now_ms
from perdure.store.schedule_rows import INVOCATIONS_KEPT, InvocationRow, NewInvocation
from perdure.store.schema import invocations, runs, schedule_orders, schedules
from perdure.store.sql_inbox import accept_message
from perdure.store.sql_runs import create_run
from perdure.store.trouble import NotFound

GRACE_MS = 5_000  # a firing that is on its way reaches the book within this
LOOK_AGAIN_MS = 5_000  # for a firing of which nobody knows yet whether it will come late
CLOSING_MS = 2_000  # a run that ended so long before a firing may still have been in its way
SETTLED_AT_ONCE = INVOCATIONS_KEPT

_REPLACED = ("buffer_one", *REPLACING)  # a firing that waits is dropped for another

Span = tuple[int, int | None]  # when a run began and ended

_TAKE = select(schedules).where(schedules.c.id == bindparam("id")).with_for_update()
_SHOW = (
    select(invocations, schedules.c.id.label("schedule_id"), runs.c.status.label("run_status"))
    .join(schedules, schedules.c.no == invocations.c.schedule_no)
    .outerjoin(runs, runs.c.id == invocations.c.run_id)
)
_BY_KEY = _SHOW.where(invocations.c.schedule_no == bindparam("schedule"), invocations.c.key == bindparam("key"))
_ADD = insert(invocations)
_FORGET_SKIP = delete(invocations).where(
    invocations.c.schedule_no == bindparam("schedule"), invocations.c.key == bindparam("skip_key")
)
_TRIGGERED = (
    update(schedule_orders)
    .where(schedule_orders.c.schedule_no == bindparam("schedule"), schedule_orders.c.from_ms == bindparam("planned"))
    .where(schedule_orders.c.kind == "trigger", schedule_orders.c.done_ms.is_(None))
    .values(done_ms=bindparam("now"))
)
_OLDEST_KEPT = (
    select(invocations.c.no)
    .where(invocations.c.schedule_no == bindparam("schedule"))
    .order_by(invocations.c.no.desc())
    .offset(INVOCATIONS_KEPT)
    .limit(1)
)
_PRUNE = delete(invocations).where(
    invocations.c.schedule_no == bindparam("schedule"), invocations.c.no <= bindparam("oldest")
)
_FIRED = select(invocations.c.planned_ms).where(
    invocations.c.schedule_no == bindparam("schedule"),
    invocations.c.planned_ms > bindparam("after_ms"),
    invocations.c.cause == "schedule",
)
_OPENED = select(invocations.c.key).where(
    invocations.c.schedule_no == bindparam("schedule"),
    invocations.c.planned_ms == bindparam("planned"),
    invocations.c.cause == "schedule",
    invocations.c.status != "skipped",
)
_IN_THE_WAY = (
    select(invocations.c.actual_ms, runs.c.completed_ms)
    .join(runs, runs.c.id == invocations.c.run_id)
    .where(invocations.c.schedule_no == bindparam("schedule"), invocations.c.status == "started")
    .where(or_(runs.c.completed_ms.is_(None), runs.c.completed_ms >= bindparam("ended_after")))
)
_OPEN_RUNS = (
    select(runs.c.id)
    .where(runs.c.schedule_id == bindparam("id"), runs.c.status.not_in(sorted(TERMINAL)))
    .order_by(runs.c.no)
)
_SETTLED = (
    update(schedules)
    .where(schedules.c.no == bindparam("schedule"))
    .values(settled_ms=bindparam("settled"), settle_at_ms=bindparam("look_again"))
)
_DUE = (
    select(schedules.c.id)
    .where(schedules.c.deleted_ms.is_(None), ~schedules.c.paused, schedules.c.settle_at_ms <= bindparam("now"))
    .order_by(schedules.c.settle_at_ms)
    .limit(bindparam("most"))
)


def open_invocation(connection: Connection, new: NewInvocation) -> InvocationRow | None:
    row = _taken(connection, new)
    if row is None:
        return None
    found = _known(connection, row, new.key)
    if found is not None:
        return found
    timetable, new, by_itself = _as_meant(row, new)
    if by_itself and not _is_due(connection, row, new, timetable):
        return None
    definition: ScheduleDefinition = load(row["definition"])
    if skipped := _void(row, new, definition, by_itself):
        return _write(connection, row, new, by_itself, "skipped", skipped)
    if new.failed or new.run is None:
        return _write(connection, row, new, by_itself, "failed", new.failed)
    run = create_run(connection, replace(new.run, session_id=row["session_id"]))
    return _write(connection, row, new, by_itself, "started", "", run.id)


def deliver_invocation(
    connection: Connection, new: NewInvocation, run_id: str, message: NewMessage
) -> InvocationRow | None:
    row = _taken(connection, new)
    if row is None:
        return None
    found = _known(connection, row, new.key)
    if found is not None:
        return found
    timetable, new, by_itself = _as_meant(row, new)
    if by_itself and not _is_due(connection, row, new, timetable):
        return None
    accept_message(connection, run_id, message)
    return _write(connection, row, new, by_itself, "delivered", message.delivery, run_id)


def _as_meant(row: RowMapping, new: NewInvocation) -> tuple[Timetable, NewInvocation, bool]:
    """The firing under the time of the schedule that it is meant for, and whether there is one: else it was ordered."""
    timetable = Timetable(load(row["definition"]))
    meant_ms = timetable.meant(new.planned_ms)
    return timetable, new if meant_ms is None else replace(new, planned_ms=meant_ms), meant_ms is not None


def _is_due(connection: Connection, row: RowMapping, new: NewInvocation, timetable: Timetable) -> bool:
    """Whether this firing may have the time that it is meant for. Where clocks are put back Temporal may fire for one
    time under two workflow ids; the first to begin has it, and has it again in the next backfill. Where the newest run
    takes the place of the one before, it must run: the one before has been ended for it."""
    if not timetable.holds(new.planned_ms):
        return False
    overlap: Overlap = load(row["definition"])["overlap"]
    if overlap in REPLACING or not timetable.may_echo(new.planned_ms):
        return True
    others = connection.execute(_OPENED, {"schedule": row["no"], "planned": new.planned_ms}).scalars()
    return all(_workflow_of(key) == _workflow_of(new.key) for key in others)


def _workflow_of(key: str) -> str:
    return key.partition("/")[0]


def _taken(connection: Connection, new: NewInvocation) -> RowMapping | None:
    """The schedule's row, locked. A firing of an older version shows that Temporal may not know the newest."""
    row = connection.execute(_TAKE, {"id": plain(new.schedule_id)}).mappings().one_or_none()
    if row is None or row["deleted_ms"] is not None:
        return None
    if new.version < row["applied_version"]:
        connection.execute(update(schedules).where(schedules.c.no == row["no"]).values(applied_version=new.version))
    return row


def _known(connection: Connection, row: RowMapping, key: str) -> InvocationRow | None:
    found = connection.execute(_BY_KEY, {"schedule": row["no"], "key": plain(key)}).mappings().one_or_none()
    return None if found is None else invocation_of(found)


def _void(row: RowMapping, new: NewInvocation, definition: ScheduleDefinition, by_itself: bool) -> str:
    """Why this firing does nothing; empty when it does something."""
    if new.version < row["timing_version"]:
        return "changed"
    if row["paused"] and row["applied_version"] < row["version"]:
        return "paused"  # Temporal has not heard of it
    if by_itself and is_quiet(definition["quiet_hours"], new.planned_ms):
        return "quiet_hours"
    return new.skipped


def _write(
    connection: Connection, row: RowMapping, new: NewInvocation, by_itself: bool, status: str, reason: str,
    run_id: str | None = None,
) -> InvocationRow:  # fmt: skip
    if by_itself and not row["paused"]:
        settle(connection, row, now_ms(), coming_ms=new.planned_ms)
    connection.execute(_FORGET_SKIP, {"schedule": row["no"], "skip_key": _skip_key(new.planned_ms)})
    values = {
        "id": new_id("inv"), "project_id": row["project_id"], "schedule_no": row["no"], "key": plain(new.key),
        "planned_ms": new.planned_ms, "actual_ms": None if status == "skipped" else now_ms(),
        "cause": "schedule" if by_itself else "manual", "status": status, "reason": plain(reason), "run_id": run_id,
    }  # fmt: skip
    connection.execute(_ADD, values)
    connection.execute(_TRIGGERED, {"schedule": row["no"], "planned": new.planned_ms, "now": now_ms()})
    _prune(connection, row["no"])
    written = _known(connection, row, new.key)
    assert written is not None, "it was written just now"
    return written


def settle(connection: Connection, row: RowMapping, at_ms: int, *, coming_ms: int | None = None) -> None:
    """Write down what should have fired and did not. ``coming_ms`` is the planned time of a firing that is written
    next: none before it can come any more."""
    definition: ScheduleDefinition = load(row["definition"])
    timetable = Timetable(definition)
    horizon_ms = at_ms if coming_ms is None else coming_ms - 1
    due = timetable.between(row["settled_ms"], horizon_ms, SETTLED_AT_ONCE, quiet=True)
    if row["paused"] or (not due and coming_ms is not None):
        return
    fired = set(connection.execute(_FIRED, {"schedule": row["no"], "after_ms": row["settled_ms"]}).scalars())
    later_ms = max([*fired, coming_ms or 0])
    where = {"schedule": row["no"], "ended_after": row["settled_ms"] - CLOSING_MS}
    spans: list[Span] = [(span.actual_ms, span.completed_ms) for span in connection.execute(_IN_THE_WAY, where)]
    settled_ms, missing = row["settled_ms"], []
    for planned_ms in due:
        if planned_ms not in fired:
            reason = _why_not(definition, planned_ms, at_ms, planned_ms < later_ms, spans)
            if reason is None:
                break
            missing.append((planned_ms, reason))
        settled_ms = planned_ms
    _write_skips(connection, row, missing)
    following = timetable.next(settled_ms, quiet=True)
    soonest_ms = at_ms + LOOK_AGAIN_MS
    look_ms = max(soonest_ms, following + GRACE_MS) if following is not None else at_ms + 86_400_000
    connection.execute(_SETTLED, {"schedule": row["no"], "settled": settled_ms, "look_again": look_ms})


def _why_not(
    definition: ScheduleDefinition,
    planned_ms: int,
    at_ms: int,
    overtaken: bool,
    spans: Sequence[tuple[int, int | None]],
) -> str | None:
    """Why the firing did not take place; None while it still may."""
    if is_quiet(definition["quiet_hours"], planned_ms):
        return "quiet_hours"
    late_ms = definition["jitter_seconds"] * 1_000 + GRACE_MS
    in_the_way = any(
        actual_ms <= planned_ms + late_ms and (ended_ms is None or ended_ms >= planned_ms - CLOSING_MS)
        for actual_ms, ended_ms in spans
    )
    if definition["overlap"] == "skip" and in_the_way and (overtaken or at_ms > planned_ms + late_ms):
        return "overlap"
    if overtaken:
        return "overlap" if definition["overlap"] in _REPLACED and in_the_way else "missed"
    waits = definition["overlap"] in ("buffer_one", "buffer_all") and any(ended_ms is None for _, ended_ms in spans)
    if at_ms > planned_ms + definition["catchup_window_seconds"] * 1_000 + late_ms and not waits:
        return "missed"
    return None


def write_unfired(connection: Connection, row: RowMapping, planned_ms: int, status: str, reason: str) -> None:
    """What became of a trigger that did not fire. Should it fire after all, that is its row."""
    values = {
        "id": new_id("inv"), "project_id": row["project_id"], "schedule_no": row["no"], "key": _skip_key(planned_ms),
        "planned_ms": planned_ms, "cause": "manual", "status": status, "reason": reason,
    }  # fmt: skip
    connection.execute(_ADD, values)
    _prune(connection, row["no"])


def _write_skips(connection: Connection, row: RowMapping, missing: Sequence[tuple[int, str]]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": new_id("inv"), "project_id": row["project_id"], "schedule_no": row["no"],
            "key": _skip_key(planned_ms), "planned_ms": planned_ms, "cause": "schedule", "status": "skipped",
            "reason": reason,
        }
        for planned_ms, reason in missing
    ]  # fmt: skip
    if rows:
        connection.execute(_ADD, rows)
        _prune(connection, row["no"])


def _prune(connection: Connection, schedule_no: int) -> None:
    oldest = connection.execute(_OLDEST_KEPT, {"schedule": schedule_no}).scalar_one_or_none()
    if oldest is not None:
        connection.execute(_PRUNE, {"schedule": schedule_no, "oldest": oldest})


def _skip_key(planned_ms: int) -> str:
    return f"skipped-{planned_ms}"


def settle_schedules(connection: Connection, limit: int) -> int:
    at_ms = now_ms()
    due = list(connection.execute(_DUE, {"now": at_ms, "most": limit}).scalars())
    for schedule_id in sorted(due):  # in one order, so that two who do this cannot deadlock
        row = connection.execute(_TAKE, {"id": schedule_id}).mappings().one()
        settle(connection, row, at_ms)
    return len(due)


def list_invocations(
    connection: Connection, schedule_id: str, limit: int, cursor: str | None, descending: bool
) -> Page[InvocationRow]:
    found = connection.execute(
        select(schedules.c.no, schedules.c.project_id).where(schedules.c.id == plain(schedule_id))
    ).one_or_none()
    if found is None:
        raise NotFound("schedule", schedule_id)
    query = _SHOW.where(invocations.c.schedule_no == found.no)
    rows, next_cursor = page_of(connection, query, invocations, found.project_id, limit, cursor, descending)
    return Page([invocation_of(row) for row in rows], next_cursor)


def open_runs(connection: Connection, schedule_id: str) -> list[str]:
    return list(connection.execute(_OPEN_RUNS, {"id": plain(schedule_id)}).scalars())


def invocation_of(row: RowMapping) -> InvocationRow:
    return InvocationRow(
        id=row["id"],
        schedule_id=row["schedule_id"],
        planned_ms=row["planned_ms"],
        actual_ms=row["actual_ms"],
        cause=row["cause"],
        status=row["status"],
        reason=row["reason"],
        run_id=row["run_id"],
        run_status=row["run_status"],
    )
