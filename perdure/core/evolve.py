"""The only place where a run's state changes: one happening at a time, pure, total.

What no longer means anything (a result of an action that is not in flight, anything after the end)
leaves the state as it is: late and double deliveries are ordinary. Orders from outside are in ``orders.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from perdure.core.actions import Action, AnswerCall, CallFamily, CallModel, CallTool, Finish
from perdure.core.handover import taken_over
from perdure.core.happenings import (
    ActionCancelled,
    AskSettled,
    BudgetReached,
    CallAsked,
    CancelRequested,
    EndedElsewhere,
    FamilyCalled,
    Happening,
    ModelFailed,
    ModelInterrupted,
    ModelResponded,
    NothingNew,
    Order,
    Recorded,
    Started,
    StatusReached,
    ToolAnswered,
    ToolLost,
    ToolParked,
    ToolPaused,
)
from perdure.core.keys import is_model_key, is_wrap_up_key, settle_key, tool_key
from perdure.core.numbers import union, without
from perdure.core.orders import answered, approved, cancelled, changed, heard_early, obeyed, open_call, said_before
from perdure.core.outbox import say
from perdure.core.spec import RunSpec
from perdure.core.state import OUTSIDE, Failure, Json, OpenCall, Outcome, RunState, RunStatus, Usage

_EVENT_OF_STATUS: Mapping[RunStatus, str] = {
    "running": "run.resumed",
    "waiting": "run.waiting",
    "requires_action": "run.requires_action",
    "paused": "run.paused",
}


def begin(spec: RunSpec) -> RunState:
    """The state of a run whose first message is in the journal and whose workflow just started. One that has to start
    later is only scheduled, whatever the time is: its start is told when it comes."""
    if spec.start_ms:
        return RunState(spec, told="scheduled")
    return say(RunState(spec), "run.started", {})


def evolve(state: RunState, happening: Happening) -> RunState:
    """The state after ``happening``."""
    if state.ended:
        return state
    return taken_over(_evolved(state, happening))


def _evolved(state: RunState, happening: Happening) -> RunState:
    match happening:
        case Started():
            return _started(state, happening)
        case StatusReached():
            return _told(state, happening)
        case Order():
            return obeyed(state, happening)
        case CancelRequested():
            return cancelled(state, happening.reason, alone=True)
        case EndedElsewhere():
            return replace(state, ended=Outcome(happening.status, "ended_elsewhere"))
        case _ if happening.key not in state.in_flight:
            return state
        case ModelResponded():
            return _responded(_over(state, happening.key, committed=True), happening)
        case ModelFailed():
            return _failed(_over(state, happening.key, committed=False), happening)
        case ModelInterrupted():
            return _interrupted(_over(state, happening.key, committed=True), happening)
        case NothingNew():
            return _nothing_new(_over(state, happening.key, committed=True))
        case BudgetReached():
            return _budget_reached(_over(state, happening.key, committed=True), happening)
        case ToolAnswered():
            return _tool_answered(_over(state, happening.key, committed=True), happening)
        case FamilyCalled():
            return _family_called(_over(state, happening.key, committed=True), happening)
        case ToolParked():
            return _parked(_over(state, happening.key, committed=True), happening)
        case ToolPaused():
            return _paused(_over(state, happening.key, committed=True), happening)
        case ToolLost():
            return _lost(_over(state, happening.key, committed=False), happening)
        case AskSettled():
            return _settled(_over(state, happening.key, committed=True), happening)
        case Recorded():
            return _recorded(_over(state, happening.key, committed=True), happening)
        case ActionCancelled():
            return _called_off(_over(state, happening.key, committed=False), happening.key)
        case _:
            assert_never(happening)


def _started(state: RunState, started: Started) -> RunState:
    """An outcome that is being recorded is never taken back: from here on messages come too late. Nor is an answer
    without a run, or a last call: what they stand for is kept."""
    action = started.action
    if isinstance(action, CallTool | CallFamily):
        state = changed(state, action.call_id, begun=True)
    if isinstance(action, AnswerCall):
        state = changed(state, action.call_id, refusal=action.message, refusal_code=action.code)
    if isinstance(action, CallModel) and action.wrap_up and not state.cancel:
        state = replace(state, reached=state.reached or "max_turns")
    return replace(
        state,
        in_flight=(*state.in_flight, action.key),
        outbox=tuple(replace(event, carried_by=action.key) for event in state.outbox),
        finishing=action.outcome if isinstance(action, Finish) else state.finishing,
        applying=action.apply if isinstance(action, CallModel) else state.applying,
        rate_starts=_rate_starts(state, action, started.at_ms),
    )


def _rate_starts(state: RunState, action: Action, at_ms: int) -> tuple[tuple[int, ...], ...]:
    """When calls started that a rate limit counts: as many as the limit looks back at."""
    if not isinstance(action, CallTool | CallFamily) or not action.rule.rates:
        return state.rate_starts
    starts = state.rate_starts or ((),) * len(state.spec.rate_limits)
    return tuple(
        (*before, at_ms)[-state.spec.rate_limits[index].max_calls :] if index in action.rule.rates else before
        for index, before in enumerate(starts)
    )


def _told(state: RunState, reached: StatusReached) -> RunState:
    if state.told == "scheduled":  # its time has come
        state = say(say(state, "run.queued", {}), "run.started", {})
        if reached.status == "running":
            return replace(state, told=reached.status, told_reason=reached.reason)
    data: dict[str, Json] = {}
    if reached.reason:
        data["reason"] = reached.reason
    if reached.status == "requires_action":
        data["actions"] = [
            {"type": call.waits, "call_id": call.call_id, "tool": call.tool}
            for call in state.open_calls
            if call.waits in OUTSIDE and not call.answered
        ]
    return say(replace(state, told=reached.status, told_reason=reached.reason), _EVENT_OF_STATUS[reached.status], data)


def _over(state: RunState, key: str, *, committed: bool) -> RunState:
    """An action has ended. Its outbox events are in the journal if it committed, else they ride again."""
    if committed:
        outbox = tuple(event for event in state.outbox if event.carried_by != key)
    else:
        outbox = tuple(replace(event, carried_by=None) if event.carried_by == key else event for event in state.outbox)
    return replace(
        state,
        in_flight=tuple(other for other in state.in_flight if other != key),
        outbox=outbox,
        interrupting="" if state.interrupting == key else state.interrupting,
    )


def _responded(state: RunState, answer: ModelResponded) -> RunState:
    state = replace(_applied(state), usage=_sum(state.usage, answer.usage), unsettled="", recalled=0, turn_bytes=0)
    if is_wrap_up_key(answer.key):
        return replace(state, turn=state.turn + 1, wrapped_up=True, open_calls=(), awaits_reply=True)
    # An answer that was cut off (at its output limit, or by a refusal) may hold half a call: none is run.
    asked = () if answer.stop in ("max_output_tokens", "refusal") else answer.calls
    state = replace(state, turn=state.turn + 1, last_stop=answer.stop, open_calls=(), reached=answer.limit)
    for call in asked:
        state = _opened(state, call)
    final = not state.open_calls and answer.stop != "pause" and not answer.limit
    waiting = bool(state.steering or state.queued or state.notes)
    state = replace(state, final=final, awaits_reply=not state.open_calls and (waiting or not final))
    return said_before(state)


def _opened(state: RunState, asked: CallAsked) -> RunState:
    """One more call of the turn, counted against the run's limits and the tool's own. What is refused for a limit
    counts towards none, so that a limit that is raised again means what it says."""
    limits, rule = state.spec.limits, state.spec.rule(asked.tool)
    tool_calls, questions, counted = state.tool_calls, state.questions, dict(state.tool_counts)
    used = counted.get(asked.tool, 0)
    call = OpenCall(
        asked.call_id, asked.tool, refusal=asked.refusal, refusal_code=asked.refusal_code, waits=asked.waits,
        expires_ms=asked.expires_ms, note=asked.note,
    )  # fmt: skip
    if tool_calls >= limits.max_tool_calls:
        call = _refused(call, f"this run may make {limits.max_tool_calls} tool calls, and has made them")
    elif asked.refusal is not None:
        tool_calls += 1
    elif asked.waits == "question" and questions >= limits.max_questions:
        call = _refused(call, f"people may be asked {limits.max_questions} times in this run, and have been")
    elif rule.max_calls is not None and used >= rule.max_calls and rule.on_exceed == "block":
        call = _refused(call, f"{asked.tool} may be called {rule.max_calls} times in this run, and has been")
    else:
        tool_calls, questions = tool_calls + 1, questions + (asked.waits == "question")
        if rule.max_calls is not None:
            counted[asked.tool] = used + 1
            call = replace(call, over=max(0, used + 1 - rule.max_calls))
    return replace(
        state,
        open_calls=(*state.open_calls, call),
        tool_calls=tool_calls,
        tool_counts=tuple(counted.items()),
        questions=questions,
    )


def _refused(call: OpenCall, words: str) -> OpenCall:
    return replace(call, refusal=words, refusal_code="tool_call_limit", waits="", expires_ms=0)


def _applied(state: RunState) -> RunState:
    """The messages that the call took along are in the transcript, or were withdrawn before."""
    return replace(
        state,
        steering=without(state.steering, state.applying),
        queued=without(state.queued, state.applying),
        notes=without(state.notes, state.applying),
        applying=(),
    )


def _failed(state: RunState, failed: ModelFailed) -> RunState:
    """A wrap-up that cannot be had changes nothing about how the run ends."""
    if is_wrap_up_key(failed.key):
        return replace(state, wrapped_up=True)
    return replace(state, failure=failed.failure)


def _interrupted(state: RunState, interrupted: ModelInterrupted) -> RunState:
    """The half answer is in the transcript; the next call is another turn, and takes along what interrupted."""
    state = _applied(state)
    return replace(
        state, turn=state.turn + 1, recalled=0, last_stop="interrupted", final=False, awaits_reply=True, turn_bytes=0,
        unsettled="", early=(),
        steering=union(state.steering, without(interrupted.by, state.orders)),
        orders=union(state.orders, interrupted.by),
    )  # fmt: skip


def _nothing_new(state: RunState) -> RunState:
    state = _applied(state)
    return replace(state, awaits_reply=bool(state.steering or state.queued or state.notes))


def _budget_reached(state: RunState, reached: BudgetReached) -> RunState:
    if is_wrap_up_key(reached.key):
        return replace(state, wrapped_up=True)
    return replace(state, reached=reached.limit)


def _tool_answered(state: RunState, result: ToolAnswered) -> RunState:
    return answered(replace(state, turn_bytes=state.turn_bytes + result.bytes), result.call_id)


def _family_called(state: RunState, called: FamilyCalled) -> RunState:
    """A child that has ended before this was heard said so in an order: ``orders.py`` keeps such early words."""
    if called.child and called.call_id not in (*state.ended_early, *state.children):
        state = replace(state, children=(*state.children, called.call_id))
    state = replace(state, ended_early=heard_early(state), next_spec=called.spec or state.next_spec)
    if not called.expires_ms:
        return answered(replace(state, turn_bytes=state.turn_bytes + called.bytes), called.call_id)
    call = open_call(state, called.call_id)
    if call is None or called.key != tool_key(call):
        return state
    return changed(state, call.call_id, waits="children", expires_ms=called.expires_ms, round=call.round + 1)


def _parked(state: RunState, parked: ToolParked) -> RunState:
    """Only of the attempt that counts; somebody may have decided already."""
    call = open_call(state, parked.call_id)
    if call is None or parked.key != tool_key(call):
        return state
    waits = changed(state, call.call_id, waits="unknown_outcome", expires_ms=parked.expires_ms, round=call.round + 1)
    return said_before(waits, call.call_id)


def _paused(state: RunState, paused: ToolPaused) -> RunState:
    """Only of the attempt that counts. The next try is another action."""
    call = open_call(state, paused.call_id)
    if call is None or paused.key != tool_key(call):
        return state
    return changed(state, call.call_id, waits="poll", expires_ms=paused.next_ms, round=call.round + 1)


def _lost(state: RunState, lost: ToolLost) -> RunState:
    """Only of the attempt that counts: one that was given up is nobody's loss, and an answer that was not written
    is written again."""
    call = open_call(state, lost.call_id)
    if call is None or lost.key != tool_key(call):
        return state
    return changed(state, call.call_id, refusal=lost.message, refusal_code=lost.code)


def _settled(state: RunState, settled: AskSettled) -> RunState:
    """An answer and a failure are facts. Going on and waiting longer mean something only while the call waits for
    what was settled: the order that decided may have come first."""
    if settled.outcome == "failed":
        message = "nobody decided about a call in time, and its policy ends the run then"
        return replace(state, failure=Failure("tool_error", message, call_id=settled.call_id, attempts=0))
    if settled.outcome == "answered":
        return answered(state, settled.call_id)
    call = open_call(state, settled.call_id)
    if call is None or not call.waits or settled.key != settle_key(call):
        return state
    match settled.outcome:
        case "approved":
            return approved(state, call, settled.expires_ms)
        case "escalated":
            return changed(state, call.call_id, expires_ms=settled.expires_ms, round=call.round + 1)
        case _:
            assert_never(settled.outcome)


def _recorded(state: RunState, recorded: Recorded) -> RunState:
    return replace(state, ended=state.finishing) if recorded.key == "finish" else state


def _called_off(state: RunState, key: str) -> RunState:
    """A model call that was called off is closed by the next one, if it could not do so itself; should the
    turn be wanted again, it is another call."""
    if not is_model_key(key):
        return state
    return replace(state, recalled=state.recalled + 1, unsettled=key, early=())


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
