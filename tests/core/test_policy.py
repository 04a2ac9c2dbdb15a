"""Rules in order, the strictest of two policies, and what people can and cannot decide."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.policy import (
    ApprovalTerms,
    Policy,
    PolicyAction,
    Rule,
    Ruling,
    covers,
    rule_on,
    shadowed,
    with_decision,
)
from perdure.core.spec import Effect

STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}
NAMES = ["read_file", "read_result", "write_file", "pay", "x"]
ACTIONS: st.SearchStrategy[PolicyAction] = st.sampled_from(["allow", "ask", "deny"])
EFFECTS: st.SearchStrategy[Effect] = st.sampled_from(["read", "idempotent", "once"])
GLOBS = st.one_of(
    st.sampled_from([*NAMES, "*", "read_*", "*_file", "[rw]*", "?", "p?y", "[!r]*"]),
    st.text("ab*?", min_size=1, max_size=5),
)
RULES = st.builds(
    Rule,
    name=st.sampled_from("rst"),
    tool=GLOBS,
    action=ACTIONS,
    effect=st.one_of(st.none(), EFFECTS),
    condition=st.sampled_from(["", "", "holds", "fails"]),
)
POLICIES = st.builds(Policy, rules=st.lists(RULES, max_size=8).map(tuple), default=ACTIONS)
CALLS = st.tuples(st.sampled_from(NAMES), EFFECTS, st.booleans())


def fits(rule: Rule) -> bool:
    return rule.condition == "holds"


def ruled(policies: list[Policy], tool: str = "pay", effect: Effect = "once", *, approval: bool = False) -> Ruling:
    return rule_on(policies, tool, effect, approval=approval, fits=fits)


def test_without_a_policy_every_tool_of_the_agent_may_be_called() -> None:
    assert ruled([]) == Ruling("allow", "default")
    assert ruled([Policy()]) == Ruling("allow", "default")


def test_the_first_rule_that_matches_answers_with_its_name_and_its_reason() -> None:
    terms = ApprovalTerms(quorum=2)
    policy = Policy(
        (
            Rule("rules[0]", "read_*", "allow"),
            Rule("rules[1]", "p*", "ask", reason="money", terms=terms),
            Rule("rules[2]", "*", "deny"),
        )
    )
    assert ruled([policy], "read_file").rule == "rules[0]"
    assert ruled([policy], "pay") == Ruling("ask", "rules[1]", "money", terms)
    assert ruled([policy], "write_file").action == "deny"


def test_a_rule_about_an_effect_class_leaves_other_tools_alone() -> None:
    policy = Policy((Rule("r", "*", "deny", effect="once"),))
    assert ruled([policy], "x", "once").action == "deny"
    assert ruled([policy], "x", "idempotent").action == "allow"


def test_a_rule_whose_condition_does_not_hold_is_passed_over() -> None:
    policy = Policy((Rule("r", "*", "deny", condition="fails"), Rule("s", "*", "ask", condition="holds")))
    assert ruled([policy]).rule == "s"


def test_the_default_says_so_where_no_rule_applies() -> None:
    assert ruled([Policy(default="deny")]) == Ruling("deny", "default", "no rule of the policy applies")


def test_a_tool_declared_to_need_approval_asks_unless_a_rule_of_the_agent_allows_it() -> None:
    assert ruled([Policy()], approval=True).rule == "tool"
    assert ruled([Policy()], approval=True).action == "ask"
    assert ruled([Policy((Rule("r", "pay", "allow"),))], approval=True) == Ruling("allow", "r")
    assert ruled([Policy(default="deny")], approval=True).action == "deny"


def test_a_runs_own_policy_cannot_take_away_an_approval_that_the_tool_demands() -> None:
    assert ruled([Policy(), Policy((Rule("run.rules[0]", "*", "allow"),))], approval=True).action == "ask"


def test_a_runs_own_policy_that_says_nothing_of_a_tool_does_not_bring_its_approval_back() -> None:
    agent = Policy((Rule("rules[0]", "pay", "allow"),))
    assert ruled([agent, Policy()], approval=True) == Ruling("allow", "rules[0]")


@given(POLICIES, POLICIES, CALLS)
def test_a_runs_own_policy_never_makes_an_answer_laxer(
    agent: Policy, run: Policy, call: tuple[str, Effect, bool]
) -> None:
    tool, effect, approval = call
    alone = ruled([agent], tool, effect, approval=approval)
    both = ruled([agent, run], tool, effect, approval=approval)
    assert STRICTNESS[both.action] >= STRICTNESS[alone.action]
    assert STRICTNESS[both.action] >= STRICTNESS[ruled([run], tool, effect).action]
    if both.action == alone.action:
        assert both == alone


@given(POLICIES, CALLS)
def test_the_first_match_wins_whatever_comes_after_it(policy: Policy, call: tuple[str, Effect, bool]) -> None:
    tool, effect, approval = call
    for number, rule in enumerate(policy.rules):
        matches = (
            fnmatchcase(tool, rule.tool)
            and rule.effect in (None, effect)
            and rule.condition in ("", "holds")
        )  # fmt: skip
        if matches:
            cut = Policy(policy.rules[: number + 1], "deny")
            answer = ruled([policy], tool, effect, approval=approval)
            assert (answer.action, answer.rule) == (rule.action, rule.name)
            assert answer == ruled([cut], tool, effect, approval=approval)
            return
    wanted = "ask" if approval and policy.default == "allow" else policy.default
    assert ruled([policy], tool, effect, approval=approval).action == wanted


@given(st.lists(RULES, max_size=8), CALLS)
def test_a_rule_called_unreachable_never_is_the_first_to_match(
    rules: list[Rule], call: tuple[str, Effect, bool]
) -> None:
    tool, effect, _ = call
    named = [Rule(str(n), r.tool, r.action, r.effect, condition=r.condition) for n, r in enumerate(rules)]
    answer = ruled([Policy(tuple(named))], tool, effect)
    assert answer.rule not in {str(later) for later, _ in shadowed(named)}


@given(GLOBS, GLOBS, st.text("ab_*r", max_size=6))
def test_a_glob_that_covers_another_matches_all_that_it_matches(wide: str, narrow: str, name: str) -> None:
    if covers(wide, narrow) and fnmatchcase(name, narrow):
        assert fnmatchcase(name, wide)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([Rule("a", "*", "deny"), Rule("b", "pay", "allow")], [(1, 0)]),
        ([Rule("a", "read_*", "deny"), Rule("b", "read_f*", "allow")], [(1, 0)]),
        ([Rule("a", "read_f*", "deny"), Rule("b", "read_*", "allow")], []),
        ([Rule("a", "?", "deny"), Rule("b", "*", "allow")], []),  # a sign is not a name
        ([Rule("a", "[a*]", "deny"), Rule("b", "*", "allow")], []),
        ([Rule("a", "p?y", "deny"), Rule("b", "pay", "allow")], [(1, 0)]),
        ([Rule("a", "*", "deny", effect="once"), Rule("b", "pay", "allow")], []),
        ([Rule("a", "*", "deny", effect="once"), Rule("b", "pay", "allow", effect="once")], [(1, 0)]),
        ([Rule("a", "*", "deny", condition="x"), Rule("b", "pay", "allow")], []),
        ([Rule("a", "*", "deny", condition="x"), Rule("b", "pay", "allow", condition="x")], [(1, 0)]),
        ([Rule("a", "*", "deny", condition="x"), Rule("b", "pay", "allow", condition="y")], []),
    ],
)  # fmt: skip
def test_rules_that_can_never_apply_are_found(rules: list[Rule], found: list[tuple[int, int]]) -> None:
    assert shadowed(rules) == found


def test_a_decision_that_stands_answers_what_is_asked() -> None:
    asked = Ruling("ask", "rules[0]", "money")
    assert with_decision(asked, "approval apv_1", approved=True) == Ruling("allow", "approval apv_1")
    denied = with_decision(asked, "approval apv_1", approved=False, reason="denied by ann")
    assert denied == Ruling("deny", "approval apv_1", "denied by ann")


@given(st.booleans(), ACTIONS)
def test_nobody_overrules_a_denial(approved: bool, action: PolicyAction) -> None:
    after = with_decision(Ruling(action, "r"), "approval apv_1", approved=approved)
    if action == "deny":
        assert after == Ruling("deny", "r")
    if action == "allow":
        assert after.action == "allow"
