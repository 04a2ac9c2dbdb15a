"""The rows of the journal as its port shows them, and the trouble it can be in.

Times are unix milliseconds, money is micro-USD, ids are ``prefix_`` + ULID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from perdure.content import Block, Role
from perdure.core.budget import Account, Amount, Ask, Budget, Grant
from perdure.core.happenings import CallAsked, Delivery
from perdure.core.policy import ApprovalTerms
from perdure.core.state import Failure, Json, RunStatus, Usage
from perdure.definitions import AgentDefinition, LimitsDefinition

Row = TypeVar("Row")
SIGNALS_BUFFERED_MAX = 64  # of one run: they wait for somebody who may never wait for them
SIGNAL_KEPT_MS = 86_400_000  # a day: who has not waited for a signal until then does not want to hear of it
MANY_DECISIONS = "decisions"  # the object id of idempotent replies about many decisions at once
INBOX_WAITING_MAX = 10_000  # messages that wait in one run: all of them go into the transcript at once


@dataclass(frozen=True, slots=True)
class Parentage:
    """Whose child a run is: the call ``call_id`` of ``run_id`` started it. ``background``: that call does not wait
    for it. ``detached``: it does not end with its parent. ``slice`` is what its parent's ledger reserves for it."""

    run_id: str
    call_id: str
    root_run_id: str
    depth: int
    background: bool = False
    detached: bool = False
    slice: Amount | None = None


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create. Without ``session_id`` a new session is opened for it. ``input`` becomes the
    user message of the run. ``limits`` are resolved: all defaults filled in. ``requested_by`` is the person
    who asked for it, as they say. ``start_ms`` is when it shall start, if not at once."""

    run_id: str
    definition: AgentDefinition
    input: list[Block]
    deadline_ms: int
    limits: LimitsDefinition
    budget: Budget | None = None
    requested_by: str | None = None
    start_ms: int | None = None
    agent_id: str | None = None
    agent_version: int | None = None
    session_id: str | None = None
    project_id: str = "default"
    schedule_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    traceparent: str | None = None
    goes_on_from: Origin | None = None
    parent: Parentage | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that another one goes on from. With ``seq`` it is a fork of it, in a new session which shares the
    messages up to ``number``; without, a retry in its own session, whose newest message is still ``number``.
    The new run's ``input`` may be empty then: its input is the other one's."""

    run_id: str
    number: int
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the journal knows it. ``output`` is the content of its last assistant message. ``budget`` and
    ``limits`` are those of now; ``account`` is the ledger's newest balance; ``overrun``: one of its
    lines is. ``exact_tokens`` is the size of the transcript up to message ``exact_number`` as the vendor counted it
    last: input and output together."""

    id: str
    project_id: str
    session_id: str
    agent_id: str | None
    agent_version: int | None
    definition: AgentDefinition
    status: RunStatus
    status_reason: str | None
    stop_reason: str | None
    limits: LimitsDefinition
    budget: Budget | None
    account: Account
    overrun: bool
    exact_tokens: int | None
    exact_number: int
    requested_by: str | None
    input: list[Block]
    output: list[Block] | None
    error: Failure | None
    usage: Usage
    turns: int
    last_seq: int
    last_number: int  # of its session's newest message, while it was active
    last_progress_ms: int
    recovering: bool
    workflow_started: bool
    deadline_ms: int
    created_ms: int
    started_ms: int | None
    completed_ms: int | None
    parent_run_id: str | None
    root_run_id: str
    depth: int
    retry_of: str | None
    forked_from: tuple[str, int] | None  # a run and its event
    pruned_seq: int  # events up to here are no longer kept
    schedule_id: str | None
    labels: dict[str, str]
    metadata: dict[str, Json]
    start_ms: int | None = None  # when it shall start, if not at once
    parent_call_id: str | None = None
    background: bool = False
    detached: bool = False
    children: int = 0
    transfers: int = 0  # how often its session was handed to another agent
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class HandOver:
    """The agent that takes a run over, as the run pins it from then on, and what it is told."""

    definition: AgentDefinition
    agent_id: str
    agent_version: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class NewChild:
    """A run that a call of another run starts. ``run`` is without a parent yet; its budget is what its own agent
    allows. ``wanted`` is the slice that the parent's model asks for, None where it says nothing. ``first`` is the
    child's first model call, which the slice must pay for."""

    run: NewRun
    wanted: Budget
    first: Ask
    background: bool = False
    detached: bool = False


