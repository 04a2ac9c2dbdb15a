"""The live lane: pieces of text while a model still speaks, stored and numbered like every event.

One writer a process. The first piece of a call is committed at once, later ones 50 ms after the commit
before, and everything that is due goes into one transaction, whatever run it belongs to. Pieces of one
block that wait are merged into one row. So what waits is bounded by the text of the answers in flight,
however long the database is away: a call does not end before ``flush`` has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from perdure.core.state import TERMINAL
from perdure.store.database import Database
from perdure.store.json_text import dump, plain
from perdure.store.rows import Delta
from perdure.store.run_transaction import CHANNEL, now_ms
from perdure.store.schema import calls, events, runs
from perdure.store.trouble import JournalTrouble

log = logging.getLogger(__name__)

COALESCE_SECONDS = 0.05  # a reader sees text flow at twenty pieces a second
TOGETHER_SECONDS = 0.01  # what is due this soon goes along with what is due now
RETRY_SECONDS = (0.1, 0.3, 1.0, 2.0)  # between tries while the database is away; the last one repeats
CLOSE_SECONDS = 5.0  # for the last write: a worker has 30 s to stop, and this is the smaller part of it

_TAKE = (
    select(runs.c.no, runs.c.id, runs.c.status, runs.c.last_seq, runs.c.last_progress_ms)
    .where(runs.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(runs.c.no)
    .with_for_update()
)
_OPEN = select(calls.c.open_attempt).where(calls.c.run_no == bindparam("run"), calls.c.key == bindparam("call_key"))
_WRITTEN = select(events.c.call_id, events.c.attempt, events.c.data).where(
    events.c.run_no == bindparam("run"), events.c.seq == bindparam("at")
)
_ADD = insert(events)
_COUNT = (
    update(runs)
    .where(runs.c.no == bindparam("run"))
    .values(last_seq=bindparam("new_last_seq"), last_progress_ms=bindparam("new_last_progress_ms"))
)
_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("run_id")))

CallKey = tuple[str, str]  # run id, key of the call


@dataclass(slots=True)
class Piece:
    attempt: int
    type: str
    index: int
    texts: list[str]

    def takes(self, delta: Delta) -> bool:
        return (self.attempt, self.type, self.index) == (delta.attempt, delta.type, delta.index)

    def data(self) -> str:
        return dump({"text": "".join(self.texts), "index": self.index})


@dataclass(slots=True)
class Waiting:
    """What a call has said since its last commit. ``due`` is in seconds of the monotonic clock;
    ``first_seq`` is what the last try to commit it gave to its first row."""

    run_id: str
    key: str
    due: float
    pieces: list[Piece] = field(default_factory=list)
    flushed: list[asyncio.Future[None]] = field(default_factory=list)
    first_seq: int | None = None
    first_row: tuple[str, int, str] | None = None

    def add(self, delta: Delta) -> None:
        if self.pieces and self.pieces[-1].takes(delta):
            self.pieces[-1].texts.append(delta.text)
        else:
            self.pieces.append(Piece(delta.attempt, delta.type, delta.index, [delta.text]))


class LiveLane:
    """See the module. Belongs to one event loop; its task lives while there is something to write."""

    def __init__(self, database: Database, committed: Callable[[Iterable[str]], None]) -> None:
        self._database = database
        self._committed = committed
        self._waiting: dict[CallKey, Waiting] = {}
        self._writing: dict[CallKey, Waiting] = {}
        self._written_at: dict[CallKey, float] = {}  # of the last COALESCE_SECONDS only
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, delta: Delta) -> None:
        """Queue a piece. Never blocks, never raises."""
        call = (delta.run_id, delta.key)
        waiting = self._waiting.get(call)
        if waiting is None:
            due = self._written_at.get(call, 0.0) + COALESCE_SECONDS
            waiting = self._waiting[call] = Waiting(delta.run_id, delta.key, due)
            self._changed.set()
        waiting.add(delta)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def flush(self, run_id: str, key: str) -> None:
        """Return when everything queued for this call is committed, or dropped as superseded."""
        last = self._waiting.get((run_id, key)) or self._writing.get((run_id, key))
        if last is None:
            return
        last.due = 0.0
        self._changed.set()
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        last.flushed.append(flushed)
        await flushed

    async def close(self) -> None:
        """Commit what waits, as far as the journal lets us, and stop."""
        if self._task is None:
            return
        for waiting in self._waiting.values():
            waiting.due = 0.0
        self._changed.set()
        await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _write_all(self) -> None:
        while self._waiting:
            self._changed.clear()
            now = time.monotonic()
            due = min(waiting.due for waiting in self._waiting.values())
            if due > now:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - now):
                        await self._changed.wait()
                continue
            group = [call for call, waiting in self._waiting.items() if waiting.due <= now + TOGETHER_SECONDS]
            self._writing = {call: self._waiting.pop(call) for call in group}
            await self._commit(list(self._writing.values()))
            now = time.monotonic()
            self._written_at = {call: at for call, at in self._written_at.items() if at > now - COALESCE_SECONDS}
            self._written_at.update(dict.fromkeys(group, now))
            for waiting in self._writing.values():
                for flushed in waiting.flushed:
                    if not flushed.done():
                        flushed.set_result(None)
            self._writing = {}

    async def _commit(self, group: Sequence[Waiting]) -> None:
        """Commit, however long the database is away. What no number of tries can write is dropped, loudly."""
        run_ids = sorted({plain(waiting.run_id) for waiting in group})
        tried = 0
        while True:
            try:
                await self._database.write(lambda c: write_deltas(c, group), lambda: self._committed(run_ids))
                return
            except JournalTrouble as trouble:
                log.warning("live text of %d calls waits for the journal: %s", len(group), trouble)
                await asyncio.sleep(RETRY_SECONDS[min(tried, len(RETRY_SECONDS) - 1)])
                tried += 1
            except Exception:
                log.exception("live text of %d calls is dropped; their messages will carry it", len(group))
                return


def write_deltas(connection: Connection, group: Sequence[Waiting]) -> None:
    """One transaction for all runs, taken in the order of their numbers. Pieces of superseded attempts,
    ended calls and terminal runs are dropped."""
    rows: list[dict[str, Any]] = []
    ids = sorted({plain(waiting.run_id) for waiting in group})
    for run in connection.execute(_TAKE, {"ids": ids}).all():
        if run.status in TERMINAL:
            continue
        at_ms = max(now_ms(), run.last_progress_ms)
        before = len(rows)
        for waiting in group:
            if plain(waiting.run_id) == run.id:
                rows.extend(_rows(connection, run.no, run.last_seq + len(rows) - before, at_ms, waiting))
        if len(rows) > before:
            last_seq = run.last_seq + len(rows) - before
            connection.execute(_COUNT, {"run": run.no, "new_last_seq": last_seq, "new_last_progress_ms": at_ms})
            if connection.dialect.name == "postgresql":
                connection.execute(_NOTIFY, {"run_id": run.id})
    if rows:
        connection.execute(_ADD, rows)


def _rows(connection: Connection, run_no: int, last_seq: int, at_ms: int, waiting: Waiting) -> list[dict[str, Any]]:
    """The event rows of one call's pieces, numbered after ``last_seq``."""
    if waiting.first_seq is not None:
        # The try before this one failed, perhaps only after its commit: look for its first row.
        written = connection.execute(_WRITTEN, {"run": run_no, "at": waiting.first_seq}).one_or_none()
        if written is not None and tuple(written) == waiting.first_row:
            return []
    key = plain(waiting.key)
    open_attempt = connection.execute(_OPEN, {"run": run_no, "call_key": key}).scalar_one_or_none()
    pieces = [piece for piece in waiting.pieces if piece.attempt == open_attempt]
    rows: list[dict[str, Any]] = [
        {
            "run_no": run_no, "seq": last_seq + place, "type": piece.type, "at_ms": at_ms, "key": None,
            "call_id": key, "message_id": None, "message_number": None, "attempt": piece.attempt,
            "data": piece.data(),
        }
        for place, piece in enumerate(pieces, 1)
    ]  # fmt: skip
    if rows:
        waiting.first_seq = rows[0]["seq"]
        waiting.first_row = (key, rows[0]["attempt"], rows[0]["data"])
    return rows
