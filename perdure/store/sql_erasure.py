"""Erasure: a deleted session keeps its row and its runs' numbers, and loses everything that was said. So do the
sessions of the runs below its own (``sql_family_erasure.py``), and the schedules that all of these have made
(``sql_schedule_erasure.py``).

Messages that a fork still inherits stay until the last such fork is deleted, too. Blobs go when no message refers
to them any more, and nobody has put them lately: an answer that was not committed yet may be about to refer to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, delete, func, or_, select, update

from perdure.scheduling.timetable import Timetable
from perdure.store.blobs import remove_blob
from perdure.store.json_text import dump, load
from perdure.store.rows import MANY_DECISIONS, SessionRow
from perdure.store.run_transaction import now_ms
from perdure.store.schema import (
    asks,
    blob_uses,
    blobs,
    calls,
    events,
    inbox,
    messages,
    orders,
    run_labels,
    runs,
    schedules,
    session_parts,
    sessions,
    signals,
)
from perdure.store.schema import idempotency_keys as keys
from perdure.store.sql_family_erasure import hush_others, parts, take_family
from perdure.store.sql_forks import take_session
from perdure.store.sql_retention import EVENTS_PRUNED
from perdure.store.sql_schedule_erasure import erase_schedules, take_schedules, wordless
from perdure.store.sql_sessions import get_session
from perdure.store.trouble import SessionDeleted

ERASED = "erased with its session"
BLOB_REST_MS = 1_800_000  # since a blob was put last; an answer that names it is held for a quarter of an hour at most
BLOBS_AT_ONCE = 1_000  # removed with one session; the rest go with the next, or with a prune


def delete_session(connection: Connection, project_id: str, session_id: str) -> tuple[SessionRow, list[str]]:
    """The tombstone, and the ids of the runs that have lost their words: the session's, and all below them, whose
    sessions go with it. SessionBusy; NotFound."""
    take_schedules(connection, session_id)
    try:
        session = take_session(connection, project_id, session_id)
    except SessionDeleted:
        return get_session(connection, project_id, session_id), []
    family = take_family(connection, session)
    numbers = [each["no"] for each in family]
    run_ids = [
        id_ for some in parts(numbers) for id_ in connection.execute(_ids_of(some)).scalars()
    ]  # fmt: skip
    hush_others(connection, numbers, run_ids)
    erase_schedules(connection, run_ids)
    kept_beside: list[str] = []
    older: set[int] = set()
    for some in parts(numbers):
        kept_beside += _erase_runs(connection, some)
        of_these = session_parts.c.session_no.in_(some)
        older.update(connection.execute(select(session_parts.c.source_no).where(of_these).distinct()).scalars())
        connection.execute(delete(session_parts).where(of_these))
        gone = {"deleted_ms": now_ms(), "labels": None, "metadata": None}
        connection.execute(update(sessions).where(sessions.c.no.in_(some)).values(gone))
    for no in sorted({*numbers, *older}, reverse=True):  # one order for all, against deadlocks: forks are younger
        _erase_unshared(connection, no)
    _orphan(connection, kept_beside)
    return get_session(connection, project_id, session_id), run_ids


def _ids_of(session_nos: Sequence[int]) -> Select[Any]:
    return select(runs.c.id).where(runs.c.session_no.in_(session_nos)).order_by(runs.c.no)


def _erase_runs(connection: Connection, session_nos: Sequence[int]) -> list[str]:
    """The blobs that stood for large outputs of their runs."""
    of_these = runs.c.session_no.in_(session_nos)
    _forget_replies(connection, session_nos, select(runs.c.no).where(of_these))
    said = connection.execute(select(runs.c.said).where(of_these, runs.c.said.is_not(None))).scalars()
    kept_beside = [load(text)["blob"] for text in said]
    _blank_runs(connection, session_nos, select(runs.c.no).where(of_these))
    return kept_beside


def _orphan(connection: Connection, blob_ids: Iterable[str]) -> None:
    """From now on nothing refers to these blobs, unless a message does."""
    used = select(blob_uses.c.blob_id).where(blob_uses.c.blob_id == blobs.c.id).exists()
    for some in parts(blob_ids):
        connection.execute(update(blobs).where(blobs.c.id.in_(some), ~used).values(orphaned_ms=now_ms()))


def _erase_unshared(connection: Connection, session_no: int) -> None:
    """The messages of a deleted session that no fork inherits."""
    deleted = connection.execute(
        select(sessions.c.deleted_ms).where(sessions.c.no == session_no).with_for_update()
    ).scalar_one()
    if deleted is None:
        return
    shared = connection.execute(
        select(func.max(session_parts.c.last)).where(session_parts.c.source_no == session_no)
    ).scalar()
    keep: int = shared or 0
    unshared = and_(blob_uses.c.session_no == session_no, blob_uses.c.number > keep)
    lost = list(connection.execute(select(blob_uses.c.blob_id).where(unshared).distinct()).scalars())
    connection.execute(delete(blob_uses).where(unshared))
    connection.execute(delete(messages).where(messages.c.session_no == session_no, messages.c.number > keep))
    _orphan(connection, lost)


def _forget_replies(connection: Connection, session_nos: Sequence[int], of_these: Select[Any]) -> None:
    """First replies to idempotency keys hold what was said, asked and decided."""
    about = keys.c.object_id
    for ids in (
        select(sessions.c.id).where(sessions.c.no.in_(session_nos)),
        select(runs.c.id).where(runs.c.no.in_(of_these)),
        select(inbox.c.message_id).where(inbox.c.run_no.in_(of_these)),
        select(asks.c.id).where(asks.c.run_no.in_(of_these)),
        select(calls.c.key).where(calls.c.run_no.in_(of_these), calls.c.kind == "tool"),
    ):
        connection.execute(delete(keys).where(about.in_(ids)))
    # A reply about many decisions does not say whose they are. Decided again, they come out the same.
    asked = select(asks.c.no).where(asks.c.run_no.in_(of_these)).exists()
    connection.execute(delete(keys).where(about == MANY_DECISIONS, keys.c.status.is_not(None), asked))


def _blank_runs(connection: Connection, session_nos: Sequence[int], of_these: Select[Any]) -> None:
    """That they were, how they ended and what they cost stays; what they were about goes."""

    def blank(table: Table, **columns: Any) -> None:
        connection.execute(update(table).where(table.c.run_no.in_(of_these)).values(columns))

    connection.execute(
        delete(events).where(
            events.c.run_no.in_(of_these),
            events.c.seq < select(runs.c.last_seq).where(runs.c.no == events.c.run_no).scalar_subquery(),
        )
    )
    blank(events, data=None)
    blank(calls, arguments=None, args_sha256=None, error=None, outcome=None, vendor_id=None)
    blank(inbox, content="[]")
    blank(orders, body=None)
    blank(asks, questions=None, answers=None, message=None, reason="", args_sha256="")
    connection.execute(delete(signals).where(signals.c.run_no.in_(of_these)))
    connection.execute(delete(run_labels).where(run_labels.c.run_no.in_(of_these)))
    for row in connection.execute(select(runs).where(runs.c.session_no.in_(session_nos))).mappings().all():
        definition = wordless(load(row["definition"]))
        error = row["error"] and dump({**load(row["error"]), "message": ERASED})
        reason = row["stop_reason"] if row["status"] != "cancelled" else "cancelled"
        connection.execute(
            update(runs)
            .where(runs.c.no == row["no"])
            .values(
                definition=dump(definition), error=error, stop_reason=reason, status_reason=None, labels=None,
                metadata=None, input_session_no=None, traceparent=None, said=None, pruned=EVENTS_PRUNED,
                pruned_seq=row["last_seq"] - 1,
            )
        )  # fmt: skip


def remove_orphaned_blobs(connection: Connection, folder: Path, limit: int, rest_ms: int) -> int:
    """Files go inside the transaction: whoever puts the same body meanwhile waits for it, and looks again."""
    resting = and_(blobs.c.orphaned_ms.is_not(None), blobs.c.created_ms <= now_ms() - rest_ms)
    used = select(blob_uses.c.blob_id).where(blob_uses.c.blob_id == blobs.c.id).exists()
    connection.execute(update(blobs).where(blobs.c.orphaned_ms.is_not(None), used).values(orphaned_ms=None))
    ids = list(connection.execute(select(blobs.c.id).where(resting).limit(limit).with_for_update()).scalars())
    for id_ in ids:
        connection.execute(delete(blobs).where(blobs.c.id == id_))
        remove_blob(folder, id_)
    return len(ids)


def idle_sessions(connection: Connection, before_ms: int, limit: int) -> list[tuple[str, str]]:
    """Project and id of sessions without a run, to which nothing was added since then, nor to any below. A child's
    session goes with its parent's. What a schedule goes on with, that will fire again, is not idle."""
    root, member, other, continued = runs.alias(), runs.alias(), runs.alias(), sessions.alias()
    of_schedules = select(continued.c.no).where(continued.c.id.in_(_awaited(connection)))
    below = select(member.c.session_no).join(root, root.c.id == member.c.root_run_id)
    below = below.where(root.c.session_no == sessions.c.no).correlate(sessions)

    awaited_below = below.where(member.c.session_no.in_(of_schedules))
    newer = select(messages.c.no).where(messages.c.session_no == sessions.c.no, messages.c.at_ms > before_ms)
    newer_below = select(messages.c.no).where(messages.c.session_no.in_(below), messages.c.at_ms > before_ms)
    late = or_(other.c.completed_ms.is_(None), other.c.completed_ms > before_ms)
    busy_lately = select(other.c.no).where(other.c.session_no.in_(below), late)
    childs = select(runs.c.no).where(runs.c.session_no == sessions.c.no, runs.c.parent_run_id.is_not(None)).exists()
    rows = connection.execute(
        select(sessions.c.project_id, sessions.c.id)
        .where(sessions.c.deleted_ms.is_(None), sessions.c.active_run_id.is_(None), sessions.c.created_ms <= before_ms)
        .where(sessions.c.no.not_in(of_schedules), ~awaited_below.exists())
        .where(~childs, ~newer.exists(), ~newer_below.exists(), ~busy_lately.exists())
        .order_by(sessions.c.no)
        .limit(limit)
    )
    return [(row.project_id, row.id) for row in rows]


def _awaited(connection: Connection) -> list[str]:
    """The sessions that schedules go on with which will fire again."""
    of = select(schedules.c.session_id, schedules.c.definition)
    rows = connection.execute(of.where(schedules.c.deleted_ms.is_(None), schedules.c.session_id.is_not(None)))
    at_ms = now_ms()
    return [row.session_id for row in rows if Timetable(load(row.definition)).next(at_ms, quiet=True) is not None]
