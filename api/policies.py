"""What policies and questions say, in the words of a request: pointers into its body, codes of this API."""

from __future__ import annotations

from collections.abc import Sequence

from api.problems import FieldError, errors_problem
from perdure.assembly import Assembly
from perdure.core.policy import Ruling
from perdure.core.state import Json
from perdure.definitions import AgentDefinition
from perdure.tools.client_tools import run_tool_names, run_toolbox
from perdure.tools.policy import policy_of, ruling
from perdure.tools.problem import Problem as Fault
from perdure.tools.questions import answer_problems, with_defaults

INVALID_ARGUMENTS = Ruling("deny", "invalid_arguments", "the arguments do not fit the tool")
NO_SUCH_TOOL = Ruling("deny", "tool", "the run has no such tool")


def field_errors(faults: Sequence[Fault]) -> list[FieldError]:
    return [FieldError(fault.pointer, fault.code, fault.message) for fault in faults]


def ruling_of(assembly: Assembly, definition: AgentDefinition, tool: str, arguments: dict[str, Json]) -> Ruling:
    """What the run's policies say to this call; a tool that the run may not use is denied."""
    found = run_toolbox(assembly.toolbox, definition).get(tool) if tool in run_tool_names(definition) else None
    return NO_SUCH_TOOL if found is None else ruling(policy_of(definition), found.description, arguments)


def verdict_of(
    assembly: Assembly, definition: AgentDefinition, tool: str, arguments: dict[str, Json]
) -> tuple[Ruling, str | None]:
    """As a run judges the call: arguments that do not fit are denied before any policy is asked. And why they do
    not fit."""
    if problem := problem_of_arguments(assembly, definition, tool, arguments):
        return INVALID_ARGUMENTS, problem
    return ruling_of(assembly, definition, tool, arguments), None


def problem_of_arguments(
    assembly: Assembly, definition: AgentDefinition, tool: str, arguments: dict[str, Json]
) -> str | None:
    """Why they do not fit the tool; None when they do."""
    found = run_toolbox(assembly.toolbox, definition).get(tool)
    return None if found is None else found.problem(arguments)


def checked_answers(questions: Sequence[dict[str, Json]], answers: dict[str, Json]) -> dict[str, Json]:
    """With the defaults of what was left out. ``validation_failed``, with a pointer to each that does not fit."""
    if found := answer_problems(questions, answers):
        raise errors_problem([FieldError(f"/answers{where}", "answer_invalid", why) for where, why in found])
    return with_defaults(questions, answers)
