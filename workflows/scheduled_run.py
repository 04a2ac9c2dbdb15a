"""The workflow of one firing of a schedule: it opens the invocation, starts its run as a child and waits for the run's
end, so that what Temporal does about firings that overlap (skip, buffer, cancel) is done about runs.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import (
    RetryPolicy,
    SearchAttributeKey,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, ChildWorkflowError, TerminatedError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from perdure.contract import (
        AWAIT_RUN,
        CANCEL_RUN,
        OPEN_INVOCATION,
        PAUSE_SCHEDULE,
        SCHEDULED_RUN,
        SUMMARY_CHARACTERS,
        TASK_TIMEOUT_SECONDS,
        WORKFLOW,
        Opened,
        OpenInvocationInput,
        RunOfSchedule,
        ScheduledRunInput,
    )
    from perdure.core.state import Outcome
    from workflows.shown import as_started

_PLANNED = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")  # Temporal sets it on what a schedule starts
_WRITE_SECONDS = 10.0  # one attempt of an activity that writes a few rows: a lost worker is noticed after this
_WAIT_DAYS = 500  # longer than any run's deadline
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.2),  # a lost worker's work is taken up at once
    backoff_coefficient=2,
    maximum_interval=timedelta(seconds=10),  # a journal that is back is noticed within this
)
_FAILED = ("failed", "expired")  # what pauses a schedule that pauses on failure


@workflow.defn(name=SCHEDULED_RUN)
class ScheduledRun:
    """The workflow id is that of the schedule and the planned time, as Temporal makes it."""

    @workflow.run
    async def run(self, start: ScheduledRunInput) -> str:
        cancelled, opened = await _opened(start)
        while opened.status == "early" and not cancelled:
            # Nothing is begun yet: a cancellation in the meantime ends this firing.
            await workflow.sleep(max(opened.begins_ms / 1_000 - workflow.now().timestamp(), 1))
            cancelled, opened = await _opened(start)
        if opened.start is None:
            await _after(start.schedule_id, opened, opened.status)
            return opened.status
        ending = asyncio.ensure_future(_end(opened))
        if cancelled or await _cancelled_before(ending):  # the next firing came, and the policy is to cancel this one
            what = RunOfSchedule(start.schedule_id, opened.run_id, "cancelled by its schedule")
            await _write(CANCEL_RUN, what, f"cancel {opened.run_id}")
        status = await ending
        await _after(start.schedule_id, opened, status)
        return status


async def _opened(start: ScheduledRunInput) -> tuple[bool, Opened]:
    """Whether this workflow was cancelled meanwhile, and what was opened: that is seen through, for the run may have
    been made."""
    opening = asyncio.ensure_future(_open(start))
    return await _cancelled_before(opening), await opening


async def _cancelled_before(work: asyncio.Future[Opened] | asyncio.Future[str]) -> bool:
    """Wait for the end of the work, or for the cancellation of this workflow: then True, and the work goes on."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        return True
    return False


async def _open(start: ScheduledRunInput) -> Opened:
    info = workflow.info()
    planned = info.typed_search_attributes.get(_PLANNED) or info.start_time
    order = OpenInvocationInput(
        start.schedule_id,
        start.version,
        f"{info.workflow_id}/{info.first_execution_run_id}",
        int(planned.timestamp() * 1_000),
        int(info.start_time.timestamp() * 1_000),
    )
    opened: Opened = await workflow.execute_activity(
        OPEN_INVOCATION,
        order,
        result_type=Opened,
        start_to_close_timeout=timedelta(seconds=_WRITE_SECONDS),
        retry_policy=_RETRY,
        summary="open the invocation",
    )
    return opened


async def _end(opened: Opened) -> str:
    """Start the run, and its status when it has ended, however it ended."""
    assert opened.start is not None
    spec = opened.start.spec
    try:
        child = await workflow.start_child_workflow(
            WORKFLOW,
            opened.start,
            id=opened.run_id,
            result_type=Outcome,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            # Who ends this workflow by force ends no run: the next firing does, when it shall.
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            task_timeout=timedelta(seconds=TASK_TIMEOUT_SECONDS),
            static_summary=opened.start.goal[:SUMMARY_CHARACTERS] or None,
            search_attributes=as_started(spec, opened.tenant) if spec.search_attributes else None,
        )
        outcome: Outcome = await child
    except WorkflowAlreadyStartedError:  # this took so long that the API's reconciler has started it
        status: str = await workflow.execute_activity(
            AWAIT_RUN,
            RunOfSchedule("", opened.run_id),
            result_type=str,
            start_to_close_timeout=timedelta(days=_WAIT_DAYS),
            heartbeat_timeout=timedelta(seconds=spec.heartbeat_timeout_seconds),
            retry_policy=_RETRY,
            summary="until the run has ended",
        )
        return status
    except ChildWorkflowError as error:
        return "cancelled" if isinstance(error.cause, TerminatedError) else "failed"
    return outcome.status


async def _after(schedule_id: str, opened: Opened, status: str) -> None:
    """A failure shows in Temporal, too, and pauses the schedule when it is asked to."""
    if status not in _FAILED:
        return
    if opened.pause_on_failure:
        what = f"run {opened.run_id} has {status}" if opened.run_id else "a firing could not start its run"
        await _write(PAUSE_SCHEDULE, RunOfSchedule(schedule_id, opened.run_id, what), "pause the schedule")
    raise ApplicationError(f"run {opened.run_id or '(none)'}: {status}", type="RunFailed", non_retryable=True)


async def _write(name: str, order: RunOfSchedule, summary: str) -> None:
    await workflow.execute_activity(
        name,
        order,
        start_to_close_timeout=timedelta(seconds=_WRITE_SECONDS),
        retry_policy=_RETRY,
        summary=summary,
    )