@dataclass(frozen=True, slots=True)
class FamilyCall:
    """What became of a call about other runs: it has ended, or waits until ``expires_ms``. ``child`` is the run that
    it started, ``told`` the runs that have orders waiting now."""

    call: CallRow
    expires_ms: int = 0
    child: RunRow | None = None
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is left to do in Temporal after a run has ended: orders wait for the runs ``told``, and the workflows of
    the runs ``ended`` with it have not heard of it. Whoever can does it at once; the reconciler does it later."""

    told: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """The output of a child as its parent is shown it, where that is not the output itself. One that is too large for
    its parent's transcript is a preview with a ``blob``, where the whole is. One that has to be JSON is ``typed`` when
    it fits; ``misfit`` is what is wrong with it otherwise."""

    text: str
    blob: str | None = None
    bytes: int = 0
    typed: bool = False
    misfit: str = ""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of what happened. ``message.added`` comes with the whole message in ``data``."""

    run_id: str
    root_run_id: str
    depth: int
    seq: int
    type: str
    at_ms: int
    call_id: str | None
    message_id: str | None
    attempt: int | None
    data: dict[str, Json]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. ``key`` makes it once-only in its run; only deltas come without."""

    type: str
    data: dict[str, Json]
    key: str | None = None
    call_id: str | None = None
    message_id: str | None = None
    attempt: int | None = None


CallStatus = Literal["requested", "started", "completed", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class CallRow:
    """A model or tool call (a *step*). ``key`` is ``model-<turn>`` for models, the ``call_id`` for tools.
    ``open_attempt`` is the number of the attempt that began and has not ended, if any."""

    run_id: str
    key: str
    kind: Literal["model", "tool"]
    name: str
    turn: int
    status: CallStatus
    attempts: int
    open_attempt: int | None
    arguments: Json
    usage: Usage | None
    message_number: int | None
    error: Failure | None
    requested_ms: int
    started_ms: int | None
    ended_ms: int | None
    outcome: dict[str, Json] | None  # what the activity reported, to report it again


@dataclass(frozen=True, slots=True)
class Begun:
    """``ended`` is the call when it has ended before (take its outcome, act no more). Otherwise
    ``attempt`` is this attempt's number, from 1, and ``lost_attempt`` the earlier one that began and
    never ended: its worker is gone. Of a model call, ``grant`` is what was reserved for the attempt, ``newest`` the
    number of the newest message that it shall see;
    ``reached`` names the limit that cannot pay for it, ``nothing_new`` says that there is nothing to answer:
    no attempt was taken then. Of a tool call, ``tries`` counts the attempts since its beginning or since the
    newest order to run it again; no attempt was taken when it has had all of them (``given_up``), or when a person
    has ordered it to run again since this action was started (``superseded``): that order's action does it."""

    attempt: int
    ended: CallRow | None = None
    lost_attempt: int | None = None
    call: CallRow | None = None
    grant: Grant | None = None
    newest: int = 0
    reached: str = ""
    nothing_new: bool = False
    tries: int = 0
    given_up: bool = False
    superseded: bool = False


AskType = Literal["approval", "question", "client_tool", "unknown_outcome", "timer", "event", "children"]
AskStatus = Literal["open", "approved", "denied", "responded", "answered", "expired", "cancelled"]
Decided = Literal["approve", "deny", "edit", "respond"]
Scope = Literal["once", "run", "session"]
Urgency = Literal["critical", "high", "normal", "low"]
Disposition = Literal["delivered", "interrupting", "buffered", "duplicate", "dropped", "not_waiting"]
UsageGroup = Literal["run", "agent", "model", "session", "day"]


