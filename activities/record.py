"""Commit events that no other activity carries, and the end of a run."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.lifeline import lifeline
from perdure.contract import RECORD, RecordInput
from perdure.core.happenings import Recorded
from perdure.store.journal import Journal


@dataclass(frozen=True)
class Recorder:
    """The activity with its adapter."""

    journal: Journal
    beat_every_seconds: float

    @activity.defn(name=RECORD)
    async def record(self, order: RecordInput) -> Recorded:
        async with lifeline(self.beat_every_seconds):
            await self.journal.record(order.run_id, order.key, order.outbox, order.outcome)
            return Recorded(order.key)
