"""Run a tool under the promise of its effect class, once: found under its key, the result stands.

The effect ledger is the journal: *started* is committed before the effect. A ``once`` tool that was
started and never ended is not run again: its outcome is unknown, and the model is told.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.lifeline import FaultHook, filed, finished, lifeline, unharmed, was_called_off, worker_is_stopping
from activities.transcripts import Transcripts
from perdure.contract import CALL_TOOL, CallToolInput
from perdure.core.happenings import ToolAnswered
from perdure.core.state import Failure
from perdure.store.journal import Journal
from perdure.store.rows import Begun, CallRow, ToolCommit
from perdure.tools.port import Tool, ToolBox, ToolCallContext, ToolTrouble
from perdure.tools.spool import preview

_RETRY_SECONDS = (0.5, 2.0, 5.0)  # between attempts of a tool that asked for another


@dataclass(frozen=True)
class ToolCaller:
    """The activity with its adapters. ``workspaces`` holds one folder a run."""

    journal: Journal
    toolbox: ToolBox
    worker: str
    beat_every_seconds: float
    workspaces: Path
    spool_bytes: int
    result_bytes_max: int
    transcripts: Transcripts
    previews: bool
    reached: FaultHook = unharmed

    @activity.defn(name=CALL_TOOL)
    async def call_tool(self, order: CallToolInput) -> ToolAnswered:
        async with lifeline(self.beat_every_seconds):
            begun = await self.journal.begin_tool(
                order.run_id, order.call_id, worker=self.worker, may_repeat=not order.once, outbox=order.outbox
            )
            if begun.ended:
                return _report(order, begun.ended)
            call = begun.call
            assert call is not None, "a call that has begun is there"
            commit = await self._answer(order, call, self.toolbox.get(call.name), begun)
            self.reached("tool.after_effect", call.name)
            ended = await finished(filed(lambda: self.journal.commit_tool(order.run_id, order.call_id, commit)))
            self.reached("tool.committed", call.name)
            return _report(order, ended)

    async def _answer(self, order: CallToolInput, call: CallRow, tool: Tool | None, begun: Begun) -> ToolCommit:
        if tool is None:
            return ToolCommit("failed", f"this worker has no tool {call.name!r}", "unknown_tool")
        if order.once and begun.lost_attempt is not None:
            return ToolCommit(
                "unknown",
                "The call was started, and the worker that ran it was lost before it reported. It was not run "
                "again: it may or may not have taken effect. Check before you repeat it.",
                "tool_outcome_unknown",
            )
        if begun.attempt > order.last_attempt:
            return ToolCommit("failed", f"given up after {order.last_attempt} attempts", "tool_error")
        self.reached("tool.before_effect", call.name)
        try:
            text = await self._run(order, call, tool, begun.attempt)
        except TimeoutError:
            return ToolCommit(
                "unknown" if order.once else "failed",
                f"no result within {order.timeout_seconds:g} s; the call was abandoned"
                + (" and may still take effect" if tool.description["effect"] != "read" else ""),
                "tool_timeout",
            )
        except ToolTrouble as trouble:
            if trouble.retryable and not order.once and begun.attempt < order.last_attempt:
                raise await self._retry(order, begun.attempt, trouble) from None  # a cause would enter history whole
            return ToolCommit("failed", trouble.message, trouble.code)
        except asyncio.CancelledError:
            await finished(self._cut_short(order, begun.attempt))
            raise
        return await self._result(text)

    async def _run(self, order: CallToolInput, call: CallRow, tool: Tool, attempt: int) -> str:
        arguments = call.arguments if isinstance(call.arguments, dict) else {}
        run = await self.transcripts.run(order.run_id)
        context = ToolCallContext(
            run_id=order.run_id,
            session_id=run.session_id,
            call_id=order.call_id,
            attempt=attempt,
            idempotency_key=f"{order.run_id}:{order.call_id}",
            workspace=self.workspaces / order.run_id,
            blobs=self.transcripts.blobs(run.session_id),
        )
        async with asyncio.timeout(order.timeout_seconds):
            return await tool.run(arguments, context)

    async def _result(self, text: str) -> ToolCommit:
        """Spool what is large: the model gets a preview and reads on."""
        body = text.encode("utf-8", errors="replace")
        if len(body) > self.result_bytes_max:
            return ToolCommit(
                "failed",
                f"the result has {len(body)} bytes; at most {self.result_bytes_max} are kept. Ask for less.",
                "tool_error",
            )
        if len(body) <= self.spool_bytes:
            return ToolCommit("completed", text, bytes=len(body))
        blob = await filed(lambda: self.journal.put_blob(body, "text/plain; charset=utf-8"))
        return ToolCommit("completed", preview(text, blob, len(body)), blob=blob, bytes=len(body))

    async def _retry(self, order: CallToolInput, attempt: int, trouble: ToolTrouble) -> ApplicationError:
        seconds = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1]
        await self.journal.fail_tool_attempt(
            order.run_id,
            order.call_id,
            attempt,
            Failure(trouble.code, trouble.message, True, order.call_id, attempt),
            retry_in_seconds=seconds,
        )
        return ApplicationError(
            trouble.message[:1_000] if self.previews else trouble.code,  # Temporal keeps 4 KiB of a failure
            type="ToolTrouble",
            next_retry_delay=timedelta(seconds=seconds),
        )

    async def _cut_short(self, order: CallToolInput, attempt: int) -> None:
        """The run called this call off, or this worker is stopping and its grace is over. A superseded
        attempt writes nothing."""
        if was_called_off():
            text = "The call was called off while it ran; it may or may not have taken effect."
            await self.journal.commit_tool(
                order.run_id, order.call_id, ToolCommit("unknown" if order.once else "failed", text, "cancelled")
            )
        elif worker_is_stopping() and not order.once:
            await self.journal.fail_tool_attempt(
                order.run_id,
                order.call_id,
                attempt,
                Failure("worker_stopping", "the worker is stopping", True, order.call_id, attempt),
                retry_in_seconds=0.0,
            )


def _report(order: CallToolInput, call: CallRow) -> ToolAnswered:
    return ToolAnswered(order.key, order.call_id, call.status)
