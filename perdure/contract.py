"""Wire names and payloads: where the shells meet.

Three kinds of shapes live here: the names and inputs that cross Temporal (kept to a few hundred
bytes, for history must grow by a constant per turn), the shapes of content as the journal keeps
them (plain JSON, described by ``TypedDict``), and the trouble every shell has a word for. Results of
activities are the happenings of ``perdure.core.happenings``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from perdure.core.happenings import FamilyCalled, Order
from perdure.core.numbers import Numbers
from perdure.core.policy import OnExpiry, PolicyAction
from perdure.core.spec import AnsweredBy, Effect, Limits, OnExceed, OnLimit, RunSpec
from perdure.core.state import Json, OutboxEvent, Outcome, RunState

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
    run_id: str
    key: str
    turn: int
    apply: Numbers = ()
    only_for_messages: bool = False
    wrap_up: bool = False
    closes: str = ""
    tool_output_bytes: int = 0
    outbox: tuple[OutboxEvent, ...] = ()


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
    the firing was skipped, or its input went to a run that is under way."""

    status: Literal["started", "delivered", "skipped", "failed", "gone"]
    run_id: str = ""
    start: AgentRunInput | None = None
    tenant: str = ""
    pause_on_failure: bool = False


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

# Content, as the journal keeps it -----------------------------------------------------------------


class TextBlock(TypedDict):
    type: Literal["text"]
    text: str


class ReasoningBlock(TypedDict):
    """``text`` may be shown to people; ``opaque`` is the vendor's own item, sent back only to the
    ``producer`` (``openai/gpt-5.5``) that made it."""

    type: Literal["reasoning"]
    text: str
    producer: str
    opaque: NotRequired[Json]


class ToolCallBlock(TypedDict):
    """``arguments`` is what the model sent, parsed; ``raw_arguments`` is there instead when it was not
    a JSON object."""

    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: NotRequired[dict[str, Json]]
    raw_arguments: NotRequired[str]


class ToolResultBlock(TypedDict):
    """``text`` is what the model sees: whole, or a preview when ``blob`` holds the whole."""

    type: Literal["tool_result"]
    call_id: str
    name: str
    text: str
    is_error: bool
    blob: NotRequired[str]
    bytes: NotRequired[int]


Block = TextBlock | ReasoningBlock | ToolCallBlock | ToolResultBlock
Role = Literal["user", "assistant", "tool"]


class Message(TypedDict):
    """One transcript entry. ``number`` counts from 1 in its session, without gaps. ``at_ms`` is unix
    milliseconds. ``producer`` is the model of an assistant message."""

    id: str
    session_id: str
    run_id: str | None
    number: int
    role: Role
    content: list[Block]
    producer: str | None
    stop_reason: str | None
    at_ms: int


class ModelSettings(TypedDict, total=False):
    temperature: float
    top_p: float
    max_output_tokens: int
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"]


class ApprovalTermsDefinition(TypedDict, total=False):
    """How an approval is given; what is left out has the defaults of ``perdure.core.policy.ApprovalTerms``."""

    expires_seconds: float
    on_expiry: OnExpiry
    quorum: int
    four_eyes: bool


class RuleDefinition(TypedDict):
    """``tool`` is a glob over names; ``when`` a JSON Schema that the arguments must fit for the rule to apply;
    ``matches`` a regular expression searched in every string of the arguments, ``matches_result`` in the
    result (such a rule withholds the result when it denies)."""

    tool: str
    action: PolicyAction
    effect: NotRequired[Effect]
    when: NotRequired[dict[str, Json]]
    matches: NotRequired[str]
    matches_result: NotRequired[str]
    reason: NotRequired[str]
    approval: NotRequired[ApprovalTermsDefinition]


class RateLimitDefinition(TypedDict):
    tool: str
    max_calls: int
    window_seconds: float


class PolicyDefinition(TypedDict):
    """As stored, with every default filled in. ``guardrails`` names the shipped rule sets that are on: they
    come before ``rules``. ``unknown_outcome`` says who hears of a ``once`` call whose outcome nobody knows."""

    rules: list[RuleDefinition]
    rate_limits: list[RateLimitDefinition]
    default: PolicyAction
    guardrails: list[str]
    unknown_outcome: Literal["tell", "ask"]
    repeat_failures_max: int


class ToolBudgetDefinition(TypedDict):
    max_calls: int
    on_exceed: OnExceed


class LimitsDefinition(TypedDict, total=False):
    """Counts. ``tools`` holds budgets of single tools, by name."""

    max_turns: int
    max_tool_calls: int
    max_questions: int
    max_children: int
    max_depth: int
    max_running_children: int
    tool_output_bytes_per_turn: int | None
    tools: dict[str, ToolBudgetDefinition]


def core_limits(limits: LimitsDefinition) -> Limits:
    """What the core must know of a run's limits; those of single tools are in its tool rules."""
    default = Limits()
    return Limits(
        max_turns=limits.get("max_turns", default.max_turns),
        max_tool_calls=limits.get("max_tool_calls", default.max_tool_calls),
        max_questions=limits.get("max_questions", default.max_questions),
        tool_output_bytes_per_turn=limits.get("tool_output_bytes_per_turn"),
    )


class FamilyLimits(TypedDict):
    """How many runs a run may start, how many of them may live at once, and how deep its tree may be: the root is 0
    deep."""

    max_children: int
    max_depth: int
    max_running_children: int


def family_limits(limits: LimitsDefinition) -> FamilyLimits:
    return FamilyLimits(
        max_children=limits.get("max_children", 50),
        max_depth=limits.get("max_depth", 3),
        max_running_children=limits.get("max_running_children", 50),
    )


class BudgetDefinition(TypedDict, total=False):
    """Money in micro-USD. None, or left out, is no limit."""

    max_cost_micros: int | None
    max_tokens: int | None
    max_output_tokens: int | None
    on_limit: OnLimit


class ClientToolDefinition(TypedDict):
    """A tool that the caller of the run executes. ``parameters`` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Json]
    expires_seconds: float


class AgentDefinition(TypedDict):
    """An agent as stored and pinned by a run. ``tools`` are registry names. ``policy`` is the agent's,
    ``run_policy`` what a run adds, which can only narrow it, as can ``further_policies``, those of the runs above it.
    ``agents`` are the stored agents that it may start with their own tools. A run's ``budget`` and ``limits`` are the
    defaults it began with: what holds now is in the run's row."""

    name: str
    model: str
    instructions: str
    tools: list[str]
    model_settings: ModelSettings
    limits: LimitsDefinition
    policy: NotRequired[PolicyDefinition]
    run_policy: NotRequired[PolicyDefinition]
    budget: NotRequired[BudgetDefinition]
    client_tools: NotRequired[list[ClientToolDefinition]]
    agents: NotRequired[list[str]]
    further_policies: NotRequired[list[PolicyDefinition]]


class ToolDescription(TypedDict):
    """A tool as a model and the catalogue see it. ``parameters`` is a JSON Schema object. ``approval``: a
    person is asked before it runs, unless a rule allows it. ``answered_by`` says who gives its result."""

    name: str
    description: str
    parameters: dict[str, Json]
    effect: Effect
    parallel: bool
    timeout_seconds: float
    max_attempts: int
    approval: bool
    answered_by: AnsweredBy


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
