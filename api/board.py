"""The blackboard of a tree of runs: what its agents have written for each other, to be read by people."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from api.bodies import JsonRoute
from api.paging import list_reply
from api.parts import PROJECT, Given
from api.problems import declared
from api.reply import ListReply, Reply
from api.times import Object, time
from perdure.store.board_rows import BoardEntry

router = APIRouter(tags=["runs"], route_class=JsonRoute)


class WriterOut(Reply):
    run_id: str
    agent: str


class BoardEntryOut(Reply):
    """An entry on the blackboard that all runs of a tree share."""

    id: str
    object: Literal["board_entry"]
    root_run_id: str = Field(description="Whose tree's board it is on.")
    number: int = Field(description="Counts what was ever posted on this board, from 1.")
    version: int = Field(description="Counts the changes of this entry, from 1.")
    revision: int = Field(description="Of the board, when this entry was changed last.")
    topic: str | None
    text: str
    posted_by: WriterOut
    updated_by: WriterOut = Field(description="Who posted it, or changed it last.")
    created_at: datetime
    updated_at: datetime


@router.get(
    "/v1/runs/{run_id}/board",
    operation_id="read_board",
    summary="Read the blackboard of a run's tree",
    response_model=None,
    responses={
        **declared("run_not_found"),
        200: {
            "model": ListReply[BoardEntryOut],
            "description": "All entries, at most 60, by number; the same for each run of the tree",
        },
    },
)
async def read_board(given: Given, run_id: str) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    board = await journal.read_board(run_id)
    return list_reply([_shown(entry) for entry in board.entries], None)


def _shown(entry: BoardEntry) -> Object:
    return {
        "id": entry.id,
        "object": "board_entry",
        "root_run_id": entry.root_run_id,
        "number": entry.number,
        "version": entry.version,
        "revision": entry.revision,
        "topic": entry.topic,
        "text": entry.text,
        "posted_by": {"run_id": entry.posted_run_id, "agent": entry.posted_agent},
        "updated_by": {"run_id": entry.changed_run_id, "agent": entry.changed_agent},
        "created_at": time(entry.posted_ms),
        "updated_at": time(entry.changed_ms),
    }
