"""Families over real processes: a parent leads children under one budget, and nobody is left behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.e2e.ledgers import held, ledger
from tests.e2e.stack import TERMINAL, Stack
from tests.e2e.story import told_well, types

LEADER = ["calculator", "spawn_agent", "wait_for_agents", "message_agent", "cancel_agent", "ask_user"]
BUDGET = {"max_cost_usd": "2.00"}


def lead(stack: Stack, script: str, tools: list[str] = LEADER, **body: Any) -> dict[str, Any]:
    return stack.post_run(f"scripted/{script}", tools, **body)


def children(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    found = stack.http.get(f"/v1/runs?parent_run_id={run_id}&limit=100&order=asc").raise_for_status().json()["data"]
    return [dict(run) for run in found]


def tree(stack: Stack, run_id: str) -> dict[str, Any]:
    return dict(stack.http.get(f"/v1/runs/{run_id}/tree").raise_for_status().json())


def nodes(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [of, *(below for child in of["children"] for below in nodes(child))]


def results(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    """The tool results of a run, in their order."""
    messages = stack.http.get(f"/v1/runs/{run_id}/messages?limit=100").raise_for_status().json()["data"]
    return [block for message in messages for block in message["content"] if block["type"] == "tool_result"]


def all_accounted(stack: Stack, root: str) -> list[dict[str, Any]]:
    """Every run of the tree has ended, its ledger was kept, and the root has spent what all of them have."""
    runs = nodes(tree(stack, root))
    assert all(run["status"] in TERMINAL for run in runs), [(run["id"], run["status"]) for run in runs]
    for run in runs:
        held(stack, run["id"])
        told_well(stack, run["id"])
    own = sum(
        Decimal(line["amount"]["cost_usd"])
        for run in runs
        for line in ledger(stack, run["id"])
        if line["kind"] in ("settled", "corrected") and not line["key"].startswith("child-")
    )
    budget = runs[0]["budget"]
    assert own == Decimal(budget["spent"]["cost_usd"]) <= Decimal(budget["limit"]["max_cost_usd"])
    assert Decimal(budget["reserved"]["cost_usd"]) == 0
    return runs


def test_a_parent_leads_five_children_in_parallel_under_one_budget(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-five", budget=BUDGET)["id"])
    assert run["status"] == "completed", run
    found = children(stack, run["id"])
    assert [child["status"] for child in found] == ["completed"] * 5
    assert {child["output_text"] for child in found} == {
        f"{name} is done." for name in ("one", "two", "three", "four", "five")
    }
    for child in found:
        assert (child["parent_run_id"], child["root_run_id"], child["depth"]) == (run["id"], run["id"], 1)
        assert child["session_id"] != run["session_id"]
    answers = [json.loads(block["text"]) for block in results(stack, run["id"])]
    assert [answer["status"] for answer in answers] == ["completed"] * 5
    assert {answer["output"] for answer in answers} == {child["output_text"] for child in found}
    told = types(stack.events(run["id"]))
    assert (told["child.started"], told["child.completed"]) == (5, 5)
    runs = all_accounted(stack, run["id"])
    assert len(runs) == 6
    assert runs[0]["total"]["runs"] == 6
    assert Decimal(runs[0]["total"]["usage"]["cost_usd"]) == Decimal(run["budget"]["spent"]["cost_usd"])
