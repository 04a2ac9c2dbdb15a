"""Commit events that no other activity carries, and the end of a run."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.lifeline import FaultHook, lifeline, unharmed
from activities.neighbours import Neighbours
from activities.transcripts import Transcripts
from perdure.contract import RECORD, RecordInput
from perdure.core.happenings import Recorded
from perdure.store.journal import Journal
from perdure.store.rows import Said
from perdure.tools.spool import preview


@dataclass(frozen=True)
class Recorder:
    """The activity with its adapters. Outputs of children above ``spool_bytes`` are kept beside the transcript."""

    journal: Journal
    beat_every_seconds: float
    transcripts: Transcripts
    neighbours: Neighbours
    spool_bytes: int
    reached: FaultHook = unharmed

    @activity.defn(name=RECORD)
    async def record(self, order: RecordInput) -> Recorded:
        async with lifeline(self.beat_every_seconds):
            said = await self._said(order.run_id) if order.outcome else None
            aftermath = await self.journal.record(order.run_id, order.key, order.outbox, order.outcome, said)
            if order.outcome:
                self.reached("record.ended", order.run_id)
            await self.neighbours.after(aftermath)
            return Recorded(order.key)

    async def _said(self, run_id: str) -> Said | None:
        """The output of a child, when it is too large for its parent's transcript: kept whole beside it."""
        run = await self.transcripts.run(run_id)
        if run.parent_run_id is None:
            return None
        output = (await self.journal.get_run(run_id)).output or []
        text = "".join(block["text"] for block in output if block["type"] == "text")
        body = text.encode("utf-8", errors="replace")
        if len(body) <= self.spool_bytes:
            return None
        blob = await self.journal.put_blob(body, "text/plain; charset=utf-8")
        return Said(preview(text, blob, len(body)), blob, len(body))
