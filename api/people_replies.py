"""What the API answers with about approvals, questions, client tools, inboxes and what runs wait for."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.reply import ProblemDocument, Reply
from perdure.core.happenings import Delivery
from perdure.core.policy import OnExpiry
from perdure.store.rows import Decided, Scope


class VoteOut(Reply):
    by: str
    decision: Decided
    at: datetime


class ApprovalOut(Reply):
    """A tool call that a person decides about before it runs, or one whose outcome nobody knows. `args_sha256` is
    the hash of the arguments as they are now, edited ones included."""

    id: str
    object: Literal["approval"]
    type: Literal["approval"]
    about: Literal["call", "unknown_outcome"]
    status: Literal["open", "approved", "denied", "responded", "expired", "cancelled"]
    run_id: str
    session_id: str
    call_id: str
    tool: str
    arguments: Any
    args_sha256: str
    rule: str = Field(description="The rule of the policy that asks.")
    reason: str
    quorum: int
    votes: list[VoteOut]
    four_eyes: bool = Field(description="Whoever asked for the run may not decide.")
    requested_by: str | None
    decision: Decided | None
    decided_by: str | None
    message: str | None
    edited: bool
    scope: Scope
    escalated: bool = Field(description="Its time was over once, and was prolonged.")
    on_expiry: OnExpiry
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class QuestionOut(Reply):
    """What an agent asks people: one or several questions, answered together."""

    id: str
    object: Literal["question"]
    type: Literal["question"]
    status: Literal["open", "answered", "expired", "cancelled"]
    run_id: str
    session_id: str
    call_id: str
    questions: list[dict[str, Any]]
    answers: dict[str, Any] | None
    answered_by: str | None
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class ClientToolCallOut(Reply):
    """A call of a tool that the client declared, and executes: POST …/tool_results answers it."""

    id: str
    object: Literal["client_tool_call"]
    type: Literal["client_tool"]
    status: Literal["open", "answered", "expired", "cancelled"]
    run_id: str
    session_id: str
    call_id: str
    tool: str
    name: str
    arguments: Any
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class TimerOut(Reply):
    """A call that sleeps. `ended_by` is who fired it before its time, or cancelled it."""

    id: str
    object: Literal["timer"]
    type: Literal["timer"]
    status: Literal["open", "fired", "cancelled"]
    run_id: str
    session_id: str
    call_id: str
    reason: str
    until: datetime
    ended_by: str | None
    created_at: datetime
    ended_at: datetime | None


class SignalOut(Reply):
    """What became of a signal to one run: `delivered` to the call that waits for it, `interrupting` the run as a
    message, `buffered` until a call waits for it, a `duplicate` by its dedupe key, or `not_waiting`: nobody is
    there any more, and nothing was done."""

    id: str
    object: Literal["signal"]
    run_id: str
    name: str
    disposition: Literal["delivered", "interrupting", "buffered", "duplicate", "not_waiting", "dropped"]
    call_id: str | None
    created_at: datetime


class SignalsOut(Reply):
    """What became of a signal, run by run. `more`: there may be further runs that wait; send it again."""

    object: Literal["list"]
    data: list[SignalOut]
    more: bool


PendingAction = ApprovalOut | QuestionOut | ClientToolCallOut


class WaitOut(Reply):
    """`until` is null where only somebody's word ends the wait, and for a poll. `ref` is the id of what is asked or of
    the timer, the run that is waited for, the name of the event, the tool of a rate limit, the limit of the budget."""

    type: Literal[
        "approval", "question", "client_tool", "timer", "event", "poll", "start", "children", "rate_limit", "budget",
        "pause",
    ]  # fmt: skip
    until: datetime | None
    ref: str | None


class DecidedOut(Reply):
    """What became of one decision of a batch."""

    id: str
    ok: bool
    approval: ApprovalOut | None = None
    problem: ProblemDocument | None = None


class InboxBlockOut(Reply):
    type: Literal["text"]
    text: str


class InboxMessageOut(Reply):
    """A message to a run: `accepted` until it is `applied` (in the transcript) or `returned`."""

    id: str
    object: Literal["inbox_message"]
    run_id: str
    number: int = Field(description="Counts the orders of the run; messages keep their order.")
    content: list[InboxBlockOut]
    delivery: Delivery
    status: Literal["accepted", "applied", "returned"]
    created_at: datetime
