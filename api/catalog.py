"""What agents may be made of: models and tools, as this process is configured."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.bodies import JsonRoute
from api.paging import list_reply
from api.parts import Given
from api.problems import declared
from api.rendering import model as render_model
from api.rendering import tool as render_tool
from api.replies import ModelOut, ToolOut
from api.reply import ListReply

router = APIRouter(tags=["catalog"], route_class=JsonRoute)


@router.get(
    "/v1/models",
    operation_id="list_models",
    summary="List known models",
    response_model=None,
    responses={
        **declared(),
        200: {"model": ListReply[ModelOut], "description": "All of them; an endpoint may serve more than it lists"},
    },
)
async def list_models(given: Given) -> Response:
    seen = {calibration.model: calibration for calibration in await given.assembly.journal.calibrations()}
    return list_reply([render_model(info, seen.get(info.id)) for info in given.assembly.catalog.list()], None)


@router.get(
    "/v1/tools",
    operation_id="list_tools",
    summary="List tools",
    response_model=None,
    responses={**declared(), 200: {"model": ListReply[ToolOut], "description": "All of them"}},
)
async def list_tools(given: Given) -> Response:
    return list_reply([render_tool(description) for description in given.assembly.toolbox.describe()], None)
