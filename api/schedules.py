"""Schedules: create, read, change, and order about. The journal's row is the truth; Temporal is told at once when it
can be, and by ``schedule_keeping.py`` otherwise. Only a trigger and a backfill need Temporal at that moment."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from ulid import ULID

from api.actor import Actor
from api.bodies import JsonRequest, JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, page_reply
from api.parts import PROJECT, Given, Parts, Strict
from api.problems import Problem, declared, field_problem
from api.reply import ListReply
from api.schedule_bodies import (
    BackfillSchedule,
    CreateSchedule,
    PatchSchedule,
    PauseSchedule,
    ResumeSchedule,
    SessionIn,
    TriggerSchedule,
)
from api.schedule_making import changed_definition, new_definition
from api.schedule_refusals import check_trigger
from api.schedule_rendering import invocation, moment, now_ms, schedule
from api.schedule_replies import InvocationOut, ScheduleOut, ScheduleTimeOut
from api.times import milliseconds
from perdure.runs import TemporalUnavailable
from perdure.schedule_orders import deliver_orders
from perdure.schedules import apply_newest
from perdure.scheduling.timetable import EARLIEST_MS, Timetable
from perdure.store.rows import Page
from perdure.store.schedule_rows import InvocationRow, NewSchedule, ScheduleChange, ScheduleRow
from perdure.store.trouble import NotFound

log = logging.getLogger("perdure.api")

NEXT_MAX = 100
BACKFILL_MAX = 1_000  # firings of one order; Temporal buffers no more
DELIVER_SECONDS = 1.0  # orders of others may be before it; the keeper tells the rest
IfMatch = Annotated[str | None, Header(alias="If-Match", description="The ETag that was read.")]

router = APIRouter(tags=["schedules"], route_class=JsonRoute)

_POST = declared(
    "invalid_json", "schedule_not_found", "idempotency_in_progress", "payload_too_large", "validation_failed",
    "idempotency_key_reused",
)  # fmt: skip
_NOW = {"model": ScheduleOut, "description": "The schedule as it is now"}
_ORDERED = {"model": ScheduleOut, "description": "It is stored durably; GET …/invocations tells what became of it"}


# Create and read ----------------------------------------------------------------------------------


@router.post(
    "/v1/schedules",
    operation_id="create_schedule",
    summary="Start runs again and again",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "agent_not_found", "session_not_found", "session_deleted", "idempotency_in_progress",
            "payload_too_large", "validation_failed", "idempotency_key_reused", "unknown_model", "unknown_tool",
            "model_not_priced", "budget_too_small", "name_taken", "too_many_schedules",
        ),
        201: {"model": ScheduleOut, "description": "The schedule is stored durably; `applied` says whether Temporal "
              "knows it already"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def create_schedule(request: Strict, given: Given, body: CreateSchedule, actor: Actor) -> Response:
    journal, limits = given.assembly.journal, given.assembly.settings.limits

    async def act(schedule_id: str) -> Response:
        session_id = body.session.session_id if isinstance(body.session, SessionIn) else None
        definition = await new_definition(given.assembly, body)
        new = NewSchedule(schedule_id, body.name, definition, actor, PROJECT, session_id)
        try:
            row = await journal.create_schedule(
                new, most=limits.max_schedules, most_of_owner=limits.max_schedules_per_agent
            )
        except NotFound as missing:
            message = f"There is no session {missing.id!r}: POST /v1/sessions makes one."
            raise field_problem("session_not_found", "/session/session_id", message) from None
        row = await told(given, row)
        return _reply(row, 201, {"location": f"/v1/schedules/{row.id}"})

    reply, _ = await once(request, journal, f"sch_{ULID()}", act)
    return reply


@router.get(
    "/v1/schedules",
    operation_id="list_schedules",
    summary="List schedules",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {"model": ListReply[ScheduleOut], "description": "A page of schedules, the newest first"},
    },
)
async def list_schedules(
    given: Given, limit: Limit = PAGE_DEFAULT, order: Order = "desc", after: After = None, before: Before = None
) -> Response:
    async def fetch(cursor: str | None, descending: bool) -> Page[ScheduleRow]:
        return await given.assembly.journal.list_schedules(PROJECT, limit=limit, cursor=cursor, descending=descending)

    return await page_reply(fetch, schedule, order=order, after=after, before=before)


@router.get(
    "/v1/schedules/{id_or_name}",
    operation_id="get_schedule",
    summary="Read a schedule",
    response_model=None,
    responses={**declared("schedule_not_found"), 200: _NOW},
)
async def get_schedule(given: Given, id_or_name: str) -> Response:
    return _reply(await given.assembly.journal.get_schedule(PROJECT, id_or_name), 200, {})


@router.get(
    "/v1/schedules/{id_or_name}/next",
    operation_id="list_schedule_times",
    summary="When it fires next",
    response_model=None,
    responses={
        **declared("schedule_not_found"),
        200: {"model": ListReply[ScheduleTimeOut], "description": "Its next times, as if it were not paused"},
    },
)
async def list_schedule_times(
    given: Given, id_or_name: str, count: Annotated[int, Query(ge=1, le=NEXT_MAX)] = 10
) -> Response:
    row = await given.assembly.journal.get_schedule(PROJECT, id_or_name)
    times = Timetable(row.definition).between(now_ms(), 2**62, count)
    return list_reply([moment(at_ms) for at_ms in times], None)


@router.get(
    "/v1/schedules/{id_or_name}/invocations",
    operation_id="list_schedule_invocations",
    summary="What became of its firings",
    response_model=None,
    responses={
        **declared("schedule_not_found", "invalid_cursor"),
        200: {"model": ListReply[InvocationOut], "description": "One row each, the newest first; 1,000 are kept"},
    },
)
async def list_schedule_invocations(
    given: Given,
    id_or_name: str,
    limit: Limit = PAGE_DEFAULT,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
) -> Response:
    journal = given.assembly.journal
    row = await journal.get_schedule(PROJECT, id_or_name)

    async def fetch(cursor: str | None, descending: bool) -> Page[InvocationRow]:
        return await journal.list_invocations(row.id, limit=limit, cursor=cursor, descending=descending)

    return await page_reply(fetch, invocation, order=order, after=after, before=before)


# Change -------------------------------------------------------------------------------------------


@router.patch(
    "/v1/schedules/{id_or_name}",
    operation_id="update_schedule",
    summary="Change a schedule",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "schedule_not_found", "agent_not_found", "version_mismatch", "precondition_required",
            "payload_too_large", "validation_failed", "unknown_model", "unknown_tool", "model_not_priced",
            "budget_too_small", "name_taken",
        ),
        200: _NOW,
    },
)  # fmt: skip
async def update_schedule(given: Given, id_or_name: str, body: PatchSchedule, if_match: IfMatch = None) -> Response:
    journal = given.assembly.journal
    row = await journal.get_schedule(PROJECT, id_or_name)
    version = _version(if_match, row)
    if version is None:
        raise Problem("precondition_required", f"Send If-Match with the ETag you have read: it is {_etag(row)} now.")
    definition = await changed_definition(given.assembly, row, body)
    change = ScheduleChange(version, name=body.name, definition=definition)
    return _reply(await told(given, await journal.change_schedule(PROJECT, row.id, change)), 200, {})


@router.delete(
    "/v1/schedules/{id_or_name}",
    operation_id="delete_schedule",
    summary="Remove a schedule; its runs stay",
    status_code=204,
    response_model=None,
    responses={**declared("schedule_not_found", "version_mismatch"), 204: {"description": "It fires no more"}},
)
async def delete_schedule(given: Given, id_or_name: str, if_match: IfMatch = None) -> Response:
    journal = given.assembly.journal
    row = await journal.get_schedule(PROJECT, id_or_name)
    change = ScheduleChange(_version(if_match, row), deleted=True)
    await told(given, await journal.change_schedule(PROJECT, row.id, change))
    return Response(status_code=204)


@router.post(
    "/v1/schedules/{id_or_name}/pause",
    operation_id="pause_schedule",
    summary="Fire no more until it is resumed",
    response_model=None,
    responses={**_POST, 200: _NOW},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def pause_schedule(request: Strict, given: Given, id_or_name: str, body: PauseSchedule | None = None) -> Response:
    change = ScheduleChange(paused=True, reason=(body or PauseSchedule()).reason)
    return await _changed(request, given, id_or_name, change)


@router.post(
    "/v1/schedules/{id_or_name}/resume",
    operation_id="resume_schedule",
    summary="Fire again",
    response_model=None,
    responses={**_POST, 200: _NOW},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def resume_schedule(
    request: Strict, given: Given, id_or_name: str, body: ResumeSchedule | None = None
) -> Response:
    return await _changed(request, given, id_or_name, ScheduleChange(paused=False))


async def _changed(request: JsonRequest, parts: Parts, id_or_name: str, change: ScheduleChange) -> Response:
    journal = parts.assembly.journal

    async def act(_: str) -> Response:
        row = await journal.get_schedule(PROJECT, id_or_name)
        return _reply(await told(parts, await journal.change_schedule(PROJECT, row.id, change)), 200, {})

    reply, _ = await once(request, journal, id_or_name, act)
    return reply


# Orders -------------------------------------------------------------------------------------------


@router.post(
    "/v1/schedules/{id_or_name}/trigger",
    operation_id="trigger_schedule",
    summary="Fire now",
    status_code=202,
    response_model=None,
    responses={
        **_POST,
        **declared(
            "invalid_transition", "idempotency_in_progress", "session_deleted", "rate_limited", "temporal_unavailable"
        ),
        202: _ORDERED,
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def trigger_schedule(
    request: Strict, given: Given, id_or_name: str, body: TriggerSchedule | None = None
) -> Response:
    overlap = (body or TriggerSchedule()).overlap

    async def order(row: ScheduleRow, order_id: str) -> None:
        await check_trigger(given.assembly.journal, row, overlap or row.definition["overlap"])
        if await given.assembly.journal.accept_trigger(row.id, order_id, overlap) is None:
            raise Problem("rate_limited", "This schedule was triggered 60 times within a minute; wait a little.")

    return await _ordered(request, given, id_or_name, order)


@router.post(
    "/v1/schedules/{id_or_name}/backfill",
    operation_id="backfill_schedule",
    summary="Fire at the times of a span of the past",
    status_code=202,
    response_model=None,
    responses={**_POST, **declared("idempotency_in_progress", "temporal_unavailable"), 202: _ORDERED},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def backfill_schedule(request: Strict, given: Given, id_or_name: str, body: BackfillSchedule) -> Response:
    from_ms, to_ms = milliseconds(body.from_), milliseconds(body.to)

    async def order(row: ScheduleRow, order_id: str) -> None:
        for pointer, at_ms in (("/from", from_ms), ("/to", to_ms)):
            if at_ms < EARLIEST_MS:
                message = "nothing is filled back before 2000-01-01T00:00:00Z"
                raise field_problem("validation_failed", pointer, message, kind="out_of_range")
        if to_ms > now_ms():
            raise field_problem("validation_failed", "/to", "the future is not filled back", kind="out_of_range")
        count = len(Timetable(row.definition).between(from_ms - 1, to_ms, BACKFILL_MAX + 1))
        if not 1 <= count <= BACKFILL_MAX:
            found = "no times" if not count else f"more than {BACKFILL_MAX} times"
            message = f"the schedule has {found} between from and to; fill back 1 to {BACKFILL_MAX} at once"
            raise field_problem("validation_failed", "/from", message, kind="too_many" if count else "empty")
        await given.assembly.journal.accept_backfill(row.id, order_id, from_ms, to_ms, body.overlap)

    return await _ordered(request, given, id_or_name, order)


async def _ordered(
    request: JsonRequest, parts: Parts, id_or_name: str, order: Callable[[ScheduleRow, str], Awaitable[None]]
) -> Response:
    """Temporal answers and knows the newest version before the order is accepted; with that the order is durable.
    A repetition of one that was accepted asks nothing more: it cannot be refused any longer."""
    journal, schedules = parts.assembly.journal, parts.assembly.schedules

    async def act(order_id: str) -> Response:
        row = await journal.get_schedule(PROJECT, id_or_name)
        if not await journal.has_schedule_order(order_id):
            if not await schedules.knows(row.id) or row.applied_version != row.version:
                row = await apply_newest(journal, schedules, row)
            await order(row, order_id)
        try:
            await deliver_orders(journal, schedules, row, for_seconds=DELIVER_SECONDS)
        except TemporalUnavailable as trouble:
            log.warning("an order to schedule %s waits until Temporal is back: %s", row.id, trouble)
        except Exception:
            log.exception("an order to schedule %s cannot be told to Temporal now", row.id)
        return _reply(row, 202, {})

    reply, _ = await once(request, journal, f"ord_{ULID()}", act)
    return reply


# --------------------------------------------------------------------------------------------------


async def told(parts: Parts, row: ScheduleRow) -> ScheduleRow:
    """Tell Temporal of the row's newest version; when Temporal is away the reconciler does it later."""
    if row.applied_version == row.version:
        return row
    try:
        return await apply_newest(parts.assembly.journal, parts.assembly.schedules, row)
    except TemporalUnavailable as trouble:
        log.warning("schedule %s waits until Temporal is back: %s", row.id, trouble)
    except Exception:
        log.exception("schedule %s cannot be told to Temporal now", row.id)  # the row is durable all the same
    return row


def _version(if_match: str | None, row: ScheduleRow) -> int | None:
    """The version that the client has read. ``version_mismatch`` for one that was never given out."""
    if if_match is None:
        return None
    if if_match.strip() == "*":
        return row.version
    tag = if_match.strip().removeprefix("W/").strip('"')
    if tag.isascii() and tag.isdigit() and len(tag) <= 9:
        return int(tag)
    raise Problem(
        "version_mismatch", f"If-Match {if_match[:80]!r} is no ETag of this schedule: it is {_etag(row)} now."
    )


def _etag(row: ScheduleRow) -> str:
    return f'"{row.version}"'


def _reply(row: ScheduleRow, status: int, headers: dict[str, str]) -> Response:
    return JsonReply(schedule(row), status, {**headers, "etag": _etag(row)})
