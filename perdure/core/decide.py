"""What should be in flight for a run now. A priority list: the first line that applies wins.

``decide`` never looks at how an action is done, only at what the run knows. It may be asked as often
as one likes: the same state and time give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.actions import Action, AnswerCall, CallModel, CallTool, Decision, Done, Finish, InFlight, Record
from perdure.core.spec import PARALLEL_TOOLS_MAX
from perdure.core.state import Failure, Outcome, RunState

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
        return _finish(state, Outcome("cancelled", state.cancel.reason or "cancelled"))
    if state.open_calls:
        return _in_flight(state, *_calls(state))
    if state.turn >= state.spec.limits.max_turns:
        return _finish(state, Outcome("incomplete", "max_turns"))
    return _in_flight(state, CallModel(f"model-{state.turn + 1}", state.turn + 1, state.inbox))


def _calls(state: RunState) -> list[Action]:
    """The turn's calls in the order asked: parallel-safe neighbours together, others as barriers."""
    wanted: list[Action] = []
    running = 0
    for call in state.open_calls:
        if len(wanted) == PARALLEL_TOOLS_MAX:
            break
        if call.answered:
            continue
        if call.refusal is not None:
            wanted.append(
                AnswerCall(
                    f"answer-{call.call_id}", call.call_id, state.turn, call.tool, call.refusal_code, call.refusal
                )
            )
            continue
        rule = state.spec.rule(call.tool)
        if running and not rule.parallel:
            break
        wanted.append(CallTool(f"tool-{call.call_id}", call.call_id, state.turn, rule))
        running += 1
        if not rule.parallel:
            break
    return wanted


def _finish(state: RunState, outcome: Outcome) -> Decision:
    """Wanting nothing calls off what is in flight; when all of it has ended, the outcome is recorded."""
    return _in_flight(state) if state.in_flight else _in_flight(state, Finish("finish", outcome))


def _in_flight(state: RunState, *actions: Action) -> InFlight:
    """The wanted actions, plus a record action when the outbox would otherwise wait for a ride."""
    records = [Record(key) for key in state.in_flight if key.startswith("record-")]
    starts_one = any(action.key not in state.in_flight for action in actions)
    fresh = Record(f"record-{state.outbox_count}")
    if not starts_one and fresh not in records and any(event.carried_by is None for event in state.outbox):
        records.append(fresh)
    return InFlight((*actions, *records), state.spec.deadline_ms)
