"""Tool calls that somebody outside ends or starts again: results of client tools, and the recovery of a call that is
stuck or whose outcome nobody knows."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.actor import Actor
from api.bodies import JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import PROJECT, Given, Parts, Strict
from api.people_bodies import AbortCall, ResolveCall, RetryCall, ToolResultIn, ToolResults
from api.problems import Problem, declared, field_problem, problem_of
from api.rendering import step as render_step
from api.replies import RunOut, StepOut
from api.showing import show_run
from perdure.assembly import Assembly
from perdure.core.state import TERMINAL
from perdure.store.rows import CallRow, ToolCommit, ToolResult
from perdure.store.trouble import AskResolved, NotFound, RunOver
from perdure.tools.port import ToolTrouble
from perdure.tools.result_text import result_text
from perdure.tools.spool import preview

router = APIRouter(tags=["runs"], route_class=JsonRoute)

_PROBLEMS = (
    "invalid_json", "run_not_found", "call_not_found", "run_terminal", "tool_result_conflict",
    "idempotency_in_progress", "payload_too_large", "validation_failed", "idempotency_key_reused",
)  # fmt: skip


@router.post(
    "/v1/runs/{run_id}/tool_results",
    operation_id="give_tool_results",
    summary="Give the results of client tools",
    response_model=None,
    responses={
        **declared(*_PROBLEMS, "approval_expired"),
        200: {"model": RunOut, "description": "All results are taken; the run goes on when none is missing"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def give_tool_results(request: Strict, given: Given, run_id: str, body: ToolResults, actor: Actor) -> Response:
    journal = given.assembly.journal
    _refuse_doubles(body)

    async def act(_: str) -> Response:
        await journal.get_run(run_id, PROJECT)
        results = [
            await _client_result(given.assembly, one, f"/results/{index}") for index, one in enumerate(body.results)
        ]
        try:
            await journal.give_results(run_id, results, actor)
        except AskResolved as resolved:
            raise _conflict(resolved) from None
        given.nudge(run_id)
        return JsonReply(await show_run(journal, await journal.get_run(run_id)))

    reply, _ = await once(request, journal, run_id, act)
    return reply


def _refuse_doubles(body: ToolResults) -> None:
    seen: set[str] = set()
    for index, result in enumerate(body.results):
        if result.call_id in seen:
            message = f"call {result.call_id!r} has two results here"
            raise field_problem("validation_failed", f"/results/{index}/call_id", message, kind="duplicate")
        seen.add(result.call_id)


async def _client_result(assembly: Assembly, result: ToolResultIn, pointer: str) -> ToolResult:
    if result.error is not None:
        return ToolResult(result.call_id, result.error, is_error=True)
    commit = await _spooled(assembly, result.output, f"{pointer}/output")
    return ToolResult(result.call_id, commit.text, blob=commit.blob, bytes=commit.bytes)


async def _spooled(assembly: Assembly, output: Any, pointer: str) -> ToolCommit:
    """As a worker does with what a tool returns: what is large is kept beside the transcript."""
    limits = assembly.settings.limits
    try:
        text = result_text(output)
    except ToolTrouble as trouble:
        raise field_problem("validation_failed", pointer, trouble.message) from None
    body = text.encode()
    if len(body) > limits.tool_result_bytes_max:
        message = f"the result has {len(body)} bytes; at most {limits.tool_result_bytes_max} are kept"
        raise field_problem("validation_failed", pointer, message, kind="too_long")
    if len(body) <= limits.spool_bytes:
        return ToolCommit("completed", text, bytes=len(body))
    blob = await assembly.journal.put_blob(body, "text/plain; charset=utf-8")
    return ToolCommit("completed", preview(text, blob, len(body)), blob=blob, bytes=len(body))


def _conflict(resolved: AskResolved) -> Problem:
    found = problem_of(resolved)
    return Problem("tool_result_conflict", found.detail if found else str(resolved))


# Recovery -----------------------------------------------------------------------------------------


@router.post(
    "/v1/runs/{run_id}/calls/{call_id}/retry",
    operation_id="retry_call",
    summary="Give up a call's attempt and run it again",
    status_code=202,
    response_model=None,
    responses={
        **declared(*_PROBLEMS, "invalid_transition"),
        202: {"model": StepOut, "description": "The order is durable"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def retry_call(
    request: Strict, given: Given, run_id: str, call_id: str, actor: Actor, body: RetryCall | None = None
) -> Response:
    journal = given.assembly.journal
    reason = (body or RetryCall()).reason

    async def act(_: str) -> Response:
        call = await _open_call(given, run_id, call_id)
        if call.attempts == 0:  # whatever it waits for, a retry must not get it past that
            raise Problem("invalid_transition", f"Call {call_id} has not been started: there is nothing to try again.")
        try:
            row = await journal.retry_call(run_id, call_id, actor, reason)
        except AskResolved as resolved:
            raise _conflict(resolved) from None
        given.nudge(run_id)
        return JsonReply(render_step(row), 202)

    reply, _ = await once(request, journal, call_id, act)
    return reply


@router.post(
    "/v1/runs/{run_id}/calls/{call_id}/abort",
    operation_id="abort_call",
    summary="End a call as failed",
    response_model=None,
    responses={**declared(*_PROBLEMS), 200: {"model": StepOut, "description": "The step, ended"}},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def abort_call(
    request: Strict, given: Given, run_id: str, call_id: str, body: AbortCall, actor: Actor
) -> Response:
    async def act(_: str) -> Response:
        await _open_call(given, run_id, call_id)
        return await _resolved(given, run_id, call_id, ToolCommit("failed", body.reason, "aborted"), actor)

    reply, _ = await once(request, given.assembly.journal, call_id, act)
    return reply


@router.post(
    "/v1/runs/{run_id}/calls/{call_id}/result",
    operation_id="resolve_call",
    summary="Give a call's result by hand",
    response_model=None,
    responses={
        **declared(*_PROBLEMS, "invalid_transition"),
        200: {"model": StepOut, "description": "The step, ended; what still runs for it is not heard any more"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def resolve_call(
    request: Strict, given: Given, run_id: str, call_id: str, body: ResolveCall, actor: Actor
) -> Response:
    async def act(_: str) -> Response:
        await _open_call(given, run_id, call_id)
        await _refuse_undecided(given, run_id, call_id)
        commit = await _spooled(given.assembly, body.output, "/output")
        return await _resolved(given, run_id, call_id, commit, actor)

    reply, _ = await once(request, given.assembly.journal, call_id, act)
    return reply


async def _open_call(parts: Parts, run_id: str, call_id: str) -> CallRow:
    """A tool call of this run, whether or not it has ended: that the journal judges."""
    journal = parts.assembly.journal
    run = await journal.get_run(run_id, PROJECT)
    if run.status in TERMINAL:
        raise RunOver(run_id, run.status)
    call = await journal.get_call(run_id, call_id)
    if call.kind != "tool":
        raise NotFound("call", call_id)
    return call


async def _refuse_undecided(parts: Parts, run_id: str, call_id: str) -> None:
    """A result by hand is no way around an approval, its quorum and its four eyes."""
    try:
        ask = await parts.assembly.journal.find_ask(run_id, call_id)
    except NotFound:
        return
    if ask.type == "approval" and ask.status == "open":
        raise Problem("invalid_transition", f"Call {call_id} waits for approval {ask.id}: decide that (respond).")


async def _resolved(parts: Parts, run_id: str, call_id: str, commit: ToolCommit, by: str) -> Response:
    try:
        row = await parts.assembly.journal.resolve_call(run_id, call_id, commit, by)
    except AskResolved as resolved:
        raise _conflict(resolved) from None
    parts.nudge(run_id)
    return JsonReply(render_step(row))
