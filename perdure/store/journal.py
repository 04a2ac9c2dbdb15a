"""The journal port: what the rest of Perdure may ask of the store of content.

One implementation (``sql.py``) serves SQLite and PostgreSQL. Every writing method is one transaction
and idempotent under the key it names: a second call with the same key changes nothing and returns
what is there. Times are unix milliseconds, money is micro-USD, ids are ``prefix_`` + ULID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from perdure.contract import AgentDefinition, Block, Message
from perdure.core.happenings import CallAsked
from perdure.core.state import Failure, Json, OutboxEvent, Outcome, RunStatus, Usage

Row = TypeVar("Row")


class JournalTrouble(Exception):
    """The journal cannot be reached or is locked; nothing was written. Trying again is right."""


class NotFound(Exception):
    """No such object in this project. ``kind`` is ``run``, ``session``, ``agent``, ``call`` or ``blob``."""

    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(f"no {kind} {id_!r}")
        self.kind, self.id = kind, id_


class SessionBusy(Exception):
    """The session has an active run: ``run_id``."""

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(f"session {session_id} is busy with run {run_id}")
        self.session_id, self.run_id = session_id, run_id


class RunOver(Exception):
    """The run is terminal in the journal: nothing is written to it any more."""

    def __init__(self, run_id: str, status: RunStatus) -> None:
        super().__init__(f"run {run_id} is {status}")
        self.run_id, self.status = run_id, status


class NameTaken(Exception):
    """Another agent of the project has this name: an agent cannot be renamed to it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another agent is named {name!r}")
        self.name = name


class InvalidCursor(Exception):
    """A list cursor that this journal never gave out."""


class KeyReused(Exception):
    """The idempotency key came before with another body."""


class KeyInProgress(Exception):
    """The first request with this idempotency key is still being answered."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create. Without ``session_id`` a new session is opened for it. ``input`` becomes the
    user message of the run."""

    run_id: str
    definition: AgentDefinition
    input: list[Block]
    deadline_ms: int
    agent_id: str | None = None
    agent_version: int | None = None
    session_id: str | None = None
    project_id: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the journal knows it. ``output`` is the content of its last assistant message."""

    id: str
    project_id: str
    session_id: str
    agent_id: str | None
    agent_version: int | None
    definition: AgentDefinition
    status: RunStatus
    stop_reason: str | None
    input: list[Block]
    output: list[Block] | None
    error: Failure | None
    usage: Usage
    turns: int
    last_seq: int
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
    labels: dict[str, str]
    metadata: dict[str, Json]


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
    never ended: its worker is gone."""

    attempt: int
    ended: CallRow | None = None
    lost_attempt: int | None = None
    call: CallRow | None = None


@dataclass(frozen=True, slots=True)
class ModelCommit:
    """A model's answer, to be committed in one transaction with everything that follows from it.

    ``calls`` are parallel to the tool_call blocks of ``content``: the judge's verdicts.
    ``outcome`` is filed to be reported again when the call is asked for again.
    """

    content: list[Block]
    producer: str
    stop: str
    usage: Usage
    calls: Sequence[CallAsked]
    outcome: dict[str, Json]
    vendor_id: str | None = None
    first_token_ms: int | None = None  # after the start of the attempt


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
    """A conversation. ``last_number`` is the number of its newest message."""

    id: str
    project_id: str
    last_number: int
    active_run_id: str | None
    created_ms: int
    updated_ms: int
    labels: dict[str, str]
    metadata: dict[str, Json]


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


class Follower(Protocol):
    """Hears of commits to one run, by any process."""

    async def wait(self, timeout_seconds: float) -> bool:
        """Return True as soon as something may have been committed since the last call, False after
        the timeout. Spurious wake-ups are allowed, missed ones are not."""
        ...


