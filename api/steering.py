"""Pause, resume and cancel: orders that need no worker, and no Temporal either. A run that no workflow will ever end
is ended here."""

from __future__ import annotations

import logging

from fastapi import APIRouter
from starlette.responses import Response

from api.bodies import JsonRequest, JsonRoute
from api.budgets import check_view
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import PROJECT, Given, Parts, Strict
from api.people_bodies import CancelRun, PauseRun, ResumeRun
from api.problems import Problem, declared
from api.replies import RunOut
from api.showing import show_run
from api.starting import end_workflows
from perdure.core.happenings import Order, Verb
from perdure.core.state import TERMINAL
from perdure.runs import TemporalUnavailable
from perdure.store.rows import RunRow
from perdure.store.trouble import JournalTrouble, RunOver

BUDGET_REACHED = "budget_reached"  # why a run is paused that its budget holds
log = logging.getLogger("perdure.api")

router = APIRouter(tags=["runs"], route_class=JsonRoute)

_CODES = (
    "invalid_json", "run_not_found", "run_terminal", "stale_view", "idempotency_in_progress", "payload_too_large",
    "validation_failed", "idempotency_key_reused",
)  # fmt: skip
_PROBLEMS = declared(*_CODES)
_RESUME_PROBLEMS = declared(*_CODES, "invalid_transition")
_ACCEPTED = {"model": RunOut, "description": "The order is durable; the run's events tell when it is carried out"}


@router.post(
    "/v1/runs/{run_id}/pause",
    operation_id="pause_run",
    summary="Hold a run at its next boundary",
    status_code=202,
    response_model=None,
    responses={**_PROBLEMS, 202: _ACCEPTED},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def pause_run(request: Strict, given: Given, run_id: str, body: PauseRun | None = None) -> Response:
    wanted = body or PauseRun()
    return await _ordered(request, given, run_id, "pause", wanted.reason, wanted.expected_seq)


@router.post(
    "/v1/runs/{run_id}/resume",
    operation_id="resume_run",
    summary="Let a paused run go on",
    status_code=202,
    response_model=None,
    responses={**_RESUME_PROBLEMS, 202: _ACCEPTED},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def resume_run(request: Strict, given: Given, run_id: str, body: ResumeRun | None = None) -> Response:
    return await _ordered(request, given, run_id, "resume", "", (body or ResumeRun()).expected_seq)


async def _ordered(
    request: JsonRequest, parts: Parts, run_id: str, verb: Verb, reason: str, expected_seq: int | None
) -> Response:
    journal = parts.assembly.journal

    async def act(_: str) -> Response:
        run = await journal.get_run(run_id, PROJECT)
        check_view(run, expected_seq)
        if verb == "resume":
            _refuse_unpaid(run)
        parts.nudge(*await journal.give_family_order(run_id, Order(0, verb, reason=reason)))
        return JsonReply(await show_run(journal, await journal.get_run(run_id)), 202)

    reply, _ = await once(request, journal, run_id, act)
    return reply


def _refuse_unpaid(run: RunRow) -> None:
    """A run that its budget holds would not go on, whoever let it."""
    what, _, limit = (run.status_reason or "").partition(": ")
    if run.status == "paused" and what == BUDGET_REACHED:
        member = f"limits.{limit}" if limit == "max_turns" else f"budget.{limit}"
        raise Problem(
            "invalid_transition",
            f"Run {run.id} is held by its {member}: raise that with PATCH /v1/runs/{run.id}, and it goes on by itself.",
        )


@router.post(
    "/v1/runs/{run_id}/cancel",
    operation_id="cancel_run",
    summary="Cancel a run",
    response_model=None,
    responses={
        **_PROBLEMS,
        200: {"model": RunOut, "description": "The run is cancelled"},
        202: {"model": RunOut, "description": "The order is durable; the run's events tell when it has ended"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def cancel_run(request: Strict, given: Given, run_id: str, body: CancelRun | None = None) -> Response:
    order = body or CancelRun()
    journal = given.assembly.journal

    async def act(_: str) -> Response:
        run, done = await _cancel(given, run_id, order)
        return JsonReply(await show_run(journal, run), 200 if done else 202)

    reply, _ = await once(request, journal, run_id, act)
    return reply


async def _cancel(parts: Parts, run_id: str, order: CancelRun) -> tuple[RunRow, bool]:
    """The run, and whether it has ended already."""
    journal = parts.assembly.journal
    run = await journal.get_run(run_id, PROJECT)
    if run.status == "cancelled":
        return run, True
    if run.status in TERMINAL:
        raise RunOver(run_id, run.status)
    check_view(run, order.expected_seq)
    if order.mode == "force":
        return await _force(parts, run_id, order.reason), True
    try:
        told = await journal.give_family_order(run_id, Order(0, "cancel", reason=order.reason))
    except RunOver as over:
        if over.status != "cancelled":
            raise
        return await journal.get_run(run_id), True
    parts.nudge(*told[1:])
    if await _will_be_heard(parts, run):
        run = await journal.get_run(run_id)
        return run, run.status in TERMINAL
    # No workflow will ever end it: it has not been started, or was ended from outside.
    return await _force(parts, run_id, order.reason), True


async def _will_be_heard(parts: Parts, run: RunRow) -> bool:
    """Whether there is a workflow for the order that was just committed, or will be when Temporal is back."""
    try:
        return await parts.courier.carry(run.id)
    except TemporalUnavailable:
        return run.workflow_started
    except JournalTrouble as trouble:
        log.warning("the cancel of %s is durable, and waits: %s", run.id, trouble)
        return True


async def _force(parts: Parts, run_id: str, reason: str) -> RunRow:
    """The journal decides; a workflow that is still there finds that its run is over."""
    assembly = parts.assembly
    try:
        run = await assembly.journal.force_cancel(run_id, reason)
    except RunOver as over:
        if over.status != "cancelled":
            raise
        run = await assembly.journal.get_run(run_id, PROJECT)
    parts.later(end_workflows(assembly))
    if run.parent_run_id is not None:
        parts.nudge(run.parent_run_id)
    return run
