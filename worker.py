"""The worker process: ``python -m worker``. Composition only; what it runs is in workflows/ and activities/."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from datetime import timedelta
from functools import partial

import uvloop
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.answer_call import CallAnswerer
from activities.call_family import FamilyCaller
from activities.call_model import ModelCaller
from activities.call_tool import ToolCaller
from activities.children import Nursery
from activities.lifeline import FaultHook, unharmed
from activities.neighbours import Neighbours
from activities.own_schedules import ScheduleBooks
from activities.record import Recorder
from activities.repairs import Repairs
from activities.schedules import Firings
from activities.settle_ask import AskSettler
from activities.transcripts import Transcripts
from perdure.assembly import Assembly, assemble, default_budget, default_limits, run_of_schedule
from perdure.courier import Courier
from perdure.runs import TemporalUnavailable, register_search_attributes
from perdure.settings import Settings
from workflows.agent_run import AgentRun
from workflows.scheduled_run import ScheduledRun


def build_worker(assembly: Assembly, reached: FaultHook = unharmed) -> Worker:
    """A worker on the settings' task queue. ``reached`` is called at the points where crashes hurt."""
    settings, journal = assembly.settings, assembly.journal
    tuning, beat = settings.worker, settings.worker.heartbeat_every_seconds
    name, transcripts = f"{socket.gethostname()}:{os.getpid()}", Transcripts(journal)
    courier = Courier(journal, assembly.runs)
    neighbours = Neighbours(journal, assembly.runs, courier)
    models = ModelCaller(
        journal, assembly.catalog, assembly.toolbox, name, beat, tuning.model_timeout_seconds,
        tuning.model_max_attempts, settings.limits.output_tokens_default, transcripts,
        Repairs(journal, strict=tuning.strict_transcripts), settings.previews,
        neighbours, reached,
    )  # fmt: skip
    limits = settings.limits
    books = ScheduleBooks(journal, assembly.schedules, limits.max_schedules, limits.max_schedules_per_agent)
    tools = ToolCaller(
        journal, assembly.toolbox, name, beat, settings.workspaces, settings.limits.spool_bytes,
        settings.limits.tool_result_bytes_max, transcripts, settings.previews, books, reached,
    )  # fmt: skip
    firings = Firings(journal, assembly.runs, courier, assembly.schedules, partial(run_of_schedule, settings), beat)
    nursery = Nursery(
        journal, assembly.catalog, assembly.toolbox, default_limits(settings), default_budget(settings),
        settings.limits.output_tokens_default,
    )  # fmt: skip
    return Worker(
        assembly.runs.client,
        task_queue=settings.task_queue,
        workflows=[AgentRun, ScheduledRun],
        activities=[
            models.call_model,
            tools.call_tool,
            CallAnswerer(journal, beat).answer_call,
            AskSettler(journal, beat).settle_ask,
            FamilyCaller(journal, nursery, assembly.runs, neighbours, beat, reached).call_family,
            Recorder(journal, beat, transcripts, neighbours, settings.limits.spool_bytes, reached).record,
            firings.open_invocation,
            firings.await_run,
            firings.cancel_run,
            firings.pause_schedule,
        ],
        # The sandbox would be switched off for the core anyway; purity is held by tests, and a turn is cheaper.
        workflow_runner=UnsandboxedWorkflowRunner(),
        identity=name,
        max_cached_workflows=tuning.max_cached_workflows,
        max_concurrent_activities=tuning.max_concurrent_activities,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=tuning.sticky_timeout_seconds),
        graceful_shutdown_timeout=timedelta(seconds=tuning.graceful_stop_seconds),
        max_heartbeat_throttle_interval=timedelta(seconds=beat),
        default_heartbeat_throttle_interval=timedelta(seconds=beat),
    )


async def run_worker(settings: Settings, reached: FaultHook = unharmed) -> None:
    """Run until SIGTERM or SIGINT, then finish what is in flight. Waits for Temporal to be there."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            assembly = await assemble(settings, lazy=False)
            break
        except TemporalUnavailable as trouble:
            print(f"worker waits: {trouble}", flush=True)
            await asyncio.sleep(1)  # the supervisor or the operator is bringing it up
    else:
        return
    await register_search_attributes(assembly.runs.client, wanted=settings.search_attributes)
    async with build_worker(assembly, reached):
        print(f"worker ready on task queue {settings.task_queue}", flush=True)
        await assembly.catalog.warm()  # the vendors' SDKs, before the first call needs them
        gc.freeze()  # what is loaded by now stays: collections need not look at it again
        gc.set_threshold(20_000, 10, 5)  # a tenth less CPU a turn; workflows put out of the cache are cyclic and old
        await stop.wait()
    await assembly.close()


if __name__ == "__main__":
    uvloop.run(run_worker(Settings()))
