"""docs/policy.md says what the code does: its defaults, limits, codes, guardrails and its example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from perdure.core.policy import ApprovalTerms
from perdure.definitions import ApprovalTermsDefinition, PolicyDefinition, RuleDefinition
from perdure.tools.builtin import ask_user
from perdure.tools.client_tools import CLIENT_EXPIRES_SECONDS, CLIENT_EXPIRES_SECONDS_MAX, CLIENT_TOOLS_MAX
from perdure.tools.guardrails import GUARDRAILS, GUARDRAILS_ON
from perdure.tools.json_schema import PATTERN_CHARS_MAX, SCHEMA_CHARS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX
from perdure.tools.policy import compile_policy, normalized, ruling
from perdure.tools.policy_check import (
    APPROVAL_SECONDS_MAX,
    APPROVAL_SECONDS_MIN,
    GLOB_CHARS_MAX,
    QUORUM_MAX,
    RATE_CALLS_MAX,
    RATE_LIMITS_MAX,
    RATE_WINDOW_SECONDS_MAX,
    RATE_WINDOW_SECONDS_MIN,
    REASON_CHARS_MAX,
    REPEAT_FAILURES_LIMIT,
    RULES_MAX,
    policy_problems,
)
from perdure.tools.questions import ANSWER_CHARS_MAX, OPTIONS_MAX, QUESTIONS_MAX
from perdure.tools.registry import build_toolbox
from tests.tools.test_policy import a_tool

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "policy.md").read_text()
TERMS = ApprovalTerms()
POLICY = normalized(None)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by their first cell."""
    part = PAGE.split(f"\n{heading}\n", 1)[1]
    found: dict[str, list[str]] = {}
    for line in part.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            found[cells[0]] = cells[1:]
        elif found:
            break
    return found


def plain(number: float) -> str:
    return f"{number:g}" if number < 1 else f"{number:.0f}"


def test_every_default_and_limit_is_the_one_of_the_code() -> None:
    rows = {name.replace("`", ""): cells for name, cells in table("## Defaults and limits").items()}
    rows.pop("what")
    rows.pop("---")
    seconds = f"{plain(APPROVAL_SECONDS_MIN)} to {plain(APPROVAL_SECONDS_MAX)}"
    asked = f"1 to {plain(ask_user.EXPIRES_SECONDS_MAX)}"
    assert rows == {
        "rules": ["none", str(RULES_MAX)],
        "rules[].reason": ["empty", f"{REASON_CHARS_MAX} characters"],
        "rules[].tool, rate_limits[].tool": ["", f"{GLOB_CHARS_MAX} characters"],
        "rules[].matches, matches_result": ["", f"{PATTERN_CHARS_MAX} characters"],
        "rules[].when": ["", f"{SCHEMA_CHARS_MAX} characters"],
        "rules[].approval.expires_seconds": [plain(TERMS.expires_seconds), seconds],
        "rules[].approval.on_expiry": [TERMS.on_expiry, ""],
        "rules[].approval.quorum": [str(TERMS.quorum), f"1 to {QUORUM_MAX}"],
        "rules[].approval.four_eyes": [json.dumps(TERMS.four_eyes), ""],
        "rate_limits": ["none", str(RATE_LIMITS_MAX)],
        "rate_limits[].max_calls": ["", f"1 to {RATE_CALLS_MAX}"],
        "rate_limits[].window_seconds": ["", f"{plain(RATE_WINDOW_SECONDS_MIN)} to {plain(RATE_WINDOW_SECONDS_MAX)}"],
        "default": [POLICY["default"], ""],
        "guardrails": [", ".join(POLICY["guardrails"]), ""],
        "unknown_outcome": [POLICY["unknown_outcome"], ""],
        "repeat_failures_max": [str(POLICY["repeat_failures_max"]), f"0 (off) to {REPEAT_FAILURES_LIMIT}"],
        "ask_user questions": ["", f"1 to {QUESTIONS_MAX}"],
        "ask_user options of a question": ["", str(OPTIONS_MAX)],
        "ask_user expires_seconds": [plain(ask_user.QUESTION_EXPIRES_SECONDS), asked],
        "client tools of a run": ["none", str(CLIENT_TOOLS_MAX)],
        "client tool expires_seconds": [plain(CLIENT_EXPIRES_SECONDS), f"1 to {plain(CLIENT_EXPIRES_SECONDS_MAX)}"],
    }
    assert (POLICY["rules"], POLICY["rate_limits"]) == ([], [])