class Journal(Protocol):
    """See the module. Raises ``JournalTrouble`` when the store cannot be reached."""

    async def ready(self) -> str:
        """The schema revision, after one round trip."""
        ...

    async def close(self) -> None: ...

    # Agents and sessions ---------------------------------------------------------------------------

    async def put_agent(self, project_id: str, definition: AgentDefinition, *, agent_id: str | None = None) -> AgentRow:
        """The first version of a new agent (or the next of the agent with the same name, or of
        ``agent_id``). The same definition as the newest version's makes no new version."""
        ...

    async def get_agent(self, project_id: str, id_or_name: str, version: int | None = None) -> AgentRow:
        """That version or the newest. NotFound."""
        ...

    async def list_agents(self, project_id: str, *, limit: int, cursor: str | None, descending: bool) -> Page[AgentRow]:
        """The newest version of each agent, by creation."""
        ...

    async def list_agent_versions(self, project_id: str, id_or_name: str) -> list[AgentRow]: ...

    async def create_session(
        self, project_id: str, session_id: str, *, labels: Mapping[str, str], metadata: Mapping[str, Json]
    ) -> SessionRow: ...

    async def get_session(self, project_id: str, session_id: str) -> SessionRow: ...

    async def list_sessions(
        self, project_id: str, *, limit: int, cursor: str | None, descending: bool
    ) -> Page[SessionRow]: ...

    # Runs ------------------------------------------------------------------------------------------

    async def create_run(self, new: NewRun) -> RunRow:
        """Row ``queued``, user message, events run.created, message.added, run.queued: one transaction.
        An existing ``run_id`` is returned as it is. NotFound (session), SessionBusy."""
        ...

    async def get_run(self, run_id: str, project_id: str | None = None) -> RunRow: ...

    async def list_runs(
        self,
        project_id: str,
        *,
        limit: int,
        cursor: str | None,
        descending: bool,
        statuses: Sequence[RunStatus] = (),
        session_id: str | None = None,
        agent_id: str | None = None,
        parent_run_id: str | None = None,
        root_run_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> Page[RunRow]: ...

    async def mark_workflow_started(self, run_id: str) -> None: ...

    async def unstarted_runs(self, *, older_than_ms: int, limit: int) -> list[RunRow]:
        """Queued runs whose workflow nobody has confirmed: the reconciler starts them (again)."""
        ...

    async def silent_runs(self, *, silent_ms: int, limit: int) -> list[str]:
        """Ids of runs that should be working and have written nothing for so long, the latest first."""
        ...

    async def end_orphan(self, run_id: str, failure: Failure) -> None:
        """The run's workflow is gone from Temporal: the run has failed. RunOver when it is terminal."""
        ...

    async def force_cancel(self, run_id: str, reason: str) -> RunRow:
        """Terminal ``cancelled`` now, whatever the workflow does: calls in flight are closed (a tool's outcome
        is unknown then), run.cancelled is the last event.
        RunOver when it is terminal already."""
        ...

    async def update_run(
        self, run_id: str, *, labels: Mapping[str, str] | None, metadata: Mapping[str, Json] | None
    ) -> RunRow:
        """PATCH; appends run.updated."""
        ...

    # Inbox -----------------------------------------------------------------------------------------

    async def accept_message(self, run_id: str, message_id: str, content: list[Block], delivery: str) -> None:
        """An inbox row and inbox.accepted; it ends applied (by begin_model) or returned (by record).
        Idempotent by ``message_id``. RunOver."""
        ...

    async def return_message(self, run_id: str, message_id: str, reason: str) -> None:
        """inbox.returned, if it is not applied yet."""
        ...

    # Reading ---------------------------------------------------------------------------------------

    async def read_events(
        self,
        run_id: str,
        *,
        after: int,
        limit: int,
        types: Sequence[str] = (),
        deltas: bool = True,
        descending: bool = False,
    ) -> list[EventRow]:
        """Events with ``seq`` above ``after``, in order."""
        ...

    async def list_messages(
        self, session_id: str, *, after: int = 0, limit: int | None = None, run_id: str | None = None
    ) -> list[Message]: ...

    async def list_calls(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[CallRow]:
        """Steps in the order in which they were asked for; ``after`` skips that many."""
        ...

    async def get_call(self, run_id: str, key: str) -> CallRow: ...

    def follow(self, run_id: str) -> AbstractAsyncContextManager[Follower]:
        """Subscribe first, then read: nothing committed after entering is missed."""
        ...

    # What activities write ---------------------------------------------------------------------------
    # Each raises RunOver when the run is terminal. ``outbox`` events are committed first, in order.

    async def begin_model(
        self,
        run_id: str,
        key: str,
        turn: int,
        *,
        model: str,
        worker: str,
        apply: Sequence[str] = (),
        outbox: Sequence[OutboxEvent] = (),
    ) -> Begun:
        """Look, then take the next attempt. First attempt: inbox rows in ``apply`` go into the
        transcript (message.added, inbox.applied), turn.completed of the turn before, turn.started.
        Every attempt: model.started {attempt, model}. After a lost attempt, before that:
        model.aborted {attempt: lost}, run.recovering."""
        ...

    async def commit_model(self, run_id: str, key: str, attempt: int, commit: ModelCommit) -> CallRow:
        """Insert-if-absent: assistant message + message.added, the call ended, a ``requested`` call row
        per tool call with its arguments, tool.requested each, model.completed, usage into the run,
        turn.completed when no tool was asked for, run.recovered after a recovering. The second writer
        gets the first's row back; its usage is added to the run all the same and its attempt
        aborted in the stream: it was paid."""
        ...

    async def fail_model_attempt(
        self, run_id: str, key: str, attempt: int, failure: Failure, *, retry_in_seconds: float | None
    ) -> None:
        """The attempt is over without an answer: model.aborted {attempt}, and model.retrying when there
        will be another. With ``retry_in_seconds`` None the call has failed."""
        ...

    async def begin_tool(
        self, run_id: str, call_id: str, *, worker: str, may_repeat: bool, outbox: Sequence[OutboxEvent] = ()
    ) -> Begun:
        """The effect ledger: *started* is committed before the effect. First and later attempts:
        tool.started {attempt}; after a lost attempt, before that: run.recovering, tool.retrying.
        When an attempt was lost and the tool may not repeat, no attempt is taken and no tool.started
        written: ``Begun`` comes back with ``attempt`` and ``lost_attempt`` both the lost one's number
        (and run.recovering is committed)."""
        ...

    async def commit_tool(
        self, run_id: str, call_id: str, commit: ToolCommit, *, outbox: Sequence[OutboxEvent] = ()
    ) -> CallRow:
        """Insert-if-absent: the result as a ``tool`` message (message.added), the call ended,
        tool.completed / tool.failed / tool.unknown / tool.denied, run.recovered after a recovering.
        Also serves calls that were never started (refused, lost)."""
        ...

    async def fail_tool_attempt(
        self, run_id: str, call_id: str, attempt: int, failure: Failure, *, retry_in_seconds: float
    ) -> None:
        """This attempt is over and there will be another: tool.retrying."""
        ...

    async def record(self, run_id: str, key: str, outbox: Sequence[OutboxEvent], outcome: Outcome | None) -> None:
        """Commit outbox events and, with an outcome, the end: open inbox rows are returned, the run
        gets its terminal status, output, error and completed_at, its session is free again, and the
        terminal event is the last."""
        ...

    def live(self, delta: Delta) -> None:
        """Queue a delta for the live lane: coalesced per call (about 50 ms, the first at once) and
        committed in groups over all runs of this process. Never blocks, never raises."""
        ...

    async def flush_live(self, run_id: str, key: str) -> None:
        """Return when everything queued for this call is committed."""
        ...

    # Blobs and idempotency ---------------------------------------------------------------------------

    async def put_blob(self, body: bytes, media_type: str) -> str:
        """Content-addressed: the id is ``blob_`` + SHA-256 in hex."""
        ...

    async def get_blob(self, blob_id: str, *, offset: int = 0, length: int | None = None) -> bytes: ...

    async def reserve_key(
        self, project_id: str, key: str, fingerprint: str, object_id: str
    ) -> tuple[str, StoredReply | None]:
        """The id to create the object under (``object_id``, or the one reserved first) and the first
        reply if there is one. A reservation without a reply is taken over after 10 s: its owner died.
        KeyReused, KeyInProgress."""
        ...

    async def keep_reply(self, project_id: str, key: str, reply: StoredReply) -> None: ...

    async def forget_keys(self, *, older_than_ms: int) -> int:
        """Remove keys reserved longer ago, with their replies; how many there were."""
        ...

    async def release_key(self, project_id: str, key: str) -> None:
        """The request failed before anything was created: the key is free again."""
        ...
