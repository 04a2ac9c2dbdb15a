"""Families over HTTP: trees, orders that reach everybody, budgets that are parts of others, what is pending where."""

from __future__ import annotations

import time
from typing import Any

from ulid import ULID

from perdure.core.budget import Ask, Budget
from perdure.core.state import Json
from perdure.store.rows import NewChild, NewRun, RunRow
from tests.api.service import AGENT, HELLO, Service

SPAWN = ("spawn_agent", {"task": "Look it up"})
LEADER = {**AGENT, "tools": ["calculator", "spawn_agent", "ask_user"]}


async def leader(service: Service, *calls: tuple[str, dict[str, Any]], **more: Any) -> tuple[str, list[str]]:
    """A run that has asked for these calls, and their ids."""
    run = await service.new_run(agent_inline=LEADER, **more)
    await service.started(run["id"])
    return run["id"], await service.asked(run["id"], *(calls or (SPAWN,)))


async def child(service: Service, run_id: str, call_id: str, **more: Any) -> RunRow:
    """What the activity makes of ``spawn_agent``."""
    run = await service.journal.get_run(run_id)
    deadline_ms = int(time.time() * 1_000) + 3_600_000
    new = NewRun(f"run_{ULID()}", run.definition, [{"type": "text", "text": "Look it up"}], deadline_ms, run.limits)
    wanted = more.pop("wanted", Budget())
    first = Ask(100, 300, lambda tokens, output: tokens + output)
    made = NewChild(new, wanted, first, more.pop("background", True), more.pop("detached", False))
    done = await service.journal.spawn_child(run_id, call_id, made)
    assert done.child is not None, done.call.error
    service.runs.open.add(done.child.id)
    return done.child


async def question(service: Service, run_id: str) -> dict[str, Any]:
    asked: dict[str, Json] = {"questions": [{"id": "q", "question": "Which?"}]}
    await service.started(run_id)
    await service.asked(run_id, ("ask_user", asked))
    return (await service.pending(run_id))[0]


async def test_a_tree_is_read_with_its_usage_rolled_up(service: Service) -> None:
    run_id, (first, second) = await leader(service, SPAWN, SPAWN)
    one, two = await child(service, run_id, first), await child(service, run_id, second)
    await service.answered(one.id)
    tree = (await service.get(f"/v1/runs/{run_id}/tree")).json()
    assert [node["id"] for node in tree["children"]] == [one.id, two.id]
    assert (tree["total"]["runs"], tree["total"]["usage"]["cost_usd"]) == (3, "0.005")
    assert (tree["total"]["assumed_cost_usd"], tree["children"][0]["assumed_cost_usd"]) == ("0.00", "0.00")
    assert (tree["children"][0]["call_id"], tree["children"][0]["depth"]) == (first, 1)
    below = (await service.get(f"/v1/runs/{one.id}/tree")).json()
    assert (below["id"], below["parent_run_id"], below["total"]["runs"]) == (one.id, run_id, 1)
    assert (await service.get("/v1/runs/run_x/tree")).status_code == 404
    for query in (f"parent_run_id={run_id}", f"root={run_id}"):
        listed = (await service.get(f"/v1/runs?{query}&order=asc")).json()["data"]
        assert [run["id"] for run in listed][-2:] == [one.id, two.id]


async def test_pause_resume_and_cancel_reach_the_whole_family(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call)
    orders: list[tuple[str, dict[str, str]]] = [("pause", {"reason": "lunch"}), ("resume", {}), ("cancel", {})]
    for number, (verb, body) in enumerate(orders, 1):
        assert (await service.post(f"/v1/runs/{run_id}/{verb}", body)).status_code == 202
        assert (await service.told(one.id, number))[-1] == verb
    assert await service.told(one.id, 3) == ["pause", "resume", "cancel"]
    assert await service.told(run_id, 3) == ["pause", "resume", "cancel"]


async def test_who_interrupts_a_run_interrupts_its_children(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call)
    path = f"/v1/runs/{run_id}"
    assert (await service.post(f"{path}/messages", {"content": "Stop", "delivery": "interrupt"})).status_code == 202
    assert await service.told(one.id, 1) == ["message"]
    assert (await service.post(f"{path}/signals/fire", {"urgency": "critical"})).status_code == 202
    assert await service.told(one.id, 2) == ["message"] * 2
    body = {"messages": [{"content": "Stop", "delivery": "interrupt"}]}
    assert (await service.http.put(f"{path}/inbox", json=body)).status_code == 200
    assert await service.told(one.id, 3) == ["message"] * 3
    session_id = (await service.get(path)).json()["session_id"]
    again = {**HELLO, "session_id": session_id, "on_conflict": "interrupt"}
    assert (await service.post("/v1/runs", again)).status_code < 300
    assert await service.told(one.id, 4) == ["message"] * 4


async def test_a_forced_cancel_ends_the_family_and_its_workflows_without_a_worker(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call)
    reply = await service.post(f"/v1/runs/{run_id}/cancel", {"mode": "force"})
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert (await service.get(f"/v1/runs/{one.id}")).json()["stop_reason"] == "parent_ended"
    for _ in range(200):
        ended = {run for verb, run in service.runs.orders if verb == "terminate"}
        if ended >= {run_id, one.id}:
            return
        await service.get("/healthz")
    raise AssertionError(f"ended were {ended}")


