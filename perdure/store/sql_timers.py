"""Timers: what a call that sleeps waits for. They fire when their time comes, or by hand; a poll's pause between two
tries is here, too."""

from __future__ import annotations

from sqlalchemy import Connection

from perdure.core.happenings import Order
from perdure.core.state import Json
from perdure.store import ask_events
from perdure.store import events as say
from perdure.store.ask_rows import close_ask, find_ask, not_found
from perdure.store.call_answers import answer_call
from perdure.store.call_rows import Call
from perdure.store.json_text import dump, plain
from perdure.store.rows import AskRow, ToolCommit
from perdure.store.run_transaction import RunTransaction
from perdure.store.sql_ask_lists import get_ask
from perdure.store.sql_orders import add_order
from perdure.store.trouble import AskResolved, RunOver


def end_timer(connection: Connection, run_id: str, timer_id: str, by: str, fires: bool) -> AskRow:
    run = RunTransaction(connection, run_id, even_if_over=True)
    row = get_ask(connection, run.project_id, timer_id)
    if row.run_id != run.id or row.type != "timer":
        raise not_found(timer_id)
    row = find_ask(run, timer_id)
    if row.status == ("answered" if fires else "cancelled") and row.decided_by == plain(by):
        return row
    if run.over:
        raise RunOver(run.id, run.status)
    if row.status != "open":
        raise AskResolved(f"{row.id} has {'been cancelled' if row.status == 'cancelled' else 'fired'} already", row)
    call = Call.get(run, row.call_id)
    row = close_ask(run, row, "answered" if fires else "cancelled", decided_by=plain(by))
    if fires:
        fire(run, row, call, by)
    else:
        run.append(*ask_events.expired(row, "cancelled", by))
        left = max(0, row.expires_ms - run.now_ms) / 1_000
        words = f"{by} cancelled this sleep; {left:.1f} of its seconds were left."
        answer_call(run, call, ToolCommit("failed", words, "cancelled"), by=by)
    add_order(run, Order(0, "answer", call_id=call.key))
    run.save()
    return row


def fire(run: RunTransaction, row: AskRow, call: Call, by: str | None) -> None:
    """The sleeper wakes: its call is answered. ``row`` is closed already."""
    run.append(ask_events.fired(row, run.now_ms, by))
    result: dict[str, Json] = {"woken": by is not None, "slept_seconds": round((run.now_ms - row.asked_ms) / 1_000, 3)}
    if by is not None:
        result |= {"by": by, "seconds_left": round(max(0, row.expires_ms - run.now_ms) / 1_000, 3)}
    answer_call(run, call, ToolCommit("completed", dump(result)), by=by)


def pause_tool(
    connection: Connection, run_id: str, call_id: str, attempt: int, next_ms: int, ends_ms: int, message: str
) -> None:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, call_id)
    if call.row["open_attempt"] != attempt:  # it was lost, or has ended: somebody else goes on
        return
    call.row.update(open_attempt=None, outcome=dump({"ends_ms": ends_ms}))
    run.append(say.tool_progress(call.shown(arguments=False), attempt, next_ms, message))
    call.recovered(attempt)
    call.save()
    run.save()
