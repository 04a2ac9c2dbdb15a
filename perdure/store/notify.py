"""Who hears of commits: the followers of this process, and through the database or sockets those of the others.

PostgreSQL: every commit carries a NOTIFY (``run_transaction.py``); one LISTEN connection per process
hears them all. SQLite: every process with followers binds a datagram socket in a folder that belongs
to the database, and writers send the run's id to each socket there after they committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.store.database import postgres_engine, postgres_trouble
from perdure.store.journal import JournalTrouble
from perdure.store.run_transaction import CHANNEL

log = logging.getLogger(__name__)

ALL_RUNS = "*"  # wakes every follower: sent when a single notice may have been lost
RECONNECT_SECONDS = (0.05, 0.2, 0.5, 1.0)  # between tries to listen again; the last one repeats
OWED_RETRY_SECONDS = 0.005  # a full socket is emptied by its owner within a turn of its loop
SOCKET_PATH_BYTES_MAX = 100  # AF_UNIX allows 108 on Linux, 104 on macOS


class RunFollower:
    """A ``Follower``: remembers that it was woken until somebody waits."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class Followers:
    """The followers of this process, by run. Belongs to one event loop."""

    def __init__(self) -> None:
        self._by_run: dict[str, set[RunFollower]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_run)

    def add(self, run_id: str) -> RunFollower:
        follower = RunFollower()
        self._by_run.setdefault(run_id, set()).add(follower)
        return follower

    def remove(self, run_id: str, follower: RunFollower) -> None:
        followers = self._by_run[run_id]
        followers.discard(follower)
        if not followers:
            del self._by_run[run_id]

    def wake(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            if run_id == ALL_RUNS:
                self.wake_all()
            for follower in self._by_run.get(run_id, ()):
                follower.wake()

    def wake_all(self) -> None:
        for followers in self._by_run.values():
            for follower in followers:
                follower.wake()


class Notifier(Protocol):
    """``listen`` returns when other processes are heard (JournalTrouble); ``committed`` tells them, from any thread."""

    async def listen(self) -> None: ...

    def committed(self, run_ids: Iterable[str]) -> None: ...

    async def close(self) -> None: ...


class PostgresNotifier:
    """One connection that listens, for as long as the process lives; while it was away, anything may have happened."""

    def __init__(self, url: URL, followers: Followers) -> None:
        self._engine = postgres_engine(url, connections=1)
        self._followers = followers
        self._connection: AsyncConnection | None = None
        self._lock = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._closed = False

    async def listen(self) -> None:
        async with self._lock:
            if self._connection is None:
                await self._connect()

    def committed(self, run_ids: Iterable[str]) -> None:
        """The database told the others with the commit."""

    async def _connect(self) -> None:
        connection: AsyncConnection | None = None
        try:
            connection = await self._engine.connect()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.add_listener(CHANNEL, self._heard)
            driver.add_termination_listener(self._lost)
        except Exception as error:
            if connection is not None:
                await connection.invalidate()
                await connection.close()
            raise postgres_trouble(error) from error
        self._connection = connection

    def _heard(self, _driver: Any, _pid: int, _channel: str, run_id: str) -> None:
        self._followers.wake((run_id,))

    def _lost(self, _driver: Any) -> None:
        if not self._closed and self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._listen_again())

    async def _listen_again(self) -> None:
        for tried in range(1_000_000_000):
            async with self._lock:
                await self._drop()
                try:
                    await self._connect()
                    break
                except JournalTrouble as trouble:
                    log.warning("followers hear nothing from other processes now: %s", trouble)
            await asyncio.sleep(RECONNECT_SECONDS[min(tried, len(RECONNECT_SECONDS) - 1)])
        self._again = None
        self._followers.wake_all()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is gone: there is nothing to close any more
                await connection.invalidate()
                await connection.close()

    async def close(self) -> None:
        self._closed = True
        if self._again:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)
        await self._drop()
        await self._engine.dispose()


class SocketNotifier:
    """Datagram sockets of all processes that follow runs of one SQLite file, in a folder of their own."""

    def __init__(self, database: Path, followers: Followers) -> None:
        self.folder = socket_folder(database)
        self._followers = followers
        self._own: socket.socket | None = None
        self._own_name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._loop = asyncio.get_running_loop()
        self._owed: set[str] = set()  # sockets that were full: at most one notice each, for all runs
        self._out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._out.setblocking(False)
        _make_private(self.folder)

    async def listen(self) -> None:
        if self._own is None:
            own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            own.setblocking(False)
            try:
                _make_private(self.folder)
                own.bind(str(self.folder / self._own_name))
            except OSError as error:
                own.close()
                raise JournalTrouble(f"cannot listen in {self.folder}: {error}") from error
            self._own = own
            self._loop.add_reader(own.fileno(), self._hear, own)

    def _hear(self, own: socket.socket) -> None:
        heard: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            for _ in range(1_000):  # then let the loop do something else
                heard.add(own.recv(256).decode(errors="replace"))
        self._followers.wake(heard)

    def committed(self, run_ids: Iterable[str]) -> None:
        names = [name for name in _names(self.folder) if name != self._own_name]
        for name in names:
            for run_id in run_ids:
                self._send(name, run_id)

    def _send(self, name: str, run_id: str) -> None:
        path = self.folder / name
        try:
            self._out.sendto(run_id.encode()[:256], str(path))
        except (BlockingIOError, InterruptedError):
            self._loop.call_soon_threadsafe(self._owe, name)
        except ConnectionRefusedError:  # its process is dead; no other ever takes this name
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != 105:  # ENOBUFS
                log.warning("cannot notify %s: %s", path, error)
            self._loop.call_soon_threadsafe(self._owe, name)

    def _owe(self, name: str) -> None:
        if name not in self._owed:
            self._owed.add(name)
            self._loop.call_later(OWED_RETRY_SECONDS, self._pay, name)

    def _pay(self, name: str) -> None:
        self._owed.discard(name)
        if self._out.fileno() >= 0:
            self._send(name, ALL_RUNS)

    async def close(self) -> None:
        if self._own is not None:
            self._loop.remove_reader(self._own.fileno())
            self._own.close()
            (self.folder / self._own_name).unlink(missing_ok=True)
            self._own = None
        self._out.close()


def socket_folder(database: Path) -> Path:
    """Where processes that use this SQLite file meet: the same for each of them, short, of this user only."""
    digest = hashlib.sha256(str(database.resolve()).encode()).hexdigest()[:16]
    name = f"perdure-{os.getuid()}-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    longest = len(os.fsencode(folder)) + 1 + len("4194304-12345678")
    return folder if longest <= SOCKET_PATH_BYTES_MAX else Path("/tmp") / name  # noqa: S108: checked to be ours below


def _make_private(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder that only this user can use")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # swept away with the temporary files: those who listen will make it again
        return []
