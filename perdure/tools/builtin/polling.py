"""``poll``: another tool, run again and again without a model in between, until its result is as wanted. Each try is an
activity of its own and the pause between two is a wait of the run; ``activities/poll_tool.py`` does the tries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.tools.function_tool import tool as a_tool
from perdure.tools.json_schema import BadSchema, Schema, schema_of
from perdure.tools.moments import SECONDS_MAX, within_limits
from perdure.tools.port import Tool, ToolBox, ToolCallContext, ToolTrouble

POLL = "poll"
EVERY_SECONDS_MAX = 86_400.0
TRIES_MAX = 10_000  # each leaves two events in the journal and about ten in Temporal's history
TRY_SECONDS_MAX = 300.0  # of one try, whatever the tool's own timeout


@a_tool(effect="read", parallel=True, name=POLL, timeout_seconds=TRY_SECONDS_MAX, max_attempts=2 * TRIES_MAX)
def _poll(
    tool: Annotated[str, Field(max_length=64, description="name of a tool of yours that only reads")],
    every_seconds: Annotated[float, Field(ge=1, le=EVERY_SECONDS_MAX, description="pause between two tries")],
    until: Annotated[
        dict[str, Any],
        Field(description="JSON Schema that its result has to fit (text that is no JSON counts as a string)"),
    ],
    timeout_seconds: Annotated[float, Field(ge=1, le=SECONDS_MAX, description="give up after this")],
    arguments: Annotated[dict[str, Any] | None, Field(description="for that tool, the same at every try")] = None,
) -> None:
    """Call a tool that only reads again and again, until its result fits a JSON Schema: that result is the answer. It
    costs no model call. A message ends it."""


@dataclass(frozen=True, slots=True)
class PollPlan:
    """The arguments of a poll that fit."""

    tool: str
    arguments: dict[str, Json]
    every_ms: int
    timeout_ms: int
    until: Schema

    def holds(self, text: str) -> bool:
        """Whether this result is as wanted."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        try:
            return self.until.fits(value)
        except ValueError:
            return False


class Poll:
    """The tool. What it runs is judged like a call of its own: it has to be one of the run's tools that only read."""

    description: ToolDescription = _poll.description
    origin = "perdure.tools.builtin.polling"

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        if misshapen := _poll.problem(arguments):
            return misshapen
        try:
            plan = plan_of(arguments)
        except BadSchema as bad:
            return f"until: the schema {bad}"
        if plan.timeout_ms > TRIES_MAX * plan.every_ms:
            return f"every_seconds: at most {TRIES_MAX} tries; pause longer, or give up earlier"
        return None

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        raise ToolTrouble("poll needs the tools of its run: only a run's worker can run it")


def plan_of(arguments: dict[str, Json]) -> PollPlan:
    """Of arguments that have the shape of the tool's schema. BadSchema."""
    given = arguments.get("arguments")
    return PollPlan(
        tool=str(arguments["tool"]),
        arguments=given if isinstance(given, dict) else {},
        every_ms=int(float(str(arguments["every_seconds"])) * 1_000),
        timeout_ms=int(float(str(arguments["timeout_seconds"])) * 1_000),
        until=schema_of(arguments["until"]),
    )


def polled_tool(toolbox: ToolBox, plan: PollPlan) -> Tool | str:
    """What the poll runs, or why it cannot, in words a model can act on."""
    found = toolbox.get(plan.tool)
    if found is None or not _may_be_polled(found):
        those = [name for name in toolbox.names() if (one := toolbox.get(name)) and _may_be_polled(one)]
        return f"tool: {plan.tool!r} cannot be polled; tools of yours that only read: {', '.join(those) or 'none'}"
    problem = found.problem(plan.arguments)
    return found if problem is None else f"arguments: {problem}"


def poll_ends_ms(plan: PollPlan, now_ms: int, deadline_ms: int) -> int:
    """When it gives up. InvalidArguments when that is beyond the run's deadline."""
    return within_limits("timeout_seconds", now_ms + plan.timeout_ms, now_ms, deadline_ms)


def _may_be_polled(tool: Tool) -> bool:
    about = tool.description
    return about["effect"] == "read" and about["answered_by"] == "worker" and about["name"] != POLL


def polling_tools() -> list[Poll]:
    return [Poll()]
