"""Runs that go on from other ones: a fork shares what was said up to an event, a retry goes on where an ended run
stopped. Nothing that was paid is paid again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import Response
from ulid import ULID

from api.actor import Actor
from api.bodies import JsonRequest, JsonRoute
from api.budgets import changed_budget, check_first_call, check_price
from api.definitions import input_blocks
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import PROJECT, Given, Parts, Strict
from api.problems import Problem, declared, field_problem
from api.replies import RunOut
from api.requests import ForkRun, RetryRun
from api.runs import deadline_from
from api.showing import show_run
from api.starting import start_now
from perdure.assembly import Assembly
from perdure.content import Block, Message
from perdure.core.state import TERMINAL
from perdure.definitions import LimitsDefinition
from perdure.providers.port import UnknownModel
from perdure.store.rows import NewRun, Origin, RunRow
from perdure.store.trouble import NoSuchNumber, SessionDeleted
from perdure.tools.client_tools import run_tool_names, run_toolbox

GO_ON_NOTE = (
    "[Perdure] The run before this one ended {status} ({reason}) and is taken up again now. Go on where it stopped."
)

router = APIRouter(tags=["runs"], route_class=JsonRoute)

_PROBLEMS = (
    "invalid_json", "run_not_found", "session_busy", "session_deleted", "idempotency_in_progress",
    "payload_too_large", "validation_failed", "idempotency_key_reused", "unknown_model", "model_not_priced",
    "budget_too_small",
)  # fmt: skip


@router.post(
    "/v1/runs/{run_id}/fork",
    operation_id="fork_run",
    summary="Start a run that goes another way from an event on",
    status_code=201,
    response_model=None,
    responses={
        **declared(*_PROBLEMS, "events_expired"),
        201: {"model": RunOut, "description": "A run with the same agent, limits and budget, in a forked session"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def fork_run(request: Strict, given: Given, run_id: str, body: ForkRun, actor: Actor) -> Response:
    async def plan(source: RunRow) -> tuple[Origin, list[Block]]:
        return await _fork_point(given.assembly, source, body)

    return await _go_on(request, given, run_id, body, actor, plan)


@router.post(
    "/v1/runs/{run_id}/retry",
    operation_id="retry_run",
    summary="Go on with an ended run from its last good step",
    status_code=201,
    response_model=None,
    responses={
        **declared(*_PROBLEMS, "invalid_transition"),
        201: {"model": RunOut, "description": "A run with the same agent, limits and budget, in the same session"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def retry_run(request: Strict, given: Given, run_id: str, actor: Actor, body: RetryRun | None = None) -> Response:
    async def plan(source: RunRow) -> tuple[Origin, list[Block]]:
        return await _last_good_step(given.assembly, source)

    return await _go_on(request, given, run_id, body or RetryRun(), actor, plan)


async def _fork_point(assembly: Assembly, source: RunRow, body: ForkRun) -> tuple[Origin, list[Block]]:
    """Up to which message it shares, and what is said after that."""
    content = [] if body.input is None else input_blocks(body.input)
    try:
        number = await assembly.journal.number_at(PROJECT, source.id, body.from_seq)
    except NoSuchNumber as missing:
        message = f"there is no message to fork at: {missing}"
        raise field_problem("validation_failed", "/from_seq", message, kind="no_such_event") from None
    if content and (await _message(assembly, source, number))["role"] == "user":
        number -= 1
    elif not content and await _ends_with_answer(assembly, source, number):
        message = f"message {number} is an answer, and nothing was said to it: give an input"
        raise field_problem("validation_failed", "/input", message, kind="missing")
    return Origin(source.id, number, body.from_seq), content


async def _last_good_step(assembly: Assembly, source: RunRow) -> tuple[Origin, list[Block]]:
    """``invalid_transition`` for a run that goes on by itself, or is done. After an answer the model is told to go
    on: vendors answer users and tools."""
    if source.status not in TERMINAL:
        raise Problem("invalid_transition", f"Run {source.id} is {source.status}: it goes on by itself.")
    if source.status == "completed":
        detail = f"Run {source.id} is completed: say more in its session, or fork it."
        raise Problem("invalid_transition", detail)
    note = GO_ON_NOTE.format(status=source.status, reason=source.stop_reason)
    answered = await _ends_with_answer(assembly, source, source.last_number)
    content: list[Block] = [{"type": "text", "text": note}] if answered else []
    return Origin(source.id, source.last_number), content


async def _ends_with_answer(assembly: Assembly, source: RunRow, number: int) -> bool:
    """Whether what a model would be shown up to this message ends with words of its own. Results of calls are shown
    where they were asked for (``core/transcript.py``), those too that came after the last words of a cancelled run."""
    while (last := await _message(assembly, source, number))["role"] == "tool":
        number -= 1
    return last["role"] == "assistant" and not _calls(last)


async def _message(assembly: Assembly, source: RunRow, number: int) -> Message:
    found = await assembly.journal.list_messages(source.session_id, after=number - 1, limit=1)
    if not found:
        raise SessionDeleted(source.session_id)
    return found[0]


def _calls(message: Message) -> bool:
    return any(block["type"] == "tool_call" for block in message["content"])


async def _go_on(
    request: JsonRequest,
    parts: Parts,
    run_id: str,
    body: RetryRun,
    actor: str,
    plan: Callable[[RunRow], Awaitable[tuple[Origin, list[Block]]]],
) -> Response:
    assembly = parts.assembly
    journal = assembly.journal

    async def act(new_id: str) -> Response:
        source = await journal.get_run(run_id, PROJECT)
        if (await journal.get_session(PROJECT, source.session_id)).deleted_ms is not None:
            raise SessionDeleted(source.session_id)
        origin, content = await plan(source)
        run = await journal.create_run(_new_run(assembly, source, body, new_id, origin, content, actor))
        await start_now(parts, run)
        headers = {"location": f"/v1/runs/{run.id}", "x-run-id": run.id}
        return JsonReply(await show_run(journal, run), 201, headers)

    reply, _ = await once(request, journal, f"run_{ULID()}", act)
    return reply


def _new_run(
    assembly: Assembly, source: RunRow, body: RetryRun, new_id: str, origin: Origin, content: list[Block], actor: str
) -> NewRun:
    """The same agent as it was, with the limits and the budget that hold now, whole again."""
    model = source.definition["model"]
    try:
        assembly.catalog.check(model)
    except UnknownModel as error:
        raise Problem("unknown_model", str(error)) from None
    budget = source.budget
    if body.budget is not None:
        budget = changed_budget(source.budget, assembly.settings, body.budget.definition())
    check_price(assembly, model, budget, "/budget/max_cost_usd")
    tools = run_toolbox(assembly.toolbox, source.definition).describe(run_tool_names(source.definition))
    check_first_call(assembly, source.definition, tools, content, budget, "/budget/{}".format)
    return NewRun(
        run_id=new_id,
        definition=source.definition,
        input=content,
        deadline_ms=deadline_from(body.deadline, assembly.settings.limits.deadline_seconds),
        limits=LimitsDefinition(**{**source.limits, **body.limits.definition()}),
        budget=budget,
        requested_by=actor,
        agent_id=source.agent_id,
        agent_version=source.agent_version,
        session_id=source.session_id if origin.seq is None else None,
        project_id=PROJECT,
        labels=source.labels,
        metadata=source.metadata,
        goes_on_from=origin,
    )
