"""Whether the agents that shall be tools of another one are there, and form no circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from api.parts import PROJECT
from api.problems import FieldError
from perdure.assembly import Assembly
from perdure.definitions import AgentDefinition
from perdure.store.trouble import NotFound

AGENTS_LOOKED_AT_MAX = 1_000  # on the way to a circle; what is beyond is held by max_depth


async def named_agent_errors(
    assembly: Assembly, definition: AgentDefinition, pointer: str, beside: Mapping[str, AgentDefinition]
) -> list[FieldError]:
    """``unknown_agent`` and ``agent_cycle`` of the agents that are tools. ``beside`` are definitions that are about to
    be stored: none of an inline agent, which nobody can name."""
    errors: list[FieldError] = []
    for number, tool in enumerate(definition.get("agent_tools", [])):
        here = f"{pointer}/agent_tools/{number}/agent"
        name = definition["name"] if definition["name"] in beside else None
        way = await _way_back(assembly, tool["agent"], name, beside)
        if way is None:
            errors.append(FieldError(here, "unknown_agent", f"there is no agent {tool['agent']!r}"))
        elif way:
            shown = " → ".join([definition["name"], *way])
            errors.append(FieldError(here, "agent_cycle", f"an agent would be a tool of its own tools: {shown}"))
    return errors


async def _way_back(
    assembly: Assembly, start: str, name: str | None, beside: Mapping[str, AgentDefinition]
) -> Sequence[str] | None:
    """From the agent ``start``, along agents that are tools, to the newest ``name``: who is on the way. Empty: there
    is no way. None: there is no such agent."""
    waiting: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while waiting and len(seen) < AGENTS_LOOKED_AT_MAX:
        way = waiting.pop()
        reference = way[-1]
        if reference == name:
            return way
        if reference in seen:
            continue
        seen.add(reference)
        found = await _definition_of(assembly, reference, beside)
        if found is not None:
            waiting += [(*way, tool["agent"]) for tool in found.get("agent_tools", [])]
        elif reference == start:
            return None
    return ()


async def _definition_of(
    assembly: Assembly, reference: str, beside: Mapping[str, AgentDefinition]
) -> AgentDefinition | None:
    if reference in beside:
        return beside[reference]
    name, _, version = reference.partition("@")
    try:
        return (await assembly.journal.get_agent(PROJECT, name, int(version) if version else None)).definition
    except NotFound:
        return None
