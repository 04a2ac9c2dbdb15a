"""From a request to the agent definition that a run pins: everything it names must exist now."""

from __future__ import annotations

from typing import cast

from api.parts import PROJECT
from api.problems import field_problem
from api.requests import AgentBody, BudgetIn, CreateRun, LimitsIn
from perdure.assembly import Assembly
from perdure.contract import AgentDefinition, ModelSettings
from perdure.core.state import Usage
from perdure.providers.port import UnknownModel
from perdure.store.rows import AgentRow, NotFound

INLINE_NAME = "inline"


def definition_of(body: AgentBody, name: str) -> AgentDefinition:
    """As stored: only what was given."""
    return AgentDefinition(
        name=name,
        model=body.model,
        instructions=body.instructions,
        tools=list(body.tools),
        model_settings=cast("ModelSettings", body.model_settings.model_dump(exclude_none=True)),
        limits=body.limits.model_dump(exclude_none=True),
    )


def check_definition(assembly: Assembly, definition: AgentDefinition, pointer: str, *, whole: bool = False) -> None:
    """``unknown_model``, ``unknown_tool``, ``validation_failed`` for a tool named twice. With ``whole``
    the pointer stays as it is: the parts are not in the request."""
    try:
        assembly.catalog.check(definition["model"])
    except UnknownModel as error:
        raise field_problem("unknown_model", pointer if whole else f"{pointer}/model", str(error)) from None
    for index, name in enumerate(definition["tools"]):
        here = pointer if whole else f"{pointer}/tools/{index}"
        if assembly.toolbox.get(name) is None:
            known = ", ".join(sorted(assembly.toolbox.names()))
            raise field_problem("unknown_tool", here, f"there is no tool {name!r}; there are: {known}")
        if name in definition["tools"][:index]:
            raise field_problem("validation_failed", here, f"tool {name!r} is named twice", kind="duplicate")


async def resolve(assembly: Assembly, body: CreateRun) -> tuple[AgentDefinition, AgentRow | None]:
    """The definition that the run pins, its limits resolved, and the stored agent if it is one."""
    if body.agent is not None and body.agent_inline is not None:
        raise field_problem(
            "validation_failed", "/agent_inline", "give either agent or agent_inline, not both", kind="conflict"
        )
    row = None
    if body.agent_inline is not None:
        definition = definition_of(body.agent_inline, body.agent_inline.name or INLINE_NAME)
        check_definition(assembly, definition, "/agent_inline")
    elif body.agent is not None:
        row = await find_agent(assembly, body.agent)
        definition = row.definition
        check_definition(assembly, definition, "/agent", whole=True)
    else:
        raise field_problem("validation_failed", "/agent", "give agent or agent_inline", kind="missing")
    refuse_budget(assembly, definition["model"], body.budget)
    return {**definition, "limits": _limits(assembly, definition["limits"], body.limits)}, row


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


def refuse_budget(assembly: Assembly, model: str, budget: BudgetIn | None) -> None:
    """Nothing is promised that is not kept: budgets are not enforced yet, so a run that names one is
    refused, first of all where the price is unknown."""
    if budget is None:
        return
    one_call = Usage(input_tokens=1_000, output_tokens=1_000)
    if budget.max_cost_usd is not None and assembly.catalog.cost_micros(model, one_call) is None:
        raise field_problem(
            "model_not_priced",
            "/budget/max_cost_usd",
            f"nobody knows the price of {model!r}: set [prices.{model!r}] in perdure.toml, or give no cost limit",
        )
    raise field_problem(
        "validation_failed",
        "/budget",
        "budgets are not available in this version: a run with one would not be held to it",
        kind="not_available",
    )


def _limits(assembly: Assembly, of_agent: dict[str, int], of_run: LimitsIn) -> dict[str, int]:
    """The run's word over the agent's over the settings'."""
    defaults = assembly.settings.limits
    return {
        "max_turns": defaults.max_turns,
        "max_tool_calls": defaults.max_tool_calls,
        **of_agent,
        **of_run.model_dump(exclude_none=True),
    }
