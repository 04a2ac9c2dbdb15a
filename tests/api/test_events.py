"""Events over real HTTP: followed live, resumed without loss, ended with the run."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, get_args

from api.event_types import EventType
from api.events import ENDINGS
from perdure.store.rows import Delta
from tests.api.service import HELLO, Service
from tests.house.tree import ROOT


def _seqs(received: list[dict[str, str]]) -> list[int]:
    return [int(event["id"]) for event in received]


async def test_a_reader_of_a_finished_run_gets_everything_and_the_end(service: Service) -> None:
    run = await service.completed_run()
    async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
        received = await reader.rest()
    assert _seqs(received) == list(range(1, len(received) + 1))
    assert (received[0]["event"], received[-1]["event"]) == ("run.created", "run.completed")
    assert [json.loads(event["data"])["seq"] for event in received] == _seqs(received)
    assert json.loads(received[0]["data"])["id"] == f"{run['id']}:1"


async def test_the_same_events_come_as_lines_and_as_pages(service: Service) -> None:
    run = await service.completed_run()
    async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
        streamed = [json.loads(event["data"]) for event in await reader.rest()]
    lines = await service.get(f"/v1/runs/{run['id']}/events", accept="application/jsonl")
    assert [json.loads(line) for line in lines.text.splitlines()] == streamed
    paged: list[Any] = []
    query = "?limit=3"
    while query:
        page = (await service.get(f"/v1/runs/{run['id']}/events{query}")).json()
        paged += page["data"]
        query = f"?limit=3&after={page['next_cursor']}" if page["has_more"] else ""
    assert paged == streamed


async def test_what_is_committed_reaches_the_reader_within_milliseconds(service: Service) -> None:
    run = await service.new_run()
    async with service.stream(f"/v1/runs/{run['id']}/events?after=latest") as reader:
        await asyncio.sleep(0.2)
        delays = []
        for turn in range(1, 6):
            began = time.monotonic()
            await service.journal.update_run(run["id"], labels={"n": str(turn)}, metadata=None)
            event = await reader.next()
            delays.append(time.monotonic() - began)
            assert event is not None
            assert event["event"] == "run.updated"
    assert sorted(delays)[2] < 0.1, delays


async def test_live_text_streams_before_the_answer_is_complete(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    begun = await service.begun(run["id"])
    async with service.stream(f"/v1/runs/{run['id']}/events?types[]=text.delta") as reader:
        service.journal.live(Delta(run["id"], "model-1", begun.attempt, "text.delta", "Hel"))
        first = await reader.next()
        assert first is not None
        assert json.loads(first["data"])["data"]["text"] == "Hel"


async def test_a_reader_who_comes_back_misses_nothing_and_hears_nothing_twice(service: Service) -> None:
    run = await service.new_run()
    received: list[dict[str, str]] = []

    async def work() -> None:
        await service.started(run["id"])
        calls = await service.answered(run["id"], calls=3)
        for call_id in calls:
            await asyncio.sleep(0.05)
            await service.used_tool(run["id"], call_id, "2")
        await service.answered(run["id"], turn=2)
        await service.finished(run["id"])

    working = asyncio.create_task(work())
    while not received or received[-1]["event"] != "run.completed":
        resume = {"last_event_id": received[-1]["id"]} if received else {}
        async with service.stream(f"/v1/runs/{run['id']}/events", **resume) as reader:
            for _ in range(4):  # then the connection is dropped
                event = await reader.next()
                if event is None:
                    break
                received.append(event)
    await working
    assert _seqs(received) == list(range(1, len(received) + 1))


async def test_many_readers_of_one_run_hear_the_same(service: Service) -> None:
    run = await service.new_run()

    async def read() -> list[dict[str, str]]:
        async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
            return await reader.rest()

    readers = [asyncio.create_task(read()) for _ in range(20)]
    await asyncio.sleep(0.3)
    await service.started(run["id"])
    await service.answered(run["id"])
    await service.finished(run["id"])
    first, *others = await asyncio.gather(*readers)
    assert first[-1]["event"] == "run.completed"
    assert all(other == first for other in others)


async def test_the_last_event_id_wins_over_after(service: Service) -> None:
    run = await service.completed_run()
    async with service.stream(f"/v1/runs/{run['id']}/events?after=1", last_event_id="3") as reader:
        assert _seqs(await reader.rest())[0] == 4


async def test_a_reconnect_to_a_run_that_is_over_is_told_to_stop(service: Service) -> None:
    """A browser's EventSource reconnects for ever, unless the answer is 204."""
    run = await service.completed_run()
    last = (await service.get(f"/v1/runs/{run['id']}")).json()["last_seq"]
    accept = "text/event-stream"
    again = await service.get(f"/v1/runs/{run['id']}/events", accept=accept, **{"last-event-id": str(last)})
    assert again.status_code == 204
    async with service.stream(f"/v1/runs/{run['id']}/events?after=latest") as reader:
        assert await reader.rest() == []


