"""The tool box: the built-in tools and those of the user's modules, by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from perdure.definitions import ToolDescription
from perdure.tools.builtin.ask_user import AskUser, question_tools
from perdure.tools.builtin.board import board_tools
from perdure.tools.builtin.calculator import calculator_tools
from perdure.tools.builtin.clock import clock_tools
from perdure.tools.builtin.family import FamilyTool, family_tools
from perdure.tools.builtin.files import file_tools
from perdure.tools.builtin.http import http_tools
from perdure.tools.builtin.polling import Poll, polling_tools
from perdure.tools.builtin.results import result_tools
from perdure.tools.builtin.schedules import schedule_tools
from perdure.tools.builtin.waiting import Sleep, WaitForEvent, waiting_tools
from perdure.tools.function_tool import AnyTool, FunctionTool
from perdure.tools.limits import ToolLimits
from perdure.tools.port import Tool
from perdure.tools.threads import ToolThreads

RunsAsTool = AnyTool | AskUser | Sleep | WaitForEvent | Poll | FamilyTool


class ToolModuleError(Exception):
    """A module of tools cannot be used; the message names the module and the cause."""


class UnknownTool(LookupError):
    """A tool name that is not in the box; the message names the ones that are."""


class ToolRegistry:
    """A ``ToolBox``. Its synchronous tools share ``threads``."""

    def __init__(self, tools: Iterable[RunsAsTool], threads: ToolThreads) -> None:
        self.threads = threads
        self._tools: dict[str, RunsAsTool] = {}
        for tool in tools:
            name = tool.description["name"]
            other = self._tools.get(name)
            if other is None:
                self._tools[name] = tool.in_threads(threads) if isinstance(tool, FunctionTool) else tool
            elif not _same(other, tool):  # the same tool may be found in two modules
                raise ToolModuleError(
                    f"two tools are named {name!r}: {other.origin} and {tool.origin}; rename one with @tool(name=…)"
                )

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def names(self) -> list[str]:
        return sorted(self._tools)

    def describe(self, names: list[str] | None = None) -> list[ToolDescription]:
        """The named tools in the order named (all, by name, without). Raises UnknownTool."""
        wanted = self.names() if names is None else names
        if unknown := [name for name in wanted if name not in self._tools]:
            raise UnknownTool(f"unknown tools: {', '.join(unknown)}; known are: {', '.join(self.names())}")
        return [self._tools[name].description for name in wanted]


def load_modules(modules: Sequence[str]) -> list[AnyTool]:
    """Every ``@tool`` at the top level of the modules, in their order. Modules are found as Python finds them,
    and in the current folder. Raises ToolModuleError for one that cannot be imported or holds no tool."""
    found: list[AnyTool] = []
    for name in modules:
        tools = [one for one in vars(_imported(name)).values() if isinstance(one, FunctionTool)]
        if not tools:
            raise ToolModuleError(f"the module {name!r} has no tool at its top level; write @tool above a function")
        found += tools
    return found


def build_toolbox(
    modules: Sequence[str] = (), *, limits: ToolLimits | None = None, tool_threads: int = 64
) -> ToolRegistry:
    """The built-in tools and those of ``modules``. Raises ToolModuleError, and ValueError for bad limits."""
    limits = limits or ToolLimits()
    threads = ToolThreads(tool_threads)
    return ToolRegistry(
        [
            *clock_tools(),
            *calculator_tools(),
            *file_tools(limits),
            *http_tools(limits, threads),
            *result_tools(limits),
            *question_tools(),
            *schedule_tools(),
            *waiting_tools(),
            *polling_tools(),
            *family_tools(),
            *board_tools(),
            *load_modules(modules),
        ],
        threads,
    )


def _same(one: RunsAsTool, other: RunsAsTool) -> bool:
    if isinstance(one, FunctionTool) and isinstance(other, FunctionTool):
        return one.function is other.function
    return one is other


def _imported(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a file here never hides an installed module
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, sys.exit() included
        raise ToolModuleError(
            f"the module of tools {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
