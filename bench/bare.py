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


@activity.defn
async def busy(seconds: float) -> None:
    """Waits as a model call does."""
    await asyncio.sleep(seconds)


@workflow.defn
class BareChild:
    """Two activities, of which one takes ``seconds``."""

    @workflow.run
    async def run(self, seconds: float) -> None:
        await workflow.execute_activity(busy, seconds, start_to_close_timeout=timedelta(seconds=30))
        await workflow.execute_activity(no_op, start_to_close_timeout=timedelta(seconds=30))


@workflow.defn
class BareParent:
    """As many children side by side; returns the seconds until all of them have ended."""

    @workflow.run
    async def run(self, children: int, seconds: float) -> float:
        started = workflow.time()
        await asyncio.gather(*(workflow.execute_child_workflow(BareChild.run, seconds) for _ in range(children)))
        return workflow.time() - started


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
        await connect(lazy=False),
        task_queue=task_queue,
        workflows=[Bare, BareChild, BareParent, Nothing, Listening],
        activities=[no_op, busy],
    ):
        print("worker ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
