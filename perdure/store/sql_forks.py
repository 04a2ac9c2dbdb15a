"""Forks: a new session that shares the messages of another one up to a number, and runs that go on from another run.

Messages are not copied. ``session_parts`` says in which sessions the inherited ones stand, flat: a fork of a fork
of a fork is read as fast as the first. Whoever has read up to ``inherited`` reads on as in any session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, select, update

from perdure.content import Message, ToolResultBlock
from perdure.core.state import Json
from perdure.core.transcript import NOT_EXECUTED, unanswered_calls
from perdure.store.json_text import dump_map, plain
from perdure.store.rows import NewRun, Origin, SessionRow
from perdure.store.run_transaction import RunTransaction, new_id, now_ms
from perdure.store.schema import events, messages, runs, session_parts, sessions
from perdure.store.sql_reading import list_messages
from perdure.store.sql_sessions import get_session
from perdure.store.trouble import EventsExpired, NoSuchNumber, NotFound, SessionBusy, SessionDeleted, SessionMovedOn

TAIL_MESSAGES = 500  # looked through for calls without a result: a turn has fewer

_TAKE = select(sessions).where(sessions.c.id == bindparam("session_id")).with_for_update()
_NEWEST = select(func.max(messages.c.number)).where(messages.c.session_no == bindparam("session"))
_ADD_SESSION = insert(sessions)
_OCCUPY = update(sessions).where(sessions.c.no == bindparam("session")).values(active_run_id=bindparam("run_id"))
_PARTS = (
    select(session_parts.c.first, session_parts.c.last, session_parts.c.source_no)
    .where(session_parts.c.session_no == bindparam("session"), session_parts.c.first <= bindparam("last"))
    .order_by(session_parts.c.first)
)
_SOURCE_RUN = (
    select(
        runs.c.no, runs.c.id, runs.c.project_id, runs.c.session_no, runs.c.input_number, runs.c.input_session_no,
        runs.c.exact_tokens, runs.c.exact_number, runs.c.last_seq, runs.c.pruned_seq,
        sessions.c.id.label("session_id"),
    )
    .join(sessions, sessions.c.no == runs.c.session_no)
    .where(runs.c.id == bindparam("run_id"))
)  # fmt: skip
_NEWEST_MESSAGE = select(func.max(events.c.message_number)).where(
    and_(events.c.run_no == bindparam("run"), events.c.seq <= bindparam("seq"))
)


def take_session(connection: Connection, project_id: str, session_id: str) -> RowMapping:
    """The session's row, locked. NotFound, SessionDeleted."""
    row = connection.execute(_TAKE, {"session_id": plain(session_id)}).mappings().one_or_none()
    if row is None or row["project_id"] != project_id:
        raise NotFound("session", session_id)
    if row["deleted_ms"] is not None:
        raise SessionDeleted(session_id)
    return row


def newest_own(connection: Connection, session_no: int) -> int | None:
    """The number of the newest message that stands in the session itself."""
    return connection.execute(_NEWEST, {"session": session_no}).scalar()


def fork_session(
    connection: Connection, project_id: str, new_id: str, session_id: str, at_number: int | None,
    labels: Mapping[str, str], metadata: Mapping[str, Json],
) -> SessionRow:  # fmt: skip
    if connection.execute(select(sessions.c.no).where(sessions.c.id == plain(new_id))).first() is None:
        add_fork(connection, project_id, new_id, session_id, at_number, labels=labels, metadata=metadata)
    return get_session(connection, project_id, new_id)


def add_fork(
    connection: Connection, project_id: str, new_id: str, session_id: str, at_number: int | None,
    *, active_run_id: str | None = None, labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Json] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """The new session's ``no``, and the number up to which it inherits."""
    source = take_session(connection, project_id, session_id)
    last = newest_own(connection, source["no"]) or source["inherited"]
    upto = last if at_number is None else at_number
    if not 0 <= upto <= last:
        raise NoSuchNumber(f"session {session_id}", upto, last)
    row = {
        "id": plain(new_id), "project_id": project_id, "active_run_id": active_run_id, "created_ms": now_ms(),
        "inherited": upto, "forked_from": source["id"], "labels": dump_map(labels or {}),
        "metadata": dump_map(metadata or {}),
    }  # fmt: skip
    no: int = connection.execute(_ADD_SESSION, row).inserted_primary_key[0]  # type: ignore[index]
    parts = [
        {"session_no": no, "first": first, "last": min(end, upto), "source_no": where}
        for first, end, where in connection.execute(_PARTS, {"session": source["no"], "last": upto})
    ]
    if upto > source["inherited"]:
        parts.append({"session_no": no, "first": source["inherited"] + 1, "last": upto, "source_no": source["no"]})
    if parts:
        connection.execute(insert(session_parts), parts)
    return no, upto


