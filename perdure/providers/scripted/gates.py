"""Named gates that hold an answer until somebody releases it, so that a test can strike in the middle."""

from __future__ import annotations

import asyncio

from perdure.providers.scripted.client import Client

HOLD_SECONDS_MAX = 60.0  # a forgotten gate must not hold a suite for ever


class Gates:
    """A released gate stays open until it is armed again."""

    def __init__(self) -> None:
        self._released: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, name: str, client: Client) -> None:
        """Until released, 60 s at most. ClientGone."""
        if name in self._released:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(turn)
        try:
            await client.pause(HOLD_SECONDS_MAX, until=turn)
        finally:
            waiting = self._waiting.get(name, [])
            if turn in waiting:
                waiting.remove(turn)
            if not waiting:
                self._waiting.pop(name, None)

    def release(self, name: str) -> int:
        """Opens the gate; how many answers were held by it."""
        self._released.add(name)
        waiting = self._waiting.pop(name, [])
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
        return len(waiting)

    def arm(self, name: str) -> None:
        self._released.discard(name)

    def held(self) -> dict[str, int]:
        """How many answers each gate holds now."""
        return {name: len(waiting) for name, waiting in self._waiting.items()}
