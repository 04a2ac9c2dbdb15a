"""What the world outside a run can see of it, and the promises it holds the run to.

Nothing here looks into ``RunState`` or asks the functions under test: only orders that were given
(start this, call that off), lines in the journal, bills and effects. Each promise is one sentence.
"""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

from perdure.core.actions import Action, AnswerCall, CallModel, CallTool, Finish, Record
from perdure.core.happenings import (
    CancelRequested,
    Happening,
    MessageArrived,
    ModelFailed,
    ModelResponded,
    Recorded,
    ToolAnswered,
)
from perdure.core.spec import RunSpec
from perdure.core.state import OutboxEvent, Outcome, RunStatus, Usage

PARALLEL_MAX = 10  # stated again on purpose: the promise, not the constant under test
CUT_OFF = ("max_output_tokens", "refusal")


class Violation(AssertionError):
    """A promise was broken."""


class RunOver(Exception):
    """The journal holds the run's end and takes nothing more."""


class MiniJournal:
    """The once-only rule and the event log, nothing else of the real journal."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []  # (key, type) in the order committed
        self.keys: set[str] = set()
        self.answers: dict[str, Happening] = {}  # of model calls, by key
        self.results: set[str] = set()  # call ids
        self.bill = Usage()
        self.open_inbox: list[str] = []
        self.applied: list[str] = []
        self.returned: list[str] = []
        self.status: RunStatus | None = None

    def write(self, key: str, type_: str) -> None:
        if self.status is not None:
            raise RunOver(self.status)
        if key not in self.keys:
            self.keys.add(key)
            self.events.append((key, type_))

    def carry(self, outbox: tuple[OutboxEvent, ...]) -> None:
        for event in outbox:
            self.write(event.key, event.type)

    def apply(self, messages: tuple[str, ...]) -> None:
        for message in messages:
            if message in self.open_inbox:
                self.open_inbox.remove(message)
                self.applied.append(message)

    def end(self, key: str, outbox: tuple[OutboxEvent, ...], status: RunStatus) -> None:
        if key in self.keys:
            return
        self.carry(outbox)
        self.write(key, f"run.{status}")
        self.returned, self.open_inbox = self.returned + self.open_inbox, []
        self.status = status


class Witness:
    """Keeps the book of one run and says which promise was broken."""

    def __init__(self, spec: RunSpec, journal: MiniJournal) -> None:
        self.spec, self.journal = spec, journal
        self.flying: dict[str, Action] = {}  # started and not ended
        self.called_off: set[str] = set()
        self.carries: dict[str, tuple[OutboxEvent, ...]] = {}  # by the actions in flight
        self.newest_carrier: dict[str, str] = {}  # of each event
        self.delivered_events: set[str] = set()  # whose newest carrier reported that it committed
        self.model_starts: list[str] = []
        self.answers: list[ModelResponded] = []  # as delivered, each once
        self.tool_starts: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.asked: dict[str, bool] = {}  # call id -> may run
        self.answered: set[str] = set()  # delivered
        self.messages: list[str] = []  # delivered before the end was begun
        self.applied: set[str] = set()  # by delivered answers
        self.cancel_seen = self.failure_seen = self.forced = False
        self.final = False  # the last delivered answer ended the conversation
        self.finish: Outcome | None = None

    # Orders and deliveries -----------------------------------------------------------------------

    def started(self, action: Action, outbox: tuple[OutboxEvent, ...], now_ms: int) -> None:
        key = action.key
        for event in outbox:
            if event.key in self.delivered_events:
                self._broken(f"an event that is known to be committed is not carried again, but {event.key} was")
            self.newest_carrier[event.key] = key
        self.carries[key] = outbox
        if key in self.flying:
            self._broken(f"an action is in flight only once, but {key} was started again")
        if self.finish and not isinstance(action, Finish):
            self._broken(f"after the end was begun nothing else is started, but {key} was")
        if not isinstance(action, Finish | Record) and self._stopped(now_ms):
            self._broken(f"after a cancel, a failure or the deadline was seen no work is started, but {key} was")
        match action:
            case CallModel():
                self._model_started(action)
            case CallTool():
                self._tool_started(action)
            case AnswerCall(_, call_id):
                if call_id in self.answered:
                    self._broken(f"a call is answered once, but {call_id} is answered again")
            case Finish():
                self._finish_started(action.outcome, now_ms)
        self.flying[key] = action
        at_work = [other for other in self.flying.values() if isinstance(other, CallTool)]
        busy = [other for other in self.flying.values() if not isinstance(other, Record)]
        if len(busy) > PARALLEL_MAX:
            self._broken(f"at most {PARALLEL_MAX} actions of a turn are in flight, but there were {len(busy)}")
        if len(at_work) > 1 and not all(tool.rule.parallel for tool in at_work):
            self._broken("a tool that is not parallel runs alone, but others ran beside it")

    def _model_started(self, action: CallModel) -> None:
        if action.key in self.model_starts:
            self._broken(f"a model call is asked for once, but {action.key} was started again")
        self.model_starts.append(action.key)
        if self.model_starts != [f"model-{turn}" for turn in range(1, len(self.model_starts) + 1)]:
            self._broken(f"model calls are numbered by turn without gaps, but were {self.model_starts}")
        if len(self.model_starts) > self.spec.limits.max_turns:
            self._broken("max_turns is never exceeded")
        if open_ := [call for call in self.asked if call not in self.answered]:
            self._broken(f"every call is answered before the next model call, but {open_} were not")
        if len(self.flying) > sum(isinstance(other, Record) for other in self.flying.values()):
            self._broken(f"a model call runs alone, but beside it ran {list(self.flying)}")
        last = self.answers[-1] if self.answers else None
        waiting = [message for message in self.messages if message not in self.applied]
        if last and (not last.calls or last.stop in CUT_OFF) and last.stop != "pause" and not waiting:
            self._broken("a model is called only when there is something to answer")
        if list(action.apply) != waiting:
            self._broken(f"a model call applies the waiting messages in order: {waiting}, not {action.apply}")

    def _tool_started(self, action: CallTool) -> None:
        self.tool_starts[action.call_id] += 1
        if self.tool_starts[action.call_id] > 1:
            self._broken(f"a tool call is started once, but {action.call_id} was started again")
        if not self.asked.get(action.call_id):
            self._broken(f"a call that was refused or cut off never runs, but {action.call_id} was started")
        if len(self.tool_starts) > self.spec.limits.max_tool_calls:
            self._broken("max_tool_calls is never exceeded")

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
        elif self.final:
            cut = self.answers[-1].stop in CUT_OFF
            right = outcome.status == ("incomplete" if cut else "completed")
        else:
            right = {
                "expired": now_ms >= self.spec.deadline_ms,
                "cancelled": self.cancel_seen,
                "incomplete": len(self.answers) == self.spec.limits.max_turns,
            }.get(outcome.status, False)
        if not right:
            self._broken(f"the outcome says what happened first, but it was {outcome}")

    def ordered_off(self, key: str, now_ms: int) -> None:
        if not self._stopped(now_ms):
            self._broken(f"what is in flight and still means something stays wanted, but {key} was called off")
        self.called_off.add(key)

    def reconciled(self, now_ms: int) -> None:
        known = {type_ for _, type_ in self.journal.events}
        known.update(event.type for key in self.flying for event in self.carries[key])
        if "run.started" not in known or (self.cancel_seen and "run.cancelling" not in known):
            self._broken(f"what is to be told is on its way at once, but told or on the way are {known}")
        if self._stopped(now_ms) and not self.final:
            for key, action in self.flying.items():
                if not isinstance(action, Record | Finish) and key not in self.called_off:
                    self._broken(f"a stop calls off at once what is in flight, but {key} went on")

    def ended(self, key: str) -> None:
        del self.flying[key]
        self.called_off.discard(key)

    def delivered(self, happening: Happening) -> None:
        """A first delivery; echoes are not told."""
        if isinstance(happening, ModelResponded | ToolAnswered | Recorded):
            carried = [event.key for event in self.carries[happening.key]]
            self.delivered_events.update(event for event in carried if self.newest_carrier[event] == happening.key)
        match happening:
            case CancelRequested():
                self.cancel_seen = self.cancel_seen or self.finish is None
            case MessageArrived(message) if self.finish is None:
                self.messages.append(message)
                self.final = False
            case ModelFailed():
                self.failure_seen = True
            case ToolAnswered(_, call_id):
                self.answered.add(call_id)
            case ModelResponded():
                self.answers.append(happening)
                self.applied.update(happening.applied)
                calls = () if happening.stop in CUT_OFF else happening.calls
                for call in calls:
                    left = len(self.asked) < self.spec.limits.max_tool_calls
                    self.asked[call.call_id] = left and call.refusal is None
                waiting = any(message not in self.applied for message in self.messages)
                self.final = not calls and not waiting and happening.stop != "pause"

    # The end -------------------------------------------------------------------------------------

    def at_the_end(self, usage: Usage) -> None:
        journal = self.journal
        ends = [key for key, type_ in journal.events if type_.removeprefix("run.") == journal.status]
        if len(ends) != 1 or journal.events[-1][0] != ends[0]:
            self._broken(f"a run ends with exactly one terminal event and nothing after it: {journal.events[-3:]}")
        said = [key for key, _ in journal.events if key.startswith("outbox-")]
        if said != [f"outbox-{number}" for number in range(1, len(said) + 1)]:
            self._broken(f"every event is committed once and in order, but were {said}")
        if journal.open_inbox or Counter(journal.applied + journal.returned) != Counter(
            set(journal.applied + journal.returned)
        ):
            self._broken("every accepted message ends applied or returned, once")
        if any(effects > 1 for effects in self.effects.values()):
            self._broken("a tool call has at most one effect")
        if usage != total([answer.usage for answer in self.answers]):
            self._broken(f"the usage is the sum of what was reported, but was {usage}")
        if self.forced or self.finish is None:
            return
        said_types = [type_ for key, type_ in journal.events if key.startswith("outbox-")]
        if said_types != ["run.started", "run.cancelling"][: 1 + self.cancel_seen]:
            self._broken(f"the start and the cancel are told, once each, but told were {said_types}")
        if self.finish.status in ("completed", "incomplete"):
            self._at_a_whole_end(usage)

    def _at_a_whole_end(self, usage: Usage) -> None:
        journal = self.journal
        if usage != journal.bill:
            self._broken(f"the usage is the vendors' bill {journal.bill}, but was {usage}")
        if not self.answered >= set(self.asked) or not journal.results >= set(self.asked):
            self._broken("in a run that ends by itself every call asked for is answered")
        if missed := [call for call, may_run in self.asked.items() if may_run and not self.tool_starts[call]]:
            self._broken(f"every allowed call runs, but {missed} did not")
        if self.final and (lost := [message for message in self.messages if message not in journal.applied]):
            self._broken(f"what was said before the last answer is in the transcript, but {lost} was not")

    def _stopped(self, now_ms: int) -> bool:
        return self.cancel_seen or self.failure_seen or now_ms >= self.spec.deadline_ms

    def _broken(self, sentence: str) -> NoReturn:
        raise Violation(sentence)


def total(parts: list[Usage]) -> Usage:
    return Usage(
        *(
            sum(getattr(part, name) for part in parts)
            for name in (
                "input_tokens",
                "output_tokens",
                "cache_read_tokens",
                "cache_write_tokens",
                "reasoning_tokens",
                "cost_micros",
                "unpriced_calls",
            )
        )
    )
