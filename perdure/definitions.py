"""What an agent is made of, as the journal keeps it: its model, tools, limits, policy. Plain JSON, described by
``TypedDict``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from perdure.core.policy import OnExpiry, PolicyAction
from perdure.core.spec import AnsweredBy, Effect, Limits, OnExceed, OnLimit
from perdure.core.state import Json

BOARD_ENTRIES_MAX = 60  # of a tree's blackboard: a reader is shown all of them at once
BOARD_TEXT_CHARACTERS_MAX = 2_000
BOARD_TOPIC_CHARACTERS_MAX = 64


class ModelSettings(TypedDict, total=False):
    temperature: float
    top_p: float
    max_output_tokens: int
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"]


class ApprovalTermsDefinition(TypedDict, total=False):
    """How an approval is given; what is left out has the defaults of ``perdure.core.policy.ApprovalTerms``."""

    expires_seconds: float
    on_expiry: OnExpiry
    quorum: int
    four_eyes: bool


class RuleDefinition(TypedDict):
    """``tool`` is a glob over names; ``when`` a JSON Schema that the arguments must fit for the rule to apply;
    ``matches`` a regular expression searched in every string of the arguments, ``matches_result`` in the
    result (such a rule withholds the result when it denies)."""

    tool: str
    action: PolicyAction
    effect: NotRequired[Effect]
    when: NotRequired[dict[str, Json]]
    matches: NotRequired[str]
    matches_result: NotRequired[str]
    reason: NotRequired[str]
    approval: NotRequired[ApprovalTermsDefinition]


class RateLimitDefinition(TypedDict):
    tool: str
    max_calls: int
    window_seconds: float


class PolicyDefinition(TypedDict):
    """As stored, with every default filled in. ``guardrails`` names the shipped rule sets that are on: they
    come before ``rules``. ``unknown_outcome`` says who hears of a ``once`` call whose outcome nobody knows."""

    rules: list[RuleDefinition]
    rate_limits: list[RateLimitDefinition]
    default: PolicyAction
    guardrails: list[str]
    unknown_outcome: Literal["tell", "ask"]
    repeat_failures_max: int


class ToolBudgetDefinition(TypedDict):
    max_calls: int
    on_exceed: OnExceed


class LimitsDefinition(TypedDict, total=False):
    """Counts. ``tools`` holds budgets of single tools, by name. ``turn_timeout_seconds`` bounds one attempt of a model
    call, ``tool_timeouts`` one of the named tool's, in seconds: the service's and the tool's own bound them."""

    max_turns: int
    max_tool_calls: int
    max_questions: int
    max_children: int
    max_depth: int
    max_running_children: int
    tool_output_bytes_per_turn: int | None
    tools: dict[str, ToolBudgetDefinition]
    turn_timeout_seconds: float | None
    tool_timeouts: dict[str, float]


def core_limits(limits: LimitsDefinition) -> Limits:
    """What the core must know of a run's limits; those of single tools are in its tool rules."""
    default = Limits()
    return Limits(
        max_turns=limits.get("max_turns", default.max_turns),
        max_tool_calls=limits.get("max_tool_calls", default.max_tool_calls),
        max_questions=limits.get("max_questions", default.max_questions),
        tool_output_bytes_per_turn=limits.get("tool_output_bytes_per_turn"),
    )


class FamilyLimits(TypedDict):
    """How many runs a run may start, how many of them may live at once, and how deep its tree may be: the root is 0
    deep."""

    max_children: int
    max_depth: int
    max_running_children: int


def family_limits(limits: LimitsDefinition) -> FamilyLimits:
    return FamilyLimits(
        max_children=limits.get("max_children", 50),
        max_depth=limits.get("max_depth", 3),
        max_running_children=limits.get("max_running_children", 50),
    )


class BudgetDefinition(TypedDict, total=False):
    """Money in micro-USD. None, or left out, is no limit."""

    max_cost_micros: int | None
    max_tokens: int | None
    max_output_tokens: int | None
    on_limit: OnLimit


class ClientToolDefinition(TypedDict):
    """A tool that the caller of the run executes. ``parameters`` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Json]
    expires_seconds: float


class AgentToolDefinition(TypedDict):
    """A stored agent (NAME or NAME@VERSION) as a tool of another one. The schemas are of its arguments, and of its
    answer when that has to be JSON; ``budget`` is the slice it is given."""

    agent: str
    name: str
    description: str
    input_schema: dict[str, Json]
    output_schema: NotRequired[dict[str, Json]]
    budget: NotRequired[BudgetDefinition]
    timeout_seconds: NotRequired[float]


class AgentDefinition(TypedDict):
    """An agent as stored and pinned by a run. ``tools`` are registry names. ``policy`` is the agent's,
    ``run_policy`` what a run adds, which can only narrow it, as can ``further_policies``, those of the runs above it.
    ``agents`` are the stored agents that it may start with their own tools, or hand its session to; ``agent_tools``
    those that it calls as tools. ``output_schema`` is what a run's answer must fit, when it was started by such a
    call. A run's ``budget`` and ``limits`` are the defaults it began with: what holds now is in the run's row."""

    name: str
    model: str
    instructions: str
    tools: list[str]
    model_settings: ModelSettings
    limits: LimitsDefinition
    policy: NotRequired[PolicyDefinition]
    run_policy: NotRequired[PolicyDefinition]
    budget: NotRequired[BudgetDefinition]
    client_tools: NotRequired[list[ClientToolDefinition]]
    agents: NotRequired[list[str]]
    agent_tools: NotRequired[list[AgentToolDefinition]]
    further_policies: NotRequired[list[PolicyDefinition]]
    output_schema: NotRequired[dict[str, Json]]


class ToolDescription(TypedDict):
    """A tool as a model and the catalogue see it. ``parameters`` is a JSON Schema object. ``approval``: a
    person is asked before it runs, unless a rule allows it. ``answered_by`` says who gives its result."""

    name: str
    description: str
    parameters: dict[str, Json]
    effect: Effect
    parallel: bool
    timeout_seconds: float
    max_attempts: int
    approval: bool
    answered_by: AnsweredBy
