"""What the core decides about calls that lead other runs: by example, and in every order in which news may come."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from perdure.core.actions import AnswerCall, CallFamily, CallModel, Finish, SettleAsk
from perdure.core.budget import Account, Amount, Budget, Reached, left_to_give, slice_of
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import (
    BudgetReached,
    CallAsked,
    CancelRequested,
    FamilyCalled,
    Happening,
    ModelResponded,
    Order,
    Recorded,
    ToolAnswered,
)
from perdure.core.spec import RateLimit, RunSpec, ToolRule
from perdure.core.state import Outcome, RunState, Usage
from tests.core.test_decide import after, going, keys, status, wanted

SPAWN = ToolRule("spawn_agent", parallel=True, answered_by="family")
SPEC = RunSpec("run_1", "agent", "scripted/tour", 10_000, tools=(SPAWN, ToolRule("read", parallel=True)))
NEW = begin(SPEC)
END = ModelResponded("model-2", "end", Usage())


def leads(*calls: str, tool: str = "spawn_agent") -> ModelResponded:
    return ModelResponded("model-1", "tool_calls", Usage(), tuple(CallAsked(call, tool) for call in calls))


def waits(call: str) -> FamilyCalled:
    return FamilyCalled(f"tool-{call}", call, expires_ms=900, child=True)


def handle(call: str) -> FamilyCalled:
    return FamilyCalled(f"tool-{call}", call, child=True)


def order(number: int, verb: Any, **fields: Any) -> Order:
    return Order(number, verb, **fields)


def test_a_call_about_other_runs_is_carried_out_by_the_journal() -> None:
    state = after(NEW, leads("a", "b"))
    assert wanted(state) == tuple(CallFamily(f"tool-{call}", call, 1, SPAWN) for call in ("a", "b"))


def test_a_call_that_waits_for_its_child_goes_on_when_the_child_has_ended() -> None:
    state = going(after(NEW, leads("a"), waits("a")))
    assert status(state) == ("waiting", "children")
    assert state.children == ("a",)
    state = after(state, order(1, "child_ended", call_id="a"), order(2, "answer", call_id="a"))
    assert (keys(state), state.children) == (["model-2"], ())


def test_a_child_that_ends_before_its_start_is_heard_of_is_not_waited_for() -> None:
    state = after(NEW, leads("a"), order(1, "child_ended", call_id="a"), order(2, "answer", call_id="a"), waits("a"))
    assert (keys(state), state.children, state.ended_early) == (["model-2"], (), ())


def test_a_child_that_ends_while_its_call_is_to_be_carried_out_again_is_not_taken_for_alive() -> None:
    limited = replace(SPAWN, rates=(0,))
    state = after(
        begin(replace(SPEC, tools=(limited,), rate_limits=(RateLimit(1, 1.0),))), leads("a"), waits("a"),
        order(1, "retry_call", call_id="a"), order(2, "child_ended", call_id="a"),
    )  # fmt: skip
    assert (keys(state), state.children) == ([], ())
    state = evolve(going(state, 2_000), FamilyCalled("tool-a-2", "a", child=True))
    assert (keys(state, 2_000), state.children, state.ended_early) == (["model-2"], (), ())


def test_an_attempt_that_tells_of_a_child_after_its_end_is_not_believed() -> None:
    state = after(NEW, leads("a"), order(1, "retry_call", call_id="a"))
    second = FamilyCalled("tool-a-1", "a", child=True)
    state = after(state, second, order(2, "child_ended", call_id="a"), waits("a"))
    assert (keys(state), state.children, state.ended_early) == (["model-2"], (), ())


def test_the_time_of_a_wait_is_settled_by_the_journal() -> None:
    state = after(NEW, leads("a"), waits("a"))
    assert [action for action in wanted(state, 900) if isinstance(action, SettleAsk)] == [
        SettleAsk("settle-a-1", "a", 1, "spawn_agent")
    ]


def test_a_message_ends_the_wait_for_children_and_says_that_they_go_on() -> None:
    state = after(NEW, leads("a"), waits("a"), order(1, "message", delivery="steer"))
    (action,) = [action for action in wanted(state) if isinstance(action, AnswerCall)]
    assert (action.call_id, action.code) == ("a", "children_go_on")


def test_word_of_a_child_skips_nothing_and_is_read_with_the_next_call() -> None:
    state = after(NEW, leads("a", tool="read"), order(1, "message", delivery="note"))
    assert keys(state) == ["tool-a"]
    state = after(state, ToolAnswered("tool-a", "a"))
    assert [action for action in wanted(state) if isinstance(action, CallModel)] == [CallModel("model-2", 2, ((1, 1),))]
    assert after(state, END).notes == ()


def test_word_of_a_child_that_comes_before_the_end_is_answered() -> None:
    state = evolve(after(NEW, leads("a"), handle("a"), END), order(1, "message", delivery="note"))
    assert keys(state) == ["model-3"]


def test_a_run_does_not_end_for_its_budget_while_children_hold_some_of_it() -> None:
    state = after(NEW, leads("a"), handle("a"), BudgetReached("model-2", "max_cost_usd"))
    assert status(state) == ("waiting", "children")
    state = after(state, order(1, "child_ended", call_id="a"))
    assert keys(state) == ["model-2"]


def test_a_run_that_is_cancelled_waits_for_children_that_were_told_to_end_too() -> None:
    state = after(NEW, leads("a"), waits("a"), order(1, "cancel", reason="enough"))
    assert (keys(state), status(state)) == ([], ("cancelling", "enough"))
    assert keys(after(state, order(2, "child_ended", call_id="a"))) == ["wrap-up-2"]
    state = going(evolve(state, order(2, "cancel")))
    for record in state.in_flight:
        state = evolve(state, Recorded(record))
    (finish,) = [one for one in wanted(state) if isinstance(one, Finish)]
    assert finish.outcome == Outcome("cancelled", "enough")


def test_a_run_that_is_cancelled_in_temporal_itself_does_not_wait_for_children_that_heard_nothing() -> None:
    state = after(NEW, leads("a"), waits("a"), CancelRequested("by hand"))
    assert keys(state) == ["wrap-up-2"]


def test_a_run_whose_last_answer_is_there_ends_whatever_its_children_do() -> None:
    state = after(NEW, leads("a"), handle("a"), END)
    assert isinstance(wanted(state)[0], Finish)


@pytest.mark.parametrize("seed", range(300))
def test_in_whatever_order_news_of_children_comes_nothing_hangs_and_nothing_is_lost(seed: int) -> None:
    """Reports of activities, ends, answers and words, shuffled, each perhaps twice."""
    chance = Random(seed)
    calls = [f"c{number}" for number in range(chance.randrange(1, 6))]
    state: RunState = going(after(NEW, leads(*calls)))
    news: list[Happening] = []
    number = 0
    for call in calls:
        foreground = chance.random() < 0.5
        news.append(waits(call) if foreground else handle(call))
        number += 1
        news.append(order(number, "child_ended", call_id=call))
        number += 1
        told = order(number, "answer", call_id=call) if foreground else order(number, "message", delivery="note")
        news.append(told)
    notes = sum(isinstance(one, Order) and one.verb == "message" for one in news)
    news += [one for one in news if isinstance(one, Order) and chance.random() < 0.3]
    chance.shuffle(news)
    applied = 0
    turn = 2
    for one in (*news, None, None, None):
        if one is not None:
            state = evolve(state, one)
        state = going(state)
        for record in [key for key in state.in_flight if key.startswith("record-")]:
            state = going(evolve(state, Recorded(record)))
        while f"model-{turn}" in state.in_flight and (one is None or chance.random() < 0.5):
            applied += sum(last - first + 1 for first, last in state.applying)
            state = going(evolve(state, ModelResponded(f"model-{turn}", "end", Usage())))
            turn += 1
            if state.finishing:
                break
        if state.finishing:
            break
    assert state.finishing, "a run hangs"
    late = {one.number for one in news if isinstance(one, Order) and one.verb == "message"} if notes else set()
    assert applied <= len(late)
    state = evolve(state, Recorded("finish"))
    assert state.status == "completed"
    assert state.open_calls == ()


# Slices ------------------------------------------------------------------------------------------------


def test_a_slice_is_what_is_wanted_or_a_quarter_of_what_is_left() -> None:
    parent = Budget(max_cost_micros=1_000, max_tokens=400, on_limit="stop")
    used = Account(Amount(100, 40, 0), Amount(100, 40, 0))
    assert slice_of(parent, used, Budget(), Budget()) == (Budget(200, 80, None), Amount(200, 80, 0))
    found = slice_of(parent, used, Budget(max_cost_micros=800), Budget(max_tokens=50, on_limit="pause"))
    assert found == (Budget(800, 50, None, "pause"), Amount(800, 50, 0))
    assert slice_of(parent, used, Budget(max_cost_micros=801), Budget()) == Reached("max_cost_usd")


def test_what_is_kept_aside_for_the_last_word_is_not_given_away() -> None:
    parent = Budget(max_cost_micros=1_000)
    assert left_to_give(parent, Account()).max_cost_micros == 900
    assert slice_of(parent, Account(), Budget(max_cost_micros=901), Budget()) == Reached("max_cost_usd")


def test_a_limit_that_only_the_child_has_reserves_nothing() -> None:
    found = slice_of(Budget(max_tokens=100, on_limit="stop"), Account(), Budget(max_cost_micros=5), Budget())
    assert found == (Budget(5, 25, None), Amount(0, 25, 0))
