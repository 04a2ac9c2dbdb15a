"""What the core does when another agent takes a run over: the last call of its turn, other rules from the next one."""

from __future__ import annotations

from dataclasses import replace

from perdure.contract import AgentRunInput
from perdure.core.actions import CallFamily, CallModel
from perdure.core.evolve import begin, evolve
from perdure.core.happenings import FamilyCalled, Order
from perdure.core.spec import Limits, RateLimit, RunSpec, ToolRule
from perdure.core.state import RunState
from perdure.runs import DATA_CONVERTER
from tests.core.test_decide import after, answer, answered, asking, going, keys, wanted

HAND = ToolRule("transfer_to_agent", "idempotent", answered_by="family", last=True)
READ, WRITE = ToolRule("read", parallel=True, rates=(0,)), ToolRule("write", "idempotent")
OF_RUN = RateLimit(2, 60, "read")
SPEC = RunSpec(
    "run_1", "reception", "openai/one", 10_000, tools=(READ, HAND), rate_limits=(RateLimit(9, 9, "*"), OF_RUN)
)
NEXT = RunSpec(
    "run_1", "billing", "openai/two", 77, limits=Limits(max_turns=1), tools=(WRITE,), rate_limits=(OF_RUN,), transfers=1
)
NEW = begin(SPEC)


def handed(call: str, spec: RunSpec | None = NEXT) -> FamilyCalled:
    return FamilyCalled(f"tool-{call}", call, spec=spec)


def test_a_call_that_hands_over_waits_until_all_others_of_its_turn_are_answered() -> None:
    state = going(after(NEW, answer("transfer_to_agent", "read", "read")))
    assert keys(state) == ["tool-c1", "tool-c2"]
    state = going(after(state, *answered("c1")))
    assert keys(state) == ["tool-c2"]
    (action,) = wanted(after(state, *answered("c2")))
    assert action == CallFamily("tool-c0", "c0", 1, HAND)


def test_it_waits_for_people_who_are_asked_about_another_call_of_the_turn_too() -> None:
    state = after(replace(NEW, spec=replace(SPEC, tools=(replace(HAND, name="read"), *SPEC.tools[1:]))), asking(""))
    assert keys(state) == ["tool-c0"], "nothing else is open"
    state = after(NEW, answer("transfer_to_agent", "read"))
    state = replace(
        state, open_calls=(state.open_calls[0], replace(state.open_calls[1], waits="approval", expires_ms=9))
    )
    assert keys(state) == []


def test_the_next_call_is_the_new_agents_and_what_people_have_set_stays() -> None:
    raised = Order(1, "limits", limits=Limits(max_turns=55), deadline_ms=20_000)
    state = after(NEW, answer("transfer_to_agent"), raised, handed("c0"))
    assert wanted(state) == (CallModel("model-2", 2),)
    spec = state.spec
    assert (spec.agent, spec.model, spec.tools, spec.transfers) == ("billing", "openai/two", (WRITE,), 1)
    assert (spec.limits.max_turns, spec.deadline_ms) == (55, 20_000)
    assert state.next_spec is None


def test_the_rules_of_a_turn_hold_until_all_of_its_calls_are_answered() -> None:
    state = after(NEW, answer("transfer_to_agent", "transfer_to_agent"), handed("c0"))
    assert (state.spec, state.next_spec) == (SPEC, NEXT)
    assert wanted(state) == (CallFamily("tool-c1", "c1", 1, HAND),)
    state = after(state, handed("c1", None))
    assert (state.spec.agent, state.next_spec) == ("billing", None)


def test_a_rate_limit_that_both_agents_have_goes_on_counting() -> None:
    state = replace(NEW, rate_starts=((1, 2), (3, 4)))
    state = after(state, answer("transfer_to_agent"), handed("c0"))
    assert state.rate_starts == ((3, 4),)


def test_news_of_a_hand_over_that_comes_twice_says_nothing_new() -> None:
    state = after(NEW, answer("transfer_to_agent"), handed("c0"))
    assert evolve(state, handed("c0", replace(NEXT, agent="other"))) == state


def test_a_hand_over_that_waits_for_its_turn_to_end_goes_through_continuing_as_new() -> None:
    state = after(NEW, answer("transfer_to_agent", "transfer_to_agent"), handed("c0"))
    carried = AgentRunInput(state.spec, "", state)
    (payload,) = DATA_CONVERTER.payload_converter.to_payloads([carried])
    (back,) = DATA_CONVERTER.payload_converter.from_payloads([payload], [AgentRunInput])
    assert back == carried
    assert isinstance(back.state, RunState)
