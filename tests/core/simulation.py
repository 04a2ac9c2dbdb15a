"""Whole runs in a hostile world, without Temporal: hundreds a second.

``shell.py`` reconciles exactly as ``workflows/agent_run.py`` does. ``World`` is everything else: the
activities, the vendors, the journal, clients, the clock, crashes. ``outside.py`` keeps the promises.
Run it by hand with ``python -m tests.core.simulation --seeds 10000``; ``--seed N`` tells one run's story.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from pydantic import TypeAdapter

from perdure.core.actions import Action, AnswerCall, CallModel, CallTool, Finish, Record
from perdure.core.happenings import (
    ActionCancelled,
    CallAsked,
    CancelRequested,
    EndedElsewhere,
    Happening,
    MessageArrived,
    ModelFailed,
    ModelResponded,
    Recorded,
    ToolAnswered,
    ToolLost,
)
from perdure.core.judge import judge, our_call_ids
from perdure.core.spec import Limits, RunSpec, ToolRule
from perdure.core.state import Failure, OutboxEvent, RunState, Usage
from tests.core.outside import MiniJournal, RunOver, Violation, Witness, total
from tests.core.shell import NEVER_MS, CallOff, Core, Delivery, Order, Shell, Start

STEPS_MAX = 7_000  # ten times the longest run of the first 50,000 seeds
START_MS = 1_000
STATE_JSON = TypeAdapter(RunState)


@dataclass(eq=False)
class Flight:
    """One activity at work. ``phase``: 0 scheduled, 1 begun, 2 committed. ``hangs`` until called off."""

    action: Action
    outbox: tuple[OutboxEvent, ...]
    hangs: bool
    phase: int = 0
    called_off: bool = False
    report: Happening | None = None


@dataclass
class Temper:
    """How hostile the world is to one run: chances per step or per event."""

    message: float
    cancel: float
    lost: float
    model_fails: float
    hangs: float
    echo: float
    crash: float
    asks: float
    calls_max: int
    cut_off: float
    force: float

    @staticmethod
    def drawn(chance: Random) -> Temper:
        return Temper(
            message=chance.choice((0.0, 0.0, 0.02, 0.15)),
            cancel=chance.choice((0.0, 0.0, 0.01, 0.05)),
            lost=chance.choice((0.0, 0.05, 0.3)),
            model_fails=chance.choice((0.0, 0.0, 0.05)),
            hangs=chance.choice((0.0, 0.0, 0.03)),
            echo=chance.choice((0.0, 0.05, 0.2)),
            crash=chance.choice((0.0, 0.01, 0.03)),
            asks=chance.choice((0.5, 0.9, 0.97)),
            calls_max=chance.choice((1, 2, 4, 15)),
            cut_off=chance.choice((0.0, 0.05, 0.2)),
            force=chance.choice((0.0,) * 9 + (0.01,)),
        )


def spec_drawn(chance: Random) -> RunSpec:
    names = ("read", "search", "write", "pay")[: chance.choice((0, 1, 2, 4, 4))]
    return RunSpec(
        run_id=f"run_{chance.randrange(10**12):012}",
        agent="tester",
        model="scripted/tour",
        deadline_ms=START_MS + chance.choice((NEVER_MS, NEVER_MS, chance.randrange(1, 3_000))),
        limits=Limits(chance.choice((1, 4, 12, 30)), chance.choice((0, 3, 20, 1_000, 1_000))),
        tools=tuple(ToolRule(name, parallel=chance.random() < 0.7) for name in names),
    )


@dataclass
class World:
    """Everything but the shell. ``tell`` hears the story line by line."""

    chance: Random
    core: Core = field(default_factory=Core)
    tell: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.temper = Temper.drawn(self.chance)
        self.spec = spec_drawn(self.chance)
        self.journal = MiniJournal()
        self.witness = Witness(self.spec, self.journal)
        self.now_ms = START_MS
        self.flights: dict[str, Flight] = {}
        self.zombies: list[Flight] = []  # activities nobody waits for any more; they still write
        self.post: list[str] = []  # accepted messages on their way to the run
        self.accepted = 0
        self.echoes: list[Happening] = []
        self.newest_messages: deque[str] = deque(maxlen=50)
        self.batch: list[Delivery] = []
        self._reborn(self.core.begin(self.spec))

    def run(self) -> int:
        """Play to the end; the number of steps. Raises Violation."""
        for step in range(STEPS_MAX):
            if self._ask():
                self._after_the_end()
                return step
            self._something_happens()
            while self._perhaps(0.2):
                self._something_happens()
        raise Violation(f"a run ends, but this one did not in {STEPS_MAX} steps")

    # The shell, its crashes and its rebirths ------------------------------------------------------

    def _reborn(self, state: RunState) -> None:
        self.shell, self.born_as = Shell(self.core, state), state
        self.log: list[tuple[int, list[Delivery], list[Order] | None]] = []

    def _ask(self) -> bool:
        deliveries, self.batch = self.batch, []
        for delivery in deliveries:
            self._say(f"{delivery.happening}{'' if delivery.news else ' (echo)'}")
            if delivery.news:
                self.witness.delivered(delivery.happening)
        self.shell.take(deliveries)
        if not self.shell.handles and not self.shell.state.ended and self._perhaps(0.3):
            self._continue_as_new()
            deliveries = []
        orders = self.shell.reconcile(self.now_ms)
        self.log.append((self.now_ms, deliveries, orders))
        if self._perhaps(self.temper.crash):
            self._crash()
        for order in orders or ():
            self._say(f"    {order}")
            match order:
                case Start(action, outbox):
                    self.witness.started(action, outbox, self.now_ms)
                    may_hang = isinstance(action, CallModel | CallTool)  # writes to the journal end some day
                    hangs = may_hang and self._perhaps(self.temper.hangs)
                    self.flights[action.key] = Flight(action, outbox, hangs)
                case CallOff(key):
                    self.witness.ordered_off(key, self.now_ms)
                    self.flights[key].called_off = True
        if orders is not None:
            self.witness.reconciled(self.now_ms)
        return orders is None

    def _continue_as_new(self) -> None:
        state = STATE_JSON.validate_json(STATE_JSON.dump_json(self.shell.state))
        if state != self.shell.state:
            raise Violation(f"a state survives continue-as-new as it is: {self.shell.state} became {state}")
        self._reborn(state)

    def _crash(self) -> None:
        """The worker dies: another rebuilds the shell from the history, and must come to the same."""
        self._say("    (the worker dies)")
        shell = Shell(self.core, self.born_as)
        for now_ms, deliveries, orders in self.log:
            shell.take(deliveries)
            if shell.reconcile(now_ms) != orders:
                raise Violation("a replay gives the orders that were given")
        if shell.state != self.shell.state or shell.handles != self.shell.handles:
            raise Violation("a replay comes to the same state")
        self.shell = shell

    def _after_the_end(self) -> None:
        self.witness.at_the_end(self.shell.state.usage)
        state, told = self.shell.state, list(self.journal.events)
        for late in (*self.echoes, CancelRequested("late"), MessageArrived("msg_late"), EndedElsewhere("failed")):
            if self.core.evolve(state, late) != state:
                raise Violation(f"after the end nothing changes a run, but {late} did")
        for zombie in self.zombies:
            self._advance(zombie)
        if self.journal.events != told:
            raise Violation("after the terminal event comes nothing")

    # What may happen ------------------------------------------------------------------------------

    def _something_happens(self) -> None:
        chance, temper = self.chance, self.temper
        self.now_ms += chance.randrange(20)
        if self._perhaps(temper.message) and self.journal.status is None:
            self.accepted += 1
            self.journal.open_inbox.append(f"msg_{self.accepted}")
            self.post.append(f"msg_{self.accepted}")
        if self._perhaps(temper.cancel):
            self._deliver(CancelRequested("somebody asked"))
        if self._perhaps(temper.echo) and self.echoes:
            self._echo(chance.choice(self.echoes))
        if self._perhaps(temper.force) and self.journal.status is None:
            self._force()
        if self.post and self._perhaps(0.3):
            self.newest_messages.append(self.post[0])
            self._deliver(MessageArrived(self.post.pop(0)))
        if self.zombies and self._perhaps(0.3):
            self._advance(chance.choice(self.zombies))
        able = [flight for flight in self.flights.values() if flight.called_off or not flight.hangs]
        if able:
            flight = chance.choice(able)
            self._advance(flight)
            while flight.report is None and flight.action.key in self.flights and self._perhaps(0.6):
                self._advance(flight)
        elif not self.batch and not self.post:
            if self.log[-1][0] >= self.shell.wake_at_ms:  # it was asked after its alarm
                raise Violation("a run that waits has something to wait for")
            self.now_ms = self.shell.wake_at_ms

    def _deliver(self, happening: Happening, ends: str | None = None) -> None:
        self.echoes.append(happening)
        self.batch.append(Delivery(happening, ends))

    def _echo(self, happening: Happening) -> None:
        """Again, unless it cannot be told from news: an action of this key is in flight (again)."""
        if isinstance(happening, CancelRequested | EndedElsewhere) or getattr(happening, "key", None) in self.flights:
            return
        if isinstance(happening, MessageArrived) and happening.message_id not in self.newest_messages:
            return  # a client repeats itself within seconds, and the core remembers 50
        if not any(delivery.happening == happening for delivery in self.batch):
            self.batch.append(Delivery(happening, news=False))

    def _force(self) -> None:
        self.journal.end("force", (), "cancelled")
        self.witness.forced = True
        for flight in self.flights.values():
            flight.hangs = False

    def _end(self, flight: Flight, happening: Happening) -> None:
        if flight in self.zombies:
            self.zombies.remove(flight)
            return
        del self.flights[flight.action.key]
        self.witness.ended(flight.action.key)
        if flight.report is None and self._perhaps(0.5):
            self.zombies.append(flight)
        self._deliver(happening, ends=flight.action.key)

    # The activities -------------------------------------------------------------------------------

    def _advance(self, flight: Flight) -> None:
        """One phase on. What was called off may end so at any moment, or end as if nothing were."""
        action = flight.action
        try:
            if flight in self.zombies:
                self._work(flight)
            elif flight.called_off and self._perhaps(0.4):
                self._end(flight, ActionCancelled(action.key))
            elif isinstance(action, CallTool) and self._perhaps(self.temper.lost / 3):
                self._end(flight, ToolLost(action.key, action.call_id, "tool_outcome_unknown", "its workers died"))
            elif isinstance(action, Record | Finish) and self._perhaps(self.temper.lost / 3):
                self._end(flight, ActionCancelled(action.key))
            elif flight.report:
                self._end(flight, flight.report)
            else:
                self._work(flight)
        except RunOver as over:
            flight.report = EndedElsewhere(over.args[0])
            self._end(flight, flight.report)

    def _work(self, flight: Flight) -> None:
        journal, action = self.journal, flight.action
        if flight.phase == 0:
            if not isinstance(action, Finish):
                journal.carry(flight.outbox)
            if isinstance(action, CallModel):
                journal.write(f"{action.key}-started", "model.started")
                journal.apply(action.apply)
            flight.phase = 1
            return
        match action:
            case CallModel(key, turn, apply):
                if key not in journal.answers and self._perhaps(self.temper.model_fails):
                    flight.report = ModelFailed(key, Failure("model_error", "the vendor said no"))
                else:
                    flight.report = self._answer(key, turn, apply)
            case CallTool(key, call_id):
                if call_id not in journal.results:
                    self.witness.effects[call_id] += 1
                flight.report = self._result(key, call_id)
            case AnswerCall(key, call_id):
                flight.report = self._result(key, call_id)
            case Record(key):
                flight.report = Recorded(key)
            case Finish(key, outcome):
                journal.end(key, flight.outbox, outcome.status)
                flight.report = Recorded(key)
        flight.phase = 2
        if flight in self.zombies:
            self.zombies.remove(flight)

    def _result(self, key: str, call_id: str) -> ToolAnswered:
        self.journal.write(f"result-{call_id}", "tool.completed")
        self.journal.results.add(call_id)
        return ToolAnswered(key, call_id)

    def _answer(self, key: str, turn: int, apply: tuple[str, ...]) -> Happening:
        """The vendor answers; an answer that is in the journal is reported, not bought again."""
        chance, journal = self.chance, self.journal
        if key in journal.answers:
            return journal.answers[key]
        count = chance.randint(1, self.temper.calls_max) if self._perhaps(self.temper.asks) else 0
        calls = tuple(self._asked(call_id) for call_id in our_call_ids(self.spec.run_id, turn, count))
        stop = "tool_calls" if calls else "end"
        if self._perhaps(self.temper.cut_off):
            stop = chance.choice(("max_output_tokens", "refusal", "pause", "end"))
        usage = Usage(*(chance.randrange(1_000) for _ in range(7)))
        journal.write(f"{key}-completed", "model.completed")
        journal.bill = total([journal.bill, usage])
        journal.answers[key] = ModelResponded(key, stop, usage, calls, apply)
        return journal.answers[key]

    def _asked(self, call_id: str) -> CallAsked:
        known = [rule.name for rule in self.spec.tools]
        tool = self.chance.choice([*known, *known, *known, "no_such_tool"])
        return judge(call_id, tool, known, "path is missing" if self._perhaps(0.05) else None)

    def _perhaps(self, likelihood: float) -> bool:
        """Small draws mean that nothing happens: so Hypothesis shrinks towards a friendly world."""
        return self.chance.random() >= 1.0 - likelihood

    def _say(self, line: str) -> None:
        if self.tell:
            self.tell(f"{self.now_ms:>8} {line}")


def first_violation(seeds: Iterable[int], core: Core | None = None) -> tuple[int, str] | None:
    """The first seed that breaks a promise, and the promise."""
    for seed in seeds:
        try:
            World(Random(seed), core or Core()).run()
        except Violation as violation:
            return seed, str(violation)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate whole runs in a hostile world.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many runs")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seed", type=int, help="tell the story of this one run")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        World(Random(options.seed), tell=print).run()
        return 0
    began, steps, violations = time.perf_counter(), [0], []
    for seed in range(options.first, options.first + options.seeds):
        try:
            steps.append(World(Random(seed)).run())
        except Violation as violation:
            violations.append(seed)
            print(f"seed {seed}: {violation}")
    seconds = time.perf_counter() - began
    print(
        f"{options.seeds} runs, {sum(steps)} steps (at most {max(steps)} in a run), {len(violations)} violations, "
        f"{options.seeds / seconds:.0f} runs/second"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
