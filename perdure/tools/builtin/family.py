"""The tools by which an agent leads other agents, or hands its session to one. No worker runs them like a function:
the journal starts, tells and ends runs in its own transactions (``activities/call_family.py``). Here is what a model
may ask for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.port import ToolCallContext, ToolTrouble

SPAWN_AGENT, WAIT_FOR_AGENTS, MESSAGE_AGENT, CANCEL_AGENT, TRANSFER_TO_AGENT = (
    "spawn_agent", "wait_for_agents", "message_agent", "cancel_agent", "transfer_to_agent",
)  # fmt: skip
FAMILY_TOOLS = (SPAWN_AGENT, WAIT_FOR_AGENTS, MESSAGE_AGENT, CANCEL_AGENT, TRANSFER_TO_AGENT)
TASK_CHARS_MAX = 100_000
INSTRUCTIONS_CHARS_MAX = 50_000
REASON_CHARS_MAX = 1_000
TOOLS_MAX = 128
WAITED_FOR_MAX = 100
WAIT_SECONDS = 86_400.0  # who names no time waits a day
WAIT_SECONDS_MAX = 2_592_000.0  # thirty days
USD_MAX = 1_000_000.0
TOKENS_MAX = 10**12


def _number(value: Any) -> Any:
    """Money is often written as a string; a model may do either."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


class Slice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_cost_usd: (
        Annotated[float | str, BeforeValidator(_number), Field(description="US dollars, such as 0.25")] | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX, description="input and output together")] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None


class ChildLimits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_turns: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    max_questions: Annotated[int, Field(ge=0)] | None = None
    max_children: Annotated[int, Field(ge=0)] | None = None


AGENT_PATTERN = r"^[A-Za-z0-9_.-]{1,64}(@[0-9]{1,9})?$"
AgentId = Annotated[str, Field(pattern=r"^run_[0-9A-Z]{26}$", description="as spawn_agent gave it")]


@tool(effect="idempotent", parallel=True, name=SPAWN_AGENT)
def _spawn(
    task: Annotated[
        str,
        Field(
            min_length=1, max_length=TASK_CHARS_MAX, description="all that the agent has to know: it sees nothing else"
        ),
    ],
    agent: Annotated[
        str | None,
        Field(pattern=AGENT_PATTERN, description="a stored agent: NAME or NAME@VERSION"),
    ] = None,
    model: Annotated[str | None, Field(max_length=200, description="without a stored agent; default: your own")] = None,
    instructions: Annotated[
        str | None, Field(max_length=INSTRUCTIONS_CHARS_MAX, description="without a stored agent: who it is to be")
    ] = None,
    tools: Annotated[
        list[str] | None,
        Field(max_length=TOOLS_MAX, description="some of your own; default: those of them that lead no agents"),
    ] = None,
    budget: Annotated[
        Slice | None, Field(description="its part of your budget; default: a quarter of what is left")
    ] = None,
    limits: ChildLimits | None = None,
    timeout_seconds: Annotated[
        float | None, Field(ge=1, le=WAIT_SECONDS_MAX, description="it is ended after this; default: with you")
    ] = None,
    background: Annotated[bool, Field(description="do not wait: its end comes as a message")] = False,
    detach: Annotated[bool, Field(description="it goes on when you end; default: it is cancelled")] = False,
) -> None:
    """Give a task to another agent. It works by itself, in a conversation of its own, and answers with its result.
    With background=true you get its id at once and may wait_for_agents later. Start several in one turn to have them
    work side by side."""


@tool(effect="read", parallel=True, name=WAIT_FOR_AGENTS)
def _wait(
    ids: Annotated[
        list[AgentId] | None, Field(max_length=WAITED_FOR_MAX, description="default: all that are at work")
    ] = None,
    mode: Annotated[Literal["all", "any"], Field(description="for all of them, or for the first")] = "all",
    timeout_seconds: Annotated[float | None, Field(ge=0, le=WAIT_SECONDS_MAX, description="default: a day")] = None,
) -> None:
    """Wait for agents that you have started, and get their results. After the timeout you get what there is."""


@tool(effect="idempotent", parallel=True, name=MESSAGE_AGENT)
def _message(
    id: AgentId,  # noqa: A002  (the name that models are told)
    content: Annotated[str, Field(min_length=1, max_length=TASK_CHARS_MAX)],
    delivery: Annotated[
        Literal["steer", "enqueue", "interrupt"],
        Field(description="before its next answer, after the work in hand, or at once"),
    ] = "steer",
) -> None:
    """Send a message to an agent that you have started and that is still at work."""


@tool(effect="idempotent", parallel=True, name=CANCEL_AGENT)
def _cancel(
    id: AgentId,  # noqa: A002
    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX)] = "",
) -> None:
    """End an agent that you have started, and those that it has started. It says in a last word what is done."""


@tool(effect="idempotent", name=TRANSFER_TO_AGENT)
def _transfer(
    agent: Annotated[str, Field(pattern=AGENT_PATTERN, description="one that you may hand over to")],
    message: Annotated[
        str, Field(max_length=TASK_CHARS_MAX, description="what it has to know beside all that was said")
    ] = "",
) -> None:
    """Hand this conversation over to another agent, for good: it has read all of it, and answers in your place from
    now on. Whatever else you call in this turn is done before."""


class FamilyTool:
    """A ``Tool`` whose arguments are judged here and whose calls the journal carries out."""

    def __init__(self, asked: AnyTool) -> None:
        self._asked = asked
        self.description: ToolDescription = {**asked.description, "answered_by": "family"}
        self.origin = f"perdure.tools.builtin.family.{asked.description['name']}"

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        if misshapen := self._asked.problem(arguments):
            return misshapen
        return _contradiction(arguments) if self.description["name"] == SPAWN_AGENT else None

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        name = self.description["name"]
        raise ToolTrouble(f"{name} is about other runs; no worker can run it", code="answered_by_family")


def _contradiction(arguments: dict[str, Json]) -> str | None:
    if arguments.get("agent") is not None:
        for name in ("model", "instructions"):
            if arguments.get(name) is not None:
                return f"{name}: a stored agent has its own; give either agent or {name}"
    budget = arguments.get("budget")
    cost = budget.get("max_cost_usd") if isinstance(budget, dict) else None
    if cost is None:
        return None
    amount = _number(cost)
    if not isinstance(amount, int | float) or not 0 < amount <= USD_MAX:
        return f"budget.max_cost_usd: give US dollars above 0, such as 0.25, not {str(cost)[:40]!r}"
    return None


def family_tools() -> list[FamilyTool]:
    return [FamilyTool(asked) for asked in (_spawn, _wait, _message, _cancel, _transfer)]
