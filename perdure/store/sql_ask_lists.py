"""Reading what people and clients are asked: one, lists, and what was decided before."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, or_, select

from perdure.store.ask_rows import NEWEST_OF_CALL, SHOW_ASKS, ask_of, not_found
from perdure.store.call_rows import ENDED
from perdure.store.json_text import load, plain
from perdure.store.paging import page_of
from perdure.store.rows import AskRow, AskStatus, AskType, Page
from perdure.store.schema import asks, calls, runs
from perdure.store.sql_reading import RunPlace
from perdure.store.trouble import NotFound

_ONE = SHOW_ASKS.where(asks.c.id == bindparam("ask_id"), asks.c.project_id == bindparam("project_id"))
_OPEN = (
    SHOW_ASKS.where(runs.c.id.in_(bindparam("run_ids", expanding=True)), runs.c.open_asks > 0)
    .where(asks.c.status == "open")
    .order_by(asks.c.no)
)
_STANDING = (
    SHOW_ASKS.where(asks.c.session_no == bindparam("session"), asks.c.args_sha256 == bindparam("sha256"))
    .where(asks.c.tool == bindparam("tool"), asks.c.type == "approval", asks.c.status.in_(("approved", "denied")))
    .where(or_(asks.c.scope == "session", and_(asks.c.scope == "run", asks.c.run_no == bindparam("run"))))
    .order_by(asks.c.ended_ms.desc(), asks.c.no.desc())
    .limit(1)
)
_LOOKED_BACK = 100  # ended calls of one tool: no policy lets an identical one fail so often
_ENDED_CALLS = (
    select(calls.c.status, calls.c.args_sha256, calls.c.error)
    .where(calls.c.run_no == bindparam("run"), calls.c.kind == "tool", calls.c.name == bindparam("tool"))
    .where(calls.c.status.in_(ENDED))
    .order_by(calls.c.ordinal.desc())
    .limit(_LOOKED_BACK)
)
_NOT_TRIED = (
    "skipped",
    "cancelled",
    "tool_call_limit",
    "repeated_failure",
)  # such an end says nothing about the call itself


def get_ask(connection: Connection, project_id: str, ask_id: str) -> AskRow:
    row = connection.execute(_ONE, {"ask_id": plain(ask_id), "project_id": project_id}).mappings().one_or_none()
    if row is None:
        raise not_found(ask_id)
    return ask_of(row)


def find_ask(connection: Connection, run: RunPlace, call_id: str) -> AskRow:
    row = connection.execute(NEWEST_OF_CALL, {"run": run.no, "call_key": plain(call_id)}).mappings().one_or_none()
    if row is None:
        raise NotFound("ask", call_id)
    return ask_of(row)


def list_asks(
    connection: Connection, project_id: str, *, types: Sequence[AskType], limit: int, cursor: str | None,
    descending: bool, statuses: Sequence[AskStatus], run_id: str | None, escalated: bool | None,
) -> Page[AskRow]:  # fmt: skip
    query = SHOW_ASKS.where(asks.c.project_id == project_id, asks.c.type.in_(list(types)))
    if statuses:
        query = query.where(asks.c.status.in_(list(statuses)))
    if run_id is not None:
        query = query.where(runs.c.id == plain(run_id))
    if escalated is not None:
        query = query.where(asks.c.escalated == escalated)
    rows, next_cursor = page_of(connection, query, asks, project_id, limit, cursor, descending)
    return Page([ask_of(row) for row in rows], next_cursor)


def open_asks(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
    found: dict[str, list[AskRow]] = {}
    if run_ids:
        for row in connection.execute(_OPEN, {"run_ids": list(map(plain, run_ids))}).mappings():
            found.setdefault(row["run_id"], []).append(ask_of(row))
    return found


def standing_decision(connection: Connection, run: RunPlace, tool: str, args_sha256: str) -> AskRow | None:
    where = {"session": run.session_no, "run": run.no, "tool": plain(tool), "sha256": args_sha256}
    row = connection.execute(_STANDING, where).mappings().one_or_none()
    return ask_of(row) if row else None


def failures_in_a_row(connection: Connection, run: RunPlace, tool: str, args_sha256: str) -> int:
    failures = 0
    for row in connection.execute(_ENDED_CALLS, {"run": run.no, "tool": plain(tool)}):
        if row.error is not None and load(row.error)["code"] in _NOT_TRIED:
            continue
        if row.status != "failed" or row.args_sha256 != args_sha256:
            break
        failures += 1
    return failures
