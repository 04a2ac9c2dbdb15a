"""The time of something that was asked is over: find out what became of it, and say so."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.lifeline import lifeline
from perdure.contract import SETTLE_ASK, SettleAskInput
from perdure.core.happenings import AskSettled
from perdure.store.journal import Journal


@dataclass(frozen=True)
class AskSettler:
    """The activity with its adapter. The journal is the arbiter: somebody may have decided just before."""

    journal: Journal
    beat_every_seconds: float

    @activity.defn(name=SETTLE_ASK)
    async def settle_ask(self, order: SettleAskInput) -> AskSettled:
        async with lifeline(self.beat_every_seconds):
            return await self.journal.settle_ask(order.run_id, order.key, order.call_id, order.outbox)
