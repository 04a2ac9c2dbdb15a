"""A real scripted vendor server on a free loopback port, and the official SDK clients that talk to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anthropic
import httpx2
import openai
import pytest
import uvicorn
import yaml

from perdure.providers.scripted import create_app
from perdure.providers.scripted.__main__ import listen
from perdure.providers.scripted.app import ScriptedVendors
from tests.scripted.talk import DIALECTS, Talk

NO_KEY = "no-key-needed"


@dataclass
class Served:
    """A running server; ``scripts`` is its folder."""

    url: str
    scripts: Path
    log_file: Path

    def openai(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", **_client(options))

    def async_openai(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **_client(options))

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, **_client(options))

    def async_anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, **_client(options))

    def talk(self, dialect: str, model: str, user: str = "go", **options: Any) -> Talk:
        client = self.anthropic(**options) if dialect == "messages" else self.openai(**options)
        return DIALECTS[dialect](client, model, user)

    def write(self, name: str, script: dict[str, Any]) -> None:
        (self.scripts / f"{name}.yaml").write_text(yaml.safe_dump(script))

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = httpx2.get(f"{self.url}/_scripted/log", params={"after": after}).json()
        return lines

    def events(self) -> list[str]:
        return [line["event"] for line in self.log()]

    def ends(self) -> list[str]:
        return [event for event in self.events() if event not in ("asked", "first_byte")]

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = httpx2.get(f"{self.url}/_scripted/summary").json()
        return summary

    def release(self, name: str) -> int:
        released: int = httpx2.post(f"{self.url}/_scripted/release/{name}").json()["released"]
        return released

    def wait_held(self, name: str, count: int = 1) -> None:
        self.wait_until(lambda: httpx2.get(f"{self.url}/_scripted/held").json().get(name) == count)

    def wait_until(self, holds: Callable[[], bool], timeout_seconds: float = 10) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            assert time.monotonic() < deadline, json.dumps(self.log(), indent=1)
            time.sleep(0.01)


def _client(options: dict[str, Any]) -> dict[str, Any]:
    return {"api_key": NO_KEY, "max_retries": 0, "timeout": 20, "_strict_response_validation": True, **options}


class Serve(Protocol):
    def __call__(self, scripts: dict[str, Any], **options: Any) -> Served: ...


class House:
    """Many servers at one address, told apart by the first part of the path: starting a port takes longer
    than most tests."""

    def __init__(self) -> None:
        self.url = ""
        self.apps: dict[str, Any] = {}

    def add(self, app: Any) -> str:
        name = f"server{len(self.apps)}"
        self.apps[name] = app
        return f"{self.url}/{name}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, name, *rest = scope["path"].split("/")
        await self.apps[name]({**scope, "path": "/" + "/".join(rest)}, receive, send)


@pytest.fixture(scope="package")
def house() -> Iterator[House]:
    house = House()
    listener = listen("127.0.0.1", 0)
    house.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(house, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield house
    server.should_exit = True
    thread.join()


@pytest.fixture
def serve(house: House, tmp_path: Path) -> Iterator[Serve]:
    """Starts a server with these scripts (name to script) beside the shipped ones."""
    started: list[ScriptedVendors] = []

    def start(scripts: dict[str, Any], **options: Any) -> Served:
        folder = tmp_path / f"scripts{len(started)}"
        folder.mkdir()
        log_file = tmp_path / f"log{len(started)}.jsonl"
        served = Served("", folder, log_file)
        for name, script in scripts.items():
            served.write(name, script)
        app = create_app(folder, log_file, **options)
        started.append(app)
        served.url = house.add(app)
        return served

    yield start
    for app in started:
        app.vendors.log.close()
