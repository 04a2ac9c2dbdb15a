"""From a request to the agent definition that a run pins: everything it names must exist now, and what it says of
policies, budgets and limits must make sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from api.agent_tools import named_agent_errors
from api.body import TextBlockIn
from api.budgets import (
    check_first_call,
    check_price,
    contradictions,
    is_priced,
    not_priced,
)
from api.parts import PROJECT
from api.policies import field_errors
from api.policy_bodies import PolicyIn
from api.problems import FieldError, errors_problem, field_problem
from api.requests import AgentBody, AgentReference, CreateRun, InlineAgent, RunInput
from perdure.assembly import Assembly, resolved_budget, resolved_limits
from perdure.content import Block
from perdure.core.budget import Budget
from perdure.definitions import AgentDefinition, LimitsDefinition, ModelSettings, ToolDescription
from perdure.providers.port import UnknownModel
from perdure.store.rows import AgentRow
from perdure.store.trouble import NotFound
from perdure.tools.agent_tools import agent_tool_problems
from perdure.tools.client_tools import client_tool_problems, run_tool_names, run_toolbox
from perdure.tools.policy import normalized
from perdure.tools.policy_check import limits_problems, policy_problems
from perdure.tools.problem import Problem as Fault

INLINE_NAME = "inline"


def input_blocks(given: RunInput) -> list[Block]:
    """One user message: texts in their order. ``validation_failed`` when nothing is said."""
    texts: list[str] = []
    for item in [given] if isinstance(given, str) else given:
        match item:
            case str():
                texts.append(item)
            case TextBlockIn():
                texts.append(item.text)
            case _ if isinstance(item.content, str):
                texts.append(item.content)
            case _:
                texts.extend(block.text for block in item.content)
    if not any(text.strip() for text in texts):
        raise field_problem("validation_failed", "/input", "the input holds no text", kind="empty")
    return [{"type": "text", "text": text} for text in texts if text]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a run is made of. ``agent`` is the stored agent, if it is one."""

    definition: AgentDefinition
    agent: AgentRow | None
    limits: LimitsDefinition
    budget: Budget | None


def definition_of(body: AgentBody, name: str) -> AgentDefinition:
    """As stored: the policy with every default filled in, of the rest only what was given."""
    definition = AgentDefinition(
        name=name,
        model=body.model,
        instructions=body.instructions,
        tools=list(body.tools),
        model_settings=cast("ModelSettings", body.model_settings.model_dump(exclude_none=True)),
        limits=body.limits.definition(),
        policy=normalized(body.policy.definition()),
    )
    if body.budget is not None:
        definition["budget"] = body.budget.definition()
    if body.agents:
        definition["agents"] = list(body.agents)
    if body.agent_tools:
        definition["agent_tools"] = [tool.definition() for tool in body.agent_tools]
    return definition


async def checked(
    assembly: Assembly, body: AgentBody, name: str, pointer: str, beside: Mapping[str, AgentDefinition] | None = None
) -> AgentDefinition:
    """The definition, or a problem with everything that is wrong with it. ``beside``: see ``body_errors_of``."""
    definition = definition_of(body, name)
    if errors := await body_errors_of(assembly, body, definition, pointer, beside):
        raise errors_problem(errors)
    return definition


async def body_errors_of(
    assembly: Assembly, body: AgentBody, definition: AgentDefinition, pointer: str,
    beside: Mapping[str, AgentDefinition] | None = None,
) -> list[FieldError]:  # fmt: skip
    """All that is wrong with an agent. ``beside`` are agents that are about to be stored, this one among them; None
    for an inline one."""
    errors = definition_errors(assembly, definition, body.policy.definition(), pointer)
    return errors + await named_agent_errors(assembly, definition, pointer, beside or {})


def definition_errors(
    assembly: Assembly, definition: AgentDefinition, policy: Mapping[str, Any], pointer: str
) -> list[FieldError]:
    """``unknown_model``, ``unknown_tool``, ``model_not_priced``, and what makes no sense. ``policy`` is the policy
    as it was given: with its defaults filled in, what contradicts itself may be gone."""
    limits, budget = definition["limits"], definition.get("budget", {})
    described = described_tools(assembly, definition)
    errors = [*_model_errors(assembly, definition, pointer), *_tool_errors(assembly, definition, pointer)]
    errors += field_errors(limits_problems(limits, described, at=f"{pointer}/limits"))
    errors += contradictions(budget, f"{pointer}/budget")
    if budget.get("max_cost_micros") is not None and not is_priced(assembly, definition["model"]):
        errors.append(FieldError(f"{pointer}/budget/max_cost_usd", "model_not_priced", not_priced(definition["model"])))
    return errors + field_errors(policy_problems(policy, described, at=f"{pointer}/policy"))


def described_tools(assembly: Assembly, definition: AgentDefinition) -> list[ToolDescription]:
    """Of the tools that the definition names, those that are here and sound."""
    bad = {int(fault.pointer.split("/")[1]) for fault in _agent_tool_faults(assembly, definition, "")}
    sound = [tool for number, tool in enumerate(definition.get("agent_tools", [])) if number not in bad]
    box = run_toolbox(assembly.toolbox, {**definition, "agent_tools": sound})
    return [tool.description for name in box.names() if (tool := box.get(name)) is not None]


def _agent_tool_faults(assembly: Assembly, definition: AgentDefinition, at: str) -> list[Fault]:
    tools = cast("list[Any]", definition.get("agent_tools", []))
    return agent_tool_problems(tools, definition["tools"], assembly.toolbox, at=at)


