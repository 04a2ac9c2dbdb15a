"""What a policy answers to a tool call: allow, ask or deny. Rules are read in order, the first match wins.

Whether the arguments meet a rule's condition (a JSON Schema, a pattern) is found out by whoever has them and
the library for it; this module is told by ``fits(rule)``. A run's own policy can only narrow the agent's:
both are asked, and the stricter answer stands. People answer what is asked; they never overrule a denial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from perdure.core.spec import Effect

PolicyAction = Literal["allow", "ask", "deny"]
OnExpiry = Literal["deny", "fail", "escalate"]

APPROVAL_EXPIRES_SECONDS = 259_200.0  # three days: over a weekend
REPEAT_FAILURES_MAX = 3  # an identical call that failed so often in a row is refused
_STRICTNESS: Mapping[PolicyAction, int] = {"allow": 0, "ask": 1, "deny": 2}


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """How an approval is given: ``quorum`` different people, none of whom asked for the run when
    ``four_eyes``; after ``expires_seconds``, ``on_expiry``."""

    expires_seconds: float = APPROVAL_EXPIRES_SECONDS
    on_expiry: OnExpiry = "deny"
    quorum: int = 1
    four_eyes: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """``tool`` is a glob over names, ``effect`` an effect class or None for all. ``name`` is what verdicts
    call it: ``rules[2]``, ``run.rules[0]``, ``guardrails.secrets``. ``condition`` is what else must hold, in
    words that only ``fits`` understands; equal conditions have equal words, and "" is no condition."""

    name: str
    tool: str
    action: PolicyAction
    effect: Effect | None = None
    reason: str = ""
    condition: str = ""
    terms: ApprovalTerms = ApprovalTerms()

    def concerns(self, tool: str, effect: Effect) -> bool:
        return fnmatchcase(tool, self.tool) and self.effect in (None, effect)


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer and who gave it: a rule's name, ``default``, ``tool`` (its own declaration), or an
    ``approval`` that stands."""

    action: PolicyAction
    rule: str
    reason: str = ""
    terms: ApprovalTerms = ApprovalTerms()


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules, and what is answered when none applies; ``default_name`` is what verdicts call that."""

    rules: tuple[Rule, ...] = ()
    default: PolicyAction = "allow"
    default_name: str = "default"


def rule_on(
    policies: Iterable[Policy], tool: str, effect: Effect, *, approval: bool, fits: Callable[[Rule], bool]
) -> Ruling:
    """The strictest answer of all ``policies``; of equally strict ones the first. ``approval``: the tool
    was declared to need one, unless a rule of the first policy allows it."""
    ruling: Ruling | None = None
    for number, policy in enumerate(policies):
        found = _answer(policy, tool, effect, asks_by_itself=approval and number == 0, fits=fits)
        if ruling is None or _STRICTNESS[found.action] > _STRICTNESS[ruling.action]:
            ruling = found
    return ruling or Ruling("allow", "default")


def stricter(one: Ruling, other: Ruling) -> Ruling:
    """Of two answers to the same call, the first unless the other is stricter."""
    return other if _STRICTNESS[other.action] > _STRICTNESS[one.action] else one


def with_decision(ruling: Ruling, name: str, *, approved: bool, reason: str = "") -> Ruling:
    """The ruling where people have decided about the very same call before. It only answers what was asked: a
    denial stays a denial whatever anybody decided."""
    if ruling.action != "ask":
        return ruling
    return replace(ruling, action="allow" if approved else "deny", rule=name, reason=reason)


def shadowed(rules: Iterable[Rule]) -> list[tuple[int, int]]:
    """Rules that can never be the first match, each with the earlier rule that takes all of its calls."""
    seen: list[Rule] = []
    found: list[tuple[int, int]] = []
    for number, rule in enumerate(rules):
        for earlier_number, earlier in enumerate(seen):
            if _takes_all(earlier, rule):
                found.append((number, earlier_number))
                break
        seen.append(rule)
    return found


def covers(wide: str, narrow: str) -> bool:
    """Whether every name that the glob ``narrow`` matches is matched by ``wide``. A glob whose only signs are
    ``*`` is compared sign by sign; of others only their own spelling, and ``*``, are known to cover them."""
    if wide in (narrow, "*"):
        return True
    if any(sign in narrow for sign in "[?") or ("*" in narrow and any(sign in wide for sign in "[?")):
        return False
    return fnmatchcase(narrow, wide)


def _answer(policy: Policy, tool: str, effect: Effect, *, asks_by_itself: bool, fits: Callable[[Rule], bool]) -> Ruling:
    for rule in policy.rules:
        if rule.concerns(tool, effect) and (not rule.condition or fits(rule)):
            return Ruling(rule.action, rule.name, rule.reason, rule.terms)
    if asks_by_itself and policy.default != "deny":
        return Ruling("ask", "tool", "the tool is declared to need approval")
    reason = "" if policy.default == "allow" else "no rule of the policy applies"
    return Ruling(policy.default, policy.default_name, reason)


def _takes_all(earlier: Rule, later: Rule) -> bool:
    """Whether every call that ``later`` concerns is taken by ``earlier``."""
    return (
        earlier.condition in ("", later.condition)
        and earlier.effect in (None, later.effect)
        and covers(earlier.tool, later.tool)
    )
