"""Brings a database to the schema of this code: Alembic without an ``alembic.ini``, safe for processes that boot at
once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from perdure.store.database import PAGE_BYTES, Database, SqliteDatabase
from perdure.store.schema import HEAD, metadata
from perdure.store.trouble import JournalTrouble

if TYPE_CHECKING:  # Alembic costs 100 ms to import, and is needed only when there is something to migrate
    from alembic.config import Config

BOOT_TIMEOUT_SECONDS = 30.0  # another process may be migrating a large database
_LOCK_NUMBER = 0x70657264757265  # "perdure" in ASCII: the advisory lock of migrations on PostgreSQL


class SchemaMismatch(Exception):
    """The database has a schema that this code cannot use: a newer one, or (without ``migrate``) an older."""

    def __init__(self, found: str | None, needed: str, missing: Sequence[str] = ()) -> None:
        self.found, self.needed = found, needed
        self.migrates = found is None or found < needed
        hint = "use the version of Perdure that wrote it, or a newer one"
        if self.migrates:
            hint = "open the journal with migrate=True once"
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            hint = f"it lacks {shown}, a build between releases made it: use that one, or begin with a new journal"
        super().__init__(f"the journal's schema is {found or 'missing'}, this code needs {needed}: {hint}")


async def prepare(database: Database, *, migrate: bool) -> None:
    """Check the schema and bring it up. SchemaMismatch, JournalTrouble."""
    if isinstance(database, SqliteDatabase):
        await asyncio.to_thread(_write_ahead, database.path)
    found = await database.read(revision)
    if found == HEAD:
        if missing := await database.read(missing_columns):
            raise SchemaMismatch(found, HEAD, missing)
        return
    if not migrate or (found is not None and found not in _known()):
        raise SchemaMismatch(found, HEAD)
    await database.write(upgrade)


def revision(connection: Connection) -> str | None:
    """The schema revision of the database, None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def missing_columns(connection: Connection) -> list[str]:
    """What this code reads and the database does not have. Until a release, a revision may have meant less."""
    there = inspect(connection).get_multi_columns()
    known = {table: {column["name"] for column in columns} for (_, table), columns in there.items()}
    return [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if column.name not in known.get(table.name, set())
    ]


def upgrade(connection: Connection) -> None:
    """Upgrade inside the open transaction. On SQLite it holds the write lock already (BEGIN IMMEDIATE)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{BOOT_TIMEOUT_SECONDS:.0f}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    if revision(connection) != HEAD:  # else another process was first
        from alembic import command

        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}


def _write_ahead(path: Path) -> None:
    """Switch the file to WAL, once for ever. SQLite's busy timeout does not cover this switch."""
    give_up = time.monotonic() + BOOT_TIMEOUT_SECONDS
    while True:
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode=WAL")
                return
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            if time.monotonic() > give_up or "locked" not in str(error):
                raise JournalTrouble(f"the journal {path} cannot be opened: {error}") from error
            time.sleep(0.05)  # another process is switching it
