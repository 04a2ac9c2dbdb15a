"""Who gives orders to a simulated run: people and clients who speak at any moment, decide twice, too late, about
arguments that have changed, and at the very instant at which the time is over."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from perdure.core.budget import Budget
from tests.core.drawn import ARGUMENTS, ON_LIMITS, budget_drawn, limits_drawn
from tests.core.mini_journal import Asked, Refused

if TYPE_CHECKING:
    from tests.core.simulation import World

NAMES = ("ada", "grace", "edsger")


class People:
    """They only speak to the journal; the post brings their orders to the run, some day."""

    def __init__(self, world: World) -> None:
        self.world, self.journal, self.witness = world, world.journal, world.witness

    def act(self) -> None:
        """Perhaps somebody does something."""
        world, temper = self.world, self.world.temper
        if world.perhaps(temper.message):
            self._speak()
        if world.perhaps(temper.message / 2):
            self._withdraw()
        if world.perhaps(temper.decides):
            self._decide_something()
        if world.perhaps(temper.pause):
            self.journal.give(world.chance.choice(("pause", "resume")))
        if world.perhaps(temper.cancel):
            self.journal.give("cancel", reason="enough")
        if world.perhaps(temper.limits):
            self._change_limits()
        if world.perhaps(temper.recover):
            self._recover()

    def act_at_the_last_moment(self) -> None:
        """The clock stands just before the moment for which the run waits, or at it."""
        if self.journal.status is None and self.world.perhaps(0.3):
            self._decide_something()

    def break_the_silence(self) -> bool:
        """Nothing is in flight and nothing on its way: somebody may notice that the run waits."""
        world = self.world
        if self.journal.status is not None or not world.perhaps(0.5):
            return False
        before = len(self.journal.post)
        if self.witness.paused:
            self.journal.give("resume")
        elif self.witness.reached or (self.witness.on_limit == "pause" and world.perhaps(0.5)):
            self._change_limits()
        else:
            self._decide_something()
        return len(self.journal.post) > before

    def decide_about(self, call_id: str) -> None:
        """At the very instant at which its time is over."""
        with suppress(Refused):
            if ask := self.journal.newest_ask(call_id):
                self._decide(ask)

    # Messages -------------------------------------------------------------------------------------

    def _speak(self) -> None:
        self.journal.accept_message(self.world.chance.choice(("steer", "enqueue", "interrupt")))

    def _withdraw(self) -> None:
        """One message, or the whole queue, which is replaced by a new one."""
        waiting = self.journal.waiting()
        if not waiting:
            return
        if self.world.perhaps(0.7):
            self.journal.withdraw([self.world.chance.choice(waiting)])
            return
        self.journal.withdraw(waiting)
        for _ in range(self.world.chance.randrange(3)):
            self._speak()

    # Decisions ------------------------------------------------------------------------------------

    def _decide_something(self) -> None:
        """Mostly about what is open; sometimes about what was decided, and once more at the same instant."""
        chance, asks = self.world.chance, list(self.journal.open_asks())
        if self.world.perhaps(0.1) and self.journal.asks:
            asks = [chance.choice(self.journal.asks)]
        if not asks:
            return
        ask = chance.choice(asks)
        for _ in range(chance.choice((1, 1, 2))):
            with suppress(Refused):
                self._decide(ask)

    def _decide(self, ask: Asked) -> None:
        chance, now_ms, by = self.world.chance, self.world.now_ms, self.world.chance.choice(NAMES)
        if ask.type in ("question", "client_tool", "timer", "event"):  # answered, fired by hand, or signalled
            self.journal.answer(ask, now_ms, by)
            return
        call = self.journal.calls[ask.call_id]
        seen = call.arguments if self.world.perhaps(0.9) else chance.randrange(ARGUMENTS)
        decision = chance.choice(("approve", "approve", "approve", "edit", "deny", "respond"))
        edited = chance.randrange(ARGUMENTS) if decision == "edit" and ask.type == "approval" else None
        if edited is not None and not self._may_be(call.asked.tool, edited):
            raise Refused("policy denies the edited arguments")
        self.journal.decide(ask, now_ms, by, decision, seen, edited)
        if decision in ("approve", "edit"):
            self.witness.approved(ask.call_id, by, seen if edited is None else edited)
        if ask.status == "approved":
            self.witness.people_again[ask.call_id] += ask.type == "unknown_outcome"
            if ask.type == "approval" and self.world.perhaps(0.2):
                self.witness.standing.add((call.asked.tool, call.arguments))

    def _may_be(self, tool: str, arguments: int) -> bool:
        """The judge looks at edited arguments like at any."""
        law = self.world.law
        effect = self.world.spec.rule(tool).effect
        ruling = self.world.core.rule_on(law.policies, tool, effect, approval=False, fits=law.fits(arguments))
        return ruling.action != "deny"

    # Limits and recovery --------------------------------------------------------------------------

    def _change_limits(self) -> None:
        """Raised or lowered, the money or the counts, and what happens at the end of them."""
        world, chance = self.world, self.world.chance
        on_limit = chance.choice((None, *ON_LIMITS)) if self.witness.on_limit else None
        limits = replace(limits_drawn(chance), max_turns=chance.choice((5, 40))) if world.perhaps(0.5) else None
        deadline_ms = world.now_ms + chance.choice((500, 10**9)) if world.perhaps(0.3) else 0
        if self.journal.budget:
            budget: Budget = budget_drawn(chance, world.price, on_limit or self.journal.budget.on_limit)
            if world.perhaps(0.2):  # lowered below what is spent
                budget = replace(budget, max_tokens=self.journal.account.spent.tokens // 2)
            self.journal.change_budget(budget)
        self.journal.give("limits", limits=limits, on_limit=on_limit, deadline_ms=deadline_ms)

    def _recover(self) -> None:
        """A stuck or unknown call, or any other: it shall run again, or somebody gives its result."""
        open_ = [call_id for call_id, call in self.journal.calls.items() if call.result is None]
        if not open_:
            return
        call_id = self.world.chance.choice(open_)
        with suppress(Refused):
            if self.world.perhaps(0.6):
                self.journal.retry_call(call_id)
                self.witness.people_again[call_id] += 1
            else:
                self.journal.resolve_call(call_id, "ada")
