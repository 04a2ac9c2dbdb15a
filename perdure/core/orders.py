"""What orders from outside do to a run. Each is heard once: the journal has numbered them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, assert_never

from perdure.core.happenings import Order
from perdure.core.keys import is_tool_key_of, is_wrap_up_key, model_key, tool_key
from perdure.core.numbers import contains, union, with_number, without
from perdure.core.outbox import say
from perdure.core.state import Cancel, OpenCall, RunState, Word

EARLY_MAX = 100  # words about one turn; more were never said early, and they would only be late


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
            return said(state, Word(order.call_id, answered=False, expires_ms=order.expires_ms))
        case "answer":
            return said(state, Word(order.call_id, answered=True))
        case "pause":
            return replace(state, paused=order.reason or "user")
        case "resume":
            return replace(state, paused="")
        case "cancel":
            return cancelled(state, order.reason)
        case "limits":
            return _limits(state, order)
        case "retry_call":
            return _again(state, order)
        case "child_ended":
            return _child_ended(state, order.call_id)
        case _:
            assert_never(order.verb)


def cancelled(state: RunState, reason: str, *, alone: bool = False) -> RunState:
    """The first order is said; the second one cuts the wrap-up short. ``alone``: nobody has told its children."""
    if state.finishing:
        return state
    if state.cancel:
        return replace(state, cancel=replace(state.cancel, at_once=True))
    return say(
        replace(state, cancel=Cancel(reason, alone=alone), told="cancelling", told_reason=reason),
        "run.cancelling",
        {"reason": reason},
    )


def open_call(state: RunState, call_id: str) -> OpenCall | None:
    return next((call for call in state.open_calls if call.call_id == call_id and not call.answered), None)


def said(state: RunState, word: Word) -> RunState:
    """A call is answered, or may go on. What is said of a call that is not known (to wait) yet is kept: the answer
    that asks for it may be in the journal already. An approval never lifts a refusal."""
    call = open_call(state, word.call_id)
    if call and word.answered:
        return answered(state, word.call_id)
    if call and call.waits in ("approval", "unknown_outcome"):
        return approved(state, call, word.expires_ms)
    if call and tool_key(call) not in state.in_flight:
        return state
    return replace(state, early=(*state.early, word)[-EARLY_MAX:])


def said_before(state: RunState, call_id: str = "") -> RunState:
    """What was said early about ``call_id`` (or any call) is heard now, and means something or nothing."""
    words = tuple(word for word in state.early if call_id in ("", word.call_id))
    state = replace(state, early=tuple(word for word in state.early if word not in words))
    for word in words:
        if open_call(state, word.call_id):
            state = said(state, word)
    return state


def approved(state: RunState, call: OpenCall, expires_ms: int) -> RunState:
    """It may run now, or goes to the client, who has until ``expires_ms``."""
    if expires_ms:
        return changed(state, call.call_id, waits="client_tool", expires_ms=expires_ms, round=call.round + 1)
    return changed(state, call.call_id, waits="", expires_ms=0)


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
    state = replace(state, ended_early=heard_early(state))
    if state.open_calls and all(call.answered for call in state.open_calls):
        return replace(state, open_calls=(), awaits_reply=True)
    return state


def _child_ended(state: RunState, call_id: str) -> RunState:
    """What the child has not spent is there again. That it has started may be heard only after this, or once more."""
    last = state.wrapped_up or any(map(is_wrap_up_key, state.in_flight))
    return replace(
        state,
        children=tuple(one for one in state.children if one != call_id),
        ended_early=heard_early(state, call_id),
        reached=state.reached if last or state.reached == "max_turns" else "",
    )


def heard_early(state: RunState, *more: str) -> tuple[str, ...]:
    """The calls, ``more`` too, of children that have ended, of whose start somebody may still tell."""
    return tuple(
        call_id
        for call_id in dict.fromkeys((*state.ended_early, *more))
        if open_call(state, call_id) or any(is_tool_key_of(key, call_id) for key in state.in_flight)
    )[-EARLY_MAX:]


def _message(state: RunState, order: Order) -> RunState:
    """A message waits for its place in the transcript: at the next boundary, or after the next answer."""
    awaits_reply = state.awaits_reply or not state.open_calls
    if order.delivery == "enqueue":
        return replace(state, queued=with_number(state.queued, order.number), awaits_reply=awaits_reply)
    if order.delivery == "note":
        return replace(state, notes=with_number(state.notes, order.number), awaits_reply=awaits_reply)
    state = replace(state, steering=with_number(state.steering, order.number), awaits_reply=awaits_reply)
    if order.delivery == "interrupt" and model_key(state) in state.in_flight:
        return replace(state, interrupting=model_key(state))
    return state


def _withdrawn(state: RunState, order: Order) -> RunState:
    """What has not reached the transcript never will, nor what comes here after its withdrawal. A run that lived on
    for those messages only is done."""
    state = replace(state, orders=union(state.orders, order.numbers))
    steering, queued = without(state.steering, order.numbers), without(state.queued, order.numbers)
    notes = without(state.notes, order.numbers)
    nothing_left = state.final and not steering and not queued and not notes and not state.open_calls
    awaits_reply = state.awaits_reply and not nothing_left
    return replace(state, steering=steering, queued=queued, notes=notes, awaits_reply=awaits_reply)


def _limits(state: RunState, order: Order) -> RunState:
    """Whatever the run stood at may be out of the way now. A last call that has begun stays the last."""
    spec = replace(
        state.spec,
        limits=order.limits or state.spec.limits,
        on_limit=order.on_limit or state.spec.on_limit,
        deadline_ms=order.deadline_ms or state.spec.deadline_ms,
    )
    last = state.wrapped_up or any(map(is_wrap_up_key, state.in_flight))
    return replace(state, spec=spec, reached=state.reached if last else "")


def _again(state: RunState, order: Order) -> RunState:
    """Only a call that has begun can be run again: nobody makes a call run that was refused, or that waits for a
    word which was not given."""
    call = open_call(state, order.call_id)
    if call is None or not call.begun:
        return state
    return changed(
        state, order.call_id, round=call.round + 1, ordered=max(call.ordered, order.number), waits="", expires_ms=0,
        refusal=None, refusal_code="tool_denied",
    )  # fmt: skip
