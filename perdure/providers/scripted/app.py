"""The ASGI application: routes of the three dialects and of the control surface.

Plain ASGI without a framework: faults need the bare connection, and the server starts in a blink.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from pydantic_core import from_json

from perdure.providers.scripted import chat, messages, responses
from perdure.providers.scripted.client import BodyTooLarge, Client, ClientGone, Receive, Scope, Send
from perdure.providers.scripted.exchange import PREFIX, Exchange, Vendors, has_key
from perdure.providers.scripted.library import Library
from perdure.providers.scripted.log import CallLog
from perdure.providers.scripted.select import estimate
from perdure.providers.scripted.wire import Dialect, Problem

DIALECTS: dict[str, Dialect] = {
    "/v1/responses": responses,
    "/v1/chat/completions": chat,
    "/v1/messages": messages,
}


def create_app(scripts: Path | None = None, log: Path | None = None, *, require_key: bool = False) -> ScriptedVendors:
    """The scripted vendor server. ScriptError when there is nothing at ``scripts`` (a folder or a file).

    A file that is not valid has no scripts; a warning in the log says what is wrong, and so does ``/healthz``.
    ``scripts`` None serves the shipped scripts only; else both, the given ones first. ``log`` is a file that
    gets a JSON line per happening. ``require_key`` answers 401 to a request without an API key, whatever key.
    """
    return ScriptedVendors(Vendors(Library(scripts, _report), CallLog(log), require_key))


def _report(problem: str) -> None:
    for line in problem.splitlines():
        logging.getLogger(__name__).warning("script file not used: %s", line)


class ScriptedVendors:
    """An ASGI application; ``vendors`` is its state, for tests that run it in their own process."""

    def __init__(self, vendors: Vendors) -> None:
        self.vendors = vendors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case kind:
                raise RuntimeError(f"the scripted vendor server does not speak {kind}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        method, path = scope["method"], scope["path"].rstrip("/")
        if method == "POST" and (dialect := DIALECTS.get(path)):
            await Exchange(self.vendors, dialect, client).run()
            return
        try:
            raw = await client.read_body()
            status, value = self._control(method, path, scope, client, raw)
            await client.send_json(status, value)
        except BodyTooLarge:
            await client.send_json(413, responses.error(Problem(413, "too_large", "The body is too large.")))
        except ClientGone:
            pass  # nobody to answer

    def _control(self, method: str, path: str, scope: Scope, client: Client, raw: bytes) -> tuple[int, Any]:
        """Everything that is answered at once: status and JSON."""
        vendors = self.vendors
        match method, path.split("/")[1:]:
            case "GET", ["v1", "models"]:
                return self._models(client)
            case "GET", ["v1", "models", *name]:
                return self._model(client, unquote("/".join(name)))
            case "POST", ["v1", "messages", "count_tokens"]:
                return self._count_tokens(client, raw)
            case "GET", ["_scripted", "log"]:
                after = parse_qs(scope["query_string"].decode()).get("after", ["0"])[0]
                if not after.isdecimal():
                    return 400, {"error": {"message": "after is the number of a line"}}
                return 200, vendors.log.after(int(after))
            case "DELETE", ["_scripted", "log"]:
                vendors.log.clear()
                return 200, {}
            case "GET", ["_scripted", "summary"]:
                return 200, vendors.log.summary()
            case "GET", ["_scripted", "held"]:
                return 200, vendors.gates.held()
            case "POST", ["_scripted", "release", name]:
                return 200, {"released": vendors.gates.release(name)}
            case "DELETE", ["_scripted", "release", name]:
                vendors.gates.arm(name)
                return 200, {}
            case "GET", ["healthz"]:
                return 200, {"status": "ok", "problems": vendors.library.problems()}
        problem = Problem(404, "status", f"There is no {method} {path or '/'} here.")
        return 404, _error(client, problem)

    def _models(self, client: Client) -> tuple[int, Any]:
        if self.vendors.require_key and not has_key(client):
            return 401, _error(client, Problem(401, "status", "You didn't provide an API key."))
        names = self.vendors.library.names()
        rows = [_model_row(client, name) for name in names]
        if _is_anthropic(client):
            ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
            return 200, {"data": rows, "has_more": False, **ends}
        return 200, {"object": "list", "data": rows}

    def _model(self, client: Client, name: str) -> tuple[int, Any]:
        bare = name.removeprefix(PREFIX)
        if self.vendors.library.find(bare) is None:
            words = f"The model `{name}` does not exist. {self.vendors.library.unread()}".rstrip()
            return 404, _error(client, Problem(404, "unknown_model", words))
        return 200, _model_row(client, bare)

    def _count_tokens(self, client: Client, raw: bytes) -> tuple[int, Any]:
        try:
            body = from_json(raw)
        except ValueError as error:
            return 400, messages.error(Problem(400, "status", f"The body is not JSON: {error}"))
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return 400, messages.error(Problem(400, "status", "messages: Field required"))
        return 200, {"input_tokens": max(1, estimate(len(raw)))}

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.vendors.log.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _is_anthropic(client: Client) -> bool:
    return client.header(b"anthropic-version") is not None


def _error(client: Client, problem: Problem) -> dict[str, Any]:
    return messages.error(problem) if _is_anthropic(client) else responses.error(problem)


def _model_row(client: Client, name: str) -> dict[str, Any]:
    if _is_anthropic(client):
        made = {"created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}
        return {"type": "model", "id": name, "display_name": name, **made}
    return {"id": name, "object": "model", "created": 1767225600, "owned_by": "perdure"}
