"""Whom the erasure of a session concerns besides it: the sessions of all runs below its own, which go with it, and
those who stay and were told something: their events lose the words, and boards the entries.

A run that has ended starts nobody, and nobody starts a run in a session that is taken. So who is below is known for
good as soon as the sessions above are taken and at rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, RowMapping, bindparam, delete, or_, select, update

from perdure.store.events import CHILD_EVENTS
from perdure.store.json_text import dump_map, load_map
from perdure.store.schema import board_entries, boards, events, runs, sessions
from perdure.store.trouble import SessionBusy

Id = TypeVar("Id", int, str)

_AT_ONCE = 500  # ids in one statement
_WORDS = ("goal", "preview", "message")  # what the events of others may quote
_kid, _parent, _root = runs.alias("kid"), runs.alias("parent"), runs.alias("root")
_BELOW = (
    select(_kid.c.session_no)
    .join(_parent, _parent.c.id == _kid.c.parent_run_id)
    .where(_parent.c.session_no.in_(bindparam("sessions", expanding=True)))
    .distinct()
)
_TAKE = select(sessions).where(sessions.c.no == bindparam("session")).with_for_update()
_TOLD = (
    select(_parent.c.no, _parent.c.session_no, _kid.c.parent_call_id)
    .join(_parent, _parent.c.id == _kid.c.parent_run_id)
    .where(_kid.c.session_no.in_(bindparam("sessions", expanding=True)))
)
_TREES = (
    select(_root.c.no, _root.c.id, _root.c.session_no)
    .join(_kid, _kid.c.root_run_id == _root.c.id)
    .where(_kid.c.session_no.in_(bindparam("sessions", expanding=True)))
    .distinct()
)


def take_family(connection: Connection, session: RowMapping) -> list[RowMapping]:
    """A session that is taken, and those below it, taken: all that have not been deleted. SessionBusy."""
    taken: dict[int, RowMapping] = {}
    rows = [session]
    while rows:
        for row in rows:
            if row["active_run_id"] is not None:
                raise SessionBusy(row["id"], row["active_run_id"])
            taken[row["no"]] = row
        below = {no for some in parts([row["no"] for row in rows]) for no in _numbers(connection, some)}
        rows = [
            connection.execute(_TAKE, {"session": no}).mappings().one() for no in sorted(below - taken.keys())
        ]  # fmt: skip
    return [row for row in taken.values() if row["deleted_ms"] is None]


def hush_others(connection: Connection, session_nos: Sequence[int], run_ids: Sequence[str]) -> None:
    """What runs that stay have in their events, and on their boards, of what was said in these sessions."""
    gone = set(session_nos)
    for some in parts(session_nos):
        for told in connection.execute(_TOLD, {"sessions": some}).all():
            if told.session_no not in gone:
                keys = [f"{told.parent_call_id}/{ending}" for ending in CHILD_EVENTS]
                _hush(connection, events.c.run_no == told.no, events.c.key.in_(keys))
        for root in connection.execute(_TREES, {"sessions": some}).all():
            of_board = board_entries.c.root_no == root.no
            if root.session_no in gone:
                connection.execute(delete(board_entries).where(of_board))
                connection.execute(delete(boards).where(boards.c.root_no == root.no))
                continue
            for those in parts(run_ids):
                by = or_(board_entries.c.posted_run_id.in_(those), board_entries.c.changed_run_id.in_(those))
                connection.execute(delete(board_entries).where(of_board, by))
            of_tree = select(runs.c.no).where(runs.c.root_run_id == root.id)
            _hush(connection, events.c.run_no.in_(of_tree), events.c.type == "board.removed")


def _hush(connection: Connection, *which: object) -> None:
    rows = connection.execute(select(events.c.run_no, events.c.seq, events.c.data).where(*which)).all()  # type: ignore[arg-type]
    for row in rows:
        data = {name: part for name, part in load_map(row.data).items() if name not in _WORDS}
        this = (events.c.run_no == row.run_no, events.c.seq == row.seq)
        connection.execute(update(events).where(*this).values(data=dump_map(data)))


def _numbers(connection: Connection, session_nos: list[int]) -> Iterable[int]:
    return connection.execute(_BELOW, {"sessions": session_nos}).scalars()


def parts(ids: Iterable[Id]) -> Iterator[list[Id]]:
    whole = list(ids)
    return (whole[start : start + _AT_ONCE] for start in range(0, len(whole), _AT_ONCE))
