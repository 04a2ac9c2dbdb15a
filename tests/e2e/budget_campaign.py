"""Budgets under fire: many runs with random limits, and workers that are killed at random moments.

``python -m tests.e2e.budget_campaign --runs 100`` plays the whole campaign and prints what it found;
``test_budget_campaign.py`` plays a short one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from perdure.dev_server import start_dev_server
from tests.e2e.ledgers import held
from tests.e2e.stack import TERMINAL, Stack

SCRIPTS = ("campaign-steady", "campaign-parallel", "campaign-flaky", "campaign-talker")
TOGETHER = 10  # runs in flight at once
SECONDS_MAX = 900.0


@dataclass
class Found:
    """What a campaign came to. ``violations`` are ledgers that were not kept, in words."""

    runs: int = 0
    kills: int = 0
    lines: int = 0
    assumed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def budget_drawn(chance: Random) -> dict[str, Any]:
    budget: dict[str, Any] = {"on_limit": chance.choice(("wrap_up", "wrap_up", "stop"))}
    if chance.random() < 0.7:
        budget["max_cost_usd"] = str(Decimal(chance.randrange(15_000, 90_000)) / 1_000_000)
    if chance.random() < 0.4 or len(budget) == 1:
        budget["max_tokens"] = chance.randrange(15_000, 90_000)
    if chance.random() < 0.3:
        budget["max_output_tokens"] = chance.randrange(1_000, 8_000)
    return budget


def play(stack: Stack, chance: Random, runs: int) -> Found:
    """Post runs, kill one of two workers every second or two, and hold every ledger against its limits."""
    found = Found()
    for name in ("worker-a", "worker-b"):
        stack.spawn(name, "-m", "worker")
    waiting: dict[str, None] = {}
    give_up, next_kill = time.monotonic() + SECONDS_MAX, time.monotonic() + 2
    while (found.runs < runs or waiting) and time.monotonic() < give_up:
        while found.runs < runs and len(waiting) < TOGETHER:
            model = f"scripted/{chance.choice(SCRIPTS)}"
            body = {"budget": budget_drawn(chance), "limits": {"max_turns": 1_000}}
            waiting[stack.post_run(model, ["calculator", "book_idempotent"], **body)["id"]] = None
            found.runs += 1
        if time.monotonic() > next_kill:
            name = chance.choice(("worker-a", "worker-b"))
            stack.kill(name)
            stack.spawn(name, "-m", "worker")
            found.kills += 1
            next_kill = time.monotonic() + chance.uniform(3.0, 5.0)  # a worker needs two to be there again
        for run_id in [run_id for run_id in waiting if stack.run(run_id)["status"] in TERMINAL]:
            del waiting[run_id]
            _look(stack, run_id, found)
        time.sleep(0.1)
    found.violations += [f"{run_id} did not end within the campaign" for run_id in waiting]
    return found


def _look(stack: Stack, run_id: str, found: Found) -> None:
    run = stack.run(run_id)
    found.outcomes[f"{run['status']} {run['stop_reason']}"] += 1
    if run["budget"]["overrun"]:
        found.violations.append(f"{run_id} has an overrun: {run['budget']}")
    try:
        lines = held(stack, run_id)
    except AssertionError as broken:
        found.violations.append(f"{run_id}: {broken}")
        return
    found.lines += len(lines)
    found.assumed += sum(line["assumed"] for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.budget_campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        temporal = start_dev_server(Path(folder) / "temporal.db")
        stack = Stack(Path(folder) / "home", temporal)
        started = time.monotonic()
        try:
            found = play(stack.start(worker=False), Random(given.seed), given.runs)
        finally:
            stack.stop()
            temporal.stop()
    print(
        f"seed {given.seed}: {found.runs} runs, {found.kills} kills, {found.lines} lines, {found.assumed} assumed, "
        f"{dict(found.outcomes)}, {len(found.violations)} violations, {time.monotonic() - started:.0f} s"
    )
    print("\n".join(found.violations))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
