"""The types of events, all of them: a reader may ask for those that this version does not write yet."""

from __future__ import annotations

from typing import Literal

EventType = Literal[
    "run.created", "run.queued", "run.started", "run.waiting", "run.requires_action", "run.paused",
    "run.resumed",
    "run.recovering", "run.recovered", "run.cancelling", "run.completed", "run.incomplete", "run.failed",
    "run.cancelled", "run.expired", "run.updated",
    "turn.started", "turn.completed",
    "model.started", "model.completed", "model.retrying", "model.aborted", "model.fallback",
    "message.added",
    "text.delta", "reasoning.delta", "tool_args.delta",
    "tool.requested", "tool.started", "tool.progress", "tool.retrying", "tool.completed", "tool.failed",
    "tool.unknown", "tool.denied",
    "approval.requested", "approval.voted", "approval.decided", "approval.expired", "question.asked",
    "question.answered", "question.expired",
    "inbox.accepted", "inbox.applied", "inbox.returned", "signal.received",
    "timer.started", "timer.fired", "timer.cancelled",
    "child.started", "child.completed", "child.failed", "agent.transferred",
    "board.posted", "board.updated", "board.removed",
    "budget.warning", "budget.reached", "budget.overrun", "usage.updated",
    "context.folded", "artifact.created", "todo.updated", "log",
    "events.pruned",
]  # fmt: skip
