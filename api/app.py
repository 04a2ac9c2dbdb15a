"""The control plane as an ASGI application: routes over runs and the journal, nothing of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError

from api import (
    agents,
    approvals,
    board,
    calls,
    catalog,
    events,
    family,
    forks,
    health,
    inbox,
    ledger,
    policy,
    pruning,
    questions,
    runs,
    schedules,
    session_transfer,
    sessions,
    signals,
    steering,
    timers,
)  # fmt: skip
from api.definitions import checked, definition_of
from api.gate import Gate
from api.parts import PROJECT, Parts
from api.problems import Problem, install
from api.reply import ProblemDocument
from api.requests import CreateAgent
from api.starting import reconcile
from perdure.assembly import Assembly

log = logging.getLogger("perdure.api")

DESCRIPTION = """Runs of AI agents that cannot be lost. A run is accepted durably (201), goes on over the death of
any process, and tells what happens to it as numbered events.
Errors are RFC 9457 problem documents with stable codes."""


class BadAgentSettings(Exception):
    """An ``[agents.NAME]`` table that is no agent; the message says what is wrong with it."""


def create_app(
    assembly_factory: Callable[[], Awaitable[Assembly]],
    *,
    request_bytes_max: int,
    import_bytes_max: int,
    hosts: Collection[str] = (),
) -> FastAPI:
    """The application. ``assembly_factory`` is awaited once, when the server starts; what it raises
    (and ``BadAgentSettings``) ends the start. ``app.state.parts.stopping`` ends streams when set."""
    stopping = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assembly = await assembly_factory()
        parts = app.state.parts = Parts(assembly, stopping)
        try:
            await store_configured_agents(assembly)
            reconciler = asyncio.create_task(reconcile(parts))
            yield
            stopping.set()
            reconciler.cancel()
            await asyncio.wait([reconciler, *parts.background], timeout=3)  # as long as one call of Temporal may take
        finally:
            await assembly.close()

    app = FastAPI(
        title="Perdure",
        version=version("perdure"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.stopping = stopping
    for module in (
        runs, schedules, forks, family, board, steering, inbox, timers, signals, calls, events, ledger, approvals,
        questions, sessions, session_transfer, pruning, agents, policy, catalog, health,
    ):  # fmt: skip
        app.include_router(module.router)
    install(app)
    larger = {"/v1/sessions:import": import_bytes_max}
    app.add_middleware(Gate, request_bytes_max=request_bytes_max, larger=larger, hosts=hosts)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def store_configured_agents(assembly: Assembly) -> None:
    """``[agents.NAME]`` of the settings become stored agents; a changed table becomes a new version.
    BadAgentSettings where POST /v1/agents would refuse, before any is stored."""
    agents: dict[str, CreateAgent] = {}
    for name, table in assembly.settings.agents.items():
        try:
            agents[name] = CreateAgent.model_validate({"name": name, **table.model_dump()})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadAgentSettings(f"[agents.{name}] {where}: {first['msg']}") from None
    beside = {name: definition_of(agent, name) for name, agent in agents.items()}
    definitions = []
    for name, agent in agents.items():
        try:
            definitions.append(await checked(assembly, agent, name, "", beside))
        except Problem as problem:
            where = (problem.errors[0].pointer or "").strip("/").replace("/", ".")
            raise BadAgentSettings(f"[agents.{name}] {where}: {problem.detail}") from None
    for definition in definitions:
        row = await assembly.journal.put_agent(PROJECT, definition)
        log.info("agent %s is version %d, as configured", definition["name"], row.version)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the problem document that every error response refers to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=_TAGS
        )
        problem = ProblemDocument.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemDocument"] = problem
        app.openapi_schema = document
    return app.openapi_schema


_TAGS = [
    {"name": "runs", "description": "One execution of an agent towards one goal; one Temporal workflow."},
    {"name": "events", "description": "The numbered log of a run, replayed and followed."},
    {"name": "messages", "description": "What is said to a running run."},
    {"name": "time", "description": "What sleeps, and what wakes it: timers and signals."},
    {"name": "approvals", "description": "What people are asked before a tool call runs."},
    {"name": "questions", "description": "What agents ask people."},
    {"name": "schedules", "description": "Runs that start again and again; Temporal Schedules, kept in the journal."},
    {"name": "usage", "description": "What was spent."},
    {"name": "sessions", "description": "Conversations: transcripts that outlive one run."},
    {"name": "agents", "description": "Named definitions in immutable versions."},
    {"name": "catalog", "description": "Models and tools that agents may use."},
    {"name": "service", "description": "Health, readiness and facts of this service."},
]
