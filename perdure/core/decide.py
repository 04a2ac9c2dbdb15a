"""What should be in flight for a run now. A priority list: the first line that applies wins.

``decide`` never looks at how an action is done, only at what the run knows. It may be asked as often
as one likes: the same state and time give the same answer. The calls of a turn are in ``calls.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.actions import Action, CallModel, CallTool, Decision, Done, Finish, InFlight, Record
from perdure.core.calls import wanted_calls
from perdure.core.happenings import StatusReached
from perdure.core.keys import model_key, wrap_up_key
from perdure.core.numbers import union
from perdure.core.state import Failure, Outcome, RunState, RunStatus

_OUTCOME_OF_STOP: Mapping[str, Outcome] = {
    "max_output_tokens": Outcome("incomplete", "max_output_tokens"),
    "refusal": Outcome("incomplete", "refusal"),
}
_EXPIRED = Outcome("expired", "deadline", Failure("deadline_exceeded", "the run's deadline passed before it ended"))


def decide(state: RunState, now_ms: int) -> Decision:
    """Read top to bottom: the first line that applies wins."""
    if state.ended:
        return Done(state.ended)
    if state.finishing:
        return _in_flight(state, Finish("finish", state.finishing))
    if state.failure:
        return _finish(state, Outcome("failed", state.failure.code, state.failure))
    if not state.awaits_reply and not state.open_calls:
        return _finish(state, _OUTCOME_OF_STOP.get(state.last_stop or "", Outcome("completed", "end")))
    if now_ms >= state.spec.deadline_ms:
        return _finish(state, _EXPIRED)
    if state.cancel:
        return _wind_up(state, Outcome("cancelled", state.cancel.reason or "cancelled"))
    if now_ms < state.spec.start_ms:
        return _in_flight(state, wake_at_ms=state.spec.start_ms, idle="scheduled")
    if state.interrupting:
        return _in_flight(state)
    if state.paused:
        return _held(state, now_ms)
    return _work(state, now_ms)


def _work(state: RunState, now_ms: int) -> InFlight:
    if state.open_calls:
        calls = wanted_calls(state, now_ms)
        return _in_flight(state, *calls.actions, wake_at_ms=calls.wake_at_ms, idle=calls.idle, reason=calls.reason)
    key, turn = model_key(state), state.turn + 1
    if key in state.in_flight:  # whatever became of the limits: it is reserved, and goes on to its end
        return _in_flight(state, CallModel(key, turn, state.applying))
    if limit := reached_limit(state):
        return _at_limit(state, limit)
    apply = union(union(state.steering, state.notes), state.queued if state.final else ())
    output = state.turn_bytes if state.turn_bytes > (state.spec.limits.tool_output_bytes_per_turn or 0) else 0
    call = CallModel(key, turn, apply, state.final, closes=state.unsettled, tool_output_bytes=output)
    return _in_flight(state, call)


def untold(state: RunState, decision: Decision) -> StatusReached | None:
    """What readers must be told before the decision is carried out: the status, when it or its reason is new."""
    match decision:
        case InFlight(_, wake_at_ms, status, reason) if (status, reason) != (state.told, state.told_reason):
            return StatusReached(status, reason, wake_at_ms)
        case _:
            return None


def reached_limit(state: RunState) -> str:
    """The limit that stands in the way of another turn, or nothing. With a budget that wraps up, the last of
    ``max_turns`` is the wrap-up."""
    if state.reached:
        return state.reached
    turns = state.spec.limits.max_turns
    kept_aside = 1 if state.spec.on_limit == "wrap_up" and turns > 1 else 0
    return "max_turns" if state.turn >= turns - kept_aside else ""


def _at_limit(state: RunState, limit: str) -> InFlight:
    """A limit is reached: hold until it is raised, say what is done, or just end. A last call that has begun is not
    taken back, whatever became of the limits."""
    outcome = Outcome("incomplete", "max_turns" if limit == "max_turns" else "budget_reached")
    if state.wrapped_up or wrap_up_key(state) in state.in_flight:
        return _wind_up(state, outcome)
    if limit != "max_turns" and state.children:  # what they do not spend comes back
        return _in_flight(state, idle="waiting", reason="children")
    if state.spec.on_limit == "pause":
        return _in_flight(state, idle="paused", reason=f"budget_reached: {limit}")
    return _wind_up(state, outcome) if state.spec.on_limit == "wrap_up" else _finish(state, outcome)


def _wind_up(state: RunState, outcome: Outcome) -> InFlight:
    """One last call without tools that says what is done and what is not; then the outcome. An agent that has
    done nothing yet has nothing to say, one that has used its turns has none left to say it, and whoever cancels
    twice does not want to hear it."""
    key = wrap_up_key(state)
    at_once = state.cancel is not None and (state.cancel.at_once or state.turn == 0)
    no_turn_left = state.turn >= state.spec.limits.max_turns and key not in state.in_flight
    if state.wrapped_up or at_once or no_turn_left:
        return _finish(state, outcome)
    if any(other != key and not other.startswith("record-") for other in state.in_flight):
        return _in_flight(state)
    if state.cancel and not state.cancel.alone and state.children and key not in state.in_flight:  # they wind up, too
        return _in_flight(state)
    return _in_flight(state, CallModel(key, state.turn + 1, wrap_up=True, closes=state.unsettled))


def _held(state: RunState, now_ms: int) -> InFlight:
    """What is in flight goes on to its end, and nothing new begins."""
    wanted = _work(state, now_ms).actions
    going_on = [action for action in wanted if action.key in state.in_flight and not isinstance(action, Record)]
    return _in_flight(state, *going_on, idle="paused", reason=state.paused)


def _finish(state: RunState, outcome: Outcome) -> InFlight:
    """Wanting nothing calls off what is in flight; when all of it has ended, the outcome is recorded."""
    return _in_flight(state) if state.in_flight else _in_flight(state, Finish("finish", outcome))


def _in_flight(
    state: RunState, *actions: Action, wake_at_ms: int = 0, idle: RunStatus | None = None, reason: str = ""
) -> InFlight:
    """The wanted actions, plus a record action when the outbox would otherwise wait for a ride. ``idle`` is
    the run's status when nothing is wanted but records and quiet tries; without it the status stays as it was told."""
    records = [Record(key) for key in state.in_flight if key.startswith("record-")]
    starts_one = any(action.key not in state.in_flight for action in actions)
    fresh = Record(f"record-{state.outbox_count}")
    if not starts_one and fresh not in records and any(event.carried_by is None for event in state.outbox):
        records.append(fresh)
    works = any(not _unseen(action) for action in actions)
    wake_at_ms = min(wake_at_ms or state.spec.deadline_ms, state.spec.deadline_ms)
    if works and not state.cancel:
        return InFlight((*actions, *records), wake_at_ms, "running")
    if idle and not state.cancel:
        return InFlight((*actions, *records), wake_at_ms, idle, reason)
    return InFlight((*actions, *records), wake_at_ms, state.told, state.told_reason)


def _unseen(action: Action) -> bool:
    """Whether readers go on being told what they were told last."""
    return isinstance(action, Finish) or (isinstance(action, CallTool) and action.quiet)
