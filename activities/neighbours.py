"""What a worker has to say to other workflows than the one it works for: that orders wait for them, that they have
ended. It is durable before it is said; what cannot be said now is said by the reconciler of the API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from perdure.courier import Courier
from perdure.runs import Runs, TemporalUnavailable
from perdure.store.journal import Journal
from perdure.store.rows import Aftermath
from perdure.store.trouble import JournalTrouble

log = logging.getLogger("perdure.worker")

TOGETHER = 10  # workflows that are spoken to at once


@dataclass(frozen=True)
class Neighbours:
    """Other runs, as one worker reaches them."""

    journal: Journal
    runs: Runs
    courier: Courier

    async def tell(self, run_ids: Iterable[str]) -> None:
        """Deliver the orders that wait for these runs. Never fails."""
        await self._each(run_ids, self.courier.tell)

    async def after(self, aftermath: Aftermath) -> None:
        """Whatever the end of a run leaves to do. Never fails."""
        await self.tell(aftermath.told)
        await self._each(aftermath.ended, self._end)

    async def _each(self, run_ids: Iterable[str], speak: Callable[[str], Awaitable[None]]) -> None:
        places = asyncio.Semaphore(TOGETHER)

        async def quietly(run_id: str) -> None:
            async with places:
                try:
                    await speak(run_id)
                except (TemporalUnavailable, JournalTrouble) as trouble:
                    log.warning("run %s is spoken to later: %s", run_id, trouble)
                except Exception:
                    log.exception("run %s is spoken to later", run_id)  # what it has to hear is durable all the same

        await asyncio.gather(*map(quietly, run_ids))

    async def _end(self, run_id: str) -> None:
        await self.runs.terminate(run_id, "the run that it belongs to has ended")
        await self.journal.workflows_heard([run_id])
