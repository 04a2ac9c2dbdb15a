"""One run of thousands of turns: does it complete, is the worker's memory flat, how soon does another worker take it
up? ``python -m bench.long_run --turns 10000``. The content of a turn is small: what a model is shown of a long
transcript is another matter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bench.bed import TERMINAL, Bed

SAMPLES = 20  # of time and memory, spread over the turns
RESUMES = 3  # at a quarter, a half, three quarters


async def long_run(bed: Bed, turns: int) -> dict[str, Any]:
    limits = {"max_turns": turns + 10, "max_tool_calls": turns + 10}
    run = await bed.post(f"long-{turns}", ["tiny"], limits=limits)
    samples: list[dict[str, float]] = []
    resumes: list[dict[str, float]] = []
    kill_at = [turns * (part + 1) // (RESUMES + 1) for part in range(RESUMES)]
    began = time.monotonic()
    while True:
        now = (await bed.http.get(f"/v1/runs/{run['id']}")).json()
        if now["status"] in TERMINAL:
            break
        if now["turns"] >= len(samples) * turns / SAMPLES:
            samples.append(_sample(bed, now["turns"], time.monotonic() - began))
            print(json.dumps(samples[-1]), flush=True)
        if kill_at and now["turns"] >= kill_at[0]:
            kill_at.pop(0)
            resumes.append(await _resume(bed, run["id"]))
            print(json.dumps(resumes[-1]), flush=True)
        await asyncio.sleep(0.05)
    samples.append(_sample(bed, now["turns"], time.monotonic() - began))
    return {"turns": now["turns"], "status": now["status"], "samples": samples, "resumes": resumes}


def _sample(bed: Bed, turns: int, seconds: float) -> dict[str, float]:
    worker = psutil.Process(bed.pid("worker-1"))
    times = worker.cpu_times()
    return {
        "turns": turns,
        "seconds": round(seconds, 1),
        "worker_mb": round(worker.memory_info().rss / 1e6, 1),
        "worker_cpu_seconds": round(times.user + times.system, 1),
    }


async def _resume(bed: Bed, run_id: str) -> dict[str, float]:
    """The run is held, its worker killed, another one started. From the order to go on until the next model call
    begins: the new worker knows nothing of the run, and replays its history and reads its transcript."""
    path = f"/v1/runs/{run_id}"
    await bed.http.post(f"{path}/pause", json={})
    while (held := (await bed.http.get(path)).json())["status"] != "paused":
        await asyncio.sleep(0.02)
    ready = _times_ready(bed)
    os.kill(bed.pid("worker-1"), signal.SIGKILL)
    while _times_ready(bed) == ready:
        await asyncio.sleep(0.05)
    await asyncio.sleep(3)  # it has imported its vendors' SDKs, and the killed one's sticky queue is given up
    ordered = time.time()
    await bed.http.post(f"{path}/resume", json={})
    while not (began := await _next_model(bed, path, held["last_seq"])):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    await bed.http.post(f"{path}/pause", json={})
    while (warm := (await bed.http.get(path)).json())["status"] != "paused":
        await asyncio.sleep(0.02)
    again = time.time()
    await bed.http.post(f"{path}/resume", json={})
    while not (warm_began := await _next_model(bed, path, warm["last_seq"])):
        await asyncio.sleep(0.02)
    return {
        "turns": held["turns"],
        "cold_resume_s": round(began - ordered, 3),
        "warm_resume_s": round(warm_began - again, 3),
    }


def _times_ready(bed: Bed) -> int:
    return (bed.home / "logs" / "worker-1.log").read_text().count("worker ready")


async def _next_model(bed: Bed, path: str, after: int) -> float:
    """When the next model call began, in unix seconds; 0 when it has not."""
    found = (await bed.http.get(f"{path}/events?after={after}&types=model.started&limit=1")).json()["data"]
    return datetime.fromisoformat(found[0]["at"]).timestamp() if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.long_run", description=__doc__)
    parser.add_argument("--turns", type=int, default=3_000, choices=(3_000, 10_000))
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Bed(Path(folder) / "home") as bed:
        found = asyncio.run(long_run(bed, arguments.turns))
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
