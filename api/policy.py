"""Dry runs: would this agent be stored, and what would policy say to this call? Nothing is written."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import Response

from api.bodies import JsonRoute
from api.definitions import body_errors_of, definition_of, narrowed, resolve_agent
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import Given, Strict
from api.policies import verdict_of
from api.problems import FIELD_ERRORS_MAX, FieldError, body_errors, declared, field_problem
from api.replies import ValidationOut, VerdictOut
from api.requests import CheckPolicy, CreateAgent
from perdure.assembly import Assembly
from perdure.tools.arguments import args_sha256
from perdure.tools.client_tools import run_tool_names

router = APIRouter(tags=["agents"], route_class=JsonRoute)


@router.post(
    "/v1/agents:validate",
    operation_id="validate_agent",
    summary="Would this agent be stored?",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused",
        ),
        200: {"model": ValidationOut, "description": "Everything that POST /v1/agents would refuse it for"},
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateAgent"}}},
        },
    },
)  # fmt: skip
async def validate_agent(request: Strict, given: Given, body: dict[str, Any]) -> Response:
    async def act(_: str) -> Response:
        errors = (await _agent_errors(given.assembly, body))[:FIELD_ERRORS_MAX]
        shown = [{"pointer": error.pointer or "", "code": error.code, "message": error.message} for error in errors]
        return JsonReply({"valid": not errors, "errors": shown})

    reply, _ = await once(request, given.assembly.journal, "validation", act)
    return reply


async def _agent_errors(assembly: Assembly, body: dict[str, Any]) -> list[FieldError]:
    try:
        agent = CreateAgent.model_validate(body, from_attributes=True)  # as POST /v1/agents reads it
    except ValidationError as error:
        return body_errors(error.errors(), body)
    definition = definition_of(agent, agent.name)
    return await body_errors_of(assembly, agent, definition, "", {agent.name: definition})


@router.post(
    "/v1/policy:check",
    operation_id="check_policy",
    summary="What would policy say to this call?",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "agent_not_found", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused", "unknown_model", "unknown_tool", "model_not_priced",
        ),
        200: {"model": VerdictOut, "description": "The verdict, and the rule that gives it"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def check_policy(request: Strict, given: Given, body: CheckPolicy) -> Response:
    assembly = given.assembly

    async def act(_: str) -> Response:
        definition, _agent = await resolve_agent(assembly, body.agent, body.agent_inline)
        definition = narrowed(assembly, definition, body.policy)
        if body.tool not in (names := run_tool_names(definition)):
            named = ", ".join(names) or "none"
            raise field_problem("unknown_tool", "/tool", f"the agent has no tool {body.tool!r}; it has: {named}")
        ruling, problem = verdict_of(assembly, definition, body.tool, body.arguments)
        return JsonReply(
            {
                "verdict": ruling.action,
                "rule": ruling.rule,
                "reason": ruling.reason,
                "args_sha256": args_sha256(body.arguments),
                "problem": problem,
            }
        )

    reply, _ = await once(request, assembly.journal, "check", act)
    return reply
