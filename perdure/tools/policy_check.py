"""Whether a policy makes sense, before it is stored: its shape, its globs, schemas and patterns, rules that could
never apply, limits that contradict each other. Everything found is said at once, each with a pointer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from perdure.core.policy import OnExpiry, PolicyAction, covers, shadowed
from perdure.core.spec import Effect
from perdure.core.state import Json
from perdure.definitions import LimitsDefinition, RuleDefinition, ToolDescription
from perdure.tools.guardrails import GUARDRAILS
from perdure.tools.json_schema import PATTERN_CHARS_MAX, BadSchema, pattern_of, schema_of
from perdure.tools.policy import rule_of
from perdure.tools.problem import Problem

RULES_MAX = 100
RATE_LIMITS_MAX = 10
RATE_CALLS_MAX = 1_000  # the run's state remembers when so many calls started
RATE_WINDOW_SECONDS_MIN, RATE_WINDOW_SECONDS_MAX = 0.001, 86_400.0
GLOB_CHARS_MAX = 128
REASON_CHARS_MAX = 1_000
APPROVAL_SECONDS_MIN, APPROVAL_SECONDS_MAX = 1.0, 2_592_000.0  # up to thirty days
QUORUM_MAX = 10
REPEAT_FAILURES_LIMIT = 1_000
_GLOB_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-*?[]!")
_SHAPE: dict[str, Json] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "rules": {
            "type": ["array", "null"],
            "maxItems": RULES_MAX,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tool", "action"],
                "properties": {
                    "tool": {"type": "string"},
                    "action": {"enum": list(get_args(PolicyAction))},
                    "effect": {"enum": [*get_args(Effect), None]},
                    "when": {"type": ["object", "null"]},
                    "matches": {"type": ["string", "null"], "minLength": 1, "maxLength": PATTERN_CHARS_MAX},
                    "matches_result": {"type": ["string", "null"], "minLength": 1, "maxLength": PATTERN_CHARS_MAX},
                    "reason": {"type": ["string", "null"], "maxLength": REASON_CHARS_MAX},
                    "approval": {
                        "type": ["object", "null"],
                        "additionalProperties": False,
                        "properties": {
                            "expires_seconds": {
                                "type": ["number", "null"],
                                "minimum": APPROVAL_SECONDS_MIN,
                                "maximum": APPROVAL_SECONDS_MAX,
                            },
                            "on_expiry": {"enum": [*get_args(OnExpiry), None]},
                            "quorum": {"type": ["integer", "null"], "minimum": 1, "maximum": QUORUM_MAX},
                            "four_eyes": {"type": ["boolean", "null"]},
                        },
                    },
                },
            },
        },
        "rate_limits": {
            "type": ["array", "null"],
            "maxItems": RATE_LIMITS_MAX,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tool", "max_calls", "window_seconds"],
                "properties": {
                    "tool": {"type": "string"},
                    "max_calls": {"type": "integer", "minimum": 1, "maximum": RATE_CALLS_MAX},
                    "window_seconds": {
                        "type": "number",
                        "minimum": RATE_WINDOW_SECONDS_MIN,
                        "maximum": RATE_WINDOW_SECONDS_MAX,
                    },
                },
            },
        },
        "default": {"enum": [*get_args(PolicyAction), None]},
        "guardrails": {"type": ["array", "null"], "maxItems": 10, "items": {"type": "string"}},
        "unknown_outcome": {"enum": ["tell", "ask", None]},
        "repeat_failures_max": {"type": ["integer", "null"], "minimum": 0, "maximum": REPEAT_FAILURES_LIMIT},
    },
}


def policy_problems(
    definition: object, tools: Sequence[ToolDescription], *, at: str = "/policy", of_run: bool = False
) -> list[Problem]:
    """What is wrong with an agent's policy, or with a run's own; empty when it can be stored. ``tools`` are all that
    the agent, or the run, may use, client tools included. ``at`` is where the policy is in the request."""
    definition = {} if definition is None else definition
    if misshapen := _misshapen(definition, at):
        return misshapen
    assert isinstance(definition, dict)
    owner = "the run" if of_run else "the agent"
    rules: list[RuleDefinition] = definition.get("rules") or []
    limits: list[dict[str, Any]] = definition.get("rate_limits") or []
    found = [
        problem for number, rule in enumerate(rules) for problem in _in_rule(rule, tools, owner, f"{at}/rules/{number}")
    ]
    found += _unreachable(rules, found, at)
    found += [
        problem
        for number, limit in enumerate(limits)
        for problem in _in_glob(limit["tool"], tools, owner, f"{at}/rate_limits/{number}/tool")
    ]
    found += _never_binding(limits, at)
    found += _in_guardrails(definition.get("guardrails") or [], f"{at}/guardrails")
    return found


def limits_problems(
    limits: LimitsDefinition | Mapping[str, Any], tools: Sequence[ToolDescription], *, at: str = "/limits"
) -> list[Problem]:
    """What is wrong with the budgets and timeouts of single tools, whose shape is right already."""
    found: list[Problem] = []
    names = {tool["name"] for tool in tools}
    most = limits.get("max_tool_calls")
    for name, budget in (limits.get("tools") or {}).items():
        here = f"{at}/tools/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in names:
            found.append(Problem(here, "unknown_tool", f"the agent has no tool {name!r}; {_named(names)}"))
        if budget["max_calls"] == 0 and budget.get("on_exceed") == "steer":
            why = "0 calls with on_exceed steer would let every call run, each with a word of warning: use block"
            found.append(Problem(here, "contradictory_limits", why))
        elif most is not None and budget["max_calls"] > most:
            why = f"can never be reached: the run may make {most} tool calls altogether (max_tool_calls)"
            found.append(Problem(f"{here}/max_calls", "contradictory_limits", why))
    for name in limits.get("tool_timeouts") or {}:
        if name not in names:
            here = f"{at}/tool_timeouts/{name.replace('~', '~0').replace('/', '~1')}"
            found.append(Problem(here, "unknown_tool", f"the agent has no tool {name!r}; {_named(names)}"))
    return found


def _misshapen(definition: object, at: str) -> list[Problem]:
    if not isinstance(definition, dict):
        return [Problem(at, "invalid", "must be an object")]
    try:
        json.dumps(definition, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return [Problem(at, "invalid", "is no JSON: NaN and infinities are no numbers")]
    # A schema in `when` may have any shape: it is looked at by itself.
    return [Problem(at + where, "invalid", why) for where, why in schema_of(_SHAPE).misfits(definition)]


def _in_rule(rule: RuleDefinition, tools: Sequence[ToolDescription], owner: str, here: str) -> Iterator[Problem]:
    yield from _in_glob(rule["tool"], tools, owner, f"{here}/tool", rule.get("effect"))
    if rule.get("when") is not None:
        try:
            schema_of(rule["when"])
        except BadSchema as bad:
            yield Problem(f"{here}/when", "invalid_schema", f"the schema {bad}")
    for name, pattern in (("matches", rule.get("matches")), ("matches_result", rule.get("matches_result"))):
        if pattern is not None:
            try:
                pattern_of(pattern)
            except BadSchema as bad:
                yield Problem(f"{here}/{name}", "invalid_pattern", f"the pattern {bad}")
    if rule.get("matches_result") is not None and rule["action"] == "ask":
        yield Problem(f"{here}/action", "contradictory_rule", "a result is there already: allow it or deny it")
    if rule.get("approval") is not None and rule["action"] != "ask":
        yield Problem(f"{here}/approval", "contradictory_rule", "only a rule with action ask asks for an approval")


def _in_glob(
    glob: str, tools: Sequence[ToolDescription], owner: str, here: str, effect: Effect | None = None
) -> Iterator[Problem]:
    """A glob has to be one, and to concern a tool. ``*`` may stand for none, and an effect class is a precaution
    for tools to come, unless the rule names a single tool."""
    names = {tool["name"] for tool in tools}
    if broken := _broken(glob):
        yield Problem(here, "invalid_glob", f"{glob!r} {broken}")
    elif not any(sign in glob for sign in "*?["):
        if glob not in names:
            yield Problem(here, "unknown_tool", f"{owner} has no tool {glob!r}; {_named(names)}")
        elif effect and not any(tool["effect"] == effect for tool in tools if tool["name"] == glob):
            yield Problem(here, "unreachable_rule", f"the effect of {glob} is another than {effect}")
    elif glob != "*" and not any(fnmatchcase(name, glob) for name in names):
        yield Problem(here, "unknown_tool", f"the glob {glob!r} matches no tool of {owner}; {_named(names)}")


def _broken(glob: str) -> str:
    if not 0 < len(glob) <= GLOB_CHARS_MAX:
        return f"must have 1 to {GLOB_CHARS_MAX} characters"
    if signs := sorted(set(glob) - _GLOB_SIGNS):
        return f"holds {', '.join(map(repr, signs))}: names are of letters, digits, _ and -, globs also of * ? [ ] !"
    rest = glob
    while "[" in rest:
        inside, closed, rest = rest.partition("[")[2].partition("]")
        if not closed or not inside.removeprefix("!"):
            return "opens a set with [ that is not closed, or empty"
        if "[" in inside:
            return "opens a set within a set"
        if any(first > last for first, last in zip(inside, inside[2:], strict=False) if f"{first}-{last}" in inside):
            return "has a range that ends before it begins"
    return "closes a set that was not opened" if "]" in rest or "]" in _outside(glob) else ""


def _outside(glob: str) -> str:
    """The glob without its sets."""
    kept, rest = "", glob
    while "[" in rest:
        before, _, after = rest.partition("[")
        kept, rest = kept + before, after.partition("]")[2]
    return kept + rest


def _unreachable(rules: Sequence[RuleDefinition], found: Sequence[Problem], at: str) -> Iterator[Problem]:
    """Rules about calls and rules about results are two lists, each with its first match."""
    if any(problem.code == "invalid_glob" for problem in found):
        return
    for about_results in (False, True):
        numbers = [n for n, rule in enumerate(rules) if (rule.get("matches_result") is not None) == about_results]
        for later, earlier in shadowed(rule_of(rules[number], str(number)) for number in numbers):
            why = f"can never apply: rule {numbers[earlier]} takes every call that it concerns"
            yield Problem(f"{at}/rules/{numbers[later]}", "unreachable_rule", why)


def _never_binding(limits: Sequence[Mapping[str, Any]], at: str) -> Iterator[Problem]:
    """A window is covered by so many windows of another limit: when that limit cannot let as many calls pass,
    this one never holds anybody up."""
    for number, limit in enumerate(limits):
        for other_number, other in enumerate(limits):
            windows = math.ceil(limit["window_seconds"] / other["window_seconds"])
            implied = limit["max_calls"] >= windows * other["max_calls"] and covers(other["tool"], limit["tool"])
            twins = implied and limit == other
            if other_number != number and implied and not (twins and number < other_number):
                why = f"can never hold a call up: rate limit {other_number} lets no more pass"
                yield Problem(f"{at}/rate_limits/{number}", "contradictory_limits", why)
                break


def _in_guardrails(names: Sequence[str], here: str) -> Iterator[Problem]:
    for number, name in enumerate(names):
        if name not in GUARDRAILS:
            known = ", ".join(GUARDRAILS)
            yield Problem(
                f"{here}/{number}", "unknown_guardrail", f"there is no guardrail {name!r}; there are: {known}"
            )
        elif name in names[:number]:
            yield Problem(f"{here}/{number}", "duplicate", f"{name} is there twice")


def _named(names: set[str]) -> str:
    return f"it has: {', '.join(sorted(names)[:30])}" if names else "it has none"
