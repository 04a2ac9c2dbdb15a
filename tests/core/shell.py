"""The reconciler of ``workflows/agent_run.py``, without Temporal: the same order of questions to the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from perdure.core.actions import Action, Decision, Done, InFlight
from perdure.core.decide import decide
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import Happening, Started
from perdure.core.spec import RunSpec
from perdure.core.state import OutboxEvent, RunState
from tests.core.outside import Violation

NEVER_MS = 10**9


@dataclass(frozen=True)
class Core:
    """The three functions that carry the product, or mutants of them."""

    begin: Callable[[RunSpec], RunState] = begin
    evolve: Callable[[RunState, Happening], RunState] = evolve
    decide: Callable[[RunState, int], Decision] = decide


@dataclass(frozen=True)
class Start:
    action: Action
    outbox: tuple[OutboxEvent, ...]


@dataclass(frozen=True)
class CallOff:
    key: str


Order = Start | CallOff


@dataclass(frozen=True)
class Delivery:
    """A happening reaches the shell; ``ends`` is the key of the action that ended with it. It is no
    ``news`` when it is an echo: a late or double delivery."""

    happening: Happening
    ends: str | None = None
    news: bool = True


class Shell:
    """The reconciler: takes what happened, asks the core, gives orders."""

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

    def reconcile(self, now_ms: int) -> list[Order] | None:
        """The orders, or None when the run is over."""
        decision = self.core.decide(self.state, now_ms)
        if isinstance(decision, Done):
            return None
        orders: list[Order] = []
        wanted = [action.key for action in decision.actions]
        if len(set(wanted)) != len(wanted):
            raise Violation(f"an action is wanted once, but wanted were {wanted}")
        for key in sorted(self.handles - set(wanted) - self.called_off):
            self.called_off.add(key)
            orders.append(CallOff(key))
        for action in decision.actions:
            if action.key not in self.handles:
                orders.append(Start(action, self.state.outbox))
                self.state = self.core.evolve(self.state, Started(action))
                self.handles.add(action.key)
        again = self.core.decide(self.state, now_ms)
        if not isinstance(again, InFlight) or {action.key for action in again.actions} != set(wanted):
            raise Violation(f"asked again, the core wants the same; it wanted {decision}, then {again}")
        self.wake_at_ms = decision.wake_at_ms
        return orders
