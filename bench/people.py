"""Figures of people in the loop: how soon an order is carried out, beside a bare Temporal update, and what
ten thousand messages to one run leave behind."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import Any

import psutil

from bench.bare import Listening
from bench.bed import BARE_QUEUE, Bed
from bench.figures import Figure, p50

MESSAGES = 10_000
AT_ONCE = 32  # clients that post side by side


async def interrupt(bed: Bed, rounds: int) -> Figure:
    """From the reply to the order until the vendor sees its connection end, beside a bare update."""
    took: list[float] = []
    bare: list[float] = []
    update = await _updates(bed)
    for round_ in range(rounds + 2):
        run = await bed.post("endless")
        await _seen(bed, run["id"], "text.delta")
        answer = await bed.http.post(
            f"/v1/runs/{run['id']}/messages", json={"content": "Stop.", "delivery": "interrupt"}
        )
        assert answer.status_code == 202, answer.text
        accepted = time.time()
        aborted = await _aborted(bed, run["id"])
        await bed.http.post(f"/v1/runs/{run['id']}/cancel", json={"mode": "force", "reason": "measured"})
        seconds = await update()
        if round_ >= 2:
            took.append(aborted - accepted)
            bare.append(seconds)
    return {
        "p50_ms": p50(took) * 1000,
        "max_ms": max(took) * 1000,
        "bare_update_ms": p50(bare) * 1000,
        "rounds": rounds,
    }


async def approval(bed: Bed, rounds: int) -> Figure:
    """From the reply to the decision until the tool starts, beside a bare update."""
    took: list[float] = []
    bare: list[float] = []
    update = await _updates(bed)
    policy = {"rules": [{"tool": "two_kilobytes", "action": "ask"}]}
    for round_ in range(rounds + 2):
        run = await bed.post("steps-1", ["two_kilobytes"], policy=policy)
        action = await _pending(bed, run["id"])
        answer = await bed.http.post(f"/v1/approvals/{action['id']}/decide", json={"decision": "approve"})
        assert answer.status_code == 200, answer.text
        decided = time.time()
        started = await _seen(bed, run["id"], "tool.started")
        await bed.finish(run["id"])
        seconds = await update()
        if round_ >= 2:
            took.append(started - decided)
            bare.append(seconds)
    return {
        "p50_ms": p50(took) * 1000,
        "max_ms": max(took) * 1000,
        "bare_update_ms": p50(bare) * 1000,
        "rounds": rounds,
    }


async def messages(bed: Bed, count: int = MESSAGES) -> Figure:
    """Many messages to one run that is busy: accepted a second, and what they leave: executions of the workflow,
    its longest history, the worker's memory."""
    run = await bed.post("endless")
    await _seen(bed, run["id"], "text.delta")
    worker = psutil.Process(bed.pid("worker-1"))
    before = worker.memory_info().rss
    gate = asyncio.Semaphore(AT_ONCE)

    async def say(number: int) -> None:
        async with gate:
            answer = await bed.http.post(
                f"/v1/runs/{run['id']}/messages", json={"content": f"number {number}", "delivery": "enqueue"}
            )
            assert answer.status_code == 202, answer.text

    started = time.perf_counter()
    await asyncio.gather(*(say(number) for number in range(count)))
    seconds = time.perf_counter() - started
    grown = worker.memory_info().rss - before
    await bed.http.post(f"/v1/runs/{run['id']}/cancel", json={"mode": "graceful", "reason": "measured"})
    while (await bed.http.get(f"/v1/runs/{run['id']}")).json()["status"] != "cancelled":
        await asyncio.sleep(0.2)
    told: dict[str, int] = {}
    answer = await bed.http.get(
        f"/v1/runs/{run['id']}/events?types[]=inbox.applied&types[]=inbox.returned&types[]=inbox.accepted",
        headers={"accept": "application/jsonl"},
    )
    for line in answer.text.splitlines():
        type_ = json.loads(line)["type"]
        told[type_] = told.get(type_, 0) + 1
    settled = told.get("inbox.applied", 0) + told.get("inbox.returned", 0)
    temporal = await bed.temporal()
    await asyncio.sleep(1)
    lengths = []
    async for execution in temporal.list_workflows(f"WorkflowId = '{run['id']}'"):
        described = await temporal.get_workflow_handle(run["id"], run_id=execution.run_id).describe()
        lengths.append(described.raw_description.workflow_execution_info.history_length)
    return {
        "messages": count,
        "accepted_per_second": count / seconds,
        "lost": told.get("inbox.accepted", 0) - settled,
        "executions": len(lengths),
        "longest_history_events": max(lengths),
        "worker_grown_mb": grown / 1_000_000,
    }


async def _updates(bed: Bed) -> Any:
    """A bare workflow that takes updates; each call of what is returned makes one, in seconds."""
    temporal = await bed.temporal()
    handle = await temporal.start_workflow(Listening.run, id=f"listening-{time.time_ns()}", task_queue=BARE_QUEUE)

    async def update() -> float:
        started = time.perf_counter()
        await handle.execute_update(Listening.hear, "word")
        return time.perf_counter() - started

    await update()
    return update


async def _seen(bed: Bed, run_id: str, type_: str) -> float:
    """When the run told of this for the first time, in unix seconds."""
    async with bed.http.stream("GET", f"/v1/runs/{run_id}/events", headers={"accept": "text/event-stream"}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:") and (event := json.loads(line[5:]))["type"] == type_:
                return datetime.fromisoformat(event["at"]).timestamp()
    raise RuntimeError(f"run {run_id} ended without {type_}")


async def _aborted(bed: Bed, run_id: str) -> float:
    while True:
        for line in await bed.vendor_log():
            if line["event"] == "disconnected" and str(line.get("request_key", "")).startswith(run_id):
                return float(line["at"])
        await asyncio.sleep(0.02)


async def _pending(bed: Bed, run_id: str) -> dict[str, Any]:
    while True:
        run = (await bed.http.get(f"/v1/runs/{run_id}", headers={"prefer": "wait=10"})).json()
        if run["pending_actions"]:
            return dict(run["pending_actions"][0])
        await asyncio.sleep(0.02)