@dataclass(frozen=True, slots=True)
class RulingShown:
    """What the policy said of a call, as its tool.requested event tells it."""

    verdict: Literal["allow", "ask", "deny"]
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Awaits:
    """The runs that a call waits for: all of them, or any. ``single``: the call started it itself."""

    ids: tuple[str, ...]
    mode: Literal["all", "any"] = "all"
    single: bool = False


@dataclass(frozen=True, slots=True)
class NewAsk:
    """Something to ask about a tool call, or for it to wait for. ``questions`` is what ``ask_user`` was called with.
    ``terms`` say how an approval is given, and what happens when nobody does. ``expires_ms`` is absolute: of a timer
    it is when it fires. ``name`` is that of the event that is waited for."""

    type: AskType
    call_id: str
    tool: str
    args_sha256: str
    expires_ms: int
    rule: str = ""
    reason: str = ""
    terms: ApprovalTerms = field(default_factory=ApprovalTerms)
    questions: list[dict[str, Json]] | None = None
    client_seconds: float | None = None  # an approved call goes to the client, which has so long
    name: str | None = None
    awaits: Awaits | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    by: str
    decision: Decided
    at_ms: int
    scope: Scope = "once"


@dataclass(frozen=True, slots=True)
class AskRow:
    """An approval, a question, a client tool's call, an unknown outcome, a timer or a wait for an event: open until
    decided, answered, expired (of a timer: it has fired) or cancelled. Ids are ``apv_`` (approvals and unknown
    outcomes), ``qst_``, ``ctc_``, ``tmr_``, ``evt_`` + ULID. A timer that was fired by hand is answered.
    ``arguments`` are the call's, edited ones included. ``votes`` are those for these arguments. ``decision`` is
    the one that decided, ``scope`` the narrowest of those who made it. Once approved, the call goes to the
    client for ``client_seconds``, if there are any."""

    id: str
    type: AskType
    status: AskStatus
    project_id: str
    run_id: str
    session_id: str
    call_id: str
    tool: str
    arguments: Json
    args_sha256: str
    rule: str
    reason: str
    terms: ApprovalTerms
    requested_by: str | None
    questions: list[dict[str, Json]] | None
    answers: dict[str, Json] | None
    votes: list[Vote]
    decision: Decided | None
    decided_by: str | None
    message: str | None
    edited: bool
    scope: Scope
    escalated: bool
    client_seconds: float | None
    asked_ms: int
    expires_ms: int
    ended_ms: int | None
    name: str | None = None  # of the event that is waited for
    awaits: Awaits | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``by`` is who decides, as they say. ``args_sha256`` is what they have seen, when they say so.
    ``edited_arguments`` and ``edited_sha256`` go together, already validated and judged. ``message`` is the
    reason of a denial, or the result of ``respond``."""

    decision: Decided
    by: str
    message: str = ""
    scope: Scope = "once"
    args_sha256: str | None = None
    edited_arguments: dict[str, Json] | None = None
    edited_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A client tool's result: ``text`` is what the model will see (already a preview when ``blob`` is set;
    ``bytes`` is then the size of the whole)."""

    call_id: str
    text: str
    is_error: bool = False
    blob: str | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class NewMessage:
    id: str
    content: list[Block]
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A message from a client: ``accepted``, then ``applied`` or ``returned``. ``number`` is its order's; ``told`` are
    the runs below that it interrupts, too."""

    id: str
    run_id: str
    number: int
    content: list[Block]
    delivery: Delivery
    status: Literal["accepted", "applied", "returned"]
    at_ms: int
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewSignal:
    """Something that has happened outside, for whoever waits for it. A ``dedupe_key`` is remembered for a day."""

    id: str
    name: str
    payload: Json
    urgency: Urgency = "normal"
    dedupe_key: str | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class SignalRow:
    """What became of a signal to one run: ``delivered`` to the call ``call_id``, ``interrupting`` as a message (which
    ``told`` hear, too), ``buffered`` until somebody waits for it, or not taken."""

    id: str
    run_id: str
    name: str
    disposition: Disposition
    call_id: str | None
    at_ms: int
    told: tuple[str, ...] = ()


LedgerKind = Literal["limit", "reserved", "settled", "released", "corrected"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One line of a run's ledger; entries count from 1 without gaps. ``amount`` is what this line is about: the
    reservation of ``reserved`` and ``released``, what was really spent of ``settled``, the difference of
    ``corrected`` (an answer that came after its attempt had been given up). ``account`` is the balance after
    it. ``assumed``: nobody knows what the attempt cost, and its whole reservation counts as spent.
    ``overrun``: the vendor used more than was reserved. ``limit`` lines carry the limits that hold from here."""

    entry: int
    kind: LedgerKind
    key: str
    attempt: int | None
    model: str | None
    amount: Amount
    account: Account
    assumed: bool
    overrun: bool
    limits: Budget | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """``group`` is the run's or session's id, the agent's or model's name, or a day (2026-11-24).
    ``assumed_cost_micros`` is the part of the cost that nobody knows and was assumed."""

    group: str
    model_calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost_micros: int
    assumed_cost_micros: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """``misses`` counts calls whose input was larger than its bound; ``worst_permille`` is the largest input
    as a part of its bound, in thousandths."""

    model: str
    calls: int
    misses: int
    worst_permille: int


