"""From the arguments of ``spawn_agent``, or of an agent that is a tool, to a run that the journal can start: who the
child is, what it may use, how long it may take. What it may cost is decided by the journal, which has the ledger.

A child can do no more than its parent. An inline child has some of its parent's tools and all of its policies. A stored
agent has its own policy and its parent's beside it, where the stricter answer stands; of its own tools it keeps those
that its parent has too, unless its parent's definition names it, in ``agents`` or as a tool.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ulid import ULID

from perdure.content import Block
from perdure.core.budget import TOKENS_PER_BYTE_PERMILLE, Ask, Budget, input_bound
from perdure.core.state import Json
from perdure.definitions import AgentDefinition, AgentToolDefinition, LimitsDefinition, family_limits
from perdure.providers.estimate import price_of, request_bytes
from perdure.providers.port import ModelCatalog, UnknownModel
from perdure.store.journal import Journal
from perdure.store.rows import AgentRow, HandOver, NewChild, NewRun, RunRow
from perdure.store.trouble import NotFound
from perdure.tools.agent_tools import task_of, with_answer_schema
from perdure.tools.builtin.family import FAMILY_TOOLS
from perdure.tools.client_tools import run_tool_names, run_toolbox
from perdure.tools.policy import policies_of
from perdure.tools.port import ToolBox

INLINE_INSTRUCTIONS = (
    "You were started by another agent to do one task, which is all that you are told. Do it, and answer with the "
    "result: your last answer is all that is read."
)
_COUNTS = ("max_turns", "max_tool_calls", "max_questions", "max_children")


class Refused(Exception):
    """There cannot be such a child: a code, and words a model can act on."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


