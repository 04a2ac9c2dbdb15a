"""A policy as it is stored, made ready to rule on calls. The order of rules, and what "narrower" means, is in
``perdure.core.policy``; whether a policy makes sense, in ``policy_check.py``; the shipped sets, in ``guardrails.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

from perdure.core.policy import REPEAT_FAILURES_MAX, ApprovalTerms, Policy, Rule, Ruling, rule_on
from perdure.core.state import Json
from perdure.definitions import (
    AgentDefinition,
    ApprovalTermsDefinition,
    PolicyDefinition,
    RateLimitDefinition,
    RuleDefinition,
    ToolDescription,
)  # fmt: skip
from perdure.tools.arguments import canonical_json
from perdure.tools.guardrails import GUARDRAILS, GUARDRAILS_ON
from perdure.tools.json_schema import Pattern, Schema, pattern_of, schema_of, strings_in
from perdure.tools.result_text import valid_text

_CONDITIONS = ("when", "matches", "matches_result")


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """Everything that policies say of one run: the agent's own, and the narrower one of the run if there is one.
    ``results`` are the rules that look at results. ``rate_limits`` hold together: the agent's, then the run's."""

    calls: tuple[Policy, ...]
    results: tuple[Policy, ...]
    rate_limits: tuple[RateLimitDefinition, ...]
    repeat_failures_max: int
    asks_about_unknown: bool

    def rates_of(self, tool: str) -> tuple[int, ...]:
        """Indices of the rate limits that count this tool's calls."""
        return tuple(n for n, limit in enumerate(self.rate_limits) if fnmatchcase(tool, limit["tool"]))


def normalized(definition: Mapping[str, Any] | None, *, of_run: bool = False) -> PolicyDefinition:
    """With every default filled in. What a run's own policy leaves out adds nothing to the agent's: its guardrails
    are none, its ``repeat_failures_max`` is 0. Without problems before, without problems after; twice is once."""
    given = {name: value for name, value in (definition or {}).items() if value is not None}
    return PolicyDefinition(
        rules=[_whole_rule(rule) for rule in given.get("rules", [])],
        rate_limits=[
            RateLimitDefinition(
                tool=limit["tool"], max_calls=int(limit["max_calls"]), window_seconds=float(limit["window_seconds"])
            )
            for limit in given.get("rate_limits", [])
        ],
        default=given.get("default", "allow"),
        guardrails=list(given.get("guardrails", () if of_run else GUARDRAILS_ON)),
        unknown_outcome=given.get("unknown_outcome", "tell"),
        repeat_failures_max=int(given.get("repeat_failures_max", 0 if of_run else REPEAT_FAILURES_MAX)),
    )


def compile_policy(
    policy: Mapping[str, Any] | None,
    run_policy: Mapping[str, Any] | None = None,
    further: Sequence[Mapping[str, Any]] = (),
) -> RunPolicy:
    """Ready to rule; equal policies are made ready once. All are sound: ``policy_problems`` found nothing.
    ``further`` are those of the runs above, which are called ``above[0]`` and so on."""
    return _compiled(
        canonical_json(cast("Json", normalized(policy))),
        "" if run_policy is None else canonical_json(cast("Json", normalized(run_policy, of_run=True))),
        tuple(canonical_json(cast("Json", one)) for one in further),
    )


def policy_of(definition: AgentDefinition) -> RunPolicy:
    """The policy of a run, by its pinned definition."""
    return compile_policy(
        cast("Mapping[str, Any] | None", definition.get("policy")),
        cast("Mapping[str, Any] | None", definition.get("run_policy")),
        cast("Sequence[Mapping[str, Any]]", definition.get("further_policies", ())),
    )


def policies_of(definition: AgentDefinition) -> list[PolicyDefinition]:
    """All policies that hold for a run, its own first, each once: what its children are held to as well."""
    found = [definition.get("policy"), definition.get("run_policy"), *definition.get("further_policies", [])]
    whole = [one for one in found if one is not None]
    return [one for number, one in enumerate(whole) if one not in whole[:number]]


def ruling(policy: RunPolicy, tool: ToolDescription, arguments: dict[str, Json]) -> Ruling:
    """What the policy says of this call, the tool's own wish for an approval included."""
    facts = _Facts(arguments)
    return rule_on(policy.calls, tool["name"], tool["effect"], approval=tool["approval"], fits=facts.fit)


def withheld(
    policy: RunPolicy, tool: ToolDescription, result: str, arguments: dict[str, Json] | None = None
) -> Ruling | None:
    """The denial of a rule that looks at results, or None: the model may see this one. ``result`` is the whole
    result, not its preview."""
    if not any(one.rules for one in policy.results):
        return None
    facts = _Facts(arguments or {}, result)
    found = rule_on(policy.results, tool["name"], tool["effect"], approval=False, fits=facts.fit)
    return found if found.action == "deny" else None


