"""What people and clients are asked, and what a run waits for, as the JSON of this API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from api.times import Object, time, time_or_none
from perdure.store.rows import AskRow, AskType, InboxRow, RunRow

APPROVALS: tuple[AskType, ...] = ("approval", "unknown_outcome")
OF_SOMEBODY: tuple[AskType, ...] = (*APPROVALS, "question", "client_tool")  # the others wait for the world
_TIMER_STATUS: dict[str, str] = {"open": "open", "cancelled": "cancelled"}  # all else has fired


def ask(row: AskRow) -> Object:
    match row.type:
        case "approval" | "unknown_outcome":
            return approval(row)
        case "question":
            return question(row)
        case "client_tool":
            return client_tool_call(row)
        case "timer":
            return timer(row)
        case "event" | "children":
            raise AssertionError(f"{row.id} is asked of nobody: it is shown as waiting_for")
        case _:
            assert_never(row.type)


def approval(row: AskRow) -> Object:
    return {
        "id": row.id,
        "object": "approval",
        "type": "approval",
        "about": "unknown_outcome" if row.type == "unknown_outcome" else "call",
        "status": row.status,
        "run_id": row.run_id,
        "session_id": row.session_id,
        "call_id": row.call_id,
        "tool": row.tool,
        "arguments": row.arguments,
        "args_sha256": row.args_sha256,
        "rule": row.rule,
        "reason": row.reason,
        "quorum": row.terms.quorum,
        "votes": [{"by": vote.by, "decision": vote.decision, "at": time(vote.at_ms)} for vote in row.votes],
        "four_eyes": row.terms.four_eyes,
        "requested_by": row.requested_by,
        "decision": row.decision,
        "decided_by": row.decided_by,
        "message": row.message,
        "edited": row.edited,
        "scope": row.scope,
        "escalated": row.escalated,
        "on_expiry": row.terms.on_expiry,
        **_times(row),
    }


def question(row: AskRow) -> Object:
    return {
        "id": row.id,
        "object": "question",
        "type": "question",
        "status": row.status,
        "run_id": row.run_id,
        "session_id": row.session_id,
        "call_id": row.call_id,
        "questions": row.questions or [],
        "answers": row.answers,
        "answered_by": row.decided_by,
        **_times(row),
    }


def client_tool_call(row: AskRow) -> Object:
    return {
        "id": row.id,
        "object": "client_tool_call",
        "type": "client_tool",
        "status": row.status,
        "run_id": row.run_id,
        "session_id": row.session_id,
        "call_id": row.call_id,
        "tool": row.tool,
        "name": row.tool,
        "arguments": row.arguments,
        **_times(row),
    }


def timer(row: AskRow) -> Object:
    return {
        "id": row.id,
        "object": "timer",
        "type": "timer",
        "status": _TIMER_STATUS.get(row.status, "fired"),
        "run_id": row.run_id,
        "session_id": row.session_id,
        "call_id": row.call_id,
        "reason": row.reason,
        "until": time(row.expires_ms),
        "ended_by": row.decided_by,
        "created_at": time(row.asked_ms),
        "ended_at": time_or_none(row.ended_ms),
    }


def _times(row: AskRow) -> Object:
    return {
        "created_at": time(row.asked_ms),
        "expires_at": time(row.expires_ms),
        "ended_at": time_or_none(row.ended_ms),
    }


def waiting_for(run: RunRow, open_asks: Sequence[AskRow]) -> list[Object]:
    """``until`` is null where only somebody's word ends the wait. ``ref`` is the ask, the child, the tool of the rate
    limit, the limit of the budget, or the name of the event."""
    waits: list[Object] = [
        {
            "type": "approval" if row.type == "unknown_outcome" else row.type,
            "until": time(row.expires_ms),
            "ref": row.name if row.type == "event" else ref,
        }
        for row in open_asks
        for ref in (row.awaits.ids if row.awaits else (row.id,))
    ]
    what, _, about = (run.status_reason or "").partition(": ")
    if run.status == "scheduled":
        waits.append({"type": "start", "until": time_or_none(run.start_ms), "ref": None})
    if run.status == "waiting" and "poll" in what.split(", "):
        waits.append({"type": "poll", "until": None, "ref": None})
    if run.status == "waiting" and what == "rate_limit":
        waits.append({"type": "rate_limit", "until": None, "ref": about or None})
    if run.status == "paused":
        by_budget = what == "budget_reached"
        waits.append({"type": "budget" if by_budget else "pause", "until": None, "ref": about or None})
    return waits


def inbox_message(row: InboxRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "inbox_message",
        "run_id": row.run_id,
        "number": row.number,
        "content": row.content,
        "delivery": row.delivery,
        "status": row.status,
        "created_at": time(row.at_ms),
    }
