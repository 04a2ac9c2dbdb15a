"""Bring the orders that an activity has committed for another run to that run's workflow, at once."""

from __future__ import annotations

from perdure.contract import ORDERS_A_SIGNAL
from perdure.runs import Runs
from perdure.store.journal import Journal


async def carry_orders(journal: Journal, runs: Runs, run_id: str) -> bool:
    """False: there is no such open workflow, or not yet. What is not delivered here, the API's reconciler delivers.
    TemporalUnavailable."""
    while orders := await journal.undelivered_orders(run_id, limit=ORDERS_A_SIGNAL):
        if not await runs.deliver(run_id, orders):
            return False
        await journal.confirm_orders(run_id, [order.number for order in orders])
    return True
