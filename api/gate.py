"""The outermost layer, pure ASGI so that streams pass unbuffered: request ids, the limit of body
sizes, the names this API answers to, and the answer to our own bugs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections.abc import Collection, Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api.problems import Problem, problem_reply

log = logging.getLogger("perdure.api")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # visible ASCII: safe to echo in a header and to log
DRAIN_BYTES_MAX = 256 * 1024 * 1024  # of a refused body: most clients only read the answer when all is sent
DRAIN_SECONDS = 5.0  # and no longer than that


class _TooLarge(Exception):
    """Nobody below the gate answers this: what is left of the body must be read first."""


class Gate:
    """``hosts`` are the names, besides loopback addresses, by which clients may address this API. Without
    API keys a web page that resolves its own name to loopback must not be able to speak to it. ``larger`` are
    the paths whose bodies are read as a stream, with their limits."""

    def __init__(
        self, app: ASGIApp, *, request_bytes_max: int, larger: Mapping[str, int], hosts: Collection[str]
    ) -> None:
        self._app = app
        self._bytes_max = request_bytes_max
        self._larger = larger
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ULID()}"
        scope.setdefault("state", {})["request_id"] = request_id
        bytes_max = self._larger.get(scope["path"], self._bytes_max)
        started = False
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > bytes_max:
                    raise _TooLarge
            return message

        async def marked_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            host = _host_name(headers.get(b"host", b"").decode("latin-1"))
            if not (is_loopback(host) or host in self._hosts):
                detail = f"This API does not answer to the name {host!r}; the setting api_hosts allows names."
                await problem_reply(Problem("invalid_request", detail), request_id)(scope, receive, marked_send)
                return
            announced = headers.get(b"content-length", b"0")
            if announced.isdigit() and int(announced) > bytes_max:
                raise _TooLarge
            await self._app(scope, counted_receive, marked_send)
        except ClientDisconnect:
            log.debug("the client of request %s left", request_id)
        except _TooLarge:
            if started:
                raise
            detail = f"The body is larger than {bytes_max} bytes, the limit of one request."
            problem = Problem("payload_too_large", detail, headers={"connection": "close"})
            await _answer_then_drain(problem_reply(problem, request_id), receive, marked_send)
        except Exception:
            log.exception("request %s (%s %s) failed", request_id, scope["method"], scope["path"])
            if started:
                raise  # half an answer is out: closing the connection is the only honest end
            problem = Problem("internal", f"Perdure failed to answer; its log tells why under {request_id}.")
            await problem_reply(problem, request_id)(scope, receive, marked_send)


def is_loopback(host: str) -> bool:
    """Whether only this machine can mean itself by ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).lower()


async def _answer_then_drain(reply: Response, receive: Receive, send: Send) -> None:
    """Closing while the client still sends would reset the connection, and it would never read why."""
    await send({"type": "http.response.start", "status": reply.status_code, "headers": reply.raw_headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            drained = 0
            while drained < DRAIN_BYTES_MAX:
                message = await receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})
