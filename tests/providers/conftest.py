"""The scripted vendor server, real, on a free port of this machine; asked over HTTP by the real SDKs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from perdure.content import Block, Message
from perdure.definitions import ModelSettings, ToolDescription
from perdure.providers import Catalog, build_catalog
from perdure.providers.port import Answer, ModelRequest, Piece
from perdure.providers.scripted import create_app

SCRIPTS = Path(__file__).parent / "scripts"
ENDPOINTS = ("scripted", "scripted-chat", "scripted-messages")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def serve(app: Any) -> tuple[uvicorn.Server, threading.Thread, str]:
    """An ASGI application in a thread; its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20  # a loaded machine starts it in two
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    return server, thread, f"http://127.0.0.1:{port}"


def stop(server: uvicorn.Server, thread: threading.Thread) -> None:
    server.should_exit = server.force_exit = True
    thread.join(timeout=10)


@dataclass
class Vendor:
    """The running server: its address and what it saw."""

    url: str

    async def log(self, request_key: str) -> list[str]:
        async with httpx2.AsyncClient(trust_env=False) as client:
            lines = (await client.get(f"{self.url}/_scripted/log")).json()
        return [line["event"] for line in lines if line["request_key"] == request_key]

    async def saw(self, request_key: str, event: str, within_seconds: float = 5) -> bool:
        until = time.monotonic() + within_seconds
        while time.monotonic() < until:
            if event in await self.log(request_key):
                return True
            await asyncio.sleep(0.02)
        return False


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    server, thread, url = serve(create_app(SCRIPTS))
    yield Vendor(url)
    stop(server, thread)


@pytest.fixture
async def catalog(vendor: Vendor) -> AsyncIterator[Catalog]:
    built = build_catalog(scripted_url=vendor.url, scripts=SCRIPTS)
    yield built
    await built.close()


_numbers = iter(range(1, 1_000_000))


def message(role: Any, *content: Block, producer: str | None = None) -> Message:
    number = next(_numbers)
    return Message(
        id=f"msg_{number}",
        session_id="s",
        run_id="r",
        number=number,
        role=role,
        content=list(content),
        producer=producer,
        stop_reason=None,
        at_ms=0,
    )


def said(text: str) -> Message:
    return message("user", {"type": "text", "text": text})


def result(call_id: str, text: str, *, is_error: bool = False) -> Block:
    return {"type": "tool_result", "call_id": call_id, "name": "t", "text": text, "is_error": is_error}


TOOL: ToolDescription = {
    "name": "read_file",
    "description": "Reads a file.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    "effect": "read",
    "parallel": True,
    "timeout_seconds": 10,
    "max_attempts": 3,
    "approval": False,
    "answered_by": "worker",
}


def request(model: str, *transcript: Message, **more: Any) -> ModelRequest:
    settings: ModelSettings = more.pop("settings", {})
    return ModelRequest(
        model=model,
        instructions=more.pop("instructions", "Be brief."),
        transcript=transcript or (said("Hello"),),
        tools=more.pop("tools", (TOOL,)),
        settings=settings,
        request_key=more.pop("request_key", f"run_1:model-{next(_numbers)}"),
        timeout_seconds=30,
    )


async def call(catalog: Catalog, asked: ModelRequest) -> tuple[list[Piece], Answer]:
    """All pieces and the answer; checks that the answer is one and the last."""
    items = [item async for item in catalog.port(asked.model).stream(asked)]
    *pieces, answer = items
    assert isinstance(answer, Answer)
    assert all(isinstance(piece, Piece) for piece in pieces)
    return [piece for piece in pieces if isinstance(piece, Piece)], answer
