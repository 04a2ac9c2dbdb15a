"""What the API answers with, as OpenAPI declares it. The bodies themselves are written by
``rendering.py``; the suite validates every reply against these models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.money_replies import AgentBudgetOut, BudgetOut, CalibrationOut, LimitsOut
from api.people_replies import PendingAction, WaitOut
from api.reply import Reply, Usd
from perdure.core.policy import OnExpiry, PolicyAction
from perdure.core.spec import AnsweredBy, Effect
from perdure.core.state import RunStatus


class TextBlockOut(Reply):
    type: Literal["text"]
    text: str


class ReasoningBlockOut(Reply):
    type: Literal["reasoning"]
    text: str
    producer: str


class ToolCallBlockOut(Reply):
    """`raw_arguments` stands instead of `arguments` when the model did not send a JSON object."""

    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: dict[str, Any] | None = None
    raw_arguments: str | None = None


class ToolResultBlockOut(Reply):
    """`text` is what the model saw; `blob` names the whole when it was larger than that."""

    type: Literal["tool_result"]
    call_id: str
    name: str
    text: str
    is_error: bool
    blob: str | None = None
    bytes: int | None = None


BlockOut = TextBlockOut | ReasoningBlockOut | ToolCallBlockOut | ToolResultBlockOut


class MessageOut(Reply):
    """One transcript entry; `number` counts from 1 in its session."""

    id: str
    object: Literal["message"]
    session_id: str
    run_id: str | None = Field(description="Null when it was imported.")
    number: int
    role: Literal["user", "assistant", "tool"]
    content: list[BlockOut]
    producer: str | None
    stop_reason: str | None
    created_at: datetime


class UsageOut(Reply):
    """`cost_usd` is null when nobody knows the price of a call that was made."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Usd | None


class FailureOut(Reply):
    code: str
    message: str
    retryable: bool
    call_id: str | None
    attempts: int


class AgentRef(Reply):
    """`id` and `version` are null for an inline agent."""

    id: str | None
    version: int | None
    name: str
    model: str


class WorkerOut(Reply):
    """`recovering`: the worker was lost and another is taking over."""

    recovering: bool


class ForkedFromOut(Reply):
    """A run, and its event up to which the fork shares its messages."""

    run_id: str
    seq: int


class RunOut(Reply):
    id: str
    object: Literal["run"]
    status: RunStatus
    status_reason: str | None = Field(description="Why it waits or is paused.")
    stop_reason: str | None
    agent: AgentRef
    session_id: str
    parent_run_id: str | None
    root_run_id: str
    depth: int
    schedule_id: str | None
    retry_of: str | None = Field(description="The ended run that this one goes on from, in the same session.")
    forked_from: ForkedFromOut | None
    input: list[BlockOut]
    output: list[BlockOut] | None = Field(description="Content of the newest assistant message.")
    output_text: str | None
    error: FailureOut | None
    pending_actions: list[PendingAction] = Field(description="What is asked of people and of the client now.")
    waiting_for: list[WaitOut]
    turns: int
    last_seq: int = Field(description="Number of the newest event.")
    last_progress_at: datetime
    worker: WorkerOut
    usage: UsageOut
    budget: BudgetOut
    limits: LimitsOut
    requested_by: str | None = Field(description="The X-Actor of POST /v1/runs.")
    deadline: datetime
    created_at: datetime
    start_at: datetime | None = Field(description="When it shall start, if not at once.")
    started_at: datetime | None
    completed_at: datetime | None
    labels: dict[str, str]
    metadata: dict[str, Any]
    version: int = Field(description="Grows with every change of the run.")


class AcceptedRunOut(RunOut):
    inbox_message_id: str = Field(description="See GET /v1/runs/{run_id}/inbox.")


class EventOut(Reply):
    """One line of what happened. `seq` starts at 1 and has no gaps."""

    id: str
    seq: int
    run_id: str
    root_run_id: str
    depth: int
    type: str
    at: datetime
    call_id: str | None = None
    message_id: str | None = None
    attempt: int | None = None
    data: dict[str, Any]


