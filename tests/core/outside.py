"""What the world outside a run can see of it, and the promises it holds the run to.

Nothing here looks into ``RunState`` or asks the functions under test: only orders that were given
(start this, call that off), what was delivered, lines in the journal, bills and effects. Each promise is one
sentence. Those about money are in ``money.py``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

from perdure.core.actions import Action, AnswerCall, CallFamily, CallModel, CallTool, Finish, Record, SettleAsk
from perdure.core.budget import Amount
from perdure.core.happenings import (
    ActionCancelled,
    AskSettled,
    BudgetReached,
    CallAsked,
    CancelRequested,
    EndedElsewhere,
    FamilyCalled,
    Happening,
    ModelFailed,
    ModelInterrupted,
    ModelResponded,
    NothingNew,
    Order,
    Recorded,
    ToolAnswered,
    ToolLost,
    ToolParked,
    ToolPaused,
)
from perdure.core.numbers import Numbers
from perdure.core.spec import RunSpec
from perdure.core.state import OutboxEvent, Outcome, Usage
from tests.core.kin import Kin
from tests.core.mini_journal import Asked, MiniJournal
from tests.core.money import ledger_promises

PARALLEL_MAX = 10  # stated again on purpose: the promise, not the constant under test
CUT_OFF = ("max_output_tokens", "refusal")
OUTSIDE = ("approval", "client_tool", "question", "unknown_outcome")  # what somebody has to do something about
STATUS_OF_EVENT = {
    "run.queued": "running",
    "run.started": "running",
    "run.resumed": "running",
    "run.waiting": "waiting",
    "run.requires_action": "requires_action",
    "run.paused": "paused",
    "run.cancelling": "cancelling",
}


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Seen:
    """A tool call as its turn was reported. ``may_run`` is what policy, arguments and limits say; ``asks`` that a
    person has to approve it; ``over`` is how far its tool is over its own budget."""

    tool: str
    may_run: bool
    asks: bool
    over: int
    answered_by: str
    starts: int = 0
    again: int = 0  # words and losses after which it may be started once more
    lost: bool = False
    escalated_until_ms: int = 0
    given_up: str = ""  # the code of the answer that was begun
    answered: bool = False


class Witness:
    """Keeps the book of one run and says which promise was broken."""

    def __init__(self, spec: RunSpec, journal: MiniJournal) -> None:
        self.spec, self.journal = spec, journal
        self.limits, self.on_limit, self.deadline_ms = spec.limits, spec.on_limit, spec.deadline_ms
        self.kin = Kin(journal, self._broken)
        self.flying: dict[str, Action] = {}  # started and not ended
        self.called_off: set[str] = set()
        self.carries: dict[str, tuple[OutboxEvent, ...]] = {}  # by the actions in flight
        self.newest_carrier: dict[str, str] = {}  # of each event
        self.delivered_events: set[str] = set()  # whose newest carrier reported that it committed
        self.told = self.told_reason = ""
        self.heard: set[int] = set()  # numbers of orders that were delivered
        self.steering: set[int] = set()
        self.queued: set[int] = set()
        self.notes: set[int] = set()  # words of children
        self.heard_too_late: set[int] = set()  # after the end was begun
        self.model_keys: set[str] = set()
        self.models: dict[str, CallModel] = {}  # as started last
        self.turns = 0
        self.usage: list[Usage] = []
        self.calls: dict[str, Seen] = {}
        self.counted: Counter[str] = Counter()  # calls of tools that have a budget
        self.counted_calls = self.counted_questions = 0
        self.started_at: list[tuple[int, tuple[int, ...]]] = []  # of tool calls: when, and under which rate limits
        self.effects: Counter[str] = Counter()
        self.approvals: dict[str, dict[int, set[str]]] = {}  # call -> arguments -> who approved them
        self.standing: set[tuple[str, int]] = set()  # tool and arguments approved for the whole run
        self.people_again: Counter[str] = Counter()  # how often a person let a call run again
        self.bills: dict[tuple[str, int], Amount] = {}  # what the vendors said attempts have used
        self.cancels = 0
        self.cancelled_alone = False  # and its children were not told
        self.paused = self.failure_seen = self.forced = self.over = self.wrapped_up = self.last_final = False
        self.reached = ""
        self.last_stop = ""
        self.shall_be_called_off: set[str] = set()
        self.polls: dict[str, int] = {}  # calls that pause between two tries, and until when
        self.tries: dict[str, set[str]] = {}  # keys under which tool calls were started
        self.tries_given_up: set[str] = set()
        self.finish: Outcome | None = None

    # What the shell does ---------------------------------------------------------------------------

    def started(self, action: Action, outbox: tuple[OutboxEvent, ...], now_ms: int) -> None:
        key = action.key
        self._carried(key, outbox)
        if key in self.flying:
            self._broken(f"an action is in flight only once, but {key} was started again")
        if self.finish and not isinstance(action, Finish):
            self._broken(f"after the end was begun nothing else is started, but {key} was")
        if self.wrapped_up and not isinstance(action, Finish | Record):
            self._broken(f"after the last call comes nothing but the end, but {key} was started")
        if not isinstance(action, Finish | Record):
            if now_ms < self.spec.start_ms:
                self._broken(f"nothing begins before a run's start, but {key} was started at {now_ms}")
            last_words = isinstance(action, CallModel) and action.wrap_up and self.cancels == 1
            if self._stopped(now_ms) and not (last_words and not self._stopped_at_once(now_ms)):
                self._broken(f"after a cancel, a failure or the deadline was seen no work is started, but {key} was")
            if self.paused and not last_words:
                self._broken(f"a paused run starts nothing, but {key} was started")
        match action:
            case CallModel():
                self._model_started(action)
            case CallTool() | CallFamily():
                self._tool_started(action, now_ms)
            case AnswerCall():
                self._answer_started(action)
            case SettleAsk(_, call_id):
                self.kin.settled |= {key} if call_id in self.kin.waits else set()
                newest = self.journal.newest_ask(call_id)
                if newest is None:
                    self._broken(f"only what was asked is settled, but {call_id} was")
                if newest and newest.type == "approval" and now_ms < self.calls[call_id].escalated_until_ms:
                    self._broken(f"what was escalated has its time again, but {call_id} was settled at {now_ms}")
                if self.calls[call_id].answered:
                    self._broken(f"what was asked about a call is settled while it matters, but {call_id} is answered")
            case Finish():
                self._finish_started(action.outcome, now_ms)
        self.flying[key] = action
        self._not_too_many()

    def _carried(self, key: str, outbox: tuple[OutboxEvent, ...]) -> None:
        for event in outbox:
            if event.key in self.delivered_events:
                self._broken(f"an event that is known to be committed is not carried again, but {event.key} was")
            if event.key not in self.newest_carrier:
                self.told, self.told_reason = STATUS_OF_EVENT[event.type], str(event.data.get("reason", ""))
                if event.type == "run.requires_action":
                    self._told_what_to_do(event)
            self.newest_carrier[event.key] = key
        self.carries[key] = outbox

    def _told_what_to_do(self, event: OutboxEvent) -> None:
        actions = event.data["actions"]
        assert isinstance(actions, list)
        told = sorted(str(action["type"]) for action in actions if isinstance(action, dict))
        waits = str(event.data.get("reason")).split(", ")
        if not told or sorted(set(told)) != [one for one in waits if one in OUTSIDE]:
            self._broken(f"requires_action says what for, but said {event.data}")

    def _not_too_many(self) -> None:
        wanted = [action for key, action in self.flying.items() if key not in self.called_off]
        at_work = [action for action in wanted if isinstance(action, CallTool | CallFamily)]
        writes = [action for action in wanted if isinstance(action, AnswerCall | SettleAsk)]
        if len(at_work) > PARALLEL_MAX or len(writes) > PARALLEL_MAX:
            self._broken(f"at most {PARALLEL_MAX} calls of a turn run at once, but {len(at_work)}, {len(writes)} did")
        if len(at_work) > 1 and not all(tool.rule.parallel for tool in at_work):
            self._broken("a tool that is not parallel runs alone, but others ran beside it")

    def _model_started(self, action: CallModel) -> None:
        key = action.key
        if key in self.model_keys:
            self._broken(f"a model call is asked for once, but {key} was started again")
        self.model_keys.add(key)
        self.models[key] = action
        if beside := [other for other, kind in self.flying.items() if not self._may_be_beside_a_model(other, kind)]:
            self._broken(f"a model call runs alone, but beside it ran {beside}")
        turn_of_last_words = 1 if self.on_limit == "wrap_up" and self.limits.max_turns > 1 and not action.wrap_up else 0
        if self.turns + 1 > self.limits.max_turns - turn_of_last_words:
            self._broken(f"max_turns is never exceeded, nor the turn of the last words used, but {key} was started")
        if action.wrap_up:
            out_of_turns = self.turns >= self.limits.max_turns - 1
            if not self.cancels and (self.on_limit != "wrap_up" or not (self.reached or out_of_turns)):
                self._broken(f"last words are asked for at a limit or a cancel, but {key} was started")
            if self.kin.at_work and (self.reached if not self.cancels else not self.cancelled_alone):
                self._broken(f"last words wait for children who end or have some of the budget, but {key} was started")
            if action.apply:
                self._broken("last words answer no message")
            return
        if self.reached:
            self._broken(f"a limit that was reached holds until it is changed, but {key} was started")
        if open_ := [call_id for call_id, call in self.calls.items() if not call.answered]:
            self._broken(f"every call is answered before the next model call, but {open_} were not")
        if action.only_for_messages != self.last_final:
            self._broken("a model is called for messages alone exactly when its last answer was final")
        if self.last_final and not self.steering | self.queued | self.notes:
            self._broken("a model is called only when there is something to answer")
        wanted = self.steering | self.notes | (self.queued if self.last_final else set())
        if _numbers(action.apply) != wanted:
            self._broken(f"a model call applies the waiting messages {wanted}, not {action.apply}")

    def _may_be_beside_a_model(self, key: str, action: Action) -> bool:
        """What was given up and is slow to end holds nobody up, if it is not another model call."""
        return isinstance(action, Record) or (key in self.called_off and not isinstance(action, CallModel))

    def _tool_started(self, action: CallTool | CallFamily, now_ms: int) -> None:
        call = self.calls[action.call_id]
        call.starts += 1
        self.tries.setdefault(action.call_id, set()).add(action.key)
        if isinstance(action, CallTool) and action.quiet != (action.call_id in self.polls):
            self._broken(f"another try of a poll is quiet, and nothing else, but {action.call_id} was not so")
        if now_ms < self.polls.get(action.call_id, 0):
            self._broken(f"a poll pauses between two tries, but {action.call_id} tried again at {now_ms}")
        if call.starts > 1 + call.again:
            self._broken(f"a tool call is started once, but {action.call_id} was started again")
        if not call.may_run:
            self._broken(f"a call that was denied, refused or cut off never runs, but {action.call_id} was started")
        if call.answered:
            self._broken(f"a call that has its answer is not run, but {action.call_id} was started")
        if call.asks and not self._is_approved(action.call_id):
            self._broken(f"what must be asked runs after an approval of these arguments, but {action.call_id} did not")
        if call.answered_by != ("worker" if isinstance(action, CallTool) else "family"):
            self._broken(f"what people, time or the client answer is not run, but {action.call_id} was")
        if self.steering:
            self._broken(
                f"no call of a steered turn is started, but {action.call_id} was, with {self.steering} waiting"
            )
        if isinstance(action, CallTool) and action.over != call.over:
            self._broken(f"a tool over its budget is told by how much: {call.over}, not {action.over}")
        for call_id, before in self.calls.items():
            if call_id == action.call_id:
                break
            ready = before.may_run and not (before.starts or before.answered or before.lost or before.given_up)
            if ready and self.journal.newest_ask(call_id) is None and not self.spec.rule(before.tool).rates:
                self._broken(f"what can run runs in its order, but {action.call_id} was started before {call_id}")
        self.started_at.append((now_ms, action.rule.rates))
        for index, limit in enumerate(self.spec.rate_limits):
            window_ms = limit.window_seconds * 1_000
            within = [at_ms for at_ms, rates in self.started_at if index in rates and at_ms > now_ms - window_ms]
            if len(within) > limit.max_calls:
                self._broken(f"at most {limit.max_calls} calls start within {window_ms} ms, but {len(within)} did")

    def _is_approved(self, call_id: str) -> bool:
        """By enough people, for the arguments that the call has now; or people did not have to be asked again."""
        arguments = self.journal.calls[call_id].arguments
        asks = [ask for ask in self.journal.asks if ask.call_id == call_id and ask.type == "approval"]
        if not asks:
            return (self.calls[call_id].tool, arguments) in self.standing
        return len(self.approvals.get(call_id, {}).get(arguments, ())) >= asks[-1].quorum

    def _answer_started(self, action: AnswerCall) -> None:
        call = self.calls[action.call_id]
        if call.answered:
            self._broken(f"a call is answered once, but {action.call_id} is answered again")
        if call.lost or call.given_up == action.code:  # what was begun is not taken back
            return
        call.given_up = action.code
        if action.call_id in self.kin.waits and action.code != "children_go_on":
            self._broken(f"children go on when a message ends the wait for them, but {action.call_id}: {action.code}")
        if action.code == "children_go_on" and action.call_id not in self.kin.waits:
            self._broken(f"only a call that waits for children is told that they go on, but {action.call_id} was")
        if action.code == "skipped" and (not self.steering or call.starts):
            self._broken(f"only a call that has not begun is skipped, for a message, but {action.call_id} was")
        if call.may_run and call.answered_by == "time" and action.code != "woken":
            self._broken(f"a message wakes a sleeper, but {action.call_id} was answered with {action.code}")
        if action.code == "woken" and call.tool not in ("sleep", "wait_for_event", "poll"):
            self._broken(f"a message wakes who waits for the world, but {action.call_id} was woken")
        if call.may_run and not self.steering:
            self._broken(f"a call that may run is not refused, but {action.call_id} was: {action.code}")
        if not call.may_run and action.code == "skipped":
            self._broken(f"a call is answered with the reason why it was refused, but {action.call_id} was skipped")

    def _finish_started(self, outcome: Outcome, now_ms: int) -> None:
        if self.finish and outcome != self.finish:
            self._broken(f"an outcome that is being recorded is kept, but {self.finish} became {outcome}")
        if self.flying:
            self._broken(f"the end comes when all has ended, but {list(self.flying)} were in flight")
        if self.finish:
            return
        self.finish = outcome
        if self.failure_seen:
            right = outcome.status == "failed"
        elif self._is_final() and not self.wrapped_up:
            right = outcome.status == ("incomplete" if self.last_stop in CUT_OFF else "completed")
        elif self._is_final():  # what it was to wrap up was withdrawn in between
            right = outcome.status in ("completed", "incomplete", "cancelled")
        else:
            if outcome.status == "incomplete" and self.reached and self.kin.at_work and not self.wrapped_up:
                self._broken(f"no run ends for its budget while children have some of it: {self.kin.at_work}")
            spent = self.turns >= self.limits.max_turns - (self.on_limit == "wrap_up")
            right = {
                "expired": now_ms >= self.deadline_ms,
                "cancelled": self.cancels > 0 and now_ms < self.deadline_ms,
                "incomplete": bool(self.reached or spent or self.wrapped_up) and not self.cancels and not self.paused,
            }.get(outcome.status, False)
        if not right:
            self._broken(f"the outcome says what happened first, but it was {outcome}")

    def ordered_off(self, key: str, now_ms: int) -> None:
        action = self.flying[key]
        meant = self._stopped(now_ms) or key in self.shall_be_called_off
        match action:
            case CallModel():
                meant = meant or self._is_final()
            case CallTool(_, call_id) | CallFamily(_, call_id) | SettleAsk(_, call_id) | AnswerCall(_, call_id):
                call, asked = self.calls[call_id], self.journal.newest_ask(call_id)
                settled = (
                    isinstance(action, SettleAsk) and asked is not None and (asked.status != "open" or self.steering)
                )
                settled = settled or (
                    isinstance(action, SettleAsk) and asked is not None and asked.type == "client_tool"
                )
                meant = (
                    meant or call.answered or bool(settled) or (not isinstance(action, SettleAsk) and call.again > 0)
                )
        if not meant:
            self._broken(f"what is in flight and still means something stays wanted, but {key} was called off")
        self.called_off.add(key)

    # After a round ---------------------------------------------------------------------------------

    def reconciled(self, now_ms: int, *, all_delivered: bool) -> None:
        """The shell has started and called off what it wanted."""
        known = {type_ for _, type_ in self.journal.events}
        known.update(event.type for key in self.flying for event in self.carries[key])
        starts = now_ms >= self.spec.start_ms and not (self.spec.start_ms and self._stopped(now_ms))
        if (starts and "run.started" not in known) or (self.cancels and "run.cancelling" not in known):
            self._broken(f"what is to be told is on its way at once, but told or on the way are {known}")
        if goes_on := self.shall_be_called_off & self.flying.keys() - self.called_off:
            self._broken(f"a call that a message interrupts or a person gives up is called off, but {goes_on} went on")
        self.shall_be_called_off.clear()
        self._stop_is_obeyed(now_ms)
        models = [key for key, action in self.flying.items() if isinstance(action, CallModel) and not action.wrap_up]
        if self._is_final() and set(models) - self.called_off:
            self._broken(f"a model call is called off when its messages were withdrawn, but {models} went on")
        if self.forced:  # it is over, and the run will hear of it
            return
        if self.cancels and not self.flying and (self.cancelled_alone or not self.kin.at_work):
            self._broken("a run that winds up waits for nobody but children who were told to end, too")
        self._status_is_true(now_ms, all_delivered)
        if all_delivered and not self._stopped(now_ms) and not self.paused and not self.finish:
            self._expiry_is_seen(now_ms)

    def sleeps(self, until_ms: int) -> None:
        """Nothing is on its way, and what is in flight hangs: only time changes anything."""
        if self.forced or self.cancels or self.paused:
            return
        at_work = {action.call_id for action in self.flying.values() if isinstance(action, CallTool | CallFamily)}
        for ask in self._asks_known():
            if ask.call_id not in at_work and until_ms > ask.expires_ms:
                self._broken(f"a run wakes when what it waits for expires, but slept till {until_ms}: {ask}")
        free_ms = [
            at + self.spec.rate_limits[index].window_seconds * 1_000 for at, rates in self.started_at for index in rates
        ]
        if not self.told and until_ms > self.spec.start_ms > 0:
            self._broken(f"a run wakes when it has to start, but slept till {until_ms}")
        if not any(isinstance(action, CallTool) for action in self.flying.values()) and not free_ms:
            for call_id, next_ms in self.polls.items():
                if not self.calls[call_id].answered and until_ms > next_ms:
                    self._broken(f"a run wakes for the next try of a poll, but slept till {until_ms}: {call_id}")
        if self.told_reason.startswith("rate_limit") and until_ms > max(free_ms):
            self._broken(f"a run wakes when a rate limit lets a call start, but slept till {until_ms}")

    def _stop_is_obeyed(self, now_ms: int) -> None:
        if not self._stopped(now_ms) or self._is_final():
            return
        for key, action in self.flying.items():
            last_words = isinstance(action, CallModel) and action.wrap_up and not self._stopped_at_once(now_ms)
            if not isinstance(action, Record | Finish) and key not in self.called_off and not last_words:
                self._broken(f"a stop calls off at once what is in flight, but {key} went on")

    def _status_is_true(self, now_ms: int, all_delivered: bool) -> None:
        if now_ms < self.spec.start_ms:
            return
        at_work = [
            key
            for key, action in self.flying.items()
            if not isinstance(action, Record) and not (isinstance(action, CallTool) and action.quiet)
        ]
        waits = {ask.type for ask in self._asks_known()}
        waits |= {"poll" for call_id in self.polls if not self.calls[call_id].answered}
        if self.cancels and not self.finish:
            truth, why = "cancelling", self.told_reason
        elif self.finish or self._stopped(now_ms) or self._is_final() or self.called_off:
            return
        elif at_work:
            truth, why = "running", ""
        elif not all_delivered:
            return
        elif self.reached and self.kin.at_work and self._at_a_limit() and not self.paused and not self.wrapped_up:
            truth, why = "waiting", "children"
        elif self.paused or (self.on_limit == "pause" and self._at_a_limit()):
            truth, why = "paused", "user" if self.paused else f"budget_reached: {self.reached or 'max_turns'}"
        elif self.wrapped_up or self._at_a_limit() or self._a_lost_attempt_was_given_up():
            return  # its end waits for a record; or the next attempt finds out
        elif waits:
            truth, why = "requires_action" if waits & set(OUTSIDE) else "waiting", ", ".join(sorted(waits))
        else:
            truth, why = "waiting", self.told_reason
            self._something_is_rate_limited(now_ms)
        if (self.told, self.told_reason) != (truth, why):
            self._broken(
                f"the status told is what the run does: {truth} {why}, but it was {self.told} {self.told_reason}"
            )

    def _asks_known(self) -> list[Asked]:
        """What is open, and known to the run. A call that is to be carried out again does not wait for children."""
        asks = [ask for ask in self.journal.open_asks() if ask.call_id in self.calls]
        return [ask for ask in asks if ask.type != "children" or ask.call_id in self.kin.waits]

    def _a_lost_attempt_was_given_up(self) -> bool:
        """A person is asked about an attempt that another one has given up before: the run goes on with the next,
        which finds the question."""
        given_up = {order.call_id for order in self.journal.orders if order.verb == "retry_call"}
        return any(ask.type == "unknown_outcome" and ask.call_id in given_up for ask in self.journal.open_asks())

    def _something_is_rate_limited(self, now_ms: int) -> None:
        for index, limit in enumerate(self.spec.rate_limits):
            after_ms = now_ms - limit.window_seconds * 1_000
            within = [at_ms for at_ms, rates in self.started_at if index in rates and at_ms > after_ms]
            if len(within) >= limit.max_calls:
                return
        self._broken("a run that waits waits for something")

    def _expiry_is_seen(self, now_ms: int) -> None:
        """Of what was asked and is known to the run: no model call and no attempt that may tell of it is in flight."""
        if any(isinstance(action, CallModel) for action in self.flying.values()):
            return
        by_call = Counter(action.call_id for action in self.flying.values() if hasattr(action, "call_id"))
        writes = sum(isinstance(action, AnswerCall | SettleAsk) for action in self.flying.values())
        for ask in self._asks_known():
            if now_ms >= ask.expires_ms and not by_call[ask.call_id] and writes < PARALLEL_MAX:
                self._broken(f"what was asked is settled when its time is over, but {ask} is not")

    # Deliveries ------------------------------------------------------------------------------------

    def ended(self, key: str) -> None:
        del self.flying[key]
        self.called_off.discard(key)

    def delivered(self, happening: Happening) -> None:
        """A first delivery; echoes are not told. A run that has heard of its end hears nothing more."""
        self.over = self.over or isinstance(happening, EndedElsewhere)
        if self.over:
            return
        carriers = ModelResponded | ModelInterrupted | ToolAnswered | FamilyCalled | AskSettled | Recorded
        if isinstance(happening, carriers):
            carried = [event.key for event in self.carries[happening.key]]
            self.delivered_events.update(event for event in carried if self.newest_carrier[event] == happening.key)
        match happening:
            case Order():
                self._order_delivered(happening)
            case CancelRequested():
                self.cancelled_alone = self.cancelled_alone or not (self.cancels or self.finish)
                self._cancelled()
            case ModelFailed(key):
                self.wrapped_up = self.wrapped_up or key.startswith("wrap-up")
                self.failure_seen = self.failure_seen or not key.startswith("wrap-up")
            case ModelResponded():
                self._responded(happening)
            case ModelInterrupted(key, by):
                self.turns, self.last_final, self.last_stop = self.turns + 1, False, "interrupted"
                self._took_along(key)
                self.steering |= _numbers(by) - self.heard
                self.heard |= _numbers(by)
            case NothingNew(key):
                self._took_along(key)
                self.model_keys.discard(key)
            case BudgetReached(key, limit) if key.startswith("wrap-up"):
                self.wrapped_up = True
            case BudgetReached(key, limit):
                self.model_keys.discard(key)
                self.reached = limit
            case ToolAnswered(_, call_id):
                self._answered(call_id)
            case FamilyCalled():
                self._family_called(happening)
            case ToolParked(_, call_id):
                self._again(call_id)
            case ToolPaused(key, call_id, next_ms) if key not in self.tries_given_up:
                self._again(call_id)
                if call_id in self.calls:
                    self.polls[call_id] = next_ms
            case ToolLost(key, call_id) if key.startswith("tool-"):
                if call_id in self.calls:
                    self.calls[call_id].lost = True
            case AskSettled(_, call_id, "answered"):
                self._answered(call_id)
            case AskSettled(_, call_id, "escalated", expires_ms):
                if (asked := self.journal.newest_ask(call_id)) and asked.type == "approval":
                    self.calls[call_id].escalated_until_ms = expires_ms
            case AskSettled(key, call_id, "approved") if key in self.kin.settled:  # it was to be carried out again
                self._again(call_id)
            case AskSettled(_, _, "failed"):
                self.failure_seen = True
            case ActionCancelled(key) if key.startswith("tool-"):
                for call_id, call in self.calls.items():
                    call.again += key.startswith(f"tool-{call_id}")

    def _order_delivered(self, order: Order) -> None:
        if order.number in self.heard:
            return
        self.heard.add(order.number)
        if self.finish:
            self.heard_too_late.add(order.number)
            return
        match order.verb:
            case "message" if order.delivery == "enqueue":
                self.queued.add(order.number)
            case "message" if order.delivery == "note":
                self.notes.add(order.number)
            case "message":
                self.steering.add(order.number)
                if order.delivery == "interrupt":
                    self.shall_be_called_off |= {
                        key
                        for key, action in self.flying.items()
                        if isinstance(action, CallModel) and not action.wrap_up
                    }
            case "withdraw":
                gone = _numbers(order.numbers)
                self.steering, self.queued, self.heard = self.steering - gone, self.queued - gone, self.heard | gone
                self.notes -= gone
            case "answer":
                self._answered(order.call_id)
            case "child_ended":
                self.kin.order(order)
                self.reached = self.reached if self._last_words_are_spoken() else ""
            case "retry_call":
                self._again(order.call_id)
                self.polls.pop(order.call_id, None)
                self.tries_given_up |= self.tries.get(order.call_id, set())
                if order.call_id in self.calls:
                    self.calls[order.call_id].lost = False
                    self.shall_be_called_off |= {
                        key
                        for key, action in self.flying.items()
                        if isinstance(action, CallTool | CallFamily) and action.call_id == order.call_id
                    }
            case "pause":
                self.paused = True
            case "resume":
                self.paused = False
            case "cancel":
                self._cancelled()
            case "limits":
                self._limits_changed(order)

    def _limits_changed(self, order: Order) -> None:
        self.limits = order.limits or self.limits
        self.on_limit = order.on_limit or self.on_limit
        self.deadline_ms = order.deadline_ms or self.deadline_ms
        if not self._last_words_are_spoken():
            self.reached = ""

    def _last_words_are_spoken(self) -> bool:
        return self.wrapped_up or any(isinstance(a, CallModel) and a.wrap_up for a in self.flying.values())

    def _cancelled(self) -> None:
        if not self.finish:
            self.cancels += 1

    def _responded(self, answer: ModelResponded) -> None:
        self.usage.append(answer.usage)
        self._took_along(answer.key)
        self.turns += 1
        if answer.key.startswith("wrap-up"):
            self.wrapped_up = True
            return
        self.last_stop, self.reached = answer.stop, answer.limit
        calls = () if answer.stop in CUT_OFF else answer.calls
        for asked in calls:
            self.calls[asked.call_id] = self._judged(asked)
        self.last_final = not calls and answer.stop != "pause" and not answer.limit

    def _judged(self, asked: CallAsked) -> Seen:
        """What the limits say to one more call of the turn."""
        rule, people = self.spec.rule(asked.tool), self.spec.rule(asked.tool).answered_by == "people"
        lawful, over = self.journal.calls[asked.call_id].law != "deny", 0
        within = self.counted_calls < self.limits.max_tool_calls
        if lawful and people:
            within = within and self.counted_questions < self.limits.max_questions
        if lawful and rule.max_calls is not None and within:
            over = max(0, self.counted[asked.tool] + 1 - rule.max_calls)
            within = not over or rule.on_exceed == "steer"
            self.counted[asked.tool] += within
        self.counted_calls += within
        self.counted_questions += within and lawful and people
        may_run = within and lawful
        call_id = asked.call_id
        answered = any(
            o.verb == "answer" and o.call_id == call_id and o.number in self.heard for o in self.journal.orders
        )
        asks = self.journal.calls[call_id].law == "ask" and rule.answered_by not in ("people", "time")
        return Seen(asked.tool, may_run, asks, over, rule.answered_by, answered=answered)

    def _took_along(self, key: str) -> None:
        self.steering -= _numbers(self.models[key].apply)
        self.queued -= _numbers(self.models[key].apply)
        self.notes -= _numbers(self.models[key].apply)

    def _family_called(self, called: FamilyCalled) -> None:
        self.kin.called(called)
        if not called.expires_ms:
            self._answered(called.call_id)
        elif called.key not in self.tries_given_up and not self.calls[called.call_id].answered:
            self.kin.waits.add(called.call_id)

    def _answered(self, call_id: str) -> None:
        self.kin.waits.discard(call_id)
        if call_id in self.calls:
            self.calls[call_id].answered = True

    def _again(self, call_id: str) -> None:
        self.kin.waits.discard(call_id)
        if call_id in self.calls:
            self.calls[call_id].again += 1

    # What people and the world do --------------------------------------------------------------------

    def approved(self, call_id: str, by: str, arguments: int) -> None:
        self.approvals.setdefault(call_id, {}).setdefault(arguments, set()).add(by)

    def took_effect(self, call_id: str, effect: str, denied: bool) -> None:
        self.effects[call_id] += 1
        if denied:
            self._broken(f"nothing that policy denies takes effect, but {call_id} did")
        if effect == "once" and self.effects[call_id] > 1 + self.people_again[call_id]:
            self._broken(f"a once call takes effect once, unless a person says so, but {call_id} did again")

    # The end ---------------------------------------------------------------------------------------

    def at_the_end(self, usage: Usage) -> None:
        journal = self.journal
        ends = [key for key, type_ in journal.events if type_.removeprefix("run.") == journal.status]
        if len(ends) != 1 or journal.events[-1][0] != ends[0]:
            self._broken(f"a run ends with exactly one terminal event and nothing after it: {journal.events[-3:]}")
        said = [(key, type_) for key, type_ in journal.events if key.startswith("outbox-")]
        if [key for key, _ in said] != [f"outbox-{number}" for number in range(1, len(said) + 1)]:
            self._broken(f"every event is committed once and in order, but were {said}")
        self._messages_have_ended()
        self.kin.at_the_end()
        if any(True for _ in journal.open_asks()):
            self._broken("nothing is asked any more when the run is over")
        if usage != total(self.usage):
            self._broken(f"the usage is the sum of what was reported, but was {usage}")
        try:
            ledger_promises(journal, self.bills | journal.bills)
        except AssertionError as broken:
            self._broken(str(broken))
        if self.forced or self.finish is None:
            return
        types = [type_ for _, type_ in said]
        starts = [type_ for type_ in types if type_ in ("run.queued", "run.started")]
        later = bool(self.spec.start_ms)
        whole = (
            starts == (["run.queued", "run.started"] if later else ["run.started"]) and types[: len(starts)] == starts
        )
        never = later and not starts and not self.models
        if not (whole or never) or types.count("run.cancelling") != (self.cancels > 0):
            self._broken(f"the start and the cancel are told, once each, but told were {types}")
        if self.finish.status == "completed":
            self._at_a_whole_end()

    def _messages_have_ended(self) -> None:
        journal = self.journal
        if journal.waiting():
            self._broken(f"every accepted message ends applied or returned, but {journal.waiting()} still wait")
        told = journal.told()
        if told["inbox.accepted"] != len(journal.inbox) or told["inbox.applied"] + told["inbox.returned"] != len(
            journal.inbox
        ):
            self._broken(f"every message is accepted once, and applied or returned once, but told was {told}")

    def _at_a_whole_end(self) -> None:
        if open_ := [call_id for call_id, call in self.calls.items() if not call.answered]:
            self._broken(f"in a run that ends by itself every call asked for is answered, but {open_} were not")
        returned = {number for number, status in self.journal.inbox.items() if status == "returned"}
        withdrawn = {number for order in self.journal.orders for number in _numbers(order.numbers)}
        if lost := (returned & self.heard) - withdrawn - self.heard_too_late:
            self._broken(f"what was said before the last answer is in the transcript, but {lost} was not")

    # ------------------------------------------------------------------------------------------------

    def _at_a_limit(self) -> bool:
        kept = 1 if self.on_limit == "wrap_up" and self.limits.max_turns > 1 else 0
        at_rest = all(call.answered for call in self.calls.values())
        return at_rest and (bool(self.reached) or self.turns >= self.limits.max_turns - kept)

    def _is_final(self) -> bool:
        waiting = self.steering | self.queued | self.notes
        return self.last_final and not waiting and all(call.answered for call in self.calls.values())

    def _stopped(self, now_ms: int) -> bool:
        return self.cancels > 0 or self.failure_seen or now_ms >= self.deadline_ms

    def _stopped_at_once(self, now_ms: int) -> bool:
        return self.cancels > 1 or self.failure_seen or now_ms >= self.deadline_ms

    def _broken(self, sentence: str) -> NoReturn:
        raise Violation(sentence)


def _numbers(numbers: Numbers) -> set[int]:
    return {number for first, last in numbers for number in range(first, last + 1)}


def total(parts: list[Usage]) -> Usage:
    names = Usage.__dataclass_fields__
    return Usage(**{name: sum(getattr(part, name) for part in parts) for name in names})
