"""Budgets over HTTP: shown exactly, changed while the run lives, and every cent of the ledger can be read."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from perdure.core.state import Usage
from tests.api.service import AGENT, HELLO, Service, serve

BUDGET = {"max_cost_usd": "2.50", "max_tokens": 100_000, "max_output_tokens": 20_000}


async def patch(service: Service, run_id: str, body: Any) -> Any:
    return await service.http.patch(f"/v1/runs/{run_id}", json=body)


async def test_a_run_shows_what_it_may_spend_and_what_is_left(service: Service) -> None:
    run = await service.new_run(budget=BUDGET)
    nothing = {"cost_usd": "0.00", "tokens": 0, "output_tokens": 0}
    assert run["budget"] == {
        "limit": BUDGET, "spent": nothing, "reserved": nothing, "left": BUDGET, "on_limit": "wrap_up",
        "overrun": False,
    }  # fmt: skip
    await service.begun(run["id"])
    held = (await service.get(f"/v1/runs/{run['id']}")).json()["budget"]
    assert held["reserved"] == {"cost_usd": "0.003", "tokens": 2_000, "output_tokens": 1_000}
    assert held["left"] == {"max_cost_usd": "2.497", "max_tokens": 98_000, "max_output_tokens": 19_000}
    await service.answered(run["id"])
    spent = (await service.get(f"/v1/runs/{run['id']}")).json()["budget"]
    assert (spent["spent"]["tokens"], spent["spent"]["output_tokens"]) == (2_000 + 15, 1_000 + 5), "the lost one, too"


@pytest.mark.parametrize(
    ("given", "shown"),
    [("2.50", "2.50"), (2.5, "2.50"), (1, "1.00"), ("0.000300", "0.0003"), (0.1, "0.10"), ("1000000", "1000000.00")],
)
async def test_money_is_exact_as_text_and_as_a_number(service: Service, given: Any, shown: str) -> None:
    small = {**AGENT, "model_settings": {"max_output_tokens": 1}, "tools": []}
    body = {"agent_inline": {**small, "instructions": ""}, "input": "x", "budget": {"max_cost_usd": given}}
    reply = await service.post("/v1/runs", {**body, "budget": {"max_cost_usd": given, "on_limit": "stop"}})
    if reply.status_code == 402:  # three hundredths of a cent pay for no call; the amount was read all the same
        assert given == "0.000300"
        return
    assert reply.json()["budget"]["limit"]["max_cost_usd"] == shown


async def test_the_budget_of_a_run_is_its_own_word_over_the_agents_over_the_services(tmp_path: Path) -> None:
    async with serve(tmp_path, budget={"max_cost_usd": "9", "max_tokens": 90_000, "on_limit": "pause"}) as service:
        mine = (await service.new_run())["budget"]
        assert (mine["limit"]["max_cost_usd"], mine["limit"]["max_tokens"], mine["on_limit"]) == (
            "9.00",
            90_000,
            "pause",
        )
        agent = {**AGENT, "budget": {"max_tokens": 50_000, "on_limit": "stop"}}
        theirs = (await service.new_run(agent_inline=agent))["budget"]
        assert (theirs["limit"]["max_cost_usd"], theirs["limit"]["max_tokens"]) == ("9.00", 50_000)
        run = await service.new_run(agent_inline=agent, budget={"max_tokens": 70_000, "max_cost_usd": None})
        assert run["budget"]["limit"] == {"max_cost_usd": None, "max_tokens": 70_000, "max_output_tokens": None}
        assert run["budget"]["on_limit"] == "stop"
        unpriced = await service.post("/v1/runs", {"agent_inline": {"model": "openai/unpriced-7"}, "input": "x"})
        assert unpriced.json()["code"] == "model_not_priced"
        free = {"agent_inline": {"model": "openai/unpriced-7"}, "input": "x", "budget": {"max_cost_usd": None}}
        assert (await service.post("/v1/runs", free)).status_code == 201


async def test_a_run_nobody_limits_shows_what_it_spends_all_the_same(service: Service) -> None:
    run = await service.new_run()
    nothing = {"cost_usd": "0.00", "tokens": 0, "output_tokens": 0}
    no_limit = {"max_cost_usd": None, "max_tokens": None, "max_output_tokens": None}
    assert run["budget"] == {
        "limit": no_limit, "spent": nothing, "reserved": nothing, "left": no_limit, "on_limit": None, "overrun": False,
    }  # fmt: skip
    await service.begun(run["id"])
    await service.answered(run["id"])
    shown = (await service.get(f"/v1/runs/{run['id']}")).json()
    assert (shown["usage"]["input_tokens"] + shown["usage"]["output_tokens"], shown["budget"]["spent"]["tokens"]) == (
        15, 2_015,
    ), "usage is what was reported, spent also what was assumed of the lost attempt"  # fmt: skip
    assert (await service.new_run(budget={}))["budget"]["on_limit"] is None
    assert (await service.new_run(budget={"on_limit": "stop"}))["budget"]["on_limit"] == "stop"


async def test_a_budget_that_pays_for_no_call_is_refused_before_anything_is_made(service: Service) -> None:
    reply = await service.post("/v1/runs", {**HELLO, "input": "x" * 50_000, "budget": {"max_tokens": 40_000}})
    assert (reply.status_code, reply.json()["code"]) == (402, "budget_too_small")
    assert await service.count("/v1/runs") == 0
    assert (await service.post("/v1/runs", {**HELLO, "budget": {"max_tokens": 40_000}})).status_code == 201


async def test_a_stored_agents_budget_that_is_too_small_is_told_of_the_agent(service: Service) -> None:
    await service.post("/v1/agents", {"name": "poor", **AGENT, "budget": {"max_tokens": 300}})
    reply = await service.post("/v1/runs", {"agent": "poor", "input": "x"})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (402, "/agent")
    assert (await service.post("/v1/runs", {"agent": "poor", "input": "x", "budget": {"max_tokens": 9_000}})).json()[
        "budget"
    ]["limit"]["max_tokens"] == 9_000


# PATCH ---------------------------------------------------------------------------------------------


async def test_a_budget_is_raised_and_lowered_member_by_member_and_null_takes_a_limit_away(service: Service) -> None:
    run = await service.new_run(budget=BUDGET)
    raised = (await patch(service, run["id"], {"budget": {"max_cost_usd": 5}})).json()["budget"]
    assert raised["limit"] == {**BUDGET, "max_cost_usd": "5.00"}
    changed = await patch(service, run["id"], {"budget": {"max_tokens": None, "on_limit": "pause"}})
    assert changed.json()["budget"]["limit"] == {**BUDGET, "max_cost_usd": "5.00", "max_tokens": None}
    assert changed.json()["budget"]["on_limit"] == "pause"
    assert await service.told(run["id"], 2) == ["limits", "limits"]
    entries = (await service.get(f"/v1/runs/{run['id']}/ledger")).json()["data"]
    assert [entry["limits"]["max_cost_usd"] for entry in entries if entry["kind"] == "limit"][-2:] == ["5.00", "5.00"]


async def test_a_budget_that_is_lowered_below_what_is_spent_is_no_overrun_of_a_vendor(service: Service) -> None:
    run = await service.new_run(budget=BUDGET)
    await service.answered(run["id"])
    reply = await patch(service, run["id"], {"budget": {"max_tokens": 10, "max_output_tokens": 1}})
    budget = reply.json()["budget"]
    assert (reply.status_code, budget["overrun"]) == (200, False)
    assert (budget["spent"]["tokens"], budget["left"]["max_tokens"], budget["left"]["max_output_tokens"]) == (15, 0, 0)


async def test_a_run_without_a_budget_can_be_given_one(service: Service) -> None:
    run = await service.new_run()
    await service.answered(run["id"])
    budget = (await patch(service, run["id"], {"budget": {"max_tokens": 5_000}})).json()["budget"]
    assert (budget["limit"]["max_tokens"], budget["spent"]["tokens"], budget["on_limit"]) == (5_000, 15, "wrap_up")


@pytest.mark.parametrize(
    ("limit", "member"), [("max_cost_usd", "budget.max_cost_usd"), ("max_turns", "limits.max_turns")]
)
async def test_a_run_that_its_budget_holds_is_not_resumed_but_given_more(
    service: Service, limit: str, member: str
) -> None:
    run = await service.new_run(budget={**BUDGET, "on_limit": "pause"})
    await service.status(run["id"], "paused", reason=f"budget_reached: {limit}")
    reply = await service.post(f"/v1/runs/{run['id']}/resume", {})
    assert (reply.status_code, reply.json()["code"]) == (409, "invalid_transition")
    assert member in reply.json()["detail"]
    assert f"PATCH /v1/runs/{run['id']}" in reply.json()["detail"]
    assert service.runs.heard == []
    await service.status(run["id"], "paused", reason="lunch")
    assert (await service.post(f"/v1/runs/{run['id']}/resume", {})).status_code == 202
    assert await service.told(run["id"]) == ["resume"]


async def test_limits_and_the_deadline_change_while_the_run_lives(service: Service) -> None:
    run = await service.new_run()
    body = {"limits": {"max_turns": 5, "tool_output_bytes_per_turn": 2_000}, "deadline": "2027-05-01T00:00:00Z"}
    changed = (await patch(service, run["id"], body)).json()
    assert (changed["limits"]["max_turns"], changed["limits"]["tool_output_bytes_per_turn"]) == (5, 2_000)
    assert (changed["limits"]["max_tool_calls"], changed["deadline"]) == (1_000, "2027-05-01T00:00:00.000Z")
    assert await service.told(run["id"]) == ["limits"]
    back = (await patch(service, run["id"], {"limits": {"tool_output_bytes_per_turn": None}})).json()
    assert back["limits"]["tool_output_bytes_per_turn"] is None
    assert back["limits"]["max_turns"] == 5


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "validation_failed", ""),
        ({"budget": {}}, "validation_failed", "/budget"),
        ({"limits": {"max_turns": None}}, "validation_failed", "/limits"),
        ({"budget": {"max_cost_usd": "NaN"}}, "validation_failed", "/budget/max_cost_usd"),
        ({"budget": {"max_cost_usd": -1}}, "validation_failed", "/budget/max_cost_usd"),
        ({"budget": {"max_tokens": 0}}, "validation_failed", "/budget/max_tokens"),
        ({"budget": {"max_usd": 1}}, "validation_failed", "/budget/max_usd"),
        ({"limits": {"max_turns": 0}}, "validation_failed", "/limits/max_turns"),
        ({"limits": {"tools": {}}}, "validation_failed", "/limits/tools"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "validation_failed", "/deadline"),
        ({"deadline": "soon"}, "validation_failed", "/deadline"),
        ({"policy": {}}, "validation_failed", "/policy"),
    ],
)
async def test_a_bad_change_is_refused_and_changes_nothing(
    service: Service, body: Any, code: str, pointer: str
) -> None:
    run = await service.new_run(budget=BUDGET)
    before = (await service.get(f"/v1/runs/{run['id']}")).json()
    reply = await patch(service, run["id"], body)
    assert (reply.status_code, reply.json()["code"]) == (422, code)
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert (await service.get(f"/v1/runs/{run['id']}")).json() == before
    assert service.runs.heard == []


async def test_a_cost_limit_needs_a_price_later_too(service: Service) -> None:
    run = await service.new_run(agent_inline={"model": "openai/unpriced-7"})
    reply = await patch(service, run["id"], {"budget": {"max_cost_usd": "1"}})
    assert (reply.status_code, reply.json()["code"]) == (422, "model_not_priced")
    assert reply.json()["errors"][0]["pointer"] == "/budget/max_cost_usd"
    assert (await patch(service, run["id"], {"budget": {"max_tokens": 5_000}})).status_code == 200


async def test_the_budget_of_a_run_that_has_ended_stands(service: Service) -> None:
    run = await service.completed_run()
    reply = await patch(service, run["id"], {"budget": {"max_tokens": 5}})
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")


# Ledger and usage ----------------------------------------------------------------------------------


async def test_the_ledger_tells_every_reservation_and_what_became_of_it(service: Service) -> None:
    run = await service.new_run(budget=BUDGET)
    await service.answered(run["id"])
    page = (await service.get(f"/v1/runs/{run['id']}/ledger")).json()
    entries = page["data"]
    assert [entry["entry"] for entry in entries] == list(range(1, len(entries) + 1))
    kinds = [entry["kind"] for entry in entries]
    assert kinds[-2:] == ["reserved", "settled"]
    reserved, settled = entries[-2:]
    assert (reserved["key"], reserved["attempt"], reserved["model"]) == ("model-1", 1, "openai/priced")
    assert reserved["amount"] == {"cost_usd": "0.003", "tokens": 2_000, "output_tokens": 1_000}
    assert reserved["balance"]["reserved"] == reserved["amount"]
    assert settled["amount"] == {"cost_usd": "0.0025", "tokens": 15, "output_tokens": 5}
    assert settled["balance"] == {
        "spent": settled["amount"], "reserved": {"cost_usd": "0.00", "tokens": 0, "output_tokens": 0},
    }  # fmt: skip
    assert (settled["assumed"], settled["overrun"]) == (False, False)
    first = (await service.get(f"/v1/runs/{run['id']}/ledger?limit=1")).json()
    rest = (await service.get(f"/v1/runs/{run['id']}/ledger?after={first['next_cursor']}")).json()
    assert [*first["data"], *rest["data"]] == entries
    newest = (await service.get(f"/v1/runs/{run['id']}/ledger?order=desc&limit=2")).json()
    older = (await service.get(f"/v1/runs/{run['id']}/ledger?order=desc&after={newest['next_cursor']}")).json()
    assert (newest["has_more"], older["has_more"]) == (True, False)
    assert [*newest["data"], *older["data"]] == entries[::-1]
    assert (await service.get(f"/v1/runs/{run['id']}/ledger?order=newest")).status_code == 400


async def test_a_vendor_that_uses_more_than_it_was_allowed_is_recorded_and_flagged(service: Service) -> None:
    run = await service.new_run(budget={"max_tokens": 5_000})
    await service.asked(run["id"], usage=Usage(input_tokens=4_000, output_tokens=3_000, cost_micros=10_000))
    last = (await service.get(f"/v1/runs/{run['id']}/ledger")).json()["data"][-1]
    assert (last["kind"], last["overrun"], last["amount"]["tokens"]) == ("settled", True, 7_000)
    assert (await service.get(f"/v1/runs/{run['id']}")).json()["budget"]["overrun"] is True
    raised = (await patch(service, run["id"], {"budget": {"max_tokens": 50_000}})).json()["budget"]
    assert raised["overrun"] is True, "more money does not undo what a vendor did"
    [event] = await service.events(run["id"], "budget.overrun")
    assert event["data"]["key"] == "model-1"


async def test_usage_is_summed_up_by_what_one_asks_for(service: Service) -> None:
    await service.post("/v1/agents", {"name": "scout", **AGENT})
    one = (await service.post("/v1/runs", {"agent": "scout", "input": "x"})).json()
    two = await service.new_run()
    for run in (one, two):
        await service.answered(run["id"])

    async def groups(query: str) -> dict[str, Any]:
        return {row["group"]: row for row in (await service.get(f"/v1/usage?{query}")).json()["data"]}

    assert set(await groups("group_by=run")) == {one["id"], two["id"]}
    assert set(await groups("group_by=session")) == {one["session_id"], two["session_id"]}
    assert set(await groups("group_by=agent")) == {"scout", "inline"}
    by_model = await groups("group_by=model")
    assert by_model["openai/priced"] == {
        "group": "openai/priced", "model_calls": 2, "input_tokens": 20, "output_tokens": 10, "cache_read_tokens": 0,
        "cost_usd": "0.005", "assumed_cost_usd": "0.00", "unpriced_calls": 0,
    }  # fmt: skip
    [day] = await groups("")
    assert day == one["created_at"][:10]
    assert await groups("group_by=run&before=2020-01-01T00:00:00Z") == {}
    assert await groups("group_by=run&from=2099-01-01T00:00:00Z") == {}
    assert len(await groups(f"group_by=run&from={one['created_at']}")) == 2


async def test_usage_comes_as_csv_to_whoever_accepts_that(service: Service) -> None:
    run = await service.new_run()
    await service.answered(run["id"])
    reply = await service.get("/v1/usage?group_by=run", accept="text/csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.text.splitlines()[0].startswith("group,model_calls,")
    [row] = csv.DictReader(io.StringIO(reply.text))
    assert (row["group"], row["model_calls"], row["cost_usd"]) == (run["id"], "1", "0.0025")
    empty = await service.get("/v1/usage?before=2020-01-01T00:00:00Z", accept="text/csv, application/json")
    assert len(empty.text.splitlines()) == 1
    both = await service.get("/v1/usage", accept="application/json, text/csv")
    assert both.json()["object"] == "list"


async def test_models_tell_how_well_their_input_was_estimated(service: Service) -> None:
    assert [model["calibration"] for model in (await service.get("/v1/models")).json()["data"]] != []
    run = await service.new_run()
    await service.answered(run["id"])
    [seen] = await service.journal.calibrations()
    assert (seen.model, seen.calls, seen.misses, seen.worst_permille) == ("openai/priced", 1, 0, 10)
