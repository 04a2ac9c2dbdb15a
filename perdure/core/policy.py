"""What a policy answers to a tool call: allow, ask or deny. Rules are read in order, the first match wins.

Whether a rule's JSON Schema (``when``) or pattern fits the arguments is found out by whoever has them and
the library for it; this module is told by ``fits(rule)``. A run's own policy can only narrow the agent's:
both are asked, and the stricter answer stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from perdure.core.spec import Effect

PolicyAction = Literal["allow", "ask", "deny"]
OnExpiry = Literal["deny", "fail", "escalate"]

APPROVAL_EXPIRES_SECONDS = 259_200.0  # three days: over a weekend
REPEAT_FAILURES_MAX = 3  # an identical call that failed so often in a row is refused
_STRICTNESS: dict[PolicyAction, int] = {"allow": 0, "ask": 1, "deny": 2}


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
    call it: ``rules[2]``, ``run.rules[0]``, ``guardrails.secrets``. ``conditional`` rules apply only where
    ``fits`` says so."""

    name: str
    tool: str
    action: PolicyAction
    effect: Effect | None = None
    reason: str = ""
    conditional: bool = False
    terms: ApprovalTerms = ApprovalTerms()

    def concerns(self, tool: str, effect: Effect) -> bool:
        return fnmatchcase(tool, self.tool) and self.effect in (None, effect)


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer and the rule that gave it: a rule's name, ``default`` or ``tool`` (its own declaration)."""

    action: PolicyAction
    rule: str
    reason: str = ""
    terms: ApprovalTerms = ApprovalTerms()


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules, and what is answered when none applies."""

    rules: tuple[Rule, ...] = ()
    default: PolicyAction = "allow"


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


def _answer(policy: Policy, tool: str, effect: Effect, *, asks_by_itself: bool, fits: Callable[[Rule], bool]) -> Ruling:
    for rule in policy.rules:
        if rule.concerns(tool, effect) and (not rule.conditional or fits(rule)):
            return Ruling(rule.action, rule.name, rule.reason, rule.terms)
    if asks_by_itself and policy.default != "deny":
        return Ruling("ask", "tool", "the tool is declared to need approval")
    return Ruling(policy.default, "default", "no rule of the policy applies" if policy.default != "allow" else "")


def _takes_all(earlier: Rule, later: Rule) -> bool:
    """Whether every call that ``later`` concerns is taken by ``earlier``. A pattern with ``*`` is matched as if
    it were a name, which is right for ``*``; one with a set or ``?`` is shadowed by its own spelling only."""
    if earlier.conditional or earlier.effect not in (None, later.effect):
        return False
    if any(sign in later.tool for sign in "[?"):
        return earlier.tool in (later.tool, "*")
    return fnmatchcase(later.tool, earlier.tool)
