"""Reading what happened: events, messages, calls. No lock is taken and no row is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select

from perdure.content import Message
from perdure.core.state import Json
from perdure.store.call_rows import arguments_in, call_of
from perdure.store.events import DELTAS
from perdure.store.json_text import load, load_map, plain
from perdure.store.rows import CallRow, EventRow
from perdure.store.schema import calls, events, messages, runs, session_parts, sessions
from perdure.store.trouble import NotFound

ROWS_MAX = 2**31 - 1  # SQLite and PostgreSQL take this as a limit, and no run has more
_RUN = (
    select(runs.c.no, runs.c.id, runs.c.root_run_id, runs.c.depth, runs.c.session_no, sessions.c.id.label("session_id"))
    .join(sessions, sessions.c.no == runs.c.session_no)
    .where(runs.c.id == bindparam("run_id"))
)
_EVENTS = (
    select(
        events.c.seq, events.c.type, events.c.at_ms, events.c.call_id, events.c.message_id, events.c.attempt,
        events.c.data, messages.c.number, messages.c.id, messages.c.role, messages.c.content, messages.c.producer,
        messages.c.stop_reason, messages.c.at_ms.label("message_ms"),
    )
    .outerjoin(
        messages, and_(messages.c.session_no == bindparam("session"), messages.c.number == events.c.message_number)
    )
    .where(events.c.run_no == bindparam("run"), events.c.seq > bindparam("after"))
    .limit(bindparam("most"))
)  # fmt: skip
_ALL, _QUIET = _EVENTS, _EVENTS.where(events.c.type.not_in(DELTAS))
_ONE_TYPE = events.c.type.in_(bindparam("types", expanding=True))
_EVENT_QUERIES = {
    (deltas, some, descending): (query.where(_ONE_TYPE) if some else query).order_by(
        events.c.seq.desc() if descending else events.c.seq
    )
    for deltas, query in ((True, _ALL), (False, _QUIET))
    for some in (True, False)
    for descending in (True, False)
}
_MESSAGES = (
    select(
        messages.c.id, runs.c.id, messages.c.number, messages.c.role, messages.c.content, messages.c.producer,
        messages.c.stop_reason, messages.c.at_ms,
    )
    .outerjoin(runs, runs.c.no == messages.c.run_no)
    .where(messages.c.number > bindparam("after"))
    .order_by(messages.c.number)
    .limit(bindparam("most"))
)  # fmt: skip
_OWN = _MESSAGES.where(messages.c.session_no == bindparam("session"))
_OWN_OF_RUN = _OWN.where(runs.c.id == bindparam("run_id"))
_OWN_UP_TO = _OWN.where(messages.c.number <= bindparam("last"))
_PARTS = (
    select(session_parts.c.first, session_parts.c.last, session_parts.c.source_no)
    .where(session_parts.c.session_no == bindparam("session"), session_parts.c.last > bindparam("after"))
    .order_by(session_parts.c.first)
)
_SESSION = select(sessions.c.no, sessions.c.inherited).where(sessions.c.id == bindparam("session_id"))
_CALLS = select(calls, messages.c.content).outerjoin(
    messages, and_(messages.c.session_no == bindparam("session"), messages.c.number == calls.c.asked_number)
)
_CALLS_OF_RUN = (
    _CALLS.where(calls.c.run_no == bindparam("run"), calls.c.ordinal > bindparam("after"))
    .order_by(calls.c.ordinal)
    .limit(bindparam("most"))
)
_CALL = _CALLS.where(calls.c.run_no == bindparam("run"), calls.c.key == bindparam("call_key"))


@dataclass(frozen=True, slots=True)
class RunPlace:
    """What never changes about a run's place in the tables."""

    no: int
    id: str
    root_run_id: str
    depth: int
    session_no: int
    session_id: str


def find_run(connection: Connection, run_id: str) -> RunPlace:
    row = connection.execute(_RUN, {"run_id": plain(run_id)}).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return RunPlace(*row)


