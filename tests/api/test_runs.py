"""Runs over HTTP: accepted durably, read, listed, relabelled, cancelled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.api.service import AGENT, HELLO, Service, serve


async def test_a_run_is_accepted_with_its_address_and_started(service: Service) -> None:
    reply = await service.post("/v1/runs", {**HELLO, "labels": {"team": "a"}, "metadata": {"n": [1, None]}})
    run = reply.json()
    assert reply.status_code == 201
    assert reply.headers["location"] == f"/v1/runs/{run['id']}"
    assert (run["status"], run["input"]) == ("queued", [{"type": "text", "text": "Say hello."}])
    assert (run["labels"], run["metadata"]) == ({"team": "a"}, {"n": [1, None]})
    assert service.runs.orders == [("start", run["id"])]
    assert (await service.get(reply.headers["location"])).json()["id"] == run["id"]


async def test_a_finished_run_tells_its_answer_and_its_cost(service: Service) -> None:
    run = (await service.get(f"/v1/runs/{(await service.completed_run())['id']}")).json()
    assert (run["status"], run["stop_reason"], run["output_text"]) == ("completed", "end", "Hello!")
    assert (run["usage"]["input_tokens"], run["usage"]["cost_usd"]) == (10, "0.0025")
    assert run["completed_at"] >= run["started_at"] >= run["created_at"]


async def test_what_a_vendor_hides_in_reasoning_is_not_shown(service: Service) -> None:
    run = await service.completed_run()
    for path in ("", "/messages", "/events?types[]=message.added"):
        assert "secret" not in (await service.get(f"/v1/runs/{run['id']}{path}")).text


async def test_input_may_be_text_blocks_or_user_messages(service: Service) -> None:
    run = await service.new_run(
        input=[{"type": "text", "text": "one"}, {"role": "user", "content": "two"},
               {"role": "user", "content": [{"type": "text", "text": "three"}]}]
    )  # fmt: skip
    assert [block["text"] for block in run["input"]] == ["one", "two", "three"]


async def test_a_run_keeps_the_agent_version_it_was_started_with(service: Service) -> None:
    await service.post("/v1/agents", {"name": "scout", **AGENT})
    await service.post("/v1/agents", {"name": "scout", **AGENT, "instructions": "Be long."})
    newest = (await service.post("/v1/runs", {"agent": "scout", "input": "go"})).json()
    pinned = (await service.post("/v1/runs", {"agent": "scout@1", "input": "go"})).json()
    assert (newest["agent"]["version"], pinned["agent"]["version"]) == (2, 1)
    by_id = (await service.post("/v1/runs", {"agent": newest["agent"]["id"], "input": "go"})).json()
    assert by_id["agent"]["name"] == "scout"


async def test_a_run_in_a_session_continues_it_and_a_busy_session_refuses(service: Service) -> None:
    first = await service.completed_run()
    second = await service.new_run(session_id=first["session_id"])
    assert second["session_id"] == first["session_id"]
    refused = await service.post("/v1/runs", {**HELLO, "session_id": first["session_id"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert refused.headers["x-should-retry"] == "false"
    assert await service.count("/v1/runs") == 2


async def test_of_many_runs_for_one_session_at_once_one_wins(service: Service) -> None:
    session = (await service.post("/v1/sessions", {})).json()
    body = {**HELLO, "session_id": session["id"]}
    replies = await asyncio.gather(*(service.post("/v1/runs", body) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [201] + [409] * 19
    assert await service.count("/v1/runs") == 1


async def test_the_limits_of_a_run_are_its_own_word_over_the_agents_over_the_services(service: Service) -> None:
    own = {"calculator": {"max_calls": 2}}
    slow = {"calculator": 5}
    agent = {**AGENT, "limits": {"max_turns": 7, "max_tool_calls": 8, "tools": own, "tool_timeouts": slow}}
    run = await service.new_run(agent_inline=agent, limits={"max_turns": 3, "max_questions": 0})
    rest = {"max_children": 50, "max_depth": 3, "max_running_children": 50, "tool_output_bytes_per_turn": None,
            "turn_timeout_seconds": None}  # fmt: skip
    assert run["limits"] == {
        "max_turns": 3, "max_tool_calls": 8, "max_questions": 0, **rest,
        "tools": {"calculator": {"max_calls": 2, "on_exceed": "block"}}, "tool_timeouts": slow,
    }  # fmt: skip
    assert (await service.new_run())["limits"] == {
        "max_turns": 100, "max_tool_calls": 1000, "max_questions": 10, **rest, "tools": {}, "tool_timeouts": {},
    }  # fmt: skip


async def test_a_deadline_is_kept_to_the_second(service: Service) -> None:
    run = await service.new_run(deadline="2027-01-01T01:00:00+01:00")
    assert run["deadline"] == "2027-01-01T00:00:00.000Z"


async def test_a_run_accepted_while_temporal_is_away_starts_when_it_is_back(service: Service) -> None:
    service.runs.away = True
    run = await service.new_run()
    assert run["status"] == "queued"
    assert service.runs.orders == []
    service.runs.away = False
    for _ in range(150):
        if service.runs.orders:
            break
        await asyncio.sleep(0.1)
    assert service.runs.orders == [("start", run["id"])]
    await asyncio.sleep(2.5)
    assert service.runs.orders == [("start", run["id"])], "a confirmed run is not started again"


async def test_waiting_for_a_run_ends_with_it(service: Service) -> None:
    async def finish_soon() -> None:
        while not service.runs.open:
            await asyncio.sleep(0.01)
        run_id = next(iter(service.runs.open))
        await asyncio.sleep(0.3)
        await service.started(run_id)
        await service.answered(run_id)
        await service.finished(run_id)

    finishing = asyncio.create_task(finish_soon())
    began = time.monotonic()
    reply = await service.post("/v1/runs", HELLO, prefer="wait=15")
    await finishing
    assert (reply.status_code, reply.json()["status"]) == (201, "completed")
    assert reply.headers["preference-applied"] == "wait=15"
    assert reply.headers["location"] == f"/v1/runs/{reply.json()['id']}"
    assert time.monotonic() - began < 3


async def test_waiting_gives_up_in_time_and_never_longer_than_a_minute(service: Service) -> None:
    run = await service.new_run()
    began = time.monotonic()
    reply = await service.get(f"/v1/runs/{run['id']}", prefer="respond-async, wait=1")
    assert (reply.json()["status"], reply.headers["preference-applied"]) == ("queued", "wait=1")
    assert 0.9 < time.monotonic() - began < 3
    done = await service.completed_run()
    for long in ("999", "00000000000999", "99999999999999999999", "9" * 5_000):
        reply = await service.get(f"/v1/runs/{done['id']}", prefer=f"wait={long}")
        assert reply.headers["preference-applied"] == "wait=60"


async def test_runs_are_listed_page_by_page_in_both_directions(service: Service) -> None:
    ids = [(await service.new_run())["id"] for _ in range(5)]
    newest = (await service.get("/v1/runs?limit=2")).json()
    assert ([run["id"] for run in newest["data"]], newest["has_more"]) == ([ids[4], ids[3]], True)
    older = (await service.get(f"/v1/runs?limit=2&after={newest['next_cursor']}")).json()
    assert [run["id"] for run in older["data"]] == [ids[2], ids[1]]
    last = (await service.get(f"/v1/runs?limit=2&after={older['last_id']}")).json()
    assert ([run["id"] for run in last["data"]], last["has_more"], last["next_cursor"]) == ([ids[0]], False, None)
    back = (await service.get(f"/v1/runs?limit=2&before={ids[1]}")).json()
    assert ([run["id"] for run in back["data"]], back["has_more"]) == ([ids[3], ids[2]], True)
    rising = (await service.get("/v1/runs?order=asc&limit=3")).json()
    assert [run["id"] for run in rising["data"]] == ids[:3]


async def test_runs_are_found_by_status_label_session_agent_and_time(service: Service) -> None:
    done = await service.completed_run()
    await service.post("/v1/agents", {"name": "scout", **AGENT})
    mine = (await service.post("/v1/runs", {"agent": "scout", "input": "x", "labels": {"a/b": "1 2", "c": "3"}})).json()

    async def found(query: str) -> list[str]:
        return [run["id"] for run in (await service.get(f"/v1/runs?{query}")).json()["data"]]

    assert await found("status=completed") == [done["id"]]
    assert await found("status[]=completed&status[]=queued") == [mine["id"], done["id"]]
    assert await found("labels[a/b]=1%202&labels[c]=3") == [mine["id"]]
    assert await found("labels[c]=4") == []
    assert await found(f"agent_id={mine['agent']['id']}") == [mine["id"]]
    assert await found(f"session_id={done['session_id']}") == [done["id"]]
    assert await found(f"root={done['id']}") == [done["id"]]
    assert await found(f"created_at[gt]={mine['created_at']}") == []
    assert await found(f"created_at[gte]={mine['created_at']}&created_at[lte]={mine['created_at']}") == [mine["id"]]
    assert await found("created_at[lt]=2020-01-01T00:00:00Z") == []


async def test_labels_and_metadata_are_replaced_and_nothing_else_can_be(service: Service) -> None:
    run = await service.new_run(labels={"old": "1"}, metadata={"keep": True})
    reply = await service.http.patch(f"/v1/runs/{run['id']}", json={"labels": {"new": "2"}})
    assert (reply.json()["labels"], reply.json()["metadata"]) == ({"new": "2"}, {"keep": True})
    refused = await service.http.patch(f"/v1/runs/{run['id']}", json={"status": "completed"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/status")
    assert (await service.http.patch(f"/v1/runs/{run['id']}", json={})).status_code == 422
    assert (await service.http.patch("/v1/runs/run_none", json={"labels": {}})).json()["code"] == "run_not_found"


async def test_a_graceful_cancel_is_an_order_to_the_workflow(service: Service) -> None:
    run = await service.new_run()
    reply = await service.post(f"/v1/runs/{run['id']}/cancel", {"reason": "enough"})
    assert reply.status_code == 202
    assert await service.told(run["id"]) == ["cancel"]
    assert (await service.http.post(f"/v1/runs/{run['id']}/cancel")).status_code == 202, "a body is not needed"


async def test_force_ends_a_run_at_once_without_temporal_and_is_idempotent(service: Service) -> None:
    run = await service.new_run()
    service.runs.away = True
    for _ in range(2):
        reply = await service.post(f"/v1/runs/{run['id']}/cancel", {"mode": "force", "reason": "now"})
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")


async def test_a_run_that_was_never_started_is_cancelled_at_once(service: Service) -> None:
    service.runs.away = True
    run = await service.new_run()
    reply = await service.post(f"/v1/runs/{run['id']}/cancel", {})
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")


async def test_a_graceful_cancel_is_taken_while_temporal_is_away_and_heard_when_it_is_back(service: Service) -> None:
    run = await service.new_run()
    await service.journal.mark_workflow_started(run["id"])
    service.runs.away = True
    reply = await service.post(f"/v1/runs/{run['id']}/cancel", {"reason": "enough"})
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    service.runs.away = False
    for _ in range(150):
        if service.runs.heard:
            break
        await asyncio.sleep(0.1)
    assert service.runs.heard == [("cancel", run["id"])]


async def test_a_run_whose_workflow_was_ended_in_temporal_is_cancelled_at_once(service: Service) -> None:
    run = await service.new_run()
    await service.journal.mark_workflow_started(run["id"])
    service.runs.open.clear()
    reply = await service.post(f"/v1/runs/{run['id']}/cancel", {})
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize("mode", ["graceful", "force"])
async def test_a_completed_run_cannot_be_cancelled(service: Service, mode: str) -> None:
    run = await service.completed_run()
    reply = await service.post(f"/v1/runs/{run['id']}/cancel", {"mode": mode})
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


async def test_steps_show_what_each_call_did(service: Service) -> None:
    run = await service.new_run()
    await service.started(run["id"])
    [call_id] = await service.answered(run["id"], calls=1)
    await service.used_tool(run["id"], call_id, "2")
    steps = (await service.get(f"/v1/runs/{run['id']}/steps")).json()["data"]
    assert [(step["kind"], step["status"], step["attempts"]) for step in steps] == [
        ("model", "completed", 1), ("tool", "completed", 1),
    ]  # fmt: skip
    assert steps[0]["usage"]["cost_usd"] == "0.0025"
    assert (steps[1]["key"], steps[1]["arguments"]) == (call_id, {"expression": "1+1"})
    first = (await service.get(f"/v1/runs/{run['id']}/steps?limit=1")).json()
    second = (await service.get(f"/v1/runs/{run['id']}/steps?limit=1&after={first['next_cursor']}")).json()
    assert (second["data"], second["has_more"]) == (steps[1:], False)


async def test_a_large_result_is_read_whole_but_only_through_its_own_run(service: Service) -> None:
    run, other = await service.new_run(), await service.new_run()
    await service.started(run["id"])
    [call_id] = await service.answered(run["id"], calls=1)
    whole = b"0123456789abcdef" * 40_000
    await service.used_tool(run["id"], call_id, "preview", whole=whole)
    message = (await service.get(f"/v1/runs/{run['id']}/messages")).json()["data"][-1]
    blob = message["content"][0]["blob"]
    assert (await service.get(f"/v1/runs/{run['id']}/results/{blob}")).content == whole
    refused = await service.get(f"/v1/runs/{other['id']}/results/{blob}")
    assert (refused.status_code, refused.json()["code"]) == (404, "result_not_found")


async def test_agents_of_the_settings_are_stored_once(tmp_path: Path) -> None:
    for _ in range(2):
        async with serve(tmp_path, agents={"helper": {"model": "openai/priced", "tools": ["calculator"]}}) as service:
            assert (await service.get("/v1/agents/helper")).json()["version"] == 1
