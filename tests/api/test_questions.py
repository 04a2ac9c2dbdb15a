"""Questions over HTTP: what ``ask_user`` asks, and answers that fit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.service import Service

ASKER = {"model": "openai/priced", "tools": ["ask_user", "calculator"]}
QUESTIONS = [
    {"id": "city", "question": "Where to?", "options": ["Rome", {"value": "Oslo", "description": "cold"}]},
    {"id": "extras", "question": "What else?", "options": ["bike", "boat"], "multiple": True, "default": []},
    {"id": "days", "question": "How long?", "answer_schema": {"type": "integer", "minimum": 1}},
    {"id": "note", "question": "Anything?", "default": "nothing"},
]
GOOD = {"city": "Oslo", "extras": ["boat"], "days": 3}


async def asked(service: Service, questions: Any = QUESTIONS, **more: Any) -> tuple[str, dict[str, Any]]:
    """A run that waits for answers, and the question."""
    run = await service.new_run(agent_inline=ASKER)
    await service.started(run["id"])
    await service.asked(run["id"], ("ask_user", {"questions": questions}), **more)
    [question] = await service.pending(run["id"])
    return run["id"], question


async def answer(service: Service, question: dict[str, Any], answers: Any, *, by: str = "bob") -> Any:
    return await service.post(f"/v1/questions/{question['id']}/answer", {"answers": answers}, **{"x-actor": by})


async def test_a_question_shows_what_may_be_answered(service: Service) -> None:
    run_id, question = await asked(service)
    assert (question["type"], question["object"], question["status"]) == ("question", "question", "open")
    assert question["questions"][0]["options"] == [{"value": "Rome"}, {"value": "Oslo", "description": "cold"}]
    assert [one["multiple"] for one in question["questions"]] == [False, True, False, False]
    assert (await service.get(f"/v1/questions/{question['id']}")).json() == question
    run = (await service.get(f"/v1/runs/{run_id}")).json()
    assert run["waiting_for"] == [{"type": "question", "until": question["expires_at"], "ref": question["id"]}]


async def test_answers_are_the_calls_result_with_the_defaults_of_what_was_left_out(service: Service) -> None:
    run_id, question = await asked(service)
    reply = await answer(service, question, GOOD)
    assert (reply.status_code, reply.json()["status"], reply.json()["answered_by"]) == (200, "answered", "bob")
    assert reply.json()["answers"] == {**GOOD, "note": "nothing"}
    [result] = (await service.get(f"/v1/runs/{run_id}/messages")).json()["data"][-1]["content"]
    assert json.loads(result["text"]) == {**GOOD, "note": "nothing"}
    assert await service.told(run_id) == ["answer"]
    [event] = await service.events(run_id, "question.answered")
    assert event["data"]["by"] == "bob"


@pytest.mark.parametrize(
    ("answers", "pointers"),
    [
        ({}, ["/answers/city", "/answers/days"]),
        ({**GOOD, "city": "Paris"}, ["/answers/city"]),
        ({**GOOD, "city": ["Rome"]}, ["/answers/city"]),
        ({**GOOD, "extras": "boat"}, ["/answers/extras"]),
        ({**GOOD, "extras": ["boat", "car"]}, ["/answers/extras/1"]),
        ({**GOOD, "days": 0}, ["/answers/days"]),
        ({**GOOD, "days": "3"}, ["/answers/days"]),
        ({**GOOD, "note": "  "}, ["/answers/note"]),
        ({**GOOD, "colour": "red"}, ["/answers/colour"]),
        ({"city": 1, "days": 0.5, "extras": [], "note": None}, ["/answers/city", "/answers/days", "/answers/note"]),
    ],
)
async def test_answers_that_do_not_fit_are_refused_each_where_it_stands(
    service: Service, answers: dict[str, Any], pointers: list[str]
) -> None:
    _, question = await asked(service)
    reply = await answer(service, question, answers)
    assert (reply.status_code, reply.json()["code"]) == (422, "validation_failed")
    assert list(dict.fromkeys(error["pointer"] for error in reply.json()["errors"])) == pointers
    assert (await service.get(f"/v1/questions/{question['id']}")).json() == question


@pytest.mark.parametrize("body", [{}, {"answers": []}, {"answers": {"": 1}}, {"answers": GOOD, "by": "eve"}])
async def test_a_body_that_is_no_answer_is_refused(service: Service, body: Any) -> None:
    _, question = await asked(service)
    assert (await service.post(f"/v1/questions/{question['id']}/answer", body)).status_code == 422


async def test_the_same_answers_again_act_once_and_others_are_too_late(service: Service) -> None:
    run_id, question = await asked(service)
    for _ in range(2):
        assert (await answer(service, question, GOOD)).status_code == 200
    other = await answer(service, question, {**GOOD, "days": 4}, by="cat")
    assert (other.status_code, other.json()["code"]) == (409, "approval_already_resolved")
    assert len(await service.events(run_id, "question.answered")) == 1


async def test_of_two_who_answer_at_once_one_wins(service: Service) -> None:
    run_id, question = await asked(service)
    replies = await asyncio.gather(
        answer(service, question, GOOD, by="bob"), answer(service, question, {**GOOD, "days": 9}, by="cat")
    )
    assert sorted(reply.status_code for reply in replies) == [200, 409]
    [event] = await service.events(run_id, "question.answered")
    [won] = [reply.json() for reply in replies if reply.status_code == 200]
    assert event["data"]["by"] == won["answered_by"]


async def test_a_question_whose_time_is_over_takes_no_answer(service: Service) -> None:
    run_id, question = await asked(service, ago_seconds=4 * 86_400)
    reply = await answer(service, question, GOOD)
    assert (reply.status_code, reply.json()["code"]) == (409, "approval_expired")
    await service.journal.settle_ask(run_id, "settle-1", question["call_id"], [])
    assert (await service.get(f"/v1/questions/{question['id']}")).json()["status"] == "expired"


async def test_a_question_of_a_run_that_has_ended_takes_no_answer(service: Service) -> None:
    run_id, question = await asked(service)
    await service.post(f"/v1/runs/{run_id}/cancel", {"mode": "force"})
    reply = await answer(service, question, GOOD)
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


async def test_questions_are_listed_over_all_runs_and_are_no_approvals(service: Service) -> None:
    asks = [await asked(service) for _ in range(2)]
    await answer(service, asks[0][1], GOOD)

    async def found(query: str) -> list[str]:
        return [row["id"] for row in (await service.get(f"/v1/questions?{query}")).json()["data"]]

    ids = [question["id"] for _, question in asks]
    assert await found("") == ids[::-1]
    assert await found("status=open") == [ids[1]]
    assert await found(f"run_id={asks[0][0]}") == [ids[0]]
    assert (await service.get("/v1/approvals")).json()["data"] == []
    wrong = await service.post(f"/v1/approvals/{ids[1]}/decide", {"decision": "approve"})
    assert (wrong.status_code, wrong.json()["code"]) == (404, "approval_not_found")


async def test_other_tools_of_the_turn_go_on_while_people_are_asked(service: Service) -> None:
    run = await service.new_run(agent_inline=ASKER)
    ids = await service.asked(
        run["id"], ("ask_user", {"questions": [QUESTIONS[3]]}), ("calculator", {"expression": "1+1"})
    )
    await service.used_tool(run["id"], ids[1], "2")
    [question] = await service.pending(run["id"])
    assert (await answer(service, question, {"note": "no"})).status_code == 200


async def test_an_answer_that_is_sent_again_under_its_key_gets_the_first_reply(service: Service) -> None:
    _, question = await asked(service)
    path = f"/v1/questions/{question['id']}/answer"
    first = await service.post(path, {"answers": GOOD}, **{"idempotency-key": "k"})
    again = await service.post(path, {"answers": GOOD}, **{"idempotency-key": "k"})
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
