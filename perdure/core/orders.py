"""What orders from outside do to a run. Each is heard once: the journal has numbered them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, assert_never

from perdure.core.happenings import Order
from perdure.core.keys import model_key
from perdure.core.numbers import contains, with_number, without
from perdure.core.outbox import say
from perdure.core.state import Cancel, OpenCall, RunState


def obeyed(state: RunState, order: Order) -> RunState:
    """The state after an order. An outcome that is being recorded is not taken back any more: what comes later
    is handed back by the transaction that ends the run."""
    if contains(state.orders, order.number):
        return state
    state = replace(state, orders=with_number(state.orders, order.number))
    if state.finishing:
        return state
    match order.verb:
        case "message":
            return _message(state, order)
        case "withdraw":
            return _withdrawn(state, order)
        case "approve":
            waits = "client_tool" if order.expires_ms else ""
            return changed(state, order.call_id, waits=waits, expires_ms=order.expires_ms)
        case "answer":
            return answered(state, order.call_id)
        case "pause":
            return replace(state, paused=order.reason or "user")
        case "resume":
            return replace(state, paused="")
        case "cancel":
            return cancelled(state, order.reason)
        case "limits":
            return _limits(state, order)
        case "retry_call":
            return _again(state, order.call_id)
        case _:
            assert_never(order.verb)


def cancelled(state: RunState, reason: str) -> RunState:
    """The first order is said; the second one cuts the wrap-up short."""
    if state.finishing:
        return state
    if state.cancel:
        return replace(state, cancel=replace(state.cancel, at_once=True))
    return say(replace(state, cancel=Cancel(reason), told="cancelling"), "run.cancelling", {"reason": reason})


def changed(state: RunState, call_id: str, **changes: Any) -> RunState:
    """One open call, changed. A call that is answered, or not of this turn, stays as it is."""
    return replace(
        state,
        open_calls=tuple(
            replace(call, **changes) if call.call_id == call_id and not call.answered else call
            for call in state.open_calls
        ),
    )


def answered(state: RunState, call_id: str) -> RunState:
    """One open call has its result; when all have, the model is to be called again."""
    state = changed(state, call_id, answered=True, waits="", expires_ms=0)
    if state.open_calls and all(call.answered for call in state.open_calls):
        return replace(state, open_calls=(), awaits_reply=True)
    return state


def _message(state: RunState, order: Order) -> RunState:
    """A message waits for its place in the transcript: at the next boundary, or after the next answer."""
    awaits_reply = state.awaits_reply or not state.open_calls
    if order.delivery == "enqueue":
        return replace(state, queued=with_number(state.queued, order.number), awaits_reply=awaits_reply)
    state = replace(state, steering=with_number(state.steering, order.number), awaits_reply=awaits_reply)
    if order.delivery == "interrupt" and model_key(state) in state.in_flight:
        return replace(state, interrupting=model_key(state))
    return state


def _withdrawn(state: RunState, order: Order) -> RunState:
    """What has not reached the transcript never will. A run that lived on for those messages only is done."""
    steering, queued = without(state.steering, order.numbers), without(state.queued, order.numbers)
    nothing_left = state.final and not steering and not queued and not state.open_calls
    return replace(state, steering=steering, queued=queued, awaits_reply=state.awaits_reply and not nothing_left)


def _limits(state: RunState, order: Order) -> RunState:
    spec = replace(
        state.spec,
        limits=order.limits or state.spec.limits,
        on_limit=order.on_limit or state.spec.on_limit,
        deadline_ms=order.deadline_ms or state.spec.deadline_ms,
    )
    return replace(state, spec=spec, reached="", wrapped_up=False)


def _again(state: RunState, call_id: str) -> RunState:
    call: OpenCall | None = next((call for call in state.open_calls if call.call_id == call_id), None)
    if call is None or call.answered:
        return state
    return changed(
        state, call_id, round=call.round + 1, waits="", expires_ms=0, refusal=None, refusal_code="tool_denied"
    )
