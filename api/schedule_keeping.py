"""Keeps Temporal's schedules as the journal says, and the book of firings complete, while the process lives."""

from __future__ import annotations

import asyncio
import logging

from perdure.assembly import Assembly
from perdure.runs import TemporalUnavailable
from perdure.schedule_orders import keep_orders
from perdure.schedules import apply_lost, apply_newest
from perdure.store.trouble import JournalTrouble

log = logging.getLogger("perdure.api")

OLDER_THAN_MS = 3_000  # younger changes are still being told by whoever made them
BATCH = 100  # schedules of one look; the rest come in the next
LOST_EVERY_SECONDS = 60.0  # between two looks for schedules that Temporal has lost


class ScheduleKeeper:
    """``keep`` is one look; whoever calls it deals with its trouble."""

    def __init__(
        self,
        assembly: Assembly,
        *,
        older_than_ms: int = OLDER_THAN_MS,
        lost_every_seconds: float = LOST_EVERY_SECONDS,
    ) -> None:
        self._assembly, self._older_than_ms, self._lost_every_seconds = assembly, older_than_ms, lost_every_seconds
        self._looked_for_lost = asyncio.get_running_loop().time()

    async def keep(self) -> None:
        """TemporalUnavailable, JournalTrouble."""
        journal, schedules = self._assembly.journal, self._assembly.schedules
        await journal.settle_schedules(limit=BATCH)
        for row in await journal.unapplied_schedules(older_than_ms=self._older_than_ms, limit=BATCH):
            try:
                await apply_newest(journal, schedules, row)
            except (TemporalUnavailable, JournalTrouble):
                raise
            except Exception:
                log.exception("schedule %s cannot be told to Temporal", row.id)  # the others can
                continue
            log.info("schedule %s: Temporal knows version %d, late", row.id, row.version)
        await keep_orders(journal, schedules, BATCH)
        clock = asyncio.get_running_loop().time()
        if clock - self._looked_for_lost > self._lost_every_seconds:
            self._looked_for_lost = clock
            for schedule_id in await apply_lost(journal, schedules):
                log.warning("schedule %s was lost in Temporal and is made again", schedule_id)
