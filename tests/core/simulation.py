"""Whole runs in a hostile world, without Temporal: hundreds a second.

``shell.py`` reconciles exactly as ``workflows/agent_run.py`` does. ``World`` is everything else: activities and
their workers, vendors, clock and crashes; ``people.py`` is who gives orders, ``mini_journal.py`` what is
written once, ``drawn.py`` how hostile it all is. ``outside.py``, ``kin.py`` and ``money.py`` keep the promises.
Run it by hand with ``python -m tests.core.simulation --seeds 10000``; ``--seed N`` tells one run's story;
``--budget`` gives every run a budget and a world that costs, ``--time`` tools that wait for time and events,
``--family`` children, who are outside like everybody else (``children.py``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from pydantic import TypeAdapter

from perdure.core.actions import (
    Action,
    AnswerCall,
    CallFamily,
    CallModel,
    CallTool,
    Finish,
    Outcome,
    Record,
    SettleAsk,
)
from perdure.core.budget import Amount, Ask
from perdure.core.happenings import (
    ActionCancelled,
    CancelRequested,
    EndedElsewhere,
    FamilyCalled,
    Happening,
    ModelFailed,
    ModelResponded,
    Order,
    Recorded,
    ToolAnswered,
    ToolLost,
    ToolParked,
    ToolPaused,
)
from perdure.core.state import Failure, OutboxEvent, RunState, Usage, WaitsFor
from tests.core.children import Children
from tests.core.drawn import ARGUMENTS, START_MS, Law, Temper, budget_drawn, price_drawn, spec_drawn
from tests.core.mini_journal import Asked, Attempt, Call, RunOver
from tests.core.outside import CUT_OFF, Violation, Witness
from tests.core.people import People
from tests.core.shell import CallOff, Core, Delivery, Shell, Start, Wish

STEPS_MAX = 20_000  # many times the longest run of the first 50,000 seeds
STATE_BYTES_MAX = 40_000  # with fifteen calls open, three of them waiting, and two rate limits
ATTEMPTS_MAX = 4
STATE_JSON = TypeAdapter(RunState)


@dataclass(eq=False)
class Flight:
    """One activity at work. ``phase`` 0: nothing is done. ``hangs`` until called off."""

    action: Action
    outbox: tuple[OutboxEvent, ...]
    hangs: bool
    phase: int = 0
    called_off: bool = False
    attempt: Attempt | None = None  # of a model call
    number: int = 0  # of a tool call's attempt
    arguments: int = 0  # of the tool call, as the attempt found them
    called: FamilyCalled | None = None  # what the journal said of a call about other runs
    report: Happening | None = None


@dataclass
class World:
    """Everything but the shell. ``tell`` hears the story line by line."""

    chance: Random
    core: Core = field(default_factory=Core)
    tell: Callable[[str], None] | None = None
    costs: bool = False
    timed: bool = False  # runs that sleep, wait for events, poll, and start later
    leads: bool = False  # runs that have children

    def __post_init__(self) -> None:
        chance = self.chance
        self.temper = Temper.drawn(chance)
        if self.costs:
            self.temper = self.temper.about_money(chance)
        budgeted = self.costs or self.perhaps(0.8 if self.leads else 0.5)
        if self.leads:
            self.temper = self.temper.about_family(chance)
        self.timed = self.timed or (self.leads and self.perhaps(0.2))
        self.spec = spec_drawn(chance, budgeted=budgeted, timed=self.timed, leads=self.leads)
        self.law = Law(chance, self.spec.tools, lax=self.leads and self.perhaps(0.7))
        self.price = price_drawn(chance)
        self.output_cap = chance.choice((100, 1_000, 4_096))
        budget = budget_drawn(chance, self.price, self.spec.on_limit) if self.spec.on_limit else None
        self.journal = self.core.journal(self.core.money, budget)
        self.journal.children_max = chance.choice((1, 4, 50)) if self.leads else 0
        self.witness = Witness(self.spec, self.journal)
        for tool in self.spec.tools:  # what people have decided for the whole session, before this run
            if self.perhaps(0.2):
                self.witness.standing.add((tool.name, chance.randrange(ARGUMENTS)))
        self.now_ms = START_MS
        self.flights: dict[str, Flight] = {}
        self.zombies: list[Flight] = []  # activities nobody waits for any more; they still write
        self.echoes: list[Happening] = []
        self.batch: list[Delivery] = []
        self.people, self.children = People(self), Children(self)
        self._reborn(self.core.begin(self.spec))

    def run(self) -> int:
        """Play to the end; the number of steps. Raises Violation."""
        for step in range(STEPS_MAX):
            if self._ask():
                self._after_the_end()
                return step
            self._something_happens()
            while self.perhaps(0.2):
                self._something_happens()
        raise Violation(f"a run ends, but this one did not in {STEPS_MAX} steps")

    # The shell, its crashes and its rebirths ------------------------------------------------------

    def _reborn(self, state: RunState) -> None:
        self.shell, self.born_as = Shell(self.core, state), state
        self.log: list[tuple[int, list[Delivery], list[Wish] | None]] = []

    def _ask(self) -> bool:
        deliveries, self.batch = self.batch, []
        for delivery in deliveries:
            self._say(f"{delivery.happening}{'' if delivery.news else ' (echo)'}")
            if delivery.news:
                self.witness.delivered(delivery.happening)
        self.shell.take(deliveries)
        if not self.shell.handles and not self.shell.state.ended and self.perhaps(0.3):
            self._continue_as_new()
            deliveries = []
        wishes = self.shell.reconcile(self.now_ms)
        self.log.append((self.now_ms, deliveries, wishes))
        if self.perhaps(self.temper.crash):
            self._crash()
        for wish in wishes or ():
            self._say(f"    {wish}")
            match wish:
                case Start(action, outbox):
                    self.witness.started(action, outbox, self.now_ms)
                    may_hang = isinstance(action, CallModel | CallTool)  # writes to the journal end some day
                    hangs = may_hang and self.perhaps(self.temper.hangs)
                    self.flights[action.key] = Flight(action, outbox, hangs)
                case CallOff(key):
                    self.witness.ordered_off(key, self.now_ms)
                    self.flights[key].called_off = True
        if wishes is not None:
            self.witness.reconciled(self.now_ms, all_delivered=not self.journal.post)
        return wishes is None

    def _continue_as_new(self) -> None:
        told = STATE_JSON.dump_json(self.shell.state, exclude_defaults=True)  # as Temporal is given it
        state = STATE_JSON.validate_json(told)
        if state != self.shell.state:
            raise Violation(f"a state survives continue-as-new as it is: {self.shell.state} became {state}")
        if len(told) > STATE_BYTES_MAX:
            raise Violation(f"a state stays small, but this one had {len(told)} bytes")
        self._reborn(state)

    def _crash(self) -> None:
        """The worker dies: another rebuilds the shell from the history, and must come to the same."""
        self._say("    (the worker dies)")
        shell = Shell(self.core, self.born_as)
        for now_ms, deliveries, wishes in self.log:
            shell.take(deliveries)
            if shell.reconcile(now_ms) != wishes:
                raise Violation("a replay gives the orders that were given")
        if shell.state != self.shell.state or shell.handles != self.shell.handles:
            raise Violation("a replay comes to the same state")
        self.shell = shell

    def _after_the_end(self) -> None:
        state, told, ledger = self.shell.state, list(self.journal.events), list(self.journal.ledger)
        for zombie in list(self.zombies):
            self._advance(zombie)
        if self.journal.events != told or self.journal.ledger != ledger:
            raise Violation("after the terminal event comes nothing")
        self.witness.at_the_end(state.usage)
        late_orders = (Order(10**6, "message"), Order(10**6, "cancel"))
        for late in (*self.echoes, *late_orders, CancelRequested("late"), EndedElsewhere("failed")):
            if self.core.evolve(state, late) != state:
                raise Violation(f"after the end nothing changes a run, but {late} did")

    # What may happen ------------------------------------------------------------------------------

    def _something_happens(self) -> None:
        chance, temper = self.chance, self.temper
        self.now_ms += chance.randrange(20)
        if self.journal.status is None:
            self.people.act()
        if self.journal.children:
            self.children.act()
        if self.perhaps(temper.cancel / 4):
            self.deliver(CancelRequested("cancelled in Temporal"))
        if self.perhaps(temper.echo) and self.echoes:
            self._echo(chance.choice(self.echoes))
        if self.perhaps(temper.force) and self.journal.status is None:
            self._force()
        if self.journal.post and self.perhaps(0.3):
            self._bring_orders()
        if self.zombies and self.perhaps(0.3):
            self._advance(chance.choice(self.zombies))
        able = [flight for flight in self.flights.values() if flight.called_off or not flight.hangs]
        if able:
            flight = chance.choice(able)
            self._advance(flight)
            while flight.report is None and flight.action.key in self.flights and self.perhaps(0.6):
                self._advance(flight)
        elif not self.batch and not self.journal.post and not self._silence_is_broken():
            if self.log[-1][0] >= self.shell.wake_at_ms:  # it was asked after its alarm
                raise Violation("a run that waits has something to wait for")
            self.witness.sleeps(self.shell.wake_at_ms)
            self.now_ms = self.shell.wake_at_ms - self.perhaps(0.3)
            self.people.act_at_the_last_moment()
            self.now_ms = self.shell.wake_at_ms

    def _silence_is_broken(self) -> bool:
        """Nothing is in flight and nothing on its way: a child may be at work, and somebody may notice that the run
        waits."""
        return self.children.break_the_silence() or self.people.break_the_silence()

    def _bring_orders(self) -> None:
        """One signal: the oldest orders, or any when they come by several ways."""
        post = self.journal.post
        count = self.chance.randint(min(1, len(post)), len(post))
        if self.perhaps(self.temper.shuffled):
            self.chance.shuffle(post)
        for order in post[:count]:
            self.deliver(order)
        del post[:count]

    def deliver(self, happening: Happening, ends: str | None = None) -> None:
        self.echoes.append(happening)
        self.batch.append(Delivery(happening, ends))

    def _echo(self, happening: Happening) -> None:
        """Again, unless it cannot be told from news: an action of this key is in flight (again)."""
        if isinstance(happening, CancelRequested | EndedElsewhere) or getattr(happening, "key", None) in self.flights:
            return
        if not any(delivery.happening == happening for delivery in self.batch):
            self.batch.append(Delivery(happening, news=False))

    def _force(self) -> None:
        self.journal.end("force", (), Outcome("cancelled", "by force"))
        self.witness.forced = True
        for flight in self.flights.values():
            flight.hangs = False

    def _end(self, flight: Flight, happening: Happening) -> None:
        if flight in self.zombies:
            self.zombies.remove(flight)
            return
        del self.flights[flight.action.key]
        self.witness.ended(flight.action.key)
        if flight.report is None and self.perhaps(0.5):
            self.zombies.append(flight)
        self.deliver(happening, ends=flight.action.key)

    # The activities and their workers ---------------------------------------------------------------

    def _advance(self, flight: Flight) -> None:
        """One phase on. What was called off may end so at any moment, or end as if nothing were."""
        action = flight.action
        try:
            if flight in self.zombies:
                self._work(flight)
                if flight.report or flight.phase == 0:  # nobody waits for it, and nobody tries it again
                    self.zombies.remove(flight)
            elif flight.called_off and self.perhaps(0.4):
                self._cut_short(flight)
            elif self.perhaps(self.temper.lost / 3):
                self._lose(flight)
            elif flight.report:
                self._end(flight, flight.report)
            else:
                self._work(flight)
        except RunOver as over:
            flight.report = EndedElsewhere(over.args[0])
            self._end(flight, flight.report)
        self.witness.kin.look()
        if flight.report is None and not flight.called_off and self.perhaps(self.temper.hangs / 3):
            flight.hangs = isinstance(action, CallModel | CallTool)

    def _lose(self, flight: Flight) -> None:
        """Its worker dies. Temporal gives the activity to another, unless nobody wants it any more; the first may
        be only frozen."""
        action = flight.action
        if flight.phase > 0 and flight.report is None and self.perhaps(0.5):
            self.zombies.append(copy(flight))
        if flight.called_off or (isinstance(action, Record | Finish | SettleAsk) and self.perhaps(0.5)):
            flight.report = ActionCancelled(action.key)
            self._end(flight, flight.report)
        elif isinstance(action, CallTool | CallFamily | AnswerCall) and self.perhaps(0.3):
            flight.report = ToolLost(action.key, action.call_id, "tool_outcome_unknown", "its workers died")
            self._end(flight, flight.report)
        else:
            flight.phase, flight.report = 0, None

    def _cut_short(self, flight: Flight) -> None:
        """Called off: the activity says so in the journal, if it still can."""
        match flight.action:
            case CallModel(key) if flight.attempt and flight.phase == 1 and self.perhaps(0.7):
                by = self._interrupting()
                if by and not flight.action.wrap_up:
                    flight.report = self.journal.interrupt_model(key, flight.attempt, by)
                    self._end(flight, flight.report)
                    return
                self.journal.fail_attempt(key, flight.attempt, billed=True, final=Failure("cancelled", "called off"))
            case CallTool(_, call_id) if flight.phase == 1 and self.perhaps(0.7):
                self.journal.commit_tool(call_id, "cancelled", attempt=flight.number)
        self._end(flight, ActionCancelled(flight.action.key))

    def _work(self, flight: Flight) -> None:
        journal = self.journal
        match flight.action:
            case CallModel():
                self._model_works(flight, flight.action)
            case CallTool():
                self._tool_works(flight, flight.action)
            case CallFamily(key, call_id):
                if flight.phase == 0:
                    flight.called = journal.call_family(key, call_id, flight.outbox, self.now_ms)
                else:
                    flight.report = flight.called
            case AnswerCall(key, call_id, _, _, "children_go_on"):
                journal.stop_waiting(call_id, flight.outbox)
                flight.report = ToolAnswered(key, call_id)
            case AnswerCall(key, call_id, _, _, code):
                journal.commit_tool(call_id, code, flight.outbox)
                flight.report = ToolAnswered(key, call_id)
            case SettleAsk(key, call_id):
                flight.report = journal.settle_ask(key, call_id, flight.outbox, self.now_ms)
                if self.perhaps(0.5):
                    self.people.decide_about(call_id)
                    self._bring_orders()
            case Record(key):
                journal.carry(flight.outbox)
                flight.report = Recorded(key)
            case Finish(key, outcome):
                journal.end(key, flight.outbox, outcome)
                flight.report = Recorded(key)
        if flight.report is None:
            flight.phase += 1

    # A model call: begin, hear the vendor, commit -----------------------------------------------------

    def _model_works(self, flight: Flight, action: CallModel) -> None:
        journal = self.journal
        if flight.phase == 0:
            begun = journal.begin_model(action, flight.outbox, self._ask_for(action))
            if isinstance(begun, Attempt):
                flight.attempt = begun
            else:
                flight.report = begun
            return
        attempt = flight.attempt
        assert attempt is not None
        by = self._interrupting()
        if by and not action.wrap_up and self.perhaps(0.3):
            heard_of = by if self.perhaps(0.7) else ()
            flight.report = journal.interrupt_model(action.key, attempt, heard_of)
        elif self.perhaps(self.temper.model_fails) or attempt.number > ATTEMPTS_MAX:
            failure = Failure("model_error", "the vendor said no")
            journal.fail_attempt(action.key, attempt, billed=self.perhaps(0.5), final=failure)
            flight.report = journal.models[action.key].filed or ModelFailed(action.key, failure)
        elif self.perhaps(self.temper.model_fails * 2):
            journal.fail_attempt(action.key, attempt, billed=self.perhaps(0.5))
            flight.phase = -1  # to be tried again
        else:
            flight.report = self._answer(action, attempt)

    def _interrupting(self) -> tuple[tuple[int, int], ...]:
        """The numbers of interrupting messages that wait in the journal, which tells workers at once."""
        orders = self.journal.orders
        return tuple((n, n) for n in self.journal.waiting() if orders[n - 1].delivery == "interrupt")

    def _ask_for(self, action: CallModel) -> Ask:
        bound = 200 + 150 * action.turn + self.chance.randrange(300)
        return Ask(bound, 200 if action.wrap_up else self.output_cap, self.price, action.wrap_up)

    def _answer(self, action: CallModel, attempt: Attempt) -> Happening:
        """The vendor answers; the first answer in the journal is the one that is reported."""
        chance, key = self.chance, action.key
        count = chance.randint(1, self.temper.calls_max) if self.perhaps(self.temper.asks) and not action.wrap_up else 0
        judged = [self._judged(f"call_{key}_{index}") for index in range(count)]
        stop = "tool_calls" if judged else "end"
        if self.perhaps(self.temper.cut_off):
            stop = chance.choice(("max_output_tokens", "refusal", "pause", "end"))
        limit = attempt.grant.clamped_by if stop == "max_output_tokens" else ""
        if stop in CUT_OFF:  # it may hold half a call: the judge is not asked
            judged = []
        actual = self._used(attempt)
        usage = Usage(actual.tokens - actual.output_tokens, actual.output_tokens, cost_micros=actual.cost_micros)
        answer = ModelResponded(key, stop, usage, tuple(call.asked for call, _ in judged), limit)
        filed = self.journal.commit_model(
            answer, attempt, actual, [call for call, _ in judged], [ask for _, ask in judged if ask]
        )
        self.witness.bills[key, attempt.number] = actual
        return filed

    def _used(self, attempt: Attempt) -> Amount:
        """Within what was reserved, or, now and then, beyond it."""
        grant = attempt.grant
        bound = grant.amount.tokens - grant.amount.output_tokens
        inputs, outputs = self.chance.randint(bound // 2, bound), self.chance.randint(0, max(0, grant.output_tokens))
        if self.perhaps(self.temper.overuse):
            inputs, outputs = inputs + self.chance.choice((0, 700)), grant.output_tokens + self.chance.choice((0, 500))
        return Amount(self.price(inputs, outputs) or 0, inputs + outputs, outputs)

    def _judged(self, call_id: str) -> tuple[Call, Asked | None]:
        """Where the full arguments are: what policy says of a call, and what has to be asked."""
        known = [rule.name for rule in self.spec.tools]
        more = ["spawn_agent", "spawn_agent", *({"wait_for_agents"} & set(known))] * len(known) if self.leads else []
        tool = self.chance.choice([*known, *known, *known, *more, "no_such_tool"])
        arguments = self.chance.randrange(ARGUMENTS)
        problem = "path is missing" if self.perhaps(0.05) else None
        rule, terms, law = self.spec.rule(tool), self.law.terms, self.law
        ruling = self.core.rule_on(law.policies, tool, rule.effect, approval=False, fits=law.fits(arguments))
        if (tool, arguments) in self.witness.standing:
            ruling = self.core.with_decision(ruling, "an approval", approved=True)
        seconds = self.chance.choice((0.1, 2.0, 50.0))
        asked = self.core.judge(
            call_id, tool, known, problem,
            ruling=ruling, answered_by=rule.answered_by, answer_seconds=seconds, now_ms=self.now_ms,
        )  # fmt: skip
        if rule.answered_by == "time" and asked.refusal is None and not asked.waits:
            waits: WaitsFor = "timer" if tool == "sleep" else "event"
            asked = replace(asked, waits=waits, expires_ms=self.now_ms + int(seconds * 1_000))
        word = law.word(tool, arguments) if tool in known and not problem else "deny"
        plan = self.children.plan(tool) if rule.answered_by == "family" else None
        call = Call(asked, arguments, word, plan=plan)
        if not asked.waits:
            return call, None
        client_ms = int(seconds * 1_000) if asked.waits == "approval" and rule.answered_by == "client" else 0
        span_ms = int(terms.expires_seconds * 1_000)
        quorum = terms.quorum if asked.waits == "approval" else 1
        ask = Asked(asked.waits, call_id, asked.expires_ms, span_ms, terms.on_expiry, quorum, client_ms)
        return call, ask

    # A tool call: begin, have an effect, commit --------------------------------------------------------

    def _tool_works(self, flight: Flight, action: CallTool) -> None:
        journal, call_id, once = self.journal, action.call_id, action.rule.effect == "once"
        if flight.phase == 0:
            state, flight.number = journal.begin_tool(call_id, flight.outbox, may_repeat=not once)
            flight.arguments = journal.calls[call_id].arguments
            if state == "ended":
                flight.report = ToolAnswered(action.key, call_id)
            elif state == "lost":
                self._unknown(flight, action)
        elif flight.phase == 1:
            denied = self.law.word(action.rule.name, flight.arguments) == "deny"
            if journal.calls[call_id].open == flight.number:
                self.witness.took_effect(call_id, action.rule.effect, denied)
            if once and self.perhaps(self.temper.unknown):
                self._unknown(flight, action)
            elif action.rule.name == "poll" and self.perhaps(0.7):
                journal.pause_tool(call_id, flight.number)
                flight.report = ToolPaused(action.key, call_id, self.now_ms + self.chance.choice((1, 50, 3_000)))
        else:
            journal.commit_tool(call_id, "completed")
            flight.report = ToolAnswered(action.key, call_id, bytes=100)

    def _unknown(self, flight: Flight, action: CallTool) -> None:
        """Nobody knows whether the call took effect: a person shall say, or the model is told."""
        if self.spec.ask_about_unknown:
            ask = Asked("unknown_outcome", action.call_id, self.now_ms + self.chance.choice((100, 5_000)))
            if asked := self.journal.park_tool(ask, flight.number):
                flight.report = ToolParked(action.key, action.call_id, asked.expires_ms)
            else:
                flight.phase = -1  # to be tried again
        else:
            self.journal.commit_tool(action.call_id, "unknown")
            flight.report = ToolAnswered(action.key, action.call_id, "unknown")

    def perhaps(self, likelihood: float) -> bool:
        """Small draws mean that nothing happens: so Hypothesis shrinks towards a friendly world."""
        return self.chance.random() >= 1.0 - likelihood

    def _say(self, line: str) -> None:
        if self.tell:
            self.tell(f"{self.now_ms:>8} {line}")


def first_violation(
    seeds: Iterable[int],
    core: Core | None = None,
    *,
    costs: bool = False,
    timed: bool = False,
    leads: bool = False,
) -> tuple[int, str] | None:
    """The first seed that breaks a promise, and the promise."""
    for seed in seeds:
        try:
            World(Random(seed), core or Core(), costs=costs, timed=timed, leads=leads).run()
        except Violation as violation:
            return seed, str(violation)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate whole runs in a hostile world.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many runs")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seed", type=int, help="tell the story of this one run")
    parser.add_argument("--budget", action="store_true", help="runs with budgets, in a world that costs")
    parser.add_argument("--time", action="store_true", help="runs that sleep, wait for events and poll")
    parser.add_argument("--family", action="store_true", help="runs that have children")
    options = parser.parse_args(arguments)
    world_of = partial(World, costs=options.budget, timed=options.time, leads=options.family)
    if options.seed is not None:
        world_of(Random(options.seed), tell=print).run()
        return 0
    began, steps, lines, violations = time.perf_counter(), [0], 0, []
    for seed in range(options.first, options.first + options.seeds):
        world = world_of(Random(seed))
        try:
            steps.append(world.run())
        except Violation as violation:
            violations.append(seed)
            print(f"seed {seed}: {violation}")
        lines += len(world.journal.ledger)
    seconds = time.perf_counter() - began
    print(
        f"{options.seeds} runs, {sum(steps)} steps (at most {max(steps)} in a run), {lines} lines of ledgers, "
        f"{len(violations)} violations, {options.seeds / seconds:.0f} runs/second"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
