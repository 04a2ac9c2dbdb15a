"""Tools that the caller of a run declares and executes, and the tool box of one run: the registry's tools, the agents
that its own agent calls as tools, and these.

No worker runs a client tool: a call waits until its result is posted, or its time is over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from perdure.core.state import Json
from perdure.definitions import AgentDefinition, AgentToolDefinition, ClientToolDefinition, ToolDescription
from perdure.tools.agent_tools import AgentTool
from perdure.tools.json_schema import BadSchema, misfit_words, schema_of
from perdure.tools.port import Tool, ToolBox, ToolCallContext, ToolTrouble
from perdure.tools.problem import Problem
from perdure.tools.registry import UnknownTool

CLIENT_TOOLS_MAX = 64
CLIENT_DESCRIPTION_CHARS_MAX = 8_192
CLIENT_EXPIRES_SECONDS = 86_400.0  # a client that is away for a day is not coming back for this call
CLIENT_EXPIRES_SECONDS_MAX = 2_592_000.0  # thirty days
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what every vendor accepts as a function name


class ClientTool:
    """A ``Tool`` made from its definition, which ``client_tool_problems`` has found sound."""

    def __init__(self, definition: ClientToolDefinition) -> None:
        self.expires_seconds = float(definition["expires_seconds"])
        self.description = ToolDescription(
            name=definition["name"],
            description=definition["description"],
            parameters=definition["parameters"],
            effect="once",  # nobody here knows what it does
            parallel=True,
            timeout_seconds=self.expires_seconds,
            max_attempts=1,
            approval=False,
            answered_by="client",
        )

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        head = f"The arguments do not fit the tool {self.description['name']}:"
        return misfit_words(head, self.description["parameters"], arguments)

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        name = self.description["name"]
        raise ToolTrouble(f"{name} is run by the client; no worker can run it", code="answered_by_client")


class RunToolBox:
    """The ``ToolBox`` of one run: the tools of the registry that its agent names, the agents that are tools of it, and
    what its client executes. A client tool never takes the place of another tool."""

    def __init__(
        self,
        toolbox: ToolBox,
        names: Sequence[str],
        client_tools: Sequence[ClientToolDefinition],
        agent_tools: Sequence[AgentToolDefinition] = (),
    ) -> None:
        self._toolbox = toolbox
        self._own: dict[str, Tool] = {one["name"]: AgentTool(one) for one in agent_tools if one["name"] not in names}
        for client in client_tools:
            if toolbox.get(client["name"]) is None and client["name"] not in self._own:
                self._own[client["name"]] = ClientTool(client)
        self._names = [*names, *self._own]

    def get(self, name: str) -> Tool | None:
        """None for a tool that is not the run's, whoever else may use it."""
        if name not in self._names:
            return None
        return self._own.get(name) or self._toolbox.get(name)

    def names(self) -> list[str]:
        """As the agent names them, the client's last."""
        return list(self._names)

    def describe(self, names: list[str] | None = None) -> list[ToolDescription]:
        """The named tools in the order named (all without). Raises UnknownTool."""
        wanted = self._names if names is None else names
        tools = [(name, self.get(name)) for name in wanted]
        if unknown := [name for name, tool in tools if tool is None]:
            raise UnknownTool(f"unknown tools: {', '.join(unknown)}; the run has: {', '.join(self._names)}")
        return [tool.description for _, tool in tools if tool is not None]


def run_toolbox(toolbox: ToolBox, definition: AgentDefinition) -> RunToolBox:
    """The tools of a run; a box that is the run's already stays as it is."""
    if isinstance(toolbox, RunToolBox):
        return toolbox
    return RunToolBox(
        toolbox, definition["tools"], definition.get("client_tools", []), definition.get("agent_tools", [])
    )


def run_tool_names(definition: AgentDefinition) -> list[str]:
    """The agent's tools, its agents that are tools, then the client's."""
    own = [*definition.get("agent_tools", []), *definition.get("client_tools", [])]
    return list(dict.fromkeys([*definition["tools"], *(one["name"] for one in own)]))


def client_tool_problems(
    definitions: Sequence[Mapping[str, Json]], toolbox: ToolBox, *, at: str = "/client_tools"
) -> list[Problem]:
    """What is wrong with them; empty when every one can be used. ``at`` is where they are in the request."""
    found: list[Problem] = []
    if len(definitions) > CLIENT_TOOLS_MAX:
        found.append(Problem(at, "too_many", f"{len(definitions)} client tools, {CLIENT_TOOLS_MAX} at most"))
    names: set[str] = set()
    for number, one in enumerate(definitions[:CLIENT_TOOLS_MAX]):
        name, here = one.get("name"), f"{at}/{number}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            found.append(Problem(f"{here}/name", "invalid_name", "must be 1 to 64 of a-z A-Z 0-9 _ -"))
        elif name in names:
            found.append(Problem(f"{here}/name", "duplicate", f"two client tools are named {name!r}"))
        elif toolbox.get(name) is not None:
            found.append(Problem(f"{here}/name", "tool_exists", f"there is a tool {name!r} here already"))
        names.add(str(name))
        found += _own_problems(one, here)
    return found


def _own_problems(one: Mapping[str, Json], here: str) -> list[Problem]:
    found: list[Problem] = []
    description, seconds = one.get("description", ""), one.get("expires_seconds", CLIENT_EXPIRES_SECONDS)
    if not isinstance(description, str) or len(description) > CLIENT_DESCRIPTION_CHARS_MAX:
        most = f"must be text of at most {CLIENT_DESCRIPTION_CHARS_MAX} characters"
        found.append(Problem(f"{here}/description", "invalid_text", most))
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 1 <= seconds <= CLIENT_EXPIRES_SECONDS_MAX
    ):
        most = f"must be 1 to {CLIENT_EXPIRES_SECONDS_MAX:.0f} seconds"
        found.append(Problem(f"{here}/expires_seconds", "out_of_range", most))
    parameters = one.get("parameters")
    try:
        schema_of(parameters)
    except BadSchema as bad:
        found.append(Problem(f"{here}/parameters", "invalid_schema", f"the schema {bad}"))
    else:
        if cast("dict[str, Json]", parameters).get("type") != "object":  # what every vendor demands of a function
            found.append(Problem(f"{here}/parameters", "invalid_schema", 'the schema must have "type": "object"'))
    return found
