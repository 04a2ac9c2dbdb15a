"""A journal that forgot a run does not leave its workflow hanging."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

from temporalio.client import Client, WorkflowExecutionStatus

from tests.e2e.stack import Stack


async def test_the_workflow_of_a_run_that_the_journal_lost_fails_and_says_so(build: Callable[..., Stack]) -> None:
    stack = build()
    await asyncio.to_thread(stack.start, worker=False)
    run = await asyncio.to_thread(stack.post_run, "scripted/hello")
    with sqlite3.connect(stack.home / "journal.db", timeout=10) as journal:
        journal.execute("UPDATE runs SET id = 'run_elsewhere' WHERE id = ?", (run["id"],))
    journal.close()
    stack.spawn("worker", "-m", "worker")
    handle = (await Client.connect(stack.temporal.address)).get_workflow_handle(run["id"])

    async def ended() -> bool:
        return (await handle.describe()).status != WorkflowExecutionStatus.RUNNING

    for _ in range(300):
        if await ended():
            break
        await asyncio.sleep(0.1)
    assert (await handle.describe()).status == WorkflowExecutionStatus.FAILED