# Runs and the sessions they belong to ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new run belongs. ``fresh_fork``: nothing was said yet in its session that was not inherited.
    ``columns`` of its row come from the run it goes on from."""

    session_no: int
    session_id: str
    last_number: int = 0
    fresh_fork: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)


def place_for(connection: Connection, new: NewRun, run_id: str, at_ms: int) -> Place:
    """The session is occupied by this run now."""
    if new.goes_on_from is not None and new.goes_on_from.seq is not None:
        return _forked(connection, new, new.goes_on_from, run_id)
    if new.session_id is None:
        row = {
            "id": new_id("ses"), "project_id": new.project_id, "active_run_id": run_id, "created_ms": at_ms,
        }  # fmt: skip
        return Place(connection.execute(_ADD_SESSION, row).inserted_primary_key[0], row["id"])  # type: ignore[index,arg-type]
    session = take_session(connection, new.project_id, new.session_id)
    if session["active_run_id"] is not None:
        raise SessionBusy(new.session_id, session["active_run_id"])
    connection.execute(_OCCUPY, {"session": session["no"], "run_id": run_id})
    newest = newest_own(connection, session["no"])
    last_number = newest or session["inherited"]
    columns: dict[str, Any] = {}
    if new.goes_on_from is not None:
        if last_number != new.goes_on_from.number:
            raise SessionMovedOn(new.session_id, new.goes_on_from.run_id)
        columns = _taken_over(connection, new, new.goes_on_from, last_number)
    fresh_fork = newest is None and last_number > 0
    return Place(session["no"], session["id"], last_number, fresh_fork, columns)


def _forked(connection: Connection, new: NewRun, origin: Origin, run_id: str) -> Place:
    source = source_run(connection, new.project_id, origin.run_id)
    id_ = new_id("ses")
    no, upto = add_fork(connection, new.project_id, id_, source["session_id"], origin.number, active_run_id=run_id)
    return Place(no, id_, upto, upto > 0, _taken_over(connection, new, origin, upto))


def _taken_over(connection: Connection, new: NewRun, origin: Origin, last_number: int) -> dict[str, Any]:
    """The columns that tell where the run comes from, and its input unless it has one of its own."""
    source = source_run(connection, new.project_id, origin.run_id)
    columns = {"retry_of": source["id"]} if origin.seq is None else {
        "forked_from": source["id"], "forked_seq": origin.seq,
    }  # fmt: skip
    inherited = {} if new.input else inherited_input(source)
    return {**columns, **inherited, **inherited_size(source, last_number)}


def source_run(connection: Connection, project_id: str, run_id: str) -> RowMapping:
    row = connection.execute(_SOURCE_RUN, {"run_id": plain(run_id)}).mappings().one_or_none()
    if row is None or row["project_id"] != project_id:
        raise NotFound("run", run_id)
    return row


def number_at(connection: Connection, project_id: str, run_id: str, seq: int) -> int:
    """The number of the newest message that the run had put into its transcript with event ``seq``."""
    run = source_run(connection, project_id, run_id)
    if not 1 <= seq <= run["last_seq"]:
        raise NoSuchNumber(f"the events of {run_id}", seq, run["last_seq"])
    if seq <= run["pruned_seq"]:
        raise EventsExpired(run_id, run["pruned_seq"])
    number = connection.execute(_NEWEST_MESSAGE, {"run": run["no"], "seq": seq}).scalar()
    if number is None:
        raise NoSuchNumber(f"the messages of {run_id} up to its event {seq}", 1, 0)
    return int(number)


def inherited_input(source: RowMapping) -> dict[str, Any]:
    """Where the input of a run stands that has none of its own."""
    return {
        "input_number": source["input_number"],
        "input_session_no": source["input_session_no"] or source["session_no"],
    }


def inherited_size(source: RowMapping, last_number: int) -> dict[str, Any]:
    """How large the transcript is, as the vendor counted it for the other run: same instructions, same tools."""
    if source["exact_tokens"] is None or source["exact_number"] > last_number:
        return {}
    return {"exact_tokens": source["exact_tokens"], "exact_number": source["exact_number"]}


def answer_what_was_cut_off(run: RunTransaction, session_id: str, last_number: int) -> None:
    """A fork in the middle of a turn: calls whose results came later are answered as not executed, in the fork's own
    messages. So nothing is called again that nobody asked for, and the transcript needs no repair."""
    tail: list[Message] = list_messages(
        run.connection, session_id, max(0, last_number - TAIL_MESSAGES), TAIL_MESSAGES, None
    )
    for call in unanswered_calls(tail):
        result: ToolResultBlock = {
            "type": "tool_result",
            "call_id": call["call_id"],
            "name": call["name"],
            "text": NOT_EXECUTED,
            "is_error": True,
        }
        run.add_message("tool", [result])
