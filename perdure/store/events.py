"""The events the journal writes by itself: their keys and their data, in one place.

==================  ==============================================================================
type                data
==================  ==============================================================================
run.created         goal (preview), agent, model, schedule_id?, start_at_ms?
run.queued          (empty)
run.recovering      key, lost_attempt
run.recovered       key, attempt, after_ms
run.updated         labels, metadata, budget, limits, deadline_ms: those that were given
run.<waits>         run.waiting, run.paused {reason}, run.requires_action {reason, actions}: by the core
run.<terminal>      status, stop_reason, usage, error? (code, message, retryable, call_id, attempts)
turn.started        turn
turn.completed      turn
model.started       turn, model, attempt
model.completed     turn, stop_reason, usage, latency_ms, first_token_ms, attempt
model.aborted       attempt, reason: lost | failed | superseded | cancelled | interrupted
model.retrying      attempt (the one that failed), code, message, retry_in_seconds
message.added       message (whole; put in by the reader, from the message's number)
text.delta ...      text, index
tool.requested      tool, arguments_preview, bytes, refusal?, verdict?, rule?, reason?
tool.started        tool, attempt
tool.retrying       tool, attempt (the one that is over), code, message, retry_in_seconds
tool.progress       tool, attempt, next_at_ms, message?: a poll has tried in vain
tool.completed      tool, preview, bytes, blob?, by? (who gave the result by hand)
tool.failed         tool, code, message, bytes, by?; tool.denied and tool.unknown alike
approval.requested  approval_id, tool, args_sha256, arguments_preview, rule, reason, expires_at_ms, quorum,
                    four_eyes, about: call | unknown_outcome
approval.voted      approval_id, by, decision, args_sha256, votes, quorum
approval.decided    approval_id, decision, by, scope, message?, edited?, args_sha256
approval.expired    approval_id, reason: deny | fail | escalate | cancelled, expires_at_ms? (escalate)
question.asked      question_id, questions, expires_at_ms
question.answered   question_id, by, answers
question.expired    question_id, reason: default | deny | cancelled
timer.started       timer_id, until_ms, reason
timer.fired         timer_id, late_ms, by? (who fired it by hand)
timer.cancelled     timer_id, reason: message | cancelled | run_ended, by?
signal.received     signal_id, name, urgency, disposition: delivered | interrupting | buffered | duplicate | dropped |
                    expired | returned; payload_preview? (of what is new), by?
child.started       run_id, agent, model, goal (preview), depth, background, detached, budget (its slice, or null)
child.completed     run_id, agent, status: completed | incomplete, stop_reason, preview, usage
child.failed        run_id, agent, status: failed | cancelled | expired, code, message, usage
board.posted        entry_id, number, version, revision, topic?, preview; board.updated and board.removed alike
agent.transferred   from, to: each {name, version}: another agent goes on with the session
inbox.accepted      delivery
inbox.applied       number
inbox.returned      reason: withdrawn | replaced | run_ended
budget.warning      limit, percent
budget.reached      limit
budget.overrun      key, limit? (that is overspent now), reserved, used: {cost_usd, tokens, output_tokens}
usage.updated       key, attempt, usage: of an answer that was paid but came second
==================  ==============================================================================

``usage`` is {input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
cost_usd}; ``cost_usd`` is a decimal string, null when nobody knows the price. A ``limit`` is max_cost_usd,
max_tokens or max_output_tokens. A preview has at most 200 characters. Events about a call carry its key as
``call_id``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from perdure.content import Block, ToolCallBlock
from perdure.core.budget import WARNING_PERCENT, Amount, Budget
from perdure.core.happenings import CallAsked
from perdure.core.state import Failure, Json, OutboxEvent, Outcome, Usage
from perdure.store.board_rows import BoardChange
from perdure.store.json_text import dump
from perdure.store.rows import CallRow, ModelCommit, NewEvent, Origin, RulingShown, ToolCommit

CHILD_EVENTS = ("child/started", "child/ended")  # after a call's id: the keys of what a parent is told
DELTAS = ("text.delta", "reasoning.delta", "tool_args.delta")
PREVIEW_CHARACTERS_MAX = 200  # enough to recognise it in a list; the whole is one request away

STATUS_AFTER = {
    "run.started": "running",
    "run.waiting": "waiting",
    "run.requires_action": "requires_action",
    "run.paused": "paused",
    "run.resumed": "running",
    "run.cancelling": "cancelling",
}


def usd(micros: int) -> str:
    """Micro-USD as a decimal string with two to six places: ``2.50``, ``0.000375``."""
    places = f"{abs(micros) % 1_000_000:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{abs(micros) // 1_000_000}.{places}"


def usage_data(usage: Usage) -> dict[str, Json]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": None if usage.unpriced_calls else usd(usage.cost_micros),
    }


def amount_data(amount: Amount) -> dict[str, Json]:
    return {"cost_usd": usd(amount.cost_micros), "tokens": amount.tokens, "output_tokens": amount.output_tokens}


def budget_data(budget: Budget) -> dict[str, Json]:
    return {
        "max_cost_usd": None if budget.max_cost_micros is None else usd(budget.max_cost_micros),
        "max_tokens": budget.max_tokens,
        "max_output_tokens": budget.max_output_tokens,
        "on_limit": budget.on_limit,
    }


def preview(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARACTERS_MAX else text[: PREVIEW_CHARACTERS_MAX - 1] + "…"


def goal(content: Sequence[Block]) -> str:
    return preview(" ".join(block["text"] for block in content if block["type"] == "text"))


def from_outbox(event: OutboxEvent) -> NewEvent:
    return NewEvent(event.type, event.data, event.key)


def created(
    content: Sequence[Block],
    agent: str,
    model: str,
    origin: Origin | None = None,
    schedule_id: str | None = None,
    start_ms: int | None = None,
) -> NewEvent:
    data: dict[str, Json] = {"goal": goal(content), "agent": agent, "model": model}
    if origin is not None and origin.seq is None:
        data["retry_of"] = origin.run_id
    elif origin is not None:
        data["forked_from"] = {"run_id": origin.run_id, "seq": origin.seq}
    if schedule_id is not None:
        data["schedule_id"] = schedule_id
    if start_ms is not None:
        data["start_at_ms"] = start_ms
    return NewEvent("run.created", data, "created")


def queued() -> NewEvent:
    return NewEvent("run.queued", {}, "queued")


def ended(key: str, outcome: Outcome, usage: Usage) -> NewEvent:
    data: dict[str, Json] = {"status": outcome.status, "stop_reason": outcome.stop_reason, "usage": usage_data(usage)}
    if outcome.failure:
        data["error"] = failure_data(outcome.failure)
    return NewEvent(f"run.{outcome.status}", data, f"{key}/ended")


def failure_data(failure: Failure) -> dict[str, Json]:
    return {
        "code": failure.code,
        "message": failure.message,
        "retryable": failure.retryable,
        "call_id": failure.call_id,
        "attempts": failure.attempts,
    }


def recovering(key: str, lost_attempt: int) -> NewEvent:
    data: dict[str, Json] = {"key": key, "lost_attempt": lost_attempt}
    return NewEvent("run.recovering", data, f"{key}/{lost_attempt}/recovering", call_id=key)


def recovered(key: str, attempt: int, after_ms: int) -> NewEvent:
    data: dict[str, Json] = {"key": key, "attempt": attempt, "after_ms": after_ms}
    return NewEvent("run.recovered", data, f"{key}/{attempt}/recovered", call_id=key)


def turn_started(turn: int) -> NewEvent:
    return NewEvent("turn.started", {"turn": turn}, f"turn-{turn}/started")


def turn_completed(turn: int) -> NewEvent:
    return NewEvent("turn.completed", {"turn": turn}, f"turn-{turn}/completed")


def model_started(key: str, turn: int, model: str, attempt: int) -> NewEvent:
    data: dict[str, Json] = {"turn": turn, "model": model, "attempt": attempt}
    return NewEvent("model.started", data, f"{key}/{attempt}/started", call_id=key, attempt=attempt)


def model_aborted(key: str, attempt: int, reason: str) -> NewEvent:
    data: dict[str, Json] = {"attempt": attempt, "reason": reason}
    return NewEvent("model.aborted", data, f"{key}/{attempt}/aborted", call_id=key, attempt=attempt)


def model_retrying(key: str, attempt: int, failure: Failure, retry_in_seconds: float) -> NewEvent:
    data: dict[str, Json] = {
        "attempt": attempt,
        "code": failure.code,
        "message": failure.message,
        "retry_in_seconds": retry_in_seconds,
    }
    return NewEvent("model.retrying", data, f"{key}/{attempt}/retrying", call_id=key, attempt=attempt)


def model_completed(call: CallRow, attempt: int, commit: ModelCommit, latency_ms: int) -> NewEvent:
    data: dict[str, Json] = {
        "turn": call.turn,
        "stop_reason": commit.stop,
        "usage": usage_data(commit.usage),
        "latency_ms": latency_ms,
        "first_token_ms": commit.first_token_ms,
        "attempt": attempt,
    }
    return NewEvent("model.completed", data, f"{call.key}/completed", call_id=call.key, attempt=attempt)


def paid_twice(key: str, attempt: int, usage: Usage) -> NewEvent:
    """Its key is what adds the usage of a second answer to the run only once."""
    data: dict[str, Json] = {"key": key, "attempt": attempt, "usage": usage_data(usage)}
    return NewEvent("usage.updated", data, f"{key}/{attempt}/paid", call_id=key, attempt=attempt)


def arguments_preview(arguments: Json) -> str:
    return preview(arguments if isinstance(arguments, str) else dump(arguments))


def tool_requested(call_id: str, asked: CallAsked, block: ToolCallBlock, ruling: RulingShown | None) -> NewEvent:
    arguments = dump(block["arguments"]) if "arguments" in block else block.get("raw_arguments", "")
    data: dict[str, Json] = {
        "tool": asked.tool,
        "arguments_preview": preview(arguments),
        "bytes": len(arguments.encode(errors="surrogatepass")),
    }
    if asked.refusal is not None:
        data["refusal"] = asked.refusal
    if ruling is not None:
        data["verdict"], data["rule"] = ruling.verdict, ruling.rule
        if ruling.reason:
            data["reason"] = ruling.reason
    return NewEvent("tool.requested", data, f"{call_id}/requested", call_id=call_id)


def tool_started(call: CallRow, attempt: int) -> NewEvent:
    data: dict[str, Json] = {"tool": call.name, "attempt": attempt}
    return NewEvent("tool.started", data, f"{call.key}/{attempt}/started", call_id=call.key, attempt=attempt)


def tool_retrying(call: CallRow, attempt: int, code: str, message: str, retry_in_seconds: float) -> NewEvent:
    data: dict[str, Json] = {
        "tool": call.name,
        "attempt": attempt,
        "code": code,
        "message": message,
        "retry_in_seconds": retry_in_seconds,
    }
    return NewEvent("tool.retrying", data, f"{call.key}/{attempt}/retrying", call_id=call.key, attempt=attempt)


def tool_progress(call: CallRow, attempt: int, next_ms: int, message: str) -> NewEvent:
    data: dict[str, Json] = {"tool": call.name, "attempt": attempt, "next_at_ms": next_ms}
    if message:
        data["message"] = preview(message)
    return NewEvent("tool.progress", data, f"{call.key}/{attempt}/paused", call_id=call.key, attempt=attempt)


def tool_ended(
    call: CallRow, attempt: int | None, commit: ToolCommit, result_bytes: int, by: str | None = None
) -> NewEvent:
    denied = commit.status == "failed" and commit.code == "tool_denied"
    data: dict[str, Json] = {"tool": call.name}
    if commit.status == "completed":
        data["preview"] = preview(commit.text)
    else:
        data["code"], data["message"] = commit.code, preview(commit.text)
    data["bytes"] = result_bytes
    if commit.blob:
        data["blob"] = commit.blob
    if by is not None:
        data["by"] = by
    type_ = "tool.denied" if denied else f"tool.{commit.status}"
    return NewEvent(type_, data, f"{call.key}/ended", call_id=call.key, attempt=attempt)


def tool_parked(call: CallRow, attempt: int, message: str) -> NewEvent:
    """Its outcome is unknown, and the call stays open: a person shall say."""
    data: dict[str, Json] = {
        "tool": call.name,
        "code": "tool_outcome_unknown",
        "message": preview(message),
        "bytes": 0,
    }
    return NewEvent("tool.unknown", data, f"{call.key}/{attempt}/parked", call_id=call.key, attempt=attempt)


def budget_warning(limit: str, entry: int) -> NewEvent:
    return NewEvent("budget.warning", {"limit": limit, "percent": WARNING_PERCENT}, f"{limit}/{entry}/warning")


def budget_reached(key: str, limit: str, entry: int) -> NewEvent:
    """``entry`` is the ledger's newest line: looked at again before anything has changed, it is not said again."""
    return NewEvent("budget.reached", {"limit": limit}, f"{key}/{limit}/{entry}/reached", call_id=key)