@dataclass(frozen=True)
class Nursery:
    """What children are made with. ``limits`` and ``budget`` are the service's own, for stored agents that name
    none; ``output_tokens_default`` is the output cap of agents that name none."""

    journal: Journal
    catalog: ModelCatalog
    toolbox: ToolBox
    limits: LimitsDefinition
    budget: Budget
    output_tokens_default: int

    async def child(self, parent: RunRow, arguments: Mapping[str, Json]) -> NewChild:
        """Refused: agent_not_found, unknown_model, unknown_tool, model_not_priced, and what the journal refuses."""
        reference = arguments.get("agent")
        agent = await self.stored(parent, reference) if isinstance(reference, str) else None
        definition = _of_agent(parent, agent) if agent else self._inline(parent, arguments)
        return self._child(parent, agent, definition, arguments, _wanted(arguments))

    async def child_as_tool(
        self, parent: RunRow, tool: AgentToolDefinition, arguments: Mapping[str, Json]
    ) -> NewChild:  # fmt: skip
        """Refused alike. Whoever made the agent a tool has allowed it: it keeps all of its own tools."""
        agent = await self.stored(parent, tool["agent"])
        definition = _of_agent(parent, agent, whole=True)
        if schema := tool.get("output_schema"):
            definition["output_schema"] = schema
            definition["instructions"] = with_answer_schema(definition["instructions"], schema)
        said: Mapping[str, Any] = tool.get("budget", {})
        wanted = Budget(said.get("max_cost_micros"), said.get("max_tokens"), said.get("max_output_tokens"))
        given: dict[str, Json] = {"task": task_of(tool, arguments), "timeout_seconds": tool.get("timeout_seconds")}
        return self._child(parent, agent, definition, given, wanted)

    async def successor(self, run: RunRow, reference: str, message: str) -> HandOver:
        """The agent that takes ``run`` over, held to all that the run is held to. Refused: agent_not_allowed,
        agent_not_found, unknown_model, unknown_tool, model_not_priced."""
        above = run.definition
        allowed = above.get("agents", [])
        if reference.partition("@")[0] not in allowed:
            words = (
                f"this session cannot be handed to {reference!r}; it can be handed to: {', '.join(allowed) or 'none'}"
            )
            raise Refused("agent_not_allowed", words)
        agent = await self.stored(run, reference)
        definition: AgentDefinition = {**agent.definition}
        if policy := above.get("run_policy"):
            definition["run_policy"] = policy
        if policies := above.get("further_policies"):
            definition["further_policies"] = policies
        if tools := above.get("client_tools"):
            definition["client_tools"] = tools
        if schema := above.get("output_schema"):
            definition["output_schema"] = schema
            definition["instructions"] = with_answer_schema(definition["instructions"], schema)
        self.check(definition)
        if run.budget is not None and run.budget.max_cost_micros is not None:
            self.check_price(definition)
        return HandOver(definition, agent.id, agent.version, message)

    def _child(
        self, parent: RunRow, agent: AgentRow | None, definition: AgentDefinition, arguments: Mapping[str, Json],
        wanted: Budget,
    ) -> NewChild:  # fmt: skip
        self.check(definition)
        task: list[Block] = [{"type": "text", "text": str(arguments["task"])}]
        run = NewRun(
            run_id=f"run_{ULID()}",
            definition=definition,
            input=task,
            deadline_ms=_deadline_ms(parent, arguments),
            limits=self._limits(parent, agent, arguments),
            budget=self._budget(definition),
            requested_by=parent.requested_by,
            agent_id=agent.id if agent else None,
            agent_version=agent.version if agent else None,
            project_id=parent.project_id,
            labels=parent.labels,
            traceparent=parent.traceparent,
        )
        limited = wanted.max_cost_micros is not None or (run.budget and run.budget.max_cost_micros is not None)
        limited = limited or (parent.budget is not None and parent.budget.max_cost_micros is not None)
        if limited:
            self.check_price(definition)
        return NewChild(
            run,
            wanted,
            self._first_call(definition, task),
            arguments.get("background") is True,
            arguments.get("detach") is True,
        )

    def check_price(self, definition: AgentDefinition) -> None:
        """Where its cost is limited."""
        if price_of(self.catalog, definition["model"])(1_000, 1_000) is None:
            words = f"nobody knows the price of {definition['model']}, and its cost is limited: use another model"
            raise Refused("model_not_priced", words)

    async def stored(self, parent: RunRow, reference: str) -> AgentRow:
        """NAME or NAME@VERSION, in the project of ``parent``."""
        name, _, version = reference.partition("@")
        try:
            return await self.journal.get_agent(parent.project_id, name, int(version) if version else None)
        except NotFound:
            known = await self.journal.list_agents(parent.project_id, limit=50, cursor=None, descending=False)
            shown = ", ".join(row.name for row in known.rows) or "none"
            raise Refused("agent_not_found", f"there is no agent {reference!r}; there are: {shown}") from None

    def _inline(self, parent: RunRow, arguments: Mapping[str, Json]) -> AgentDefinition:
        above = parent.definition
        wanted = arguments.get("tools")
        names = [str(one) for one in wanted] if isinstance(wanted, list) else None
        own = run_tool_names(above)
        if names is None:
            names = [name for name in above["tools"] if name not in FAMILY_TOOLS]  # nor agents that are tools
        elif strange := [name for name in names if name not in own]:
            words = f"you have no tool {', '.join(map(repr, strange))} to give; you have: {', '.join(own)}"
            raise Refused("unknown_tool", words)
        names = list(dict.fromkeys(names))
        definition: AgentDefinition = {
            **above,
            "name": "inline",
            "model": str(arguments.get("model") or above["model"]),
            "instructions": str(arguments.get("instructions") or INLINE_INSTRUCTIONS),
            "tools": [name for name in names if name in above["tools"]],
            "client_tools": [tool for tool in above.get("client_tools", []) if tool["name"] in names],
            "agent_tools": [tool for tool in above.get("agent_tools", []) if tool["name"] in names],
        }
        definition.pop("output_schema", None)  # of its parent's answer
        if definition["model"] != above["model"]:  # how one model is set says nothing of another
            kept = above["model_settings"].get("max_output_tokens")
            definition["model_settings"] = {} if kept is None else {"max_output_tokens": kept}
        definition.pop("budget", None)
        return definition

    def check(self, definition: AgentDefinition) -> None:
        try:
            self.catalog.check(definition["model"])
        except UnknownModel as unknown:
            raise Refused("unknown_model", str(unknown)) from None
        if gone := [name for name in definition["tools"] if self.toolbox.get(name) is None]:
            raise Refused("unknown_tool", f"the agent {definition['name']} needs tools that are not here: {gone}")

    def _limits(self, parent: RunRow, agent: AgentRow | None, arguments: Mapping[str, Json]) -> LimitsDefinition:
        """An inline child has its parent's, a stored agent its own; either may be given less."""
        base = {**self.limits, **agent.definition["limits"]} if agent else dict(parent.limits)
        given = arguments.get("limits")
        for name in _COUNTS:
            count = given.get(name) if isinstance(given, dict) else None
            if isinstance(count, int):
                most = base.get(name)
                base[name] = min(count, most) if isinstance(most, int) else count
        limits = cast("LimitsDefinition", base)
        return {"tools": {}, **limits, **family_limits(limits)}

    def _budget(self, definition: AgentDefinition) -> Budget | None:
        """What its own agent, or the service, allows it; None when nobody has set a limit, nor what happens at one."""
        said: Mapping[str, Any] = definition.get("budget", {})
        budget = Budget(
            said.get("max_cost_micros", self.budget.max_cost_micros),
            said.get("max_tokens", self.budget.max_tokens),
            said.get("max_output_tokens", self.budget.max_output_tokens),
            said.get("on_limit", self.budget.on_limit),
        )
        limited = (budget.max_cost_micros, budget.max_tokens, budget.max_output_tokens) != (None, None, None)
        return budget if limited or "on_limit" in said else None

    def _first_call(self, definition: AgentDefinition, task: Sequence[Block]) -> Ask:
        tools = run_toolbox(self.toolbox, definition).describe(run_tool_names(definition))
        bound = input_bound(
            None, request_bytes(definition["instructions"], tools, [task]), 1, TOKENS_PER_BYTE_PERMILLE
        )  # fmt: skip
        cap = definition["model_settings"].get("max_output_tokens", self.output_tokens_default)
        return Ask(bound, cap, price_of(self.catalog, definition["model"]))


