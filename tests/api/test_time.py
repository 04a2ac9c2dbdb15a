"""Timers, signals and late starts over HTTP: what wakes a run, and what cannot be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.service import HELLO, Service

SLEEPER = {"model": "openai/priced", "tools": ["sleep", "wait_for_event", "calculator"]}
WAIT = ("wait_for_event", {"name": "order.paid", "match": {"id": 7}, "timeout_seconds": 600})
SLEEP = ("sleep", {"for_seconds": 600, "reason": "the market opens"})


async def asleep(service: Service, *calls: tuple[str, dict[str, Any]], **more: Any) -> str:
    run = await service.new_run(agent_inline=SLEEPER, **more)
    await service.started(run["id"])
    await service.asked(run["id"], *(calls or (SLEEP,)))
    await service.status(run["id"], "waiting", reason="timer")
    return str(run["id"])


async def timers(service: Service, run_id: str, status: str = "open") -> list[dict[str, Any]]:
    return list((await service.get(f"/v1/runs/{run_id}/timers?status={status}")).json()["data"])


async def result(service: Service, run_id: str) -> Any:
    [block] = (await service.get(f"/v1/runs/{run_id}/messages")).json()["data"][-1]["content"]
    return json.loads(block["text"])


async def test_a_sleeping_run_asks_nobody_and_shows_until_when_it_sleeps(service: Service) -> None:
    run_id = await asleep(service)
    run = (await service.get(f"/v1/runs/{run_id}", prefer="wait=0")).json()
    [timer] = await timers(service, run_id)
    assert run["pending_actions"] == []
    assert run["waiting_for"] == [{"type": "timer", "until": timer["until"], "ref": timer["id"]}]
    assert (timer["object"], timer["status"], timer["reason"]) == ("timer", "open", "the market opens")
    assert (await service.get("/v1/approvals")).json()["data"] == []


async def test_a_run_that_asks_and_sleeps_is_at_rest_only_while_somebody_is_asked(service: Service) -> None:
    agent = {**SLEEPER, "tools": ["sleep", "ask_user"]}
    run = await service.new_run(agent_inline=agent)
    await service.started(run["id"])
    await service.asked(run["id"], SLEEP, ("ask_user", {"questions": [{"id": "q", "question": "Why?"}]}))
    await service.status(run["id"], "requires_action", reason="question, timer", actions=[])
    [question] = await service.pending(run["id"])
    await service.post(f"/v1/questions/{question['id']}/answer", {"answers": {"q": "so"}})
    shown = (await service.get(f"/v1/runs/{run['id']}", prefer="wait=1")).json()
    assert (shown["pending_actions"], [one["type"] for one in shown["waiting_for"]]) == ([], ["timer"])


async def test_a_timer_is_fired_once_and_the_run_hears_of_it(service: Service) -> None:
    run_id = await asleep(service)
    [timer] = await timers(service, run_id)
    path = f"/v1/runs/{run_id}/timers/{timer['id']}"
    for _ in range(2):
        reply = await service.post(f"{path}/fire", {}, **{"x-actor": "ada"})
        assert (reply.status_code, reply.json()["status"], reply.json()["ended_by"]) == (200, "fired", "ada")
    late = await service.post(f"{path}/cancel", {}, **{"x-actor": "bob"})
    assert (late.status_code, late.json()["code"]) == (409, "invalid_transition")
    assert await service.told(run_id) == ["answer"]
    assert (await result(service, run_id))["by"] == "ada"
    assert await timers(service, run_id) == []
    assert [one["id"] for one in await timers(service, run_id, "fired")] == [timer["id"]]
    assert (await service.post(f"/v1/runs/{run_id}/timers/tmr_1/fire", {})).json()["code"] == "timer_not_found"
    other = await asleep(service)
    assert (await service.post(f"/v1/runs/{other}/timers/{timer['id']}/fire", {})).status_code == 404
    assert (await service.get("/v1/runs/run_none/timers")).json()["code"] == "run_not_found"


async def test_a_signal_reaches_the_call_that_waits_for_it(service: Service) -> None:
    run_id = await asleep(service, WAIT)
    [wait] = (await service.get(f"/v1/runs/{run_id}")).json()["waiting_for"]
    assert (wait["type"], wait["ref"]) == ("event", "order.paid")
    path = f"/v1/runs/{run_id}/signals/order.paid"
    assert (await service.post(path, {"payload": {"id": 8}})).json()["disposition"] == "buffered"
    reply = await service.post(path, {"payload": {"id": 7}, "dedupe_key": "x"}, **{"idempotency-key": "k"})
    assert (reply.status_code, reply.json()["disposition"]) == (202, "delivered")
    again = await service.post(path, {"payload": {"id": 7}, "dedupe_key": "x"}, **{"idempotency-key": "k"})
    assert (again.json(), again.headers["idempotent-replayed"]) == (reply.json(), "true")
    assert (await service.post(path, {"payload": {"id": 7}, "dedupe_key": "x"})).json()["disposition"] == "duplicate"
    assert await service.told(run_id) == ["answer"]
    assert (await result(service, run_id))["payload"] == {"id": 7}
    events = await service.events(run_id, "signal.received")
    assert [one["data"]["disposition"] for one in events] == ["buffered", "delivered", "duplicate"]


async def test_a_signal_without_a_body_is_a_signal(service: Service) -> None:
    run_id = await asleep(service)
    reply = await service.http.post(f"/v1/runs/{run_id}/signals/ping")
    assert (reply.status_code, reply.json()["disposition"]) == (202, "buffered")


async def test_an_urgent_signal_interrupts_as_a_message(service: Service) -> None:
    run_id = await asleep(service)
    reply = await service.post(f"/v1/runs/{run_id}/signals/alarm", {"urgency": "high", "payload": "fire"})
    assert reply.json()["disposition"] == "interrupting"
    [message] = (await service.get(f"/v1/runs/{run_id}/inbox")).json()["data"]
    assert message["delivery"] == "interrupt"
    assert "Signal alarm (high)" in message["content"][0]["text"]


async def test_a_full_buffer_is_a_typed_refusal_and_an_event(service: Service) -> None:
    run_id = await asleep(service)
    path = f"/v1/runs/{run_id}/signals/tick"
    for _ in range(64):
        assert (await service.post(path, {})).status_code == 202
    full = await service.post(path, {})
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    dropped = [
        one for one in await service.events(run_id, "signal.received") if one["data"]["disposition"] == "dropped"
    ]
    assert len(dropped) == 1


async def test_a_signal_to_all_reaches_who_waits_and_has_the_labels(service: Service) -> None:
    blue = await asleep(service, WAIT, labels={"team": "blue"})
    red = await asleep(service, WAIT, labels={"team": "red"})
    await asleep(service)
    reply = await service.post("/v1/signals/order.paid", {"payload": {"id": 7}, "labels": {"team": "blue"}})
    assert (reply.status_code, reply.json()["more"]) == (202, False)
    assert [(one["run_id"], one["disposition"]) for one in reply.json()["data"]] == [(blue, "delivered")]
    rest = await service.post("/v1/signals/order.paid", {"payload": {"id": 7}})
    assert [one["run_id"] for one in rest.json()["data"]] == [red]
    assert (await service.post("/v1/signals/order.paid", {})).json()["data"] == []


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("a%20b", {}, 400, "invalid_request"),
        ("x" * 65, {}, 400, "invalid_request"),
        ("ok", {"payload": "x" * 33_000}, 413, "payload_too_large"),
        ("ok", {"urgency": "now"}, 422, "validation_failed"),
        ("ok", {"dedupe_key": ""}, 422, "validation_failed"),
        ("ok", {"by": "me"}, 422, "validation_failed"),
    ],
)
async def test_a_signal_that_cannot_be_is_refused_and_nothing_is_told(
    service: Service, name: str, body: dict[str, Any], status: int, code: str
) -> None:
    run_id = await asleep(service)
    for path in (f"/v1/runs/{run_id}/signals/{name}", f"/v1/signals/{name}"):
        reply = await service.post(path, body)
        assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert await service.events(run_id, "signal.received") == []


async def test_a_run_that_starts_later_is_scheduled_and_shows_when(service: Service) -> None:
    at = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    reply = await service.post("/v1/runs", {**HELLO, "start_at": at.isoformat()})
    run = reply.json()
    assert (reply.status_code, run["status"]) == (201, "scheduled")
    assert datetime.fromisoformat(run["start_at"]) == at
    assert run["waiting_for"] == [{"type": "start", "until": run["start_at"], "ref": None}]
    assert datetime.fromisoformat(run["deadline"]) > at
    assert run["id"] in service.runs.open, "its workflow waits in Temporal"
    assert [one["id"] for one in (await service.get("/v1/runs?status=scheduled")).json()["data"]] == [run["id"]]
    cancelled = await service.post(f"/v1/runs/{run['id']}/cancel", {"mode": "force"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize(
    ("start", "more", "pointer"),
    [
        (-1, {}, "/start_at"),
        (367 * 24, {}, "/start_at"),
        (5, {"deadline": 4}, "/deadline"),
        (5, {"deadline": 5}, "/deadline"),
        (5, {"on_conflict": "enqueue"}, "/start_at"),
    ],
)
async def test_a_start_that_cannot_be_is_refused(
    service: Service, start: float, more: dict[str, Any], pointer: str
) -> None:
    now = datetime.now(UTC)
    body: dict[str, Any] = {**HELLO, **more, "start_at": (now + timedelta(hours=start)).isoformat()}
    if "deadline" in more:
        body["deadline"] = (now + timedelta(hours=more["deadline"])).isoformat()
    reply = await service.post("/v1/runs", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "validation_failed")
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert (await service.get("/v1/runs")).json()["data"] == []
