"""Families of runs: the tree below a run with its usage rolled up, and the events of all of its members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import fields

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import money_rendering, rendering
from api.bodies import JsonRoute
from api.encoding import JsonReply
from api.family_replies import TreeOut
from api.paging import list_reply
from api.parts import PROJECT, Given, Parts
from api.problems import declared, parameter_problem
from api.times import Object, time, time_or_none
from perdure.core.state import Usage
from perdure.store.events import goal, usd
from perdure.store.rows import EventRow, RunRow
from perdure.store.trouble import InvalidCursor

TREE_RUNS_SHOWN_MAX = 1_000  # as many as a tree may have
ROWS_AT_ONCE = 200

router = APIRouter(tags=["runs"], route_class=JsonRoute)


@router.get(
    "/v1/runs/{run_id}/tree",
    operation_id="get_run_tree",
    summary="Read a run with everything below it",
    response_model=None,
    responses={**declared("run_not_found"), 200: {"model": TreeOut, "description": "The run and its children"}},
)
async def get_run_tree(request: Request, given: Given, run_id: str) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    rows = await journal.list_family(run_id, limit=TREE_RUNS_SHOWN_MAX)
    return JsonReply(_tree(rows, await journal.assumed_in_family(run_id)))


def _tree(rows: Sequence[RunRow], assumed: Mapping[str, int]) -> Object:
    """The first row's tree; ``rows`` come with parents before their children. ``assumed`` is in micro-USD, by run."""
    nodes = {row.id: _node(row, assumed.get(row.id, 0)) for row in rows}
    sums = {row.id: (1, row.usage, assumed.get(row.id, 0)) for row in rows}
    for row in reversed(rows):
        runs, usage, micros = sums[row.id]
        nodes[row.id]["total"] = {"runs": runs, "usage": rendering.usage(usage), "assumed_cost_usd": usd(micros)}
        parent = row.parent_run_id
        if parent in nodes and row is not rows[0]:
            nodes[parent]["children"].insert(0, nodes[row.id])
            own_runs, own_usage, own_micros = sums[parent]
            sums[parent] = (own_runs + runs, _sum(own_usage, usage), own_micros + micros)
    return nodes[rows[0].id]


def _node(row: RunRow, assumed_micros: int) -> Object:
    return {
        "id": row.id,
        "object": "run_tree",
        "run_id": row.id,
        "parent_run_id": row.parent_run_id,
        "root_run_id": row.root_run_id,
        "depth": row.depth,
        "call_id": row.parent_call_id,
        "background": row.background,
        "detached": row.detached,
        "agent": rendering.agent_of(row),
        "session_id": row.session_id,
        "goal": goal(row.input),
        "status": row.status,
        "status_reason": row.status_reason,
        "stop_reason": row.stop_reason,
        "turns": row.turns,
        "usage": rendering.usage(row.usage),
        "assumed_cost_usd": usd(assumed_micros),
        "budget": money_rendering.budget_of(row.budget, row.account, row.overrun),
        "error": rendering.failure(row.error),
        "created_at": time(row.created_ms),
        "completed_at": time_or_none(row.completed_ms),
        "total": None,
        "children": [],
    }


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(Usage)))


async def family_page(
    parts: Parts, run_id: str, after: str | None, types: Sequence[str], deltas: bool, limit: int
) -> Response:
    """A page of what happened to all of them, by time."""
    rows = await _read(parts, run_id, after, types, deltas, limit + 1)
    shown = rows[:limit]
    return list_reply(list(map(rendering.event, shown)), _place(shown[-1]) if len(rows) > limit else None)


async def family_batches(
    parts: Parts, run_id: str, after: str | None, types: Sequence[str], deltas: bool
) -> AsyncIterator[list[EventRow]]:
    """All that is there up to now."""
    while True:
        rows = await _read(parts, run_id, after, types, deltas, ROWS_AT_ONCE)
        if rows:
            yield rows
        if len(rows) < ROWS_AT_ONCE:
            return
        after = _place(rows[-1])


async def _read(
    parts: Parts, run_id: str, after: str | None, types: Iterable[str], deltas: bool, limit: int
) -> list[EventRow]:
    try:
        return await parts.assembly.journal.read_family_events(
            run_id, after=after, limit=limit, types=list(types), deltas=deltas
        )
    except InvalidCursor as error:
        raise parameter_problem("invalid_cursor", "after", f"{error}: give the `id` of one") from None


def _place(row: EventRow) -> str:
    return f"{row.run_id}:{row.seq}"
