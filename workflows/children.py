"""How a run starts the workflow of a child: as a child of its own, so that Temporal shows the tree, but one that
lives by itself. Whatever becomes of it is heard from the journal.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from perdure.contract import (
        SUMMARY_CHARACTERS,
        TASK_TIMEOUT_SECONDS,
        WORKFLOW,
        AgentRunInput,
        ChildStart,
    )
    from workflows.shown import as_started


async def start_child(child: ChildStart) -> None:
    """Return when it has started. Somebody may have been quicker: its id is the run's."""
    try:
        handle = await workflow.start_child_workflow(
            WORKFLOW,
            AgentRunInput(child.spec, child.goal),
            id=child.spec.run_id,
            # A parent that ends, or continues as new, must not take it along: the journal says what ends with it.
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            task_timeout=timedelta(seconds=TASK_TIMEOUT_SECONDS),
            static_summary=child.goal[:SUMMARY_CHARACTERS] or None,
            search_attributes=as_started(child.spec, child.tenant) if child.spec.search_attributes else None,
        )
    except WorkflowAlreadyStartedError:
        return
    handle.add_done_callback(_heard_from_the_journal)


def _heard_from_the_journal(handle: workflow.ChildWorkflowHandle[object, object]) -> None:
    """A child that was ended by force fails here, and nobody waits for it."""
    if not handle.cancelled():
        handle.exception()
