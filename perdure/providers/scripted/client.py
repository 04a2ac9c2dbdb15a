"""The asking side of one HTTP exchange: what it sent, whether it is still there, and what goes back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic_core import to_json

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BODY_BYTES_MAX = 64 * 1024 * 1024  # twice what vendors take: a larger one is a mistake, and memory is finite


class ClientGone(Exception):
    """The client closed the connection."""


class BodyTooLarge(Exception):
    """The request body is over BODY_BYTES_MAX."""


class Client:
    """Use ``read_body`` first, then ``watch``; from then on a client that goes away is noticed at once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def read_body(self) -> bytes:
        """The whole body. ClientGone, BodyTooLarge."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size <= BODY_BYTES_MAX:
                parts.append(part)
            if not message.get("more_body", False):
                break
        if size > BODY_BYTES_MAX:
            raise BodyTooLarge
        return b"".join(parts)

    def watch(self) -> None:
        self._gone = asyncio.get_running_loop().create_future()
        self._watcher = asyncio.create_task(self._wait_for_disconnect(self._gone))

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def pause(self, seconds: float | None, until: asyncio.Future[Any] | None = None) -> None:
        """Wait so long (None: for ever) or until ``until`` is done. ClientGone as soon as that is so."""
        assert self._gone is not None, "pause comes after watch"
        waiting = {self._gone} if until is None else {self._gone, until}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    def check(self) -> None:
        if self._gone is not None and self._gone.done():
            raise ClientGone

    async def settle(self) -> None:
        """Let the loop see a connection that has just been closed: EOF, close and wake-up are a step each."""
        for _ in range(4):  # three steps, and one to spare; 50 µs
            await asyncio.sleep(0)
        self.check()

    async def start(self, status: int, headers: Headers) -> None:
        self.check()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        self.check()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def send_json(self, status: int, value: Any, headers: Headers | None = None) -> None:
        body = to_json(value)
        sized = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.start(status, sized + (headers or []))
        await self.write(body, more=False)

    async def _wait_for_disconnect(self, gone: asyncio.Future[None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not gone.done():
            gone.set_result(None)
