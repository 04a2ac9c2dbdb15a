"""The methods of ``SqlJournal`` about families: calls about other runs, ends that reach further than one run, trees."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from perdure.core.happenings import Order
from perdure.core.state import Failure, OutboxEvent, Outcome
from perdure.store import sql_board, sql_endings, sql_family, sql_family_reading, sql_handover, sql_runs
from perdure.store.access import Access
from perdure.store.board_rows import Board, BoardChange
from perdure.store.rows import (
    Aftermath,
    AskRow,
    Awaits,
    CallRow,
    EventRow,
    FamilyCall,
    HandOver,
    NewChild,
    NewMessage,
    RunRow,
    Said,
    ToolCommit,
)
from perdure.store.trouble import InvalidCursor


class FamilyMethods(Access):
    """See ``perdure.store.journal.Journal``."""

    # Ends ------------------------------------------------------------------------------------------

    async def record(
        self,
        run_id: str,
        key: str,
        outbox: Sequence[OutboxEvent],
        outcome: Outcome | None,
        said: Said | None = None,
    ) -> Aftermath:
        return await self._write(run_id, lambda c: sql_endings.record(c, run_id, key, outbox, outcome, said))

    async def end_orphan(self, run_id: str, failure: Failure) -> None:
        await self._write(run_id, lambda c: sql_endings.end_orphan(c, run_id, failure))

    async def force_cancel(self, run_id: str, reason: str) -> RunRow:
        def write(connection: Connection) -> RunRow:
            sql_endings.force_cancel(connection, run_id, reason)
            return sql_runs.get_run(connection, run_id, None)

        return await self._write(run_id, write)

    async def left_workflows(self, *, limit: int) -> list[str]:
        return await self._database.read(lambda c: sql_family_reading.left_workflows(c, limit))

    async def workflows_heard(self, run_ids: Sequence[str]) -> None:
        await self._database.write(lambda c: sql_family_reading.workflows_heard(c, run_ids))

    # Calls about other runs ------------------------------------------------------------------------

    async def spawn_child(
        self, run_id: str, call_id: str, new: NewChild, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        return await self._write(run_id, lambda c: sql_family.spawn(c, run_id, call_id, new, outbox))

    async def await_children(
        self, run_id: str, call_id: str, awaits: Awaits, expires_ms: int, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        return await self._write(
            run_id, lambda c: sql_family.await_children(c, run_id, call_id, awaits, expires_ms, outbox)
        )

    async def message_child(
        self, run_id: str, call_id: str, child_id: str, message: NewMessage, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        return await self._write(
            run_id, lambda c: sql_family.message_child(c, run_id, call_id, child_id, message, outbox)
        )

    async def cancel_child(
        self, run_id: str, call_id: str, child_id: str, reason: str, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        return await self._write(
            run_id, lambda c: sql_family.cancel_child(c, run_id, call_id, child_id, reason, outbox)
        )

    async def hand_over(
        self, run_id: str, call_id: str, new: HandOver | ToolCommit, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        return await self._write(run_id, lambda c: sql_handover.hand_over(c, run_id, call_id, new, outbox))

    async def stop_waiting(
        self, run_id: str, call_id: str, words: str, outbox: Sequence[OutboxEvent] = ()
    ) -> CallRow:  # fmt: skip
        return await self._write(run_id, lambda c: sql_family.stop_waiting(c, run_id, call_id, words, outbox))

    async def give_order(self, run_id: str, order: Order) -> Order:
        given, _ = await self._write(run_id, lambda c: sql_family.give_order(c, run_id, order))
        return given

    async def give_family_order(self, run_id: str, order: Order) -> list[str]:
        _, below = await self._write(run_id, lambda c: sql_family.give_order(c, run_id, order))
        return [run_id, *below]

    # Blackboards -----------------------------------------------------------------------------------

    async def read_board(self, run_id: str) -> Board:
        return await self._database.read(lambda c: sql_board.read_board(c, run_id))

    async def post_entry(self, run_id: str, call_id: str, text: str, topic: str | None) -> BoardChange:
        return await self._write(run_id, lambda c: sql_board.post(c, run_id, call_id, text, topic))

    async def update_entry(
        self, run_id: str, call_id: str, entry_id: str, text: str, version: int | None
    ) -> BoardChange:
        return await self._write(run_id, lambda c: sql_board.update_entry(c, run_id, call_id, entry_id, text, version))

    async def remove_entry(self, run_id: str, call_id: str, entry_id: str, version: int | None) -> BoardChange:
        return await self._write(run_id, lambda c: sql_board.remove_entry(c, run_id, call_id, entry_id, version))

    # Trees -----------------------------------------------------------------------------------------

    async def list_family(self, run_id: str, *, limit: int) -> list[RunRow]:
        return await self._database.read(lambda c: sql_family_reading.list_family(c, run_id, limit))

    async def assumed_in_family(self, run_id: str) -> dict[str, int]:
        return await self._database.read(lambda c: sql_family_reading.assumed_in_family(c, run_id))

    async def asks_below(self, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
        return await self._database.read(lambda c: sql_family_reading.asks_below(c, run_ids))

    async def read_family_events(
        self, run_id: str, *, after: str | None, limit: int, types: Sequence[str] = (), deltas: bool = True
    ) -> list[EventRow]:
        found = await self._database.read(
            lambda c: sql_family_reading.read_family_events(c, run_id, after, limit, types, deltas)
        )
        if found is None:
            raise InvalidCursor(f"{after!r} is no event of this family")
        return found
