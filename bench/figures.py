"""One function a figure. Each returns measured values; ratios come from interleaved runs of both sides."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from datetime import datetime
from typing import Any

from bench.bare import Bare, Nothing
from bench.bed import BARE_QUEUE, Bed

Figure = dict[str, Any]


def p50(values: list[float]) -> float:
    return statistics.median(values)


async def history(bed: Bed, turns: int) -> Figure:
    """History bytes and events per turn, over every workflow execution of the run's chain."""
    temporal = await bed.temporal()
    disk, cpu = bed.disk_bytes(), bed.cpu_seconds("worker-1")
    started = time.monotonic()
    run = await bed.post(f"steps-{turns}", ["two_kilobytes"])
    await bed.finish(run["id"])
    seconds = time.monotonic() - started
    cpu, disk = bed.cpu_seconds("worker-1") - cpu, bed.disk_bytes() - disk
    size = events = executions = 0
    await asyncio.sleep(1)  # visibility lags by up to half a second
    async for execution in temporal.list_workflows(f"WorkflowId = '{run['id']}'"):
        described = await temporal.get_workflow_handle(run["id"], run_id=execution.run_id).describe()
        info = described.raw_description.workflow_execution_info
        size, events, executions = size + info.history_size_bytes, events + info.history_length, executions + 1
    return {
        "turns": turns,
        "history_bytes_per_turn": size / turns,
        "history_events_per_turn": events / turns,
        "executions": executions,
        "durable_bytes_per_turn": disk / turns,
        "worker_cpu_ms_per_turn": cpu / turns * 1000,
        "seconds": seconds,
    }


async def gap(bed: Bed, rounds: int, turns: int = 50) -> Figure:
    """From the end of one model call to the start of the next, over a bare workflow's turn: once as the
    journal sees it (model.completed to model.started), once as the vendor does (last byte to next request),
    which adds the vendor SDK's own work on both ends."""
    temporal = await bed.temporal()
    ours: list[float] = []
    at_vendor: list[float] = []
    bare: list[float] = []
    for round_ in range(rounds + 1):
        run = await bed.post(f"steps-{turns}", ["two_kilobytes"])
        await bed.finish(run["id"])
        completed: float | None = None
        gaps: list[float] = []
        for line in await bed.vendor_log():
            if not str(line.get("request_key", "")).startswith(run["id"]):
                continue
            if line["event"] == "asked" and completed is not None:
                gaps.append(line["at"] - completed)
            if line["event"] == "completed":
                completed = line["at"]
        seconds = await temporal.execute_workflow(
            Bare.run, turns, id=f"bare-{round_}-{time.time_ns()}", task_queue=BARE_QUEUE
        )
        if round_:  # the first round warms both sides up
            at_vendor.append(p50(gaps))
            ours.append(p50(await _journal_gaps(bed, run["id"])))
            bare.append(seconds)
    return {
        "ours_ms": p50(ours) * 1000,
        "at_vendor_ms": p50(at_vendor) * 1000,
        "bare_ms": p50(bare) * 1000,
        "ratio": p50([a / b for a, b in zip(ours, bare, strict=True)]),
        "ratio_at_vendor": p50([a / b for a, b in zip(at_vendor, bare, strict=True)]),
        "rounds": rounds,
    }


async def _journal_gaps(bed: Bed, run_id: str) -> list[float]:
    """Seconds from each model.completed to the next model.started."""
    answer = await bed.http.get(f"/v1/runs/{run_id}/events", headers={"accept": "application/jsonl"})
    gaps: list[float] = []
    completed: float | None = None
    for line in answer.raise_for_status().text.splitlines():
        event = json.loads(line)
        at = datetime.fromisoformat(event["at"]).timestamp()
        if event["type"] == "model.started" and completed is not None:
            gaps.append(at - completed)
        if event["type"] == "model.completed":
            completed = at
    return gaps


