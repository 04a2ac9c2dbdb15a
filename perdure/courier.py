"""The courier brings orders from the journal to workflows. An order is durable before it comes here; what cannot be
delivered now is delivered by the reconciler of the API, and a workflow hears each number once. The API has one, for
what clients say, and each worker one, for what runs say to each other.

One signal carries all that waits for a run. A run gets the first at once and then at most one each 50 ms, so ten
thousand messages are a few hundred signals at most.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from perdure.contract import ORDERS_A_SIGNAL
from perdure.runs import Runs, TemporalUnavailable
from perdure.store.journal import Journal
from perdure.store.trouble import JournalTrouble

log = logging.getLogger("perdure.courier")

PACE_SECONDS = 0.05  # between two signals to one run


@dataclass
class _Lane:
    """The way to one run. ``next`` is a round that has not begun to read: whoever gives an order now may rely on
    it; ``now`` is the one that reads. ``free_at`` is when another signal may follow."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: asyncio.Task[bool] | None = None
    now: asyncio.Task[bool] | None = None  # held here: the event loop itself forgets tasks that nobody awaits
    free_at: float = 0.0


class Courier:
    """The lanes of one process, in one event loop."""

    def __init__(self, journal: Journal, runs: Runs) -> None:
        self._journal, self._runs = journal, runs
        self._lanes: dict[str, _Lane] = {}

    async def tell(self, run_id: str) -> None:
        """As ``carry``, and never fails: what cannot be delivered now is delivered later."""
        try:
            if not await self.carry(run_id):
                log.info("orders to %s wait: its workflow has not started, or is gone", run_id)
        except (TemporalUnavailable, JournalTrouble) as trouble:
            log.warning("orders to %s wait: %s", run_id, trouble)
        except Exception:
            log.exception("orders to %s wait: they cannot be delivered now", run_id)  # they are durable all the same

    async def carry(self, run_id: str) -> bool:
        """Deliver all orders that wait for the run, those included that were committed before this was called.
        False: there is no such open workflow. TemporalUnavailable, JournalTrouble."""
        lane = self._lanes.setdefault(run_id, _Lane())
        if lane.next is None:
            lane.next = asyncio.create_task(self._round(run_id, lane))
        return await asyncio.shield(lane.next)

    @property
    def has_open_lanes(self) -> bool:
        """Whether it remembers any run: it does while a signal is under way, and for a moment afterwards."""
        return bool(self._lanes)

    async def _round(self, run_id: str, lane: _Lane) -> bool:
        """One run after another: whoever comes while this one reads gets a round of their own."""
        clock = asyncio.get_running_loop().time
        async with lane.lock:
            try:
                await asyncio.sleep(lane.free_at - clock())
                lane.now, lane.next = lane.next, None
                while orders := await self._journal.undelivered_orders(run_id, limit=ORDERS_A_SIGNAL):
                    lane.free_at = clock() + PACE_SECONDS
                    if not await self._runs.deliver(run_id, orders):
                        return False
                    await self._journal.confirm_orders(run_id, [order.number for order in orders])
                    if len(orders) < ORDERS_A_SIGNAL:
                        break
                    await asyncio.sleep(lane.free_at - clock())
                return True
            finally:
                if lane.next is asyncio.current_task():  # it was ended before it read
                    lane.next = None
                lane.now = None
                asyncio.get_running_loop().call_later(PACE_SECONDS, self._close, run_id, lane)

    def _close(self, run_id: str, lane: _Lane) -> None:
        """Forget a run to which nothing is under way: the courier remembers those of the last moment only."""
        if lane.next is None and not lane.lock.locked() and self._lanes.get(run_id) is lane:
            del self._lanes[run_id]
