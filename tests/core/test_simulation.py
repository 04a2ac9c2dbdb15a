"""Whole runs in a hostile world: see ``simulation.py`` for the world, ``outside.py``, ``kin.py`` and ``money.py``
for the promises."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.actions import InFlight
from perdure.core.decide import decide
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import CallAsked, Happening, ModelResponded, Order, Started, ToolAnswered
from perdure.core.spec import Limits, RunSpec, ToolRule
from perdure.core.state import RunState, Usage
from tests.core.simulation import STATE_JSON, World, main


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.randoms(use_true_random=False))
def test_a_run_keeps_every_promise_whatever_the_world_does(chance: Random) -> None:
    World(chance).run()


def test_a_thousand_seeded_runs_break_no_promise() -> None:
    assert main(["--seeds", "1000"]) == 0


def test_two_thousand_runs_with_budgets_never_spend_more_than_they_were_given() -> None:
    """Random limits, prices, retries, crashes, parallel tools, and vendors that use more than they may."""
    assert main(["--budget", "--seeds", "2000"]) == 0


def test_a_thousand_runs_that_sleep_wait_and_poll_break_no_promise() -> None:
    assert main(["--time", "--seeds", "1000"]) == 0


def test_seven_hundred_runs_with_children_leave_no_orphan_and_hold_their_budgets() -> None:
    """Children that end in every order, early, late and never heard of; messages, pauses, cancels in between."""
    assert main(["--family", "--seeds", "700"]) == 0


def test_the_state_of_a_run_of_2000_turns_is_as_small_as_that_of_60() -> None:
    after_60, after_2000 = (len(STATE_JSON.dump_json(_state_after(turns))) for turns in (60, 2_000))
    digits = 60  # the counters have more digits
    assert after_2000 <= after_60 + digits
    assert after_2000 < 3_000


def test_three_thousand_messages_that_come_out_of_order_leave_a_state_as_small_as_one() -> None:
    def state_after(numbers: list[int]) -> int:
        state = begin(RunSpec("run_01234567", "a", "m", deadline_ms=10**12))
        for number in numbers:
            state = evolve(state, Order(number, "message"))
        return len(STATE_JSON.dump_json(state))

    shuffled = list(range(1, 3_001))
    Random(7).shuffle(shuffled)
    assert state_after(shuffled) <= state_after([1]) + 20


def _state_after(turns: int) -> RunState:
    """Each turn: a message, an answer with two calls, their results. At the quiet point after it."""
    limits = Limits(max_turns=turns + 1, max_tool_calls=2 * turns)
    state = begin(
        RunSpec("run_01234567", "a", "m", deadline_ms=10**12, limits=limits, tools=(ToolRule("read", parallel=True),))
    )
    for turn in range(1, turns + 1):
        state = evolve(state, Order(turn, "message"))
        calls = tuple(CallAsked(f"call_01234567_{turn}_{index}", "read") for index in range(2))
        state = _done(state, ModelResponded(f"model-{turn}", "tool_calls", Usage(1_000, 100, cost_micros=500), calls))
        for call in calls:
            state = _done(state, ToolAnswered(f"tool-{call.call_id}", call.call_id))
    assert state.turn == turns
    return state


def _done(state: RunState, happening: Happening) -> RunState:
    decision = decide(state, 0)
    assert isinstance(decision, InFlight)
    for action in decision.actions:
        if action.key not in state.in_flight:
            state = evolve(state, Started(action))
    return evolve(state, happening)
