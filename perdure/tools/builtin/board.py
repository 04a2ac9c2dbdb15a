"""``board_read``, ``board_post``, ``board_update``, ``board_remove``: the blackboard that all runs of a tree share. The
board is given with the call.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perdure.core.state import Json
from perdure.definitions import BOARD_TEXT_CHARACTERS_MAX, BOARD_TOPIC_CHARACTERS_MAX
from perdure.tools.call import current_call
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.port import SharedBoard, ToolTrouble

_REVISION_MAX = 1_000_000_000

Id = Annotated[str, Field(max_length=64, description="of the entry, as board_read shows it")]
Words = Annotated[str, Field(min_length=1, max_length=BOARD_TEXT_CHARACTERS_MAX)]
Version = Annotated[
    int | None,
    Field(ge=1, le=_REVISION_MAX, description="the version you have read: fails if somebody has changed it since"),
]


def board_tools() -> list[AnyTool]:
    @tool(effect="read", timeout_seconds=30)
    async def board_read(
        since: Annotated[
            int, Field(ge=0, le=_REVISION_MAX, description="a revision: only what was posted or updated after it")
        ] = 0,
    ) -> dict[str, Json]:
        """The board that you share with the agent that started you, with those that you have started, and with all
        others of this task: its entries with who wrote them, and its revision."""
        return await _board().read(since)

    @tool(effect="idempotent", timeout_seconds=30)
    async def board_post(
        text: Words,
        topic: Annotated[
            str | None, Field(min_length=1, max_length=BOARD_TOPIC_CHARACTERS_MAX, description="a word or two")
        ] = None,
    ) -> dict[str, Json]:
        """Put an entry on the board, for the other agents of this task to read."""
        return await _board().post(text, topic)

    @tool(effect="idempotent", timeout_seconds=30)
    async def board_update(
        id: Id,  # noqa: A002
        text: Words,
        version: Version = None,
    ) -> dict[str, Json]:
        """Replace the text of an entry on the board, whoever has posted it."""
        return await _board().update(id, text, version)

    @tool(effect="idempotent", timeout_seconds=30)
    async def board_remove(
        id: Id,  # noqa: A002
        version: Version = None,
    ) -> dict[str, Json]:
        """Take an entry off the board, whoever has posted it."""
        return await _board().remove(id, version)

    return [board_read, board_post, board_update, board_remove]


def _board() -> SharedBoard:
    board = current_call().board
    if board is None:
        raise ToolTrouble("there is no board here", code="no_board")
    return board
