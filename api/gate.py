"""The outermost layer, pure ASGI so that streams pass unbuffered: request ids, the limit of body
sizes, and the answer to our own bugs."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api.problems import Problem, problem_of, problem_reply

log = logging.getLogger("perdure.api")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # visible ASCII: safe to echo in a header and to log


class Gate:
    def __init__(self, app: ASGIApp, *, request_bytes_max: int) -> None:
        self._app = app
        self._bytes_max = request_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ULID()}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._bytes_max:
                    raise self._too_large()
            return message

        async def marked_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            announced = headers.get(b"content-length", b"0")
            if announced.isdigit() and int(announced) > self._bytes_max:
                raise self._too_large()
            await self._app(scope, counted_receive, marked_send)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                log.exception("request %s (%s %s) failed", request_id, scope["method"], scope["path"])
                problem = Problem("internal", f"Perdure failed to answer; its log tells why under {request_id}.")
            if started:
                raise  # half an answer is out: closing the connection is the only honest end
            await problem_reply(problem, request_id)(scope, receive, marked_send)

    def _too_large(self) -> Problem:
        return Problem(
            "payload_too_large",
            f"The body is larger than {self._bytes_max} bytes, the limit of one request.",
            headers={"connection": "close"},  # the rest of the body is not read
        )
