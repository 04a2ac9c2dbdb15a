"""``Prefer: wait=N``: hold the answer until the run has ended or needs somebody."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import Request

from api.ask_rendering import OF_SOMEBODY
from api.parts import Parts
from perdure.core.state import TERMINAL
from perdure.store.journal import Journal
from perdure.store.rows import RunRow

WAIT_SECONDS_MAX = 60  # proxies commonly cut silent requests soon after
LOOK_UP_SECONDS = 1.0  # how late a stopping process notices a parked wait
LOOK_EVERY_SECONDS = 0.05  # a run that works commits a hundred times a second; looking costs more than it tells
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)\"?(?=$|[,;\s])", re.IGNORECASE)


def preferred_wait(request: Request) -> int | None:
    """Seconds asked for, at most 60; None when not asked. Preferences nobody knows are ignored (RFC 7240)."""
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    if not found:
        return None
    digits = found.group(1).lstrip("0") or "0"
    return min(int(digits), WAIT_SECONDS_MAX) if len(digits) <= 6 else WAIT_SECONDS_MAX  # int() refuses thousands


async def at_rest(journal: Journal, run: RunRow) -> bool:
    """It has ended, or asks somebody. A run whose last question was just answered says ``requires_action`` until its
    workflow has heard of the answer, and asks nobody any more."""
    if run.status == "requires_action":
        asks = (await journal.open_asks([run.id])).get(run.id, [])
        return any(ask.type in OF_SOMEBODY for ask in asks)
    return run.status in TERMINAL


async def wait_until_at_rest(parts: Parts, run_id: str, seconds: float) -> RunRow:
    """The run as soon as it is at rest, or as it is after ``seconds``. JournalTrouble."""
    journal = parts.assembly.journal
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    async with journal.follow(run_id) as follower:
        while True:
            run, looked = await journal.get_run(run_id), clock()
            left = until - clock()
            if await at_rest(journal, run) or left <= 0 or parts.stopping.is_set():
                return run
            while not await follower.wait(max(0.0, min(left, LOOK_UP_SECONDS))):
                left = until - clock()
                if left <= 0 or parts.stopping.is_set():
                    break
            await asyncio.sleep(max(0.0, min(looked + LOOK_EVERY_SECONDS - clock(), left)))