@dataclass(frozen=True, slots=True)
class ModelCommit:
    """A model's answer, to be committed in one transaction with everything that follows from it.

    ``calls`` are parallel to the tool_call blocks of ``content``: the judge's verdicts, ``hashes`` the SHA-256
    of each call's arguments and ``rulings`` the policy's word on each, for its event. ``asks`` are what must be
    asked of people or of the client. ``outcome`` is filed to be reported again when the call is asked for again.
    ``limit`` names the limit of the budget that cut the answer short: budget.reached says so.
    """

    content: list[Block]
    producer: str
    stop: str
    usage: Usage
    calls: Sequence[CallAsked]
    outcome: dict[str, Json]
    hashes: Sequence[str] = ()
    rulings: Sequence[RulingShown] = ()
    asks: Sequence[NewAsk] = ()
    vendor_id: str | None = None
    first_token_ms: int | None = None  # after the start of the attempt
    limit: str = ""


@dataclass(frozen=True, slots=True)
class ToolCommit:
    """A tool call's answer. ``text`` is what the model will see (already a preview when ``blob`` is
    set; ``bytes`` is then the size of the whole)."""

    status: Literal["completed", "failed", "unknown"]
    text: str
    code: str | None = None  # of the failure: tool_error, tool_timeout, ...
    blob: str | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """A page of rows in the order asked for; ``next_cursor`` continues it."""

    rows: list[Row]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """The first reply to a request with an idempotency key."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One immutable version of an agent; versions count from 1."""

    id: str
    project_id: str
    name: str
    version: int
    definition: AgentDefinition
    created_ms: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A conversation. ``last_number`` is the number of its newest message; those up to ``inherited`` stand in the
    session it was ``forked_from``, or in those that one came from. A deleted one is a tombstone."""

    id: str
    project_id: str
    last_number: int
    active_run_id: str | None
    created_ms: int
    updated_ms: int
    labels: dict[str, str]
    metadata: dict[str, Json]
    forked_from: str | None = None
    inherited: int = 0
    deleted_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message of another journal. ``id`` and times are kept as they are."""

    id: str
    number: int
    role: Role
    content: list[Block]
    producer: str | None
    stop_reason: str | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one look has removed. ``more``: the look came to its limit, there is more."""

    deltas: int = 0  # of how many runs
    events: int = 0  # of how many runs
    sessions: int = 0
    blobs: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of live text. ``type`` is text.delta, reasoning.delta or tool_args.delta. A delta of a
    superseded attempt or of an ended call is dropped silently."""

    run_id: str
    key: str
    attempt: int
    type: str
    text: str
    index: int = 0  # which block of the answer
