"""A session that is busy, forks of runs, and retries."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.core.state import Failure, Outcome
from perdure.core.transcript import NOT_EXECUTED
from tests.api.service import HELLO, Service


async def failed_run(service: Service, **more: Any) -> dict[str, Any]:
    run = await service.new_run(**more)
    await service.started(run["id"])
    await end(service, run["id"], "failed")
    return run


async def end(service: Service, run_id: str, status: Any) -> None:
    failure = Failure("retries_exhausted", "the vendor is away") if status == "failed" else None
    await service.journal.record(run_id, "finish", [], Outcome(status, "retries_exhausted", failure))
    service.runs.open.discard(run_id)


def texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"][-1].get("text", "")) for message in messages]


async def transcript(service: Service, session_id: str) -> list[tuple[str, str]]:
    return texts((await service.get(f"/v1/sessions/{session_id}/messages")).json()["data"])


# A busy session ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["steer", "enqueue", "interrupt"])
async def test_what_is_said_to_a_busy_session_reaches_its_active_run(service: Service, delivery: str) -> None:
    run = await service.new_run()
    again = {**HELLO, "session_id": run["session_id"], "input": "And that.", "on_conflict": delivery}
    reply = await service.post("/v1/runs", again)
    assert (reply.status_code, reply.json()["id"], reply.headers["location"]) == (
        202, run["id"], f"/v1/runs/{run['id']}",
    )  # fmt: skip
    (message,) = (await service.get(f"/v1/runs/{run['id']}/inbox")).json()["data"]
    assert (message["id"], message["delivery"], message["content"]) == (
        reply.json()["inbox_message_id"], delivery, [{"type": "text", "text": "And that."}],
    )  # fmt: skip
    assert await service.told(run["id"]) == ["message"]
    assert await service.count("/v1/runs") == 1


async def test_a_busy_session_refuses_unless_told_otherwise_and_a_free_one_starts_a_run(service: Service) -> None:
    run = await service.new_run()
    for body in ({}, {"on_conflict": "reject"}):
        refused = await service.post("/v1/runs", {**HELLO, "session_id": run["session_id"], **body})
        assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    await service.finished(run["id"])
    free = await service.post("/v1/runs", {**HELLO, "session_id": run["session_id"], "on_conflict": "steer"})
    assert (free.status_code, free.json()["session_id"]) == (201, run["session_id"])
    wrong = await service.post("/v1/runs", {**HELLO, "on_conflict": "shout"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/on_conflict")


async def test_what_is_said_to_a_busy_session_under_one_key_is_said_once(service: Service) -> None:
    run = await service.new_run()
    body = {**HELLO, "session_id": run["session_id"], "on_conflict": "enqueue"}
    first, second = [await service.post("/v1/runs", body, **{"idempotency-key": "k"}) for _ in range(2)]
    assert (first.json(), second.status_code) == (second.json(), 202)
    assert len((await service.get(f"/v1/runs/{run['id']}/inbox")).json()["data"]) == 1


async def test_a_stream_of_a_busy_session_shows_its_active_run_from_here_on(service: Service) -> None:
    run = await service.new_run()
    body = {**HELLO, "session_id": run["session_id"], "on_conflict": "enqueue", "stream": True}
    async with service.http.stream("POST", "/v1/runs", json=body) as reply:
        assert (reply.status_code, reply.headers["x-run-id"]) == (202, run["id"])
        await service.finished(run["id"])
        text = "".join([chunk async for chunk in reply.aiter_text()])
    assert "event: run.completed" in text
    assert "event: run.created" not in text


# Forks of runs ----------------------------------------------------------------------------------------


async def working_run(service: Service) -> dict[str, Any]:
    """Said: 1 user, 2 answer with two calls, 3 and 4 their results."""
    run = await service.new_run(labels={"team": "blue"}, limits={"max_turns": 7}, budget={"max_cost_usd": "1.00"})
    await service.started(run["id"])
    calls = await service.answered(run["id"], "Let me see.", calls=2)
    for number, call in enumerate(calls, 1):
        await service.used_tool(run["id"], call, f"result {number}")
    return run


async def seqs(service: Service, run_id: str) -> list[int]:
    return [event["seq"] for event in await service.events(run_id, "message.added")]


async def test_a_fork_goes_on_from_an_event_with_what_was_paid_before(service: Service) -> None:
    run = await working_run(service)
    at = (await seqs(service, run["id"]))[3]
    reply = await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": at})
    fork = reply.json()
    assert (reply.status_code, reply.headers["location"]) == (201, f"/v1/runs/{fork['id']}")
    assert (fork["forked_from"], fork["retry_of"]) == ({"run_id": run["id"], "seq": at}, None)
    assert fork["session_id"] != run["session_id"]
    assert (fork["input"], fork["labels"], fork["limits"]["max_turns"]) == (run["input"], {"team": "blue"}, 7)
    assert (fork["usage"]["cost_usd"], fork["budget"]["left"]["max_cost_usd"]) == ("0.00", "1.00")
    assert ("start", fork["id"]) in service.runs.orders
    shared = await transcript(service, fork["session_id"])
    assert shared == await transcript(service, run["session_id"])
    assert await service.count(f"/v1/runs/{fork['id']}/messages") == 0
    session = (await service.get(f"/v1/sessions/{fork['session_id']}")).json()
    assert session["forked_from"] == {"session_id": run["session_id"], "number": 4}
    assert (await service.get(f"/v1/runs/{fork['id']}")).json() == fork


async def test_a_fork_in_the_middle_of_a_turn_runs_no_call_again(service: Service) -> None:
    run = await working_run(service)
    numbers = await seqs(service, run["id"])
    for place, said in ((1, ["tool", "tool"]), (2, ["tool"])):
        fork = (await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": numbers[place]})).json()
        own = texts((await service.get(f"/v1/runs/{fork['id']}/messages")).json()["data"])
        assert own == [(role, NOT_EXECUTED) for role in said]


async def test_a_fork_with_another_input_puts_it_in_the_place_of_the_last_message(service: Service) -> None:
    run = await working_run(service)
    numbers = await seqs(service, run["id"])
    edited = (await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": numbers[0], "input": "Bye."})).json()
    assert await transcript(service, edited["session_id"]) == [("user", "Bye.")]
    assert edited["input"] == [{"type": "text", "text": "Bye."}]
    after = (await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": numbers[3], "input": "Hm."})).json()
    assert (await transcript(service, after["session_id"]))[2:] == [
        ("tool", "result 1"), ("tool", "result 2"), ("user", "Hm."),
    ]  # fmt: skip
    second = (await service.post(f"/v1/runs/{after['id']}/fork", {"from_seq": 2, "input": "No."})).json()
    assert (await transcript(service, second["session_id"]))[3:] == [("tool", "result 2"), ("user", "No.")]


async def test_a_fork_where_there_is_nothing_to_fork_is_refused(service: Service) -> None:
    run = await service.completed_run()
    answer = (await seqs(service, run["id"]))[-1]
    for body, pointer in (
        ({"from_seq": 1}, "/from_seq"),
        ({"from_seq": 99}, "/from_seq"),
        ({"from_seq": 0}, "/from_seq"),
        ({}, "/from_seq"),
        ({"from_seq": answer}, "/input"),
        ({"from_seq": 2, "input": "  "}, "/input"),
        ({"from_seq": 2, "limits": {"max_turns": 0}}, "/limits/max_turns"),
        ({"from_seq": 2, "deadline": "2020-01-01T00:00:00Z"}, "/deadline"),
    ):
        refused = await service.post(f"/v1/runs/{run['id']}/fork", body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer), body
    too_small = await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": 2, "budget": {"max_tokens": 1}})
    assert (too_small.status_code, too_small.json()["code"]) == (402, "budget_too_small")
    assert too_small.json()["errors"][0]["pointer"] == "/budget/max_tokens"
    assert (await service.post("/v1/runs/run_none/fork", {"from_seq": 2})).status_code == 404
    assert (await service.count("/v1/runs"), await service.count("/v1/sessions")) == (1, 1)


async def test_a_fork_under_one_key_is_one_run_with_its_own_limits(service: Service) -> None:
    run = await working_run(service)
    body = {"from_seq": 2, "limits": {"max_turns": 3}, "budget": {"max_cost_usd": "2.00"}}
    first, second = [
        await service.post(f"/v1/runs/{run['id']}/fork", body, **{"idempotency-key": "f", "x-actor": "ann"})
        for _ in range(2)
    ]
    assert first.json() == second.json()
    shown = first.json()
    assert (shown["limits"]["max_turns"], shown["budget"]["limit"]["max_cost_usd"], shown["requested_by"]) == (
        3, "2.00", "ann",
    )  # fmt: skip


# Retries ----------------------------------------------------------------------------------------------


async def test_a_retry_goes_on_in_the_same_session_and_says_nothing_new(service: Service) -> None:
    run = await failed_run(service)
    reply = await service.http.post(f"/v1/runs/{run['id']}/retry")
    retry = reply.json()
    assert (reply.status_code, retry["retry_of"], retry["forked_from"]) == (201, run["id"], None)
    assert (retry["session_id"], retry["input"], retry["status"]) == (run["session_id"], run["input"], "queued")
    assert await transcript(service, run["session_id"]) == [("user", "Say hello.")]
    busy = await service.http.post(f"/v1/runs/{run['id']}/retry")
    assert (busy.status_code, busy.json()["code"]) == (409, "session_busy")


async def test_a_retry_after_last_words_tells_the_model_to_go_on(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    await service.answered(run["id"], "I am half done.")
    await end(service, run["id"], "incomplete")
    retry = (await service.post(f"/v1/runs/{run['id']}/retry", {"limits": {"max_turns": 9}})).json()
    said = await transcript(service, run["session_id"])
    assert said[-1][0] == "user"
    assert "ended incomplete (retries_exhausted)" in said[-1][1]
    assert retry["limits"]["max_turns"] == 9


async def test_last_words_of_a_run_whose_call_was_open_are_an_answer_too(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    await service.answered(run["id"], calls=1)
    await service.answered(run["id"], "I got so far.", turn=2)
    await end(service, run["id"], "cancelled")
    assert [role for role, _ in await transcript(service, run["session_id"])] == [
        "user",
        "assistant",
        "assistant",
        "tool",
    ]
    body = {"from_seq": (await seqs(service, run["id"]))[-1]}
    refused = await service.post(f"/v1/runs/{run['id']}/fork", body)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/input")
    assert (await service.post(f"/v1/runs/{run['id']}/retry", {})).status_code == 201
    said = await transcript(service, run["session_id"])
    assert said[-1][0] == "user"
    assert "ended cancelled" in said[-1][1]


async def test_what_goes_on_or_is_done_or_was_overtaken_is_not_retried(service: Service) -> None:
    running, done = await service.new_run(), await service.completed_run()
    overtaken = await failed_run(service)
    later = await service.new_run(session_id=overtaken["session_id"])
    await end(service, later["id"], "failed")
    for run in (running, done, overtaken):
        refused = await service.post(f"/v1/runs/{run['id']}/retry", {})
        assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")
    assert (await service.post("/v1/runs/run_none/retry", {})).status_code == 404
