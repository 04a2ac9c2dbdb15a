"""Where transactions run. A transaction is a plain function of a SQLAlchemy ``Connection``, for both databases.

On SQLite it runs on the standard library's driver, as a whole: an eighth of the CPU time of an async
driver, which hops into a thread for each statement. On PostgreSQL it runs on asyncpg. The
databases' own words for being unreachable or locked become ``JournalTrouble`` here and nowhere else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg  # type: ignore[import-untyped]  # ships no types
from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from perdure.store.trouble import JournalTrouble

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

BUSY_TIMEOUT_SECONDS = 10.0  # how long a writer waits for other processes' writers before JournalTrouble
READER_THREADS = 4  # SQLite reads are short; more threads only fight for the interpreter lock
CHECKPOINT_WRITES = 500  # between folding the log in: about 30 MB of log
PAGE_BYTES = 8192  # three 2 KB tool results fit on a page; with 4096 it is one, and half the file is air
POOL_SIZE, POOL_OVERFLOW = 10, 20  # of one process; PostgreSQL's default is 100 connections for all
CONNECT_TIMEOUT_SECONDS = 5.0  # a database that is away is noticed within an activity's patience
LOCK_TIMEOUT_SECONDS = 10  # of a row, on PostgreSQL: transactions here take milliseconds
IDLE_IN_TRANSACTION_SECONDS = 15  # a frozen process must not hold a run's row for ever
WRITE_TRIES = 3  # a writer that lost a race looks again; losing twice is already odd

_TROUBLE_STATES = ("08", "53", "57", "55P03", "25P03", "40")  # connection, resources, shutdown, lock, idle, races
_RACE_STATES = ("40001", "40P01", "23505")  # serialization, deadlock, somebody inserted it first


class Database(Protocol):
    """``write`` commits what ``work`` did, or nothing; ``committed`` is then called at once, in any
    thread, even when the caller has been cancelled meanwhile. A ``brief`` read returns a few rows; a ``long``
    write takes more than a moment."""

    @property
    def dialect(self) -> str: ...

    async def write(
        self, work: Work[Result], committed: Callable[[], None] | None = None, *, long: bool = False
    ) -> Result: ...

    async def read(self, work: Work[Result], *, brief: bool = False) -> Result: ...

    async def close(self) -> None: ...


class SqliteDatabase:
    """A file in WAL mode. ``synchronous=NORMAL``: a commit survives the death of any process, and the
    file survives the loss of power.

    A transaction takes half a millisecond, less than handing it to a thread and back. So a write runs
    where it is asked for when the file's lock is free at once, and waits for the lock in the writer thread
    otherwise. What takes long by nature, reading much and folding the log in, is done in threads only.
    """

    dialect = "sqlite"

    def __init__(self, path: Path, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        self.path = path
        self._writer = ThreadPoolExecutor(1, "journal-writer")
        self._readers = ThreadPoolExecutor(READER_THREADS, "journal-reader")
        self._here_engine = _sqlite_engine(path, "BEGIN IMMEDIATE", 1, 0, checkpoint_pages=0)
        self._write_engine = _sqlite_engine(path, "BEGIN IMMEDIATE", 1, busy_timeout_seconds)
        self._read_engine = _sqlite_engine(path, "BEGIN", READER_THREADS + 1, busy_timeout_seconds)
        self._here: Connection | None = None
        self._reading_here: Connection | None = None
        self._waiting = 0  # writes in the writer thread: the next one queues behind them
        self._since_checkpoint = 0

    async def write(
        self, work: Work[Result], committed: Callable[[], None] | None = None, *, long: bool = False
    ) -> Result:
        if not self._waiting and not long:
            transaction = self._begin_here()
            if transaction is not None:
                return self._write_here(transaction, work, committed)
        self._waiting += 1
        try:
            return await self._in_thread(self._writer, lambda: self._write_in_thread(work, committed))
        finally:
            self._waiting -= 1

    def _begin_here(self) -> RootTransaction | None:
        """A transaction that holds the file's lock, or None when somebody else does."""
        try:
            if self._here is None:
                self._here = self._here_engine.connect()
            return self._here.begin()
        except exc.OperationalError:  # locked, or worse: the writer thread waits and tells
            self._leave_here()
            return None

    def _write_here(
        self, transaction: RootTransaction, work: Work[Result], committed: Callable[[], None] | None
    ) -> Result:
        assert self._here is not None
        try:
            with transaction:
                result = work(self._here)
        except (exc.OperationalError, sqlite3.OperationalError) as error:
            self._leave_here()
            raise self._trouble(error) from error
        if committed:
            committed()
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_WRITES:
            self._since_checkpoint = 0
            self._writer.submit(self._checkpoint)
        return result

    def _read_here(self, work: Work[Result]) -> Result:
        """Readers wait for nobody in WAL mode."""
        try:
            if self._reading_here is None:
                self._reading_here = self._read_engine.connect()
            with self._reading_here.begin():
                return work(self._reading_here)
        except (exc.OperationalError, exc.TimeoutError, sqlite3.OperationalError) as error:
            if self._reading_here is not None:
                self._reading_here.invalidate()
                self._reading_here = None
            raise self._trouble(error) from error

    def _write_in_thread(self, work: Work[Result], committed: Callable[[], None] | None) -> Result:
        with self._write_engine.begin() as connection:
            result = work(connection)
        if committed:
            committed()
        return result

    def _checkpoint(self) -> None:
        """Fold the log into the file as far as readers let us: it syncs the disk, which may take long."""
        with suppress(exc.OperationalError), self._read_engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # type: ignore[union-attr]

    async def read(self, work: Work[Result], *, brief: bool = False) -> Result:
        if brief:
            return self._read_here(work)

        def transaction() -> Result:
            with self._read_engine.begin() as connection:
                return work(connection)

        return await self._in_thread(self._readers, transaction)

    async def _in_thread(self, threads: ThreadPoolExecutor, transaction: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, transaction)
        except (exc.OperationalError, exc.TimeoutError, sqlite3.OperationalError) as error:
            raise self._trouble(error) from error

    def _trouble(self, error: BaseException) -> JournalTrouble:
        return JournalTrouble(f"the journal {self.path} cannot be used now: {_reason(error)}")

    def _leave_here(self) -> None:
        if self._here is not None:
            self._here.invalidate()
            self._here.close()
            self._here = None

    async def close(self) -> None:
        def dispose() -> None:
            self._read_engine.dispose()
            self._write_engine.dispose()

        for connection in (self._here, self._reading_here):
            if connection is not None:
                connection.close()
        self._here_engine.dispose()
        self._readers.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(self._writer, dispose)
        self._writer.shutdown()