async def test_types_choose_and_the_stream_still_ends_with_the_run(service: Service) -> None:
    run = await service.new_run()
    async with service.stream(f"/v1/runs/{run['id']}/events?types[]=message.added&types=turn.started") as reader:
        await service.started(run["id"])
        await service.answered(run["id"])
        await service.finished(run["id"])
        kinds = [event["event"] for event in await reader.rest()]
    assert kinds == ["message.added", "turn.started", "message.added"]


async def test_every_type_of_event_that_is_written_can_be_asked_for() -> None:
    known = set(get_args(EventType))
    written = {
        literal
        for path in (ROOT / "perdure" / "store").glob("*.py")
        for literal in re.findall(r'NewEvent\(\s*"([a-z_.]+)"', path.read_text())
    }
    assert {"run.created", "message.added", "tool.started"} <= written
    assert (written | ENDINGS) - known == set()


async def test_a_stream_that_shall_not_follow_ends_after_what_is_there(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    page = (await service.get(f"/v1/runs/{run['id']}/events?limit=100")).json()["data"]
    async with asyncio.timeout(5), service.stream(f"/v1/runs/{run['id']}/events?follow=false") as reader:
        received = await reader.rest()
    assert [json.loads(event["data"]) for event in received] == page
    assert reader.raw.startswith("retry: 1000\nid: 1\n")


async def test_deltas_can_be_left_out(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    begun = await service.begun(run["id"])
    service.journal.live(Delta(run["id"], "model-1", begun.attempt, "text.delta", "Hel"))
    await service.journal.flush_live(run["id"], "model-1")
    assert '"text.delta"' in (await service.get(f"/v1/runs/{run['id']}/events")).text
    assert '"text.delta"' not in (await service.get(f"/v1/runs/{run['id']}/events?deltas=false")).text


async def test_a_message_event_carries_the_whole_message_as_the_transcript_shows_it(service: Service) -> None:
    run = await service.completed_run()
    added = (await service.get(f"/v1/runs/{run['id']}/events?types[]=message.added")).json()["data"]
    messages = (await service.get(f"/v1/runs/{run['id']}/messages")).json()["data"]
    assert [event["data"]["message"] for event in added] == messages


async def test_the_wire_is_what_stock_clients_can_read(service: Service) -> None:
    """`retry` belongs to the first event, and an event's JSON has no character that splits lines."""
    run = await service.new_run(input="a\u2028b\x85c\rd\ne")
    await service.journal.force_cancel(run["id"], "enough")
    async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
        received = await reader.rest()
        assert reader.reply.headers["content-type"].startswith("text/event-stream")
        assert "no-transform" in reader.reply.headers["cache-control"]
    assert reader.raw.startswith("retry: 1000\nid: 1\nevent: run.created\ndata: {")
    assert all(line.partition(":")[0] in ("", "retry", "id", "event", "data") for line in reader.raw.splitlines())
    assert json.loads(received[1]["data"])["data"]["message"]["content"][0]["text"] == "a\u2028b\x85c\rd\ne"


async def test_a_silent_run_keeps_the_connection_alive_without_empty_events(service: Service) -> None:
    service.app.state.parts.heartbeat_seconds = 0.2
    run = await service.new_run()
    async with service.stream(f"/v1/runs/{run['id']}/events?after=latest") as reader:
        reading = asyncio.create_task(reader.next())
        await asyncio.sleep(1)
        await service.journal.force_cancel(run["id"], "enough")
        event = await reading
    assert event is not None
    assert event["event"] == "run.cancelled"
    assert reader.raw.count(": ping\n") >= 2
    assert ": ping\n\n" not in reader.raw


async def test_starting_and_streaming_are_one_request(service: Service) -> None:
    async with service.http.stream("POST", "/v1/runs", json={**HELLO, "stream": True}) as reply:
        run_id = reply.headers["x-run-id"]
        assert (reply.status_code, reply.headers["location"]) == (201, f"/v1/runs/{run_id}")
        await service.started(run_id)
        await service.answered(run_id)
        await service.finished(run_id)
        text = "".join([chunk async for chunk in reply.aiter_text()])
    assert text.startswith("retry: 1000\nid: 1\nevent: run.created")
    assert "event: run.completed" in text


async def test_a_stopping_process_ends_its_streams_at_once(service: Service) -> None:
    run = await service.new_run()
    async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
        await reader.next()
        began = time.monotonic()
        service.app.state.stopping.set()
        await reader.rest()
    assert time.monotonic() - began < 2


async def test_lines_can_be_followed_too(service: Service) -> None:
    run = await service.new_run()
    path = f"/v1/runs/{run['id']}/events?follow=true"
    async with service.http.stream("GET", path, headers={"accept": "application/jsonl"}) as reply:
        await service.journal.force_cancel(run["id"], "enough")
        kinds = [json.loads(line)["type"] async for line in reply.aiter_lines()]
    assert kinds[-1] == "run.cancelled"


async def test_a_journal_that_is_away_for_a_while_only_delays_a_stream(service: Service) -> None:
    run = await service.new_run()
    service.app.state.parts.heartbeat_seconds = 0.2  # each heartbeat reads again
    async with service.stream(f"/v1/runs/{run['id']}/events?after=latest") as reader:
        reading = asyncio.create_task(reader.next())
        await asyncio.sleep(0.3)
        service.line.cut = True
        await service.journal.force_cancel(run["id"], "enough")
        await asyncio.sleep(1)
        assert not reading.done()
        service.line.cut = False
        event = await reading
    assert event is not None
    assert event["event"] == "run.cancelled"


async def test_a_reader_who_leaves_is_forgotten(service: Service) -> None:
    run = await service.new_run()
    for _ in range(5):
        async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
            await reader.next()
            assert service.line.followers == 1
        for _ in range(100):
            if service.line.followers == 0:
                break
            await asyncio.sleep(0.02)
        assert service.line.followers == 0


async def test_a_reader_who_does_not_read_holds_up_nobody(service: Service) -> None:
    """A replay of 20 MB to a client that takes nothing: it gets all of it when it reads on."""
    run = await service.new_run()
    for turn in range(1, 21):
        await service.answered(run["id"], "x" * 1_000_000, turn=turn, calls=1)
    async with service.stream(f"/v1/runs/{run['id']}/events") as lazy:
        async with service.stream(f"/v1/runs/{run['id']}/events?after=latest") as eager:
            await service.journal.force_cancel(run["id"], "enough")
            assert (await eager.rest())[-1]["event"] == "run.cancelled"
        received = await lazy.rest()
    assert _seqs(received) == list(range(1, len(received) + 1))
    assert received[-1]["event"] == "run.cancelled"


async def test_a_long_log_comes_whole_over_the_pages_it_is_read_in(service: Service) -> None:
    run = await service.new_run()
    for number in range(450):
        await service.journal.update_run(run["id"], labels={"n": str(number)}, metadata=None)
    await service.journal.force_cancel(run["id"], "enough")
    async with service.stream(f"/v1/runs/{run['id']}/events") as reader:
        received = await reader.rest()
    assert _seqs(received) == list(range(1, 455))
    lines = await service.get(f"/v1/runs/{run['id']}/events?after=3", accept="application/jsonl")
    assert [json.loads(line)["seq"] for line in lines.text.splitlines()] == list(range(4, 455))
