"""The events about what calls wait for: approvals, questions and timers. Their data is listed in ``events.py``.

A client tool's call and a wait for an event have no events of their own: tool.requested and tool.completed say all
there is, and signal.received what came.
"""

from __future__ import annotations

from typing import Any

from perdure.core.state import Json
from perdure.store.events import arguments_preview
from perdure.store.rows import AskRow, NewEvent


def asked(ask: AskRow) -> list[NewEvent]:
    match ask.type:
        case "client_tool" | "event" | "children":
            return []
        case "timer":
            return [_event(ask, "timer.started", {"until_ms": ask.expires_ms, "reason": ask.reason}, "asked")]
        case "question":
            questions: Any = ask.questions or []
            return [_event(ask, "question.asked", {"questions": questions, "expires_at_ms": ask.expires_ms}, "asked")]
        case "approval" | "unknown_outcome":
            data: dict[str, Json] = {
                "tool": ask.tool,
                "args_sha256": ask.args_sha256,
                "arguments_preview": arguments_preview(ask.arguments),
                "rule": ask.rule,
                "reason": ask.reason,
                "expires_at_ms": ask.expires_ms,
                "quorum": ask.terms.quorum,
                "four_eyes": ask.terms.four_eyes,
                "about": "call" if ask.type == "approval" else "unknown_outcome",
            }
            return [_event(ask, "approval.requested", data, "asked")]


def voted(ask: AskRow) -> NewEvent:
    vote = ask.votes[-1]
    data: dict[str, Json] = {
        "by": vote.by,
        "decision": vote.decision,
        "args_sha256": ask.args_sha256,
        "votes": len(ask.votes),
        "quorum": ask.terms.quorum,
    }
    return _event(ask, "approval.voted", data, f"{ask.args_sha256}/{vote.by}/{vote.at_ms}/voted")


def decided(ask: AskRow) -> NewEvent:
    data: dict[str, Json] = {"decision": ask.decision, "by": ask.decided_by, "scope": ask.scope}
    if ask.message:
        data["message"] = ask.message
    if ask.edited:
        data["edited"] = True
    data["args_sha256"] = ask.args_sha256
    return _event(ask, "approval.decided", data, "decided")


def answered(ask: AskRow) -> NewEvent:
    data: dict[str, Json] = {"by": ask.decided_by, "answers": ask.answers}
    return _event(ask, "question.answered", data, "decided")


def escalated(ask: AskRow) -> NewEvent:
    data: dict[str, Json] = {"reason": "escalate", "expires_at_ms": ask.expires_ms}
    return _event(ask, "approval.expired", data, "escalated")


def fired(ask: AskRow, at_ms: int, by: str | None) -> NewEvent:
    data: dict[str, Json] = {"late_ms": max(0, at_ms - ask.expires_ms)}
    if by is not None:
        data["by"] = by
    return _event(ask, "timer.fired", data, "fired")


def expired(ask: AskRow, reason: str, by: str | None = None) -> list[NewEvent]:
    if ask.type in ("client_tool", "event", "children"):
        return []
    if ask.type == "timer":
        return [
            _event(ask, "timer.cancelled", {"reason": reason} if by is None else {"reason": reason, "by": by}, "ended")
        ]
    type_ = "question.expired" if ask.type == "question" else "approval.expired"
    return [_event(ask, type_, {"reason": reason}, "expired")]


def _event(ask: AskRow, type_: str, data: dict[str, Json], key: str) -> NewEvent:
    name = {"question": "question_id", "timer": "timer_id"}.get(ask.type, "approval_id")
    return NewEvent(type_, {name: ask.id, **data}, f"{ask.id}/{key}", call_id=ask.call_id)
