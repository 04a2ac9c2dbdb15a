"""How a tool call gets its result, whoever gives it: the worker that ran it, a person, the client, the end of
the run. One transaction's worth: the message, the call's row, the event.
"""

from __future__ import annotations

from perdure.content import ToolResultBlock
from perdure.core.state import Failure
from perdure.store import events as say
from perdure.store.ask_rows import cancel_asks
from perdure.store.call_rows import Call
from perdure.store.json_text import dump
from perdure.store.ledger_rows import release, settle_assumed
from perdure.store.rows import CallRow, ToolCommit
from perdure.store.run_transaction import RunTransaction


def answer_call(run: RunTransaction, call: Call, commit: ToolCommit, *, by: str | None = None) -> CallRow:
    """The result as a message, the call ended and saved, and the events of both."""
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
    call.end(attempt, commit.status, message_number=number, error=error, outcome=dump({"bytes": size}))
    shown = call.shown()
    run.append(say.tool_ended(shown, attempt, commit, size, by))
    call.recovered(attempt or 0)
    call.save()
    return shown


def end_model(
    run: RunTransaction, call: Call, attempt: int | None, reason: str, failure: Failure, *, billed: bool = True
) -> None:
    """A model call ends without an answer; what its open attempt may have cost is spent."""
    if attempt is not None:
        run.append_once(say.model_aborted(call.key, attempt, reason))
        if billed:
            settle_assumed(run, call, attempt)
        else:
            release(run, call, attempt)
    call.end(attempt, "failed", error=dump(say.failure_data(failure)))


def close_all(run: RunTransaction, reason: str) -> None:
    """The run ends now: nobody is asked anything any more, and nobody reports the end of what is open. What a
    model had said is void, what a tool may have done is unknown, what has not begun never will."""
    waiting = {row.call_id for row in cancel_asks(run, timers="run_ended") if row.type in ("timer", "event")}
    for call in Call.open(run):
        if call.row["kind"] == "model":
            failure = Failure("cancelled", reason, attempts=call.row["attempts"])
            end_model(run, call, call.row["open_attempt"], "cancelled", failure)
            call.save()
        elif call.key in waiting:
            answer_call(run, call, ToolCommit("failed", f"{reason} while this call waited.", "cancelled"))
        elif call.row["status"] == "requested":
            answer_call(run, call, ToolCommit("failed", f"{reason} before this call began: it was not run.", "skipped"))
        else:
            text = f"{reason} while this call was in flight: it may or may not have taken effect."
            answer_call(run, call, ToolCommit("unknown", text, "tool_outcome_unknown"))
