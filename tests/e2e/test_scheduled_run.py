"""The little workflow of a firing, where its child is not its own, for the API's reconciler was quicker, and where it
comes before its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.testing import ActivityEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.schedules import GRACE_MS, Firings
from perdure.assembly import run_of_schedule, run_spec
from perdure.contract import OPEN_INVOCATION, SCHEDULED_RUN, Opened, OpenInvocationInput, ScheduledRunInput
from perdure.core.state import Outcome
from perdure.courier import Courier
from perdure.dev_server import DevServer
from perdure.runs import DATA_CONVERTER, Runs
from perdure.schedules import Schedules
from perdure.settings import Settings
from perdure.store.schedule_rows import NewSchedule, ScheduleChange, ScheduleRow
from perdure.store.sql import SqlJournal, open_journal
from perdure.tools.registry import build_toolbox
from tests.scheduling.definitions import defined, ms
from tests.store.runs import AGENT
from workflows.scheduled_run import ScheduledRun

EARLY_MS = 1_500


class LateFirings(Firings):
    """Between the invocation and its child somebody else starts the run, as the reconciler does after 3 s."""

    @activity.defn(name=OPEN_INVOCATION)
    async def open_invocation(self, order: OpenInvocationInput) -> Opened:
        opened = await Firings.open_invocation(self, order)
        await self.runs.start(await self.journal.get_run(opened.run_id))
        return opened


class EarlyFirings(LateFirings):
    """The workflow starts a while before the time that its firing is meant for."""

    @activity.defn(name=OPEN_INVOCATION)
    async def open_invocation(self, order: OpenInvocationInput) -> Opened:
        begins_ms = order.began_ms + EARLY_MS
        if time.time_ns() // 1_000_000 < begins_ms:
            return Opened("early", begins_ms=begins_ms)
        return await LateFirings.open_invocation(self, order)


@dataclass
class Bed:
    client: Client
    journal: SqlJournal
    schedule: ScheduleRow
    firings: Firings

    async def begin(self) -> WorkflowHandle[object, str]:
        return await self.client.start_workflow(
            SCHEDULED_RUN,
            ScheduledRunInput(self.schedule.id, 1),
            id=f"{self.schedule.id}-by-hand",
            task_queue="late",
            result_type=str,
        )

    async def fire(self) -> WorkflowHandle[object, str]:
        handle = await self.begin()
        while not await self.journal.open_runs(self.schedule.id):
            await asyncio.sleep(0.05)
        return handle


@pytest.fixture
async def bed(tmp_path: Path, temporal: DevServer, request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    settings = Settings(home=tmp_path)
    client = await Client.connect(temporal.address, data_converter=DATA_CONVERTER)
    journal = await open_journal(settings.sql_url, settings.blob_folder)
    toolbox = build_toolbox()
    runs = Runs(
        client, task_queue="nobody", spec_of=lambda run: run_spec(run, settings, toolbox), search_attributes=False
    )
    definition = defined({"cron": ["@yearly"]}, agent=None, inline={**AGENT, "tools": []})
    new = NewSchedule(f"sch_{tmp_path.name}", "late", definition, "ana")
    schedule = await journal.create_schedule(new, most=9, most_of_owner=9)
    schedules = Schedules(client, task_queue="late", previews=True)
    kind = getattr(request, "param", LateFirings)
    firings = kind(journal, runs, Courier(journal, runs), schedules, partial(run_of_schedule, settings), 0.5)
    async with Worker(
        client,
        task_queue="late",
        workflows=[ScheduledRun],
        activities=[firings.open_invocation, firings.await_run, firings.cancel_run, firings.pause_schedule],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield Bed(client, journal, schedule, firings)
    await journal.close()


async def test_a_run_that_somebody_else_has_started_is_waited_for_all_the_same(bed: Bed) -> None:
    handle = await bed.fire()
    (run_id,) = await bed.journal.open_runs(bed.schedule.id)
    await asyncio.sleep(1)
    assert (await handle.describe()).status.name == "RUNNING"  # type: ignore[union-attr]
    await bed.journal.record(run_id, "finish", [], Outcome("completed", "end"))
    assert await asyncio.wait_for(handle.result(), 10) == "completed"


async def test_its_cancellation_is_an_order_to_the_run_and_it_waits_for_the_end(bed: Bed) -> None:
    handle = await bed.fire()
    (run_id,) = await bed.journal.open_runs(bed.schedule.id)
    await asyncio.sleep(1)
    await handle.cancel()
    while await delivered(bed.client, run_id) == 0:
        await asyncio.sleep(0.1)
    assert await bed.journal.undelivered_orders(run_id, limit=9) == []
    assert (await handle.describe()).status.name == "RUNNING"  # type: ignore[union-attr]
    await bed.journal.record(run_id, "finish", [], Outcome("cancelled", "cancelled by its schedule"))
    assert await asyncio.wait_for(handle.result(), 10) == "cancelled"


@pytest.mark.parametrize("bed", [EarlyFirings], indirect=True)
async def test_a_firing_that_comes_before_its_time_waits_for_it(bed: Bed) -> None:
    handle = await bed.fire()
    (run_id,) = await bed.journal.open_runs(bed.schedule.id)
    description = await handle.describe()
    began_ms = int(description.start_time.timestamp() * 1_000)
    assert (await bed.journal.get_run(run_id)).created_ms >= began_ms + EARLY_MS
    await bed.journal.record(run_id, "finish", [], Outcome("completed", "end"))
    assert await asyncio.wait_for(handle.result(), 10) == "completed"


@pytest.mark.parametrize("bed", [EarlyFirings], indirect=True)
async def test_a_firing_that_is_cancelled_before_its_time_opens_nothing(bed: Bed) -> None:
    handle = await bed.begin()
    while not any(event.HasField("timer_started_event_attributes") for event in (await handle.fetch_history()).events):
        await asyncio.sleep(0.05)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(handle.result(), 10)
    assert await bed.journal.open_runs(bed.schedule.id) == []


async def test_what_temporal_fires_an_hour_early_begins_when_a_firing_of_the_time_itself_has_gone_before(
    bed: Bed,
) -> None:
    definition = defined({"cron": ["15 1 * * *"]}, timezone="America/New_York", jitter_seconds=60)
    changed = await bed.journal.change_schedule("default", bed.schedule.id, ScheduleChange(definition=definition))
    second_ms = ms("2037-11-01T06:15:00")  # the clock shows 01:15 for the second time
    order = OpenInvocationInput(changed.id, changed.version, "sch/first", second_ms - 3_600_000, 1_000)
    opened = await ActivityEnvironment().run(Firings.open_invocation, bed.firings, order)
    assert opened == Opened("early", begins_ms=second_ms + 60_000 + GRACE_MS)
    assert await bed.journal.open_runs(changed.id) == []


async def delivered(client: Client, run_id: str) -> int:
    """How many signals the run's workflow has."""
    history = await client.get_workflow_handle(run_id).fetch_history()
    return sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events)
