"""The methods of ``SqlJournal`` about what is kept, and how: forks, imports, erasure, retention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from sqlalchemy import Connection

from perdure.core.state import Json
from perdure.store import sql_erasure, sql_forks, sql_imports, sql_inbox, sql_retention, sql_runs
from perdure.store.access import Access
from perdure.store.rows import ImportedMessage, InboxRow, Pruned, RunRow, SessionRow
from perdure.store.trouble import NotFound, SessionBusy


class KeepingMethods(Access):
    """See ``perdure.store.journal.Journal``."""

    blob_rest_ms = sql_erasure.BLOB_REST_MS

    async def fork_session(
        self,
        project_id: str,
        new_id: str,
        session_id: str,
        at_number: int | None,
        *,
        labels: Mapping[str, str],
        metadata: Mapping[str, Json],
    ) -> SessionRow:
        return await self._database.write(
            lambda c: sql_forks.fork_session(c, project_id, new_id, session_id, at_number, labels, metadata)
        )

    async def import_session(
        self,
        project_id: str,
        session_id: str,
        messages: Iterable[ImportedMessage],
        *,
        labels: Mapping[str, str],
        metadata: Mapping[str, Json],
    ) -> SessionRow:
        return await self._database.write(
            lambda c: sql_imports.import_session(c, project_id, session_id, messages, labels, metadata), long=True
        )

    async def number_at(self, project_id: str, run_id: str, seq: int) -> int:
        return await self._database.read(lambda c: sql_forks.number_at(c, project_id, run_id, seq))

    async def find_said(self, session_id: str, message_id: str) -> tuple[RunRow, InboxRow] | None:
        def find(connection: Connection) -> tuple[RunRow, InboxRow] | None:
            found = sql_inbox.find_said(connection, session_id, message_id)
            return None if found is None else (sql_runs.get_run(connection, found.run_id, None), found)

        return await self._database.read(find)

    async def delete_session(self, project_id: str, session_id: str) -> list[str]:
        def erase(connection: Connection) -> list[str]:
            _, run_ids = sql_erasure.delete_session(connection, project_id, session_id)
            self._remove_orphaned_blobs(connection, sql_erasure.BLOBS_AT_ONCE)
            return run_ids

        return await self._database.write(erase, long=True)

    async def prune(
        self,
        *,
        deltas_before_ms: int | None = None,
        events_before_ms: int | None = None,
        sessions_before_ms: int | None = None,
        limit: int,
    ) -> tuple[Pruned, list[str]]:
        """A transaction each, so that nobody waits long for one."""
        sessions, run_ids, more_sessions = await self._prune_sessions(sessions_before_ms, limit)
        events, more_events = await self._prune_events(events_before_ms, limit)
        deltas, more_deltas = await self._prune_deltas(deltas_before_ms, limit)
        blobs = await self._database.write(lambda c: self._remove_orphaned_blobs(c, limit), long=True)
        more = more_sessions or more_events or more_deltas or blobs == limit
        return Pruned(deltas, events, sessions, blobs, more), run_ids

    def _remove_orphaned_blobs(self, connection: Connection, limit: int) -> int:
        return sql_erasure.remove_orphaned_blobs(connection, self._blob_folder, limit, self.blob_rest_ms)

    async def _prune_sessions(self, before_ms: int | None, limit: int) -> tuple[int, list[str], bool]:
        if before_ms is None:
            return 0, [], False
        found = await self._database.read(lambda c: sql_erasure.idle_sessions(c, before_ms, limit))
        deleted, run_ids = 0, list[str]()
        for project_id, session_id in found:
            try:
                run_ids += await self.delete_session(project_id, session_id)
                deleted += 1
            except (SessionBusy, NotFound):  # it woke up just now
                continue
        return deleted, run_ids, len(found) == limit

    async def _prune_events(self, before_ms: int | None, limit: int) -> tuple[int, bool]:
        if before_ms is None:
            return 0, False
        ids = await self._database.read(
            lambda c: sql_retention.runs_to_prune(c, sql_retention.EVENTS_PRUNED, before_ms, limit)
        )
        for run_id in ids:
            await self._database.write(partial(sql_retention.prune_events, run_id=run_id), long=True)
        return len(ids), len(ids) == limit

    async def _prune_deltas(self, before_ms: int | None, limit: int) -> tuple[int, bool]:
        if before_ms is None:
            return 0, False
        ids = await self._database.read(
            lambda c: sql_retention.runs_to_prune(c, sql_retention.DELTAS_PRUNED, before_ms, limit)
        )
        pruned = 0
        for run_id in ids:
            pruned += await self._database.write(partial(sql_retention.prune_deltas, run_id=run_id), long=True)
        return pruned, len(ids) == limit
