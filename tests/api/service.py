"""The API over real HTTP, on a real SQLite journal, with the real catalogue and tools. Temporal is
represented by ``ObedientRuns``: what these tests promise needs no workflow. Runs are moved on by what
activities do, through the journal.

Every reply that a test receives is validated against the OpenAPI document of the same application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import uvicorn
from fastapi import FastAPI
from ulid import ULID

from activities.verdicts import verdicts
from api.app import create_app
from perdure.assembly import Assembly
from perdure.core.budget import Ask
from perdure.core.happenings import Order
from perdure.core.state import OutboxEvent, Outcome, Usage
from perdure.providers import PriceConfig, build_catalog
from perdure.providers.estimate import price_of
from perdure.providers.port import ModelCatalog
from perdure.runs import TemporalUnavailable
from perdure.schedules import Standing, firing_id
from perdure.settings import Settings
from perdure.store.journal import Follower, Journal
from perdure.store.rows import Begun, ModelCommit, RunRow, ToolCommit
from perdure.store.schedule_rows import ScheduleRow
from perdure.store.sql import SqlJournal, open_journal
from perdure.store.trouble import JournalTrouble
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolBox
from perdure.tools.registry import build_toolbox

AGENT = {"model": "openai/priced", "instructions": "Be brief.", "tools": ["calculator"]}
HELLO = {"agent_inline": AGENT, "input": "Say hello."}


class ObedientRuns:
    """Starts and ends workflows by writing their names down. ``away`` is a Temporal that cannot be reached.
    ``signals`` are the numbers of the orders that came together, ``heard`` what they said."""

    def __init__(self) -> None:
        self.away = False
        self.workers = 1
        self.open: set[str] = set()
        self.orders: list[tuple[str, str]] = []
        self.signals: list[tuple[str, list[int]]] = []
        self.times: list[float] = []  # of the signals
        self.heard: list[tuple[str, str]] = []
        self.held: asyncio.Event | None = None  # while it is not set, signals hang

    def _reach(self) -> None:
        if self.away:
            raise TemporalUnavailable("no Temporal here")

    async def start(self, run: RunRow) -> None:
        self._reach()
        self.orders.append(("start", run.id))
        self.open.add(run.id)

    async def deliver(self, run_id: str, orders: Sequence[Order]) -> bool:
        self._reach()
        if self.held is not None:
            await self.held.wait()
        if run_id not in self.open:
            return False
        self.signals.append((run_id, [order.number for order in orders]))
        self.times.append(time.monotonic())
        self.heard += [(order.verb, run_id) for order in orders]
        return True

    async def is_open(self, run_id: str) -> bool:
        self._reach()
        return run_id in self.open

    async def terminate(self, run_id: str, reason: str) -> bool:
        self._reach()
        self.orders.append(("terminate", run_id))
        return run_id in self.open

    async def pollers(self) -> int:
        self._reach()
        return self.workers

    async def namespace_ready(self) -> None:
        self._reach()


class ObedientSchedules:
    """Temporal's schedules, written down by name: ``told`` is the newest version each was told of, None when it is
    gone; ``orders`` are triggers and backfills with their request ids."""

    def __init__(self, runs: ObedientRuns) -> None:
        self._runs = runs
        self.told: dict[str, int | None] = {}
        self.orders: list[tuple[Any, ...]] = []

    async def apply(self, row: ScheduleRow) -> None:
        self._runs._reach()
        self.told[row.id] = None if row.deleted else row.version

    async def trigger(self, schedule_id: str, request_id: str, planned_ms: int, overlap: str | None) -> bool:
        self._runs._reach()
        if self.told.get(schedule_id) is None:
            return False
        self.orders.append(("trigger", schedule_id, request_id, planned_ms, overlap))
        return True

    async def backfill(self, schedule_id: str, request_id: str, from_ms: int, to_ms: int, overlap: str) -> bool:
        self._runs._reach()
        self.orders.append(("backfill", schedule_id, request_id, from_ms, to_ms, overlap))
        return True

    async def knows(self, schedule_id: str) -> bool:
        return await self.standing(schedule_id) is not None

    async def standing(self, schedule_id: str) -> Standing | None:
        self._runs._reach()
        if self.told.get(schedule_id) is None:
            return None
        given = [order for order in self.orders if order[1] == schedule_id]
        fired = [firing_id(schedule_id, order[3]) for order in given if order[0] == "trigger"]
        return Standing(len(given), 0, 0, frozenset(fired))

    async def firing(self, schedule_id: str, planned_ms: int) -> bool | None:
        self._runs._reach()
        fired = {(order[1], order[3]) for order in self.orders if order[0] == "trigger"}
        return False if (schedule_id, planned_ms) in fired else None

    async def known(self) -> set[str]:
        self._runs._reach()
        return {id_ for id_, version in self.told.items() if version is not None}


class Line:
    """The line to the journal, which can be ``cut``: then every call ends as it does when a database is away."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.cut = False
        self.followers = 0

    @contextlib.asynccontextmanager
    async def follow(self, run_id: str) -> AsyncIterator[Follower]:
        async with self._journal.follow(run_id) as follower:
            self.followers += 1
            try:
                yield follower
            finally:
                self.followers -= 1

    def __getattr__(self, name: str) -> Any:
        if self.cut and name != "close":
            raise JournalTrouble("the database does not answer")
        return getattr(self._journal, name)


