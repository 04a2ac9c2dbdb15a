"""The shapes of policies and of client tools. Whether globs, schemas and patterns make sense, and whether a rule can
ever be the first to match, is found out by ``perdure.tools.policy_check``; here is what JSON can tell."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from api.body import Body, Reason, ToolName
from perdure.core.policy import OnExpiry, PolicyAction
from perdure.core.spec import Effect
from perdure.definitions import ClientToolDefinition
from perdure.tools.client_tools import CLIENT_DESCRIPTION_CHARS_MAX, CLIENT_EXPIRES_SECONDS, CLIENT_EXPIRES_SECONDS_MAX
from perdure.tools.json_schema import PATTERN_CHARS_MAX
from perdure.tools.policy_check import (
    APPROVAL_SECONDS_MAX,
    GLOB_CHARS_MAX,
    QUORUM_MAX,
    RATE_CALLS_MAX,
    RATE_LIMITS_MAX,
    RATE_WINDOW_SECONDS_MAX,
    RATE_WINDOW_SECONDS_MIN,
    RULES_MAX,
)

Seconds = Annotated[StrictFloat, Field(ge=1, le=APPROVAL_SECONDS_MAX, allow_inf_nan=False)]
Glob = Annotated[
    str, Field(min_length=1, max_length=GLOB_CHARS_MAX, description="A glob over names.", examples=["write_*"])
]
Pattern = Annotated[str, Field(min_length=1, max_length=PATTERN_CHARS_MAX)]


class ApprovalTermsIn(Body):
    """How an approval is given: by how many people, until when, and whether whoever asked for the run is one."""

    expires_seconds: Seconds | None = None
    on_expiry: OnExpiry | None = None
    quorum: StrictInt | None = Field(default=None, ge=1, le=QUORUM_MAX)
    four_eyes: StrictBool | None = None


class RuleIn(Body):
    """The first rule that applies to a call answers. It applies to tools that fit the glob `tool` and have this
    `effect`, when the arguments fit the JSON Schema `when` and hold the regular expression `matches`. A rule with
    `matches_result` looks at results, and withholds what it denies."""

    tool: Glob
    action: PolicyAction
    effect: Effect | None = None
    when: dict[str, Any] | None = None
    matches: Pattern | None = None
    matches_result: Pattern | None = None
    reason: Reason | None = None
    approval: ApprovalTermsIn | None = None


class RateLimitIn(Body):
    """At most `max_calls` of these tools start within any `window_seconds`; further calls wait for their turn."""

    tool: Glob
    max_calls: StrictInt = Field(ge=1, le=RATE_CALLS_MAX)
    window_seconds: StrictFloat = Field(ge=RATE_WINDOW_SECONDS_MIN, le=RATE_WINDOW_SECONDS_MAX, allow_inf_nan=False)


class PolicyIn(Body):
    """What may be called. Left out: what this version's defaults are, which GET shows."""

    rules: list[RuleIn] | None = Field(default=None, max_length=RULES_MAX)
    rate_limits: list[RateLimitIn] | None = Field(default=None, max_length=RATE_LIMITS_MAX)
    default: PolicyAction | None = Field(default=None, description="The answer when no rule applies.")
    guardrails: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(default=None, max_length=10)
    unknown_outcome: Literal["tell", "ask"] | None = Field(
        default=None, description="Who hears of a call whose outcome nobody knows: the model, or a person."
    )
    repeat_failures_max: StrictInt | None = Field(
        default=None,
        ge=0,
        le=1_000,
        description="An identical call that failed so often in a row is refused; 0: never.",
    )

    def definition(self) -> dict[str, Any]:
        """Only what was said."""
        return self.model_dump(exclude_none=True)


class ClientToolIn(Body):
    """A tool that the caller of the run executes: the run waits until its results are posted."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=CLIENT_DESCRIPTION_CHARS_MAX)] = ""
    parameters: dict[str, Any] = Field(
        default={"type": "object", "properties": {}}, description="A JSON Schema of an object."
    )
    expires_seconds: StrictFloat = Field(
        default=CLIENT_EXPIRES_SECONDS, ge=1, le=CLIENT_EXPIRES_SECONDS_MAX, allow_inf_nan=False
    )

    def definition(self) -> ClientToolDefinition:
        return ClientToolDefinition(
            name=self.name,
            description=self.description,
            parameters=self.parameters,
            expires_seconds=self.expires_seconds,
        )


class CheckedCall(Body):
    """A call to ask the policy about."""

    tool: ToolName
    arguments: dict[str, Any] = {}
