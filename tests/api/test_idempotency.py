"""A request that is sent again under its key has its effect once and gets the first reply."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from api.actor import ANONYMOUS
from api.bodies import fingerprint
from api.parts import PROJECT
from api.schedule_keeping import ScheduleKeeper
from perdure.store.schema import idempotency_keys
from tests.api.service import AGENT, HELLO, Service


async def test_the_first_reply_comes_again_word_for_word(service: Service) -> None:
    first = await service.post("/v1/runs", HELLO, **{"idempotency-key": "k1"})
    again = await service.post("/v1/runs", dict(reversed(HELLO.items())), **{"idempotency-key": "k1"})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert await service.count("/v1/runs") == 1
    assert len(service.runs.orders) == 1


async def test_a_key_belongs_to_one_request(service: Service) -> None:
    await service.post("/v1/runs", HELLO, **{"idempotency-key": "k1"})
    for path, body in (("/v1/runs", {**HELLO, "input": "Other."}), ("/v1/sessions", {})):
        reply = await service.post(path, body, **{"idempotency-key": "k1"})
        assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_key_reused")
    assert await service.count("/v1/runs") == 1


async def test_ten_at_once_make_one_run(service: Service) -> None:
    replies = await asyncio.gather(*(service.post("/v1/runs", HELLO, **{"idempotency-key": "k"}) for _ in range(10)))
    made = {reply.json()["id"] for reply in replies if reply.status_code == 201}
    assert len(made) == 1
    for reply in replies:
        if reply.status_code != 201:
            assert (reply.status_code, reply.json()["code"]) == (409, "idempotency_in_progress")
            assert reply.json()["retryable"]
            assert "retry-after" in reply.headers
            assert "x-should-retry" not in reply.headers
    assert await service.count("/v1/runs") == 1


async def test_a_refused_request_leaves_its_key_free(service: Service) -> None:
    bad = await service.post("/v1/runs", {**HELLO, "agent_inline": {"model": "nobody/x"}}, **{"idempotency-key": "k"})
    assert bad.status_code == 422
    good = await service.post("/v1/runs", HELLO, **{"idempotency-key": "k"})
    assert good.status_code == 201


SCHEDULE = {"name": "nightly", "agent_inline": AGENT, "input": "Sum up.", "spec": {"cron": ["0 2 * * *"]}}
SPAN = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}


@pytest.mark.parametrize(("verb", "body"), [("trigger", {}), ("backfill", SPAN)])
async def test_what_was_not_done_because_temporal_is_away_leaves_its_key_free(
    service: Service, verb: str, body: dict[str, str]
) -> None:
    await service.post("/v1/schedules", SCHEDULE)
    for away, status in ((True, 503), (True, 503), (False, 202), (True, 202)):
        service.runs.away = away
        reply = await service.post(f"/v1/schedules/nightly/{verb}", body, **{"idempotency-key": "k"})
        assert reply.status_code == status
    assert len(service.schedules.orders) == 1


async def test_an_order_that_was_accepted_before_its_process_died_is_not_refused_when_it_is_repeated(
    service: Service,
) -> None:
    schedule = (await service.post("/v1/schedules", SCHEDULE)).json()
    path = f"/v1/schedules/{schedule['id']}/trigger"
    mark = fingerprint("POST", path, {}, ANONYMOUS)
    await service.journal.reserve_key(PROJECT, "k", mark, "ord_1")
    await service.journal.accept_trigger(schedule["id"], "ord_1", None)
    long_ago = update(idempotency_keys).values(reserved_ms=0)
    await service.journal._database.write(lambda c: c.execute(long_ago) and None)
    service.runs.away = True
    assert (await service.post(path, {}, **{"idempotency-key": "k"})).status_code == 202
    service.runs.away = False
    assert (await service.post(path, {}, **{"idempotency-key": "k"})).headers["idempotent-replayed"] == "true"
    await ScheduleKeeper(service.app.state.parts.assembly).keep()
    assert len(service.schedules.orders) == 1


async def test_a_repeated_stream_is_the_stream_of_the_same_run(service: Service) -> None:
    body = {**HELLO, "stream": True}
    ids = []
    for _ in range(2):
        async with service.http.stream("POST", "/v1/runs", json=body, headers={"idempotency-key": "k"}) as reply:
            ids.append(reply.headers["x-run-id"])
            if len(ids) == 1:
                await service.journal.force_cancel(ids[0], "enough")
            else:
                assert reply.headers["idempotent-replayed"] == "true"
            text = "".join([chunk async for chunk in reply.aiter_text()])
            assert "event: run.cancelled" in text
    assert ids[0] == ids[1]


async def test_a_repetition_that_prefers_to_wait_gets_the_run_as_it_is_now(service: Service) -> None:
    run = (await service.post("/v1/runs", HELLO, **{"idempotency-key": "k"})).json()
    await service.journal.force_cancel(run["id"], "enough")
    again = await service.post("/v1/runs", HELLO, **{"idempotency-key": "k", "prefer": "wait=5"})
    assert (again.json()["id"], again.json()["status"]) == (run["id"], "cancelled")
    assert again.headers["idempotent-replayed"] == "true"


async def test_sessions_agents_and_cancels_are_done_once_too(service: Service) -> None:
    for path, body in (("/v1/sessions", {"labels": {"a": "b"}}), ("/v1/agents", {"name": "scout", **AGENT})):
        first = await service.post(path, body, **{"idempotency-key": path})
        again = await service.post(path, body, **{"idempotency-key": path})
        assert (first.status_code, first.content, first.headers["etag"]) == (201, again.content, again.headers["etag"])
        assert await service.count(path) == 1
    run = await service.new_run()
    for _ in range(2):
        assert (await service.post(f"/v1/runs/{run['id']}/cancel", {}, **{"idempotency-key": "c"})).status_code == 202
    assert service.runs.heard == [("cancel", run["id"])]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
async def test_a_key_that_cannot_be_kept_is_refused(service: Service, key: str) -> None:
    reply = await service.http.post("/v1/runs", json=HELLO, headers=[(b"idempotency-key", key.encode())])
    assert (reply.status_code, reply.json()["errors"][0]["parameter"]) == (400, "idempotency-key")
    assert await service.count("/v1/runs") == 0
