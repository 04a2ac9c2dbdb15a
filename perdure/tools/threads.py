"""The threads that synchronous tools run in: bounded, daemonic, and replaced when a call is given up.

A thread cannot be stopped from outside. One whose call timed out or was cancelled goes on by itself and is
counted as abandoned; it keeps neither the next call nor the end of the process waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class ToolThreads:
    """At most ``size`` calls run at once; more wait, and their wait counts toward their timeout. Up to
    ``abandoned_max`` abandoned threads are replaced (default: ``size``, so there are never more than twice
    ``size`` threads); beyond that an abandoned thread keeps its place until it ends. One event loop."""

    def __init__(self, size: int, abandoned_max: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"tool threads: size must be at least 1, not {size}")
        self.size = size
        self.abandoned_max = size if abandoned_max is None else abandoned_max
        self._places = asyncio.Semaphore(size)
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """How many threads still run for calls that were given up."""
        return self._abandoned

    async def run(self, function: Callable[[], T]) -> T:
        """What the function returns or raises, run in a thread of its own with the caller's context variables."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        outcome: list[tuple[T | None, BaseException | None]] = []
        context = contextvars.copy_context()

        def work() -> None:
            try:
                outcome.append((context.run(function), None))
            except BaseException as error:  # sys.exit() in a tool must not pass for the end of the thread
                outcome.append((None, error))
            try:
                loop.call_soon_threadsafe(ended.set_result, None)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        try:
            threading.Thread(target=work, name="perdure-tool", daemon=True).start()
        except BaseException:  # no memory or threads left: the place must not be lost with it
            self._places.release()
            raise
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._abandon(ended)
            raise
        self._places.release()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # no error: it is the function's own value

    def _abandon(self, ended: asyncio.Future[None]) -> None:
        replaced = self._abandoned < self.abandoned_max
        self._abandoned += 1
        log.warning(
            "a tool thread was given up and runs on by itself: %d abandoned, %s",
            self._abandoned,
            "replaced" if replaced else "not replaced any more: synchronous tools have one place less",
        )
        if replaced:
            self._places.release()

        def over(_: asyncio.Future[None]) -> None:
            self._abandoned -= 1
            if not replaced:
                self._places.release()

        ended.add_done_callback(over)
