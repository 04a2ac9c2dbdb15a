"""``make bench-time``: how punctually timers wake runs, what a sleeping run costs, what it costs to lead fifty others,
and one run of ten thousand turns. ``--quick`` is a small version without the long run, ``--parts`` measures some of it;
figures go to standard output, and as JSON to ``--json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.bed import Bed
from bench.family import fan_out
from bench.figures import Figure
from bench.long_run import long_run

PARTS = ("wake_accuracy", "sleeping", "family", "long_run")
SPREAD_SECONDS = 60
AT_ONCE = 16  # clients that post side by side
CACHED = 20  # workflows the worker keeps: the others are evicted, as sleepers are in the long run


async def wake_accuracy(bed: Bed, count: int) -> Figure:
    """``count`` runs sleep until moments spread over a minute: how late their timers fire, by the journal."""
    lead_seconds = 15 + count * 0.1  # all of them shall sleep before the first has to wake
    first_ms = int((time.time() + lead_seconds) * 1_000)
    moments = [first_ms + number * SPREAD_SECONDS * 1_000 // count for number in range(count)]
    ids = await _all(bed, [{"until": _shown(at_ms)} for at_ms in moments])
    await _asleep(bed, ids)
    in_time = time.time() * 1_000 < first_ms
    late = []
    for run_id in ids:
        await bed.finish(run_id)
        late.append((await _events(bed, run_id, "timer.fired"))[0]["data"]["late_ms"])
    late.sort()
    return {
        "timers": count,
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[len(late) * 99 // 100],
        "max_ms": late[-1],
        "all_slept_before_the_first_woke": float(in_time),
    }


async def sleeping(bed: Bed, count: int) -> Figure:
    """``count`` runs that sleep a day: what they add to the worker's memory and to both databases, each."""
    await _asleep(bed, await _all(bed, [{"for_seconds": 86_400}] * 50))  # the worker, its modules, its connections
    worker = psutil.Process(bed.pid("worker-1"))
    await asyncio.sleep(3)
    memory, disk, history = worker.memory_info().rss, _used_bytes(bed), _history_bytes(bed)
    started = time.perf_counter()
    await _asleep(bed, await _all(bed, [{"for_seconds": 86_400}] * count))
    seconds = time.perf_counter() - started
    await asyncio.sleep(3)
    return {
        "sleepers": count,
        "worker_grown_mb": (worker.memory_info().rss - memory) / 1_000_000,
        "disk_kb_each": (_used_bytes(bed) - disk) / count / 1_000,
        "history_kb_each": (_history_bytes(bed) - history) / count / 1_000,
        "started_per_second": count / seconds,
    }


def _history_bytes(bed: Bed) -> int:
    """The journal, and Temporal's tables of histories. The rest of its file is mutable state, queues and visibility:
    the dev server keeps some thirty indexes over each open workflow, which another store does not have."""
    connection = sqlite3.connect(bed.home / "temporal.db", timeout=30)
    tables = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%history_node%' OR name LIKE '%history_tree%'"
    history = int(connection.execute(tables).fetchone()[0])
    connection.close()
    return history + (bed.home / "journal.db").stat().st_size


def _used_bytes(bed: Bed) -> int:
    """Pages of both databases that hold something: those that tasks in passing have left behind are used again."""
    total = 0
    bed.disk_bytes()  # folds the logs in
    for name in ("journal.db", "temporal.db"):
        connection = sqlite3.connect(bed.home / name, timeout=30)
        pages, free, size = (
            connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
        )
        connection.close()
        total += (pages - free) * size
    return total


async def _all(bed: Bed, arguments: list[dict[str, Any]]) -> list[str]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(given: dict[str, Any]) -> str:
        async with gate:
            return str((await bed.post("bench-sleeper", ["sleep"], input=json.dumps(given)))["id"])

    return list(await asyncio.gather(*(one(given) for given in arguments)))


async def _asleep(bed: Bed, ids: list[str]) -> None:
    """Until all of them sleep, or have slept."""
    for run_id in ids:
        while (await bed.http.get(f"/v1/runs/{run_id}")).json()["status"] in ("queued", "running"):
            await asyncio.sleep(0.2)


async def _events(bed: Bed, run_id: str, type_: str) -> list[dict[str, Any]]:
    answer = await bed.http.get(f"/v1/runs/{run_id}/events?types={type_}", headers={"accept": "application/json"})
    return list(answer.raise_for_status().json()["data"])


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")


def rows(found: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    """(figure, measured, at most, unit), of the parts that were measured."""
    shown: list[tuple[str, float, float, str]] = []
    if wakes := found.get("wake_accuracy"):
        shown += [
            (f"{wakes['timers']} timers over a minute: late, p50", wakes["p50_ms"], 50, "ms"),
            ("  late, p99", wakes["p99_ms"], 500, "ms"),
        ]
    if sleeps := found.get("sleeping"):
        shown += [
            (f"{sleeps['sleepers']} sleeping runs: growth of the worker", sleeps["worker_grown_mb"], 150, "MB"),
            ("  disk of each, journal and history", sleeps["history_kb_each"], 12, "KB"),
        ]
    if family := found.get("family"):
        shown += [
            ("parent with 50 children ÷ 50 bare children, idle", family["idle"]["ratio"], 1.5, "×"),
            ("  each with two seconds of work", family["working"]["ratio"], 1.5, "×"),
        ]
    if long := found.get("long_run"):
        memory = [sample["worker_mb"] for sample in long["samples"]]
        shown += [
            (f"a run of {long['turns']} turns: growth of the worker", max(memory) - memory[1], 50, "MB"),
            ("  taken up cold, slowest of three places", max(at["cold_resume_s"] for at in long["resumes"]), 1, "s"),
        ]
    return shown


def measured(part: str, folder: Path, quick: bool) -> dict[str, Any]:
    """One part, in a bed of its own."""
    env = {"PERDURE_WORKER__MAX_CACHED_WORKFLOWS": str(CACHED)} if part == "sleeping" else {}
    with Bed(folder / part, env=env) as bed:
        match part:
            case "wake_accuracy":
                found = asyncio.run(wake_accuracy(bed, 100 if quick else 1_000))
            case "sleeping":
                found = asyncio.run(sleeping(bed, 500 if quick else 10_000))
            case "family":
                found = asyncio.run(fan_out(bed, 3 if quick else 9))
            case _:
                found = asyncio.run(long_run(bed, 10_000))
    return {**found, "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.time", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="measure these only")
    parser.add_argument(
        "--json", type=Path, help="write the figures here; parts that are not measured stay as they are"
    )
    options = parser.parse_args()
    parts = options.parts or [part for part in PARTS if not (options.quick and part == "long_run")]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            found[part] = measured(part, Path(folder), options.quick)
    missed = 0
    print(f"{'figure':62} {'measured':>10} {'at most':>10}")
    for figure, value, at_most, unit in rows(found):
        missed += value > at_most
        print(f"{figure:62} {value:>10.2f} {at_most:>10g} {unit:3} {'' if value <= at_most else 'missed'}")
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**before, **found}, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
