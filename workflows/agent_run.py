"""The workflow of a run: a reconciler. It asks the core what should be in flight, makes it so, waits
until something happens, and asks again. What to do is ``perdure.core``; how each action is done is
``workflows/perform.py``.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.contract import RUN_OVER, SIGNAL_CANCEL, UPDATE_SAY, WORKFLOW, AgentRunInput
    from perdure.core.actions import Action, Done, InFlight
    from perdure.core.decide import decide
    from perdure.core.evolve import begin, evolve
    from perdure.core.happenings import CancelRequested, Happening, MessageArrived, Started
    from perdure.core.state import Outcome
    from workflows.perform import activity_for, happening_of
    from workflows.shown import details, show_end


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
                workflow.continue_as_new(AgentRunInput(start.spec, self._goal, self._state))
            match decide(self._state, _now_ms()):
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

    @workflow.signal(name=SIGNAL_CANCEL, description="End the run at the next safe point.")
    def cancel(self, reason: str) -> None:
        self._happened.append(CancelRequested(reason))

    @workflow.update(name=UPDATE_SAY, description="Put an accepted message before the agent.")
    def say(self, message_id: str) -> None:
        self._happened.append(MessageArrived(message_id))

    @say.validator
    def _may_say(self, message_id: str) -> None:
        if self._state.finishing or self._state.ended:
            raise ApplicationError("the run is over", type=RUN_OVER, non_retryable=True)

    def _take_what_happened(self) -> None:
        while self._happened:
            self._state = evolve(self._state, self._happened.pop(0))

    def _reconcile(self, actions: tuple[Action, ...]) -> None:
        wanted = {action.key for action in actions}
        for key, handle in self._in_flight.items():
            if key not in wanted and key not in self._called_off:
                self._called_off.add(key)
                handle.cancel()
        for action in actions:
            if action.key not in self._in_flight:
                handle = activity_for(action, self._state)
                self._state = evolve(self._state, Started(action))
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
            seconds = max(0.0, (wake_at_ms - _now_ms()) / 1000)
            self._alarm = asyncio.create_task(workflow.sleep(timedelta(seconds=seconds), summary="deadline of the run"))

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


def _now_ms() -> int:
    return int(workflow.time() * 1000)
