"""Orders that an activity's own commit has given: brought to the workflow at once. What cannot be delivered now is
delivered by the API's reconciler, and a workflow hears each number once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from perdure.runs import Runs, TemporalUnavailable
from perdure.store.journal import Journal
from perdure.store.trouble import JournalTrouble

log = logging.getLogger("perdure.worker")

BATCH = 500  # orders of one signal: some 60 KB, far below what Temporal takes

Deliver = Callable[[str], Awaitable[None]]
"""``await deliver(run_id)``: bring what waits for the run to its workflow. Never fails."""


def deliverer(journal: Journal, runs: Runs) -> Deliver:
    async def deliver(run_id: str) -> None:
        try:
            while orders := await journal.undelivered_orders(run_id, limit=BATCH):
                if not await runs.deliver(run_id, orders):
                    return
                await journal.confirm_orders(run_id, [order.number for order in orders])
        except (TemporalUnavailable, JournalTrouble) as trouble:
            log.warning("orders to %s wait: %s", run_id, trouble)

    return deliver
