"""What every activity does around its work: beat in the background, and translate the journal's words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from perdure.contract import RUN_OVER
from perdure.store.trouble import JournalTrouble, RunOver

Result = TypeVar("Result")

FILING_SECONDS_MAX = 900.0  # an answer is held this long for a journal that is away, then it is given up
BUG_ATTEMPTS_MAX = 5  # about 3 s: another worker, or the same one in a better state, may succeed

FaultHook = Callable[[str, str], None]
"""Called as ``reached(point, key)`` at the points where a crash hurts most. Production passes
``unharmed``; crash tests pass something that kills the process."""


def unharmed(point: str, key: str) -> None:
    """Nothing happens at any point."""


@asynccontextmanager
async def lifeline(beat_every_seconds: float) -> AsyncIterator[None]:
    """Beat while the body runs, so that a lost worker is noticed and a cancelled call hears of it.

    ``RunOver`` leaves as the non-retryable trouble that tells the workflow the run has ended. An error
    nobody foresaw is tried again a few times and then ends the action: a bug shall show, not hang.
    """
    beating = asyncio.create_task(_beat(beat_every_seconds))
    try:
        yield
    except RunOver as over:
        raise ApplicationError(str(over), over.status, type=RUN_OVER, non_retryable=True) from over
    except (ApplicationError, JournalTrouble):
        raise
    except Exception as bug:
        activity.logger.exception("an activity met an error nobody foresaw")
        if activity.info().attempt < BUG_ATTEMPTS_MAX:
            raise
        raise ApplicationError(f"{type(bug).__name__}: {bug}"[:1_000], type="Bug", non_retryable=True) from bug
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


def benign(message: str, *details: object, type_: str) -> ApplicationError:
    """What an activity says by failing although nothing is wrong: final, and not worth a line in the log."""
    return ApplicationError(message, *details, type=type_, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


async def _beat(every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)  # first: a short call needs no beat
        activity.heartbeat()


def worker_is_stopping() -> bool:
    """Whether a cancellation came from this worker's own shutdown: another worker shall go on then."""
    found = activity.cancellation_details()
    return found is not None and found.worker_shutdown


def was_called_off() -> bool:
    """Whether the run no longer wants this action (and not merely this attempt)."""
    found = activity.cancellation_details()
    return found is not None and found.cancel_requested


async def finished(work: Coroutine[object, object, Result]) -> Result:
    """See a piece of work through, cancelled or not: what has been done shall be filed and reported."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        return await task


async def filed(write: Callable[[], Awaitable[Result]]) -> Result:
    """Write what has been paid for or done, however long the journal is away: giving up here would buy
    the answer again, or leave an effect without its record. JournalTrouble after a quarter of an hour."""
    give_up = time.monotonic() + FILING_SECONDS_MAX
    wait_seconds = 0.1
    while True:
        try:
            return await write()
        except JournalTrouble:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, 2.0)  # a journal that is back is noticed within this
