"""Agents as tools of agents, as a request says them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictFloat

from api.body import Body
from api.budget_bodies import Tokens, Usd
from perdure.definitions import AgentToolDefinition, BudgetDefinition
from perdure.tools.agent_tools import TASK_SCHEMA, default_description, tool_name_of
from perdure.tools.builtin.family import WAIT_SECONDS_MAX
from perdure.tools.client_tools import CLIENT_DESCRIPTION_CHARS_MAX


class SliceIn(Body):
    """The part of its caller's budget that each call gives it; what is left out is a quarter of what is left."""

    max_cost_usd: Usd | None = None
    max_tokens: Tokens | None = Field(default=None, description="Input and output together.")
    max_output_tokens: Tokens | None = None

    def definition(self) -> BudgetDefinition:
        said: BudgetDefinition = {}
        if self.max_cost_usd is not None:
            said["max_cost_micros"] = int(self.max_cost_usd * 1_000_000)
        if self.max_tokens is not None:
            said["max_tokens"] = self.max_tokens
        if self.max_output_tokens is not None:
            said["max_output_tokens"] = self.max_output_tokens
        return said


class AgentToolIn(Body):
    """A stored agent that the model calls like any tool: each call starts a run of it and waits for the answer."""

    agent: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[0-9]{1,9})?$",
            description="Its name; `@version` pins one, the newest runs otherwise.",
            examples=["researcher", "researcher@3"],
        ),
    ]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, description="Of the tool; the agent's own without, with `_` for what no tool's name may have."
    )
    description: Annotated[str, Field(max_length=CLIENT_DESCRIPTION_CHARS_MAX)] | None = None
    input_schema: dict[str, Any] | None = Field(
        default=None, description='A JSON Schema of an object; `{"task": text}` without. The agent gets what fits.'
    )
    output_schema: dict[str, Any] | None = Field(
        default=None, description="A JSON Schema; the agent's answer must be JSON that fits."
    )
    budget: SliceIn | None = None
    timeout_seconds: StrictFloat | None = Field(default=None, ge=1, le=WAIT_SECONDS_MAX, allow_inf_nan=False)

    def definition(self) -> AgentToolDefinition:
        made = AgentToolDefinition(
            agent=self.agent,
            name=self.name or tool_name_of(self.agent),
            description=default_description(self.agent) if self.description is None else self.description,
            input_schema=TASK_SCHEMA if self.input_schema is None else self.input_schema,
        )
        if self.output_schema is not None:
            made["output_schema"] = self.output_schema
        if self.budget is not None and (said := self.budget.definition()):
            made["budget"] = said
        if self.timeout_seconds is not None:
            made["timeout_seconds"] = self.timeout_seconds
        return made
