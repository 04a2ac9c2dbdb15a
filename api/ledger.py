"""What was spent: the ledger of a run, and sums over all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.bodies import JsonRoute
from api.body import Moment
from api.money_rendering import ledger_entry, usage_csv, usage_group
from api.money_replies import LedgerEntryOut, UsageGroupOut
from api.paging import PAGE_DEFAULT, After, Limit, list_reply, number_cursor
from api.parts import PROJECT, Given
from api.problems import declared
from api.reply import ListReply
from api.times import milliseconds
from perdure.store.rows import UsageGroup

router = APIRouter(route_class=JsonRoute)


@router.get(
    "/v1/runs/{run_id}/ledger",
    tags=["runs"],
    operation_id="list_ledger",
    summary="Read what a run reserved and spent",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor"),
        200: {"model": ListReply[LedgerEntryOut], "description": "A page of entries, the oldest or the newest first"},
    },
)
async def list_ledger(
    given: Given,
    run_id: str,
    limit: Limit = PAGE_DEFAULT,
    order: Annotated[Literal["asc", "desc"], Query(description="By entry.")] = "asc",
    after: After = None,
) -> Response:
    journal = given.assembly.journal
    await journal.get_run(run_id, PROJECT)
    rows = await journal.read_ledger(run_id, after=number_cursor(after), limit=limit + 1, descending=order == "desc")
    cursor = str(rows[limit - 1].entry) if len(rows) > limit else None
    return list_reply([ledger_entry(run_id, row) for row in rows[:limit]], cursor)


@router.get(
    "/v1/usage",
    tags=["usage"],
    operation_id="read_usage",
    summary="Sum up what was spent",
    response_model=None,
    responses={
        **declared(),
        200: {
            "model": ListReply[UsageGroupOut],
            "description": "The dearest first, days by the newest; at most 10,000 groups. By Accept, CSV.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
    },
)
async def read_usage(
    request: Request,
    given: Given,
    group_by: Annotated[UsageGroup, Query(description="Days are UTC.")] = "day",
    from_: Annotated[Moment | None, Query(alias="from", description="RFC 3339; calls settled from then on.")] = None,
    before: Annotated[Moment | None, Query(description="RFC 3339; calls settled before.")] = None,
) -> Response:
    rows = await given.assembly.journal.usage_by(
        PROJECT,
        group_by,
        from_ms=None if from_ is None else milliseconds(from_),
        before_ms=None if before is None else milliseconds(before),
    )
    if _wants_csv(request.headers.get("accept", "")):
        headers = {"content-disposition": f'attachment; filename="usage-by-{group_by}.csv"'}
        return Response(usage_csv(rows), 200, headers, "text/csv; charset=utf-8")
    return list_reply([usage_group(row) for row in rows], None)


def _wants_csv(accept: str) -> bool:
    """JSON, unless CSV is named before it."""
    for item in accept.lower().split(","):
        match item.partition(";")[0].strip():
            case "text/csv":
                return True
            case "application/json":
                return False
    return False
