"""Approvals: what people are asked about tool calls, over all runs, and what they decide."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.actor import Actor
from api.ask_rendering import APPROVALS
from api.ask_rendering import approval as render_approval
from api.bodies import JsonRoute
from api.deciding import decide, find_approval
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, page_reply
from api.parts import PROJECT, Given, Parts, Strict
from api.people_bodies import Decide, DecideMany, DecideOne
from api.people_replies import ApprovalOut, DecidedOut
from api.problems import declared, problem_document, problem_of
from api.reply import ListReply
from api.times import Object
from perdure.store.rows import MANY_DECISIONS, AskRow, Page

ApprovalStatus = Literal["open", "approved", "denied", "responded", "expired", "cancelled"]

router = APIRouter(tags=["approvals"], route_class=JsonRoute)


@router.get(
    "/v1/approvals",
    operation_id="list_approvals",
    summary="List approvals",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {
            "model": ListReply[ApprovalOut],
            "description": "A page, the newest first unless `order=asc`",
        },
    },
)
async def list_approvals(
    given: Given,
    limit: Limit = PAGE_DEFAULT,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
    status: Annotated[list[ApprovalStatus], Query(description="Approvals in one of these statuses.")] = [],  # noqa: B006
    run_id: Annotated[str | None, Query(max_length=64)] = None,
    escalated: Annotated[bool | None, Query(description="Whether their time was over once.")] = None,
) -> Response:
    async def fetch(cursor: str | None, descending: bool) -> Page[AskRow]:
        return await given.assembly.journal.list_asks(
            PROJECT,
            types=APPROVALS,
            limit=limit,
            cursor=cursor,
            descending=descending,
            statuses=status,
            run_id=run_id,
            escalated=escalated,
        )

    return await page_reply(fetch, render_approval, order=order, after=after, before=before)


@router.get(
    "/v1/approvals/{approval_id}",
    operation_id="get_approval",
    summary="Read an approval",
    response_model=None,
    responses={**declared("approval_not_found"), 200: {"model": ApprovalOut, "description": "The approval"}},
)
async def get_approval(given: Given, approval_id: str) -> Response:
    return JsonReply(render_approval(await find_approval(given.assembly, approval_id)))


@router.post(
    "/v1/approvals/{approval_id}/decide",
    operation_id="decide_approval",
    summary="Approve, deny, edit or answer a tool call",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "approval_not_found", "approval_already_resolved", "approval_expired", "approval_stale",
            "insufficient_scope", "tool_denied", "run_terminal", "idempotency_in_progress", "payload_too_large",
            "validation_failed", "idempotency_key_reused",
        ),
        200: {"model": ApprovalOut, "description": "The approval; still open while its quorum wants more votes"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def decide_approval(request: Strict, given: Given, approval_id: str, body: Decide, actor: Actor) -> Response:
    async def act(_: str) -> Response:
        return JsonReply(render_approval(await decide(given, approval_id, body, actor)))

    reply, _ = await once(request, given.assembly.journal, approval_id, act)
    return reply


@router.post(
    "/v1/approvals:decide",
    operation_id="decide_approvals",
    summary="Decide many approvals, each by itself",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused",
        ),
        200: {"model": ListReply[DecidedOut], "description": "What became of each, in the order given"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def decide_approvals(request: Strict, given: Given, body: DecideMany, actor: Actor) -> Response:
    request_id = request.scope.get("state", {}).get("request_id")

    async def act(_: str) -> Response:
        decided = [
            await _decided(given, one, actor, f"/decisions/{index}", request_id)
            for index, one in enumerate(body.decisions)
        ]
        return list_reply(decided, None)

    reply, _ = await once(request, given.assembly.journal, MANY_DECISIONS, act)
    return reply


async def _decided(parts: Parts, one: DecideOne, by: str, pointer: str, request_id: str | None) -> Object:
    try:
        row = await decide(parts, one.id, one, by, pointer)
    except Exception as error:
        problem = problem_of(error)
        if problem is None or problem.status >= 500:
            raise  # what is decided stays decided, and deciding it again is nothing new
        return {"id": one.id, "ok": False, "problem": problem_document(problem, request_id)}
    return {"id": one.id, "ok": True, "approval": render_approval(row)}