def withheld_words(denial: Ruling) -> str:
    """What the model is told in place of a result that it may not see. The call has been made."""
    why = f": {denial.reason}" if denial.reason else ""
    return f"the call was made, but its result is withheld by {denial.rule}{why}"


class _Facts:
    """The call that conditions are compared with."""

    def __init__(self, arguments: dict[str, Json], result: str | None = None) -> None:
        self._arguments = arguments
        self._strings: list[str] | None = None
        self._result = None if result is None else [valid_text(result)]

    def fit(self, rule: Rule) -> bool:
        """A condition that cannot be told counts for the safe side: it holds unless the rule would allow."""
        try:
            return self._fit(_condition(rule.condition))
        except ValueError:
            return rule.action != "allow"

    def _fit(self, condition: _Condition) -> bool:
        if condition.result and not (self._result and condition.result.found_in(self._result)):
            return False
        if condition.pattern:
            if self._strings is None:
                self._strings = strings_in(self._arguments)
            if not condition.pattern.found_in(self._strings):
                return False
        return condition.schema is None or condition.schema.fits(self._arguments)


class _Condition(NamedTuple):
    schema: Schema | None
    pattern: Pattern | None
    result: Pattern | None


@lru_cache(maxsize=4_096)  # the shipped ones and some dozens of policies; each of a few kilobytes
def _condition(text: str) -> _Condition:
    given = json.loads(text)
    return _Condition(
        schema_of(given["when"]) if "when" in given else None,
        pattern_of(given["matches"]) if "matches" in given else None,
        pattern_of(given["matches_result"]) if "matches_result" in given else None,
    )


def rule_of(rule: RuleDefinition, name: str) -> Rule:
    """A stored rule as the core knows it."""
    condition = {part: rule[part] for part in _CONDITIONS if rule.get(part) is not None}  # type: ignore[literal-required]
    return Rule(
        name=name,
        tool=rule["tool"],
        action=rule["action"],
        effect=rule.get("effect"),
        reason=rule.get("reason") or "",
        condition=canonical_json(condition) if condition else "",
        terms=ApprovalTerms(**_terms(rule.get("approval"))),
    )


@lru_cache(maxsize=256)  # of some tens of kilobytes each
def _compiled(policy_text: str, run_policy_text: str, further_texts: tuple[str, ...]) -> RunPolicy:
    definitions: list[tuple[str, PolicyDefinition]] = [("", json.loads(policy_text))]
    if run_policy_text:
        definitions.append(("run.", json.loads(run_policy_text)))
    definitions += [(f"above[{number}].", json.loads(text)) for number, text in enumerate(further_texts)]
    failures = [one["repeat_failures_max"] for _, one in definitions if one["repeat_failures_max"]]
    return RunPolicy(
        calls=tuple(_policy(prefix, one, "calls") for prefix, one in definitions),
        results=tuple(_policy(prefix, one, "results") for prefix, one in definitions),
        rate_limits=tuple(limit for _, one in definitions for limit in one["rate_limits"]),
        repeat_failures_max=min(failures, default=0),
        asks_about_unknown=any(one["unknown_outcome"] == "ask" for _, one in definitions),
    )


def _policy(prefix: str, definition: PolicyDefinition, about: Literal["calls", "results"]) -> Policy:
    named = [
        (f"{prefix}guardrails.{name}", rule) for name in definition["guardrails"] for rule in GUARDRAILS.get(name, ())
    ]
    named += [(f"{prefix}rules[{number}]", rule) for number, rule in enumerate(definition["rules"])]
    rules = tuple(rule_of(rule, name) for name, rule in named if ("matches_result" in rule) == (about == "results"))
    return Policy(rules, definition["default"] if about == "calls" else "allow", f"{prefix}default")


def _whole_rule(rule: Mapping[str, Any]) -> RuleDefinition:
    whole: dict[str, Any] = {"tool": rule["tool"], "action": rule["action"]}
    whole |= {part: rule[part] for part in ("effect", *_CONDITIONS) if rule.get(part) is not None}
    whole["reason"] = rule.get("reason") or ""
    if rule["action"] == "ask":
        whole["approval"] = _terms(rule.get("approval"))
    return cast("RuleDefinition", whole)


def _terms(given: ApprovalTermsDefinition | None) -> dict[str, Any]:
    terms, said = ApprovalTerms(), {name: value for name, value in (given or {}).items() if value is not None}
    return {
        "expires_seconds": float(cast("float", said.get("expires_seconds", terms.expires_seconds))),
        "on_expiry": said.get("on_expiry", terms.on_expiry),
        "quorum": int(cast("int", said.get("quorum", terms.quorum))),
        "four_eyes": said.get("four_eyes", terms.four_eyes),
    }
