"""The baseline: the least a Temporal workflow with two activities a turn can do. Run as a worker process:
``python -m bench.bare TASK_QUEUE``."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.worker import Worker


@activity.defn
async def no_op() -> None:
    """Does nothing."""


@workflow.defn
class Bare:
    """``turns`` times two no-op activities; returns seconds per turn as the workflow saw them."""

    @workflow.run
    async def run(self, turns: int) -> float:
        started = workflow.time()
        for _ in range(turns * 2):
            await workflow.execute_activity(no_op, start_to_close_timeout=timedelta(seconds=10))
        return (workflow.time() - started) / turns


@workflow.defn
class Nothing:
    """Ends at once."""

    @workflow.run
    async def run(self) -> None:
        return


@workflow.defn
class Listening:
    """Takes updates until it is told to end: what an order costs at the least."""

    def __init__(self) -> None:
        self._over = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self._over)

    @workflow.update
    async def hear(self, word: str) -> str:
        return word

    @workflow.signal
    def end(self) -> None:
        self._over = True


async def main(task_queue: str) -> None:
    from perdure.runs import connect

    async with Worker(
        await connect(lazy=False), task_queue=task_queue, workflows=[Bare, Nothing, Listening], activities=[no_op]
    ):
        print("worker ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
