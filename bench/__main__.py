"""``make bench``: every figure, as a table and as JSON. ``--quick`` is a small version for a first look."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import figures, people
from bench.bed import Bed


def rows(found: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    """(figure, measured, at most, unit) in the order of the issue that set the targets."""
    history = found["history"]
    first, last = history[0]["history_bytes_per_turn"], history[-1]["history_bytes_per_turn"]
    return [
        *[
            (f"history bytes per turn at turn {one['turns']}", one["history_bytes_per_turn"], 2_000, "B")
            for one in history
        ],
        ("  flatness, first to last", abs(last / first - 1) * 100, 5, "%"),
        ("history events per turn", max(one["history_events_per_turn"] for one in history), 13, ""),
        ("durable bytes per turn, journal included", history[-1]["durable_bytes_per_turn"], 12_000, "B"),
        ("gap between model calls ÷ bare workflow with two activities", found["gap"]["ratio"], 1.5, "×"),
        ("  the same at the vendor, both SDK ends included", found["gap"]["ratio_at_vendor"], 1.5, "×"),
        ("worker CPU per turn", history[1]["worker_cpu_ms_per_turn"], 12, "ms"),
        ("first token at the SSE client − vendor SDK", found["first_token"]["difference_ms"], 30, "ms"),
        ("POST → 201 ÷ raw start_workflow", found["post"]["ratio"], 3, "×"),
        ("worker killed → next step, median", found["recovery"]["median_s"], 3, "s"),
        ("worker killed → next step, max", found["recovery"]["max_s"], 5, "s"),
        ("interrupt accepted → call aborted at the vendor, p50", found["interrupt"]["p50_ms"], 500, "ms"),
        ("approval decided → tool starts, p50", found["approval"]["p50_ms"], 150, "ms"),
        ("messages to one run that were lost", found["messages"]["lost"], 0, ""),
        ("  longest history of its workflow", found["messages"]["longest_history_events"], 10_000, ""),
        ("  growth of the worker's memory", found["messages"]["worker_grown_mb"], 50, "MB"),
    ]


async def measure(bed: Bed, *, quick: bool) -> dict[str, Any]:
    return {
        "warm_up": await figures.history(bed, 50),
        "post": await figures.post(bed, 20 if quick else 100),
        "first_token": await figures.first_token(bed, 20 if quick else 60),
        "live_lane": await figures.first_token_of_a_running_run(bed, 5 if quick else 20),
        "gap": await figures.gap(bed, 3 if quick else 9),
        "history": [await figures.history(bed, turns) for turns in ((50, 200) if quick else (50, 200, 1000))],
        "interrupt": await people.interrupt(bed, 5 if quick else 30),
        "approval": await people.approval(bed, 5 if quick else 30),
        "messages": await people.messages(bed, 1_000 if quick else people.MESSAGES),
        "recovery": await figures.recovery(bed, 3 if quick else 9),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Bed(Path(folder) / "home") as bed:
        found = asyncio.run(measure(bed, quick=arguments.quick))
    found["machine"] = {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()}
    missed = 0
    print(f"{'figure':62} {'measured':>10} {'at most':>10}")
    for figure, measured, at_most, unit in rows(found):
        missed += measured > at_most
        print(f"{figure:62} {measured:>10.2f} {at_most:>10g} {unit:3} {'' if measured <= at_most else 'missed'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
