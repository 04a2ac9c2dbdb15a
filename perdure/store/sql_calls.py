"""What activities write about model calls and tool calls: look, begin an attempt, commit its answer.

Each function is one transaction. The first answer that arrives ends the call, whichever attempt
brought it; a second one changes nothing but the bill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from perdure.content import Block, ToolCallBlock
from perdure.core.budget import Ask, Grant, Reached
from perdure.core.happenings import CallAsked, Order
from perdure.core.keys import is_wrap_up_key
from perdure.core.numbers import Numbers
from perdure.core.state import Failure, OutboxEvent, Usage
from perdure.store import events as say
from perdure.store import ledger_rows as money
from perdure.store.ask_rows import ask, cancel_asks
from perdure.store.call_answers import answer_call, end_model
from perdure.store.call_rows import Call, add_calls, arguments_in, usage_text
from perdure.store.json_text import dump, plain
from perdure.store.rows import Begun, CallRow, ModelCommit, RulingShown, ToolCommit
from perdure.store.run_transaction import RunTransaction
from perdure.store.sql_inbox import apply_messages, waiting_among
from perdure.store.sql_orders import add_order
from perdure.store.sql_signals import hear_buffered


def begin_model(
    connection: Connection, run_id: str, key: str, turn: int, *, model: str, worker: str, wants: Ask, apply: Numbers,
    only_for_messages: bool, closes: str, outbox: Sequence[OutboxEvent],
) -> Begun:  # fmt: skip
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    if closes:
        _close(run, closes, key)
    call = Call.find(run, key)
    if call and call.ended:
        run.save()
        return Begun(call.row["attempts"], ended=call.shown())
    lost = _give_up_lost(run, call) if call else None
    waiting = waiting_among(run, apply)
    begun = _no_attempt(run, call, only_for_messages and not waiting)
    if begun is None:
        wants = _with_messages(wants, waiting)
        answer = money.try_to_reserve(run, wants)
        match answer:
            case Reached(limit):
                begun = _reached(run, key, call, lost, limit)
            case Grant():
                begun = _begin(run, call, key, turn, model, worker, waiting, lost, answer, wants)
    run.save()
    return begun


def _close(run: RunTransaction, closes: str, key: str) -> None:
    """A call that was called off without a word: nobody will report its end, nor that of any other before it.
    Had it been answered all the same, the run never heard of what its answer asked for."""
    called_off = Call.find(run, closes)
    answered = called_off.row["message_number"] if called_off and called_off.ended else None
    for call in Call.open(run):
        if call.row["kind"] == "model" and call.key != key:
            failure = Failure("cancelled", "the call was called off", attempts=call.row["attempts"])
            end_model(run, call, call.row["open_attempt"], "cancelled", failure)
            call.recovered(call.row["attempts"])
            call.save()
        elif answered is not None and call.row["asked_number"] == answered:
            text = "The answer that asked for this call was called off: it was not run."
            cancel_asks(run, call.key)
            answer_call(run, call, ToolCommit("failed", text, "skipped"))


def _give_up_lost(run: RunTransaction, call: Call) -> int | None:
    """The attempt that is still open: its worker is gone, and what it may have cost is spent."""
    lost: int | None = call.row["open_attempt"]
    if lost is not None:
        run.append(say.model_aborted(call.key, lost, "lost"))
        money.settle_assumed(run, call, lost)
        call.lose()
        call.row["open_attempt"] = None
    return lost


def _no_attempt(run: RunTransaction, call: Call | None, nothing_came: bool) -> Begun | None:
    """The messages that the call was wanted for were withdrawn, and the transcript ends with an answer."""
    if nothing_came and run.row["output_number"] == run.row["last_number"]:
        if call:
            call.save()
        return Begun(call.row["attempts"] if call else 0, nothing_new=True)
    return None


def _with_messages(wants: Ask, waiting: Sequence[Any]) -> Ask:
    """The bound of the prompt, with the messages that the call takes along."""
    if not waiting:
        return wants
    return wants.with_added(sum(len(row["content"].encode()) for row in waiting), len(waiting))


def _reached(run: RunTransaction, key: str, call: Call | None, lost: int | None, limit: str) -> Begun:
    entry = run.row["last_entry"]
    assert isinstance(entry, int)
    if not is_wrap_up_key(key):  # what was reached is told by the call that was to be made; these are its last words
        run.append_once(say.budget_reached(key, limit, entry))
    if call:
        if lost is not None:
            call.recovered(lost)
        call.save()
    return Begun(call.row["attempts"] if call else 0, lost_attempt=lost, reached=limit)


def _begin(
    run: RunTransaction, call: Call | None, key: str, turn: int, model: str, worker: str, waiting: Sequence[Any],
    lost: int | None, grant: Grant, wants: Ask,
) -> Begun:  # fmt: skip
    if waiting:
        apply_messages(run, waiting)
    if call is None:
        call = Call.new(run, {"key": plain(key), "kind": "model", "name": plain(model), "turn": turn})
        if turn > 1:
            run.append_once(say.turn_completed(turn - 1))
        run.append_once(say.turn_started(turn))
    call.row["name"] = plain(model)
    begun = call.begin(worker)
    money.keep(run, call, grant, wants)
    run.append(say.model_started(key, turn, model, begun.attempt))
    call.save()
    newest = run.row["last_number"]
    assert isinstance(newest, int)
    return Begun(begun.attempt, lost_attempt=lost, call=call.shown(), grant=grant, newest=newest)


def commit_model(connection: Connection, run_id: str, key: str, attempt: int, commit: ModelCommit) -> CallRow:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, key)
    if call.ended:
        if call.row["status"] != "completed" or attempt != call.row["ended_attempt"]:
            _pay_second(run, call, attempt, commit.usage)
        return call.shown()
    number = run.add_message("assistant", commit.content, producer=commit.producer, stop_reason=commit.stop)
    run.row["output_number"] = number
    if (commit.usage.input_tokens or commit.usage.output_tokens) and not is_wrap_up_key(key):
        run.row["exact_tokens"] = commit.usage.input_tokens + commit.usage.output_tokens
        run.row["exact_number"] = number
    _ask(run, call.row["turn"], number, commit)
    latency_ms = run.now_ms - call.row["started_ms"]
    other = call.row["open_attempt"] if call.row["open_attempt"] != attempt else None
    run.append(say.model_completed(call.shown(), attempt, commit, latency_ms))
    run.add_usage(commit.usage)
    if call.row["open_attempt"] == attempt:
        money.settle_used(run, call, attempt, commit.usage)
    else:
        money.correct(run, call, attempt, commit.usage)
    if other is not None:  # it is still at the vendor, and its answer will come second
        run.append(say.model_aborted(key, other, "superseded"))
        money.settle_assumed(run, call, other)
    call.end(
        attempt, "completed", usage=usage_text(commit.usage), message_number=number, outcome=dump(commit.outcome),
        vendor_id=plain(commit.vendor_id) if commit.vendor_id is not None else None,
    )  # fmt: skip
    if commit.limit:
        entry = run.row["last_entry"]
        assert isinstance(entry, int)
        run.append(say.budget_reached(key, commit.limit, entry))
    run.count("turns")
    if not commit.calls:  # another call of the turn, called off too late, may have said so before
        run.append_once(say.turn_completed(call.row["turn"]))
    call.recovered(attempt)
    call.save()
    run.save()
    if run.row["buffered_signals"] and any(new.type == "event" for new in commit.asks):
        hear_buffered(connection, run_id, [new.call_id for new in commit.asks if new.type == "event"])
    return call.shown()


def _ask(run: RunTransaction, turn: int, number: int, commit: ModelCommit) -> None:
    """A ``requested`` row and tool.requested for each tool call of the answer, and what must be asked first."""
    if not commit.calls:  # an answer that was cut off may hold half a call: none is made
        return
    blocks: list[ToolCallBlock] = [block for block in commit.content if block["type"] == "tool_call"]
    if len(blocks) != len(commit.calls):
        raise ValueError(f"run {run.id}: {len(blocks)} tool_call blocks, but {len(commit.calls)} verdicts")
    hashes: Sequence[str | None] = commit.hashes or [None] * len(blocks)
    rulings: Sequence[RulingShown | None] = commit.rulings or [None] * len(blocks)
    rows = [
        {
            "key": plain(asked.call_id), "kind": "tool", "name": plain(asked.tool), "turn": turn,
            "asked_number": number, "asked_index": index, "args_sha256": sha256, "error": _words(asked),
        }
        for index, (asked, sha256) in enumerate(zip(commit.calls, hashes, strict=True))
    ]  # fmt: skip
    add_calls(run, rows)
    for asked, block, ruling in zip(commit.calls, blocks, rulings, strict=True):
        run.append(say.tool_requested(plain(asked.call_id), asked, block, ruling))
    places = {asked.call_id: index for index, asked in enumerate(commit.calls)}
    for new in commit.asks:
        ask(run, new, arguments_in(commit.content, places[new.call_id]))


def _words(asked: CallAsked) -> str | None:
    """Why a call must not run: filed with it, for they never go through Temporal."""
    if asked.refusal is None:
        return None
    return dump(say.failure_data(Failure(asked.refusal_code, asked.refusal, call_id=asked.call_id)))


def _pay_second(run: RunTransaction, call: Call, attempt: int, usage: Usage) -> None:
    """An answer that came second was paid all the same: its usage counts, its text does not."""
    paid = say.paid_twice(call.key, attempt, usage)
    if paid.key and run.known([paid.key]):
        return
    run.append_once(say.model_aborted(call.key, attempt, "superseded"), paid)
    run.add_usage(usage)
    money.correct(run, call, attempt, usage)
    run.save()


def fail_model_attempt(
    connection: Connection, run_id: str, key: str, attempt: int, failure: Failure, retry_in_seconds: float | None,
    billed: bool,
) -> None:  # fmt: skip
    run = RunTransaction(connection, run_id)
    call = Call.get(run, key)
    if call.row["open_attempt"] != attempt:  # it was lost, or has ended: somebody else goes on
        return
    run.append(say.model_aborted(key, attempt, "cancelled" if failure.code == "cancelled" else "failed"))
    if billed:
        money.settle_assumed(run, call, attempt)
    else:
        money.release(run, call, attempt)
    if retry_in_seconds is None:
        call.end(attempt, "failed", error=dump(say.failure_data(failure)))
    else:
        call.close(failure)
        run.append(say.model_retrying(key, attempt, failure, retry_in_seconds))
    call.recovered(attempt)
    call.save()
    run.save()


def interrupt_model(
    connection: Connection, run_id: str, key: str, attempt: int, content: Sequence[Block], model: str, billed: bool
) -> None:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, key)
    if call.row["open_attempt"] != attempt:  # it was lost, or has ended: somebody else goes on
        return
    number = None
    if content:
        number = run.add_message("assistant", content, producer=model, stop_reason="interrupted")
        run.row["output_number"] = number
    failure = Failure("interrupted", "a message interrupted the call", attempts=attempt)
    end_model(run, call, attempt, "interrupted", failure, billed=billed)
    call.row["message_number"] = number
    run.count("turns")
    call.recovered(attempt)
    call.save()
    run.save()


def begin_tool(
    connection: Connection, run_id: str, call_id: str, worker: str, may_repeat: bool, tries_max: int, ordered: int,
    outbox: Sequence[OutboxEvent],
) -> Begun:  # fmt: skip
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.get(run, call_id)
    if call.ended:
        run.save()
        return Begun(call.row["attempts"], ended=call.shown())
    if ordered < (call.row["ordered"] or 0):  # a delivery from before the order: another action carries it out
        run.save()
        return Begun(call.row["attempts"], superseded=True)
    given_up = call.row["attempts"] - (call.row["ordered_attempts"] or 0) >= tries_max
    if given_up or (call.row["open_attempt"] is not None and not may_repeat):
        lost = call.lose()
        call.save()
        run.save()
        return Begun(call.row["attempts"], lost_attempt=lost, call=call.shown(), given_up=given_up)
    begun = call.begin(worker)
    assert begun.call is not None
    if begun.lost_attempt is not None:
        run.append(say.tool_retrying(begun.call, begun.lost_attempt, "worker_lost", "its worker is gone", 0))
    run.append(say.tool_started(begun.call, begun.attempt))
    call.save()
    run.save()
    return replace(begun, tries=begun.attempt - (call.row["ordered_attempts"] or 0))


def commit_tool(
    connection: Connection, run_id: str, call_id: str, commit: ToolCommit, attempt: int | None,
    outbox: Sequence[OutboxEvent],
) -> CallRow:  # fmt: skip
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.get(run, call_id)
    if call.ended or (attempt is not None and call.row["open_attempt"] != attempt):
        run.save()
        return call.shown()
    why = "message" if commit.code == "woken" else "cancelled"
    if any(row.type == "unknown_outcome" for row in cancel_asks(run, call_id, timers=why)):
        add_order(run, Order(0, "answer", call_id=call.key))  # nobody waits for this attempt any more, but for people
    shown = answer_call(run, call, commit)
    run.save()
    return shown


def fail_tool_attempt(
    connection: Connection, run_id: str, call_id: str, attempt: int, failure: Failure, retry_in_seconds: float
) -> None:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, call_id)
    if call.row["open_attempt"] != attempt:  # it was lost, or has ended: somebody else goes on
        return
    call.close(failure)
    shown = call.shown(arguments=False)
    run.append(say.tool_retrying(shown, attempt, failure.code, failure.message, retry_in_seconds))
    call.recovered(attempt)
    call.save()
    run.save()
