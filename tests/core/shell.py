"""The reconciler of ``workflows/agent_run.py``, without Temporal: the same order of questions to the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from perdure.core.actions import Action, Decision, Done, InFlight
from perdure.core.budget import reserve, settle, warnings
from perdure.core.decide import decide, untold
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import CallAsked, Happening, Started, StatusReached
from perdure.core.judge import judge
from perdure.core.policy import Ruling, rule_on, with_decision
from perdure.core.spec import RunSpec
from perdure.core.state import OutboxEvent, RunState
from tests.core.mini_journal import MiniJournal, Money
from tests.core.outside import Violation

NEVER_MS = 10**9


@dataclass(frozen=True)
class Core:
    """The functions that carry the product, or mutants of them."""

    begin: Callable[[RunSpec], RunState] = begin
    evolve: Callable[[RunState, Happening], RunState] = evolve
    decide: Callable[[RunState, int], Decision] = decide
    untold: Callable[[RunState, Decision], StatusReached | None] = untold
    judge: Callable[..., CallAsked] = judge
    rule_on: Callable[..., Ruling] = rule_on
    with_decision: Callable[..., Ruling] = with_decision
    money: Money = field(default_factory=lambda: Money(reserve, settle, warnings))
    journal: type[MiniJournal] = MiniJournal


@dataclass(frozen=True)
class Start:
    action: Action
    outbox: tuple[OutboxEvent, ...]


@dataclass(frozen=True)
class CallOff:
    key: str


Wish = Start | CallOff


@dataclass(frozen=True)
class Delivery:
    """A happening reaches the shell; ``ends`` is the key of the action that ended with it. It is no
    ``news`` when it is an echo: a late or double delivery."""

    happening: Happening
    ends: str | None = None
    news: bool = True


class Shell:
    """The reconciler: takes what happened, asks the core, says what shall be started and called off."""

    def __init__(self, core: Core, state: RunState) -> None:
        self.core, self.state = core, state
        self.handles: set[str] = set()
        self.called_off: set[str] = set()
        self.wake_at_ms = NEVER_MS

    def take(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.state = self.core.evolve(self.state, delivery.happening)
            if delivery.ends:
                self.handles.discard(delivery.ends)
                self.called_off.discard(delivery.ends)

    def reconcile(self, now_ms: int) -> list[Wish] | None:
        """The wishes, or None when the run is over."""
        decision = self.core.decide(self.state, now_ms)
        if isinstance(decision, InFlight) and (reached := self.core.untold(self.state, decision)):
            self.state = self.core.evolve(self.state, reached)
            decision = self.core.decide(self.state, now_ms)
        if isinstance(decision, Done):
            return None
        wishes: list[Wish] = []
        wanted = [action.key for action in decision.actions]
        if len(set(wanted)) != len(wanted):
            raise Violation(f"an action is wanted once, but wanted were {wanted}")
        for key in sorted(self.handles - set(wanted) - self.called_off):
            self.called_off.add(key)
            wishes.append(CallOff(key))
        for action in decision.actions:
            if action.key not in self.handles:
                wishes.append(Start(action, self.state.outbox))
                self.state = self.core.evolve(self.state, Started(action, now_ms))
                self.handles.add(action.key)
        again = self.core.decide(self.state, now_ms)
        same = isinstance(again, InFlight) and {action.key for action in again.actions} == set(wanted)
        if not same or self.core.untold(self.state, again):
            raise Violation(f"asked again, the core wants the same; it wanted {decision}, then {again}")
        self.wake_at_ms = decision.wake_at_ms
        return wishes