def budget_overrun(key: str, attempt: int, reserved: Amount, used: Amount, limit: str | None) -> NewEvent:
    data: dict[str, Json] = {"key": key, "reserved": amount_data(reserved), "used": amount_data(used)}
    if limit:
        data["limit"] = limit
    return NewEvent("budget.overrun", data, f"{key}/{attempt}/overrun", call_id=key, attempt=attempt)


def child_started(
    call_id: str, child_id: str, agent: str, model: str, content: Sequence[Block], depth: int, how: Mapping[str, Json]
) -> NewEvent:
    data: dict[str, Json] = {
        "run_id": child_id,
        "agent": agent,
        "model": model,
        "goal": goal(content),
        "depth": depth,
        **how,
    }
    return NewEvent("child.started", data, f"{call_id}/child/started", call_id=call_id)


def child_ended(call_id: str, child_id: str, agent: str, outcome: Outcome, text: str, usage: Usage) -> NewEvent:
    data: dict[str, Json] = {"run_id": child_id, "agent": agent, "status": outcome.status}
    good = outcome.status in ("completed", "incomplete")
    if good:
        data["stop_reason"], data["preview"] = outcome.stop_reason, preview(text)
    else:
        data["code"] = outcome.failure.code if outcome.failure else outcome.status
        data["message"] = preview(outcome.failure.message if outcome.failure else outcome.stop_reason)
    data["usage"] = usage_data(usage)
    return NewEvent(f"child.{'completed' if good else 'failed'}", data, f"{call_id}/child/ended", call_id=call_id)


