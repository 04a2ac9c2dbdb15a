"""The priority list of ``decide`` by example, one promise a test."""

from __future__ import annotations

from dataclasses import replace

from perdure.core.actions import Action, AnswerCall, CallModel, Done, Finish, InFlight, Record
from perdure.core.decide import decide
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import (
    ActionCancelled,
    CallAsked,
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
from perdure.core.spec import Limits, RunSpec, ToolRule
from perdure.core.state import Failure, Outcome, RunState, Usage

DEADLINE_MS = 10_000
READ, WRITE = ToolRule("read", parallel=True), ToolRule("write")
SPEC = RunSpec("run_1", "agent", "scripted/tour", DEADLINE_MS, tools=(READ, WRITE))


def wanted(state: RunState, now_ms: int = 0) -> tuple[Action, ...]:
    decision = decide(state, now_ms)
    assert isinstance(decision, InFlight)
    return decision.actions


def keys(state: RunState, now_ms: int = 0) -> list[str]:
    return [action.key for action in wanted(state, now_ms)]


def going(state: RunState, now_ms: int = 0) -> RunState:
    """The state after the shell has started everything wanted."""
    for action in wanted(state, now_ms):
        if action.key not in state.in_flight:
            state = evolve(state, Started(action))
    return state


def after(state: RunState, *happenings: Happening) -> RunState:
    """The state after each happening, the shell having started everything before each."""
    for happening in happenings:
        state = evolve(going(state), happening)
    return state


def answer(*tools: str, turn: int = 1, stop: str = "tool_calls", applied: tuple[str, ...] = ()) -> ModelResponded:
    calls = tuple(CallAsked(f"c{index}", tool) for index, tool in enumerate(tools))
    return ModelResponded(f"model-{turn}", stop if tools or stop != "tool_calls" else "end", Usage(), calls, applied)


def answered(*calls: str) -> list[ToolAnswered]:
    return [ToolAnswered(f"tool-{call}", call) for call in calls]


def outcome(state: RunState, now_ms: int = 0) -> Outcome:
    (action,) = wanted(state, now_ms)
    assert isinstance(action, Finish)
    return action.outcome


NEW = begin(SPEC)


def test_a_new_run_asks_the_model() -> None:
    assert wanted(NEW) == (CallModel("model-1", 1),)


def test_a_run_whose_end_is_recorded_does_nothing_more() -> None:
    ended = after(NEW, answer(), Recorded("finish"))
    assert decide(ended, DEADLINE_MS + 1) == Done(Outcome("completed", "end"))


def test_an_answer_without_calls_completes_the_run() -> None:
    assert outcome(after(NEW, answer())) == Outcome("completed", "end")


def test_an_answer_that_was_there_first_beats_a_cancel_and_the_deadline() -> None:
    state = after(NEW, CancelRequested("stop"), answer(), Recorded("record-2"))
    assert outcome(state, DEADLINE_MS + 1) == Outcome("completed", "end")


def test_an_answer_cut_at_its_output_limit_ends_the_run_incomplete_and_its_calls_do_not_run() -> None:
    assert outcome(after(NEW, answer("read", stop="max_output_tokens"))) == Outcome("incomplete", "max_output_tokens")


def test_a_refusal_ends_the_run_incomplete_and_its_calls_do_not_run() -> None:
    assert outcome(after(NEW, answer("read", stop="refusal"))) == Outcome("incomplete", "refusal")


def test_a_pause_of_the_vendor_is_followed_by_the_next_call() -> None:
    assert keys(after(NEW, answer(stop="pause"))) == ["model-2"]


def test_a_model_that_fails_for_good_fails_the_run_with_its_error() -> None:
    failure = Failure("model_error", "no such model")
    assert outcome(after(NEW, ModelFailed("model-1", failure))) == Outcome("failed", "model_error", failure)


def test_a_cancel_calls_off_the_model_and_is_told_at_once() -> None:
    state = after(NEW, CancelRequested("stop"))
    assert wanted(state) == (Record("record-2"),)


def test_a_cancelled_run_ends_when_everything_called_off_has_ended() -> None:
    state = after(NEW, CancelRequested("stop"), Recorded("record-2"))
    assert wanted(state) == ()
    assert outcome(after(state, ActionCancelled("model-1"))) == Outcome("cancelled", "stop")


def test_at_the_deadline_the_run_expires() -> None:
    ended = outcome(NEW, DEADLINE_MS)
    assert (ended.status, ended.stop_reason) == ("expired", "deadline")
    assert ended.failure is not None
    assert ended.failure.code == "deadline_exceeded"
    assert decide(going(NEW), DEADLINE_MS) == InFlight((), DEADLINE_MS)


def test_a_run_that_waits_asks_again_at_its_deadline() -> None:
    assert decide(going(NEW), 0) == InFlight((CallModel("model-1", 1),), DEADLINE_MS)


def test_parallel_tools_run_together() -> None:
    assert keys(after(NEW, answer("read", "read", "read"))) == ["tool-c0", "tool-c1", "tool-c2"]


def test_a_tool_that_is_not_parallel_runs_alone_and_in_its_place() -> None:
    state = after(NEW, answer("read", "write", "read"))
    assert keys(state) == ["tool-c0"]
    state = after(state, *answered("c0"))
    assert keys(state) == ["tool-c1"]
    assert keys(after(state, *answered("c1"))) == ["tool-c2"]


def test_at_most_ten_calls_are_in_flight() -> None:
    state = after(NEW, answer(*["read"] * 12))
    assert keys(state) == [f"tool-c{index}" for index in range(10)]
    assert keys(after(state, *answered("c3")))[-1] == "tool-c10"


def test_ten_is_the_limit_for_refused_calls_as_well() -> None:
    calls = tuple(CallAsked(f"c{index}", "red", "no such tool", "unknown_tool") for index in range(3_000))
    state = after(NEW, ModelResponded("model-1", "tool_calls", Usage(), calls))
    assert len(wanted(state)) == 10


def test_a_refused_call_is_answered_and_does_not_run() -> None:
    asked = CallAsked("c0", "red", "there is no tool 'red'", "unknown_tool")
    state = after(NEW, ModelResponded("model-1", "tool_calls", Usage(), (asked,)))
    assert wanted(state) == (AnswerCall("answer-c0", "c0", 1, "red", "unknown_tool", "there is no tool 'red'"),)


def test_a_lost_call_is_answered_to_the_model_and_not_run_again() -> None:
    state = after(NEW, answer("write"), ToolLost("tool-c0", "c0", "tool_outcome_unknown", "its worker died"))
    assert wanted(state) == (AnswerCall("answer-c0", "c0", 1, "write", "tool_outcome_unknown", "its worker died"),)
    assert keys(after(state, ToolAnswered("answer-c0", "c0"))) == ["model-2"]


def test_the_model_is_asked_again_when_every_call_is_answered() -> None:
    state = after(NEW, answer("read", "read"))
    assert keys(after(state, *answered("c1"))) == ["tool-c0"]
    assert keys(after(state, *answered("c1", "c0"))) == ["model-2"]


def test_calls_beyond_max_tool_calls_are_refused_and_the_model_goes_on() -> None:
    state = after(begin(replace(SPEC, limits=Limits(max_tool_calls=1))), answer("read", "read"))
    assert keys(state) == ["tool-c0", "answer-c1"]
    assert keys(after(state, *answered("c0"), ToolAnswered("answer-c1", "c1"))) == ["model-2"]


def test_a_run_that_has_used_its_turns_ends_incomplete() -> None:
    state = after(begin(replace(SPEC, limits=Limits(max_turns=1))), answer("read"), *answered("c0"))
    assert outcome(state) == Outcome("incomplete", "max_turns")


def test_a_message_said_while_tools_run_is_put_before_the_next_model_call() -> None:
    state = after(NEW, answer("read"), MessageArrived("msg_1"), *answered("c0"))
    assert wanted(state) == (CallModel("model-2", 2, ("msg_1",)),)


def test_a_message_said_while_the_model_answers_gets_an_answer_of_its_own() -> None:
    state = after(NEW, MessageArrived("msg_1"), answer())
    assert wanted(state) == (CallModel("model-2", 2, ("msg_1",)),)


def test_a_message_that_comes_twice_is_said_once() -> None:
    state = after(NEW, MessageArrived("msg_1"), MessageArrived("msg_1"), answer())
    assert wanted(state) == (CallModel("model-2", 2, ("msg_1",)),)
    state = evolve(after(state, answer(turn=2, applied=("msg_1",))), MessageArrived("msg_1"))
    assert outcome(state) == Outcome("completed", "end")


def test_what_is_being_recorded_is_not_taken_back() -> None:
    state = after(NEW, answer(), MessageArrived("msg_late"), CancelRequested("late"))
    assert outcome(state, DEADLINE_MS + 1) == Outcome("completed", "end")


def test_an_event_that_a_lost_action_carried_rides_again() -> None:
    state = after(NEW, CancelRequested("stop"), Recorded("record-2"), ActionCancelled("model-1"))
    assert [event.type for event in state.outbox] == []
    state = after(NEW, CancelRequested("stop"), ActionCancelled("record-2"))
    assert [(event.type, event.carried_by) for event in state.outbox] == [
        ("run.started", None),
        ("run.cancelling", None),
    ]
    assert keys(state) == ["record-2"]


def test_a_late_result_changes_nothing() -> None:
    state = after(NEW, answer("read"), *answered("c0"))
    assert evolve(state, ToolAnswered("tool-c0", "c0")) is state
    assert evolve(state, answer("read")) is state


def test_a_run_that_was_ended_by_force_does_nothing_more() -> None:
    state = after(NEW, EndedElsewhere("cancelled"))
    assert decide(state, 0) == Done(Outcome("cancelled", "ended_elsewhere"))
