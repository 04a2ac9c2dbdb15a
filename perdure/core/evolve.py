"""The only place where a run's state changes: one happening at a time, pure, total.

What no longer means anything (a result of an action that is not in flight, anything after the end)
leaves the state as it is: late and double deliveries are ordinary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from perdure.core.actions import Finish
from perdure.core.happenings import (
    ActionCancelled,
    CancelRequested,
    EndedElsewhere,
    Happening,
    MessageArrived,
    ModelFailed,
    ModelResponded,
    Recorded,
    Started,
    ToolAnswered,
    ToolLost,
)
from perdure.core.spec import RunSpec
from perdure.core.state import Cancel, Json, OpenCall, OutboxEvent, Outcome, RunState, Usage

_APPLIED_KEPT_MAX = 50  # a client repeats itself within seconds; 50 ids are 1.5 KB of state


def begin(spec: RunSpec) -> RunState:
    """The state of a run whose first message is in the journal and whose workflow just started."""
    return _say(RunState(spec), "run.started", {})


def evolve(state: RunState, happening: Happening) -> RunState:
    """The state after ``happening``."""
    if state.ended:
        return state
    match happening:
        case Started():
            return _started(state, happening)
        case CancelRequested():
            return _cancel(state, happening)
        case MessageArrived():
            return _message(state, happening)
        case EndedElsewhere():
            return replace(state, ended=Outcome(happening.status, "ended_elsewhere"))
        case _ if happening.key not in state.in_flight:
            return state
        case ModelResponded():
            return _responded(_over(state, happening.key, committed=True), happening)
        case ModelFailed():
            return replace(_over(state, happening.key, committed=False), failure=happening.failure)
        case ToolAnswered():
            return _answered(_over(state, happening.key, committed=True), happening.call_id)
        case ToolLost():
            return _lost(_over(state, happening.key, committed=False), happening)
        case Recorded():
            return _recorded(_over(state, happening.key, committed=True), happening)
        case ActionCancelled():
            return _over(state, happening.key, committed=False)
        case _:
            assert_never(happening)


def _started(state: RunState, started: Started) -> RunState:
    """An outcome that is being recorded is never taken back: from here on messages come too late."""
    action = started.action
    return replace(
        state,
        in_flight=(*state.in_flight, action.key),
        outbox=tuple(replace(event, carried_by=action.key) for event in state.outbox),
        finishing=action.outcome if isinstance(action, Finish) else state.finishing,
    )


def _over(state: RunState, key: str, *, committed: bool) -> RunState:
    """An action has ended. Its outbox events are in the journal if it committed, else they ride again."""
    if committed:
        outbox = tuple(event for event in state.outbox if event.carried_by != key)
    else:
        outbox = tuple(replace(event, carried_by=None) if event.carried_by == key else event for event in state.outbox)
    return replace(state, in_flight=tuple(other for other in state.in_flight if other != key), outbox=outbox)


def _responded(state: RunState, answer: ModelResponded) -> RunState:
    inbox = tuple(message for message in state.inbox if message not in answer.applied)
    # An answer that was cut off (at its output limit, or by a refusal) may hold half a call: none is run.
    asked = () if answer.stop in ("max_output_tokens", "refusal") else answer.calls
    left = max(0, state.spec.limits.max_tool_calls - state.tool_calls)
    calls = tuple(
        OpenCall(call.call_id, call.tool, refusal=call.refusal, refusal_code=call.refusal_code)
        if index < left
        else OpenCall(
            call.call_id,
            call.tool,
            refusal=f"this run may make {state.spec.limits.max_tool_calls} tool calls, and has made them",
            refusal_code="tool_call_limit",
        )
        for index, call in enumerate(asked)
    )
    return replace(
        state,
        turn=state.turn + 1,
        tool_calls=state.tool_calls + len(calls),
        usage=_sum(state.usage, answer.usage),
        last_stop=answer.stop,
        open_calls=calls,
        inbox=inbox,
        applied=(*state.applied, *answer.applied)[-_APPLIED_KEPT_MAX:],
        awaits_reply=not calls and (bool(inbox) or answer.stop == "pause"),
    )


def _answered(state: RunState, call_id: str) -> RunState:
    calls = tuple(replace(call, answered=True) if call.call_id == call_id else call for call in state.open_calls)
    if all(call.answered for call in calls):
        return replace(state, open_calls=(), awaits_reply=True)
    return replace(state, open_calls=calls)


def _lost(state: RunState, lost: ToolLost) -> RunState:
    """A lost call is answered to the model like a refused one: the run goes on."""
    calls = tuple(
        replace(call, refusal=lost.message, refusal_code=lost.code) if call.call_id == lost.call_id else call
        for call in state.open_calls
    )
    return replace(state, open_calls=calls)


def _recorded(state: RunState, recorded: Recorded) -> RunState:
    return replace(state, ended=state.finishing) if recorded.key == "finish" else state


def _cancel(state: RunState, order: CancelRequested) -> RunState:
    if state.cancel or state.finishing:
        return state
    return _say(replace(state, cancel=Cancel(order.reason)), "run.cancelling", {"reason": order.reason})


def _message(state: RunState, arrived: MessageArrived) -> RunState:
    """A message waits for its place in the transcript; one that comes too late is handed back by the
    transaction that ends the run."""
    if state.finishing or arrived.message_id in state.inbox or arrived.message_id in state.applied:
        return state
    return replace(
        state,
        inbox=(*state.inbox, arrived.message_id),
        awaits_reply=state.awaits_reply or not state.open_calls,
    )


def _say(state: RunState, type_: str, data: dict[str, Json]) -> RunState:
    number = state.outbox_count + 1
    event = OutboxEvent(f"outbox-{number}", type_, data)
    return replace(state, outbox=(*state.outbox, event), outbox_count=number)


def _sum(total: Usage, more: Usage) -> Usage:
    return Usage(
        total.input_tokens + more.input_tokens,
        total.output_tokens + more.output_tokens,
        total.cache_read_tokens + more.cache_read_tokens,
        total.cache_write_tokens + more.cache_write_tokens,
        total.reasoning_tokens + more.reasoning_tokens,
        total.cost_micros + more.cost_micros,
        total.unpriced_calls + more.unpriced_calls,
    )
