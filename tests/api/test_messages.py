"""Messages to a running run: accepted, listed, withdrawn, replaced; applied or returned in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.core.budget import Ask
from perdure.providers.estimate import price_of
from perdure.store.rows import INBOX_WAITING_MAX, NewMessage
from tests.api.service import Service


async def say(service: Service, run_id: str, content: Any = "Look again.", **more: Any) -> Any:
    return await service.post(f"/v1/runs/{run_id}/messages", {"content": content, **more})


async def waiting(service: Service, run_id: str, query: str = "") -> list[dict[str, Any]]:
    return list((await service.get(f"/v1/runs/{run_id}/inbox?limit=100{query}")).json()["data"])


async def applied(service: Service, run_id: str, *numbers: int, turn: int = 1) -> None:
    """The model call of a turn takes these messages along."""
    await service.journal.begin_model(
        run_id,
        f"model-{turn}",
        turn,
        model="openai/priced",
        worker="w",
        ask=Ask(1_000, 1_000, price_of(service.catalog, "openai/priced")),
        apply=tuple((number, number) for number in numbers),
    )


async def test_a_message_is_accepted_durably_and_brought_to_the_run(service: Service) -> None:
    run = await service.new_run()
    reply = await say(service, run["id"])
    message = reply.json()
    assert reply.status_code == 202
    assert reply.headers["location"] == f"/v1/runs/{run['id']}/messages/{message['id']}"
    assert (message["object"], message["status"], message["delivery"]) == ("inbox_message", "accepted", "steer")
    assert (message["number"], message["content"]) == (1, [{"type": "text", "text": "Look again."}])
    assert await service.told(run["id"]) == ["message"]
    assert await waiting(service, run["id"]) == [message]
    [event] = await service.events(run["id"], "inbox.accepted")
    assert (event["message_id"], event["data"]["delivery"]) == (message["id"], "steer")


@pytest.mark.parametrize("delivery", ["steer", "enqueue", "interrupt"])
async def test_a_message_says_how_it_wants_to_come(service: Service, delivery: str) -> None:
    run = await service.new_run()
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = (await say(service, run["id"], blocks, delivery=delivery)).json()
    assert (message["delivery"], message["content"]) == (delivery, blocks)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/content"),
        ({"content": ""}, "/content"),
        ({"content": " \n"}, "/content"),
        ({"content": []}, "/content"),
        ({"content": 5}, "/content"),
        ({"content": [{"type": "image"}]}, "/content/0/type"),
        ({"content": [{"type": "text", "text": " "}]}, "/content"),
        ({"content": "a\0b"}, "/content"),
        ({"content": "x", "delivery": "shout"}, "/delivery"),
        ({"content": "x", "expected_seq": -1}, "/expected_seq"),
        ({"content": "x", "expected_seq": "2"}, "/expected_seq"),
        ({"content": "x", "role": "system"}, "/role"),
    ],
)
async def test_a_bad_message_is_refused_where_it_stands_and_nothing_is_said(
    service: Service, body: dict[str, Any], pointer: str
) -> None:
    run = await service.new_run()
    reply = await service.post(f"/v1/runs/{run['id']}/messages", body)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)
    assert await waiting(service, run["id"], "&status=all") == []


async def test_a_message_to_a_run_that_has_ended_is_refused(service: Service) -> None:
    run = await service.completed_run()
    for reply in (
        await say(service, run["id"]),
        await service.http.put(f"/v1/runs/{run['id']}/inbox", json={"messages": []}),
        await service.post(f"/v1/runs/{run['id']}/pause", {}),
        await service.post(f"/v1/runs/{run['id']}/resume", {}),
    ):
        assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


async def test_whoever_has_not_seen_what_happened_since_may_want_to_know_first(service: Service) -> None:
    run = (await service.get(f"/v1/runs/{(await service.new_run())['id']}")).json()
    await service.started(run["id"])
    for path, body in (("messages", {"content": "x"}), ("pause", {}), ("resume", {}), ("cancel", {})):
        stale = await service.post(f"/v1/runs/{run['id']}/{path}", {**body, "expected_seq": run["last_seq"]})
        assert (stale.status_code, stale.json()["code"]) == (409, "stale_view")
    assert service.runs.heard == []
    now = (await service.get(f"/v1/runs/{run['id']}")).json()["last_seq"]
    assert (await say(service, run["id"], expected_seq=now)).status_code == 202


async def test_a_message_can_be_taken_back_until_it_is_applied(service: Service) -> None:
    run = await service.new_run()
    first, second = (await say(service, run["id"], "a")).json(), (await say(service, run["id"], "b")).json()
    for _ in range(2):
        reply = await service.http.delete(f"/v1/runs/{run['id']}/messages/{first['id']}")
        assert (reply.status_code, reply.json()["status"]) == (200, "returned")
    await applied(service, run["id"], 1, 2)
    late = await service.http.delete(f"/v1/runs/{run['id']}/messages/{second['id']}")
    assert (late.status_code, late.json()["code"]) == (409, "invalid_transition")
    assert [message["status"] for message in await waiting(service, run["id"], "&status=all")] == [
        "returned", "applied",
    ]  # fmt: skip
    assert await waiting(service, run["id"]) == []
    assert len(await service.events(run["id"], "inbox.returned")) == 1
    assert await service.told(run["id"], 3) == ["message", "message", "withdraw"]


async def test_a_message_of_another_run_is_not_there(service: Service) -> None:
    run, other = await service.new_run(), await service.new_run()
    message = (await say(service, run["id"])).json()
    for message_id in (message["id"], "msg_none"):
        reply = await service.http.delete(f"/v1/runs/{other['id']}/messages/{message_id}")
        assert (reply.status_code, reply.json()["code"]) == (404, "message_not_found")
    assert len(await waiting(service, run["id"])) == 1


async def test_what_a_run_never_read_is_handed_back_when_it_ends(service: Service) -> None:
    run = await service.new_run()
    message = (await say(service, run["id"])).json()
    await service.journal.force_cancel(run["id"], "enough")
    [event] = await service.events(run["id"], "inbox.returned")
    assert event["message_id"] == message["id"]
    assert [one["status"] for one in await waiting(service, run["id"], "&status=all")] == ["returned"]


async def test_the_whole_queue_is_replaced_at_once(service: Service) -> None:
    run = await service.new_run()
    for text in "abc":
        await say(service, run["id"], text)
    body = {"messages": [{"content": "c"}, {"content": "a", "delivery": "enqueue"}]}
    reply = await service.http.put(f"/v1/runs/{run['id']}/inbox", json=body)
    assert reply.status_code == 200
    assert reply.json()["data"] == await waiting(service, run["id"])
    shown = [(one["content"][0]["text"], one["delivery"]) for one in reply.json()["data"]]
    assert shown == [("c", "steer"), ("a", "enqueue")]
    events = await service.events(run["id"], "inbox.returned")
    assert [event["data"]["reason"] for event in events] == ["replaced"] * 3
    bad = await service.http.put(f"/v1/runs/{run['id']}/inbox", json={"messages": [{"content": "x"}, {"content": " "}]})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/messages/1/content")
    assert len(await waiting(service, run["id"])) == 2
    assert (await service.http.put(f"/v1/runs/{run['id']}/inbox", json={"messages": []})).json()["data"] == []


async def test_the_queue_is_read_page_by_page(service: Service) -> None:
    run = await service.new_run()
    for text in "abcde":
        await say(service, run["id"], text)
    first = (await service.get(f"/v1/runs/{run['id']}/inbox?limit=3")).json()
    second = (await service.get(f"/v1/runs/{run['id']}/inbox?limit=3&after={first['next_cursor']}")).json()
    assert [one["content"][0]["text"] for page in (first, second) for one in page["data"]] == list("abcde")
    assert (first["has_more"], second["has_more"]) == (True, False)


async def test_a_queue_that_is_full_says_so(service: Service) -> None:
    run = await service.new_run()
    many = [
        NewMessage(f"msg_{number}", [{"type": "text", "text": "x"}], "enqueue") for number in range(INBOX_WAITING_MAX)
    ]
    await service.journal.replace_inbox(run["id"], many)
    reply = await say(service, run["id"])
    assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (429, "queue_full", True)
    await service.http.delete(f"/v1/runs/{run['id']}/messages/msg_0")
    assert (await say(service, run["id"])).status_code == 202


async def test_a_message_that_is_sent_again_under_its_key_is_one_message(service: Service) -> None:
    run = await service.new_run()
    path = f"/v1/runs/{run['id']}/messages"
    first = await service.post(path, {"content": "x"}, **{"idempotency-key": "k"})
    again = await service.post(path, {"content": "x"}, **{"idempotency-key": "k"})
    assert (again.status_code, again.content) == (202, first.content)
    assert len(await waiting(service, run["id"])) == 1


async def test_messages_keep_their_order_and_none_is_lost_in_a_crowd(service: Service) -> None:
    run = await service.new_run()
    replies = await asyncio.gather(*(say(service, run["id"], str(number)) for number in range(60)))
    assert {reply.status_code for reply in replies} == {202}
    assert sorted(reply.json()["number"] for reply in replies) == list(range(1, 61))
    assert await service.told(run["id"], 60) == ["message"] * 60
    assert len(service.runs.signals) < 60, "many orders come in one signal"


# Pause and resume ----------------------------------------------------------------------------------


async def test_pause_and_resume_are_orders_and_the_run_tells_when_they_are_carried_out(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    reply = await service.post(f"/v1/runs/{run['id']}/pause", {"reason": "lunch"})
    assert (reply.status_code, reply.json()["status"]) == (202, "running")
    assert await service.told(run["id"]) == ["pause"]
    await service.status(run["id"], "paused", reason="lunch")
    paused = (await service.get(f"/v1/runs/{run['id']}")).json()
    assert (paused["status"], paused["status_reason"]) == ("paused", "lunch")
    assert paused["waiting_for"] == [{"type": "pause", "until": None, "ref": None}]
    assert (await service.http.post(f"/v1/runs/{run['id']}/resume")).status_code == 202, "a body is not needed"
    assert await service.told(run["id"], 2) == ["pause", "resume"]


async def test_a_run_that_waits_says_for_what(service: Service) -> None:
    run = await service.new_run()
    await service.status(run["id"], "waiting", reason="rate_limit: calculator")
    waits = (await service.get(f"/v1/runs/{run['id']}")).json()["waiting_for"]
    assert waits == [{"type": "rate_limit", "until": None, "ref": "calculator"}]
    await service.status(run["id"], "paused", reason="budget_reached: max_tokens")
    waits = (await service.get(f"/v1/runs/{run['id']}")).json()["waiting_for"]
    assert waits == [{"type": "budget", "until": None, "ref": "max_tokens"}]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("body", [{"mode": "force"}, {"reason": "x" * 1_001}, {"expected_seq": True}, []])
async def test_orders_with_what_they_do_not_know_are_refused(service: Service, verb: str, body: Any) -> None:
    run = await service.new_run()
    assert (await service.post(f"/v1/runs/{run['id']}/{verb}", body)).status_code == 422
    assert service.runs.heard == []