def test_every_member_of_a_policy_a_rule_and_an_approval_is_explained() -> None:
    def named(heading: str) -> set[str]:
        return {name.strip("`") for name in table(heading) if name.startswith("`")}

    assert named("## Rules") == set(get_type_hints(RuleDefinition))
    assert named("### Approvals") == set(get_type_hints(ApprovalTermsDefinition))
    example = set(json.loads(next(iter(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)))))
    assert example == set(get_type_hints(PolicyDefinition))


def test_the_defaults_of_approvals_are_shown_twice_and_alike() -> None:
    rows = {
        name.strip("`"): cells[0].strip("`") for name, cells in table("### Approvals").items() if name.startswith("`")
    }
    assert rows == {
        "expires_seconds": plain(TERMS.expires_seconds),
        "on_expiry": TERMS.on_expiry,
        "quorum": str(TERMS.quorum),
        "four_eyes": json.dumps(TERMS.four_eyes),
    }


def test_every_guardrail_is_listed_with_its_default() -> None:
    rows = {name.strip("`"): cells[0] for name, cells in table("## Guardrails").items() if name.startswith("`")}
    assert rows == {name: "on" if name in GUARDRAILS_ON else "off" for name in GUARDRAILS}


def test_the_examples_of_the_guardrails_are_what_they_say() -> None:
    """What the table shows is denied is denied, and what it says is left alone is."""
    part = PAGE.split("It is after:", 1)[1].split("**`secrets`**", 1)[0]
    policy, tool = compile_policy(None), a_tool("shell")
    checked = 0
    for line in part.splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        if "`" not in line or len(cells) != 3:
            continue
        for cell, action in ((cells[1], "deny"), (cells[2], "allow")):
            for example in re.findall(r"`([^`]+)`", cell.split(" (also")[0]):
                command = example.replace("\\|", "|").replace("…", "https://x.example/a")
                if command == "--force-with-lease":
                    command = f"git push {command} origin topic"
                command = command.replace(
                    "DELETE https://x.example/a WHERE https://x.example/a", "DELETE FROM a WHERE b = 1"
                )
                command = command.replace("rb https://x.example/a", "rb s3://x")
                assert (command, ruling(policy, tool, {"command": command}).action) == (command, action)
                checked += 1
    assert checked > 40


def test_the_example_is_a_policy_that_can_be_stored() -> None:
    definition: Any = json.loads(next(iter(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))))
    tools = [a_tool("pay"), *build_toolbox().describe(["http_get", "read_file"])]
    assert policy_problems(definition, tools) == []
    policy = compile_policy(definition)
    assert ruling(policy, a_tool("pay"), {"amount": 501}).action == "deny"
    assert ruling(policy, a_tool("pay"), {"amount": 500}).terms.quorum == 2


def test_every_code_of_a_problem_is_explained() -> None:
    source = (DOCS.parent / "perdure" / "tools" / "policy_check.py").read_text()
    shapes = r'"(contradictory_\w+|unknown_(?:tool|guardrail)|invalid\w*|unreachable_rule|duplicate)"'
    codes = set(re.findall(shapes, source))
    explained = set(re.findall(r"`(\w+)`", " ".join(table("## What is refused when it is stored"))))
    assert explained == codes


@pytest.mark.parametrize("number", [SCHEMA_CHARS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX, PATTERN_CHARS_MAX])
def test_the_limits_of_schemas_and_patterns_are_the_ones_of_the_code(number: int) -> None:
    part = PAGE.split("## Schemas and patterns", 1)[1].split("\n## ", 1)[0]
    assert re.search(rf"\b{number}\b", part)


def test_the_example_of_ask_user_can_be_asked_and_its_limits_are_the_ones_of_the_code() -> None:
    page = (DOCS / "tools.md").read_text()
    example = next(block for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "questions" in block)
    assert ask_user.AskUser().problem(json.loads(example)) is None
    for number in (ask_user.QUESTION_CHARS_MAX, ANSWER_CHARS_MAX, OPTIONS_MAX, QUESTIONS_MAX, CLIENT_TOOLS_MAX):
        assert re.search(rf"\b{number}\b", page.split("## Asking people", 1)[1])