def _of_agent(parent: RunRow, agent: AgentRow, *, whole: bool = False) -> AgentDefinition:
    """``whole``, or named in its parent's ``agents``: as it was written. Else what it may use is what its parent may
    use, too: tools, and agents, which have tools of their own."""
    above = parent.definition
    definition: AgentDefinition = {**agent.definition, "further_policies": policies_of(above)}
    if whole or definition["name"] in above.get("agents", []):
        return definition
    definition["tools"] = [name for name in definition["tools"] if name in above["tools"]]
    definition["agents"] = [name for name in definition.get("agents", []) if name in above.get("agents", [])]
    own = definition.get("agent_tools", [])
    definition["agent_tools"] = [tool for tool in own if tool in above.get("agent_tools", [])]
    return definition


def _deadline_ms(parent: RunRow, arguments: Mapping[str, Json]) -> int:
    seconds = arguments.get("timeout_seconds")
    if not isinstance(seconds, int | float):
        return parent.deadline_ms
    return min(parent.deadline_ms, time.time_ns() // 1_000_000 + int(seconds * 1_000))


def _wanted(arguments: Mapping[str, Json]) -> Budget:
    """The slice that the model asks for; what it does not say is None."""
    given = arguments.get("budget")
    said: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    cost = said.get("max_cost_usd")
    return Budget(
        None if cost is None else max(1, round(float(cost) * 1_000_000)),
        said.get("max_tokens"),
        said.get("max_output_tokens"),
    )
