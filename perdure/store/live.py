"""The live lane: pieces of text while a model still speaks, stored and numbered like every event.

One writer a process. The first piece of a call is committed at once, later ones are gathered for about
50 ms, and everything that is due goes into one transaction, whatever run it belongs to. Memory is
bounded by the text of the answers that stream: neighbouring pieces of a block are merged as they come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from perdure.core.state import TERMINAL
from perdure.store.database import Database
from perdure.store.journal import Delta, JournalTrouble
from perdure.store.json_text import dump, plain
from perdure.store.run_transaction import CHANNEL, now_ms
from perdure.store.schema import calls, events, runs

COALESCE_SECONDS = 0.05  # a reader sees text flow at twenty pieces a second
RETRY_SECONDS = 0.5  # after the journal could not be written to

CallKey = tuple[str, str, int]  # run id, key of the call, attempt
Piece = tuple[str, int, str]  # type, index, text

_TAKE = (
    select(runs.c.no, runs.c.id, runs.c.status, runs.c.last_seq, runs.c.last_progress_ms)
    .where(runs.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(runs.c.no)
    .with_for_update()
)
_OPEN = select(calls.c.run_no, calls.c.key, calls.c.open_attempt).where(
    calls.c.run_no.in_(bindparam("nos", expanding=True)), calls.c.key.in_(bindparam("keys", expanding=True))
)
_ADD = insert(events)
_COUNT = (
    update(runs)
    .where(runs.c.no == bindparam("run"))
    .values(last_seq=bindparam("new_last_seq"), last_progress_ms=bindparam("new_last_progress_ms"))
)
_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("run_id")))


@dataclass(slots=True)
class _Waiting:
    """What one attempt has said since its last commit. ``due`` is in seconds of the monotonic clock."""

    pieces: list[tuple[str, int, list[str]]] = field(default_factory=list)
    due: float = 0.0

    def add(self, delta: Delta) -> None:
        if self.pieces and self.pieces[-1][:2] == (delta.type, delta.index):
            self.pieces[-1][2].append(delta.text)
        else:
            self.pieces.append((delta.type, delta.index, [delta.text]))

    def take(self) -> list[Piece]:
        taken = [(type_, index, "".join(texts)) for type_, index, texts in self.pieces]
        self.pieces = []
        return taken


class LiveLane:
    """See the module. Must be made and used in one event loop."""

    def __init__(self, database: Database, committed: Callable[[Iterable[str]], None]) -> None:
        self._database = database
        self._committed = committed
        self._waiting: dict[CallKey, _Waiting] = {}
        self._writing: set[CallKey] = set()
        self._changed = asyncio.Event()
        self._written = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def put(self, delta: Delta) -> None:
        """Queue a piece. Never blocks, never raises."""
        key = (delta.run_id, delta.key, delta.attempt)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Waiting()
        if not waiting.pieces:
            self._changed.set()
        waiting.add(delta)
        if self._task is None:
            self._task = asyncio.create_task(self._write_for_ever())

    async def flush(self, run_id: str, call_key: str) -> None:
        """Return when everything queued for this call is committed, or dropped as superseded."""
        mine = [key for key in self._waiting if key[:2] == (run_id, call_key)]
        for key in mine:
            self._waiting[key].due = 0.0
        self._changed.set()
        async with self._written:
            await self._written.wait_for(
                lambda: (
                    not any(key in self._writing or self._waiting[key].pieces for key in mine if key in self._waiting)
                )
            )
        for key in mine:
            self._waiting.pop(key, None)

    async def close(self) -> None:
        """Commit what waits, as far as the journal lets us, and stop."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(JournalTrouble):
            await self._write([key for key, waiting in self._waiting.items() if waiting.pieces])

    async def _write_for_ever(self) -> None:
        while True:
            now = time.monotonic()
            full = {key: waiting.due for key, waiting in self._waiting.items() if waiting.pieces}
            due = [key for key, at in full.items() if at <= now]
            if due:
                try:
                    await self._write(due)
                except JournalTrouble:
                    await asyncio.sleep(RETRY_SECONDS)
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(full.values()) - now if full else None):
                    await self._changed.wait()

    async def _write(self, keys: Sequence[CallKey]) -> None:
        """Commit what these calls have said; what could not be written waits in its old place."""
        batch = {key: self._waiting[key].take() for key in keys}
        if not batch:
            return
        run_ids = {key[0] for key in keys}
        self._writing = set(keys)
        try:
            await self._database.write(lambda connection: _commit(connection, batch), lambda: self._committed(run_ids))
        except BaseException:
            for key, pieces in batch.items():
                waiting = self._waiting.setdefault(key, _Waiting())
                waiting.pieces = [(type_, index, [text]) for type_, index, text in pieces] + waiting.pieces
            raise
        finally:
            self._writing = set()
        for key in keys:
            if key in self._waiting:
                self._waiting[key].due = time.monotonic() + COALESCE_SECONDS
        async with self._written:
            self._written.notify_all()


def _commit(connection: Connection, batch: dict[CallKey, list[Piece]]) -> None:
    """Pieces of superseded attempts, ended calls and terminal runs are dropped."""
    found = connection.execute(_TAKE, {"ids": sorted({plain(key[0]) for key in batch})}).mappings().all()
    taken: dict[str, dict[str, Any]] = {row["id"]: dict(row) for row in found if row["status"] not in TERMINAL}
    if not taken:
        return
    keys = {"nos": [row["no"] for row in taken.values()], "keys": sorted({plain(key[1]) for key in batch})}
    open_attempts = {(row.run_no, row.key): row.open_attempt for row in connection.execute(_OPEN, keys)}
    at_ms = now_ms()
    rows: list[dict[str, Any]] = []
    said: set[str] = set()
    for (run_id, call_key, attempt), pieces in batch.items():
        run = taken.get(plain(run_id))
        if run is None or open_attempts.get((run["no"], plain(call_key))) != attempt:
            continue
        for type_, index, text in pieces:
            run["last_seq"] += 1
            run["last_progress_ms"] = max(at_ms, run["last_progress_ms"])
            rows.append(
                {
                    "run_no": run["no"], "seq": run["last_seq"], "type": type_, "at_ms": run["last_progress_ms"],
                    "key": None, "call_id": plain(call_key), "message_id": None, "message_number": None,
                    "attempt": attempt, "data": dump({"text": text, "index": index}),
                }
            )  # fmt: skip
        said.add(run["id"])
    if not rows:
        return
    connection.execute(_ADD, rows)
    for run_id in sorted(said, key=lambda id_: taken[id_]["no"]):
        run = taken[run_id]
        connection.execute(
            _COUNT,
            {"run": run["no"], "new_last_seq": run["last_seq"], "new_last_progress_ms": run["last_progress_ms"]},
        )
        if connection.dialect.name == "postgresql":
            connection.execute(_NOTIFY, {"run_id": run_id})
