"""Run a tool under the promise of its effect class, once: found under its key, the result stands.

The effect ledger is the journal: *started* is committed before the effect. A ``once`` tool that was
started and never ended is not run again: its outcome is unknown, and the model is told.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.boards import TreeBoard
from activities.lifeline import (
    FaultHook,
    benign,
    filed,
    finished,
    lifeline,
    unharmed,
    was_called_off,
    worker_is_stopping,
)
from activities.own_schedules import ScheduleBooks
from activities.poll_tool import NotYet, poll_once
from activities.transcripts import Transcripts
from activities.verdicts import unknown_outcome
from perdure.contract import CALL_TOOL, TOOL_PARKED, TOOL_PAUSED, CallToolInput
from perdure.core.happenings import ToolAnswered
from perdure.core.state import Failure, Json
from perdure.store.journal import Journal
from perdure.store.rows import Begun, CallRow, RunRow, ToolCommit
from perdure.store.trouble import AskResolved
from perdure.tools.builtin.polling import Poll
from perdure.tools.policy import policy_of, withheld, withheld_words
from perdure.tools.port import Tool, ToolBox, ToolCallContext, ToolTrouble
from perdure.tools.spool import preview

_SUPERSEDED_SECONDS = 1.0  # between two looks whether the run has heard of an order
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
    schedules: ScheduleBooks
    reached: FaultHook = unharmed

    @activity.defn(name=CALL_TOOL)
    async def call_tool(self, order: CallToolInput) -> ToolAnswered:
        async with lifeline(self.beat_every_seconds):
            begun = await self.journal.begin_tool(
                order.run_id,
                order.call_id,
                worker=self.worker,
                may_repeat=not order.once,
                tries_max=order.last_attempt,
                ordered=order.ordered,
                outbox=order.outbox,
            )
            if begun.ended:
                return _report(order, begun.ended)
            if begun.superseded:
                raise _superseded()
            call = begun.call
            assert call is not None, "a call that has begun is there"
            run = await self.transcripts.run(order.run_id, order.transfers)
            commit = await self._answer(order, run, call, begun)
            if commit.status == "unknown" and order.asks_about_unknown:
                try:
                    raise await finished(filed(lambda: self._parked(order, call, begun.attempt)))
                except AskResolved:  # a person gave its result, or ordered it again, in between
                    return _report(order, await self.journal.get_call(order.run_id, order.call_id))
            self.reached("tool.after_effect", call.name)
            ended = await finished(filed(lambda: self.journal.commit_tool(order.run_id, order.call_id, commit)))
            self.reached("tool.committed", call.name)
            return _report(order, ended)

    async def _answer(self, order: CallToolInput, run: RunRow, call: CallRow, begun: Begun) -> ToolCommit:
        tool = self.toolbox.get(call.name)
        if tool is None:
            return ToolCommit("failed", f"this worker has no tool {call.name!r}", "unknown_tool")
        if order.once and begun.lost_attempt is not None:
            return ToolCommit(
                "unknown",
                "The call was started, and the worker that ran it was lost before it reported. It was not run "
                "again: it may or may not have taken effect. Check before you repeat it.",
                "tool_outcome_unknown",
            )
        if begun.given_up:
            return ToolCommit("failed", f"given up after {order.last_attempt} attempts", "tool_error")
        self.reached("tool.before_effect", call.name)
        if isinstance(tool, Poll):
            return await self._try_again(order, run, call, begun.attempt)
        try:
            text = await self._run(order, run, _arguments(call), tool, begun.attempt, order.timeout_seconds)
        except TimeoutError:
            return ToolCommit(
                "unknown" if order.once else "failed",
                f"no result within {order.timeout_seconds:g} s; the call was abandoned"
                + (" and may still take effect" if tool.description["effect"] != "read" else ""),
                "tool_timeout",
            )
        except ToolTrouble as trouble:
            if trouble.retryable and not order.once and begun.tries < order.last_attempt:
                raise await self._retry(order, begun.attempt, trouble) from None  # a cause would enter history whole
            return ToolCommit("failed", trouble.message, trouble.code)
        except asyncio.CancelledError:
            await finished(self._cut_short(order, begun.attempt))
            raise
        if denial := withheld(policy_of(run.definition), tool.description, text, _arguments(call)):
            return ToolCommit("failed", withheld_words(denial), "tool_denied")
        return _nudged(order, call, await self._result(text))

    async def _try_again(self, order: CallToolInput, run: RunRow, call: CallRow, attempt: int) -> ToolCommit:
        """One try of a poll: its result, the poll's end, or another try later."""

        async def run_polled(tool: Tool, arguments: dict[str, Json], timeout_seconds: float) -> str:
            return await self._run(order, run, arguments, tool, attempt, timeout_seconds)

        toolbox = self.transcripts.toolbox(run, self.toolbox)
        try:
            found = await poll_once(run, call, toolbox, run_polled, _now_ms)
        except asyncio.CancelledError:
            await finished(self._cut_short(order, attempt))
            raise
        match found:
            case str():
                return _nudged(order, call, await self._result(found))
            case ToolCommit():
                return found
            case NotYet(next_ms, ends_ms, message):
                await finished(
                    filed(
                        lambda: self.journal.pause_tool(
                            run.id, call.key, attempt, next_ms=next_ms, ends_ms=ends_ms, message=message
                        )
                    )
                )
                raise benign("not yet", next_ms, type_=TOOL_PAUSED)

    async def _run(
        self,
        order: CallToolInput,
        run: RunRow,
        arguments: dict[str, Json],
        tool: Tool,
        attempt: int,
        timeout_seconds: float,
    ) -> str:
        context = ToolCallContext(
            run_id=order.run_id,
            session_id=run.session_id,
            call_id=order.call_id,
            attempt=attempt,
            idempotency_key=f"{order.run_id}:{order.call_id}",
            workspace=self.workspaces / order.run_id,
            blobs=self.transcripts.blobs(run.session_id),
            schedules=self.schedules.of(run),
            board=TreeBoard(self.journal, run.id),
        )
        async with asyncio.timeout(timeout_seconds):
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

    async def _parked(self, order: CallToolInput, call: CallRow, attempt: int) -> ApplicationError:
        """Nobody knows what became of the call, and the policy wants a person to say."""
        ask = unknown_outcome(call, _now_ms())
        row = await self.journal.park_tool(order.run_id, order.call_id, attempt, ask)
        return benign("a person decides", row.expires_ms, type_=TOOL_PARKED)

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
            commit = ToolCommit("unknown" if order.once else "failed", text, "cancelled")
            await self.journal.commit_tool(order.run_id, order.call_id, commit, attempt=attempt)
        elif worker_is_stopping() and not order.once:
            await self.journal.fail_tool_attempt(
                order.run_id,
                order.call_id,
                attempt,
                Failure("worker_stopping", "the worker is stopping", True, order.call_id, attempt),
                retry_in_seconds=0.0,
            )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _arguments(call: CallRow) -> dict[str, Json]:
    return call.arguments if isinstance(call.arguments, dict) else {}


def _nudged(order: CallToolInput, call: CallRow, commit: ToolCommit) -> ToolCommit:
    """A tool that is over its own budget says so in its result."""
    if not order.over or commit.status != "completed":
        return commit
    words = f"[Perdure] {call.name} is {order.over} over its budget of calls in this run. Do without it if you can."
    return replace(commit, text=f"{commit.text}\n\n{words}")


def _superseded() -> ApplicationError:
    """Another action carries out what a person has ordered, and the run calls this one off as soon as it hears of
    the order: there is nothing to do but to wait for that."""
    return ApplicationError(
        "somebody ordered this call again",
        type="Superseded",
        next_retry_delay=timedelta(seconds=_SUPERSEDED_SECONDS),
        category=ApplicationErrorCategory.BENIGN,
    )


def _report(order: CallToolInput, call: CallRow) -> ToolAnswered:
    if call.status in ("requested", "started"):
        raise _superseded()
    size = (call.outcome or {}).get("bytes", 0) if order.counts_bytes else 0
    assert isinstance(size, int), "the journal files the size of a result as a number"
    return ToolAnswered(order.key, order.call_id, call.status, size)
