"""Stored policies at work: their defaults, their conditions, a run's own beside the agent's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.policy import ApprovalTerms, Ruling
from perdure.core.spec import Effect
from perdure.definitions import AgentDefinition, ToolDescription
from perdure.tools.policy import compile_policy, normalized, policy_of, ruling, withheld, withheld_words
from perdure.tools.policy_check import policy_problems

STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


def a_tool(name: str = "pay", effect: Effect = "once", *, approval: bool = False) -> ToolDescription:
    return ToolDescription(
        name=name,
        description="",
        parameters={"type": "object"},
        effect=effect,
        parallel=False,
        timeout_seconds=60,
        max_attempts=1,
        approval=approval,
        answered_by="worker",
    )


def ruled(policy: Any, arguments: dict[str, Any], tool: ToolDescription | None = None, run: Any = None) -> Ruling:
    return ruling(compile_policy(policy, run), tool or a_tool(), arguments)


def test_an_agent_without_a_policy_may_use_its_tools_behind_the_default_guardrails() -> None:
    assert normalized(None) == normalized({}) == {
        "rules": [],
        "rate_limits": [],
        "default": "allow",
        "guardrails": ["destructive_commands", "secrets"],
        "unknown_outcome": "tell",
        "repeat_failures_max": 3,
    }  # fmt: skip
    assert ruled(None, {"amount": 3}) == Ruling("allow", "default")


def test_what_a_runs_policy_leaves_out_adds_nothing_to_the_agents() -> None:
    left_out = normalized({}, of_run=True)
    assert (left_out["guardrails"], left_out["repeat_failures_max"], left_out["default"]) == ([], 0, "allow")
    agent = {"guardrails": [], "repeat_failures_max": 7}
    both, alone = compile_policy(agent, {}), compile_policy(agent)
    assert both.repeat_failures_max == alone.repeat_failures_max == 7
    assert ruling(both, a_tool(), {"c": "rm -rf /"}).action == "allow"


def test_every_default_of_a_rule_is_filled_in() -> None:
    whole = normalized({"rules": [{"tool": "pay", "action": "ask"}, {"tool": "x", "action": "deny", "effect": None}]})
    assert whole["rules"] == [
        {
            "tool": "pay",
            "action": "ask",
            "reason": "",
            "approval": {"expires_seconds": 259_200.0, "on_expiry": "deny", "quorum": 1, "four_eyes": False},
        },
        {"tool": "x", "action": "deny", "reason": ""},
    ]


RULES = st.lists(
    st.fixed_dictionaries(
        {"tool": st.sampled_from(["*", "pay", "read_*"]), "action": st.sampled_from(["allow", "ask", "deny"])},
        optional={
            "effect": st.sampled_from(["read", "idempotent", "once"]),
            "when": st.sampled_from([{"required": ["amount"]}, {"properties": {"amount": {"maximum": 10}}}]),
            "matches": st.sampled_from(["1", "rent$"]),
            "reason": st.sampled_from(["", "money"]),
        },
    ),
    max_size=5,
)
POLICIES = st.fixed_dictionaries(
    {"rules": RULES},
    optional={
        "default": st.sampled_from(["allow", "ask", "deny"]),
        "guardrails": st.sampled_from([[], ["secrets"], ["destructive_commands"]]),
        "unknown_outcome": st.sampled_from(["tell", "ask"]),
        "repeat_failures_max": st.integers(0, 5),
    },
)
CALLS = st.fixed_dictionaries(
    {}, optional={"amount": st.integers(0, 20), "for": st.sampled_from(["rent", "rm -rf /", "fun 1"])}
)
TOOLS = st.builds(
    a_tool,
    st.sampled_from(["pay", "read_file", "x"]),
    st.sampled_from(["read", "idempotent", "once"]),
    approval=st.booleans(),
)


@given(POLICIES, st.booleans())
def test_filling_in_defaults_twice_changes_nothing_and_rules_as_before(policy: dict[str, Any], of_run: bool) -> None:
    whole = normalized(policy, of_run=of_run)
    assert normalized(whole, of_run=of_run) == whole
    assert [p for p in policy_problems(whole, [a_tool(), a_tool("read_file")]) if p.code == "invalid"] == []


@given(POLICIES, POLICIES, CALLS, TOOLS)
def test_a_run_can_only_narrow_what_its_agent_may_do(
    agent: dict[str, Any], run: dict[str, Any], arguments: dict[str, Any], tool: ToolDescription
) -> None:
    alone, both = compile_policy(agent), compile_policy(agent, run)
    assert STRICTNESS[ruling(both, tool, arguments).action] >= STRICTNESS[ruling(alone, tool, arguments).action]
    assert both.asks_about_unknown >= alone.asks_about_unknown
    if alone.repeat_failures_max:
        assert 0 < both.repeat_failures_max <= alone.repeat_failures_max


def test_a_rule_applies_where_the_arguments_fit_its_schema() -> None:
    policy: dict[str, Any] = {
        "rules": [
            {
                "tool": "pay",
                "action": "deny",
                "when": {"properties": {"amount": {"exclusiveMinimum": 100}}},
                "reason": "too much",
            },
            {"tool": "pay", "action": "ask", "when": {"required": ["amount"]}, "approval": {"quorum": 2}},
        ],
    }
    assert ruled(policy, {"amount": 101}) == Ruling("deny", "rules[0]", "too much")
    # A schema that says nothing about a member that is not there fits it: name what is required.
    assert ruled(policy, {}).rule == "rules[0]"
    policy["rules"][0]["when"]["required"] = ["amount"]
    assert ruled(policy, {"amount": 3}) == Ruling("ask", "rules[1]", "", ApprovalTerms(quorum=2))
    assert ruled(policy, {}) == Ruling("allow", "default")


def test_a_rule_applies_where_its_pattern_is_found_in_any_string() -> None:
    policy = {"rules": [{"tool": "*", "action": "deny", "matches": r"(?i)\binternal\b"}]}
    assert ruled(policy, {"to": [{"text": "our INTERNAL plan"}]}).action == "deny"
    assert ruled(policy, {"to": "international"}).action == "allow"


def test_all_conditions_of_a_rule_must_hold() -> None:
    policy = {"rules": [{"tool": "*", "action": "deny", "matches": "rent", "when": {"required": ["amount"]}}]}
    assert ruled(policy, {"for": "rent", "amount": 1}).action == "deny"
    assert ruled(policy, {"for": "rent"}).action == "allow"
    assert ruled(policy, {"amount": 1}).action == "allow"


def test_arguments_that_cannot_be_compared_count_for_the_safe_side() -> None:
    """A lone surrogate is no text: nobody can tell whether it fits."""
    odd = {"a": "\ud800"}
    schema = {"properties": {"a": {"pattern": "x"}}}
    assert ruled({"rules": [{"tool": "*", "action": "deny", "when": schema}]}, odd).action == "deny"
    allowed = {"rules": [{"tool": "*", "action": "allow", "when": schema}], "default": "deny"}
    assert ruled(allowed, odd).action == "deny"


def test_rules_of_the_run_are_named_as_such() -> None:
    assert ruled({}, {}, run={"rules": [{"tool": "pay", "action": "deny"}]}).rule == "run.rules[0]"
    assert ruled({}, {}, run={"default": "ask"}).rule == "run.default"


def test_a_tool_that_wants_approval_has_it_unless_a_rule_of_the_agent_allows_it() -> None:
    wants = a_tool(approval=True)
    assert ruled(None, {}, wants) == Ruling("ask", "tool", "the tool is declared to need approval")
    assert ruled({"rules": [{"tool": "pay", "action": "allow"}]}, {}, wants).action == "allow"
    assert ruled(None, {}, wants, run={"rules": [{"tool": "pay", "action": "allow"}]}).action == "ask"


def test_a_rule_about_results_says_nothing_about_the_call() -> None:
    policy = {"rules": [{"tool": "*", "action": "deny", "matches_result": "secret plan", "reason": "not for models"}]}
    assert ruled(policy, {"a": "secret plan"}).action == "allow"
    found = withheld(compile_policy(policy), a_tool(), "here is the secret plan")
    assert found == Ruling("deny", "rules[0]", "not for models")
    assert withheld(compile_policy(policy), a_tool(), "nothing") is None
    assert withheld_words(found) == "the call was made, but its result is withheld by rules[0]: not for models"


def test_the_first_rule_about_results_that_matches_wins_and_a_run_can_only_withhold_more() -> None:
    deny = {"tool": "*", "action": "deny", "matches_result": "plan"}
    allow = {"tool": "read_*", "action": "allow", "matches_result": "plan for all"}
    agent = {"rules": [allow, deny]}
    shown = "the plan for all"
    assert withheld(compile_policy(agent), a_tool("read_file"), shown) is None
    assert withheld(compile_policy(agent), a_tool("pay"), shown) is not None
    assert withheld(compile_policy(agent, {"rules": [deny]}), a_tool("read_file"), shown) is not None
    assert withheld(compile_policy({"rules": [deny]}, {"rules": [allow]}), a_tool("read_file"), shown) is not None


def test_a_rule_about_results_may_look_at_the_arguments_as_well() -> None:
    policy = compile_policy(
        {
            "rules": [
                {
                    "tool": "*",
                    "action": "deny",
                    "matches_result": ".",
                    "when": {"properties": {"path": {"const": ".env"}}, "required": ["path"]},
                }
            ]
        }
    )
    assert withheld(policy, a_tool(), "A=1", {"path": ".env"}) is not None
    assert withheld(policy, a_tool(), "A=1", {"path": "README.md"}) is None


def test_the_stricter_word_about_failures_and_unknown_outcomes_holds() -> None:
    policy = compile_policy({"repeat_failures_max": 5}, {"repeat_failures_max": 2, "unknown_outcome": "ask"})
    assert (policy.repeat_failures_max, policy.asks_about_unknown) == (2, True)
    assert compile_policy({"repeat_failures_max": 0}).repeat_failures_max == 0
    assert compile_policy({"repeat_failures_max": 0}, {"repeat_failures_max": 4}).repeat_failures_max == 4


def test_rate_limits_of_the_agent_and_of_the_run_hold_together() -> None:
    one = {"tool": "read_*", "max_calls": 10, "window_seconds": 1}
    other = {"tool": "*", "max_calls": 100, "window_seconds": 60}
    policy = compile_policy({"rate_limits": [one]}, {"rate_limits": [other]})
    assert [limit["max_calls"] for limit in policy.rate_limits] == [10, 100]
    assert policy.rates_of("read_file") == (0, 1)
    assert policy.rates_of("pay") == (1,)


def test_equal_policies_are_made_ready_once() -> None:
    definition = AgentDefinition(
        name="a",
        model="m",
        instructions="",
        tools=[],
        model_settings={},
        limits={},
        policy=normalized({"default": "ask"}),
    )
    assert policy_of(definition) is compile_policy({"default": "ask"})


@pytest.mark.parametrize("agent", [None, {}, {"rules": None, "default": None, "guardrails": None}])
def test_null_is_not_given(agent: Any) -> None:
    assert compile_policy(agent) is compile_policy(None)
