"""The verdict on a tool call a model asks for, in words, where its arguments are at hand. Temporal hears
the verdict's code only: the words may quote the arguments, and content stays out of its history.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from perdure.core.happenings import CallAsked
from perdure.core.judge import judge
from perdure.core.state import Json
from perdure.tools.port import ToolBox


def verdict(toolbox: ToolBox, known: Collection[str], call_id: str, name: str, arguments: Json) -> CallAsked:
    """``known`` are the tools of the run; ``arguments`` that were not a JSON object come as text."""
    return judge(call_id, name, known=known, problem=_problem(toolbox, name, arguments))


def without_words(asked: CallAsked) -> CallAsked:
    return asked if asked.refusal is None else replace(asked, refusal=asked.refusal_code)


def _problem(toolbox: ToolBox, name: str, arguments: Json) -> str | None:
    tool = toolbox.get(name)
    if tool is None:
        return None
    if not isinstance(arguments, dict):
        return f"the arguments are not a JSON object: {str(arguments or '')[:200]}"
    return tool.problem(arguments)
