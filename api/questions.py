"""Questions: what agents ask people, over all runs, and the answers."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.actor import Actor
from api.ask_rendering import question as render_question
from api.bodies import JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.paging import PAGE_DEFAULT, After, Before, Limit, Order, page_reply
from api.parts import PROJECT, Given, Strict
from api.people_bodies import Answers
from api.people_replies import QuestionOut
from api.policies import checked_answers
from api.problems import declared
from api.reply import ListReply
from perdure.assembly import Assembly
from perdure.store.rows import AskRow, Page
from perdure.store.trouble import NotFound

QuestionStatus = Literal["open", "answered", "expired", "cancelled"]

router = APIRouter(tags=["questions"], route_class=JsonRoute)


@router.get(
    "/v1/questions",
    operation_id="list_questions",
    summary="List questions",
    response_model=None,
    responses={
        **declared("invalid_cursor"),
        200: {
            "model": ListReply[QuestionOut],
            "description": "A page, the newest first unless `order=asc`",
        },
    },
)
async def list_questions(
    given: Given,
    limit: Limit = PAGE_DEFAULT,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
    status: Annotated[list[QuestionStatus], Query(description="Questions in one of these statuses.")] = [],  # noqa: B006
    run_id: Annotated[str | None, Query(max_length=64)] = None,
    escalated: Annotated[bool | None, Query(description="Whether their time was over once.")] = None,
) -> Response:
    async def fetch(cursor: str | None, descending: bool) -> Page[AskRow]:
        return await given.assembly.journal.list_asks(
            PROJECT,
            types=("question",),
            limit=limit,
            cursor=cursor,
            descending=descending,
            statuses=status,
            run_id=run_id,
            escalated=escalated,
        )

    return await page_reply(fetch, render_question, order=order, after=after, before=before)


@router.get(
    "/v1/questions/{question_id}",
    operation_id="get_question",
    summary="Read a question",
    response_model=None,
    responses={**declared("question_not_found"), 200: {"model": QuestionOut, "description": "The question"}},
)
async def get_question(given: Given, question_id: str) -> Response:
    return JsonReply(render_question(await _find(given.assembly, question_id)))


@router.post(
    "/v1/questions/{question_id}/answer",
    operation_id="answer_question",
    summary="Answer a question",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "question_not_found", "approval_already_resolved", "approval_expired", "run_terminal",
            "idempotency_in_progress", "payload_too_large", "validation_failed", "idempotency_key_reused",
        ),
        200: {"model": QuestionOut, "description": "The question, answered"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def answer_question(request: Strict, given: Given, question_id: str, body: Answers, actor: Actor) -> Response:
    journal = given.assembly.journal

    async def act(_: str) -> Response:
        found = await _find(given.assembly, question_id)
        answers = checked_answers(found.questions or [], body.answers)
        row = await journal.answer(PROJECT, question_id, answers, actor)
        given.nudge(row.run_id)
        return JsonReply(render_question(row))

    reply, _ = await once(request, journal, question_id, act)
    return reply


async def _find(assembly: Assembly, question_id: str) -> AskRow:
    try:
        row = await assembly.journal.get_ask(PROJECT, question_id)
    except NotFound:
        raise NotFound("question", question_id) from None
    if row.type != "question":
        raise NotFound("question", question_id)
    return row
