"""Messages to a running run: accepted into its inbox, then applied or handed back, never dropped."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response
from ulid import ULID

from api.ask_rendering import inbox_message
from api.bodies import JsonRoute
from api.body import TextBlockIn
from api.budgets import check_view
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Limit, list_reply, number_cursor
from api.parts import PROJECT, Given, Strict
from api.people_bodies import MessageIn, PostMessage, ReplaceInbox
from api.people_replies import InboxMessageOut
from api.problems import Problem, declared, field_problem
from api.reply import ListReply
from perdure.content import Block, TextBlock
from perdure.core.state import TERMINAL
from perdure.store.rows import NewMessage
from perdure.store.trouble import RunOver

router = APIRouter(tags=["messages"], route_class=JsonRoute)


@router.post(
    "/v1/runs/{run_id}/messages",
    operation_id="send_message",
    summary="Say something to a run",
    status_code=202,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "run_not_found", "run_terminal", "stale_view", "idempotency_in_progress",
            "payload_too_large", "validation_failed", "idempotency_key_reused", "queue_full",
        ),
        202: {"model": InboxMessageOut, "description": "Accepted durably; events tell when it is applied or returned"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def send_message(request: Strict, given: Given, run_id: str, body: PostMessage) -> Response:
    journal = given.assembly.journal
    content = _blocks(body, "")

    async def act(message_id: str) -> Response:
        run = await journal.get_run(run_id, PROJECT)
        check_view(run, body.expected_seq)
        row = await journal.accept_message(run_id, NewMessage(message_id, content, body.delivery))
        given.nudge(run_id, *row.told)
        return JsonReply(inbox_message(row), 202, {"location": f"/v1/runs/{run_id}/messages/{row.id}"})

    reply, _ = await once(request, journal, f"msg_{ULID()}", act)
    return reply


@router.delete(
    "/v1/runs/{run_id}/messages/{message_id}",
    operation_id="withdraw_message",
    summary="Take a message back",
    response_model=None,
    responses={
        **declared("run_not_found", "message_not_found", "invalid_transition"),
        200: {"model": InboxMessageOut, "description": "The message, returned"},
    },
)
async def withdraw_message(given: Given, run_id: str, message_id: str) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    row = await journal.withdraw_message(run_id, message_id)
    if row.status == "applied":
        raise Problem("invalid_transition", f"Message {message_id} is in the transcript already.")
    given.nudge(run_id)
    return JsonReply(inbox_message(row))


@router.get(
    "/v1/runs/{run_id}/inbox",
    operation_id="list_inbox",
    summary="List the messages to a run",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor"),
        200: {"model": ListReply[InboxMessageOut], "description": "A page of messages, in their order"},
    },
)
async def list_inbox(
    given: Given,
    run_id: str,
    status: Annotated[
        Literal["waiting", "all"], Query(description="Those that wait, or those applied and returned, too.")
    ] = "waiting",
    limit: Limit = PAGE_DEFAULT,
    after: After = None,
) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    seen = number_cursor(after)
    rows = [row for row in await journal.list_inbox(run_id, waiting=status == "waiting") if row.number > seen]
    cursor = str(rows[limit - 1].number) if len(rows) > limit else None
    return list_reply([inbox_message(row) for row in rows[:limit]], cursor)


@router.put(
    "/v1/runs/{run_id}/inbox",
    operation_id="replace_inbox",
    summary="Replace all messages that wait",
    response_model=None,
    responses={
        **declared("invalid_json", "run_not_found", "run_terminal", "payload_too_large", "validation_failed"),
        200: {"model": ListReply[InboxMessageOut], "description": "All messages that wait now, in their order"},
    },
)
async def replace_inbox(given: Given, run_id: str, body: ReplaceInbox) -> Response:
    """What waited is returned, one event each."""
    journal = given.assembly.journal
    messages = [
        NewMessage(f"msg_{ULID()}", _blocks(message, f"/messages/{index}"), message.delivery)
        for index, message in enumerate(body.messages)
    ]
    run = await journal.get_run(run_id, PROJECT)
    if run.status in TERMINAL:
        raise RunOver(run_id, run.status)
    rows = await journal.replace_inbox(run_id, messages)
    given.nudge(run_id, *dict.fromkeys(told for row in rows for told in row.told))
    return list_reply([inbox_message(row) for row in rows], None)


def _blocks(message: MessageIn, pointer: str) -> list[Block]:
    """``validation_failed`` when nothing is said."""
    said = [TextBlockIn(type="text", text=message.content)] if isinstance(message.content, str) else message.content
    if not any(block.text.strip() for block in said):
        raise field_problem("validation_failed", f"{pointer}/content", "the message holds no text", kind="empty")
    return [TextBlock(type="text", text=block.text) for block in said if block.text]