def board_key(call_id: str) -> str:
    """A call changes a blackboard once: by its event it is known."""
    return f"{call_id}/board"


def board_changed(verb: str, call_id: str, change: BoardChange, text: str, topic: str | None) -> NewEvent:
    data: dict[str, Json] = {**asdict(change), "preview": preview(text)}
    if topic is not None:
        data["topic"] = topic
    return NewEvent(f"board.{verb}", data, board_key(call_id), call_id=call_id)


def agent_transferred(
    call_id: str, turn: int, before: tuple[str, int | None], after: tuple[str, int]
) -> NewEvent:  # fmt: skip
    named: list[dict[str, Json]] = [{"name": name, "version": version} for name, version in (before, after)]
    data: dict[str, Json] = {"from": named[0], "to": named[1]}
    return NewEvent("agent.transferred", data, transferred_key(turn), call_id=call_id)


def transferred_key(turn: int) -> str:
    """A turn hands over once."""
    return f"turn-{turn}/transferred"


def inbox_accepted(message_id: str, delivery: str) -> NewEvent:
    return NewEvent("inbox.accepted", {"delivery": delivery}, f"{message_id}/accepted", message_id=message_id)


def inbox_applied(message_id: str, number: int) -> NewEvent:
    return NewEvent("inbox.applied", {"number": number}, f"{message_id}/applied", message_id=message_id)


def inbox_returned(message_id: str, reason: str) -> NewEvent:
    return NewEvent("inbox.returned", {"reason": reason}, f"{message_id}/returned", message_id=message_id)
