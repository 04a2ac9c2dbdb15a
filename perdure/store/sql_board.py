"""The blackboard of a tree of runs: any run of the tree reads and changes it.

A writer takes the row of the tree's root, then its own: one at a time. The event that tells of a change is written
with it, under the call's key, so a call that is carried out again finds what it has done, whatever became of the entry.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select, update

from perdure.core.state import Json
from perdure.definitions import BOARD_ENTRIES_MAX
from perdure.store import events as say
from perdure.store.board_rows import Board, BoardChange, BoardEntry
from perdure.store.json_text import load, plain
from perdure.store.run_transaction import RunTransaction, new_id
from perdure.store.schema import board_entries, boards, events, runs
from perdure.store.trouble import BoardFull, NotFound, StaleEntry

_PLACE = select(runs.c.root_run_id, runs.c.agent_name).where(runs.c.id == bindparam("run_id"))
_NUMBER = select(runs.c.no).where(runs.c.id == bindparam("root_id"))
_TAKE_ROOT = _NUMBER.with_for_update()
_BOARD = select(boards.c.last_number, boards.c.revision).where(boards.c.root_no == bindparam("root"))
_OPEN = insert(boards)
_COUNT = (
    update(boards)
    .where(boards.c.root_no == bindparam("root"))
    .values(last_number=bindparam("new_last_number"), revision=bindparam("new_revision"))
)
_ENTRIES = select(board_entries).where(board_entries.c.root_no == bindparam("root")).order_by(board_entries.c.number)
_ENTRY = select(board_entries).where(
    board_entries.c.root_no == bindparam("root"), board_entries.c.id == bindparam("entry_id")
)
_SIZE = select(func.count()).where(board_entries.c.root_no == bindparam("root"))
_ADD = insert(board_entries)
_THIS = (board_entries.c.root_no == bindparam("root"), board_entries.c.number == bindparam("entry_number"))
_CHANGE = (
    update(board_entries)
    .where(*_THIS)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("version", "revision", "text", "changed_run_id", "changed_agent", "changed_ms")
        }
    )
)
_REMOVE = delete(board_entries).where(*_THIS)
_DONE = select(events.c.data).where(events.c.run_no == bindparam("run"), events.c.key == bindparam("event_key"))


def read_board(connection: Connection, run_id: str) -> Board:
    root_id, _ = _place(connection, run_id)
    root = {"root": connection.execute(_NUMBER, {"root_id": root_id}).scalar_one()}
    entries = [_entry_of(row, root_id) for row in connection.execute(_ENTRIES, root).mappings()]
    board = connection.execute(_BOARD, root).one_or_none()
    return Board(board.revision if board else 0, entries)


def post(connection: Connection, run_id: str, call_id: str, text: str, topic: str | None) -> BoardChange:
    board = _Writer(connection, run_id, call_id)
    if board.done:
        return board.done
    if connection.execute(_SIZE, {"root": board.root_no}).scalar_one() >= BOARD_ENTRIES_MAX:
        raise BoardFull(f"the board has {BOARD_ENTRIES_MAX} entries, as many as it may have")
    change = BoardChange(new_id("brd"), board.last_number + 1, 1, board.revision + 1)
    row: dict[str, Json] = {
        "root_no": board.root_no, "number": change.number, "id": change.entry_id, "version": 1,
        "revision": change.revision, "topic": None if topic is None else plain(topic), "text": plain(text),
        "posted_run_id": board.run.id, "posted_agent": board.agent, "posted_ms": board.run.now_ms,
        "changed_run_id": board.run.id, "changed_agent": board.agent, "changed_ms": board.run.now_ms,
    }  # fmt: skip
    connection.execute(_ADD, row)
    return board.tell("posted", change, text, topic)


def update_entry(
    connection: Connection, run_id: str, call_id: str, entry_id: str, text: str, version: int | None
) -> BoardChange:
    board = _Writer(connection, run_id, call_id)
    if board.done:
        return board.done
    entry = board.entry(entry_id, version)
    change = BoardChange(entry["id"], entry["number"], entry["version"] + 1, board.revision + 1)
    where = {"root": board.root_no, "entry_number": change.number}
    new: dict[str, Json] = {
        "new_version": change.version, "new_revision": change.revision, "new_text": plain(text),
        "new_changed_run_id": board.run.id, "new_changed_agent": board.agent, "new_changed_ms": board.run.now_ms,
    }  # fmt: skip
    connection.execute(_CHANGE, {**where, **new})
    return board.tell("updated", change, text, entry["topic"])


def remove_entry(
    connection: Connection, run_id: str, call_id: str, entry_id: str, version: int | None
) -> BoardChange:  # fmt: skip
    board = _Writer(connection, run_id, call_id)
    if board.done:
        return board.done
    entry = board.entry(entry_id, version)
    change = BoardChange(entry["id"], entry["number"], entry["version"], board.revision + 1)
    connection.execute(_REMOVE, {"root": board.root_no, "entry_number": change.number})
    return board.tell("removed", change, entry["text"], entry["topic"])


class _Writer:
    """The board in the hands of one run, nobody else writes to it. ``done`` is what the call has changed before.
    NotFound, RunOver."""

    def __init__(self, connection: Connection, run_id: str, call_id: str) -> None:
        root_id, self.agent = _place(connection, run_id)
        self.root_no: int = connection.execute(_TAKE_ROOT, {"root_id": root_id}).scalar_one()  # from the parent down
        self.run = RunTransaction(connection, run_id)
        self.call_id = plain(call_id)
        told = connection.execute(_DONE, {"run": self.run.no, "event_key": say.board_key(self.call_id)}).scalar()
        self.done = None if told is None else _change_of(load(told))
        board = connection.execute(_BOARD, {"root": self.root_no}).one_or_none()
        self.is_new = board is None
        self.last_number: int = board.last_number if board else 0
        self.revision: int = board.revision if board else 0

    def entry(self, entry_id: str, version: int | None) -> RowMapping:
        """NotFound (entry); StaleEntry when it is at another version."""
        where = {"root": self.root_no, "entry_id": plain(entry_id)}
        row = self.run.connection.execute(_ENTRY, where).mappings().one_or_none()
        if row is None:
            raise NotFound("entry", entry_id)
        if version is not None and row["version"] != version:
            raise StaleEntry(entry_id, row["version"])
        return row

    def tell(self, verb: str, change: BoardChange, text: str, topic: str | None) -> BoardChange:
        """The change is made: count it, and say so."""
        last_number = max(self.last_number, change.number)
        if self.is_new:
            row = {"root_no": self.root_no, "last_number": last_number, "revision": change.revision}
            self.run.connection.execute(_OPEN, row)
        else:
            counts = {"new_last_number": last_number, "new_revision": change.revision}
            self.run.connection.execute(_COUNT, {"root": self.root_no, **counts})
        self.run.append(say.board_changed(verb, self.call_id, change, text, topic))
        self.run.save()
        return change


def _place(connection: Connection, run_id: str) -> tuple[str, str]:
    """The root of the run's tree, and the name of its agent."""
    row = connection.execute(_PLACE, {"run_id": plain(run_id)}).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return row.root_run_id, row.agent_name


def _change_of(data: dict[str, Json]) -> BoardChange:
    return BoardChange(data["entry_id"], data["number"], data["version"], data["revision"])  # type: ignore[arg-type]


def _entry_of(row: RowMapping, root_id: str) -> BoardEntry:
    return BoardEntry(root_run_id=root_id, **{name: part for name, part in row.items() if name != "root_no"})
