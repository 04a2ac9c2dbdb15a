"""Policies that make no sense are refused before they are stored, each fault with its place."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.definitions import ToolDescription
from perdure.tools.policy_check import RATE_LIMITS_MAX, RULES_MAX, limits_problems, policy_problems
from perdure.tools.registry import build_toolbox

TOOLS: list[ToolDescription] = build_toolbox().describe(["read_file", "read_result", "write_file", "http_get"])


def found(definition: Any) -> list[tuple[str, str]]:
    return [(one.pointer, one.code) for one in policy_problems(definition, TOOLS)]


def rules(*given_rules: dict[str, Any]) -> dict[str, Any]:
    return {"rules": list(given_rules)}


def rates(*limits: tuple[str, int, float]) -> dict[str, Any]:
    return {"rate_limits": [{"tool": t, "max_calls": n, "window_seconds": s} for t, n, s in limits]}


@pytest.mark.parametrize(
    "definition",
    [
        None,
        {},
        {"rules": None, "rate_limits": None, "default": None, "guardrails": None},
        rules({"tool": "*", "action": "deny"}),
        rules({"tool": "read_*", "action": "allow"}, {"tool": "*", "action": "deny", "reason": "only reading"}),
        rules({"tool": "*", "action": "ask", "effect": "once"}),  # a precaution: no tool is of this class yet
        rules({"tool": "http_get", "action": "ask", "when": {"required": ["url"]}, "approval": {"quorum": 2}}),
        rules({"tool": "[rw]*_file", "action": "deny", "matches": r"(?i)\.env\b"}),
        rules({"tool": "*", "action": "deny", "matches_result": "x"}, {"tool": "*", "action": "allow"}),
        rates(("http_get", 10, 1), ("http_get", 100, 60), ("*", 500, 60)),
        {"guardrails": []},
        {"guardrails": ["secrets_in_results"], "unknown_outcome": "ask", "repeat_failures_max": 0, "default": "ask"},
    ],
)
def test_a_policy_that_makes_sense_is_taken(definition: Any) -> None:
    assert policy_problems(definition, TOOLS) == []


@pytest.mark.parametrize(
    ("definition", "pointer", "code"),
    [
        (7, "/policy", "invalid"),
        ([], "/policy", "invalid"),
        ({"rule": []}, "/policy", "invalid"),
        ({"rules": {}}, "/policy/rules", "invalid"),
        (rules({"tool": "*"}), "/policy/rules/0", "invalid"),
        (rules({"tool": "*", "action": "forbid"}), "/policy/rules/0/action", "invalid"),
        (rules({"tool": 7, "action": "deny"}), "/policy/rules/0/tool", "invalid"),
        (rules({"tool": "*", "action": "deny", "effect": "sometimes"}), "/policy/rules/0/effect", "invalid"),
        (rules({"tool": "*", "action": "deny", "match": "x"}), "/policy/rules/0", "invalid"),
        (rules({"tool": "*", "action": "deny", "when": []}), "/policy/rules/0/when", "invalid"),
        (rules({"tool": "*", "action": "deny", "matches": ""}), "/policy/rules/0/matches", "invalid"),
        (rules({"tool": "*", "action": "deny", "matches": "x" * 1_001}), "/policy/rules/0/matches", "invalid"),
        (rules({"tool": "*", "action": "deny", "reason": "x" * 1_001}), "/policy/rules/0/reason", "invalid"),
        (
            rules(*[{"tool": "read_file", "action": "deny", "matches": str(n)} for n in range(RULES_MAX + 1)]),
            "/policy/rules",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"quorum": 0}}),
            "/policy/rules/0/approval/quorum",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"quorum": 11}}),
            "/policy/rules/0/approval/quorum",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"quorum": True}}),
            "/policy/rules/0/approval/quorum",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"expires_seconds": 0.5}}),
            "/policy/rules/0/approval/expires_seconds",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"expires_seconds": 2_592_001}}),
            "/policy/rules/0/approval/expires_seconds",
            "invalid",
        ),
        (rules({"tool": "*", "action": "ask", "approval": {"expires_seconds": math.nan}}), "/policy", "invalid"),
        (
            rules({"tool": "*", "action": "ask", "approval": {"on_expiry": "allow"}}),
            "/policy/rules/0/approval/on_expiry",
            "invalid",
        ),
        (
            rules({"tool": "*", "action": "ask", "approval": {"four_eyes": 1}}),
            "/policy/rules/0/approval/four_eyes",
            "invalid",
        ),
        (rates(("*", 0, 1)), "/policy/rate_limits/0/max_calls", "invalid"),
        (rates(("*", 1_001, 1)), "/policy/rate_limits/0/max_calls", "invalid"),
        (rates(("*", 1, 0)), "/policy/rate_limits/0/window_seconds", "invalid"),
        (rates(("*", 1, -5)), "/policy/rate_limits/0/window_seconds", "invalid"),
        (rates(("*", 1, 86_401)), "/policy/rate_limits/0/window_seconds", "invalid"),
        (rates(("*", 1, math.inf)), "/policy", "invalid"),
        (rates(*[("read_file", n + 1, 2.0**n) for n in range(RATE_LIMITS_MAX + 1)]), "/policy/rate_limits", "invalid"),
        ({"default": "maybe"}, "/policy/default", "invalid"),
        ({"unknown_outcome": "guess"}, "/policy/unknown_outcome", "invalid"),
        ({"repeat_failures_max": -1}, "/policy/repeat_failures_max", "invalid"),
        ({"repeat_failures_max": 10**30}, "/policy/repeat_failures_max", "invalid"),
        ({"guardrails": "secrets"}, "/policy/guardrails", "invalid"),
        ({"guardrails": ["sekrets"]}, "/policy/guardrails/0", "unknown_guardrail"),
        ({"guardrails": ["secrets", "secrets"]}, "/policy/guardrails/1", "duplicate"),
        (rules({"tool": "delete_file", "action": "deny"}), "/policy/rules/0/tool", "unknown_tool"),
        (rules({"tool": "delete_*", "action": "deny"}), "/policy/rules/0/tool", "unknown_tool"),
        (rates(("delete_*", 1, 1)), "/policy/rate_limits/0/tool", "unknown_tool"),
        (rules({"tool": "read_file", "action": "deny", "effect": "once"}), "/policy/rules/0/tool", "unreachable_rule"),
        (
            rules({"tool": "*", "action": "deny"}, {"tool": "read_file", "action": "allow"}),
            "/policy/rules/1",
            "unreachable_rule",
        ),
        (
            rules({"tool": "*", "action": "deny", "matches": "x"}, {"tool": "*", "action": "allow", "matches": "x"}),
            "/policy/rules/1",
            "unreachable_rule",
        ),
        (
            rules(
                {"tool": "*", "action": "deny", "matches_result": "x"},
                {"tool": "http_get", "action": "allow", "matches_result": "x"},
            ),
            "/policy/rules/1",
            "unreachable_rule",
        ),
        (rules({"tool": "*", "action": "deny", "when": {"type": "objekt"}}), "/policy/rules/0/when", "invalid_schema"),
        (
            rules({"tool": "*", "action": "deny", "when": {"$ref": "http://127.0.0.1:1/"}}),
            "/policy/rules/0/when",
            "invalid_schema",
        ),
        (
            rules({"tool": "*", "action": "deny", "when": {"properties": {"a": {"$ref": "#"}}}}),
            "/policy/rules/0/when",
            "invalid_schema",
        ),
        (rules({"tool": "*", "action": "deny", "matches": "("}), "/policy/rules/0/matches", "invalid_pattern"),
        (rules({"tool": "*", "action": "deny", "matches": "(?=a)b"}), "/policy/rules/0/matches", "invalid_pattern"),
        (
            rules({"tool": "*", "action": "deny", "matches_result": "(a{1000}){1000}"}),
            "/policy/rules/0/matches_result",
            "invalid_pattern",
        ),
        (rules({"tool": "*", "action": "ask", "matches_result": "x"}), "/policy/rules/0/action", "contradictory_rule"),
        (
            rules({"tool": "*", "action": "deny", "approval": {"quorum": 2}}),
            "/policy/rules/0/approval",
            "contradictory_rule",
        ),
        (rates(("http_get", 10, 60), ("http_get", 20, 60)), "/policy/rate_limits/1", "contradictory_limits"),
        (rates(("http_get", 20, 30), ("http_get", 10, 60)), "/policy/rate_limits/0", "contradictory_limits"),
        (rates(("http_get", 10, 1), ("http_get", 600, 60)), "/policy/rate_limits/1", "contradictory_limits"),
        (rates(("*", 10, 60), ("http_get", 10, 60)), "/policy/rate_limits/1", "contradictory_limits"),
        (rates(("http_get", 10, 60), ("http_get", 10, 60)), "/policy/rate_limits/1", "contradictory_limits"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_place_of_the_fault(
    definition: Any, pointer: str, code: str
) -> None:
    assert found(definition) == [(pointer, code)]


@pytest.mark.parametrize(
    "glob", ["", "[", "read_[", "read_[]", "a]", "[z-a]", "[[a]", "read file", "réad", "a.b", "x" * 129, "[!]"]
)
def test_a_broken_glob_is_refused(glob: str) -> None:
    assert found(rules({"tool": glob, "action": "deny"})) == [("/policy/rules/0/tool", "invalid_glob")]
    assert found(rates((glob, 1, 1))) == [("/policy/rate_limits/0/tool", "invalid_glob")]


def test_everything_wrong_is_said_at_once() -> None:
    faults = found(
        {
            **rules({"tool": "gone", "action": "deny"}, {"tool": "*", "action": "deny", "matches": "("}),
            **rates(("gone", 1, 1)),
            "guardrails": ["gone"],
        }
    )
    assert [code for _, code in faults] == ["unknown_tool", "invalid_pattern", "unknown_tool", "unknown_guardrail"]


def test_a_message_names_the_tools_there_are() -> None:
    message = policy_problems(rules({"tool": "gone", "action": "deny"}), TOOLS)[0].message
    assert message == "the agent has no tool 'gone'; it has: http_get, read_file, read_result, write_file"
    of_run = policy_problems(rules({"tool": "gone", "action": "deny"}), TOOLS, of_run=True, at="/x")[0]
    assert of_run.pointer == "/x/rules/0/tool"
    assert of_run.message.startswith("the run has no tool")


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=2, max_size=2),
    st.lists(st.integers(0, 4), max_size=25),
)
def test_a_limit_said_never_to_hold_anybody_up_never_does(limits: list[tuple[int, int]], gaps: list[int]) -> None:
    """Let calls start as early as the other limit allows: the one in question must never be exceeded."""
    faults = found(rates(*[("http_get", calls, float(seconds)) for calls, seconds in limits]))
    for pointer, _ in faults:
        number = int(pointer[-1])
        calls, window = limits[number]
        other_calls, other_window = limits[1 - number]
        starts: list[int] = []
        for gap in gaps:
            at = (starts[-1] if starts else 0) + gap
            if len([s for s in starts if s > at - other_window]) < other_calls:
                starts.append(at)
        assert all(len([s for s in starts if at - window < s <= at]) <= calls for at in starts)


@pytest.mark.parametrize(
    ("limits", "pointer", "code"),
    [
        ({"tools": {"gone": {"max_calls": 1, "on_exceed": "block"}}}, "/limits/tools/gone", "unknown_tool"),
        (
            {"tools": {"http_get": {"max_calls": 0, "on_exceed": "steer"}}},
            "/limits/tools/http_get",
            "contradictory_limits",
        ),
        (
            {"max_tool_calls": 5, "tools": {"http_get": {"max_calls": 6, "on_exceed": "block"}}},
            "/limits/tools/http_get/max_calls",
            "contradictory_limits",
        ),
    ],
)
def test_budgets_of_tools_that_make_no_sense_are_refused(limits: Any, pointer: str, code: str) -> None:
    assert [(one.pointer, one.code) for one in limits_problems(limits, TOOLS)] == [(pointer, code)]


def test_a_tool_may_be_given_no_calls_at_all() -> None:
    assert limits_problems({"tools": {"http_get": {"max_calls": 0, "on_exceed": "block"}}}, TOOLS) == []
    assert limits_problems({}, TOOLS) == []
