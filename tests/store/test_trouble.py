"""The database goes away and comes back, the schema is another, the text is odd."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from perdure.content import Block
from perdure.core.state import Outcome
from perdure.store.database import Database, Result, SqliteDatabase, Work
from perdure.store.journal import Journal
from perdure.store.live import LiveLane
from perdure.store.migrate import SchemaMismatch, alembic_config
from perdure.store.rows import Delta, NewRun, ToolCommit
from perdure.store.schema import HEAD, metadata
from perdure.store.sql import SqlJournal, open_journal
from perdure.store.trouble import JournalTrouble
from tests.postgres import PostgresServer
from tests.store.conftest import Open
from tests.store.runs import AGENT, FAR, USAGE, all_events, asks, begin, new_run, outbox, said, types

ODD = "nul \0, half \ud83d, other half \ude00, \x1b[31m bell \x07, 漢字, 🦄, \u2028 \\u0000 \\ud800 \" ' end"


async def test_a_database_that_was_away_is_used_again_by_the_same_journal(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.fresh_database()
    journal = await open_journal(url, tmp_path)
    run = await new_run(journal)
    attempt = await begin(journal, run.id)
    try:
        async with journal.follow(run.id) as follower:
            while await follower.wait(0.2):
                pass
            postgres.stop()
            try:
                for use in (journal.get_run(run.id), journal.record(run.id, "r1", [outbox()], None), journal.ready()):
                    with pytest.raises(JournalTrouble):
                        await use
                with pytest.raises(JournalTrouble):
                    await open_journal(url, tmp_path)
                journal.live(Delta(run.id, "model-1", attempt, "text.delta", "said while it was "))
                flushed = asyncio.create_task(journal.flush_live(run.id, "model-1"))
                await asyncio.sleep(0.3)
                journal.live(Delta(run.id, "model-1", attempt, "text.delta", "away"))
                assert not flushed.done()
            finally:
                postgres.start()
            assert await follower.wait(10), "a reader must look again after the connection was lost"
            await asyncio.wait_for(flushed, 10)
            await journal.flush_live(run.id, "model-1")
            while await follower.wait(0.7):  # longer than it takes to listen again
                pass
            other = await open_journal(url, tmp_path)
            await other.record(run.id, "r2", [outbox(key="after")], None)
            await other.close()
            assert await follower.wait(5)
        await journal.commit_model(run.id, "model-1", attempt, said("done"))
        deltas = await all_events(journal, run.id, types=["text.delta"])
        assert "".join(str(event.data["text"]) for event in deltas) == "said while it was away"
        await types(journal, run.id)
    finally:
        await journal.close()


class ReplyLost:
    """A database whose connection breaks once after the commit, before its reply arrives."""

    def __init__(self, database: Database) -> None:
        self.dialect = database.dialect
        self._database = database
        self._broken = False

    async def write(self, work: Work[Result], committed: Callable[[], None] | None = None) -> Result:
        result = await self._database.write(work, committed)
        if not self._broken:
            self._broken = True
            raise JournalTrouble("the connection broke")
        return result

    async def read(self, work: Work[Result], *, brief: bool = False) -> Result:
        return await self._database.read(work, brief=brief)

    async def close(self) -> None: ...


async def test_live_text_is_written_once_when_the_reply_to_its_commit_is_lost(journal: SqlJournal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    lane = LiveLane(ReplyLost(journal._database), lambda run_ids: None)
    lane.put(Delta(run.id, "model-1", 1, "text.delta", "once "))
    await lane.flush(run.id, "model-1")
    lane.put(Delta(run.id, "model-1", 1, "text.delta", "only"))
    await lane.close()
    deltas = await all_events(journal, run.id, types=["text.delta"])
    assert [event.data["text"] for event in deltas] == ["once ", "only"]
    await types(journal, run.id)


async def test_a_locked_file_is_trouble_and_not_an_error_of_ours(tmp_path: Path) -> None:
    await (await open_journal(f"sqlite:///{tmp_path / 'journal.db'}", tmp_path)).close()
    journal = SqlJournal(SqliteDatabase(tmp_path / "journal.db", busy_timeout_seconds=0.05), tmp_path)
    run = await new_run(journal)
    rude = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    rude.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalTrouble, match="locked"):
        await journal.record(run.id, "r1", [outbox()], None)
    assert (await journal.get_run(run.id)).last_seq == 3  # readers do not wait for writers
    rude.execute("ROLLBACK")
    rude.close()
    await journal.record(run.id, "r1", [outbox()], None)
    assert (await types(journal, run.id))[-1] == "log"
    await journal.close()


async def test_a_cancelled_writer_leaves_all_or_nothing_and_the_journal_usable(journal: Journal) -> None:
    run = await new_run(journal)
    for n in range(20):
        task = asyncio.create_task(journal.record(run.id, f"r{n}", [outbox(key=f"a{n}"), outbox(key=f"b{n}")], None))
        await asyncio.sleep(n / 10_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await journal.record(run.id, "last", [outbox()], None)
    assert (await types(journal, run.id)).count("log") % 2 == 1


async def test_odd_text_comes_back_the_same_from_both_databases(journal: Journal, open_another: Open) -> None:
    blocks: list[Block] = [{"type": "text", "text": ODD}]
    run = await journal.create_run(
        NewRun("run_odd", {**AGENT, "instructions": ODD}, blocks, FAR, {}, labels={"l": ODD}, metadata={ODD: [ODD]})
    )
    assert (run.input, run.definition["instructions"], run.metadata) == (blocks, ODD, {ODD: [ODD]})
    attempt = await begin(journal, run.id, outbox=[outbox(words=ODD)])
    journal.live(Delta(run.id, "model-1", attempt, "text.delta", ODD))
    await journal.flush_live(run.id, "model-1")
    odd_id = "call_\0\ud800"
    await journal.commit_model(run.id, "model-1", attempt, asks(odd_id, arguments={"a": ODD}))
    begun = await journal.begin_tool(run.id, odd_id, worker="w", may_repeat=True)
    assert begun.call is not None
    assert begun.call.arguments == {"a": ODD}
    await journal.commit_tool(run.id, odd_id, ToolCommit("failed", ODD, ODD))
    await journal.record(run.id, "finish", [], Outcome("cancelled", ODD))
    other = await open_another()
    events = await all_events(other, run.id)
    assert [event.data for event in events if event.type == "log"] == [{"words": ODD}]
    assert [event.data["text"] for event in events if event.type == "text.delta"] == [ODD]
    (result,) = (await other.list_messages(run.session_id))[-1]["content"]
    assert result["type"] == "tool_result"
    assert result["text"] == ODD
    found = await other.list_runs("default", limit=1, cursor=None, descending=True, labels={"l": ODD})
    assert [row.id for row in found.rows] == [run.id]


async def test_numbers_that_json_cannot_say_become_null(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.record(run.id, "r", [outbox(a=float("nan"), b=[float("inf"), 1.5], c=10**30)], None)
    assert (await all_events(journal, run.id))[-1].data == {"a": None, "b": [None, 1.5], "c": 10**30}


async def test_a_long_transcript_and_large_bodies_are_ordinary(journal: Journal) -> None:
    run = await new_run(journal, "x" * 3_000_000)
    await journal.commit_model(
        run.id, "model-1", await begin(journal, run.id), asks("call_1", arguments={"body": "y" * 1_000_000})
    )
    row = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "z" * 5_000_000))
    assert isinstance(row.arguments, dict)
    assert len(str(row.arguments["body"])) == 1_000_000
    assert sum(len(str(m["content"])) for m in await journal.list_messages(run.session_id)) > 9_000_000
    assert (await journal.get_run(run.id)).usage.output_tokens < USAGE.output_tokens


async def test_the_migrated_schema_is_the_one_the_code_declares(journal: SqlJournal) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert await journal._database.read(differences) == []
    assert await journal.ready() == HEAD
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


async def test_a_database_of_a_newer_version_is_refused(journal: SqlJournal, sql_url: str, blob_folder: Path) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    await journal._database.write(lambda connection: connection.execute(newer))
    for migrate in (True, False):
        with pytest.raises(SchemaMismatch, match="9999") as refusal:
            await open_journal(sql_url, blob_folder, migrate=migrate)
        assert (refusal.value.found, refusal.value.needed) == ("9999", HEAD)


async def test_a_database_that_lacks_a_column_is_refused_although_it_says_the_right_revision(
    journal: SqlJournal, sql_url: str, blob_folder: Path
) -> None:
    lack = text("ALTER TABLE runs DROP COLUMN transfers")
    await journal._database.write(lambda connection: connection.execute(lack))
    with pytest.raises(SchemaMismatch, match=r"lacks runs\.transfers") as refusal:
        await open_journal(sql_url, blob_folder)
    assert (refusal.value.found, refusal.value.needed) == (HEAD, HEAD)


async def test_an_empty_database_is_only_filled_when_that_is_wanted(sql_url: str, blob_folder: Path) -> None:
    with pytest.raises(SchemaMismatch, match="missing"):
        await open_journal(sql_url, blob_folder, migrate=False)
    await (await open_journal(sql_url, blob_folder)).close()
    await (await open_journal(sql_url, blob_folder, migrate=False)).close()


async def test_processes_that_boot_at_once_all_find_the_tables(sql_url: str, blob_folder: Path) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from perdure.store.sql import open_journal\n"
        "async def main():\n"
        "    journal = await open_journal(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "    print(await journal.ready())\n"
        "    await journal.close()\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code, sql_url, str(blob_folder)]
    pipe = asyncio.subprocess.PIPE
    booting = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(3)]
    heard = await asyncio.gather(*(process.communicate() for process in booting))
    assert [out.decode().strip() for out, _ in heard] == [HEAD] * 3


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:"])
async def test_a_database_of_another_kind_is_refused_without_showing_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a sqlite file or a postgresql URL") as refusal:
        await open_journal(url, tmp_path)
    assert "secret" not in str(refusal.value)