def read_events(
    connection: Connection, run: RunPlace, after: int, limit: int, types: Sequence[str], deltas: bool, descending: bool
) -> list[EventRow]:
    where: dict[str, Any] = {
        "run": run.no,
        "session": run.session_no,
        "after": min(max(after, 0), ROWS_MAX),
        "most": min(limit, ROWS_MAX),
    }
    if types:
        where["types"] = [plain(type_) for type_ in types]
    rows = connection.execute(_EVENT_QUERIES[deltas, bool(types), descending], where)
    found = []
    for seq, type_, at_ms, call_id, message_id, attempt, data, number, id_, role, content, producer, stop, ms in rows:
        shown: dict[str, Json] = load_map(data)
        if number is not None:
            message_id = id_
            shown = {"message": _message(run.session_id, id_, run.id, number, role, content, producer, stop, ms)}  # type: ignore[dict-item]
        found.append(
            EventRow(run.id, run.root_run_id, run.depth, seq, type_, at_ms, call_id, message_id, attempt, shown)
        )
    return found


def list_messages(
    connection: Connection, session_id: str, after: int, limit: int | None, run_id: str | None
) -> list[Message]:
    session = connection.execute(_SESSION, {"session_id": plain(session_id)}).one_or_none()
    if session is None:
        raise NotFound("session", session_id)
    where: dict[str, Any] = {"session": session.no, "after": min(max(after, 0), ROWS_MAX), "most": _most(limit)}
    if run_id is not None:
        rows = list(connection.execute(_OWN_OF_RUN, {**where, "run_id": plain(run_id)}))
    else:
        rows = _inherited(connection, where) if after < session.inherited else []
        if len(rows) < where["most"]:
            rows += connection.execute(_OWN, {**where, "most": where["most"] - len(rows)})
    return [_message(session_id, *row) for row in rows]


def _inherited(connection: Connection, where: dict[str, Any]) -> list[Any]:
    """The messages of a fork that stand in other sessions, part by part: each is read in the order of its index."""
    rows: list[Any] = []
    for first, last, source_no in connection.execute(_PARTS, where).all():
        left = where["most"] - len(rows)
        if left <= 0:
            break
        part = {"session": source_no, "after": max(where["after"], first - 1), "last": last, "most": left}
        rows += connection.execute(_OWN_UP_TO, part)
    return rows


def list_calls(connection: Connection, run: RunPlace, after: int, limit: int | None) -> list[CallRow]:
    where = {
        "run": run.no,
        "session": run.session_no,
        "after": min(max(after, 0), ROWS_MAX),
        "most": _most(limit),
    }
    found = []
    read: tuple[int | None, Any] = (None, None)  # parallel calls stand in one message: parse it once
    for row in connection.execute(_CALLS_OF_RUN, where).mappings():
        arguments = None
        if row["arguments"] is not None:
            arguments = load(row["arguments"])
        elif row["content"] is not None:
            if read[0] != row["asked_number"]:
                read = (row["asked_number"], load(row["content"]))
            arguments = arguments_in(read[1], row["asked_index"])
        found.append(call_of(run.id, row, arguments))
    return found


def get_call(connection: Connection, run: RunPlace, key: str) -> CallRow:
    where = {"run": run.no, "session": run.session_no, "call_key": plain(key)}
    row = connection.execute(_CALL, where).mappings().one_or_none()
    if row is None:
        raise NotFound("call", key)
    return call_of(run.id, row, arguments_of(row))


def arguments_of(row: Any) -> Json:
    """Of a call's row with its message's ``content``: those that a person put in place, or what the model sent."""
    if row["arguments"] is not None:
        return load(row["arguments"])  # type: ignore[no-any-return]
    return arguments_in(load(row["content"]), row["asked_index"]) if row["content"] is not None else None


def _message(
    session_id: str, id_: str, run_id: str | None, number: int, role: Any, content: str, producer: str | None,
    stop_reason: str | None, at_ms: int,
) -> Message:  # fmt: skip
    return {
        "id": id_,
        "session_id": session_id,
        "run_id": run_id,
        "number": number,
        "role": role,
        "content": load(content),
        "producer": producer,
        "stop_reason": stop_reason,
        "at_ms": at_ms,
    }


def _most(limit: int | None) -> int:
    return ROWS_MAX if limit is None else min(limit, ROWS_MAX)
