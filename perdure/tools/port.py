"""The tool port: what a tool is, what it gets, what it gives back.

Authors use ``perdure.tools.tool`` and ``current_call``; the activity ``call_tool`` uses the registry and
runs the tool under the promises of its effect class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.scheduling.definition import TimingDefinition


class ToolTrouble(Exception):
    """A tool failed in a way the model should hear of. ``code`` becomes the error code of the result.
    ``retryable`` asks for another attempt (never given to a ``once`` tool)."""

    def __init__(self, message: str, *, code: str = "tool_error", retryable: bool = False) -> None:
        super().__init__(message)
        self.message, self.code, self.retryable = message, code, retryable


class InvalidArguments(Exception):
    """The arguments do not fit the tool's schema; the message says precisely where and why."""


class BlobReader(Protocol):
    """The spooled results of one session."""

    async def known(self) -> frozenset[str]:
        """The ids this session may read back: those in its transcript."""
        ...

    async def get_blob(self, blob_id: str, *, offset: int = 0, length: int | None = None) -> bytes: ...


class OwnSchedules(Protocol):
    """The schedules an agent has made for itself. What cannot be is a ToolTrouble."""

    async def add(self, name: str | None, task: str, timing: TimingDefinition, timezone: str) -> dict[str, Json]:
        """The new schedule as the model sees it; the same call makes one only, whatever its attempt."""
        ...

    async def list(self) -> list[dict[str, Json]]: ...

    async def cancel(self, name: str) -> str: ...


class SharedBoard(Protocol):
    """The blackboard of the tree that the run belongs to. What cannot be is a ToolTrouble; the same call changes it
    once, whatever its attempt."""

    async def read(self, since: int) -> dict[str, Json]: ...

    async def post(self, text: str, topic: str | None) -> dict[str, Json]: ...

    async def update(self, entry_id: str, text: str, version: int | None) -> dict[str, Json]: ...

    async def remove(self, entry_id: str, version: int | None) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True)
class ToolCallContext:
    """What ``current_call()`` gives to a running tool. ``attempt`` counts from 1. ``idempotency_key`` is
    ``run_id:call_id``, the same on every attempt. ``workspace`` is the run's own folder (created on
    first use)."""

    run_id: str
    session_id: str
    call_id: str
    attempt: int
    idempotency_key: str
    workspace: Path
    blobs: BlobReader
    schedules: OwnSchedules | None = None
    board: SharedBoard | None = None


class Tool(Protocol):
    @property
    def description(self) -> ToolDescription: ...

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        ...

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        """The result as text (JSON for anything that is not a string). Synchronous functions run in a
        thread. ToolTrouble, or whatever the author's code raises."""
        ...


class ToolBox(Protocol):
    """The registry as the shells see it."""

    def get(self, name: str) -> Tool | None: ...

    def names(self) -> list[str]: ...

    def describe(self, names: list[str] | None = None) -> list[ToolDescription]: ...
