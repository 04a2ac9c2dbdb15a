"""What is drawn by lot for one simulated run: how hostile its world is, its tools, limits, policy and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from perdure.core.budget import Budget, Price
from perdure.core.policy import ApprovalTerms, Policy, PolicyAction, Rule
from perdure.core.spec import Limits, OnLimit, RateLimit, RunSpec, ToolRule
from tests.core.shell import NEVER_MS

START_MS = 1_000
ARGUMENTS = 4  # a call's arguments are one of so many numbers
STRICTER: dict[PolicyAction, int] = {"allow": 0, "ask": 1, "deny": 2}
TIME_TOOLS = (
    ToolRule("sleep", "read", parallel=True, answered_by="time"),
    ToolRule("wait_for_event", "read", parallel=True, answered_by="time"),
    ToolRule("poll", "read", parallel=True),
)
FAMILY_TOOLS = (
    ToolRule("spawn_agent", "idempotent", parallel=True, answered_by="family"),
    ToolRule("wait_for_agents", "read", parallel=True, answered_by="family"),
    ToolRule("message_agent", "idempotent", parallel=True, answered_by="family"),
    ToolRule("cancel_agent", "idempotent", parallel=True, answered_by="family"),
)
ON_LIMITS: tuple[OnLimit, ...] = ("wrap_up", "pause", "stop")


@dataclass
class Temper:
    """How hostile the world is to one run: chances per step or per event."""

    message: float
    cancel: float
    pause: float
    limits: float
    recover: float  # people give up attempts and give results by hand
    lost: float
    model_fails: float
    hangs: float
    echo: float
    crash: float
    asks: float
    calls_max: int
    cut_off: float
    force: float
    decides: float  # per step, that somebody decides about something that is asked
    shuffled: float  # that orders are delivered late and out of order
    overuse: float  # that a vendor uses more than it was allowed
    unknown: float  # that a once call's outcome is not known

    @staticmethod
    def drawn(chance: Random) -> Temper:
        return Temper(
            message=chance.choice((0.0, 0.02, 0.15)),
            cancel=chance.choice((0.0, 0.0, 0.005, 0.03)),
            pause=chance.choice((0.0, 0.0, 0.02)),
            limits=chance.choice((0.0, 0.02)),
            recover=chance.choice((0.0, 0.0, 0.03)),
            lost=chance.choice((0.0, 0.05, 0.3)),
            model_fails=chance.choice((0.0, 0.0, 0.05)),
            hangs=chance.choice((0.0, 0.0, 0.03)),
            echo=chance.choice((0.0, 0.05, 0.2)),
            crash=chance.choice((0.0, 0.01, 0.03)),
            asks=chance.choice((0.5, 0.9, 0.97, 0.97)),
            calls_max=chance.choice((1, 2, 4, 8, 30)),
            cut_off=chance.choice((0.0, 0.0, 0.05, 0.2)),
            force=chance.choice((0.0,) * 9 + (0.01,)),
            decides=chance.choice((0.0, 0.05, 0.2, 0.5)),
            shuffled=chance.choice((0.0, 0.0, 0.3)),
            overuse=chance.choice((0.0, 0.0, 0.1)),
            unknown=chance.choice((0.0, 0.0, 0.2)),
        )

    def about_money(self, chance: Random) -> Temper:
        """Long runs in which much is tried again: what a budget has to hold against."""
        return replace(
            self,
            cancel=min(self.cancel, 0.005),
            lost=chance.choice((0.05, 0.3)),
            crash=chance.choice((0.01, 0.03)),
            model_fails=min(self.model_fails, 0.02),
            asks=0.97,
            calls_max=chance.choice((2, 4, 15)),
            decides=0.5,
        )

    def about_family(self, chance: Random) -> Temper:
        """Runs that go on for a while, whose children end in every order, and which are told much meanwhile."""
        return replace(
            self,
            cancel=min(self.cancel, 0.01),
            cut_off=min(self.cut_off, 0.05),
            model_fails=min(self.model_fails, 0.02),
            asks=chance.choice((0.9, 0.97)),
            calls_max=chance.choice((1, 2, 4, 8)),
        )


def spec_drawn(chance: Random, *, budgeted: bool, timed: bool = False, leads: bool = False) -> RunSpec:
    rate_limits = tuple(
        RateLimit(chance.randint(1, 3), chance.choice((0.05, 0.3, 1.0))) for _ in range(chance.choice((0, 0, 1, 2)))
    )
    every = (
        ToolRule("read", "read", parallel=True),
        ToolRule("search", "idempotent", parallel=True),
        ToolRule("write", "once"),
        ToolRule("pay", "once", parallel=True),
        ToolRule("ask_user", "once", parallel=True, answered_by="people"),
        ToolRule("browser", "once", parallel=True, answered_by="client"),
        *(TIME_TOOLS if timed else ()),
        *(FAMILY_TOOLS if leads else ()),
    )
    tools = tuple(
        replace(
            tool,
            parallel=tool.parallel and chance.random() < 0.8,
            max_calls=chance.choice((None, None, None, 1, 4)),
            on_exceed=chance.choice(("steer", "block")),
            rates=tuple(index for index in range(len(rate_limits)) if chance.random() < 0.5),
        )
        for tool in every
        if chance.random() < (0.7 if tool in FAMILY_TOOLS or not leads else 0.3) or tool.name == "spawn_agent"
    )
    return RunSpec(
        run_id=f"run_{chance.randrange(10**12):012}",
        agent="tester",
        model="scripted/tour",
        deadline_ms=START_MS + chance.choice((NEVER_MS,) * 4 + (chance.randrange(1, 5_000),)),
        start_ms=START_MS + chance.choice((0, 0, 300, 2_000)) if timed and chance.random() < 0.3 else 0,
        limits=limits_drawn(chance) if not leads or chance.random() < 0.3 else Limits(chance.choice((4, 12, 30))),
        tools=tools,
        rate_limits=rate_limits,
        on_limit=chance.choice(ON_LIMITS) if budgeted else None,
        ask_about_unknown=chance.random() < 0.5,
    )


def limits_drawn(chance: Random) -> Limits:
    return Limits(
        max_turns=chance.choice((1, 4, 12, 30, 30)),
        max_tool_calls=chance.choice((0, 3, 20, 1_000, 1_000, 1_000, 1_000)),
        max_questions=chance.choice((0, 1, 3, 10)),
        tool_output_bytes_per_turn=chance.choice((None, 500)),
    )


def price_drawn(chance: Random) -> Price:
    """Micro-USD, as vendors price: by the million tokens, dearer in long prompts, sometimes free."""
    input_price, output_price = chance.choice(((0, 0), (250_000, 2_000_000), (3_000_000, 15_000_000), (7, 11)))
    long = chance.choice((2_000, 10**9))

    def price(input_tokens: int, output_tokens: int) -> int:
        factor = 2 if input_tokens > long else 1
        return -(-factor * (input_tokens * input_price + output_tokens * output_price) // 1_000_000)

    return price


def budget_drawn(chance: Random, price: Price, on_limit: OnLimit) -> Budget:
    """Limits that a few calls reach, many, or none; some of them absurd."""
    calls = chance.choice((0, 1, 3, 10, 30, 100))
    cost, tokens, output = price(1_500, 1_000) * calls + chance.randrange(50), 2_500 * calls + 7, 1_000 * calls + 3
    return Budget(
        cost if chance.random() < 0.6 else None,
        tokens if chance.random() < 0.4 else None,
        output if chance.random() < 0.4 else None,
        on_limit,
    )


class Law:
    """A policy by table: what each tool with each arguments is answered. ``policies`` say the same in rules, the
    agent's and the run's own; the stricter word of both holds."""

    def __init__(self, chance: Random, tools: tuple[ToolRule, ...], *, lax: bool = False) -> None:
        self.policies: list[Policy] = []
        self.table: dict[tuple[str, int], PolicyAction] = {}
        self.terms = ApprovalTerms(
            chance.choice((0.1, 1.0, 20.0)), chance.choice(("deny", "fail", "escalate")), chance.choice((1, 1, 2))
        )
        for layer in range(chance.choice((1, 2))):
            default: PolicyAction = "allow" if lax else chance.choice(("allow",) * 5 + ("ask", "deny"))
            rules = [rule for tool in tools for rule in self._rules(chance, layer, tool.name, default)]
            self.policies.append(Policy(tuple(rules), default))

    def _rules(self, chance: Random, layer: int, tool: str, default: PolicyAction) -> list[Rule]:
        rules: list[Rule] = []
        for arguments in range(ARGUMENTS):
            action: PolicyAction = default
            if default == "ask" or chance.random() < 0.5:  # what asks has these terms, not the default's three days
                action = chance.choice(("allow", "allow", "allow", "ask", "ask", "deny"))
                name = f"{layer}: {tool} {arguments}"
                rules.append(Rule(name, tool, action, condition=str(arguments), terms=self.terms))
            before = self.table.get((tool, arguments), action)
            self.table[tool, arguments] = max(before, action, key=STRICTER.__getitem__)
        return rules

    def word(self, tool: str, arguments: int) -> PolicyAction:
        return self.table[tool, arguments]

    def fits(self, arguments: int) -> Callable[[Rule], bool]:
        return lambda rule: rule.condition == str(arguments)
