"""What every method of ``SqlJournal`` stands on: the database, who hears of its commits, the live lane."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from perdure.store import sql_reading
from perdure.store.database import Database, PostgresDatabase, SqliteDatabase
from perdure.store.journal import Follower
from perdure.store.live import LiveLane
from perdure.store.notify import Followers, Notifier, PostgresNotifier, SocketNotifier
from perdure.store.run_transaction import note_touched
from perdure.store.sql_reading import RunPlace

Result = TypeVar("Result")

PLACES_MAX = 10_000  # runs whose numbers are remembered: about 400 bytes each


class Access:
    """Belongs to the event loop that made it."""

    def __init__(self, database: Database, blob_folder: Path) -> None:
        self._database = database
        self._blob_folder = blob_folder
        self._loop = asyncio.get_running_loop()
        self._followers = Followers()
        self._notifier: Notifier
        match database:
            case PostgresDatabase():
                self._notifier = PostgresNotifier(database.url, self._followers)
            case SqliteDatabase():
                self._notifier = SocketNotifier(database.path, self._followers)
            case _:
                raise TypeError(f"no notifier for {database!r}")
        self._live = LiveLane(database, self._committed)
        self._places: OrderedDict[str, RunPlace] = OrderedDict()

    async def _write(self, about: str | None, work: Callable[[Connection], Result]) -> Result:
        """Run a transaction; afterwards the followers of ``about`` hear of it, and those of all runs that it saved."""
        touched: list[str] = []

        def write(connection: Connection) -> Result:
            nonlocal touched
            touched = note_touched(connection)
            return work(connection)

        return await self._database.write(
            write, lambda: self._committed(dict.fromkeys([about, *touched] if about else touched))
        )

    async def _read(self, run_id: str, work: Callable[[Connection, RunPlace], Result]) -> Result:
        return await self._database.read(lambda connection: work(connection, self._place(connection, run_id)))

    def _committed(self, names: Iterable[str]) -> None:
        """Wake who follows these runs, here and elsewhere. Called in any thread."""
        if self._followers:
            self._loop.call_soon_threadsafe(self._followers.wake, tuple(names))
        self._notifier.committed(names)

    @asynccontextmanager
    async def _follow(self, name: str) -> AsyncIterator[Follower]:
        follower = self._followers.add(name)
        try:
            await self._notifier.listen()
            yield follower
        finally:
            self._followers.remove(name, follower)

    def _place(self, connection: Connection, run_id: str) -> RunPlace:
        """Where a run's rows are: looked up once. Called in any thread."""
        place = self._places.get(run_id)
        if place is None:
            place = self._places[run_id] = sql_reading.find_run(connection, run_id)
            if len(self._places) > PLACES_MAX:
                self._places.popitem(last=False)
        return place
