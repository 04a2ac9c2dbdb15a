"""What the world outside can see of a run's children, and the promises about them. Each is one sentence; that the
ledger holds for the whole family is in ``money.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from perdure.core.happenings import FamilyCalled, Order
from tests.core.mini_journal import MiniJournal


class Kin:
    """What was reported and delivered of the children of one run."""

    def __init__(self, journal: MiniJournal, broken: Callable[[str], NoReturn]) -> None:
        self.journal, self._broken = journal, broken
        self.started: set[str] = set()  # the calls whose children the run was told of
        self.ended: set[str] = set()  # and of whose ends
        self.waits: set[str] = set()  # calls that it knows to wait for children
        self.settled: set[str] = set()  # keys under which their expiry was settled

    @property
    def at_work(self) -> set[str]:
        """As the run knows it."""
        return self.started - self.ended

    def called(self, called: FamilyCalled) -> None:
        if called.child:
            self.started.add(called.call_id)

    def order(self, order: Order) -> None:
        if order.verb == "child_ended":
            self.ended.add(order.call_id)

    def look(self) -> None:
        """After each transaction."""
        journal = self.journal
        for call_id, count in Counter(child.call_id for child in journal.children).items():
            if count > 1:
                self._broken(f"a call starts one child, but {call_id} started {count}")
            if journal.calls[call_id].law == "deny":
                self._broken(f"what policy denies starts no child, but {call_id} did")
        for ask in journal.asks:
            if ask.type != "children" or ask.status not in ("open", "answered"):
                continue
            over = [journal.children[number].status is not None for number in ask.ids]
            enough = any(over) if ask.any else all(over)
            if ask.status == "open" and enough:
                self._broken(f"a call that waits for {'any' if ask.any else 'all'} is answered when they end: {ask}")
            if ask.status == "answered" and not enough:
                self._broken(f"a call that waits for {'any' if ask.any else 'all'} waits till they end: {ask}")

    def at_the_end(self) -> None:
        """The run is over, whoever ended it."""
        left = [child for child in self.journal.at_work() if not child.plan.detached]
        if left:
            self._broken(f"a run that has ended has nobody at work but those it has let go, but {left} are")
        told = self.journal.told()
        if told["child.started"] != len(self.journal.children):
            self._broken(f"each child is told once, but told were {told['child.started']}")
