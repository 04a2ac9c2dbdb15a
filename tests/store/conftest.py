"""One promise suite, two databases: every test that uses ``journal`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from perdure.store.sql import SqlJournal, open_journal
from tests.postgres import PostgresServer, postgres

__all__ = ["postgres"]

Open = Callable[[], Awaitable[SqlJournal]]


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.fresh_database().replace("postgresql:", "postgresql+asyncpg:", 1)


@pytest.fixture
def blob_folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def open_another(sql_url: str, blob_folder: Path) -> AsyncIterator[Open]:
    """Opens the same database as another process would."""
    opened: list[SqlJournal] = []

    async def open_it() -> SqlJournal:
        opened.append(await open_journal(sql_url, blob_folder))
        return opened[-1]

    yield open_it
    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(open_another: Open) -> SqlJournal:
    return await open_another()
