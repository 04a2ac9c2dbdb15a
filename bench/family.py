"""What it costs to lead a family: a parent with 50 children side by side, over a bare workflow with 50 children."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from bench.bare import BareParent
from bench.bed import BARE_QUEUE, Bed
from bench.figures import Figure, p50

CHILDREN = 50
WORK_SECONDS = 2.0  # of a child that works: a short answer of a model, as in scripts/bench-family.yaml


async def fan_out(bed: Bed, rounds: int) -> Figure:
    """From the answer that asks for 50 children to the next model call, which has all their results. Beside it a bare
    parent whose 50 child workflows run two activities each: once no-ops, and children who say one word; once with
    two seconds of work in each child, on both sides."""
    found: Figure = {"children": CHILDREN, "rounds": rounds}
    temporal = await bed.temporal()
    for name, script, seconds in (("idle", "parent", 0.0), ("working", "parent-working", WORK_SECONDS)):
        ours: list[float] = []
        bare: list[float] = []
        for round_ in range(rounds + 1):
            ours.append(await _family(bed, script))
            bare.append(
                await temporal.execute_workflow(
                    BareParent.run, args=[CHILDREN, seconds], id=f"bare-parent-{time.time_ns()}", task_queue=BARE_QUEUE
                )
            )
            if not round_:  # warms both sides up
                ours.clear()
                bare.clear()
        found[name] = {"ours_s": p50(ours), "bare_s": p50(bare), "ratio": p50(ours) / p50(bare)}
    return found


async def _family(bed: Bed, script: str) -> float:
    run = await bed.post(script, ["spawn_agent"])
    await bed.finish(run["id"])
    asked = await _at(bed, run["id"], "model.completed")
    went_on = await _at(bed, run["id"], "model.started")
    return went_on[1] - asked[0]


async def _at(bed: Bed, run_id: str, type_: str) -> list[float]:
    answer = await bed.http.get(f"/v1/runs/{run_id}/events?types={type_}", headers={"accept": "application/json"})
    events: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return [datetime.fromisoformat(event["at"]).timestamp() for event in events]
