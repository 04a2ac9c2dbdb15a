"""Carry out a call about other runs: ``spawn_agent``, an agent that is a tool, ``wait_for_agents``, ``message_agent``,
``cancel_agent``, ``transfer_to_agent``.

The journal does each in one transaction, once. What has to be said to other workflows is said right after it, by
``neighbours.py``; the child's own workflow is started by the parent's, so that Temporal shows the tree.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from temporalio import activity

from activities.children import Nursery, Refused
from activities.lifeline import FaultHook, lifeline, unharmed
from activities.neighbours import Neighbours
from perdure.contract import CALL_FAMILY, CallFamilyInput, FamilyCallDone
from perdure.core.happenings import Delivery, FamilyCalled
from perdure.core.state import Json, OutboxEvent
from perdure.definitions import AgentToolDefinition
from perdure.runs import Runs
from perdure.store.journal import Journal
from perdure.store.rows import Awaits, CallRow, FamilyCall, HandOver, NewMessage, RunRow, ToolCommit
from perdure.tools.builtin.family import (
    CANCEL_AGENT,
    MESSAGE_AGENT,
    SPAWN_AGENT,
    TRANSFER_TO_AGENT,
    WAIT_FOR_AGENTS,
    WAIT_SECONDS,
)


@dataclass(frozen=True)
class FamilyCaller:
    """The activity with its adapters."""

    journal: Journal
    nursery: Nursery
    runs: Runs
    neighbours: Neighbours
    beat_every_seconds: float
    reached: FaultHook = unharmed

    @activity.defn(name=CALL_FAMILY)
    async def call_family(self, order: CallFamilyInput) -> FamilyCallDone:
        async with lifeline(self.beat_every_seconds):
            call = await self.journal.get_call(order.run_id, order.call_id)
            self.reached("family.before_call", call.name)
            done = await self._carry_out(order, call)
            self.reached("family.committed", call.name)
            await self.neighbours.tell(done.told)
            return await self._report(order, done)

    async def _carry_out(self, order: CallFamilyInput, call: CallRow) -> FamilyCall:
        arguments = call.arguments if isinstance(call.arguments, dict) else {}
        run_id, call_id, outbox = order.run_id, order.call_id, order.outbox
        match call.name:
            case name if name == SPAWN_AGENT:
                return await self._spawn(run_id, call_id, arguments, outbox)
            case name if name == WAIT_FOR_AGENTS:
                return await self.journal.await_children(
                    run_id, call_id, _awaits(arguments), _expires_ms(arguments), outbox
                )
            case name if name == MESSAGE_AGENT:
                message = NewMessage(
                    f"msg_{call_id}",
                    [{"type": "text", "text": str(arguments["content"])}],
                    cast("Delivery", arguments.get("delivery") or "steer"),
                )
                return await self.journal.message_child(run_id, call_id, str(arguments["id"]), message, outbox)
            case name if name == CANCEL_AGENT:
                reason = str(arguments.get("reason") or "")
                return await self.journal.cancel_child(run_id, call_id, str(arguments["id"]), reason, outbox)
            case name if name == TRANSFER_TO_AGENT:
                return await self._hand_over(run_id, call_id, arguments, outbox)
            case name:
                return await self._spawn(run_id, call_id, arguments, outbox, tool=name)

    async def _spawn(
        self, run_id: str, call_id: str, arguments: Mapping[str, Json], outbox: Sequence[OutboxEvent], tool: str = ""
    ) -> FamilyCall:
        """``tool`` names an agent that is one of the run's tools."""
        parent = await self.journal.get_run(run_id)
        try:
            if tool:
                new = await self.nursery.child_as_tool(parent, _agent_tool(parent, tool), arguments)
            else:
                new = await self.nursery.child(parent, arguments)
        except Refused as refused:
            commit = ToolCommit("failed", refused.words, refused.code)
            return FamilyCall(await self.journal.commit_tool(run_id, call_id, commit, outbox=outbox))
        return await self.journal.spawn_child(run_id, call_id, new, outbox)

    async def _hand_over(
        self, run_id: str, call_id: str, arguments: Mapping[str, Json], outbox: Sequence[OutboxEvent]
    ) -> FamilyCall:
        run = await self.journal.get_run(run_id)
        new: HandOver | ToolCommit
        try:
            new = await self.nursery.successor(run, str(arguments["agent"]), str(arguments.get("message") or ""))
        except Refused as refused:
            new = ToolCommit("failed", refused.words, refused.code)
        return await self.journal.hand_over(run_id, call_id, new, outbox)

    async def _report(self, order: CallFamilyInput, done: FamilyCall) -> FamilyCallDone:
        size = (done.call.outcome or {}).get("bytes", 0) if order.counts_bytes else 0
        assert isinstance(size, int), "the journal files the size of a result as a number"
        child = done.child
        attached = child is not None and not child.detached
        spec = None
        if done.call.name == TRANSFER_TO_AGENT and done.call.status == "completed":
            spec = self.runs.start_of(await self.journal.get_run(order.run_id)).spec
        called = FamilyCalled(order.key, order.call_id, done.expires_ms, attached, size, spec)
        unborn = child is not None and child.status == "queued" and not child.workflow_started
        return FamilyCallDone(called, self.runs.child_start_of(child) if child is not None and unborn else None)


def _agent_tool(parent: RunRow, name: str) -> AgentToolDefinition:
    found = next((one for one in parent.definition.get("agent_tools", []) if one["name"] == name), None)
    if found is None:
        raise Refused("unknown_tool", f"this worker has no tool {name!r}")
    return found


def _awaits(arguments: Mapping[str, Json]) -> Awaits:
    ids = arguments.get("ids")
    return Awaits(
        tuple(map(str, ids)) if isinstance(ids, list) else (), "any" if arguments.get("mode") == "any" else "all"
    )


def _expires_ms(arguments: Mapping[str, Json]) -> int:
    seconds = arguments.get("timeout_seconds")
    return time.time_ns() // 1_000_000 + int((seconds if isinstance(seconds, int | float) else WAIT_SECONDS) * 1_000)