@dataclass
class Service:
    """One API process's worth of application, and clients of it."""

    app: FastAPI
    http: httpx2.AsyncClient
    journal: SqlJournal
    line: Line
    runs: ObedientRuns
    url: str
    catalog: ModelCatalog
    toolbox: ToolBox
    schedules: ObedientSchedules

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers=headers)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.http.get(path, headers=headers)

    async def new_run(self, **more: Any) -> dict[str, Any]:
        reply = await self.post("/v1/runs", {**HELLO, **more})
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    async def count(self, path: str) -> int:
        return len((await self.get(f"{path}?limit=100")).json()["data"])

    # What workers do ----------------------------------------------------------------------------------

    async def started(self, run_id: str) -> None:
        await self.journal.record(run_id, "record-0", [OutboxEvent("outbox-1", "run.started", {})], None)

    async def status(self, run_id: str, status: str, **data: Any) -> None:
        """The workflow tells what has become of the run."""
        key = f"status-{ULID()}"
        await self.journal.record(run_id, key, [OutboxEvent(f"{key}-1", f"run.{status}", data)], None)

    async def answered(self, run_id: str, text: str = "Hello!", *, turn: int = 1, calls: int = 0) -> list[str]:
        """One model call; the ids of the tool calls it asked for."""
        asked = [("calculator", {"expression": "1+1"})] * calls
        return await self.asked(run_id, *asked, text=text, turn=turn)

    async def asked(
        self,
        run_id: str,
        *calls: tuple[str, dict[str, Any]],
        text: str = "Let me see.",
        turn: int = 1,
        ago_seconds: float = 0,
        usage: Usage = Usage(input_tokens=10, output_tokens=5, cost_micros=2_500),  # noqa: B008
    ) -> list[str]:
        """One model call that asks for these tool calls, judged as the activity judges them, so long ago."""
        begun = await self.begun(run_id, turn=turn)
        ids = [f"call_{ULID()}" for _ in calls]
        blocks: list[Any] = [{"type": "reasoning", "text": "hm", "producer": "openai/priced", "opaque": {"secret": 1}}]
        blocks.append({"type": "text", "text": text})
        blocks += [
            {"type": "tool_call", "call_id": id_, "name": name, "arguments": arguments}
            for id_, (name, arguments) in zip(ids, calls, strict=True)
        ]
        run = await self.journal.get_run(run_id)
        now_ms = int((time.time() - ago_seconds) * 1_000)
        found = await verdicts(self.journal, self.toolbox, run, blocks, now_ms)
        commit = ModelCommit(
            content=blocks,
            producer="openai/priced",
            stop="tool_calls" if ids else "end",
            usage=usage,
            calls=[verdict.asked for verdict in found],
            outcome={},
            hashes=[verdict.args_sha256 for verdict in found],
            rulings=[verdict.ruling for verdict in found],
            asks=[verdict.ask for verdict in found if verdict.ask],
        )
        await self.journal.commit_model(run_id, f"model-{turn}", begun.attempt, commit)
        return ids

    async def begun(self, run_id: str, *, turn: int = 1) -> Begun:
        wanted = Ask(1_000, 1_000, price_of(self.catalog, "openai/priced"))
        return await self.journal.begin_model(
            run_id, f"model-{turn}", turn, model="openai/priced", worker="w", ask=wanted
        )

    async def pending(self, run_id: str) -> list[dict[str, Any]]:
        return list((await self.get(f"/v1/runs/{run_id}")).json()["pending_actions"])

    async def events(self, run_id: str, *types: str) -> list[dict[str, Any]]:
        query = "".join(f"&types={type_}" for type_ in types)
        return list((await self.get(f"/v1/runs/{run_id}/events?limit=100&deltas=false{query}")).json()["data"])

    async def told(self, run_id: str, count: int = 1) -> list[str]:
        """The verbs that the run's workflow has heard, as soon as there are so many."""
        for _ in range(200):
            heard = [verb for verb, run in self.runs.heard if run == run_id]
            if len(heard) >= count:
                return heard
            await asyncio.sleep(0.01)
        raise AssertionError(f"{run_id} has heard {heard} only")

    async def used_tool(self, run_id: str, call_id: str, text: str, *, whole: bytes | None = None) -> None:
        await self.journal.begin_tool(run_id, call_id, worker="w", may_repeat=True)
        blob = await self.journal.put_blob(whole, "text/plain") if whole else None
        commit = ToolCommit("completed", text, blob=blob, bytes=len(whole or b""))
        await self.journal.commit_tool(run_id, call_id, commit)

    async def finished(self, run_id: str) -> None:
        await self.journal.record(run_id, "finish", [], Outcome("completed", "end"))
        self.runs.open.discard(run_id)

    async def completed_run(self) -> dict[str, Any]:
        run = await self.new_run()
        await self.started(run["id"])
        await self.answered(run["id"])
        await self.finished(run["id"])
        return run

    # Reading a stream ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[SseReader]:
        headers = {"accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.http.stream("GET", path, headers=headers, timeout=10) as reply:
            yield SseReader(reply)


class SseReader:
    """Reads events as the specification of EventSource says; comments are kept apart."""

    def __init__(self, reply: httpx2.Response) -> None:
        self.reply = reply
        self.raw = ""
        self._chunks = reply.aiter_text()
        self._buffer = ""

    async def next(self) -> dict[str, str] | None:
        """The next event's fields, None at the end of the stream."""
        while "\n\n" not in self._buffer:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                return None
            self.raw += chunk
            self._buffer += chunk
        block, _, self._buffer = self._buffer.partition("\n\n")
        fields = (line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        return dict(fields)

    async def rest(self) -> list[dict[str, str]]:
        events = []
        while event := await self.next():
            events.append(event)
        return events


@contextlib.asynccontextmanager
async def serve(home: Path, **settings: Any) -> AsyncIterator[Service]:
    configured = Settings(home=home, **settings)
    runs = ObedientRuns()
    schedules = ObedientSchedules(runs)
    journal = await open_journal(configured.sql_url, configured.blob_folder)
    line = Line(journal)

    catalog = build_catalog(prices={"openai/priced": PriceConfig(input=1, output=2)})
    toolbox = build_toolbox(["tests.api.shop_tools"], limits=ToolLimits())

    async def factory() -> Assembly:
        return Assembly(configured, line, catalog, toolbox, runs, schedules)  # type: ignore[arg-type]

    limits = configured.limits
    app = create_app(factory, request_bytes_max=limits.request_bytes_max, import_bytes_max=limits.import_bytes_max)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=2))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if task.done():
            await task
            raise AssertionError("the server did not start")
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    if not _CONFORMS:
        _CONFORMS.append(Conformity(app.openapi()))
    [conforms] = _CONFORMS
    try:
        async with httpx2.AsyncClient(base_url=url, event_hooks={"response": [conforms.check]}, timeout=20) as http:
            yield Service(app, http, journal, line, runs, url, catalog, toolbox, schedules)
    finally:
        app.state.stopping.set()
        server.should_exit = True
        await task


