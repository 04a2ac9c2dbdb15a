"""What activities write about model calls and tool calls: look, begin an attempt, commit its answer.

Each function is one transaction. The first answer that arrives ends the call, whichever attempt
brought it; a second one changes nothing but the bill.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from perdure.contract import ToolCallBlock, ToolResultBlock
from perdure.core.state import Failure, OutboxEvent, Usage
from perdure.store import events as say
from perdure.store.call_rows import Call, add_calls, usage_text
from perdure.store.json_text import dump, plain
from perdure.store.rows import Begun, CallRow, ModelCommit, ToolCommit
from perdure.store.run_transaction import RunTransaction
from perdure.store.sql_inbox import apply_messages


def begin_model(
    connection: Connection, run_id: str, key: str, turn: int, model: str, worker: str,
    apply: Sequence[str], outbox: Sequence[OutboxEvent],
) -> Begun:  # fmt: skip
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.find(run, key)
    if call and call.ended:
        run.save()
        return Begun(call.row["attempts"], ended=call.shown())
    apply_messages(run, apply)
    if call is None:
        call = Call.new(run, {"key": plain(key), "kind": "model", "name": plain(model), "turn": turn})
        if turn > 1:
            run.append_once(say.turn_completed(turn - 1))
        run.append(say.turn_started(turn))
    call.row["name"] = plain(model)
    if call.row["open_attempt"] is not None:
        run.append(say.model_aborted(key, call.row["open_attempt"], "lost"))
    begun = call.begin(worker)
    run.append(say.model_started(key, turn, model, begun.attempt))
    call.save()
    run.save()
    return begun


def commit_model(connection: Connection, run_id: str, key: str, attempt: int, commit: ModelCommit) -> CallRow:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, key)
    if call.ended:
        if attempt != call.row["ended_attempt"]:
            _pay_second(run, key, attempt, commit.usage)
        return call.shown()
    number = run.add_message("assistant", commit.content, producer=commit.producer, stop_reason=commit.stop)
    run.row["output_number"] = number
    _ask(run, call.row["turn"], number, commit)
    latency_ms = run.now_ms - call.row["started_ms"]
    call.end(
        attempt, "completed", usage=usage_text(commit.usage), message_number=number, outcome=dump(commit.outcome),
        vendor_id=plain(commit.vendor_id) if commit.vendor_id is not None else None,
    )  # fmt: skip
    run.append(say.model_completed(call.shown(), attempt, commit, latency_ms))
    run.add_usage(commit.usage)
    run.count("turns")
    if not commit.calls:
        run.append(say.turn_completed(call.row["turn"]))
    call.recovered(attempt)
    call.save()
    run.save()
    return call.shown()


def _ask(run: RunTransaction, turn: int, number: int, commit: ModelCommit) -> None:
    """A ``requested`` row and tool.requested for each tool call of the answer."""
    blocks: list[ToolCallBlock] = [block for block in commit.content if block["type"] == "tool_call"]
    if len(blocks) != len(commit.calls):
        raise ValueError(f"run {run.id}: {len(blocks)} tool_call blocks, but {len(commit.calls)} verdicts")
    rows = [
        {
            "key": plain(asked.call_id), "kind": "tool", "name": plain(asked.tool), "turn": turn,
            "asked_number": number, "asked_index": index,
        }
        for index, asked in enumerate(commit.calls)
    ]  # fmt: skip
    if rows:
        add_calls(run, rows)
    for asked, block in zip(commit.calls, blocks, strict=True):
        run.append(say.tool_requested(plain(asked.call_id), asked, block))


def _pay_second(run: RunTransaction, key: str, attempt: int, usage: Usage) -> None:
    """An answer that came second was paid all the same: its usage counts, its text does not."""
    paid = say.paid_twice(key, attempt, usage)
    if paid.key and run.known([paid.key]):
        return
    run.append_once(say.model_aborted(key, attempt, "superseded"), paid)
    run.add_usage(usage)
    run.save()


def fail_model_attempt(
    connection: Connection, run_id: str, key: str, attempt: int, failure: Failure, retry_in_seconds: float | None
) -> None:
    run = RunTransaction(connection, run_id)
    call = Call.get(run, key)
    if call.row["open_attempt"] != attempt:  # it was lost, or has ended: somebody else goes on
        return
    run.append(say.model_aborted(key, attempt, "failed"))
    if retry_in_seconds is None:
        call.end(attempt, "failed", error=dump(say.failure_data(failure)))
    else:
        call.close(failure)
        run.append(say.model_retrying(key, attempt, failure, retry_in_seconds))
    call.recovered(attempt)
    call.save()
    run.save()


def begin_tool(
    connection: Connection, run_id: str, call_id: str, worker: str, may_repeat: bool, outbox: Sequence[OutboxEvent]
) -> Begun:
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.get(run, call_id)
    if call.ended:
        run.save()
        return Begun(call.row["attempts"], ended=call.shown())
    if call.row["open_attempt"] is not None and not may_repeat:
        lost = call.lose()
        call.save()
        run.save()
        return Begun(call.row["attempts"], lost_attempt=lost, call=call.shown())
    begun = call.begin(worker)
    assert begun.call is not None
    if begun.lost_attempt is not None:
        run.append(say.tool_retrying(begun.call, begun.lost_attempt, "worker_lost", "its worker is gone", 0))
    run.append(say.tool_started(begun.call, begun.attempt))
    call.save()
    run.save()
    return begun


def commit_tool(
    connection: Connection, run_id: str, call_id: str, commit: ToolCommit, outbox: Sequence[OutboxEvent]
) -> CallRow:
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.get(run, call_id)
    if call.ended:
        run.save()
        return call.shown()
    shown = _end_tool(run, call, commit)
    call.save()
    run.save()
    return shown


def _end_tool(run: RunTransaction, call: Call, commit: ToolCommit) -> CallRow:
    """The result as a message, the call ended, and the events of both."""
    size = commit.bytes or len(commit.text.encode(errors="surrogatepass"))
    result: ToolResultBlock = {
        "type": "tool_result",
        "call_id": call.key,
        "name": call.row["name"],
        "text": commit.text,
        "is_error": commit.status != "completed",
    }
    if commit.blob:
        result["blob"], result["bytes"] = commit.blob, size
    number = run.add_message("tool", [result])
    attempt = call.row["attempts"] or None
    error = None
    if commit.status != "completed":
        code, attempts = commit.code or "tool_error", call.row["attempts"]
        failure = Failure(code, say.preview(commit.text), call_id=call.key, attempts=attempts)
        error = dump(say.failure_data(failure))
    call.end(attempt, commit.status, message_number=number, error=error)
    shown = call.shown()
    run.append(say.tool_ended(shown, attempt, commit, size))
    call.recovered(attempt or 0)
    return shown


def close_started(run: RunTransaction, reason: str) -> None:
    """End what is in flight although nobody reports its end any more: the run ends now. What a model had
    said is void, what a tool may have done is unknown."""
    for call in Call.started(run):
        attempt = call.row["attempts"]
        if call.row["kind"] == "tool":
            text = f"{reason} while this call was in flight: it may or may not have taken effect."
            _end_tool(run, call, ToolCommit("unknown", text, "tool_outcome_unknown"))
        else:
            run.append_once(say.model_aborted(call.key, attempt, "cancelled"))
            call.end(attempt, "failed", error=dump(say.failure_data(Failure("cancelled", reason, attempts=attempt))))
        call.save()


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
