"""What a request says about money and counts. Money is a decimal string or a JSON number, and exact: what a
micro-dollar cannot say is refused, and so is what no run could mean."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.body import Body, ToolName
from perdure.core.spec import OnExceed, OnLimit
from perdure.definitions import BudgetDefinition, LimitsDefinition, ToolBudgetDefinition

USD_MAX = 1_000_000
TOKENS_MAX = 10**12  # a million dollars at a micro-dollar each
TOOL_BUDGETS_MAX = 256
_DECIMAL = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?")


def _usd(value: Any) -> Decimal:
    """A JSON number is read as it is written in its shortest form: 0.1 is a tenth."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        amount = Decimal(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        amount = Decimal(repr(value))
    else:
        raise PydanticCustomError("money", 'give US dollars as a decimal string with at most 6 places, as "2.50"')
    if not 0 < amount <= USD_MAX:
        raise PydanticCustomError(
            "money_out_of_range", "give more than 0 and at most {most} US dollars", {"most": USD_MAX}
        )
    if amount != round(amount, 6):
        raise PydanticCustomError("money", "US dollars have at most 6 places here")
    return amount


Usd = Annotated[
    Decimal,
    BeforeValidator(_usd),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": USD_MAX},
            ],
            "examples": ["2.50"],
        }
    ),
]
Tokens = Annotated[StrictInt, Field(ge=1, le=TOKENS_MAX)]


class BudgetIn(Body):
    """What all model calls of a run may use together. `null` is no limit; what is left out is the agent's, then
    the service's. `on_limit` says what happens at a limit: one last call that sums up, a pause until the budget is
    raised, or the end."""

    max_cost_usd: Usd | None = None
    max_tokens: Tokens | None = Field(default=None, description="Input and output together.")
    max_output_tokens: Tokens | None = None
    on_limit: OnLimit | None = None

    def definition(self) -> BudgetDefinition:
        """Only what was said."""
        said: BudgetDefinition = {}
        if "max_cost_usd" in self.model_fields_set:
            said["max_cost_micros"] = None if self.max_cost_usd is None else int(self.max_cost_usd * 1_000_000)
        if "max_tokens" in self.model_fields_set:
            said["max_tokens"] = self.max_tokens
        if "max_output_tokens" in self.model_fields_set:
            said["max_output_tokens"] = self.max_output_tokens
        if self.on_limit is not None:
            said["on_limit"] = self.on_limit
        return said


TimeoutSeconds = Annotated[StrictInt | StrictFloat, Field(ge=1, le=86_400, allow_inf_nan=False)]


class ToolBudgetIn(Body):
    """How often one tool may be called in a run; further calls are refused (`block`), or run with a word to the
    model (`steer`)."""

    max_calls: StrictInt = Field(ge=0, le=1_000_000)
    on_exceed: OnExceed = "block"


class LimitsPatch(Body):
    """Counts a run may not exceed. What is left out stays as it is."""

    max_turns: StrictInt | None = Field(default=None, ge=1, le=100_000)
    max_tool_calls: StrictInt | None = Field(default=None, ge=1, le=1_000_000)
    max_questions: StrictInt | None = Field(default=None, ge=0, le=1_000, description="How often people may be asked.")
    max_children: StrictInt | None = Field(default=None, ge=0, le=10_000, description="Agents that it may start.")
    max_depth: StrictInt | None = Field(default=None, ge=0, le=10, description="Of its tree: the root is 0 deep.")
    max_running_children: StrictInt | None = Field(default=None, ge=0, le=1_000, description="At work at once.")
    tool_output_bytes_per_turn: StrictInt | None = Field(
        default=None,
        ge=1_000,
        le=1_000_000_000,
        description="When the results of one turn have more, the model is asked to sum up. `null` is no limit.",
    )

    def definition(self) -> LimitsDefinition:
        """Only what was said."""
        said = self.model_dump(exclude_unset=True, exclude={"tools", "turn_timeout_seconds", "tool_timeouts"})
        nullable = "tool_output_bytes_per_turn"
        limits = {name: value for name, value in said.items() if value is not None or name == nullable}
        return cast("LimitsDefinition", limits)


class LimitsIn(LimitsPatch):
    """Counts a run may not exceed. What is left out is the agent's, then the service's."""

    tools: dict[ToolName, ToolBudgetIn] = Field(default={}, max_length=TOOL_BUDGETS_MAX)
    turn_timeout_seconds: TimeoutSeconds | None = Field(
        default=None, description="Of one attempt of a model call; never longer than the service's own."
    )
    tool_timeouts: dict[ToolName, TimeoutSeconds] = Field(
        default={}, max_length=TOOL_BUDGETS_MAX, description="Seconds for one attempt, by tool; at most the tool's own."
    )

    def definition(self) -> LimitsDefinition:
        said = super().definition()
        if self.turn_timeout_seconds is not None:
            said["turn_timeout_seconds"] = self.turn_timeout_seconds
        if self.tool_timeouts:
            said["tool_timeouts"] = dict(self.tool_timeouts)
        if self.tools:
            said["tools"] = {
                name: ToolBudgetDefinition(max_calls=budget.max_calls, on_exceed=budget.on_exceed)
                for name, budget in self.tools.items()
            }
        return said
