"""Answer a tool call to the model without running it: it was refused, or lost for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from temporalio import activity

from activities.lifeline import lifeline
from perdure.contract import ANSWER_CALL, AnswerCallInput
from perdure.core.happenings import ToolAnswered
from perdure.store.journal import Journal
from perdure.store.rows import ToolCommit

_STATUSES: Mapping[str, Literal["completed", "unknown"]] = {"tool_outcome_unknown": "unknown", "woken": "completed"}


@dataclass(frozen=True)
class CallAnswerer:
    """The activity with its adapter."""

    journal: Journal
    beat_every_seconds: float

    @activity.defn(name=ANSWER_CALL)
    async def answer_call(self, order: AnswerCallInput) -> ToolAnswered:
        async with lifeline(self.beat_every_seconds):
            if order.code == "children_go_on":
                call = await self.journal.stop_waiting(order.run_id, order.call_id, order.message, order.outbox)
                return ToolAnswered(order.key, order.call_id, call.status)
            commit = ToolCommit(_STATUSES.get(order.code, "failed"), await self._words(order), order.code)
            call = await self.journal.commit_tool(order.run_id, order.call_id, commit, outbox=order.outbox)
            return ToolAnswered(order.key, order.call_id, call.status)

    async def _words(self, order: AnswerCallInput) -> str:
        """What the model is told. A verdict's words never went through Temporal, where its code stands in for
        them: they are filed with the call."""
        if order.message != order.code:
            return order.message
        call = await self.journal.get_call(order.run_id, order.call_id)
        return call.error.message if call.error else order.message
