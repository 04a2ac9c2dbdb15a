"""Sessions and transcripts: the messages of a conversation or of one run, the steps, the whole of results
that were too large for a transcript."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse
from ulid import ULID

from api.bodies import JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, list_reply, number_cursor, page_reply
from api.parts import PROJECT, Given, Strict
from api.problems import Problem, declared, field_problem
from api.pruning import erase_workspaces
from api.rendering import message as render_message
from api.rendering import session as render_session
from api.rendering import step as render_step
from api.replies import MessageOut, SessionOut, StepOut
from api.reply import ListReply
from api.requests import CreateSession, ForkSession
from perdure.store.journal import Journal
from perdure.store.rows import Page, SessionRow
from perdure.store.trouble import NoSuchNumber, SessionDeleted

CHUNK_BYTES = 256 * 1024  # of a large result at once: bounds memory, few round trips

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/v1/sessions",
    tags=["sessions"],
    operation_id="create_session",
    summary="Open a conversation",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused",
        ),
        201: {"model": SessionOut, "description": "The session"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def create_session(request: Strict, given: Given, body: CreateSession | None = None) -> Response:
    journal, wanted = given.assembly.journal, body or CreateSession()

    async def act(session_id: str) -> Response:
        row = await journal.create_session(PROJECT, session_id, labels=wanted.labels, metadata=wanted.metadata)
        return _session_reply(row, 201, {"location": f"/v1/sessions/{row.id}"})

    reply, _ = await once(request, journal, f"ses_{ULID()}", act)
    return reply


@router.get(
    "/v1/sessions",
    tags=["sessions"],
    operation_id="list_sessions",
    summary="List conversations",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {"model": ListReply[SessionOut], "description": "A page of sessions, the newest first unless `order=asc`"},
    },
)
async def list_sessions(
    given: Given, limit: Limit = PAGE_DEFAULT, order: Order = "desc", after: After = None, before: Before = None
) -> Response:
    async def fetch(cursor: str | None, descending: bool) -> Page[SessionRow]:
        return await given.assembly.journal.list_sessions(PROJECT, limit=limit, cursor=cursor, descending=descending)

    return await page_reply(fetch, render_session, order=order, after=after, before=before)


@router.get(
    "/v1/sessions/{session_id}",
    tags=["sessions"],
    operation_id="get_session",
    summary="Read a conversation's head",
    response_model=None,
    responses={**declared("session_not_found"), 200: {"model": SessionOut, "description": "The session"}},
)
async def get_session(given: Given, session_id: str) -> Response:
    return _session_reply(await given.assembly.journal.get_session(PROJECT, session_id), 200, {})


@router.post(
    "/v1/sessions/{session_id}/fork",
    tags=["sessions"],
    operation_id="fork_session",
    summary="Open a conversation that begins as another one did",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "session_not_found", "session_deleted", "idempotency_in_progress", "payload_too_large",
            "validation_failed", "idempotency_key_reused",
        ),
        201: {"model": SessionOut, "description": "The new session; its first messages are shared, not copied"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def fork_session(request: Strict, given: Given, session_id: str, body: ForkSession | None = None) -> Response:
    journal, wanted = given.assembly.journal, body or ForkSession()

    async def act(new_id: str) -> Response:
        try:
            row = await journal.fork_session(
                PROJECT, new_id, session_id, wanted.at_number, labels=wanted.labels, metadata=wanted.metadata
            )
        except NoSuchNumber as missing:
            message = f"the newest message of {session_id} is {missing.last}"
            raise field_problem("validation_failed", "/at_number", message, kind="no_such_number") from None
        return _session_reply(row, 201, {"location": f"/v1/sessions/{row.id}"})

    reply, _ = await once(request, journal, f"ses_{ULID()}", act)
    return reply


@router.delete(
    "/v1/sessions/{session_id}",
    tags=["sessions"],
    operation_id="delete_session",
    summary="Erase a conversation",
    status_code=204,
    response_model=None,
    responses={
        **declared("session_not_found", "session_busy"),
        204: {"description": "What was said is erased, by sub-agents, too. Tombstones stay; runs keep their numbers"},
    },
)
async def delete_session(given: Given, session_id: str) -> Response:
    await erase_workspaces(given, await given.assembly.journal.delete_session(PROJECT, session_id))
    return Response(status_code=204)


def _session_reply(row: SessionRow, status: int, headers: dict[str, str]) -> Response:
    return JsonReply(render_session(row), status, {**headers, "etag": f'"{row.last_number}-{row.updated_ms}"'})


# Transcripts --------------------------------------------------------------------------------------


@router.get(
    "/v1/sessions/{session_id}/messages",
    tags=["sessions"],
    operation_id="list_session_messages",
    summary="Read a conversation's transcript",
    response_model=None,
    responses={
        **declared("session_not_found", "session_deleted", "invalid_cursor"),
        200: {"model": ListReply[MessageOut], "description": "A page of messages, in their order"},
    },
)
async def list_session_messages(
    given: Given, session_id: str, limit: Limit = PAGE_DEFAULT, after: After = None
) -> Response:
    if (await given.assembly.journal.get_session(PROJECT, session_id)).deleted_ms is not None:
        raise SessionDeleted(session_id)
    return await _messages(given.assembly.journal, session_id, None, limit, after)


@router.get(
    "/v1/runs/{run_id}/messages",
    tags=["runs"],
    operation_id="list_run_messages",
    summary="Read what a run added to the transcript",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor"),
        200: {"model": ListReply[MessageOut], "description": "A page of messages, in their order"},
    },
)
async def list_run_messages(given: Given, run_id: str, limit: Limit = PAGE_DEFAULT, after: After = None) -> Response:
    run = await given.assembly.journal.get_run(run_id, PROJECT)
    return await _messages(given.assembly.journal, run.session_id, run.id, limit, after)


async def _messages(journal: Journal, session_id: str, run_id: str | None, limit: int, after: str | None) -> Response:
    entries = await journal.list_messages(session_id, after=number_cursor(after), limit=limit + 1, run_id=run_id)
    shown = entries[:limit]
    cursor = str(shown[-1]["number"]) if len(entries) > limit else None
    return list_reply([render_message(entry) for entry in shown], cursor)


@router.get(
    "/v1/runs/{run_id}/steps",
    tags=["runs"],
    operation_id="list_run_steps",
    summary="List a run's model and tool calls",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor"),
        200: {"model": ListReply[StepOut], "description": "A page of steps, in the order in which they were asked for"},
    },
)
async def list_run_steps(given: Given, run_id: str, limit: Limit = PAGE_DEFAULT, after: After = None) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    skip = number_cursor(after)
    rows = await journal.list_calls(run_id, after=skip, limit=limit + 1)
    return list_reply([render_step(row) for row in rows[:limit]], str(skip + limit) if len(rows) > limit else None)


@router.get(
    "/v1/runs/{run_id}/results/{blob_id}",
    tags=["runs"],
    operation_id="read_run_result",
    summary="Read the whole of a large tool result",
    response_model=None,
    responses={
        **declared("run_not_found", "result_not_found"),
        200: {"description": "The text as the tool gave it", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
async def read_run_result(given: Given, run_id: str, blob_id: str) -> Response:
    """Only results that the run's own session refers to: a blob's id alone opens nothing."""
    journal = given.assembly.journal
    run = await journal.get_run(run_id, PROJECT)
    size = await _size_of_result(journal, run.session_id, blob_id)
    if size is None:
        raise Problem("result_not_found", f"Run {run_id} has no result {blob_id[:80]!r}.")
    first = await journal.get_blob(blob_id, offset=0, length=CHUNK_BYTES)  # what is missing is told before the 200

    async def body() -> AsyncIterator[bytes]:
        yield first
        for offset in range(CHUNK_BYTES, size, CHUNK_BYTES):
            yield await journal.get_blob(blob_id, offset=offset, length=CHUNK_BYTES)

    return StreamingResponse(body(), media_type="text/plain; charset=utf-8", headers={"content-length": str(size)})


async def _size_of_result(journal: Journal, session_id: str, blob_id: str) -> int | None:
    after = 0
    while entries := await journal.list_messages(session_id, after=after, limit=200):
        for entry in entries:
            for block in entry["content"]:
                if block["type"] == "tool_result" and block.get("blob") == blob_id:
                    return block.get("bytes", 0)
        after = entries[-1]["number"]
    return None