_CONFORMS: list[Conformity] = []  # FastAPI takes a second for the document, which is the same for every application


class Conformity:
    """Holds replies against an OpenAPI document: status declared, body valid."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = [
            (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), operations)
            for path, operations in document["paths"].items()
        ]
        self._validators: dict[str, Any] = {}

    async def check(self, reply: httpx2.Response) -> None:
        path = reply.request.url.path
        operations = next((found for pattern, found in self._paths if pattern.fullmatch(path)), {})
        operation = operations.get(reply.request.method.lower())
        if operation is None:
            assert reply.status_code in (404, 405), f"{reply.request.method} {path} is not in the OpenAPI document"
            return
        declared = operation["responses"].get(str(reply.status_code)) or operation["responses"]["default"]
        kind = reply.headers.get("content-type", "").partition(";")[0]
        if not kind:
            assert reply.status_code == 204
            return
        assert kind in declared.get("content", {}), f"{reply.status_code} {kind} of {path} is not declared"
        if kind not in ("application/json", "application/problem+json"):
            return
        await reply.aread()
        schema = declared["content"][kind]["schema"]
        name = json.dumps(schema, sort_keys=True)
        if name not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[name] = jsonschema_rs.validator_for(whole, validate_formats=True)
        errors = [
            f"{error.instance_path}: {error.message}" for error in self._validators[name].iter_errors(reply.json())
        ]
        assert not errors, f"{reply.request.method} {path} {reply.status_code}: {errors}"
