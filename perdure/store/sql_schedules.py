"""Schedules: their rows and versions. What became of their firings is in ``sql_invocations.py``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from perdure.scheduling.definition import ScheduleDefinition
from perdure.store.json_text import dump, dump_sorted, load, plain
from perdure.store.paging import page_of
from perdure.store.rows import Page
from perdure.store.run_transaction import new_id, now_ms
from perdure.store.schedule_rows import NewSchedule, ScheduleChange, ScheduleRow
from perdure.store.schema import schedules
from perdure.store.sql_forks import take_session
from perdure.store.sql_invocations import settle
from perdure.store.sql_sessions import create_session
from perdure.store.trouble import NotFound, ScheduleNameTaken, TooManySchedules, VersionMismatch

_LIVE = schedules.c.deleted_ms.is_(None)
_BY_ID = select(schedules).where(schedules.c.id == bindparam("id"))
_TAKE = _BY_ID.with_for_update()
_NAMED = select(schedules.c.id).where(
    schedules.c.project_id == bindparam("project_id"), schedules.c.name == bindparam("name"), _LIVE
)
_FIND = (
    select(schedules)
    .where(schedules.c.project_id == bindparam("project_id"), _LIVE)
    .where(or_(schedules.c.id == bindparam("wanted"), schedules.c.name == bindparam("wanted")))
    .order_by((schedules.c.id == bindparam("wanted")).desc())
    .limit(1)
)
_UNAPPLIED = (
    select(schedules)
    .where(schedules.c.applied_version < schedules.c.version, schedules.c.updated_ms <= bindparam("before_ms"))
    .order_by(schedules.c.updated_ms)
    .limit(bindparam("most"))
)
_APPLIED = (
    select(schedules)
    .where(_LIVE, schedules.c.applied_version == schedules.c.version, schedules.c.id > bindparam("after"))
    .order_by(schedules.c.id)
    .limit(bindparam("most"))
)
_CONFIRM = (
    update(schedules)
    .where(schedules.c.id == bindparam("schedule"), schedules.c.version == bindparam("told"))
    .values(applied_version=bindparam("told"))
)
_TIMING = ("timing", "timezone", "starts_ms", "ends_ms", "quiet_hours")


def create_schedule(connection: Connection, new: NewSchedule, most: int, most_of_owner: int) -> ScheduleRow:
    existing = connection.execute(_BY_ID, {"id": plain(new.id)}).mappings().one_or_none()
    if existing is not None:
        return schedule_of(existing)
    _check_name(connection, new.project_id, new.name, new.id)
    _check_count(connection, new, most, most_of_owner)
    at_ms = now_ms()
    row: dict[str, Any] = {
        "id": plain(new.id), "project_id": new.project_id, "name": plain(new.name), "version": 1, "timing_version": 1,
        "applied_version": 0, "definition": dump(new.definition), "paused": False, "paused_reason": "",
        "session_id": _session_for(connection, new), "owner": new.owner, "made_by_run_id": new.made_by_run_id,
        "requested_by": plain(new.requested_by), "settled_ms": at_ms, "settle_at_ms": at_ms, "triggered_ms": 0,
        "created_ms": at_ms,
        "updated_ms": at_ms,
    }  # fmt: skip
    try:
        connection.execute(insert(schedules), row)
    except IntegrityError:  # somebody took the name at this instant
        raise ScheduleNameTaken(new.name, "another") from None
    return find_schedule(connection, new.id)


def _check_name(connection: Connection, project_id: str, name: str, own_id: str) -> None:
    other = connection.execute(_NAMED, {"project_id": project_id, "name": plain(name)}).scalar_one_or_none()
    if other is not None and other != own_id:
        raise ScheduleNameTaken(name, other)


def _check_count(connection: Connection, new: NewSchedule, most: int, most_of_owner: int) -> None:
    live = select(func.count()).select_from(schedules).where(schedules.c.project_id == new.project_id, _LIVE)
    if connection.execute(live).scalar_one() >= most:
        raise TooManySchedules(most, "a project")
    if new.owner is not None and connection.execute(live.where(schedules.c.owner == new.owner)).scalar_one() >= (
        most_of_owner
    ):
        raise TooManySchedules(most_of_owner, "an agent")


def _session_for(connection: Connection, new: NewSchedule) -> str | None:
    if new.definition["session"]["mode"] == "new":
        return None
    if new.session_id is not None:
        return str(take_session(connection, new.project_id, new.session_id)["id"])  # nobody erases it meanwhile
    return create_session(connection, new.project_id, new_id("ses"), {}, {}).id


def get_schedule(connection: Connection, project_id: str, id_or_name: str) -> ScheduleRow:
    where = {"project_id": project_id, "wanted": plain(id_or_name)}
    row = connection.execute(_FIND, where).mappings().one_or_none()
    if row is None:
        raise NotFound("schedule", id_or_name)
    return schedule_of(row)


def find_schedule(connection: Connection, schedule_id: str) -> ScheduleRow:
    row = connection.execute(_BY_ID, {"id": plain(schedule_id)}).mappings().one_or_none()
    if row is None:
        raise NotFound("schedule", schedule_id)
    return schedule_of(row)


def list_schedules(
    connection: Connection, project_id: str, limit: int, cursor: str | None, descending: bool, owner: str | None
) -> Page[ScheduleRow]:
    query = select(schedules).where(schedules.c.project_id == project_id, _LIVE)
    if owner is not None:
        query = query.where(schedules.c.owner == owner)
    rows, next_cursor = page_of(connection, query, schedules, project_id, limit, cursor, descending)
    return Page([schedule_of(row) for row in rows], next_cursor)


def change_schedule(connection: Connection, project_id: str, schedule_id: str, change: ScheduleChange) -> ScheduleRow:
    row = connection.execute(_TAKE, {"id": plain(schedule_id)}).mappings().one_or_none()
    if row is None or row["project_id"] != project_id or row["deleted_ms"] is not None:
        raise NotFound("schedule", schedule_id)
    if change.expected_version is not None and change.expected_version != row["version"]:
        raise VersionMismatch(row["version"])
    new = _changed(connection, row, change)
    if new:
        at_ms = now_ms()
        version = row["version"] + 1
        if {"timing_version", "paused"} & new.keys():  # what was planned before this is past; nothing is missed
            settle(connection, row, at_ms)
            new |= {"settled_ms": at_ms, "settle_at_ms": at_ms}
        if "timing_version" in new:
            new["timing_version"] = version
        new |= {"version": version, "updated_ms": at_ms}
        connection.execute(update(schedules).where(schedules.c.no == row["no"]).values(new))
    return find_schedule(connection, row["id"])


def _changed(connection: Connection, row: RowMapping, change: ScheduleChange) -> dict[str, Any]:
    """The columns that get another value; ``timing_version`` among them says that it fires at other times."""
    if change.deleted:
        return {"deleted_ms": now_ms()}
    new: dict[str, Any] = {}
    if change.name is not None and change.name != row["name"]:
        _check_name(connection, row["project_id"], change.name, row["id"])
        new["name"] = plain(change.name)
    if change.definition is not None:
        old: ScheduleDefinition = load(row["definition"])
        if dump_sorted(old) != dump_sorted(change.definition):
            new["definition"] = dump(change.definition)
        if any(old[name] != change.definition[name] for name in _TIMING):  # type: ignore[literal-required]
            new["timing_version"] = 0
        if change.definition["session"]["mode"] == "continue" and row["session_id"] is None:
            new["session_id"] = create_session(connection, row["project_id"], new_id("ses"), {}, {}).id
    if change.paused is not None and change.paused != row["paused"]:
        new |= {"paused": change.paused, "paused_reason": plain(change.reason) if change.paused else ""}
    return new


def unapplied_schedules(connection: Connection, older_than_ms: int, limit: int) -> list[ScheduleRow]:
    where = {"before_ms": now_ms() - older_than_ms, "most": limit}
    return [schedule_of(row) for row in connection.execute(_UNAPPLIED, where).mappings()]


def applied_schedules(connection: Connection, after: str, limit: int) -> list[ScheduleRow]:
    return [schedule_of(row) for row in connection.execute(_APPLIED, {"after": after, "most": limit}).mappings()]


def confirm_schedule(connection: Connection, schedule_id: str, version: int) -> bool:
    return connection.execute(_CONFIRM, {"schedule": plain(schedule_id), "told": version}).rowcount > 0


def schedule_of(row: RowMapping) -> ScheduleRow:
    return ScheduleRow(
        id=row["id"],
        project_id=row["project_id"],
        name=row["name"],
        version=row["version"],
        timing_version=row["timing_version"],
        applied_version=row["applied_version"],
        definition=load(row["definition"]),
        paused=bool(row["paused"]),
        paused_reason=row["paused_reason"],
        session_id=row["session_id"],
        owner=row["owner"],
        made_by_run_id=row["made_by_run_id"],
        requested_by=row["requested_by"],
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
        deleted=row["deleted_ms"] is not None,
    )