def _sqlite_engine(
    path: Path, begin: str, connections: int, busy_timeout_seconds: float, checkpoint_pages: int = 1_000
) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        pool_size=connections,
        max_overflow=0,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own comes too late for readers
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file only
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint_pages}")

    @event.listens_for(engine, "begin")
    def open_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


class PostgresDatabase:
    """asyncpg behind SQLAlchemy's pool, which tests a connection before it hands it out: after a restart
    of the server the same instance goes on."""

    dialect = "postgresql"

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine = postgres_engine(url)

    async def write(
        self, work: Work[Result], committed: Callable[[], None] | None = None, *, long: bool = False
    ) -> Result:
        for tried in range(1, WRITE_TRIES + 1):
            try:
                async with self.engine.begin() as connection:
                    result = await connection.run_sync(work)
            except Exception as error:
                if tried < WRITE_TRIES and _sql_state(error).startswith(_RACE_STATES):
                    continue
                raise postgres_trouble(error) from error
            if committed:
                committed()
            return result
        raise AssertionError("the last try returns or raises")

    async def read(self, work: Work[Result], *, brief: bool = False) -> Result:
        try:
            async with self.engine.begin() as connection:
                return await connection.run_sync(work)
        except Exception as error:
            raise postgres_trouble(error) from error

    async def close(self) -> None:
        await self.engine.dispose()


def postgres_engine(url: URL, *, connections: int = POOL_SIZE) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=connections,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=CONNECT_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "server_settings": {
                "application_name": "perdure",
                "jit": "off",  # every statement here is short
                "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
            },
        },
    )


def open_database(sql_url: str) -> Database:
    """For ``sqlite…`` and ``postgresql…`` URLs with whatever driver they name. ValueError for others."""
    url = make_url(sql_url)
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            path = Path(url.database).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            return SqliteDatabase(path)
        case "postgresql":
            return PostgresDatabase(url.set(drivername="postgresql+asyncpg"))
        case _:
            raise ValueError(f"the journal needs a sqlite file or a postgresql URL, not {url.render_as_string()!r}")


def postgres_trouble(error: BaseException) -> BaseException:
    """``JournalTrouble`` for what passes when the database is back; any other error as it is."""
    match error:
        case exc.DBAPIError() if error.connection_invalidated or _sql_state(error).startswith(_TROUBLE_STATES):
            pass
        case exc.InterfaceError() | exc.OperationalError() | exc.TimeoutError() | OSError() | TimeoutError():
            pass
        case asyncpg.InterfaceError():
            pass
        case asyncpg.PostgresError() if _sql_state(error).startswith(_TROUBLE_STATES):
            pass
        case _:
            return error
    return JournalTrouble(f"the journal database cannot be used now: {_reason(error)}")


def _sql_state(error: BaseException) -> str:
    origin = error.orig if isinstance(error, exc.DBAPIError) else error
    return getattr(origin, "sqlstate", None) or ""


def _reason(error: BaseException) -> str:
    """The driver's own words, without the statement and its parameters: those may hold content."""
    origin = error.orig if isinstance(error, exc.DBAPIError) else error
    return f"{type(origin).__name__}: {origin}".splitlines()[0][:300]