class StepOut(Reply):
    """A model call or a tool call. `key` is unique in the run."""

    id: str
    object: Literal["step"]
    run_id: str
    key: str
    call_id: str | None = Field(description="Of a tool call: its key once more, by which it is retried and aborted.")
    kind: Literal["model", "tool"]
    name: str
    turn: int
    status: Literal["requested", "started", "completed", "failed", "unknown"]
    attempts: int
    running: bool = Field(description="An attempt has begun and has not ended: a worker is at it, or was lost with it.")
    arguments: Any
    usage: UsageOut | None
    message_number: int | None = Field(description="The transcript entry it ended in.")
    error: FailureOut | None
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    latency_ms: int | None = Field(description="From the newest start to the end.")


class SessionForkOut(Reply):
    """It shares the messages of that session up to this number."""

    session_id: str
    number: int


class PrunedOut(Reply):
    """What was removed: of how many runs the live text, of how many the events, sessions, blobs. `more`: call again."""

    object: Literal["pruned"]
    deltas: int
    events: int
    sessions: int
    blobs: int
    more: bool


class SessionOut(Reply):
    id: str
    object: Literal["session"]
    last_number: int = Field(description="Number of its newest message.")
    active_run_id: str | None
    forked_from: SessionForkOut | None
    deleted_at: datetime | None = Field(description="What was said in it is erased since then.")
    created_at: datetime
    updated_at: datetime
    labels: dict[str, str]
    metadata: dict[str, Any]


class ApprovalTermsOut(Reply):
    """How an approval is given."""

    expires_seconds: float
    on_expiry: OnExpiry
    quorum: int
    four_eyes: bool


class RuleOut(Reply):
    tool: str
    action: PolicyAction
    effect: Effect | None = None
    when: dict[str, Any] | None = None
    matches: str | None = None
    matches_result: str | None = None
    reason: str | None = None
    approval: ApprovalTermsOut | None = None


class RateLimitOut(Reply):
    tool: str
    max_calls: int
    window_seconds: float


class PolicyOut(Reply):
    """Every default is filled in."""

    rules: list[RuleOut]
    rate_limits: list[RateLimitOut]
    default: PolicyAction
    guardrails: list[str]
    unknown_outcome: Literal["tell", "ask"]
    repeat_failures_max: int


class AgentToolOut(Reply):
    agent: str
    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    budget: AgentBudgetOut | None
    timeout_seconds: float | None


class AgentOut(Reply):
    """One immutable version of an agent."""

    id: str
    object: Literal["agent"]
    name: str
    version: int
    model: str
    instructions: str
    tools: list[str]
    model_settings: dict[str, Any]
    limits: dict[str, Any] = Field(description="The agent's own; a run shows all that hold.")
    budget: AgentBudgetOut | None
    policy: PolicyOut | None
    agents: list[str]
    agent_tools: list[AgentToolOut]
    created_at: datetime


class ModelOut(Reply):
    """Prices in US dollars for a million tokens; null when nobody knows."""

    id: str
    object: Literal["model"]
    endpoint: str
    dialect: str
    input_price_usd: Usd | None
    output_price_usd: Usd | None
    context_tokens: int | None
    calibration: CalibrationOut | None = Field(description="Null when it was not called yet.")


class ToolOut(Reply):
    """Agents name it by `name`; `id` is the same."""

    id: str
    object: Literal["tool"]
    name: str
    description: str
    parameters: dict[str, Any]
    effect: Effect
    parallel: bool
    timeout_seconds: float
    max_attempts: int
    approval: bool = Field(description="A person is asked before it runs, unless a rule allows it.")
    answered_by: AnsweredBy


class AgentErrorOut(Reply):
    pointer: str
    code: str
    message: str


class ValidationOut(Reply):
    """`valid`: POST /v1/agents would store it."""

    valid: bool
    errors: list[AgentErrorOut]


class VerdictOut(Reply):
    """What would be said to a call, by which rule. Arguments that do not fit the tool are denied by the rule
    `invalid_arguments`, and `problem` is why."""

    verdict: PolicyAction
    rule: str
    reason: str
    args_sha256: str
    problem: str | None


class Health(Reply):
    status: Literal["ok"]


class Check(Reply):
    ok: bool
    detail: str


class Readiness(Reply):
    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]


class TemporalInfo(Reply):
    address: str | None
    namespace: str | None
    ui_url: str | None


class Info(Reply):
    object: Literal["info"]
    name: str
    version: str
    task_queue: str
    temporal: TemporalInfo
    features: list[str]
    limits: dict[str, int]
