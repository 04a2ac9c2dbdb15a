"""Calls as the activity would make them, for tests of tools without an activity."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from perdure.core.state import Json
from perdure.tools.function_tool import AnyTool
from perdure.tools.port import ToolCallContext

_numbers = itertools.count(1)


class Blobs:
    """Blobs in memory, read as the journal reads them."""

    def __init__(self, blobs: Mapping[str, bytes] | None = None) -> None:
        self.blobs = dict(blobs or {})

    async def known(self) -> frozenset[str]:
        return frozenset(self.blobs)

    async def get_blob(self, blob_id: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return self.blobs[blob_id][offset:][:length]


def a_call(
    workspace: Path = Path("unused"), call_id: str | None = None, attempt: int = 1, **more: object
) -> ToolCallContext:
    call_id = call_id or f"call_{next(_numbers)}"
    blobs = more.get("blobs", {})
    assert isinstance(blobs, dict)
    return ToolCallContext(
        run_id="run_1",
        session_id="ses_1",
        call_id=call_id,
        attempt=attempt,
        idempotency_key=f"run_1:{call_id}",
        workspace=workspace,
        blobs=Blobs(blobs),
    )


def named(tools: list[AnyTool], name: str) -> AnyTool:
    return next(tool for tool in tools if tool.description["name"] == name)


async def asked(tool: AnyTool, /, *calls: ToolCallContext, **arguments: Json) -> str:
    """Judge the arguments as the core would, then run the call (a new one when none is given)."""
    problem = tool.problem(arguments)
    assert problem is None, problem
    return await tool.run(arguments, *(calls or (a_call(),)))
