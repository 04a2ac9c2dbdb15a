"""``SqlJournal``: the journal port on SQLite and PostgreSQL, one transaction per method.

What each transaction does stands in the ``sql_*`` modules as plain functions of a connection; who runs
them, in ``database.py``; live text, in ``live.py``; who hears of commits, in ``notify.py``. The methods about
people and money are in ``sql_outside.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from perdure.content import Block, Message
from perdure.core.budget import Ask, Budget
from perdure.core.numbers import Numbers
from perdure.core.state import Failure, Json, OutboxEvent, RunStatus
from perdure.definitions import AgentDefinition, LimitsDefinition
from perdure.store import (
    idempotency,
    sql_calls,
    sql_reading,
    sql_recovery,
    sql_runs,
    sql_sessions,
)
from perdure.store.blobs import read_blob, write_blob
from perdure.store.database import open_database
from perdure.store.journal import Follower, Journal
from perdure.store.json_text import plain
from perdure.store.migrate import prepare, revision
from perdure.store.rows import (
    AgentRow,
    AskRow,
    Begun,
    CallRow,
    Delta,
    EventRow,
    ModelCommit,
    NewAsk,
    NewRun,
    Page,
    RunRow,
    SessionRow,
    StoredReply,
    ToolCommit,
)
from perdure.store.run_transaction import now_ms
from perdure.store.schema import blobs
from perdure.store.sql_family_methods import FamilyMethods
from perdure.store.sql_keeping import KeepingMethods
from perdure.store.sql_outside import OutsideMethods
from perdure.store.sql_scheduling import SchedulingMethods
from perdure.store.trouble import NotFound


async def open_journal(sql_url: str, blob_folder: Path, *, migrate: bool = True) -> SqlJournal:
    """Open the journal, creating its folders and (with ``migrate``) its tables. Several processes may do so at
    once. JournalTrouble; SchemaMismatch when the database is newer than this code, or older without
    ``migrate``; ValueError for a URL of another kind."""
    database = open_database(sql_url)
    try:
        await prepare(database, migrate=migrate)
        return SqlJournal(database, blob_folder)
    except BaseException:
        await database.close()
        raise


class SqlJournal(OutsideMethods, KeepingMethods, SchedulingMethods, FamilyMethods, Journal):
    """See ``perdure.store.journal.Journal``. Belongs to the event loop that opened it; open with ``open_journal``."""

    async def ready(self) -> str:
        return await self._database.read(revision) or ""

    async def close(self) -> None:
        await self._live.close()
        await self._notifier.close()
        await self._database.close()

    # Agents and sessions ---------------------------------------------------------------------------

    async def put_agent(self, project_id: str, definition: AgentDefinition, *, agent_id: str | None = None) -> AgentRow:
        return await self._database.write(lambda c: sql_sessions.put_agent(c, project_id, definition, agent_id))

    async def get_agent(self, project_id: str, id_or_name: str, version: int | None = None) -> AgentRow:
        return await self._database.read(lambda c: sql_sessions.get_agent(c, project_id, id_or_name, version))

    async def list_agents(self, project_id: str, *, limit: int, cursor: str | None, descending: bool) -> Page[AgentRow]:
        return await self._database.read(lambda c: sql_sessions.list_agents(c, project_id, limit, cursor, descending))

    async def list_agent_versions(self, project_id: str, id_or_name: str) -> list[AgentRow]:
        return await self._database.read(lambda c: sql_sessions.list_agent_versions(c, project_id, id_or_name))

    async def create_session(
        self, project_id: str, session_id: str, *, labels: Mapping[str, str], metadata: Mapping[str, Json]
    ) -> SessionRow:
        return await self._database.write(
            lambda c: sql_sessions.create_session(c, project_id, session_id, labels, metadata)
        )

    async def get_session(self, project_id: str, session_id: str) -> SessionRow:
        return await self._database.read(lambda c: sql_sessions.get_session(c, project_id, session_id))

    async def list_sessions(
        self, project_id: str, *, limit: int, cursor: str | None, descending: bool
    ) -> Page[SessionRow]:
        return await self._database.read(lambda c: sql_sessions.list_sessions(c, project_id, limit, cursor, descending))

    # Runs ------------------------------------------------------------------------------------------

    async def create_run(self, new: NewRun) -> RunRow:
        return await self._write(new.run_id, lambda c: sql_runs.create_run(c, new))

    async def get_run(self, run_id: str, project_id: str | None = None) -> RunRow:
        return await self._database.read(lambda c: sql_runs.get_run(c, run_id, project_id), brief=True)

    async def list_runs(
        self,
        project_id: str,
        *,
        limit: int,
        cursor: str | None,
        descending: bool,
        statuses: Sequence[RunStatus] = (),
        session_id: str | None = None,
        agent_id: str | None = None,
        parent_run_id: str | None = None,
        root_run_id: str | None = None,
        schedule_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> Page[RunRow]:
        return await self._database.read(
            lambda c: sql_runs.list_runs(
                c, project_id, limit=limit, cursor=cursor, descending=descending, statuses=statuses,
                session_id=session_id, agent_id=agent_id, parent_run_id=parent_run_id, root_run_id=root_run_id,
                schedule_id=schedule_id, labels=labels, created_from_ms=created_from_ms,
                created_before_ms=created_before_ms,
            )
        )  # fmt: skip

    async def mark_workflow_started(self, run_id: str) -> None:
        await self._database.write(lambda c: sql_runs.mark_workflow_started(c, run_id))

    async def unstarted_runs(self, *, older_than_ms: int, limit: int) -> list[RunRow]:
        return await self._database.read(lambda c: sql_runs.unstarted_runs(c, older_than_ms, limit))

    async def silent_runs(self, *, silent_ms: int, limit: int) -> list[str]:
        return await self._database.read(lambda c: sql_runs.silent_runs(c, silent_ms, limit))

    async def update_run(
        self,
        run_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Json] | None = None,
        budget: Budget | None = None,
        limits: LimitsDefinition | None = None,
        deadline_ms: int | None = None,
    ) -> RunRow:
        return await self._write(
            run_id,
            lambda c: sql_runs.update_run(
                c, run_id, labels=labels, metadata=metadata, budget=budget, limits=limits, deadline_ms=deadline_ms
            ),
        )

    # Reading ---------------------------------------------------------------------------------------

    async def read_events(
        self,
        run_id: str,
        *,
        after: int,
        limit: int,
        types: Sequence[str] = (),
        deltas: bool = True,
        descending: bool = False,
    ) -> list[EventRow]:
        def read(connection: Connection) -> list[EventRow]:
            place = self._place(connection, run_id)
            return sql_reading.read_events(connection, place, after, limit, types, deltas, descending)

        return await self._database.read(read)

    async def list_messages(
        self, session_id: str, *, after: int = 0, limit: int | None = None, run_id: str | None = None
    ) -> list[Message]:
        # Whoever says what it has already asks for the newest few: a worker, once a turn.
        brief = after > 0
        return await self._database.read(
            lambda c: sql_reading.list_messages(c, session_id, after, limit, run_id), brief=brief
        )

    async def list_calls(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[CallRow]:
        return await self._database.read(lambda c: sql_reading.list_calls(c, self._place(c, run_id), after, limit))

    async def get_call(self, run_id: str, key: str) -> CallRow:
        return await self._database.read(lambda c: sql_reading.get_call(c, self._place(c, run_id), key), brief=True)

    def follow(self, run_id: str) -> AbstractAsyncContextManager[Follower]:
        return self._follow(run_id)

    # What activities write ---------------------------------------------------------------------------

    async def begin_model(
        self,
        run_id: str,
        key: str,
        turn: int,
        *,
        model: str,
        worker: str,
        ask: Ask,
        apply: Numbers = (),
        only_for_messages: bool = False,
        closes: str = "",
        outbox: Sequence[OutboxEvent] = (),
    ) -> Begun:
        return await self._write(
            run_id,
            lambda c: sql_calls.begin_model(
                c, run_id, key, turn, model=model, worker=worker, wants=ask, apply=apply,
                only_for_messages=only_for_messages, closes=closes, outbox=outbox,
            ),
        )  # fmt: skip

    async def commit_model(self, run_id: str, key: str, attempt: int, commit: ModelCommit) -> CallRow:
        return await self._write(run_id, lambda c: sql_calls.commit_model(c, run_id, key, attempt, commit))

    async def fail_model_attempt(
        self,
        run_id: str,
        key: str,
        attempt: int,
        failure: Failure,
        *,
        retry_in_seconds: float | None,
        billed: bool,
    ) -> None:
        await self._write(
            run_id, lambda c: sql_calls.fail_model_attempt(c, run_id, key, attempt, failure, retry_in_seconds, billed)
        )

    async def interrupt_model(
        self, run_id: str, key: str, attempt: int, content: Sequence[Block], model: str, *, billed: bool = True
    ) -> None:
        await self._write(run_id, lambda c: sql_calls.interrupt_model(c, run_id, key, attempt, content, model, billed))

    async def begin_tool(
        self,
        run_id: str,
        call_id: str,
        *,
        worker: str,
        may_repeat: bool,
        tries_max: int = 1_000,
        ordered: int = 0,
        outbox: Sequence[OutboxEvent] = (),
    ) -> Begun:
        return await self._write(
            run_id,
            lambda c: sql_calls.begin_tool(c, run_id, call_id, worker, may_repeat, tries_max, ordered, outbox),
        )

    async def commit_tool(
        self,
        run_id: str,
        call_id: str,
        commit: ToolCommit,
        *,
        attempt: int | None = None,
        outbox: Sequence[OutboxEvent] = (),
    ) -> CallRow:
        return await self._write(run_id, lambda c: sql_calls.commit_tool(c, run_id, call_id, commit, attempt, outbox))

    async def park_tool(self, run_id: str, call_id: str, attempt: int, ask: NewAsk) -> AskRow:
        return await self._write(run_id, lambda c: sql_recovery.park_tool(c, run_id, call_id, attempt, ask))

    async def fail_tool_attempt(
        self, run_id: str, call_id: str, attempt: int, failure: Failure, *, retry_in_seconds: float
    ) -> None:
        await self._write(
            run_id, lambda c: sql_calls.fail_tool_attempt(c, run_id, call_id, attempt, failure, retry_in_seconds)
        )

    def live(self, delta: Delta) -> None:
        self._live.put(delta)

    async def flush_live(self, run_id: str, key: str) -> None:
        await self._live.flush(run_id, key)

    # Blobs and idempotency ---------------------------------------------------------------------------

    async def put_blob(self, body: bytes, media_type: str) -> str:
        id_ = await asyncio.to_thread(write_blob, self._blob_folder, body)

        def add(connection: Connection) -> None:
            put = update(blobs).where(blobs.c.id == id_).values(created_ms=now_ms())
            if connection.execute(put).rowcount == 0:
                row = {"id": id_, "bytes": len(body), "media_type": media_type, "created_ms": now_ms()}
                connection.execute(insert(blobs), row)

        await self._database.write(add)
        # It may have been removed since it was found to be there; from now on it is too young for that.
        await asyncio.to_thread(write_blob, self._blob_folder, body)
        return id_

    async def media_type_of(self, blob_id: str) -> str:
        row = select(blobs.c.media_type).where(blobs.c.id == plain(blob_id))
        found = await self._database.read(lambda c: c.execute(row).scalar_one_or_none())
        if found is None:
            raise NotFound("blob", blob_id)
        return str(found)

    async def get_blob(self, blob_id: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return await asyncio.to_thread(read_blob, self._blob_folder, blob_id, offset, length)

    async def reserve_key(
        self, project_id: str, key: str, fingerprint: str, object_id: str
    ) -> tuple[str, StoredReply | None]:
        return await self._database.write(lambda c: idempotency.reserve_key(c, project_id, key, fingerprint, object_id))

    async def keep_reply(self, project_id: str, key: str, reply: StoredReply) -> None:
        await self._database.write(lambda c: idempotency.keep_reply(c, project_id, key, reply))

    async def forget_keys(self, *, older_than_ms: int) -> int:
        return await self._database.write(lambda c: idempotency.forget_keys(c, older_than_ms))

    async def release_key(self, project_id: str, key: str) -> None:
        await self._database.write(lambda c: idempotency.release_key(c, project_id, key))
