"""Wire names and payloads: where the shells meet.

The names and inputs that cross Temporal (kept to a few hundred bytes, for history must grow by a constant per turn),
and the trouble every shell has a word for. Results of activities are the happenings of ``perdure.core.happenings``;
what the journal keeps is described in ``perdure.content`` and ``perdure.definitions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.core.happenings import FamilyCalled, Order
from perdure.core.numbers import Numbers
from perdure.core.spec import RunSpec
from perdure.core.state import OutboxEvent, Outcome, RunState

# Names in Temporal --------------------------------------------------------------------------------

WORKFLOW = "AgentRun"
SCHEDULED_RUN = "ScheduledRun"
CALL_MODEL = "call_model"
CALL_TOOL = "call_tool"
CALL_FAMILY = "call_family"
ANSWER_CALL = "answer_call"
SETTLE_ASK = "settle_ask"
RECORD = "record"
OPEN_INVOCATION = "open_invocation"
AWAIT_RUN = "await_run"
CANCEL_RUN = "cancel_run"
PAUSE_SCHEDULE = "pause_schedule"
SIGNAL_ORDERS = "orders"

TASK_TIMEOUT_SECONDS = 4.0  # a workflow task lost with its worker or server is given out again after this
ORDERS_A_SIGNAL = 500  # some 60 KB, far below what Temporal takes
SUMMARY_CHARACTERS = 99  # Temporal allows 400 bytes, and a character may take four

SEARCH_AGENT = "AgentName"
SEARCH_MODEL = "AgentModel"
SEARCH_STATUS = "AgentStatus"
SEARCH_TENANT = "AgentTenant"
SEARCH_COST = "CostMicroUsd"
SEARCH_NEEDS_ACTION = "NeedsAction"

SEARCH_ATTRIBUTES: dict[str, Literal["Keyword", "Int", "Bool"]] = {
    SEARCH_AGENT: "Keyword",
    SEARCH_MODEL: "Keyword",
    SEARCH_STATUS: "Keyword",
    SEARCH_TENANT: "Keyword",
    SEARCH_COST: "Int",
    SEARCH_NEEDS_ACTION: "Bool",
}

# Inputs of the workflow and of the activities ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentRunInput:
    """``goal`` is a preview for people (at most 200 characters, may be empty). ``state`` is set by
    continue-as-new only."""

    spec: RunSpec
    goal: str = ""
    state: RunState | None = None


@dataclass(frozen=True, slots=True)
class CallModelInput:
    """``transfers`` is how often the session was handed over: a worker that has cached the agent before looks again."""

    run_id: str
    key: str
    turn: int
    apply: Numbers = ()
    only_for_messages: bool = False
    wrap_up: bool = False
    closes: str = ""
    tool_output_bytes: int = 0
    outbox: tuple[OutboxEvent, ...] = ()
    transfers: int = 0


@dataclass(frozen=True, slots=True)
class CallToolInput:
    """``last_attempt`` is how often the tool may be tried, lost workers included; a ``once`` tool that was
    started is not tried again, unless a person has ``ordered`` it (by the order of this number): then the tool may
    be tried as often again. ``over`` is by how much the tool is over its own budget (the result says so);
    ``counts_bytes`` asks for the result's size, ``asks_about_unknown`` for a person's word when nobody knows
    the outcome."""

    run_id: str
    key: str
    call_id: str
    turn: int
    timeout_seconds: float
    last_attempt: int
    once: bool
    over: int = 0
    ordered: int = 0
    counts_bytes: bool = False
    asks_about_unknown: bool = False
    outbox: tuple[OutboxEvent, ...] = ()
    transfers: int = 0


@dataclass(frozen=True, slots=True)
class CallFamilyInput:
    run_id: str
    key: str
    call_id: str
    turn: int
    counts_bytes: bool = False
    outbox: tuple[OutboxEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildStart:
    """A run whose workflow its parent's workflow starts, as ``perdure.runs`` starts others. ``tenant`` is its
    project."""

    spec: RunSpec
    goal: str
    tenant: str


@dataclass(frozen=True, slots=True)
class FamilyCallDone:
    called: FamilyCalled
    child: ChildStart | None = None


@dataclass(frozen=True, slots=True)
class AnswerCallInput:
    run_id: str
    key: str
    call_id: str
    turn: int
    code: str
    message: str
    outbox: tuple[OutboxEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class SettleAskInput:
    run_id: str
    key: str
    call_id: str
    turn: int
    outbox: tuple[OutboxEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Orders:
    """What one ``orders`` signal brings: orders of the journal, in the order of their numbers."""

    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class RecordInput:
    """``outcome`` is set when the run ends with this record."""

    run_id: str
    key: str
    turn: int
    outbox: tuple[OutboxEvent, ...] = ()
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class ScheduledRunInput:
    """One firing of a schedule. ``version`` is that of the schedule when Temporal was told of it."""

    schedule_id: str
    version: int


@dataclass(frozen=True, slots=True)
class OpenInvocationInput:
    """``key`` names the firing: the same on every attempt, another on every firing."""

    schedule_id: str
    version: int
    key: str
    planned_ms: int
    began_ms: int


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of a firing. ``start`` is the run to start, as the child ``run_id``; None when there is none:
    the firing was skipped, or its input went to a run that is under way. ``early``: it came before the time that it is
    meant for, and is to be opened again at ``begins_ms``."""

    status: Literal["started", "delivered", "skipped", "failed", "gone", "early"]
    run_id: str = ""
    start: AgentRunInput | None = None
    tenant: str = ""
    pause_on_failure: bool = False
    begins_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunOfSchedule:
    schedule_id: str
    run_id: str
    reason: str = ""


# Application error types on activity failures (non-retryable ones end the action) ------------------

RUN_OVER = "RunOver"  # the journal says the run is terminal: the workflow has nothing left to do
MODEL_TROUBLE = "ModelTrouble"  # details: [code, message, attempts]; code is a ModelTroubleCode
BUDGET_REACHED = "BudgetReached"  # details: [limit]; the call was not made
NOTHING_NEW = "NothingNew"  # the messages the call was wanted for were withdrawn; it was not made
INTERRUPTED = "Interrupted"  # a message cut the call short; what was said is in the transcript
TOOL_PAUSED = "ToolPaused"  # details: [next_ms]; a poll has tried in vain, and tries again then
TOOL_PARKED = "ToolParked"  # details: [expires_ms]; a person decides about the unknown outcome

# Trouble every shell has a word for -----------------------------------------------------------------

ModelTroubleCode = Literal[
    "auth", "bad_request", "context_exceeded", "rate_limited", "overloaded", "server_error", "timeout",
    "unreachable", "truncated_stream", "refused", "unknown_model", "given_up", "transcript_broken",
]  # fmt: skip
TRANSIENT_MODEL_TROUBLE: frozenset[ModelTroubleCode] = frozenset(
    {"rate_limited", "overloaded", "server_error", "timeout", "unreachable", "truncated_stream"}
)

RUN_ERROR_CODES: tuple[str, ...] = (
    "model_error", "model_rate_limited", "model_refused", "context_overflow", "tool_error", "tool_timeout",
    "tool_outcome_unknown", "mcp_unreachable", "output_schema_unsatisfied", "retries_exhausted", "child_failed",
    "deadline_exceeded", "internal", "transcript_broken",
)  # fmt: skip
