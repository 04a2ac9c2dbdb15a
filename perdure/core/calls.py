"""The tool calls of a turn: which of them should be in flight now, and what the others wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.core.actions import Action, AnswerCall, CallFamily, CallTool, SettleAsk
from perdure.core.keys import answer_key, settle_key, tool_key
from perdure.core.spec import PARALLEL_TOOLS_MAX, ToolRule
from perdure.core.state import OUTSIDE, WAKEABLE, OpenCall, RunState, RunStatus

WRITTEN_AT_ONCE_MAX = PARALLEL_TOOLS_MAX  # answers without a run, beside the calls that run
SKIPPED = "not run: a message arrived that changes what is wanted; it follows"
GIVEN_UP = (
    "The call was started, and nobody knows what became of it. It was not run again, because a message arrived that "
    "changes what is wanted; it follows. The call may or may not have taken effect: check before you repeat it."
)
POLL_WOKEN = (
    "A message arrived, which follows, and the poll was given up for it: its condition did not hold yet. Poll again if "
    "it still matters."
)
CHILDREN_GO_ON = "a message arrived that changes what is wanted; it follows. What this call waited for goes on"


@dataclass(frozen=True, slots=True)
class WantedCalls:
    """``wake_at_ms`` is when time alone changes the answer (0: never). ``idle`` is the run's status should no
    call be in flight (None: as it was told), ``reason`` what it waits for."""

    actions: tuple[Action, ...]
    wake_at_ms: int
    idle: RunStatus | None
    reason: str


def wanted_calls(state: RunState, now_ms: int) -> WantedCalls:
    """The turn's calls in the order asked: parallel-safe neighbours together, others as barriers. What runs
    goes on. A call that waits for people, for the client or for a rate limit holds nobody up."""
    wanted: list[Action] = []
    written: list[Action] = []
    running = [call for call in state.open_calls if not call.answered and tool_key(call) in state.in_flight]
    alone = any(not state.spec.rule(call.tool).parallel for call in running)
    count, behind_a_barrier, wake_at_ms, rate_limited = len(running), False, 0, ""
    for call in state.open_calls:
        if call.answered:
            continue
        key, rule = tool_key(call), state.spec.rule(call.tool)
        if key in state.in_flight:
            wanted.append(_run(state, call, rule))
        elif refused := _refusal(state, call, now_ms):
            written.append(refused)
        elif answer_key(call) in state.in_flight:  # it was to be given up, and is to run again: not both at once
            continue
        elif call.waits and now_ms < call.expires_ms:
            wake_at_ms = _earlier(wake_at_ms, call.expires_ms)
        elif call.waits and call.waits != "poll":  # the next try of a poll is a call
            written.append(SettleAsk(settle_key(call), call.call_id, state.turn, call.tool))
        elif behind_a_barrier or count >= PARALLEL_TOOLS_MAX or (rule.last and _others_open(state)):
            continue
        elif (free_at_ms := _free_at_ms(state, rule, wanted, now_ms)) > now_ms:
            wake_at_ms, rate_limited = _earlier(wake_at_ms, free_at_ms), call.tool
        elif count and (alone or not rule.parallel):
            behind_a_barrier = True
        else:
            wanted.append(_run(state, call, rule))
            count, alone = count + 1, not rule.parallel
    waits = sorted({call.waits for call in state.open_calls if call.waits and not call.answered})
    outside = any(one in OUTSIDE for one in waits)
    idle: RunStatus | None = "requires_action" if outside else "waiting" if waits or rate_limited else None
    begun = [action for action in written if action.key in state.in_flight]
    fresh = [action for action in written if action.key not in state.in_flight]
    # A model that asks for thousands of calls does not get as many workers.
    wanted += [*begun, *fresh[: max(0, WRITTEN_AT_ONCE_MAX - len(begun))]]
    return WantedCalls(tuple(wanted), wake_at_ms, idle, ", ".join(waits) or f"rate_limit: {rate_limited}")


def _others_open(state: RunState) -> bool:
    """Whether a call of the turn has no result yet that must have one before the last calls begin."""
    return any(not call.answered and not state.spec.rule(call.tool).last for call in state.open_calls)


def _run(state: RunState, call: OpenCall, rule: ToolRule) -> CallTool | CallFamily:
    if rule.answered_by == "family":
        return CallFamily(tool_key(call), call.call_id, state.turn, rule)
    return CallTool(tool_key(call), call.call_id, state.turn, rule, call.over, call.ordered, call.waits == "poll")


def _refusal(state: RunState, call: OpenCall, now_ms: int) -> AnswerCall | None:
    """A call that must not run is answered; so is one that is not running when a message steers the run."""
    if call.refusal is not None:
        code, words = call.refusal_code, call.refusal
    elif not state.steering:
        return None
    elif call.waits in WAKEABLE:
        code, words = "woken", _woken(call, now_ms)
    elif call.waits == "children":
        code, words = "children_go_on", CHILDREN_GO_ON
    elif call.begun:
        code, words = "tool_outcome_unknown", GIVEN_UP
    else:
        code, words = "skipped", SKIPPED
    return AnswerCall(answer_key(call), call.call_id, state.turn, call.tool, code, words)


def _woken(call: OpenCall, now_ms: int) -> str:
    """What the model is told of a wait that a message ended: it may wait on."""
    if call.waits == "poll":
        return POLL_WOKEN
    left = max(0, call.expires_ms - now_ms + 999) // 1_000
    return f'{{"woken": true, "by": "a message, which follows", "seconds_left": {left}}}'


def _free_at_ms(state: RunState, rule: ToolRule, wanted: Sequence[Action], now_ms: int) -> int:
    """When the tool's rate limits let another call start; those about to start now count as started."""
    free_at_ms = now_ms
    for index in rule.rates:
        limit = state.spec.rate_limits[index]
        window_ms = int(limit.window_seconds * 1_000)
        taken = [at_ms for at_ms in _starts(state, index) if at_ms > now_ms - window_ms]
        taken += [
            now_ms
            for action in wanted
            if isinstance(action, CallTool | CallFamily)
            and index in action.rule.rates
            and action.key not in state.in_flight
        ]
        if len(taken) >= limit.max_calls:
            free_at_ms = max(free_at_ms, taken[len(taken) - limit.max_calls] + window_ms)
    return free_at_ms


def _starts(state: RunState, index: int) -> tuple[int, ...]:
    return state.rate_starts[index] if index < len(state.rate_starts) else ()


def _earlier(one_ms: int, other_ms: int) -> int:
    """The earlier of two moments, where 0 is never."""
    return min(one_ms or other_ms, other_ms)
