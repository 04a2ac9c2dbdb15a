"""The journal port: what the rest of Perdure may ask of the store of content. Its rows are in ``rows.py``.

One implementation (``sql.py``) serves SQLite and PostgreSQL. Every writing method is one transaction
and idempotent under the key it names: a second call with the same key changes nothing and returns
what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from perdure.content import Block, Message
from perdure.core.budget import Ask, Budget
from perdure.core.happenings import AskSettled, Order
from perdure.core.numbers import Numbers
from perdure.core.state import Failure, Json, OutboxEvent, Outcome, RunStatus
from perdure.definitions import AgentDefinition, LimitsDefinition
from perdure.scheduling.definition import Overlap
from perdure.store.board_rows import Board, BoardChange
from perdure.store.rows import (
    Aftermath,
    AgentRow,
    AskRow,
    AskStatus,
    AskType,
    Awaits,
    Begun,
    Calibration,
    CallRow,
    Decision,
    Delta,
    EventRow,
    FamilyCall,
    HandOver,
    ImportedMessage,
    InboxRow,
    LedgerRow,
    ModelCommit,
    NewAsk,
    NewChild,
    NewMessage,
    NewRun,
    NewSignal,
    Page,
    Pruned,
    RunRow,
    Said,
    SessionRow,
    SignalRow,
    StoredReply,
    ToolCommit,
    ToolResult,
    UsageGroup,
    UsageRow,
)
from perdure.store.schedule_rows import (
    InvocationRow,
    InvocationStatus,
    NewInvocation,
    NewSchedule,
    ScheduleChange,
    ScheduleOrder,
    ScheduleRow,
)


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
    ) -> Page[SessionRow]:
        """Without those that were deleted."""
        ...

    async def fork_session(
        self,
        project_id: str,
        new_id: str,
        session_id: str,
        at_number: int | None,
        *,
        labels: Mapping[str, str],
        metadata: Mapping[str, Json],
    ) -> SessionRow:
        """A new session that begins with the messages of ``session_id`` up to ``at_number`` (all of them): shared,
        not copied. Idempotent by ``new_id``. NotFound, SessionDeleted, NoSuchNumber."""
        ...

    async def import_session(
        self,
        project_id: str,
        session_id: str,
        messages: Iterable[ImportedMessage],
        *,
        labels: Mapping[str, str],
        metadata: Mapping[str, Json],
    ) -> SessionRow:
        """A new session with these messages, which belong to no run. What ``messages`` raises while it is read
        undoes everything. Idempotent by ``session_id``."""
        ...

    async def delete_session(self, project_id: str, session_id: str) -> list[str]:
        """Erase what was said in a session and in those of all runs below its runs, what these runs were about, and
        their blackboards; their rows stay without content, the sessions as tombstones. The schedules that these runs
        have made are deleted, too, and wait to be told to Temporal. Runs above that stay quote nothing of it in their
        events. Messages that a fork inherits stay until it is deleted, too; blobs that nothing refers to any more are
        removed when nobody has put them lately. The ids of all of these runs; none when it was deleted before.
        NotFound; SessionBusy when any of the sessions is."""
        ...

    async def prune(
        self,
        *,
        deltas_before_ms: int | None = None,
        events_before_ms: int | None = None,
        sessions_before_ms: int | None = None,
        limit: int,
    ) -> tuple[Pruned, list[str]]:
        """Remove the live text (events.pruned stands in its place), all events but the last, of runs that ended
        before; delete sessions without a run to which nothing was added since, nor to any below (a child's session
        goes with its root's); remove blobs that nothing refers to.
        At most ``limit`` of each. Also the ids of the runs of the deleted sessions."""
        ...

    async def number_at(self, project_id: str, run_id: str, seq: int) -> int:
        """The number of the newest message that the run had added with its event ``seq``. NotFound, NoSuchNumber,
        EventsExpired."""
        ...

    async def find_said(self, session_id: str, message_id: str) -> tuple[RunRow, InboxRow] | None:
        """The run of this session that was sent the message with this id."""
        ...

    # Runs ------------------------------------------------------------------------------------------

    async def create_run(self, new: NewRun) -> RunRow:
        """Row ``queued``, user message, events run.created, message.added, run.queued: one transaction. With a
        ``start_ms`` it is ``scheduled``, and queued when the workflow says so.
        An existing ``run_id`` is returned as it is. A run that goes on from another: see ``Origin``; calls that a
        fork has cut off from their results are answered in it as not executed.
        NotFound (session), SessionBusy, SessionDeleted, SessionMovedOn."""
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
        schedule_id: str | None = None,
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
        """The run's workflow is gone from Temporal: the run has failed, and what belongs to it ends with it, as with
        ``record``. RunOver when it is terminal."""
        ...

    async def force_cancel(self, run_id: str, reason: str) -> RunRow:
        """Terminal ``cancelled`` now, whatever the workflow does: calls in flight are closed (a tool's outcome
        is unknown then), run.cancelled is the last event. What belongs to it ends in the same transaction, as with
        ``record``. RunOver when it is terminal already."""
        ...

    async def left_workflows(self, *, limit: int) -> list[str]:
        """Runs that were ended here without their workflow, which has to be ended, too."""
        ...

    async def workflows_heard(self, run_ids: Sequence[str]) -> None:
        """The workflows of these runs are gone."""
        ...

    async def update_run(
        self,
        run_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Json] | None = None,
        budget: Budget | None = None,
        limits: LimitsDefinition | None = None,
        deadline_ms: int | None = None,
    ) -> RunRow:
        """PATCH: what is given replaces what was there; appends run.updated. A budget, limits or deadline also
        make a ledger row ``limit`` (budget only) and an order ``limits`` with what the core must know. The budget of a
        child is a part of its parent's, whose ledger holds the new one. Nor is it lowered below what its own
        children at work may spend. RunOver, SliceTooLarge, SlicesGiven."""
        ...

    # Schedules -------------------------------------------------------------------------------------
    # The row is the truth; what Temporal knows of a schedule is derived from it, by whoever changed it or by the
    # reconciler.

    async def create_schedule(self, new: NewSchedule, *, most: int, most_of_owner: int) -> ScheduleRow:
        """An existing id is returned as it is. NotFound and SessionDeleted (of the session), ScheduleNameTaken,
        TooManySchedules."""
        ...

    async def get_schedule(self, project_id: str, id_or_name: str) -> ScheduleRow:
        """NotFound, also when it was deleted."""
        ...

    async def find_schedule(self, schedule_id: str) -> ScheduleRow:
        """Deleted ones, too. NotFound."""
        ...

    async def list_schedules(
        self, project_id: str, *, limit: int, cursor: str | None, descending: bool, owner: str | None = None
    ) -> Page[ScheduleRow]: ...

    async def change_schedule(self, project_id: str, schedule_id: str, change: ScheduleChange) -> ScheduleRow:
        """The next version, unless nothing changes. NotFound, VersionMismatch, ScheduleNameTaken."""
        ...

    async def accept_trigger(self, schedule_id: str, order_id: str, overlap: Overlap | None) -> int | None:
        """From now on it will fire, or its book says why not. The planned time, of now or of the next seconds: one that
        no other firing has, because Temporal names a firing after it. None: too many triggers within a minute. A known
        id is accepted as it is. NotFound."""
        ...

    async def accept_backfill(
        self, schedule_id: str, order_id: str, from_ms: int, to_ms: int, overlap: Overlap
    ) -> None:
        """NotFound. A known id is accepted as it is."""
        ...

    async def has_schedule_order(self, order_id: str) -> bool:
        """Whether an order with this id was accepted."""
        ...

    async def take_schedule_order(self, schedule_id: str, *, hold_ms: int) -> ScheduleOrder | None:
        """The oldest order that Temporal has not taken, held for so long; None: there is none, or somebody holds one
        of this schedule."""
        ...

    async def schedule_order_sent(self, order: ScheduleOrder, *, dropped: int, look_ms: int) -> None:
        """Temporal has taken it. A backfill is done with that, a trigger when its invocation is in the book."""
        ...

    async def hold_schedule_order(self, order_id: str, *, hold_ms: int, again: bool = False) -> None:
        """Nobody needs to look at it before then; ``again``: Temporal is told once more."""
        ...

    async def end_schedule_order(self, order: ScheduleOrder, status: InvocationStatus, reason: str) -> None:
        """It does not fire; a trigger's row in the book says why."""
        ...

    async def due_schedule_orders(self, *, limit: int) -> list[ScheduleOrder]:
        """Those that are not done and that nobody holds."""
        ...

    async def unapplied_schedules(self, *, older_than_ms: int, limit: int) -> list[ScheduleRow]:
        """Those of which Temporal was not told the newest version, deleted ones included."""
        ...

    async def applied_schedules(self, *, after: str, limit: int) -> list[ScheduleRow]:
        """Those that Temporal should know, by id, after the id ``after``."""
        ...

    async def confirm_schedule(self, schedule_id: str, version: int) -> bool:
        """Temporal was told of this version. False: there is a newer one by now."""
        ...

    async def open_invocation(self, new: NewInvocation) -> InvocationRow | None:
        """Look, then open: the row of a firing with this key is returned as it is. Void firings (the schedule was
        paused or its timing changed before Temporal heard of it) and those in quiet hours are skipped; otherwise the
        run is created in the same transaction. None: the schedule is gone. SessionBusy, NotFound (session)."""
        ...

    async def deliver_invocation(self, new: NewInvocation, run_id: str, message: NewMessage) -> InvocationRow | None:
        """The firing gives its input to a run that is under way, as ``accept_message``. RunOver, InboxFull."""
        ...

    async def list_invocations(
        self, schedule_id: str, *, limit: int, cursor: str | None, descending: bool
    ) -> Page[InvocationRow]:
        """The newest 1,000 of a schedule are kept."""
        ...

    async def open_runs(self, schedule_id: str) -> list[str]:
        """Ids of the schedule's runs that have not ended."""
        ...

    async def settle_schedules(self, *, limit: int) -> int:
        """Write down the firings that did not take place, with the reason: of this many schedules, those first that
        waited longest. How many were looked at."""
        ...

    # Orders: what somebody outside tells a run --------------------------------------------------------
    # They are numbered from 1 in their run, in one sequence. An order is delivered to the workflow after its
    # commit, by whoever can; those nobody confirmed are delivered again.

    async def give_order(self, run_id: str, order: Order) -> Order:
        """Commit an order (its ``number`` is ignored) and return it with its number. ``pause`` of a run that is
        held, and ``resume`` of one that is not, make a new order all the same: they do no harm. These and ``cancel``
        are given to everything below that ends with the run, too. RunOver."""
        ...

    async def undelivered_orders(self, run_id: str, *, limit: int) -> list[Order]:
        """In the order of their numbers; none when the run is terminal."""
        ...

    async def confirm_orders(self, run_id: str, numbers: Sequence[int]) -> None: ...

    async def runs_with_orders(self, *, older_than_ms: int, limit: int) -> list[str]:
        """Ids of runs that are not terminal, whose workflow was started, and that have orders waiting for so
        long, the oldest first."""
        ...

    # Inbox -----------------------------------------------------------------------------------------

    async def accept_message(self, run_id: str, message: NewMessage) -> InboxRow:
        """An inbox row, inbox.accepted {delivery} and an order ``message``; it ends applied (by begin_model) or
        returned (withdrawn, replaced, or by record). Idempotent by the message's id. RunOver, InboxFull."""
        ...

    async def withdraw_message(self, run_id: str, message_id: str) -> InboxRow:
        """inbox.returned {reason: withdrawn} and an order ``withdraw``, if it is still waiting; otherwise the row
        as it is. NotFound (message)."""
        ...

    async def replace_inbox(self, run_id: str, messages: Sequence[NewMessage]) -> list[InboxRow]:
        """All waiting messages are returned {reason: replaced}, these are accepted, in one transaction. A message
        whose id is known is left as it is. The waiting ones afterwards. RunOver, InboxFull."""
        ...

    async def list_inbox(self, run_id: str, *, waiting: bool) -> list[InboxRow]:
        """In the order of their numbers: those that still wait, or all."""
        ...

    def follow_interrupts(self, run_id: str) -> AbstractAsyncContextManager[Follower]:
        """Like ``follow``, but hears of interrupting messages only. Whoever enters looks first whether one is
        waiting already (``list_inbox``)."""
        ...

    # What people and clients are asked -----------------------------------------------------------------

    async def get_ask(self, project_id: str, ask_id: str) -> AskRow:
        """NotFound (approval, question or ask)."""
        ...

    async def find_ask(self, run_id: str, call_id: str) -> AskRow:
        """The newest ask about this call. NotFound (ask)."""
        ...

    async def list_asks(
        self,
        project_id: str,
        *,
        types: Sequence[AskType],
        limit: int,
        cursor: str | None,
        descending: bool,
        statuses: Sequence[AskStatus] = (),
        run_id: str | None = None,
        escalated: bool | None = None,
    ) -> Page[AskRow]: ...

    async def open_asks(self, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
        """The open asks of those of these runs that have any, in the order asked: their pending actions."""
        ...

    async def decide(self, project_id: str, ask_id: str, decision: Decision) -> AskRow:
        """Decide an approval, or about an unknown outcome. The journal is the arbiter: of two people who decide
        at the same instant one wins. The same decision by the same person again returns the row.

        approve: a vote; with the quorum the call goes on (order ``approve``; a client tool opens an ask
        ``client_tool``; an unknown outcome closes the lost attempt and runs again).
        edit: like approve, with ``edited_arguments`` in place of the call's from now on; votes for the old
        arguments are void, the ask's hash is the new one's. deny: the call is answered as denied, with the
        message (order ``answer``); one is enough. respond: the message is the call's result (order ``answer``).
        Events: approval.voted while votes are missing, then approval.decided {decision, by, scope, message?}.
        NotFound, AskResolved, AskExpired, AskStale, NotEligible, RunOver."""
        ...

    async def answer(self, project_id: str, ask_id: str, answers: dict[str, Json], by: str) -> AskRow:
        """All answers of an ``ask_user`` call, already validated, as the call's result: question.answered,
        tool.completed, order ``answer``. The same answers again return the row.
        NotFound, AskResolved, AskExpired, RunOver."""
        ...

    async def give_results(self, run_id: str, results: Sequence[ToolResult], by: str) -> list[AskRow]:
        """Results of client tools, all or none. The same result again is nothing new.
        NotFound (call), AskResolved (another result, or expired in between), AskExpired, RunOver."""
        ...

    async def settle_ask(self, run_id: str, key: str, call_id: str, outbox: Sequence[OutboxEvent]) -> AskSettled:
        """What became of the newest ask about this call, now that its time is over. Decided before: that.
        Open: it expires now, by its ``on_expiry``: ``deny`` answers the call (questions whose every part has a
        default are answered with them; a client tool's call fails; an unknown outcome is told to the model);
        ``escalate`` prolongs it once by the same time, marked, and denies the second time; ``fail`` says so.
        Events approval.expired / question.expired {on_expiry}."""
        ...

    async def standing_decision(self, run_id: str, tool: str, args_sha256: str) -> AskRow | None:
        """The newest decided approval of scope ``run`` (in this run) or ``session`` (in its session) for this
        very tool and these very arguments."""
        ...

    async def failures_in_a_row(self, run_id: str, tool: str, args_sha256: str) -> int:
        """How many of the run's newest ended calls of this tool were identical and failed, without another
        call of the tool in between."""
        ...

    async def retry_call(self, run_id: str, call_id: str, by: str, reason: str) -> CallRow:
        """A person gives up the attempt in flight (or the lost one) and orders another: tool.retrying, order
        ``retry_call``. NotFound (call), AskResolved when the call has ended. RunOver."""
        ...

    async def resolve_call(self, run_id: str, call_id: str, commit: ToolCommit, by: str) -> CallRow:
        """A person gives the result of a call by hand, or aborts it: whatever still runs for it is not heard
        any more. Its open ask is closed. Order ``answer``. NotFound (call), AskResolved, RunOver."""
        ...

    # Time and signals --------------------------------------------------------------------------------
    # Timers are asks of the type ``timer``: list_asks reads them, settle_ask fires them when their time comes.

    async def end_timer(self, run_id: str, timer_id: str, by: str, *, fires: bool) -> AskRow:
        """Somebody fires a timer before its time, or cancels it: timer.fired / timer.cancelled {by}; the call that
        sleeps is answered (cancelled: as failed), order ``answer``. The same by the same person again returns the row.
        NotFound (timer), AskResolved (it is over), RunOver."""
        ...

    async def pause_tool(
        self, run_id: str, call_id: str, attempt: int, *, next_ms: int, ends_ms: int, message: str = ""
    ) -> None:
        """This try of a poll was in vain, and there will be another at ``next_ms``: tool.progress. ``ends_ms``, when
        the poll gives up, is in the call's outcome from now on. Nothing when the attempt is over."""
        ...

    async def send_signal(self, run_id: str, signal: NewSignal, *, only_waiting: bool = False) -> SignalRow:
        """Bring it to the call that waits for it (the oldest whose match it fits): the call is answered with it,
        order ``answer``. Nobody waits: what is critical or high becomes an interrupting message, the rest is buffered
        for a day, at most 64 in a run; a normal one takes the place of the oldest low one, others are dropped.
        A dedupe key that came within a day is a duplicate. Each disposition is an event signal.received. With
        ``only_waiting`` nothing happens when nobody waits. Idempotent by the signal's id.
        NotFound (run), RunOver, InboxFull."""
        ...

    async def runs_waiting_for(self, project_id: str, name: str, *, labels: Mapping[str, str], limit: int) -> list[str]:
        """Ids of runs with these labels in which a call waits for this event, the longest wait first."""
        ...

    # Money -----------------------------------------------------------------------------------------

    async def read_ledger(
        self, run_id: str, *, after: int = 0, limit: int | None = None, descending: bool = False
    ) -> list[LedgerRow]:
        """By entry, those after the entry ``after`` in that order; 0 is before the first."""
        ...

    async def usage_by(
        self, project_id: str, group: UsageGroup, *, from_ms: int | None, before_ms: int | None
    ) -> list[UsageRow]:
        """Sums over the settled rows of the ledgers, the dearest first (``day``: the newest first), at most
        10,000 groups. Days are UTC."""
        ...

    async def calibrations(self) -> list[Calibration]:
        """Per model, over the newest 10,000 settled calls: how the bound of the input compared with what the
        vendor counted."""
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
        ask: Ask,
        apply: Numbers = (),
        only_for_messages: bool = False,
        closes: str = "",
        outbox: Sequence[OutboxEvent] = (),
    ) -> Begun:
        """Look, then take the next attempt. First attempt: the waiting messages in ``apply`` go into the
        transcript (message.added, inbox.applied), turn.completed of the turn before, turn.started.
        Every attempt: a reservation in the ledger, model.started {attempt, model}. After a lost attempt, before
        that: its reservation is spent (assumed), model.aborted {attempt: lost}, run.recovering.
        ``closes`` is a model call that was called off and may still be open: it is ended first.

        No attempt is taken, and ``Begun`` says why, when the reservation does not fit the budget
        (``reached``; budget.reached {limit}) or when the call was wanted ``only_for_messages`` and the
        transcript ends with an answer (``nothing_new``)."""
        ...

    async def commit_model(self, run_id: str, key: str, attempt: int, commit: ModelCommit) -> CallRow:
        """Insert-if-absent: assistant message + message.added, the call ended, a ``requested`` call row
        per tool call with its arguments, tool.requested each, the asks of ``commit.asks`` (approval.requested,
        question.asked), model.completed, usage into the run, the reservation settled, budget.warning where a
        limit is four fifths spent, turn.completed when no tool was asked for, run.recovered after a recovering.
        The second writer gets the first's row back; its usage is added to the run and the ledger all the same
        (in place of what was assumed) and its attempt aborted in the stream: it was paid."""
        ...

    async def fail_model_attempt(
        self,
        run_id: str,
        key: str,
        attempt: int,
        failure: Failure,
        *,
        retry_in_seconds: float | None,
        billed: bool,
    ) -> None:
        """The attempt is over without an answer: model.aborted {attempt}, and model.retrying when there
        will be another. With ``retry_in_seconds`` None the call has failed. The reservation is spent (assumed)
        when the vendor may have ``billed`` the attempt, else released."""
        ...

    async def interrupt_model(
        self, run_id: str, key: str, attempt: int, content: Sequence[Block], model: str, *, billed: bool = True
    ) -> None:
        """A message cut the attempt short: what was said so far becomes an assistant message with the stop
        reason ``interrupted`` (when there is any), the call ends as failed with the code ``interrupted``,
        model.aborted {reason: interrupted}; the reservation is spent (assumed), or released if the attempt has
        certainly not been ``billed``."""
        ...

    async def begin_tool(
        self,
        run_id: str,
        call_id: str,
        *,
        worker: str,
        may_repeat: bool,
        tries_max: int = 1_000,
        ordered: int = 0,
        outbox: Sequence[OutboxEvent] = (),
    ) -> Begun:
        """The effect ledger: *started* is committed before the effect. First and later attempts:
        tool.started {attempt}; after a lost attempt, before that: run.recovering, tool.retrying.
        When an attempt was lost and the tool may not repeat, no attempt is taken and no tool.started
        written: ``Begun`` comes back with ``attempt`` and ``lost_attempt`` both the lost one's number
        (and run.recovering is committed). The same, with ``given_up``, when the tool was tried ``tries_max`` times
        since its beginning or since the newest order to run it again. An action from before such an order
        (``ordered`` is lower) is ``superseded``: nothing is written."""
        ...

    async def commit_tool(
        self,
        run_id: str,
        call_id: str,
        commit: ToolCommit,
        *,
        attempt: int | None = None,
        outbox: Sequence[OutboxEvent] = (),
    ) -> CallRow:
        """Insert-if-absent: the result as a ``tool`` message (message.added), the call ended,
        tool.completed / tool.failed / tool.unknown / tool.denied, run.recovered after a recovering.
        Also serves calls that were never started (refused, lost). With ``attempt``, only if that one is open.
        An open ask about the call is closed (``cancelled``; approval.expired / question.expired {reason})."""
        ...

    async def park_tool(self, run_id: str, call_id: str, attempt: int, ask: NewAsk) -> AskRow:
        """Nobody knows what became of the call, and a person shall say: tool.unknown, approval.requested. The
        call stays open. Idempotent: the ask that is open is returned."""
        ...

    async def fail_tool_attempt(
        self, run_id: str, call_id: str, attempt: int, failure: Failure, *, retry_in_seconds: float
    ) -> None:
        """This attempt is over and there will be another: tool.retrying."""
        ...

    async def record(
        self,
        run_id: str,
        key: str,
        outbox: Sequence[OutboxEvent],
        outcome: Outcome | None,
        said: Said | None = None,
    ) -> Aftermath:
        """Commit outbox events and, with an outcome, the end: open inbox rows are returned, open asks closed,
        open calls ended and their reservations spent (assumed), orders forgotten, the run
        gets its terminal status, output, error and completed_at, its session is free again, and the
        terminal event is the last.

        Runs below it that are not detached are cancelled in the same transaction; the slices of detached ones count
        as spent. A run with a parent tells it, too: its slice is settled, child.completed or child.failed, order
        ``child_ended``; its end is the result of the call that waits for it (order ``answer``), or else a message
        (delivery ``note``). ``said`` stands for an output that is too large for that."""
        ...

    # Calls about other runs ----------------------------------------------------------------------------
    # Each is carried out once, under its call: a call that has ended is returned as it is. Whoever asks for something
    # that cannot be gets a failed call whose words a model can act on.

    async def spawn_child(
        self, run_id: str, call_id: str, new: NewChild, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        """A run ``queued`` as ``create_run`` makes it, one deeper, and child.started. What it may spend is reserved in
        its parent's ledger; its limits on families are no larger than its parent's. In the background the call is
        answered with the child's id, else it waits for the child's end. Fails with skipped, depth_limit,
        children_limit, running_children_limit, budget_too_small, agent_cycle: nothing is started then."""
        ...

    async def await_children(
        self, run_id: str, call_id: str, awaits: Awaits, expires_ms: int, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        """Without ids: for all children that live. Fails with agent_not_found."""
        ...

    async def message_child(
        self, run_id: str, call_id: str, child_id: str, message: NewMessage, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        """As ``accept_message``. Fails with agent_not_found, agent_ended, queue_full."""
        ...

    async def cancel_child(
        self, run_id: str, call_id: str, child_id: str, reason: str, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        """An order ``cancel`` to the child and all below it. Fails with agent_not_found."""
        ...

    async def hand_over(
        self, run_id: str, call_id: str, new: HandOver | ToolCommit, outbox: Sequence[OutboxEvent] = ()
    ) -> FamilyCall:
        """The run pins ``new`` from now on, agent.transferred says so, and what a vendor has counted of its transcript
        holds no more. Its limits stay; to the budgets of single tools the new agent's are added. Fails with
        already_transferred: once in a turn. A commit in place of an agent is the answer when there can be none."""
        ...

    async def stop_waiting(self, run_id: str, call_id: str, words: str, outbox: Sequence[OutboxEvent] = ()) -> CallRow:
        """The call is answered with what is known, and its children go on in the background."""
        ...

    async def give_family_order(self, run_id: str, order: Order) -> list[str]:
        """As ``give_order``: who got it, the run first."""
        ...

    # Blackboards: one for each tree of runs. A call changes it once, however often it is carried out; what it has
    # changed is returned then. RunOver.

    async def read_board(self, run_id: str) -> Board:
        """That of the run's tree. NotFound (run)."""
        ...

    async def post_entry(self, run_id: str, call_id: str, text: str, topic: str | None) -> BoardChange:
        """board.posted. BoardFull."""
        ...

    async def update_entry(
        self, run_id: str, call_id: str, entry_id: str, text: str, version: int | None
    ) -> BoardChange:
        """board.updated; only at this ``version``, when it is given. NotFound (entry), StaleEntry."""
        ...

    async def remove_entry(self, run_id: str, call_id: str, entry_id: str, version: int | None) -> BoardChange:
        """board.removed. NotFound (entry), StaleEntry."""
        ...

    async def list_family(self, run_id: str, *, limit: int) -> list[RunRow]:
        """The run and everything below it, parents before their children."""
        ...

    async def assumed_in_family(self, run_id: str) -> dict[str, int]:
        """What lost attempts of the run, and of each below it, are taken to have cost, in micro-USD; not those with
        nothing. It stands beside ``usage``, which is what vendors have reported."""
        ...

    async def asks_below(self, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
        """What living runs below these ask of people and clients, by the run above."""
        ...

    async def read_family_events(
        self, run_id: str, *, after: str | None, limit: int, types: Sequence[str] = (), deltas: bool = True
    ) -> list[EventRow]:
        """Events of a run and of everything below it, by time; ``after`` is a ``run_id:seq``. InvalidCursor."""
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

    async def media_type_of(self, blob_id: str) -> str:
        """NotFound."""
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
