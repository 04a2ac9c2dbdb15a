"""Runs: create, read, list, change. What orders them about is in ``steering.py``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, get_args

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from ulid import ULID

from api.actor import Actor
from api.bodies import JsonRequest, JsonRoute
from api.body import Moment
from api.budgets import changed_budget, check_price
from api.conflicts import Told, created_or_told
from api.definitions import input_blocks, resolve
from api.encoding import JsonReply
from api.events import Wanted, sse_reply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, page_of
from api.parts import PROJECT, Given, Parts, Strict
from api.problems import declared, field_problem, parameter_problem
from api.replies import AcceptedRunOut, RunOut
from api.reply import ListReply
from api.requests import CreateRun, PatchRun
from api.showing import show_run, show_runs
from api.starting import start_now
from api.times import milliseconds
from api.waiting import at_rest, preferred_wait, wait_until_at_rest
from perdure.core.state import RunStatus
from perdure.definitions import LimitsDefinition
from perdure.store.rows import NewRun, Page, RunRow
from perdure.store.trouble import NotFound, SlicesGiven, SliceTooLarge

DEADLINE_DAYS_MAX = 400
START_DAYS_MAX = 366
_DAY_MS = 86_400_000
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

router = APIRouter(tags=["runs"], route_class=JsonRoute)

_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=30`: answer when the run has ended or requires action, after at most 60 seconds.",
    "schema": {"type": "string"},
}


# Create -------------------------------------------------------------------------------------------


@router.post(
    "/v1/runs",
    operation_id="create_run",
    summary="Start a run",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "agent_not_found", "session_not_found", "session_busy", "idempotency_in_progress",
            "payload_too_large", "validation_failed", "idempotency_key_reused", "unknown_model", "unknown_tool",
            "model_not_priced", "budget_too_small", "session_deleted", "queue_full",
        ),
        202: {
            "model": AcceptedRunOut,
            "description": "The session has an active run, and `on_conflict` made the input a message to it: that "
            "run, with the message's id. Nothing else of this request holds for it. With `stream: true` its events "
            "from here on.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        201: {
            "model": RunOut,
            "description": "The run is stored durably and starts as soon as Temporal takes it. With `stream: true` "
            "its events, as GET …/events streams them from the first on; `x-run-id` names it.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
    openapi_extra={"parameters": [_PREFER, IDEMPOTENCY_KEY]},
)  # fmt: skip
async def create_run(request: Strict, given: Given, body: CreateRun, actor: Actor) -> Response:
    seen_seq = 0

    async def act(run_id: str) -> Response:
        nonlocal seen_seq
        made = await _create(request, given, body, run_id, actor)
        run = made.run if isinstance(made, Told) else made
        shown = await show_run(given.assembly.journal, run)
        headers = {"location": f"/v1/runs/{run.id}", "x-run-id": run.id}
        if isinstance(made, Told):
            seen_seq = run.last_seq
            return JsonReply({**shown, "inbox_message_id": made.message.id}, 202, headers)
        return JsonReply(shown, 201, headers)

    reply, replayed = await once(request, given.assembly.journal, f"run_{ULID()}", act)
    run_id = reply.headers["location"].rpartition("/")[2]
    reply.headers["x-run-id"] = run_id
    marks = {"idempotent-replayed": "true"} if replayed else {}
    if body.stream:
        run = await given.assembly.journal.get_run(run_id, PROJECT)
        return sse_reply(
            given,
            run,
            Wanted(after=max(seen_seq, run.pruned_seq)),
            status=reply.status_code,
            headers={"location": f"/v1/runs/{run_id}", "x-run-id": run_id, **marks},
        )
    return reply if reply.status_code == 202 else await _after_wait(request, given, run_id, reply)


async def _create(request: JsonRequest, parts: Parts, body: CreateRun, run_id: str, actor: str) -> RunRow | Told:
    """Everything is checked before anything is written; then one transaction, then the workflow."""
    assembly = parts.assembly
    content = input_blocks(body.input)
    start_ms = _start_ms(body.start_at)
    if start_ms is not None and body.on_conflict != "reject":
        message = f"on_conflict {body.on_conflict} would say the input to a busy session now: leave out one of both"
        raise field_problem("validation_failed", "/start_at", message, kind="conflict")
    deadline_ms = deadline_from(body.deadline, assembly.settings.limits.deadline_seconds, start_ms)
    made = await resolve(assembly, body, content)
    new = NewRun(
        run_id=run_id,
        definition=made.definition,
        input=content,
        deadline_ms=deadline_ms,
        limits=made.limits,
        budget=made.budget,
        requested_by=actor,
        start_ms=start_ms,
        agent_id=made.agent.id if made.agent else None,
        agent_version=made.agent.version if made.agent else None,
        session_id=body.session_id,
        project_id=PROJECT,
        labels=body.labels,
        metadata=body.metadata,
        traceparent=_traceparent(request),
    )
    try:
        found = await created_or_told(assembly.journal, new, body.on_conflict)
    except NotFound as missing:
        if missing.kind != "session":
            raise
        message = f"There is no session {missing.id!r}: POST /v1/sessions makes one."
        raise field_problem("session_not_found", "/session_id", message) from None
    if isinstance(found, Told):
        parts.nudge(found.run.id, *found.message.told)
    else:
        await start_now(parts, found)
    return found


def _start_ms(start_at: datetime | None) -> int | None:
    if start_at is None:
        return None
    now_ms, at_ms = time.time_ns() // 1_000_000, int(start_at.timestamp() * 1_000)
    if not now_ms < at_ms <= now_ms + START_DAYS_MAX * _DAY_MS:
        message = f"start_at must be in the future, at most {START_DAYS_MAX} days ahead"
        raise field_problem("validation_failed", "/start_at", message, kind="out_of_range")
    return at_ms


def deadline_from(deadline: datetime | None, default_seconds: int, start_ms: int | None = None) -> int:
    now_ms = time.time_ns() // 1_000_000
    if deadline is None:
        latest_ms = now_ms + DEADLINE_DAYS_MAX * _DAY_MS
        return min((start_ms or now_ms) + default_seconds * 1_000, latest_ms)
    at_ms = int(deadline.timestamp() * 1_000)
    if not now_ms < at_ms <= now_ms + DEADLINE_DAYS_MAX * _DAY_MS:
        raise field_problem(
            "validation_failed",
            "/deadline",
            f"the deadline must be in the future, at most {DEADLINE_DAYS_MAX} days ahead",
        )
    if start_ms is not None and at_ms <= start_ms:
        raise field_problem("validation_failed", "/deadline", "the deadline must be after start_at")
    return at_ms


def _traceparent(request: Request) -> str | None:
    """Kept when it is well-formed; a malformed one is ignored, as W3C Trace Context says."""
    value = request.headers.get("traceparent", "")
    return value if _TRACEPARENT.fullmatch(value) else None


# Read ---------------------------------------------------------------------------------------------


@router.get(
    "/v1/runs/{run_id}",
    operation_id="get_run",
    summary="Read a run",
    response_model=None,
    responses={**declared("run_not_found"), 200: {"model": RunOut, "description": "The run"}},
    openapi_extra={"parameters": [_PREFER]},
)
async def get_run(request: Request, given: Given, run_id: str) -> Response:
    run = await given.assembly.journal.get_run(run_id, PROJECT)
    return await _after_wait(request, given, run_id, JsonReply(await show_run(given.assembly.journal, run)), known=run)


async def _after_wait(
    request: Request, parts: Parts, run_id: str, reply: Response, *, known: RunRow | None = None
) -> Response:
    """The reply, or when the client prefers to wait, a fresher one with the same headers."""
    seconds = preferred_wait(request)
    if seconds is None:
        return reply
    journal = parts.assembly.journal
    run = known if known and await at_rest(journal, known) else await wait_until_at_rest(parts, run_id, seconds)
    kept = {name: value for name, value in reply.headers.items() if name not in ("content-length", "content-type")}
    return JsonReply(await show_run(journal, run), reply.status_code, {**kept, "preference-applied": f"wait={seconds}"})


@router.get(
    "/v1/runs",
    operation_id="list_runs",
    summary="List runs",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {"model": ListReply[RunOut], "description": "A page of runs, the newest first unless `order=asc`"},
    },
    openapi_extra={
        "parameters": [
            {
                "name": "labels",
                "in": "query",
                "style": "deepObject",
                "explode": True,
                "description": "`labels[team]=billing`: runs with these labels.",
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ]
    },
)
async def list_runs(
    request: Request,
    given: Given,
    limit: Limit = PAGE_DEFAULT,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
    status: Annotated[list[RunStatus], Query(description="Runs in one of these statuses.")] = [],  # noqa: B006
    statuses: Annotated[
        list[RunStatus], Query(alias="status[]", description="The same, as some clients write it.")
    ] = [],  # noqa: B006
    agent_id: str | None = None,
    session_id: str | None = None,
    parent_run_id: str | None = None,
    root_run_id: Annotated[str | None, Query(alias="root", description="All runs of one tree.")] = None,
    needs_action: Annotated[bool | None, Query(description="Runs that wait for a person or for the client.")] = None,
    schedule_id: str | None = None,
    created_gt: Annotated[Moment | None, Query(alias="created_at[gt]")] = None,
    created_gte: Annotated[Moment | None, Query(alias="created_at[gte]")] = None,
    created_lt: Annotated[Moment | None, Query(alias="created_at[lt]")] = None,
    created_lte: Annotated[Moment | None, Query(alias="created_at[lte]")] = None,
) -> Response:
    labels = _label_filter(request)
    looked_for = _statuses([*status, *statuses], needs_action)

    async def fetch(cursor: str | None, descending: bool) -> Page[RunRow]:
        if looked_for is None:
            return Page([], None)
        return await given.assembly.journal.list_runs(
            PROJECT,
            limit=limit,
            cursor=cursor,
            descending=descending,
            statuses=looked_for,
            session_id=session_id,
            agent_id=agent_id,
            parent_run_id=parent_run_id,
            root_run_id=root_run_id,
            schedule_id=schedule_id,
            labels=labels,
            created_from_ms=_bound(created_gte, created_gt, max),
            created_before_ms=_bound(created_lt, created_lte, min),
        )

    rows, next_cursor = await page_of(fetch, order=order, after=after, before=before)
    return list_reply(await show_runs(given.assembly.journal, rows), next_cursor)


def _statuses(wanted: list[RunStatus], needs_action: bool | None) -> list[RunStatus] | None:
    """Those to look for; None when there can be none."""
    if needs_action is None:
        return wanted
    fitting: list[RunStatus] = [
        status for status in get_args(RunStatus) if (status == "requires_action") is needs_action
    ]
    return [status for status in fitting if not wanted or status in wanted] or None


def _label_filter(request: Request) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.partition("[")[0] != "labels":
            continue
        if not (name.startswith("labels[") and name.endswith("]")) or name == "labels[]":
            raise parameter_problem("invalid_request", name, "write label filters as labels[name]=value")
        labels[name[7:-1]] = value
    return labels or None


def _bound(at: datetime | None, next_to: datetime | None, choose: Callable[..., int]) -> int | None:
    """Milliseconds: ``at`` itself, and the millisecond after ``next_to`` (gt 5 is gte 6; lte 5 is lt 6)."""
    bounds = [] if at is None else [milliseconds(at)]
    bounds += [] if next_to is None else [milliseconds(next_to) + 1]
    return choose(bounds) if bounds else None


# Change -------------------------------------------------------------------------------------------


@router.patch(
    "/v1/runs/{run_id}",
    operation_id="update_run",
    summary="Change a run's labels, metadata, budget, limits or deadline",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "run_not_found", "run_terminal", "payload_too_large", "validation_failed",
            "model_not_priced", "budget_exhausted",
        ),
        200: {"model": RunOut, "description": "The run, changed; its budget holds at once, even below what is spent"},
    },
)  # fmt: skip
async def update_run(given: Given, run_id: str, body: PatchRun) -> Response:
    assembly = given.assembly
    journal = assembly.journal
    run = await journal.get_run(run_id, PROJECT)
    if all(getattr(body, name) is None for name in PatchRun.model_fields):
        raise field_problem("validation_failed", "", "give labels, metadata, budget, limits or deadline", kind="empty")
    for name in ("budget", "limits"):
        if (part := getattr(body, name)) is not None and not part.definition():
            raise field_problem("validation_failed", f"/{name}", "give at least one of its members", kind="empty")
    budget, limits = None, None
    if body.budget is not None:
        budget = changed_budget(run.budget, assembly.settings, body.budget.definition())
        check_price(assembly, run.definition["model"], budget, "/budget/max_cost_usd")
    if body.limits is not None:
        limits = LimitsDefinition(**{**run.limits, **body.limits.definition()})
    try:
        changed = await journal.update_run(
            run_id,
            labels=body.labels,
            metadata=body.metadata,
            budget=budget,
            limits=limits,
            deadline_ms=None if body.deadline is None else deadline_from(body.deadline, 0, run.start_ms),
        )
    except SliceTooLarge as large:
        raise field_problem("budget_exhausted", f"/budget/{large.limit}", str(large)) from None
    except SlicesGiven as given_away:
        message = "children at work may spend more than this leaves: lower their budgets first, or cancel them"
        raise field_problem("budget_exhausted", f"/budget/{given_away.limit}", message) from None
    given.nudge(run_id)
    return JsonReply(await show_run(journal, changed))
