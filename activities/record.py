"""Commit events that no other activity carries, and the end of a run."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.lifeline import FaultHook, lifeline, unharmed
from activities.neighbours import Neighbours
from activities.transcripts import Transcripts
from perdure.contract import RECORD, RecordInput
from perdure.core.happenings import Recorded
from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.rows import Said
from perdure.tools.agent_tools import typed_answer
from perdure.tools.spool import preview

MISFIT_CHARS_MAX = 4_000  # of an answer that does not fit: enough to see what it is


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
            said = await self._said(order.run_id, order.outcome) if order.outcome else None
            aftermath = await self.journal.record(order.run_id, order.key, order.outbox, order.outcome, said)
            if order.outcome:
                self.reached("record.ended", order.run_id)
            await self.neighbours.after(aftermath)
            return Recorded(order.key)

    async def _said(self, run_id: str, outcome: Outcome) -> Said | None:
        """The output of a child, when it has to be JSON that fits a schema, or is too large for its parent's
        transcript: then it is kept whole beside it."""
        run = await self.transcripts.run(run_id)
        if run.parent_run_id is None:
            return None
        schema = run.definition.get("output_schema") if outcome.status in ("completed", "incomplete") else None
        output = (await self.journal.get_run(run_id)).output or []
        text = "".join(block["text"] for block in output if block["type"] == "text")
        if schema is not None:
            text, misfit = typed_answer(schema, text)
            if misfit:
                return Said(text if len(text) <= MISFIT_CHARS_MAX else text[:MISFIT_CHARS_MAX] + "…", misfit=misfit)
        body = text.encode("utf-8", errors="replace")
        if len(body) <= self.spool_bytes:
            return None if schema is None else Said(text, typed=True)
        blob = await self.journal.put_blob(body, "text/plain; charset=utf-8")
        return Said(preview(text, blob, len(body)), blob, len(body))
