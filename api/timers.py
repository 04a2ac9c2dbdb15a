"""Timers: the calls of a run that sleep. Somebody may wake them before their time."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.actor import Actor
from api.ask_rendering import timer
from api.bodies import JsonRequest, JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, page_of
from api.parts import PROJECT, Given, Parts, Strict
from api.people_bodies import EndTimer
from api.people_replies import TimerOut
from api.problems import Problem, declared
from api.reply import ListReply
from perdure.store.rows import AskRow, AskStatus, Page
from perdure.store.trouble import AskResolved

router = APIRouter(tags=["time"], route_class=JsonRoute)

_STATUSES: dict[str, tuple[AskStatus, ...]] = {
    "open": ("open",), "fired": ("expired", "answered"), "cancelled": ("cancelled",), "all": (),
}  # fmt: skip
_PROBLEMS = declared(
    "invalid_json", "run_not_found", "timer_not_found", "run_terminal", "invalid_transition",
    "idempotency_in_progress", "payload_too_large", "validation_failed", "idempotency_key_reused",
)  # fmt: skip


@router.get(
    "/v1/runs/{run_id}/timers",
    operation_id="list_timers",
    summary="List the timers of a run",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor"),
        200: {"model": ListReply[TimerOut], "description": "A page of timers, the oldest first unless `order=desc`"},
    },
)
async def list_timers(
    given: Given,
    run_id: str,
    status: Annotated[Literal["open", "fired", "cancelled", "all"], Query()] = "open",
    limit: Limit = PAGE_DEFAULT,
    order: Order = "asc",
    after: After = None,
    before: Before = None,
) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)

    async def fetch(cursor: str | None, descending: bool) -> Page[AskRow]:
        return await journal.list_asks(
            PROJECT,
            types=("timer",),
            limit=limit,
            cursor=cursor,
            descending=descending,
            statuses=_STATUSES[status],
            run_id=run_id,
        )

    rows, next_cursor = await page_of(fetch, order=order, after=after, before=before)
    return list_reply([timer(row) for row in rows], next_cursor)


@router.post(
    "/v1/runs/{run_id}/timers/{timer_id}/fire",
    operation_id="fire_timer",
    summary="Wake a sleeping call now",
    response_model=None,
    responses={**_PROBLEMS, 200: {"model": TimerOut, "description": "The timer, fired; the run goes on"}},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def fire_timer(
    request: Strict, given: Given, run_id: str, timer_id: str, actor: Actor, body: EndTimer | None = None
) -> Response:
    return await _end(request, given, run_id, timer_id, actor, fires=True)


@router.post(
    "/v1/runs/{run_id}/timers/{timer_id}/cancel",
    operation_id="cancel_timer",
    summary="End a sleep as cancelled",
    response_model=None,
    responses={
        **_PROBLEMS,
        200: {"model": TimerOut, "description": "The timer, cancelled; the call has failed and the run goes on"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def cancel_timer(
    request: Strict, given: Given, run_id: str, timer_id: str, actor: Actor, body: EndTimer | None = None
) -> Response:
    return await _end(request, given, run_id, timer_id, actor, fires=False)


async def _end(request: JsonRequest, parts: Parts, run_id: str, timer_id: str, actor: str, *, fires: bool) -> Response:
    journal = parts.assembly.journal

    async def act(_: str) -> Response:
        await journal.get_run(run_id, PROJECT)
        try:
            row = await journal.end_timer(run_id, timer_id, actor, fires=fires)
        except AskResolved as over:
            raise Problem("invalid_transition", f"{over}.") from None
        parts.nudge(run_id)
        return JsonReply(timer(row))

    reply, _ = await once(request, journal, timer_id, act)
    return reply
