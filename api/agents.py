"""Agents: named definitions in immutable versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response
from ulid import ULID

from api.bodies import JsonRoute
from api.definitions import checked, definition_of
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, page_reply
from api.parts import PROJECT, Given, Strict
from api.problems import declared
from api.rendering import agent as render_agent
from api.replies import AgentOut
from api.reply import ListReply
from api.requests import CreateAgent
from perdure.store.rows import AgentRow, Page
from perdure.store.trouble import NotFound

router = APIRouter(tags=["agents"], route_class=JsonRoute)


@router.post(
    "/v1/agents",
    operation_id="create_agent",
    summary="Store an agent, or its next version",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused", "unknown_model", "unknown_tool", "model_not_priced",
        ),
        200: {"model": AgentOut, "description": "The newest version is the same already"},
        201: {"model": AgentOut, "description": "The new version"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def create_agent(request: Strict, given: Given, body: CreateAgent) -> Response:
    journal = given.assembly.journal

    async def act(agent_id: str) -> Response:
        made = definition_of(body, body.name)
        definition = await checked(given.assembly, body, body.name, "", {body.name: made})
        try:
            newest = (await journal.get_agent(PROJECT, body.name)).version
        except NotFound:
            newest = 0
        row = await journal.put_agent(PROJECT, definition)
        location = {"location": f"/v1/agents/{row.id}?version={row.version}"}
        return _reply(row, 201 if row.version > newest else 200, location)

    reply, _ = await once(request, journal, f"agt_{ULID()}", act)
    return reply


@router.get(
    "/v1/agents",
    operation_id="list_agents",
    summary="List agents",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {"model": ListReply[AgentOut], "description": "The newest version of each agent"},
    },
)
async def list_agents(
    given: Given, limit: Limit = PAGE_DEFAULT, order: Order = "desc", after: After = None, before: Before = None
) -> Response:
    async def fetch(cursor: str | None, descending: bool) -> Page[AgentRow]:
        return await given.assembly.journal.list_agents(PROJECT, limit=limit, cursor=cursor, descending=descending)

    return await page_reply(fetch, render_agent, order=order, after=after, before=before)


@router.get(
    "/v1/agents/{id_or_name}",
    operation_id="get_agent",
    summary="Read an agent",
    response_model=None,
    responses={**declared("agent_not_found"), 200: {"model": AgentOut, "description": "That version, or the newest"}},
)
async def get_agent(
    given: Given, id_or_name: str, version: Annotated[int | None, Query(ge=1, le=1_000_000_000)] = None
) -> Response:
    return _reply(await given.assembly.journal.get_agent(PROJECT, id_or_name, version), 200, {})


@router.get(
    "/v1/agents/{id_or_name}/versions",
    operation_id="list_agent_versions",
    summary="List an agent's versions",
    response_model=None,
    responses={
        **declared("agent_not_found"),
        200: {"model": ListReply[AgentOut], "description": "All versions"},
    },
)
async def list_agent_versions(given: Given, id_or_name: str) -> Response:
    rows = await given.assembly.journal.list_agent_versions(PROJECT, id_or_name)
    if not rows:
        raise NotFound("agent", id_or_name)
    return list_reply([render_agent(row) for row in rows], None)


def _reply(row: AgentRow, status: int, headers: dict[str, str]) -> Response:
    return JsonReply(render_agent(row), status, {**headers, "etag": f'"{row.version}"'})
