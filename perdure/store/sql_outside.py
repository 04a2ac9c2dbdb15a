"""The methods of ``SqlJournal`` that serve people and clients: orders, the inbox, what is asked of them, money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from perdure.core.happenings import AskSettled, Order
from perdure.core.state import Json, OutboxEvent
from perdure.store import (
    sql_ask_lists,
    sql_asks,
    sql_inbox,
    sql_money,
    sql_orders,
    sql_recovery,
    sql_signals,
    sql_timers,
)
from perdure.store.access import Access
from perdure.store.journal import Follower
from perdure.store.rows import (
    AskRow,
    AskStatus,
    AskType,
    Calibration,
    CallRow,
    Decision,
    InboxRow,
    LedgerRow,
    NewMessage,
    NewSignal,
    Page,
    SignalRow,
    ToolCommit,
    ToolResult,
    UsageGroup,
    UsageRow,
)
from perdure.store.run_transaction import INTERRUPTS


class OutsideMethods(Access):
    """See ``perdure.store.journal.Journal``."""

    # Orders ----------------------------------------------------------------------------------------

    async def undelivered_orders(self, run_id: str, *, limit: int) -> list[Order]:
        return await self._database.read(lambda c: sql_orders.undelivered_orders(c, run_id, limit))

    async def confirm_orders(self, run_id: str, numbers: Sequence[int]) -> None:
        await self._database.write(lambda c: sql_orders.confirm_orders(c, run_id, numbers))

    async def runs_with_orders(self, *, older_than_ms: int, limit: int) -> list[str]:
        return await self._database.read(lambda c: sql_orders.runs_with_orders(c, older_than_ms, limit))

    # Inbox -----------------------------------------------------------------------------------------

    async def accept_message(self, run_id: str, message: NewMessage) -> InboxRow:
        return await self._write(run_id, lambda c: sql_inbox.accept_message(c, run_id, message))

    async def withdraw_message(self, run_id: str, message_id: str) -> InboxRow:
        return await self._write(run_id, lambda c: sql_inbox.withdraw_message(c, run_id, message_id))

    async def replace_inbox(self, run_id: str, messages: Sequence[NewMessage]) -> list[InboxRow]:
        return await self._write(run_id, lambda c: sql_inbox.replace_inbox(c, run_id, messages))

    async def list_inbox(self, run_id: str, *, waiting: bool) -> list[InboxRow]:
        return await self._read(run_id, lambda c, run: sql_inbox.list_inbox(c, run, waiting))

    def follow_interrupts(self, run_id: str) -> AbstractAsyncContextManager[Follower]:
        return self._follow(run_id + INTERRUPTS)

    # What people and clients are asked ---------------------------------------------------------------

    async def get_ask(self, project_id: str, ask_id: str) -> AskRow:
        return await self._database.read(lambda c: sql_ask_lists.get_ask(c, project_id, ask_id))

    async def find_ask(self, run_id: str, call_id: str) -> AskRow:
        return await self._read(run_id, lambda c, run: sql_ask_lists.find_ask(c, run, call_id))

    async def list_asks(
        self,
        project_id: str,
        *,
        types: Sequence[AskType],
        limit: int,
        cursor: str | None,
        descending: bool,
        statuses: Sequence[AskStatus] = (),
        run_id: str | None = None,
        escalated: bool | None = None,
    ) -> Page[AskRow]:
        return await self._database.read(
            lambda c: sql_ask_lists.list_asks(
                c, project_id, types=types, limit=limit, cursor=cursor, descending=descending, statuses=statuses,
                run_id=run_id, escalated=escalated,
            )
        )  # fmt: skip

    async def open_asks(self, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
        return await self._database.read(lambda c: sql_ask_lists.open_asks(c, run_ids))

    async def decide(self, project_id: str, ask_id: str, decision: Decision) -> AskRow:
        return await self._write(None, lambda c: sql_asks.decide(c, project_id, ask_id, decision))

    async def answer(self, project_id: str, ask_id: str, answers: dict[str, Json], by: str) -> AskRow:
        return await self._write(None, lambda c: sql_asks.answer(c, project_id, ask_id, answers, by))

    async def give_results(self, run_id: str, results: Sequence[ToolResult], by: str) -> list[AskRow]:
        return await self._write(run_id, lambda c: sql_asks.give_results(c, run_id, results, by))

    async def settle_ask(self, run_id: str, key: str, call_id: str, outbox: Sequence[OutboxEvent]) -> AskSettled:
        return await self._write(run_id, lambda c: sql_recovery.settle_ask(c, run_id, key, call_id, outbox))

    async def standing_decision(self, run_id: str, tool: str, args_sha256: str) -> AskRow | None:
        return await self._read(run_id, lambda c, run: sql_ask_lists.standing_decision(c, run, tool, args_sha256))

    async def failures_in_a_row(self, run_id: str, tool: str, args_sha256: str) -> int:
        return await self._read(run_id, lambda c, run: sql_ask_lists.failures_in_a_row(c, run, tool, args_sha256))

    async def retry_call(self, run_id: str, call_id: str, by: str, reason: str) -> CallRow:
        return await self._write(run_id, lambda c: sql_recovery.retry_call(c, run_id, call_id, by, reason))

    async def resolve_call(self, run_id: str, call_id: str, commit: ToolCommit, by: str) -> CallRow:
        return await self._write(run_id, lambda c: sql_recovery.resolve_call(c, run_id, call_id, commit, by))

    # Time and signals --------------------------------------------------------------------------------

    async def end_timer(self, run_id: str, timer_id: str, by: str, *, fires: bool) -> AskRow:
        return await self._write(run_id, lambda c: sql_timers.end_timer(c, run_id, timer_id, by, fires))

    async def pause_tool(
        self, run_id: str, call_id: str, attempt: int, *, next_ms: int, ends_ms: int, message: str = ""
    ) -> None:
        await self._write(
            run_id, lambda c: sql_timers.pause_tool(c, run_id, call_id, attempt, next_ms, ends_ms, message)
        )

    async def send_signal(self, run_id: str, signal: NewSignal, *, only_waiting: bool = False) -> SignalRow:
        return await self._write(run_id, lambda c: sql_signals.send_signal(c, run_id, signal, only_waiting))

    async def runs_waiting_for(self, project_id: str, name: str, *, labels: Mapping[str, str], limit: int) -> list[str]:
        return await self._database.read(lambda c: sql_signals.runs_waiting_for(c, project_id, name, labels, limit))

    # Money -----------------------------------------------------------------------------------------

    async def read_ledger(
        self, run_id: str, *, after: int = 0, limit: int | None = None, descending: bool = False
    ) -> list[LedgerRow]:
        return await self._read(run_id, lambda c, run: sql_money.read_ledger(c, run, after, limit, descending))

    async def usage_by(
        self, project_id: str, group: UsageGroup, *, from_ms: int | None, before_ms: int | None
    ) -> list[UsageRow]:
        return await self._database.read(lambda c: sql_money.usage_by(c, project_id, group, from_ms, before_ms))

    async def calibrations(self) -> list[Calibration]:
        return await self._database.read(sql_money.calibrations)
