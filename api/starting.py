"""From a run in the journal to its workflow. A run that is in the journal is never lost: what Temporal
did not take at once, the reconciler starts later; what Temporal lost, or somebody ended there, it ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from api.parts import Parts
from api.pruning import prune_by_settings
from api.schedule_keeping import ScheduleKeeper
from perdure.assembly import Assembly
from perdure.core.state import Failure
from perdure.runs import TemporalUnavailable
from perdure.store.rows import RunRow
from perdure.store.trouble import JournalTrouble, RunOver

log = logging.getLogger("perdure.api")

EVERY_SECONDS = 2.0  # how soon after Temporal's return waiting runs start
PAUSE_SECONDS_MAX = 4.0  # between tries while Temporal or the journal stays away; a try is one read and one call
OLDER_THAN_MS = 3_000  # younger runs are still being started by the request that made them
SILENT_MS = 60_000  # a run that works and has said nothing for so long: does its workflow exist?
KEYS_EVERY_SECONDS = 3_600.0  # between two looks for idempotency keys that are too old
KEYS_KEPT_MS = 24 * 3_600_000  # a client that repeats a request after a day is starting anew
ORPHANS_EVERY_SECONDS = 15.0  # between two looks for such runs
BATCH = 100  # runs of one look; the rest come in the next


async def start_now(parts: Parts, run: RunRow) -> None:
    """Start the workflow; when Temporal is away the run stays queued, durably, for the reconciler."""
    try:
        await parts.assembly.runs.start(run)
    except TemporalUnavailable as trouble:
        log.warning("run %s is queued until Temporal is back: %s", run.id, trouble)
        return
    except Exception:
        log.exception("run %s is queued: its workflow cannot be started now", run.id)  # the run is durable all the same
        return
    parts.later(_confirm(parts.assembly, run.id))  # the client need not wait for this write


async def _confirm(assembly: Assembly, run_id: str) -> None:
    with suppress(JournalTrouble):  # unconfirmed runs are started again, which is nothing
        await assembly.journal.mark_workflow_started(run_id)


async def end_workflows(assembly: Assembly) -> None:
    """The workflows of runs that were ended in the journal, by force or with the run they belong to. Best effort: what
    cannot be done now is done by the reconciler."""
    with suppress(TemporalUnavailable, JournalTrouble):
        await _end_left(assembly)


async def _end_left(assembly: Assembly) -> None:
    while left := await assembly.journal.left_workflows(limit=BATCH):
        for run_id in left:
            await assembly.runs.terminate(run_id, "the run has ended in the journal")
        await assembly.journal.workflows_heard(left)


async def reconcile(parts: Parts) -> None:
    """Start queued runs whose workflow nobody has confirmed, until the process stops."""
    pause = EVERY_SECONDS
    keeper = ScheduleKeeper(parts.assembly)
    clock = asyncio.get_running_loop().time
    looked_for_orphans = looked_for_keys = -KEYS_EVERY_SECONDS  # at the start, too
    while True:
        await asyncio.sleep(pause)
        try:
            await _reconcile_once(parts)
            await deliver_late(parts)
            await _end_left(parts.assembly)
            await keeper.keep()
            if clock() - looked_for_orphans > ORPHANS_EVERY_SECONDS:
                looked_for_orphans = clock()
                await end_orphans(parts.assembly)
            if clock() - looked_for_keys > KEYS_EVERY_SECONDS:
                looked_for_keys = clock()
                await forget_keys(parts.assembly)
                await prune_by_settings(parts)
            pause = EVERY_SECONDS
        except (TemporalUnavailable, JournalTrouble) as trouble:
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
            log.warning("queued runs wait %.0f s more: %s", pause, trouble)
        except Exception:
            pause = PAUSE_SECONDS_MAX
            log.exception("the reconciler of queued runs failed; it tries again in %.0f s", pause)


async def _reconcile_once(parts: Parts) -> None:
    assembly = parts.assembly
    for run in await assembly.journal.unstarted_runs(older_than_ms=OLDER_THAN_MS, limit=BATCH):
        try:
            await assembly.runs.start(run)
        except (TemporalUnavailable, JournalTrouble):
            raise
        except Exception:
            log.exception("run %s cannot be started", run.id)  # the others can
            continue
        await assembly.journal.mark_workflow_started(run.id)
        parts.nudge(run.id)  # what it was told while it could not start
        log.info("run %s started, late", run.id)


async def deliver_late(parts: Parts, *, older_than_ms: int = OLDER_THAN_MS) -> None:
    """Orders that nobody has delivered yet, for whatever reason. A run whose workflow is gone is left to the look
    for orphans."""
    for run_id in await parts.assembly.journal.runs_with_orders(older_than_ms=older_than_ms, limit=BATCH):
        try:
            await parts.courier.carry(run_id)
        except (TemporalUnavailable, JournalTrouble):
            raise
        except Exception:
            log.exception("orders to %s cannot be delivered", run_id)  # those to others can


async def end_orphans(assembly: Assembly, *, silent_ms: int = SILENT_MS) -> None:
    """Runs whose workflow was terminated in Temporal, or lost with its database, fail and say so: those that should
    work and have been silent for long, and those that wait and have not heard an order for as long."""
    journal = assembly.journal
    suspects = await journal.silent_runs(silent_ms=silent_ms, limit=BATCH)
    suspects += await journal.runs_with_orders(older_than_ms=silent_ms, limit=BATCH)
    for run_id in dict.fromkeys(suspects):
        if await assembly.runs.is_open(run_id):
            continue
        message = "its workflow was ended or lost in Temporal, outside Perdure; start a new run in the same session"
        with suppress(RunOver):  # it ended just now, in order
            await journal.end_orphan(run_id, Failure("internal", message, retryable=True))
            log.warning("run %s has failed: %s", run_id, message)


async def forget_keys(assembly: Assembly) -> None:
    """Idempotency keys and their first replies would otherwise grow for ever."""
    if forgotten := await assembly.journal.forget_keys(older_than_ms=KEYS_KEPT_MS):
        log.info("%d idempotency keys are forgotten after a day", forgotten)
