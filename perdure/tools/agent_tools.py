"""Agents as tools of other agents: what a model sees of them, what they are given, and what their answers must fit.

No worker runs one like a function: a call starts a run (``activities/call_family.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from perdure.core.state import Json
from perdure.definitions import AgentToolDefinition, ToolDescription
from perdure.tools.builtin.family import TASK_CHARS_MAX
from perdure.tools.json_schema import BadSchema, misfit_words, schema_of
from perdure.tools.port import ToolBox, ToolCallContext, ToolTrouble
from perdure.tools.problem import Problem
from perdure.tools.result_text import valid_text

AGENT_TOOLS_MAX = 64
ANSWER_DEPTH_MAX = 100  # whoever writes a deeper one down, some levels further in, may run into Python's own bound
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS_MAX = 64  # what every vendor accepts as a function name
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_ANSWER = (
    "[Perdure] Your last answer is read by a program: answer with JSON that fits this JSON Schema, and with nothing "
    "else: "
)
TASK_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "task": {
            "type": "string",
            "minLength": 1,
            "maxLength": TASK_CHARS_MAX,
            "description": "all that the agent has to know: it sees nothing else",
        }
    },
    "required": ["task"],
    "additionalProperties": False,
}


def tool_name_of(agent: str) -> str:
    """The agent's name made one that every vendor takes for a tool."""
    return _NOT_IN_NAMES.sub("_", agent.partition("@")[0])[:_NAME_CHARS_MAX]


def default_description(agent: str) -> str:
    return f"Give a task to the agent {agent.partition('@')[0]}. It works by itself, and answers with its result."


class AgentTool:
    """A ``Tool`` made from its definition, which ``agent_tool_problems`` has found sound."""

    def __init__(self, definition: AgentToolDefinition) -> None:
        self.definition = definition
        self.description = ToolDescription(
            name=definition["name"],
            description=definition["description"],
            parameters=definition["input_schema"],
            effect="idempotent",  # a call starts one run, however often it is carried out
            parallel=True,
            timeout_seconds=60.0,
            max_attempts=3,
            approval=False,
            answered_by="family",
        )

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        head = f"The arguments do not fit the tool {self.description['name']}:"
        return misfit_words(head, self.description["parameters"], arguments)

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        name = self.description["name"]
        raise ToolTrouble(f"{name} is another agent; no worker can run it", code="answered_by_family")


def task_of(definition: AgentToolDefinition, arguments: Mapping[str, Json]) -> str:
    """What the agent is told: the task, where that is all there can be, or all arguments as JSON."""
    task = arguments.get("task")
    properties = definition["input_schema"].get("properties")
    only = isinstance(properties, dict) and list(properties) == ["task"] and list(arguments) == ["task"]
    if only and isinstance(task, str):
        return task
    return json.dumps(arguments, ensure_ascii=False)


def with_answer_schema(instructions: str, schema: Mapping[str, Json]) -> str:
    """Instructions that say what the answer has to be."""
    note = _ANSWER + json.dumps(schema, ensure_ascii=False)
    return f"{instructions}\n\n{note}" if instructions else note


def typed_answer(schema: Mapping[str, Json], text: str) -> tuple[str, str]:
    """The answer as JSON, and "" as it fits; or the text as it is, and what is wrong with it. A fence of Markdown
    around the JSON, which models like to put there, is no fault. Lone surrogates become U+FFFD, as in every result."""
    fenced = _FENCED.fullmatch(text)
    inner = fenced.group(1) if fenced else text
    try:
        value = json.loads(inner, parse_constant=_no_constant)
        valid = valid_text(json.dumps(value, ensure_ascii=False, allow_nan=False))  # 1e400 is an infinity
    except (ValueError, RecursionError) as error:
        return text, f"the answer is no JSON: {str(error)[:200]}"
    if _is_deep(value):
        return text, f"the answer is nested deeper than {ANSWER_DEPTH_MAX} levels"
    value = json.loads(valid)
    if wrong := misfit_words("the answer does not fit the output schema:", schema, value):
        return text, wrong
    return json.dumps(value, ensure_ascii=False), ""


def agent_tool_problems(
    definitions: Sequence[Mapping[str, Json]], tools: Sequence[str], toolbox: ToolBox, *, at: str = "/agent_tools"
) -> list[Problem]:
    """What is wrong with them, but for the agents that they name, which the journal knows. ``tools`` are the names
    of the agent's other tools."""
    found: list[Problem] = []
    names: set[str] = set()
    for number, one in enumerate(definitions):
        name, here = str(one.get("name")), f"{at}/{number}"
        if name in names:
            found.append(Problem(f"{here}/name", "duplicate", f"two agents are tools with the name {name!r}"))
        elif name in tools or toolbox.get(name) is not None:
            found.append(Problem(f"{here}/name", "tool_exists", f"there is a tool {name!r} here already: give a name"))
        names.add(name)
        for member in ("input_schema", "output_schema"):
            if member in one:
                found += _schema_problems(one[member], f"{here}/{member}", of_object=member == "input_schema")
    return found


def _schema_problems(schema: Json, here: str, *, of_object: bool) -> list[Problem]:
    try:
        schema_of(schema)
    except BadSchema as bad:
        return [Problem(here, "invalid_schema", f"the schema {bad}")]
    if of_object and cast("dict[str, Json]", schema).get("type") != "object":  # what every vendor demands of a function
        return [Problem(here, "invalid_schema", 'the schema must have "type": "object"')]
    return []


def _is_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(ANSWER_DEPTH_MAX + 1):
        members = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [member for inner in members for member in inner]
    return bool(level)


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")
