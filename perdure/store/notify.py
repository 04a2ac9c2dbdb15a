"""Who hears of commits: followers of a run, in this process and in others, without polling a table.

On PostgreSQL, NOTIFY travels with the commit and one connection per process listens. On SQLite, every
process with followers binds one Unix datagram socket in a folder that belongs to the database, and
writers send the run's id to all of them after the commit.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.engine import URL

from perdure.store.database import postgres_engine
from perdure.store.run_transaction import CHANNEL
from perdure.store.trouble import JournalTrouble

DATAGRAM_BYTES_MAX = 256  # a run id has 30
BACKLOG_SUSPECT = 5  # Linux queues 10 datagrams or more: after a burst like this some may have been refused
FOLDER_BYTES_MAX = 80  # a socket's path may have 103 bytes on macOS, 107 on Linux; its name has up to 17
DRAIN_MAX = 1_000  # datagrams read in one go, so that a storm cannot hold the event loop
RECONNECT_SECONDS = 0.5  # between tries to listen again after PostgreSQL went away


class RunFollower:
    """See ``perdure.store.journal.Follower``."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Followers:
    """The followers in this process, by run. Used in the event loop only."""

    def __init__(self) -> None:
        self._of_run: dict[str, set[RunFollower]] = {}

    def __bool__(self) -> bool:
        return bool(self._of_run)

    def add(self, run_id: str) -> RunFollower:
        follower = RunFollower()
        self._of_run.setdefault(run_id, set()).add(follower)
        return follower

    def remove(self, run_id: str, follower: RunFollower) -> None:
        self._of_run[run_id].discard(follower)
        if not self._of_run[run_id]:
            del self._of_run[run_id]

    def wake(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            for follower in self._of_run.get(run_id, ()):
                follower.wake()

    def wake_all(self) -> None:
        self.wake(list(self._of_run))


class Notifier(Protocol):
    """Tells other processes, and hears them. ``listen`` returns when commits of others are heard from now
    on. ``committed`` may be called from any thread, right after a commit, and never raises."""

    async def listen(self) -> None: ...

    def committed(self, run_ids: Iterable[str]) -> None: ...

    async def close(self) -> None: ...


class SocketNotifier:
    """For SQLite: one folder of sockets per database file, open to its owner only."""

    def __init__(self, database: Path, followers: Followers) -> None:
        self._followers = followers
        self._folder = socket_folder(database)
        self._socket: socket.socket | None = None
        self._address = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    async def listen(self) -> None:
        if self._socket is not None and not self._address.exists():
            self._stop_listening()  # somebody swept the temporary files
        if self._socket is None:
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            bound.setblocking(False)
            try:
                self._bind(bound)
            except OSError as error:
                bound.close()
                raise JournalTrouble(
                    f"commits of other processes cannot be heard in {self._folder}: {error}"
                ) from error
            self._socket = bound
            asyncio.get_running_loop().add_reader(bound, self._drain)

    def _bind(self, bound: socket.socket) -> None:
        for last in (False, True):
            try:
                _make_private(self._folder)
                bound.bind(str(self._address))
                return
            except FileNotFoundError:  # the last one who left took the folder away just now
                if last:
                    raise

    def committed(self, run_ids: Iterable[str]) -> None:
        run_ids = list(run_ids)
        with suppress(OSError), os.scandir(self._folder) as addresses:
            for address in addresses:
                if address.path != str(self._address):
                    self._send(address.path, run_ids)

    def _send(self, address: str, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            try:
                self._sender.sendto(run_id.encode()[:DATAGRAM_BYTES_MAX], address)
            except BlockingIOError:
                return  # its queue is full: it will find a burst, and look at everything
            except OSError as error:
                if error.errno in (errno.ECONNREFUSED, errno.ENOENT):  # its process is gone
                    with suppress(OSError):
                        os.unlink(address)
                return

    def _drain(self) -> None:
        assert self._socket is not None
        heard: set[str] = set()
        count = 0
        while count < DRAIN_MAX:
            try:
                heard.add(self._socket.recv(DATAGRAM_BYTES_MAX).decode(errors="replace"))
            except BlockingIOError:
                break
            count += 1
        if count >= BACKLOG_SUSPECT:
            self._followers.wake_all()
        else:
            self._followers.wake(heard)

    def _stop_listening(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                os.unlink(self._address)

    async def close(self) -> None:
        self._stop_listening()
        self._sender.close()
        with suppress(OSError):  # others are still there, or nobody ever was
            self._folder.rmdir()


def socket_folder(database: Path) -> Path:
    """Where the processes that use this file meet: the same for each of them, and short."""
    name = f"perdure-{os.getuid()}-{hashlib.sha256(os.fsencode(database.resolve())).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(os.fsencode(folder)) <= FOLDER_BYTES_MAX else Path("/tmp") / name


def _make_private(folder: Path) -> None:
    """PermissionError when the folder belongs to somebody else or is open to others."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} belongs to somebody else or is open to others: remove it")


class PostgresNotifier:
    """For PostgreSQL: one connection that listens, again and again if it must."""

    def __init__(self, url: URL, followers: Followers) -> None:
        self._followers = followers
        self._engine = postgres_engine(url, connections=1)
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep_listening())
        # A journal that is away now is heard of by reading; the task goes on trying.
        with suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_SECONDS):
                await self._listening.wait()

    def committed(self, run_ids: Iterable[str]) -> None:
        """Nothing to do: the transaction itself has told everybody."""

    async def _keep_listening(self) -> None:
        while True:
            with suppress(Exception):  # whatever it was: the database is away, and we try again
                await self._listen_once()
            self._listening.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        lost = asyncio.Event()
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(lambda _connection: lost.set())
            await driver.add_listener(CHANNEL, lambda _c, _pid, _channel, run_id: self._followers.wake([run_id]))
            self._listening.set()
            self._followers.wake_all()  # what was committed while nobody listened
            try:
                await lost.wait()
            finally:
                await connection.invalidate()

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._engine.dispose()