async def first_token(bed: Bed, rounds: int) -> Figure:
    """First text at our SSE client minus first text at a client of the vendor's SDK, same server."""
    from openai import AsyncOpenAI

    vendor = AsyncOpenAI(base_url=f"{bed.vendors_url}/v1", api_key="scripted", max_retries=0)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds + 3):
        started = time.perf_counter()
        stream = await vendor.responses.create(model="first-token", input="go", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                theirs.append(time.perf_counter() - started)
                break
        await stream.close()
        started = time.perf_counter()
        async with bed.http.stream(
            "POST",
            "/v1/runs",
            json={
                "agent_inline": {"model": "scripted/first-token", "instructions": "x"},
                "input": "go",
                "stream": True,
            },
        ) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event:") and "text.delta" in line:
                    ours.append(time.perf_counter() - started)
                    break
        await asyncio.sleep(0.05)  # let the run end: it is not part of the next round
    await vendor.close()
    minus = [a - b for a, b in zip(ours[3:], theirs[3:], strict=True)]
    return {
        "ours_ms": p50(ours[3:]) * 1000,
        "sdk_ms": p50(theirs[3:]) * 1000,
        "difference_ms": p50(minus) * 1000,
        "rounds": rounds,
    }


async def first_token_of_a_running_run(bed: Bed, rounds: int) -> Figure:
    """The same for the journal's live lane alone: from the vendor's first byte to our reader."""
    late: list[float] = []
    for _ in range(rounds + 3):
        run = await bed.post("first-token")
        async with bed.http.stream(
            "GET", f"/v1/runs/{run['id']}/events", headers={"accept": "text/event-stream"}
        ) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event:") and "text.delta" in line:
                    arrived = time.time()
                    break
        await bed.finish(run["id"])
        first = next(
            line["at"]
            for line in await bed.vendor_log()
            if str(line.get("request_key", "")).startswith(run["id"]) and line["event"] == "first_byte"
        )
        late.append(arrived - first)
    return {"late_ms": p50(late[3:]) * 1000, "rounds": rounds}


async def post(bed: Bed, rounds: int) -> Figure:
    """POST to 201 over a raw start_workflow."""
    temporal = await bed.temporal()
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(rounds + 5):
        started = time.perf_counter()
        await bed.post("first-token")
        ours.append(time.perf_counter() - started)
        await asyncio.sleep(0.15)  # the started run is over
        started = time.perf_counter()
        await temporal.start_workflow(Nothing.run, id=f"nothing-{time.time_ns()}", task_queue=BARE_QUEUE)
        raw.append(time.perf_counter() - started)
        await asyncio.sleep(0.05)
    ratios = [a / b for a, b in zip(ours[5:], raw[5:], strict=True)]
    return {
        "ours_ms": p50(ours[5:]) * 1000,
        "raw_ms": p50(raw[5:]) * 1000,
        "ratio": p50(ours[5:]) / p50(raw[5:]),
        "ratio_pairwise": p50(ratios),
        "rounds": rounds,
    }


async def recovery(bed: Bed, kills: int) -> Figure:
    """SIGKILL of the only worker in the middle of a model call, to the run's next step."""
    took: list[float] = []
    for _ in range(kills):
        run = await bed.post("steady")
        killed = 0.0
        async with bed.http.stream(
            "GET", f"/v1/runs/{run['id']}/events", headers={"accept": "text/event-stream"}
        ) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line[5:])
                if event["type"] == "text.delta" and not killed:
                    os.kill(bed.pid("worker-1"), signal.SIGKILL)
                    killed = time.perf_counter()
                elif killed and event["type"] == "model.started":
                    took.append(time.perf_counter() - killed)
                    break
        await bed.http.post(f"/v1/runs/{run['id']}/cancel", json={"mode": "force", "reason": "measured"})
        await asyncio.sleep(1)
    return {"median_s": p50(took), "max_s": max(took), "kills": kills}