async def test_what_a_child_asks_is_pending_on_its_parent_and_answered_by_people(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call, background=False)
    asked = await question(service, one.id)
    run = (await service.get(f"/v1/runs/{run_id}")).json()
    assert [(ask["id"], ask["run_id"]) for ask in run["pending_actions"]] == [(asked["id"], one.id)]
    assert [(wait["type"], wait["ref"]) for wait in run["waiting_for"]] == [("children", one.id)]
    assert (await service.post(f"/v1/questions/{asked['id']}/answer", {"answers": {"q": "a"}})).status_code == 200
    assert await service.pending(run_id) == []


async def test_a_childs_budget_is_changed_within_its_parents(service: Service) -> None:
    run_id, (call,) = await leader(service, budget={"max_cost_usd": "1.00"})
    one = await child(service, run_id, call, wanted=Budget(max_cost_micros=100_000))
    path = f"/v1/runs/{one.id}"
    reply = await service.http.patch(path, json={"budget": {"max_cost_usd": "0.30"}})
    assert (reply.status_code, reply.json()["budget"]["limit"]["max_cost_usd"]) == (200, "0.30")
    assert (await service.get(f"/v1/runs/{run_id}")).json()["budget"]["reserved"]["cost_usd"] == "0.30"
    refused = await service.http.patch(path, json={"budget": {"max_cost_usd": "0.99"}})
    assert (refused.status_code, refused.json()["code"]) == (402, "budget_exhausted")
    assert refused.json()["errors"][0]["pointer"] == "/budget/max_cost_usd"
    below = await service.http.patch(f"/v1/runs/{run_id}", json={"budget": {"max_cost_usd": "0.10"}})
    assert (below.status_code, below.json()["code"]) == (402, "budget_exhausted")
    assert "lower their budgets first" in below.json()["errors"][0]["message"]
    ledger = (await service.get(f"/v1/runs/{run_id}/ledger")).json()["data"]
    assert [line["kind"] for line in ledger if line["key"] == f"child-{call}"] == ["reserved", "released", "reserved"]


async def test_events_of_a_family_come_together_in_pages_and_lines(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call)
    path = f"/v1/runs/{run_id}/events?include_children=true&limit=5"
    page = (await service.get(path)).json()
    rest = (await service.get(f"{path}&after={page['next_cursor']}")).json()
    assert page["data"][-1]["id"] == page["next_cursor"]
    assert not {event["id"] for event in page["data"]} & {event["id"] for event in rest["data"]}
    lines = (await service.get(path, accept="application/jsonl")).text.splitlines()
    assert sum(one.id in line for line in lines) > 2
    only = (await service.get(f"{path}&types=child.started")).json()["data"]
    assert [(event["type"], event["data"]["run_id"]) for event in only] == [("child.started", one.id)]
    assert (await service.get(f"{path}&after=nonsense")).json()["code"] == "invalid_cursor"
    assert (await service.get(path, accept="text/event-stream")).json()["code"] == "invalid_request"


async def test_the_board_of_a_tree_is_read_at_each_of_its_runs(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call)
    made = await service.journal.post_entry(one.id, "p1", "The mill is shut.", "facts")
    await service.journal.update_entry(run_id, "u1", made.entry_id, "The mill is open.", 1)
    await service.journal.post_entry(run_id, "p2", "Go on.", None)
    boards = [(await service.get(f"/v1/runs/{id_}/board")).json() for id_ in (run_id, one.id)]
    assert boards[0] == boards[1]
    first, second = boards[0]["data"]
    assert {name: first[name] for name in ("id", "number", "version", "revision", "topic", "text")} == {
        "id": made.entry_id, "number": 1, "version": 2, "revision": 2, "topic": "facts", "text": "The mill is open.",
    }  # fmt: skip
    assert (first["posted_by"]["run_id"], first["updated_by"]["run_id"]) == (one.id, run_id)
    assert (second["number"], second["topic"], second["posted_by"]) == (2, None, second["updated_by"])
    (told,) = await service.events(one.id, "board.posted")
    assert (told["call_id"], told["data"]["entry_id"], told["data"]["preview"]) == (
        "p1", made.entry_id, "The mill is shut.",
    )  # fmt: skip
    assert [event["type"] for event in await service.events(run_id, "board.posted", "board.updated")] == [
        "board.updated",
        "board.posted",
    ]
    alone = await service.new_run()
    assert (await service.get(f"/v1/runs/{alone['id']}/board")).json()["data"] == []
    assert (await service.get("/v1/runs/run_x/board")).json()["code"] == "run_not_found"


async def test_an_agent_names_the_agents_it_may_start_with_their_own_tools(service: Service) -> None:
    stored = (await service.post("/v1/agents", {"name": "lead", **LEADER, "agents": ["scout"]})).json()
    assert stored["agents"] == ["scout"]
    refused = await service.post("/v1/agents", {"name": "lead", **LEADER, "agents": ["not a name"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    limits = {"max_children": 3, "max_depth": 1, "max_running_children": 2}
    run = await service.new_run(limits=limits)
    assert {name: run["limits"][name] for name in limits} == limits


async def test_clients_do_not_speak_as_children_do(service: Service) -> None:
    run = await service.new_run()
    reply = await service.post(f"/v1/runs/{run['id']}/messages", {"content": "psst", "delivery": "note"})
    assert (reply.status_code, reply.json()["code"]) == (422, "validation_failed")
