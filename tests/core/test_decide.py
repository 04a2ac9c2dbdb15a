"""What the core decides, by example, one promise a test: the model and its turns, tool calls, orders, what is asked
of people, limits. Whole runs are in ``test_simulation.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perdure.core.actions import Action, AnswerCall, CallModel, CallTool, Done, Finish, InFlight, Record, SettleAsk
from perdure.core.decide import decide, untold
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import (
    ActionCancelled,
    AskSettled,
    BudgetReached,
    CallAsked,
    CancelRequested,
    EndedElsewhere,
    Happening,
    ModelFailed,
    ModelInterrupted,
    ModelResponded,
    NothingNew,
    Order,
    Recorded,
    Started,
    ToolAnswered,
    ToolLost,
    ToolParked,
)
from perdure.core.spec import Limits, RateLimit, RunSpec, ToolRule
from perdure.core.state import Failure, Outcome, RunState, Usage, WaitsFor

DEADLINE_MS = 10_000
READ, WRITE = ToolRule("read", parallel=True), ToolRule("write")
SPEC = RunSpec("run_1", "agent", "scripted/tour", DEADLINE_MS, tools=(READ, WRITE))
NEW = begin(SPEC)


def wanted(state: RunState, now_ms: int = 0) -> tuple[Action, ...]:
    decision = decide(state, now_ms)
    assert isinstance(decision, InFlight)
    return decision.actions


def keys(state: RunState, now_ms: int = 0) -> list[str]:
    """Of what is wanted, without the records that carry events."""
    return [action.key for action in wanted(state, now_ms) if not isinstance(action, Record)]


def going(state: RunState, now_ms: int = 0) -> RunState:
    """The state after the shell has told the status and started everything wanted."""
    if reached := untold(state, decide(state, now_ms)):
        state = evolve(state, reached)
    for action in wanted(state, now_ms):
        if action.key not in state.in_flight:
            state = evolve(state, Started(action, now_ms))
    return state


def after(state: RunState, *happenings: Happening, now_ms: int = 0) -> RunState:
    """The state after each happening, the shell having started everything before each."""
    for happening in happenings:
        state = evolve(going(state, now_ms), happening)
    return state


def answer(*tools: str, turn: int = 1, stop: str = "tool_calls") -> ModelResponded:
    calls = tuple(CallAsked(f"c{index}", tool) for index, tool in enumerate(tools))
    return ModelResponded(f"model-{turn}", stop if tools or stop != "tool_calls" else "end", Usage(), calls)


def asking(*waits: WaitsFor, expires_ms: int = 500) -> ModelResponded:
    """An answer with calls of ``read`` that wait, c0, c1, …; "" is one that may run."""
    calls = tuple(CallAsked(f"c{n}", "read", waits=w, expires_ms=expires_ms) for n, w in enumerate(waits))
    return ModelResponded("model-1", "tool_calls", Usage(), calls)


def answered(*calls: str) -> list[ToolAnswered]:
    return [ToolAnswered(f"tool-{call}", call) for call in calls]


def told(number: int, verb: Any, **fields: Any) -> Order:
    return Order(number, verb, **fields)


def outcome(state: RunState, now_ms: int = 0) -> Outcome:
    (action,) = wanted(state, now_ms)
    assert isinstance(action, Finish)
    return action.outcome


def status(state: RunState, now_ms: int = 0) -> tuple[str, str]:
    decision = decide(state, now_ms)
    assert isinstance(decision, InFlight)
    return decision.status, decision.reason


def limited(**limits: Any) -> RunState:
    return begin(replace(SPEC, limits=Limits(**limits)))


def budgeted(on_limit: Any, **limits: Any) -> RunState:
    return begin(replace(SPEC, limits=Limits(**limits), on_limit=on_limit))


# The model and the end -------------------------------------------------------------------------------


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


def test_at_the_deadline_the_run_expires() -> None:
    ended = outcome(NEW, DEADLINE_MS)
    assert (ended.status, ended.stop_reason) == ("expired", "deadline")
    assert ended.failure is not None
    assert ended.failure.code == "deadline_exceeded"
    assert wanted(going(NEW), DEADLINE_MS) == ()


def test_a_run_that_waits_asks_again_at_its_deadline() -> None:
    assert decide(going(NEW), 0) == InFlight((CallModel("model-1", 1),), DEADLINE_MS)


def test_a_deadline_that_is_moved_in_time_lets_the_run_go_on() -> None:
    state = after(NEW, told(1, "limits", deadline_ms=2 * DEADLINE_MS))
    assert keys(state, DEADLINE_MS) == ["model-1"]
    assert keys(after(NEW, told(1, "limits", deadline_ms=5)), 5) == []


def test_a_run_that_was_ended_by_force_does_nothing_more() -> None:
    assert decide(after(NEW, EndedElsewhere("cancelled")), 0) == Done(Outcome("cancelled", "ended_elsewhere"))


def test_what_is_being_recorded_is_not_taken_back() -> None:
    state = after(NEW, answer(), told(1, "message"), told(2, "cancel", reason="late"), CancelRequested("late"))
    assert outcome(state, DEADLINE_MS + 1) == Outcome("completed", "end")


def test_a_late_result_changes_nothing() -> None:
    state = after(NEW, answer("read"), *answered("c0"))
    assert evolve(state, ToolAnswered("tool-c0", "c0")) is state
    assert evolve(state, answer("read")) is state


def test_an_event_that_a_lost_action_carried_rides_again() -> None:
    state = after(NEW, CancelRequested("stop"), Recorded("record-2"), ActionCancelled("model-1"))
    assert [event.type for event in state.outbox] == []
    state = after(NEW, CancelRequested("stop"), ActionCancelled("record-2"))
    assert [(event.type, event.carried_by) for event in state.outbox] == [
        ("run.started", None),
        ("run.cancelling", None),
    ]
    assert wanted(state) == (Record("record-2"),)


# Tool calls ------------------------------------------------------------------------------------------


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
    state = after(state, ToolAnswered("answer-c4", "c4"))
    assert len(wanted(going(state))) == 10


def test_a_refused_call_is_answered_and_does_not_run() -> None:
    asked = CallAsked("c0", "red", "there is no tool 'red'", "unknown_tool")
    state = after(NEW, ModelResponded("model-1", "tool_calls", Usage(), (asked,)))
    assert wanted(state) == (AnswerCall("answer-c0", "c0", 1, "red", "unknown_tool", "there is no tool 'red'"),)


def test_a_lost_call_is_answered_to_the_model_and_not_run_again() -> None:
    state = after(NEW, answer("write"), ToolLost("tool-c0", "c0", "tool_outcome_unknown", "its worker died"))
    assert wanted(state) == (AnswerCall("answer-c0", "c0", 1, "write", "tool_outcome_unknown", "its worker died"),)
    assert keys(after(state, ToolAnswered("answer-c0", "c0"))) == ["model-2"]


def test_an_answer_whose_worker_is_lost_is_written_again_with_its_own_words() -> None:
    asked = CallAsked("c0", "red", "there is no tool 'red'", "unknown_tool")
    state = after(NEW, ModelResponded("model-1", "tool_calls", Usage(), (asked,)))
    state = after(state, ToolLost("answer-c0", "c0", "tool_outcome_unknown", "its worker died"))
    assert wanted(state) == (AnswerCall("answer-c0", "c0", 1, "red", "unknown_tool", "there is no tool 'red'"),)


def test_the_model_is_asked_again_when_every_call_is_answered() -> None:
    state = after(NEW, answer("read", "read"))
    assert keys(after(state, *answered("c1"))) == ["tool-c0"]
    assert keys(after(state, *answered("c1", "c0"))) == ["model-2"]


def test_a_call_that_a_person_gives_up_runs_again_at_once_as_another_action() -> None:
    state = after(NEW, answer("write"), told(1, "retry_call", call_id="c0"))
    assert keys(state) == ["tool-c0-1"]


def test_the_loss_of_an_attempt_that_was_given_up_is_nobodys_loss() -> None:
    state = after(NEW, answer("write"), told(1, "retry_call", call_id="c0"))
    lost = after(state, ToolLost("tool-c0", "c0", "tool_outcome_unknown", "its worker died"))
    assert keys(lost) == ["tool-c0-1"]
    parked = after(state, ToolParked("tool-c0", "c0", 500))
    assert keys(after(parked, *[ToolAnswered("tool-c0-1", "c0")])) == ["model-2"]


def test_nobody_makes_a_denied_call_run_by_ordering_it_again() -> None:
    denied = CallAsked("c0", "write", "not allowed", "tool_denied")
    state = after(NEW, ModelResponded("model-1", "tool_calls", Usage(), (denied,)))
    assert keys(after(state, told(1, "retry_call", call_id="c0"))) == ["answer-c0"]
    assert keys(after(state, told(1, "approve", call_id="c0"))) == ["answer-c0"]


def test_nobody_makes_a_call_run_that_waits_for_approval_by_ordering_it_again() -> None:
    state = after(NEW, asking("approval"), told(1, "retry_call", call_id="c0"))
    assert status(state) == ("requires_action", "approval")
    assert keys(going(state)) == []


def test_a_call_is_not_run_again_while_its_loss_is_being_written() -> None:
    lost = ToolLost("tool-c0", "c0", "tool_outcome_unknown", "its worker died")
    state = after(NEW, answer("write"), lost, told(1, "retry_call", call_id="c0"))
    assert wanted(state) == ()
    assert keys(after(state, ActionCancelled("answer-c0"))) == ["tool-c0-1"]
    assert keys(after(state, ToolAnswered("answer-c0", "c0"))) == ["model-2"]


# Messages --------------------------------------------------------------------------------------------


def test_a_message_said_while_tools_run_is_put_before_the_next_model_call() -> None:
    state = after(NEW, answer("read"), told(1, "message"), *answered("c0"))
    assert wanted(state) == (CallModel("model-2", 2, ((1, 1),)),)


def test_a_message_said_while_the_model_answers_gets_an_answer_of_its_own() -> None:
    state = after(NEW, told(1, "message"), answer())
    assert wanted(state) == (CallModel("model-2", 2, ((1, 1),), only_for_messages=True),)


def test_an_enqueued_message_waits_for_the_answer_that_asks_for_nothing() -> None:
    state = after(NEW, told(1, "message", delivery="enqueue"), answer("read"), *answered("c0"))
    assert wanted(state) == (CallModel("model-2", 2),)
    assert wanted(after(state, answer(turn=2))) == (CallModel("model-3", 3, ((1, 1),), only_for_messages=True),)


def test_a_message_that_comes_twice_is_said_once() -> None:
    state = after(NEW, told(1, "message"), told(1, "message"), answer())
    assert wanted(state) == (CallModel("model-2", 2, ((1, 1),), only_for_messages=True),)
    state = evolve(after(state, answer(turn=2)), told(1, "message"))
    assert outcome(state) == Outcome("completed", "end")


def test_messages_that_come_out_of_order_are_put_in_order() -> None:
    state = after(NEW, told(3, "message"), told(1, "message"), told(2, "message"), answer())
    assert wanted(state) == (CallModel("model-2", 2, ((1, 3),), only_for_messages=True),)


def test_a_message_skips_the_calls_of_its_turn_that_have_not_begun() -> None:
    state = after(NEW, answer("write", "write"), told(1, "message"))
    assert keys(state) == ["tool-c0", "answer-c1"]
    skipped = wanted(state)[1]
    assert isinstance(skipped, AnswerCall)
    assert (skipped.code, skipped.message[:8]) == ("skipped", "not run:")


def test_a_message_ends_the_wait_for_people_too() -> None:
    assert keys(after(NEW, asking("approval", "question"), told(1, "message"))) == ["answer-c0", "answer-c1"]


def test_a_skip_that_has_begun_is_not_taken_back_when_the_message_is() -> None:
    state = after(NEW, answer("write", "write"), told(1, "message"), told(2, "withdraw", numbers=((1, 1),)))
    assert keys(state) == ["tool-c0", "answer-c1"]


def test_a_call_whose_outcome_nobody_knows_is_not_called_skipped() -> None:
    state = after(NEW, answer("write"), ToolParked("tool-c0", "c0", 500), told(1, "message"))
    (action,) = [action for action in wanted(state) if isinstance(action, AnswerCall)]
    assert action.code == "tool_outcome_unknown"


def test_a_withdrawn_message_is_put_nowhere_even_when_it_comes_after_its_withdrawal() -> None:
    withdrawn = told(2, "withdraw", numbers=((1, 1),))
    for orders in ((told(1, "message"), withdrawn), (withdrawn, told(1, "message"))):
        assert wanted(after(NEW, answer("read"), *orders, *answered("c0"))) == (CallModel("model-2", 2),)


def test_a_run_that_lived_on_for_a_withdrawn_message_only_is_done() -> None:
    state = after(NEW, told(1, "message"), answer(), told(2, "withdraw", numbers=((1, 1),)))
    assert wanted(state) == ()
    assert outcome(after(state, NothingNew("model-2"))) == Outcome("completed", "end")


# Interrupts ------------------------------------------------------------------------------------------


def test_a_message_that_interrupts_calls_off_the_model_and_is_applied_in_another_turn() -> None:
    state = after(NEW, told(1, "message", delivery="interrupt"))
    assert wanted(state) == ()
    assert wanted(after(state, ModelInterrupted("model-1"))) == (CallModel("model-2", 2, ((1, 1),)),)


def test_an_answer_that_was_there_before_the_interrupt_stands() -> None:
    state = after(NEW, told(1, "message", delivery="interrupt"), answer("read"))
    assert keys(state) == ["answer-c0"]
    assert wanted(after(state, ToolAnswered("answer-c0", "c0"))) == (CallModel("model-2", 2, ((1, 1),)),)


def test_an_interrupted_call_whose_worker_was_lost_is_closed_by_the_next() -> None:
    state = after(NEW, told(1, "message", delivery="interrupt"), ActionCancelled("model-1"))
    assert wanted(state) == (CallModel("model-1-1", 1, ((1, 1),), closes="model-1"),)


def test_a_run_that_hears_of_an_interrupt_from_the_call_applies_the_message_and_hears_its_order_no_more() -> None:
    state = after(NEW, ModelInterrupted("model-1", by=((1, 1),)))
    assert wanted(state) == (CallModel("model-2", 2, ((1, 1),)),)
    assert keys(after(state, told(1, "message", delivery="interrupt"))) == ["model-2"]


def test_a_message_that_interrupts_leaves_tools_at_work() -> None:
    assert keys(after(NEW, answer("read"), told(1, "message", delivery="interrupt"))) == ["tool-c0"]


# Approvals, questions, client tools --------------------------------------------------------------------


def test_a_call_that_asks_waits_and_the_others_go_on() -> None:
    state = going(after(NEW, asking("approval", "", "question")))
    assert keys(state) == ["tool-c1"]
    assert status(state) == ("running", "")
    state = after(state, *answered("c1"))
    assert status(state) == ("requires_action", "approval, question")
    decision = decide(state, 0)
    assert isinstance(decision, InFlight)
    assert decision.wake_at_ms == 500


def test_a_run_says_what_it_waits_for() -> None:
    state = going(after(NEW, asking("approval", "client_tool")))
    event = state.outbox[-1]
    assert event.type == "run.requires_action"
    assert event.data["reason"] == "approval, client_tool"
    assert event.data["actions"] == [
        {"type": "approval", "call_id": "c0", "tool": "read"},
        {"type": "client_tool", "call_id": "c1", "tool": "read"},
    ]


def test_an_approved_call_runs_and_one_that_is_answered_does_not() -> None:
    state = after(NEW, asking("approval", "question"), told(1, "approve", call_id="c0"))
    assert keys(state) == ["tool-c0"]
    state = after(state, told(2, "answer", call_id="c1"), *answered("c0"), Recorded("record-2"))
    assert keys(state) == ["model-2"]


def test_an_approval_acts_once_however_often_it_comes() -> None:
    state = after(NEW, asking("approval"), told(1, "approve", call_id="c0"), *answered("c0"))
    again = after(state, told(1, "approve", call_id="c0"), told(2, "approve", call_id="c0"))
    assert keys(again) == keys(state)


def test_an_approved_client_tool_goes_to_the_client_who_has_his_own_time() -> None:
    state = after(NEW, asking("approval"), told(1, "approve", call_id="c0", expires_ms=900))
    assert status(state, 600) == ("requires_action", "client_tool")
    assert [action for action in wanted(state, 900) if isinstance(action, SettleAsk)] == [
        SettleAsk("settle-c0-1", "c0", 1, "read")
    ]


def test_a_decision_that_comes_before_the_report_of_its_question_is_not_lost() -> None:
    early = after(
        NEW, told(1, "approve", call_id="c0"), told(2, "answer", call_id="c1"), asking("approval", "question")
    )
    assert keys(early) == ["tool-c0"]


def test_a_decision_comes_early_even_when_no_call_is_in_flight() -> None:
    """A frozen worker may file an answer after the run was told that the budget is reached."""
    state = after(budgeted("pause"), BudgetReached("model-1", "max_tokens"), told(1, "approve", call_id="c0"))
    assert keys(after(state, told(2, "limits"), asking("approval"))) == ["tool-c0"]


def test_words_about_calls_that_never_come_do_not_pile_up() -> None:
    state = NEW
    for number in range(1, 500):
        state = evolve(state, told(number, "answer", call_id=f"old{number}"))
    assert len(state.early) <= 100
    assert after(state, answer("read")).early == ()


def test_what_was_asked_is_settled_when_its_time_is_over() -> None:
    state = going(after(NEW, asking("approval")))
    assert [action for action in wanted(state, 500) if isinstance(action, SettleAsk)] == [
        SettleAsk("settle-c0-0", "c0", 1, "read")
    ]
    assert keys(after(state, AskSettled("settle-c0-0", "c0", "approved"), now_ms=500), 500) == ["tool-c0"]
    assert keys(after(state, AskSettled("settle-c0-0", "c0", "answered"), now_ms=500), 500) == ["model-2"]


def test_an_escalated_approval_waits_as_long_again() -> None:
    state = after(going(after(NEW, asking("approval"))), AskSettled("settle-c0-0", "c0", "escalated", 900), now_ms=500)
    assert status(state, 600) == ("requires_action", "approval")
    assert keys(state, 900) == ["settle-c0-1"]


def test_a_policy_may_end_the_run_when_nobody_decides() -> None:
    state = after(going(after(NEW, asking("approval"))), AskSettled("settle-c0-0", "c0", "failed"), now_ms=500)
    ended = after(state, Recorded("record-2"), Recorded("record-3"), now_ms=500)
    assert outcome(ended).failure is not None
    assert outcome(ended).failure.call_id == "c0"  # type: ignore[union-attr]


def test_an_approval_that_comes_during_its_expiry_beats_the_escalation() -> None:
    state = going(going(after(NEW, asking("approval"))), 500)
    state = after(state, told(1, "approve", call_id="c0"), now_ms=500)
    late = after(state, AskSettled("settle-c0-0", "c0", "escalated", 900), now_ms=500)
    assert keys(late, 600) == ["tool-c0"]


def test_an_expiry_that_is_settled_after_the_turn_went_on_changes_nothing() -> None:
    state = going(going(after(NEW, asking("approval"))), 500)
    state = after(state, told(1, "answer", call_id="c0"), now_ms=500)
    late = after(state, AskSettled("settle-c0-0", "c0", "escalated", 900), now_ms=500)
    assert keys(late, 600) == ["model-2"]


def test_a_person_says_what_shall_become_of_an_unknown_outcome() -> None:
    state = after(NEW, answer("write"), ToolParked("tool-c0", "c0", 500))
    assert status(state) == ("requires_action", "unknown_outcome")
    assert keys(after(state, told(1, "approve", call_id="c0"))) == ["tool-c0-1"]
    assert keys(after(state, told(1, "answer", call_id="c0"))) == ["model-2"]


def test_a_decision_about_an_unknown_outcome_may_come_before_the_report_that_it_is_unknown() -> None:
    state = after(NEW, answer("write"), told(1, "approve", call_id="c0"), ToolParked("tool-c0", "c0", 500))
    assert keys(state) == ["tool-c0-1"]


# Status, pause, cancel ----------------------------------------------------------------------------------


def test_a_paused_run_ends_what_it_has_begun_and_begins_nothing() -> None:
    state = after(NEW, answer("write", "write"), told(1, "pause", reason="ann"))
    assert keys(state) == ["tool-c0"]
    assert status(state) == ("running", "")
    state = after(state, *answered("c0"))
    assert (wanted(state), status(state)) == ((), ("paused", "ann"))
    assert keys(after(state, told(2, "resume"))) == ["tool-c1"]


def test_a_status_is_told_once_and_again_when_its_reason_changes() -> None:
    state = going(after(NEW, asking("approval")))
    assert untold(state, decide(state, 0)) is None
    state = after(state, told(1, "approve", call_id="c0", expires_ms=900))
    news = untold(state, decide(state, 0))
    assert news is not None
    assert (news.status, news.reason) == ("requires_action", "client_tool")


def test_a_cancel_calls_off_the_model_and_is_told_at_once() -> None:
    assert wanted(after(NEW, told(1, "cancel", reason="stop"))) == (Record("record-2"),)


def test_a_run_cancelled_before_its_first_answer_has_nothing_to_say() -> None:
    state = after(NEW, CancelRequested("stop"), Recorded("record-2"))
    assert wanted(state) == ()
    assert outcome(after(state, ActionCancelled("model-1"))) == Outcome("cancelled", "stop")


def test_a_cancelled_run_says_its_last_words_when_what_was_called_off_has_ended() -> None:
    state = after(NEW, answer("read"), told(1, "cancel", reason="stop"), Recorded("record-2"))
    assert wanted(state) == ()
    state = after(state, ActionCancelled("tool-c0"))
    assert wanted(state) == (CallModel("wrap-up-2", 2, wrap_up=True),)
    assert outcome(after(state, ModelResponded("wrap-up-2", "end", Usage()))) == Outcome("cancelled", "stop")


def test_whoever_cancels_twice_does_not_want_to_hear_last_words() -> None:
    state = after(NEW, answer("read"), told(1, "cancel"), Recorded("record-2"), ActionCancelled("tool-c0"))
    state = after(state, told(2, "cancel"))
    assert wanted(state) == ()
    assert outcome(after(state, ActionCancelled("wrap-up-2"))) == Outcome("cancelled", "cancelled")


def test_last_words_that_cannot_be_had_change_nothing_about_the_end() -> None:
    state = after(NEW, answer("read"), told(1, "cancel"), Recorded("record-2"), ActionCancelled("tool-c0"))
    assert outcome(after(state, BudgetReached("wrap-up-2", "max_tokens"))).status == "cancelled"
    assert outcome(after(state, ModelFailed("wrap-up-2", Failure("model_error", "no")))).status == "cancelled"


def test_a_run_that_has_used_its_turns_has_none_left_for_last_words() -> None:
    state = after(limited(max_turns=1), answer("read"), told(1, "cancel"), Recorded("record-2"))
    assert outcome(after(state, ActionCancelled("tool-c0"))).status == "cancelled"


def test_a_change_of_limits_does_not_make_a_cancelled_run_speak_twice() -> None:
    state = after(NEW, answer("read"), told(1, "cancel"), ActionCancelled("tool-c0"), told(2, "limits"))
    state = after(state, ModelResponded("wrap-up-2", "end", Usage()), told(3, "limits"), Recorded("record-2"))
    assert outcome(state).status == "cancelled"


# Limits ------------------------------------------------------------------------------------------------


def test_calls_beyond_max_tool_calls_are_refused_and_the_model_goes_on() -> None:
    state = after(limited(max_tool_calls=1), answer("read", "read"))
    assert keys(state) == ["tool-c0", "answer-c1"]
    assert keys(after(state, *answered("c0"), ToolAnswered("answer-c1", "c1"))) == ["model-2"]


def test_a_limit_that_is_lowered_and_raised_again_gives_no_calls_away() -> None:
    state = after(limited(max_tool_calls=3), answer("read", "read"), *answered("c0", "c1"))
    state = after(state, told(1, "limits", limits=Limits(max_tool_calls=1)), answer("read", turn=2))
    state = after(state, ToolAnswered("answer-c0", "c0"), told(2, "limits", limits=Limits(max_tool_calls=3)))
    assert keys(after(state, answer("read", "read", turn=3))) == ["tool-c0", "answer-c1"]


def test_people_are_asked_no_more_often_than_allowed() -> None:
    state = after(limited(max_questions=1), asking("question", "question"))
    assert [action.call_id for action in wanted(state) if isinstance(action, AnswerCall)] == ["c1"]


def test_the_budget_of_a_tool_holds_within_one_batch() -> None:
    spec = replace(SPEC, tools=(replace(READ, max_calls=2),))
    assert keys(after(begin(spec), answer("read", "read", "read"))) == ["tool-c0", "tool-c1", "answer-c2"]


def test_a_tool_over_a_budget_that_steers_runs_and_is_told_by_how_much() -> None:
    spec = replace(SPEC, tools=(replace(READ, max_calls=1, on_exceed="steer"),))
    actions = wanted(after(begin(spec), answer("read", "read", "read")))
    assert [action.over for action in actions if isinstance(action, CallTool)] == [0, 1, 2]


def test_a_rate_limit_lets_calls_start_one_window_after_the_other_also_within_a_batch() -> None:
    spec = replace(SPEC, tools=(replace(READ, rates=(0,)),), rate_limits=(RateLimit(2, 1.0),))
    state = after(begin(spec), answer("read", "read", "read"), now_ms=100)
    assert keys(state, 100) == ["tool-c0", "tool-c1"]
    state = after(state, *answered("c0", "c1"), now_ms=100)
    decision = decide(state, 1_099)
    assert isinstance(decision, InFlight)
    assert (decision.actions, decision.status, decision.wake_at_ms) == ((), "waiting", 1_100)
    assert keys(state, 1_100) == ["tool-c2"]


def test_a_call_that_waits_for_its_rate_limit_holds_nobody_up() -> None:
    spec = replace(SPEC, tools=(replace(WRITE, rates=(0,)), READ), rate_limits=(RateLimit(1, 1.0),))
    state = after(begin(spec), answer("write", "write", "read"), *answered("c0"))
    assert keys(state) == ["tool-c2"]


def test_the_model_hears_that_the_results_of_a_turn_were_too_large() -> None:
    state = after(limited(tool_output_bytes_per_turn=100), answer("read"), ToolAnswered("tool-c0", "c0", bytes=101))
    assert wanted(state) == (CallModel("model-2", 2, tool_output_bytes=101),)
    state = after(limited(tool_output_bytes_per_turn=100), answer("read"), ToolAnswered("tool-c0", "c0", bytes=100))
    assert wanted(state) == (CallModel("model-2", 2),)


def test_a_run_that_has_used_its_turns_ends_incomplete() -> None:
    state = after(limited(max_turns=1), answer("read"), *answered("c0"))
    assert outcome(state) == Outcome("incomplete", "max_turns")


def test_with_a_budget_that_wraps_up_the_last_turn_is_for_the_last_words() -> None:
    state = after(budgeted("wrap_up", max_turns=2), answer("read"), *answered("c0"))
    assert wanted(state) == (CallModel("wrap-up-2", 2, wrap_up=True),)
    state = after(state, ModelResponded("wrap-up-2", "end", Usage()))
    assert outcome(state) == Outcome("incomplete", "max_turns")


def test_a_budget_that_is_reached_stops_wraps_up_or_waits() -> None:
    reached = [BudgetReached("model-1", "max_cost_usd")]
    assert outcome(after(budgeted("stop"), *reached)) == Outcome("incomplete", "budget_reached")
    assert keys(after(budgeted("wrap_up"), *reached)) == ["wrap-up-1"]
    state = after(budgeted("pause"), *reached)
    assert (wanted(state), status(state)) == ((), ("paused", "budget_reached: max_cost_usd"))
    assert keys(after(state, told(1, "limits"))) == ["model-1"]


def test_an_answer_that_the_budget_cut_short_reaches_it() -> None:
    cut = ModelResponded("model-1", "max_output_tokens", Usage(), limit="max_tokens")
    assert keys(after(budgeted("wrap_up"), cut)) == ["wrap-up-2"]


def test_last_words_that_have_begun_are_the_last_whatever_becomes_of_the_limits() -> None:
    state = going(after(budgeted("wrap_up"), BudgetReached("model-1", "max_tokens")))
    for order in (told(1, "limits"), told(1, "limits", on_limit="pause", limits=Limits(max_turns=500))):
        raised = after(state, order)
        assert keys(raised) == ["wrap-up-1"]
        assert outcome(after(raised, ModelResponded("wrap-up-1", "end", Usage()))).stop_reason == "budget_reached"


def test_a_limit_raised_while_the_last_call_is_in_flight_does_not_start_another_beside_it() -> None:
    state = going(after(budgeted("wrap_up", max_turns=2), answer("read"), *answered("c0")))
    assert keys(after(state, told(1, "limits", limits=Limits(max_turns=50)))) == ["wrap-up-2"]
