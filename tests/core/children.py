"""The children of a simulated run: actors outside it, who work when they like, spend within their slices (or, as
vendors do, beyond), and end well, badly, late, when they are told to, or with their parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.core.budget import Amount, Ask
from perdure.core.state import RunStatus
from tests.core.mini_journal import Child, Plan

if TYPE_CHECKING:
    from tests.core.simulation import World

CHILD_MS = (50, 2_000, 100_000)
ENDS: tuple[RunStatus, ...] = ("completed", "completed", "completed", "incomplete", "failed")


class Children:
    """They only speak to the journal, like people; what it tells their parent comes with the post."""

    def __init__(self, world: World) -> None:
        self.world, self.journal = world, world.journal
        self.busy = world.chance.choice((0.02, 0.1, 0.4)) if world.leads else 0.0

    def plan(self, tool: str) -> Plan:
        """The arguments of a call about other runs. A model may name a child that there is not."""
        chance, count = self.world.chance, len(self.journal.children)
        known = [chance.randrange(count) for _ in range(chance.randint(0, 3))] if count else []
        ids = tuple(dict.fromkeys([*known, 10**6] if self.world.perhaps(0.05) else known))
        if tool != "spawn_agent":
            return Plan(ids, self.world.perhaps(0.5), chance.choice(CHILD_MS))
        tokens = chance.choice((None, None, 500, 2_000, 10_000, self._all_tokens()))
        first = Ask(chance.randint(100, 400), 300, self.world.price)
        background, detached = self.world.perhaps(0.4), self.world.perhaps(0.15)
        return Plan((), False, chance.choice(CHILD_MS), background, detached, tokens, first)

    def _all_tokens(self) -> int | None:
        """A greedy parent: what it has kept for its last word as well."""
        journal = self.journal
        if journal.budget is None or journal.budget.max_tokens is None:
            return None
        return max(1, journal.budget.max_tokens - journal.account.spent.tokens - journal.account.reserved.tokens)

    def act(self) -> None:
        """Perhaps some of them do something."""
        for child in self.journal.at_work():
            if child.status is None and self.world.perhaps(self.busy):
                self._work(child)

    def break_the_silence(self) -> bool:
        """The run waits, and a child goes on. What nobody hears is no word."""
        able = [child for child in self.journal.at_work() if not child.held or child.cancelled]
        if not able or not self.world.perhaps(0.8):
            return False
        before = len(self.journal.post)
        self._work(self.world.chance.choice(able))
        return len(self.journal.post) > before

    def _work(self, child: Child) -> None:
        chance, late = self.world.chance, self.world.now_ms >= child.deadline_ms
        if child.cancelled or late:
            if self.world.perhaps(0.6):
                self.journal.end_child(child, "cancelled" if child.cancelled else "expired")
        elif child.held:
            return
        elif self.world.perhaps(0.5):
            child.spent = child.spent.plus(self._used(child))
        else:
            self.journal.end_child(child, chance.choice(ENDS))
        self.world.witness.kin.look()

    def _used(self, child: Child) -> Amount:
        """By one model call: within what is left of its own budget, or, now and then, beyond it."""
        chance, budget, spent = self.world.chance, child.budget, child.spent
        limits = (budget.max_cost_micros, budget.max_tokens, budget.max_output_tokens)
        used = (spent.cost_micros, spent.tokens, spent.output_tokens)
        beyond = 300 if self.world.perhaps(self.world.temper.overuse) else 0
        return Amount(
            *(
                chance.randint(0, 500 if most is None else max(0, most - so_far)) + beyond
                for most, so_far in zip(limits, used, strict=True)
            )
        )
