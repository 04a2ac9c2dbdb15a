"""What becomes of calls that wait too long, and of calls that are stuck: expiry, parking, retry and results by
hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from perdure.core.happenings import AskSettled, Order
from perdure.core.state import OutboxEvent
from perdure.store import ask_events
from perdure.store import events as say
from perdure.store.ask_rows import (
    ask,
    cancel_asks,
    close_ask,
    find_ask,
    mark_settled,
    newest_ask,
    open_asks_of,
    save_ask,
    settled_by,
    was_approved,
)
from perdure.store.call_answers import answer_call
from perdure.store.call_rows import Call
from perdure.store.family_rows import to_background
from perdure.store.json_text import dump, plain
from perdure.store.rows import AskRow, CallRow, NewAsk, ToolCommit
from perdure.store.run_transaction import RunTransaction
from perdure.store.sql_asks import give_up_attempt
from perdure.store.sql_family import settle_wait
from perdure.store.sql_orders import add_order
from perdure.store.sql_timers import fire
from perdure.store.trouble import AskResolved, NotFound

_TOO_LATE = "Nobody decided about this call in time. It was not run."
_NO_ANSWER = "Nobody answered in time."
_NO_RESULT = "The client gave no result in time."
_NO_WORD = "It is not known whether this call took effect, and nobody decided about it in time: check."


def settle_ask(
    connection: Connection, run_id: str, key: str, call_id: str, outbox: Sequence[OutboxEvent]
) -> AskSettled:
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    row = newest_ask(run, call_id)
    if row is None:
        raise NotFound("ask", call_id)
    call = Call.get(run, call_id)
    settled = _settled(run, row, call, key)
    run.save()
    return settled


def _settled(run: RunTransaction, row: AskRow, call: Call, key: str) -> AskSettled:
    """Read top to bottom: the first line that applies wins."""
    if call.ended:
        return AskSettled(key, call.key, "answered")
    if row.status == "expired":  # and the call was left open: this very settlement came through before
        return AskSettled(key, call.key, "failed")
    if row.status != "open":
        return AskSettled(key, call.key, "approved")
    match row.type:
        case "client_tool":
            return _settle_client_tool(run, row, call, key)
        case "question":
            return _settle_question(run, row, call, key)
        case "timer":
            fire(run, close_ask(run, row, "expired"), call, None)
            return AskSettled(key, call.key, "answered")
        case "event":
            close_ask(run, row, "expired")
            answer_call(run, call, ToolCommit("completed", dump({"received": False, "timed_out": True})))
            return AskSettled(key, call.key, "answered")
        case "children":
            return settle_wait(run, row, call, key)
        case "approval" | "unknown_outcome":
            return _settle_approval(run, row, call, key)


def _settle_client_tool(run: RunTransaction, row: AskRow, call: Call, key: str) -> AskSettled:
    """An approval that was given just before has opened it: then it waits for the client only from now on. Once
    that was said, or when its own time is over, the client is late."""
    if was_approved(run, call.key) and run.now_ms < row.expires_ms and settled_by(run, row) in (None, key):
        mark_settled(run, row, key)
        return AskSettled(key, call.key, "approved", row.expires_ms)
    close_ask(run, row, "expired")
    answer_call(run, call, ToolCommit("failed", _NO_RESULT, "tool_timeout"))
    return AskSettled(key, call.key, "answered")


def _settle_question(run: RunTransaction, row: AskRow, call: Call, key: str) -> AskSettled:
    questions = row.questions or []
    if questions and all("default" in question for question in questions):
        answers = {str(question["id"]): question["default"] for question in questions}
        row = close_ask(run, row, "expired", answers=answers)
        run.append(*ask_events.expired(row, "default"))
        answer_call(run, call, ToolCommit("completed", dump(answers)))
    else:
        run.append(*ask_events.expired(close_ask(run, row, "expired"), "deny"))
        answer_call(run, call, ToolCommit("failed", _NO_ANSWER, "tool_timeout"))
    return AskSettled(key, call.key, "answered")


def _settle_approval(run: RunTransaction, row: AskRow, call: Call, key: str) -> AskSettled:
    if row.escalated and settled_by(run, row) == key:  # this very settlement came through before
        return AskSettled(key, call.key, "escalated", row.expires_ms)
    if row.terms.on_expiry == "escalate" and not row.escalated:
        return _escalate(run, row, call, key)
    if row.terms.on_expiry == "fail":
        run.append(*ask_events.expired(close_ask(run, row, "expired"), "fail"))
        return AskSettled(key, call.key, "failed")
    run.append(*ask_events.expired(close_ask(run, row, "expired"), "deny"))
    late = ToolCommit("failed", _TOO_LATE, "tool_denied")
    unknown = ToolCommit("unknown", _NO_WORD, "tool_outcome_unknown")
    answer_call(run, call, unknown if row.type == "unknown_outcome" else late)
    return AskSettled(key, call.key, "answered")


def _escalate(run: RunTransaction, row: AskRow, call: Call, key: str) -> AskSettled:
    expires_ms = max(run.now_ms, row.expires_ms) + int(row.terms.expires_seconds * 1_000)
    row = save_ask(run, replace(row, escalated=True, expires_ms=expires_ms))
    mark_settled(run, row, key)
    run.append(ask_events.escalated(row))
    return AskSettled(key, call.key, "escalated", expires_ms)


def park_tool(connection: Connection, run_id: str, call_id: str, attempt: int, new: NewAsk) -> AskRow:
    run = RunTransaction(connection, run_id)
    call = _open_tool(run, call_id)
    for row in open_asks_of(run, call_id):
        return row
    if call.row["open_attempt"] != attempt:
        raise AskResolved(f"attempt {attempt} of the call {call_id!r} is over: somebody went on with it")
    shown = call.shown()
    run.append_once(say.tool_parked(shown, attempt, new.reason))
    row = ask(run, new, shown.arguments)
    run.save()
    return find_ask(run, row.id)


def retry_call(connection: Connection, run_id: str, call_id: str, by: str, reason: str) -> CallRow:
    run = RunTransaction(connection, run_id)
    call = _open_tool(run, call_id)
    if not call.row["attempts"]:
        # What was never begun waits for its turn, for a decision, or to be refused: none of that is overruled here.
        raise AskResolved(f"the call {call_id!r} has not begun: there is nothing to retry")
    cancel_asks(run, call_id)
    words = f"{plain(by)} ordered the call to run again" + (f": {reason}" if reason else "")
    give_up_attempt(run, call, "retried", words)
    order = add_order(run, Order(0, "retry_call", call_id=call.key, reason=reason))
    call.row.update(ordered=order.number, ordered_attempts=call.row["attempts"])
    call.save()
    run.save()
    return call.shown()


def resolve_call(connection: Connection, run_id: str, call_id: str, commit: ToolCommit, by: str) -> CallRow:
    run = RunTransaction(connection, run_id)
    call = _open_tool(run, call_id)
    cancel_asks(run, call_id)
    to_background(run, call.key)
    shown = answer_call(run, call, commit, by=plain(by))
    add_order(run, Order(0, "answer", call_id=call.key))
    run.save()
    return shown


def _open_tool(run: RunTransaction, call_id: str) -> Call:
    """NotFound; AskResolved when the call has ended."""
    call = Call.get(run, call_id)
    if call.row["kind"] != "tool":
        raise NotFound("call", call_id)
    if call.ended:
        raise AskResolved(f"the call {call_id!r} has ended: it is {call.row['status']}")
    return call
