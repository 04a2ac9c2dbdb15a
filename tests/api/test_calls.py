"""Calls that somebody outside ends: client tools, and calls that are stuck."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.service import Service

SEARCH = {
    "name": "search",
    "description": "Search the shop.",
    "parameters": {"type": "object", "properties": {"words": {"type": "string"}}, "required": ["words"]},
}
SHOP = {"model": "openai/priced", "tools": ["charge", "ship", "calculator"]}
CHARGE = {"amount": 40, "customer": "ann"}


async def searching(service: Service, count: int = 1, **more: Any) -> tuple[str, list[dict[str, Any]]]:
    """A run that waits for its client, and the calls it waits for."""
    run = await service.new_run(agent_inline=SHOP, client_tools=[SEARCH])
    await service.started(run["id"])
    await service.asked(run["id"], *[("search", {"words": str(n)}) for n in range(count)], **more)
    return run["id"], await service.pending(run["id"])


async def give(service: Service, run_id: str, *results: dict[str, Any], **headers: str) -> Any:
    return await service.post(f"/v1/runs/{run_id}/tool_results", {"results": list(results)}, **headers)


async def last_result(service: Service, run_id: str) -> dict[str, Any]:
    [block] = (await service.get(f"/v1/runs/{run_id}/messages?limit=100")).json()["data"][-1]["content"]
    return dict(block)


async def test_a_call_of_a_client_tool_is_shown_to_the_client_with_its_arguments(service: Service) -> None:
    run_id, [call] = await searching(service)
    assert (call["object"], call["type"], call["status"]) == ("client_tool_call", "client_tool", "open")
    assert (call["tool"], call["name"], call["arguments"]) == ("search", "search", {"words": "0"})
    run = (await service.get(f"/v1/runs/{run_id}")).json()
    assert run["waiting_for"] == [{"type": "client_tool", "until": call["expires_at"], "ref": call["id"]}]


@pytest.mark.parametrize(
    ("output", "text"),
    [("found", "found"), ({"hits": 2}, '{"hits": 2}'), ([1, None], "[1, null]"), (None, "done"), (False, "false")],
)
async def test_any_json_is_a_result(service: Service, output: Any, text: str) -> None:
    run_id, [call] = await searching(service)
    reply = await give(service, run_id, {"call_id": call["call_id"], "output": output})
    assert (reply.status_code, reply.json()["pending_actions"]) == (200, [])
    assert await last_result(service, run_id) == {
        "type": "tool_result", "call_id": call["call_id"], "name": "search", "text": text, "is_error": False,
    }  # fmt: skip
    assert await service.told(run_id) == ["answer"]


async def test_an_error_is_told_to_the_model(service: Service) -> None:
    run_id, [call] = await searching(service)
    reply = await give(service, run_id, {"call_id": call["call_id"], "error": "the shop is closed"})
    assert reply.status_code == 200
    result = await last_result(service, run_id)
    assert (result["text"], result["is_error"]) == ("the shop is closed", True)


async def test_a_large_result_is_kept_beside_the_transcript_and_read_back_whole(service: Service) -> None:
    run_id, [call] = await searching(service)
    whole = "0123456789" * 20_000
    assert (await give(service, run_id, {"call_id": call["call_id"], "output": whole})).status_code == 200
    result = await last_result(service, run_id)
    assert len(result["text"]) < 5_000
    assert result["bytes"] == 200_000
    assert (await service.get(f"/v1/runs/{run_id}/results/{result['blob']}")).text == whole
    assert (await give(service, run_id, {"call_id": call["call_id"], "output": whole})).status_code == 200, "again"


async def test_results_are_taken_all_or_none(service: Service) -> None:
    run_id, [one, two] = await searching(service, 2)
    reply = await give(service, run_id, {"call_id": one["call_id"], "output": 1}, {"call_id": "call_none", "output": 2})
    assert (reply.status_code, reply.json()["code"]) == (404, "call_not_found")
    assert len(await service.pending(run_id)) == 2
    reply = await give(service, run_id, *({"call_id": call["call_id"], "output": 1} for call in (one, two)))
    assert (reply.status_code, reply.json()["pending_actions"]) == (200, [])


async def test_the_same_result_again_is_nothing_new_and_another_is_a_conflict(service: Service) -> None:
    run_id, [call] = await searching(service)
    for _ in range(2):
        assert (await give(service, run_id, {"call_id": call["call_id"], "output": 1})).status_code == 200
    other = await give(service, run_id, {"call_id": call["call_id"], "output": 2})
    assert (other.status_code, other.json()["code"]) == (409, "tool_result_conflict")
    assert (await last_result(service, run_id))["text"] == "1"


async def test_of_two_clients_that_answer_at_once_one_wins(service: Service) -> None:
    run_id, [call] = await searching(service)
    replies = await asyncio.gather(
        *(give(service, run_id, {"call_id": call["call_id"], "output": number}) for number in range(5))
    )
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409, 409]
    assert len(await service.events(run_id, "tool.completed")) == 1


async def test_a_result_that_comes_too_late_is_told_so(service: Service) -> None:
    run_id, [call] = await searching(service, ago_seconds=2 * 86_400)
    for _ in range(2):
        reply = await give(service, run_id, {"call_id": call["call_id"], "output": 1})
        assert (reply.status_code, reply.json()["code"]) == (409, "approval_expired")
        await service.journal.settle_ask(run_id, "settle-1", call["call_id"], [])


async def test_results_for_a_run_that_has_ended_are_refused(service: Service) -> None:
    run_id, [call] = await searching(service)
    await service.post(f"/v1/runs/{run_id}/cancel", {"mode": "force"})
    reply = await give(service, run_id, {"call_id": call["call_id"], "output": 1})
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


async def test_a_tool_of_ours_takes_no_result_from_a_client(service: Service) -> None:
    run = await service.new_run(agent_inline=SHOP, client_tools=[SEARCH])
    [call_id] = await service.asked(run["id"], ("calculator", {"expression": "1+1"}))
    reply = await give(service, run["id"], {"call_id": call_id, "output": 3})
    assert (reply.status_code, reply.json()["code"]) == (404, "call_not_found")


@pytest.mark.parametrize(
    ("results", "pointer"),
    [
        ([], "/results"),
        ([{"call_id": "c"}], "/results/0"),
        ([{"call_id": "c", "output": 1, "error": "x"}], "/results/0"),
        ([{"call_id": "c", "error": ""}], "/results/0/error"),
        ([{"call_id": "c", "error": 5}], "/results/0/error"),
        ([{"output": 1}], "/results/0/call_id"),
        ([{"call_id": "c", "output": 1}, {"call_id": "c", "output": 1}], "/results/1/call_id"),
        ([{"call_id": "c", "output": "a\0b"}], "/results/0/output"),
        ([{"call_id": "c", "output": 1, "is_error": True}], "/results/0/is_error"),
    ],
)
async def test_bad_results_are_refused_where_they_stand(service: Service, results: Any, pointer: str) -> None:
    run_id, [call] = await searching(service)
    filled = [{**one, "call_id": call["call_id"]} if "call_id" in one else one for one in results]
    reply = await give(service, run_id, *filled)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)
    assert len(await service.pending(run_id)) == 1


async def test_a_client_tool_that_policy_asks_about_goes_to_the_client_once_it_is_approved(service: Service) -> None:
    run = await service.new_run(
        agent_inline=SHOP, client_tools=[SEARCH], policy={"rules": [{"tool": "search", "action": "ask"}]}
    )
    await service.asked(run["id"], ("search", {"words": "x"}))
    [approval] = await service.pending(run["id"])
    assert (approval["type"], approval["rule"]) == ("approval", "run.rules[0]")
    early = await give(service, run["id"], {"call_id": approval["call_id"], "output": 1})
    assert early.status_code == 404
    await service.post(f"/v1/approvals/{approval['id']}/decide", {"decision": "approve"}, **{"x-actor": "bob"})
    [call] = await service.pending(run["id"])
    assert (call["type"], call["call_id"]) == ("client_tool", approval["call_id"])
    assert (await give(service, run["id"], {"call_id": call["call_id"], "output": 1})).status_code == 200


async def test_edited_arguments_of_a_client_tool_have_to_fit_its_schema(service: Service) -> None:
    run = await service.new_run(
        agent_inline=SHOP, client_tools=[SEARCH], policy={"rules": [{"tool": "search", "action": "ask"}]}
    )
    await service.asked(run["id"], ("search", {"words": "x"}))
    [approval] = await service.pending(run["id"])
    path = f"/v1/approvals/{approval['id']}/decide"
    bad = await service.post(path, {"decision": "edit", "edited_arguments": {"words": 5}}, **{"x-actor": "bob"})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/edited_arguments")
    good = await service.post(path, {"decision": "edit", "edited_arguments": {"words": "y"}}, **{"x-actor": "bob"})
    assert good.status_code == 200
    assert (await service.pending(run["id"]))[0]["arguments"] == {"words": "y"}


async def test_results_that_are_sent_again_under_their_key_get_the_first_reply(service: Service) -> None:
    run_id, [call] = await searching(service)
    result = {"call_id": call["call_id"], "output": {"n": 1}}
    first = await give(service, run_id, result, **{"idempotency-key": "k"})
    again = await give(service, run_id, result, **{"idempotency-key": "k"})
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")


# Recovery ------------------------------------------------------------------------------------------


async def stuck(service: Service) -> tuple[str, str]:
    """A run with a call that a worker has begun and never ends."""
    run = await service.new_run(agent_inline=SHOP)
    await service.started(run["id"])
    [call_id] = await service.asked(run["id"], ("charge", CHARGE))
    await service.journal.begin_tool(run["id"], call_id, worker="w", may_repeat=False)
    return run["id"], call_id


async def recover(service: Service, run_id: str, call_id: str, verb: str, body: Any) -> Any:
    return await service.post(f"/v1/runs/{run_id}/calls/{call_id}/{verb}", body, **{"x-actor": "bob"})


async def test_a_stuck_call_is_run_again_by_order(service: Service) -> None:
    run_id, call_id = await stuck(service)
    reply = await recover(service, run_id, call_id, "retry", {"reason": "the bank was away"})
    assert (reply.status_code, reply.json()["key"], reply.json()["status"]) == (202, call_id, "started")
    steps = (await service.get(f"/v1/runs/{run_id}/steps")).json()["data"]
    assert [step["call_id"] for step in steps] == [None, call_id], "model calls are not retried by hand"
    assert await service.told(run_id) == ["retry_call"]
    [event] = await service.events(run_id, "tool.retrying")
    assert "bob" in event["data"]["message"]
    assert "the bank was away" in event["data"]["message"]


async def test_a_stuck_call_is_ended_with_a_reason(service: Service) -> None:
    run_id, call_id = await stuck(service)
    reply = await recover(service, run_id, call_id, "abort", {"reason": "the bank is closed"})
    assert (reply.status_code, reply.json()["status"]) == (200, "failed")
    result = await last_result(service, run_id)
    assert (result["text"], result["is_error"]) == ("the bank is closed", True)
    assert await service.told(run_id) == ["answer"]


async def test_a_stuck_call_gets_its_result_by_hand(service: Service) -> None:
    run_id, call_id = await stuck(service)
    reply = await recover(service, run_id, call_id, "result", {"output": {"receipt": 7}})
    assert (reply.status_code, reply.json()["status"]) == (200, "completed")
    assert json.loads((await last_result(service, run_id))["text"]) == {"receipt": 7}
    assert await service.told(run_id) == ["answer"]


@pytest.mark.parametrize(("verb", "body"), [("retry", {}), ("abort", {"reason": "x"}), ("result", {"output": 1})])
async def test_a_call_that_has_ended_is_not_touched_any_more(service: Service, verb: str, body: Any) -> None:
    run_id, call_id = await stuck(service)
    await recover(service, run_id, call_id, "abort", {"reason": "first"})
    reply = await recover(service, run_id, call_id, verb, body)
    assert (reply.status_code, reply.json()["code"]) == (409, "tool_result_conflict")
    assert (await last_result(service, run_id))["text"] == "first"


@pytest.mark.parametrize(("verb", "body"), [("retry", {}), ("abort", {"reason": "x"}), ("result", {"output": 1})])
async def test_recovery_needs_a_tool_call_of_a_living_run(service: Service, verb: str, body: Any) -> None:
    run_id, call_id = await stuck(service)
    for unknown in ("call_none", "model-1"):
        reply = await recover(service, run_id, unknown, verb, body)
        assert (reply.status_code, reply.json()["code"]) == (404, "call_not_found")
    await service.journal.force_cancel(run_id, "enough")
    reply = await recover(service, run_id, call_id, verb, body)
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


@pytest.mark.parametrize(
    ("verb", "body", "pointer"),
    [
        ("retry", {"reason": 5}, "/reason"),
        ("abort", {}, "/reason"),
        ("abort", {"reason": ""}, "/reason"),
        ("abort", {"reason": "x" * 1_001}, "/reason"),
        ("result", {}, "/output"),
        ("result", {"output": 1, "status": "completed"}, "/status"),
    ],
)
async def test_recovery_with_a_bad_body_is_refused(service: Service, verb: str, body: Any, pointer: str) -> None:
    run_id, call_id = await stuck(service)
    reply = await recover(service, run_id, call_id, verb, body)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_recovery_is_no_way_around_an_approval(service: Service) -> None:
    run = await service.new_run(agent_inline=SHOP)
    [call_id] = await service.asked(run["id"], ("ship", {"parcel": "p"}))
    for verb, body in (("retry", {}), ("result", {"output": "sent"})):
        reply = await recover(service, run["id"], call_id, verb, body)
        assert (reply.status_code, reply.json()["code"]) == (409, "invalid_transition")
    [approval] = await service.pending(run["id"])
    assert approval["status"] == "open"
    assert service.runs.heard == []
