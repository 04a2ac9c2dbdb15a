"""What the API answers with, as OpenAPI declares it. The bodies themselves are written by
``rendering.py``; the suite validates every reply against these models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from perdure.core.spec import Effect
from perdure.core.state import RunStatus

Item = TypeVar("Item")
Usd = Annotated[str, Field(pattern=r"^\d+\.\d{2,6}$", description="US dollars, decimal.", examples=["0.0123"])]


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FieldErrorOut(Reply):
    pointer: str | None = Field(description="JSON Pointer into the request body.")
    parameter: str | None = Field(description="Name of the query parameter or header instead.")
    code: str
    message: str


class OpenAIError(Reply):
    """The same error in the words of OpenAI's clients."""

    message: str
    type: str
    code: str
    param: str | None


class ProblemDocument(Reply):
    """RFC 9457. `code` is stable; `retryable` says whether the same request may succeed later."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None
    retryable: bool
    errors: list[FieldErrorOut]
    error: OpenAIError


class ListReply(Reply, Generic[Item]):
    object: Literal["list"]
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None
    next_cursor: str | None = Field(description="`after` of the next page; null on the last.")


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
    run_id: str
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


class LimitsOut(Reply):
    """Null: what the service allows."""

    max_turns: int | None
    max_tool_calls: int | None


class WorkerOut(Reply):
    """`recovering`: the worker was lost and another is taking over."""

    recovering: bool


class RunOut(Reply):
    id: str
    object: Literal["run"]
    status: RunStatus
    status_reason: str | None
    stop_reason: str | None
    agent: AgentRef
    session_id: str
    parent_run_id: str | None
    root_run_id: str
    depth: int
    schedule_id: None
    retry_of: None
    forked_from: None
    input: list[BlockOut]
    output: list[BlockOut] | None = Field(description="Content of the newest assistant message.")
    output_text: str | None
    error: FailureOut | None
    pending_actions: list[Any]
    waiting_for: list[Any]
    turns: int
    last_seq: int = Field(description="Number of the newest event.")
    last_progress_at: datetime
    worker: WorkerOut
    usage: UsageOut
    budget: None
    limits: LimitsOut
    deadline: datetime
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    labels: dict[str, str]
    metadata: dict[str, Any]
    version: int = Field(description="Grows with every change of the run.")


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
    kind: Literal["model", "tool"]
    name: str
    turn: int
    status: Literal["requested", "started", "completed", "failed", "unknown"]
    attempts: int
    arguments: Any
    usage: UsageOut | None
    message_number: int | None = Field(description="The transcript entry it ended in.")
    error: FailureOut | None
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    latency_ms: int | None = Field(description="From the newest start to the end.")


class SessionOut(Reply):
    id: str
    object: Literal["session"]
    last_number: int = Field(description="Number of its newest message.")
    active_run_id: str | None
    created_at: datetime
    updated_at: datetime
    labels: dict[str, str]
    metadata: dict[str, Any]


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
    limits: dict[str, int]
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
