"""Families under fire: trees under one budget, and workers that are killed at random moments.

``python -m tests.e2e.family_campaign --seeds 20 --tree 5x5x5`` plays the whole campaign and prints what it found;
``test_family_campaign.py`` plays a short one. ``5x5x5``: five children, each with five, each with five.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from perdure.dev_server import start_dev_server
from tests.e2e.ledgers import held, ledger
from tests.e2e.stack import TERMINAL, Stack

TOOLS = ["calculator", "spawn_agent"]
SECONDS_MAX = 600.0  # of one tree
TREES = {"3x3": "tree-root", "5x5": "tree-root-5", "5x5x5": "tree-root-555"}
BUDGETS = {  # ample, enough for most, too little for some
    "3x3": ("2.00", "0.30", "0.12", "0.07"),
    "5x5": ("5.00", "1.00", "0.50", "0.20"),
    "5x5x5": ("30.00", "10.00", "3.00", "1.00"),
}
OUTPUT_TOKENS = 400  # of each answer: a lost attempt is assumed to have cost so much, and shall not eat up a budget


@dataclass
class Found:
    """What a campaign came to. ``violations`` are promises that were not kept, in words."""

    trees: int = 0
    runs: int = 0
    kills: int = 0
    assumed: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def play(stack: Stack, chance: Random, trees: int, tree: str = "3x3") -> Found:
    """One tree after another; one of two workers is killed every second or two."""
    found = Found()
    for name in ("worker-a", "worker-b"):
        if not stack.alive(name):
            stack.spawn(name, "-m", "worker")
    for _ in range(trees):
        agent = {
            "model": f"scripted/{TREES[tree]}",
            "instructions": "Do as scripted.",
            "tools": TOOLS,
            "model_settings": {"max_output_tokens": OUTPUT_TOKENS},
        }
        budget = {"max_cost_usd": chance.choice(BUDGETS[tree])}
        root = stack.post_run("", agent_inline=agent, budget=budget)["id"]
        began = time.monotonic()
        _kill_until(stack, chance, found, lambda root=root: stack.run(root)["status"] in TERMINAL)  # type: ignore[misc]
        found.seconds += time.monotonic() - began
        found.trees += 1
        _look(stack, root, found)
    return found


def _kill_until(stack: Stack, chance: Random, found: Found, over: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS_MAX
    next_kill = time.monotonic() + chance.uniform(0.3, 1.5)
    while not over():
        if time.monotonic() > give_up:
            found.violations.append("a tree did not end in time")
            return
        if time.monotonic() > next_kill:
            name = chance.choice(("worker-a", "worker-b"))
            stack.kill(name)
            stack.spawn(name, "-m", "worker")
            found.kills += 1
            next_kill = time.monotonic() + chance.uniform(2.0, 5.0)  # a worker needs two to be there again
        time.sleep(0.1)


def _nodes(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [of, *(below for child in of["children"] for below in _nodes(child))]


def _look(stack: Stack, root: str, found: Found) -> None:
    """All accounted, nobody left, the budget of the root kept at every line of its ledger."""
    nodes = _nodes(dict(stack.http.get(f"/v1/runs/{root}/tree").raise_for_status().json()))
    found.runs += len(nodes)
    found.outcomes.update(f"{node['status']} {node['stop_reason']}" for node in nodes)
    of_root = {run["id"] for run in _all_of(stack, root)}
    if of_root != {node["id"] for node in nodes}:
        found.violations.append(f"{root}: its tree has not all of its runs")
    if orphans := [node["id"] for node in nodes if node["status"] not in TERMINAL]:
        found.violations.append(f"{root} has ended, and these have not: {orphans}")
    spent = Decimal(0)
    for node in nodes:
        try:
            lines = held(stack, node["id"])
        except AssertionError as broken:
            found.violations.append(f"{node['id']} ({node['status']}): {broken}")
            lines = ledger(stack, node["id"])
        own = [line for line in lines if not line["key"].startswith("child-")]
        spent += sum(Decimal(line["amount"]["cost_usd"]) for line in own if line["kind"] in ("settled", "corrected"))
        found.assumed += sum(line["assumed"] for line in own)
        if node["budget"]["overrun"]:
            found.violations.append(f"{node['id']} has an overrun: {node['budget']}")
    if spent != Decimal(nodes[0]["budget"]["spent"]["cost_usd"]):
        found.violations.append(f"{root}: all of them spent {spent}, the root says {nodes[0]['budget']['spent']}")


def _all_of(stack: Stack, root: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    after = ""
    while True:
        page = stack.http.get(f"/v1/runs?root={root}&limit=100{after}").raise_for_status().json()
        runs += page["data"]
        if not page["has_more"]:
            return runs
        after = f"&after={page['next_cursor']}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.family_campaign", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tree", choices=TREES, default="3x3")
    given = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        temporal = start_dev_server(Path(folder) / "temporal.db")
        stack = Stack(Path(folder) / "home", temporal)
        try:
            stack.start(worker=False)
            for seed in range(given.first, given.first + given.seeds):
                found = play(stack, Random(seed), 1, given.tree)
                failed += bool(found.violations)
                print(
                    f"seed {seed}: {found.runs} runs, {found.kills} kills, {found.assumed} assumed, "
                    f"{dict(found.outcomes)}, {len(found.violations)} violations, {found.seconds:.0f} s",
                    flush=True,
                )
                print("\n".join(found.violations))
        finally:
            stack.stop()
            temporal.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