def _model_errors(assembly: Assembly, definition: AgentDefinition, pointer: str) -> list[FieldError]:
    try:
        assembly.catalog.check(definition["model"])
    except UnknownModel as error:
        return [FieldError(f"{pointer}/model", "unknown_model", str(error))]
    return []


def _tool_errors(assembly: Assembly, definition: AgentDefinition, pointer: str) -> list[FieldError]:
    errors = []
    for index, name in enumerate(definition["tools"]):
        here = f"{pointer}/tools/{index}"
        if assembly.toolbox.get(name) is None:
            known = ", ".join(sorted(assembly.toolbox.names()))
            errors.append(FieldError(here, "unknown_tool", f"there is no tool {name!r}; there are: {known}"))
        elif name in definition["tools"][:index]:
            errors.append(FieldError(here, "duplicate", f"tool {name!r} is named twice"))
    return errors + field_errors(_agent_tool_faults(assembly, definition, f"{pointer}/agent_tools"))


async def resolve(assembly: Assembly, body: CreateRun, content: list[Block]) -> Resolved:
    """The definition that the run pins, with its own policy and tools; its limits and its budget."""
    definition, agent = await resolve_agent(assembly, body.agent, body.agent_inline)
    return resolve_run(assembly, definition, agent, body, content)


def resolve_run(
    assembly: Assembly, definition: AgentDefinition, agent: AgentRow | None, body: CreateRun, content: list[Block]
) -> Resolved:
    """The same for a definition that is known already."""
    if body.client_tools:
        definition = {**definition, "client_tools": [tool.definition() for tool in body.client_tools]}
    if errors := _run_errors(assembly, definition, body):
        raise errors_problem(errors)
    definition = narrowed(assembly, definition, body.policy)
    said = body.budget.definition() if body.budget else {}
    of_agent = definition.get("budget", {})
    budget = resolved_budget(assembly.settings, of_agent, said)
    check_price(assembly, definition["model"], budget, "/budget/max_cost_usd")

    def pointer_to(limit: str) -> str:
        """Where the limit of the budget was given."""
        member = "max_cost_micros" if limit == "max_cost_usd" else limit
        if member in said or member not in of_agent:
            return f"/budget/{limit}"
        return "/agent" if agent else f"/agent_inline/budget/{limit}"

    tools = run_toolbox(assembly.toolbox, definition).describe(run_tool_names(definition))
    check_first_call(assembly, definition, tools, content, budget, pointer_to)
    limits = resolved_limits(assembly.settings, definition["limits"], body.limits.definition())
    return Resolved({**definition, "limits": limits}, agent, limits, budget)


async def resolve_agent(
    assembly: Assembly, reference: AgentReference | None, inline: InlineAgent | None
) -> tuple[AgentDefinition, AgentRow | None]:
    """The definition of one of both, checked."""
    if reference is not None and inline is not None:
        raise field_problem(
            "validation_failed", "/agent_inline", "give either agent or agent_inline, not both", kind="conflict"
        )
    if inline is not None:
        return await checked(assembly, inline, inline.name or INLINE_NAME, "/agent_inline"), None
    if reference is None:
        raise field_problem("validation_failed", "/agent", "give agent or agent_inline", kind="missing")
    row = await find_agent(assembly, reference)
    definition = row.definition
    if errors := definition_errors(assembly, definition, definition.get("policy", {}), ""):
        # What it names was there when it was stored; its parts are not in this request.
        raise errors_problem([FieldError("/agent", error.code, error.message) for error in errors])
    return definition, row


def narrowed(assembly: Assembly, definition: AgentDefinition, policy: PolicyIn | None) -> AgentDefinition:
    """With the policy of a run, which is asked beside the agent's: it can only narrow."""
    if policy is None:
        return definition
    tools = run_toolbox(assembly.toolbox, definition).describe(run_tool_names(definition))
    if faults := policy_problems(policy.definition(), tools):
        raise errors_problem(field_errors(faults))
    return {**definition, "run_policy": normalized(policy.definition(), of_run=True)}


def _run_errors(assembly: Assembly, definition: AgentDefinition, body: CreateRun) -> list[FieldError]:
    if faults := client_tool_problems(cast("list[Any]", definition.get("client_tools", [])), assembly.toolbox):
        return field_errors(faults)  # what follows looks at these tools
    own = {tool["name"] for tool in definition.get("agent_tools", [])}
    for number, tool in enumerate(definition.get("client_tools", [])):
        if tool["name"] in own:
            message = f"an agent is a tool with the name {tool['name']!r} already"
            return [FieldError(f"/client_tools/{number}/name", "tool_exists", message)]
    tools = run_toolbox(assembly.toolbox, definition).describe(run_tool_names(definition))
    errors = field_errors(limits_problems(body.limits.definition(), tools))
    errors += contradictions(body.budget.definition() if body.budget else {}, "/budget")
    if body.policy is not None:
        errors += field_errors(policy_problems(body.policy.definition(), tools))
    return errors


async def find_agent(assembly: Assembly, reference: str) -> AgentRow:
    """By name, by id, or ``name@version``. ``agent_not_found``."""
    name, at, version = reference.partition("@")
    if at and not (version.isascii() and version.isdigit() and len(version) <= 9):
        raise field_problem("validation_failed", "/agent", f"{version!r} is not a version number", kind="version")
    try:
        return await assembly.journal.get_agent(PROJECT, name, int(version) if at else None)
    except NotFound:
        what = f"version {version} of agent {name!r}" if at else f"agent {name!r}"
        message = f"There is no {what}: POST /v1/agents makes one."
        raise field_problem("agent_not_found", "/agent", message) from None
