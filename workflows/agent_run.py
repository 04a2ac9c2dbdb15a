"""The workflow of a run: a reconciler. It asks the core what should be in flight, makes it so, waits
until something happens, and asks again. What to do is ``perdure.core``; how each action is done is
``workflows/perform.py``.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.contract import SIGNAL_ORDERS, WORKFLOW, AgentRunInput, Orders
    from perdure.core.actions import Action, Decision, Done, InFlight
    from perdure.core.decide import decide, untold
    from perdure.core.evolve import begin, evolve
    from perdure.core.happenings import CancelRequested, Happening, Started
    from perdure.core.state import Outcome
    from workflows.perform import activity_for, happening_of
    from workflows.shown import alarm_summary, details, show_agent, show_end, show_status

_LONG_WAIT_MS = 10_000
_APPROACH_MS = 2_000  # cold replay of a long run fits in


@workflow.defn(name=WORKFLOW)
class AgentRun:
    """One execution of an agent. The workflow id is the run id."""

    @workflow.init
    def __init__(self, start: AgentRunInput) -> None:
        self._goal = start.goal
        self._state = start.state or begin(start.spec)
        self._happened: list[Happening] = []
        self._in_flight: dict[str, workflow.ActivityHandle[object]] = {}
        self._called_off: set[str] = set()
        self._broken: Exception | None = None
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_ms = 0

    @workflow.run
    async def run(self, start: AgentRunInput) -> Outcome:
        while True:
            self._take_what_happened()
            if self._broken:
                raise self._broken
            if self._may_continue_as_new():
                workflow.continue_as_new(AgentRunInput(self._state.spec, self._goal, self._state))
            match self._decision():
                case Done(outcome):
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    workflow.set_current_details(details(self._state, self._goal))
                    show_end(self._state, outcome)
                    return outcome
                case InFlight(actions, wake_at_ms):
                    self._reconcile(actions)
                    self._set_alarm(wake_at_ms)
            workflow.set_current_details(details(self._state, self._goal))
            await self._something_happens()

    @workflow.signal(name=SIGNAL_ORDERS, description="What the journal was told about this run.")
    def orders(self, brought: Orders) -> None:
        self._happened.extend(brought.orders)

    def _take_what_happened(self) -> None:
        transfers = self._state.spec.transfers
        while self._happened:
            self._state = evolve(self._state, self._happened.pop(0))
        if self._state.spec.transfers != transfers:
            show_agent(self._state)

    def _decision(self) -> Decision:
        """What the core wants now; a status or reason that readers were not told yet is said first."""
        decision = decide(self._state, _now_ms())
        if reached := untold(self._state, decision):
            self._state = evolve(self._state, reached)
            show_status(self._state)
            decision = decide(self._state, _now_ms())
        return decision

    def _reconcile(self, actions: tuple[Action, ...]) -> None:
        wanted = {action.key for action in actions}
        for key, handle in self._in_flight.items():
            if key not in wanted and key not in self._called_off:
                self._called_off.add(key)
                handle.cancel()
        for action in actions:
            if action.key not in self._in_flight:
                handle = activity_for(action, self._state)
                self._state = evolve(self._state, Started(action, _now_ms()))
                self._in_flight[action.key] = handle
                asyncio.create_task(self._await_end(action, handle))  # noqa: RUF006  (the loop's own tasks live as long as the run)

    async def _await_end(self, action: Action, handle: workflow.ActivityHandle[object]) -> None:
        try:
            happening = await happening_of(action, handle, self._called_off)
        except Exception as error:  # in a task of its own nobody would hear of it: the run's loop shall
            self._broken = error
            return
        del self._in_flight[action.key]
        self._called_off.discard(action.key)
        self._happened.append(happening)

    def _set_alarm(self, wake_at_ms: int) -> None:
        """One durable timer for the next moment at which time alone changes the decision."""
        if self._alarm_ms != wake_at_ms:
            if self._alarm:
                self._alarm.cancel()
            self._alarm_ms = wake_at_ms
            self._alarm = asyncio.create_task(_until(wake_at_ms, alarm_summary(self._state, wake_at_ms)))

    async def _something_happens(self) -> None:
        alarm_was_set = self._alarm is not None and not self._alarm.done()
        try:
            await workflow.wait_condition(
                lambda: (
                    bool(self._happened or self._broken)
                    or (alarm_was_set and self._alarm is not None and self._alarm.done())
                )
            )
        except asyncio.CancelledError:
            # Somebody cancelled the workflow in Temporal itself: that is an order to the run.
            self._happened.append(CancelRequested("cancelled in Temporal"))

    def _may_continue_as_new(self) -> bool:
        """At a quiet point of a long history, before anything is started. Cold replay stays short."""
        long = workflow.info().get_current_history_length() >= self._state.spec.continue_as_new_events
        return (
            (long or workflow.info().is_continue_as_new_suggested())
            and not self._in_flight
            and workflow.all_handlers_finished()
            and self._state.ended is None
        )


async def _until(at_ms: int, summary: str) -> None:
    """In two steps when it is long. Temporal counts a timer from the end of the workflow task that asks for it, and a
    busy worker may take a second for that one; the second timer is set by a task that does nothing else, in a run that
    is in the worker's cache again.
    """
    if at_ms - _now_ms() > _LONG_WAIT_MS:
        await workflow.sleep(timedelta(milliseconds=at_ms - _APPROACH_MS - _now_ms()), summary=summary)
    if (left_ms := at_ms - _now_ms()) > 0:  # a busy worker, or one that was away, is past it already
        await workflow.sleep(timedelta(milliseconds=left_ms), summary=summary)


def _now_ms() -> int:
    return int(workflow.time() * 1000)
