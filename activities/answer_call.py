"""Answer a tool call to the model without running it: it was refused, or lost for good."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.lifeline import lifeline
from perdure.contract import ANSWER_CALL, AnswerCallInput
from perdure.core.happenings import ToolAnswered
from perdure.store.journal import Journal, ToolCommit


@dataclass(frozen=True)
class CallAnswerer:
    """The activity with its adapter."""

    journal: Journal
    beat_every_seconds: float

    @activity.defn(name=ANSWER_CALL)
    async def answer_call(self, order: AnswerCallInput) -> ToolAnswered:
        async with lifeline(self.beat_every_seconds):
            lost = order.code == "tool_outcome_unknown"
            commit = ToolCommit("unknown" if lost else "failed", order.message, order.code)
            call = await self.journal.commit_tool(order.run_id, order.call_id, commit, outbox=order.outbox)
            return ToolAnswered(order.key, order.call_id, call.status)
