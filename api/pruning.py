"""Retention: what of ended runs and of resting sessions is removed, on request and once an hour by the settings."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.responses import Response

from api.bodies import JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import Given, Parts, Strict
from api.problems import declared
from api.replies import PrunedOut
from api.requests import Prune
from perdure.store.rows import Pruned

log = logging.getLogger("perdure.api")

AT_ONCE = 200  # runs, sessions and blobs of one request: a second or two
_DAY_MS = 86_400_000

router = APIRouter(tags=["sessions"], route_class=JsonRoute)


@router.post(
    "/v1/prune",
    operation_id="prune",
    summary="Remove what need not be kept any longer",
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused",
        ),
        200: {"model": PrunedOut, "description": "What was removed; with `more`, call again"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def prune(request: Strict, given: Given, body: Prune | None = None) -> Response:
    async def act(_: str) -> Response:
        done = await prune_once(given, body or Prune())
        return JsonReply(
            {
                "object": "pruned",
                "deltas": done.deltas,
                "events": done.events,
                "sessions": done.sessions,
                "blobs": done.blobs,
                "more": done.more,
            }
        )

    reply, _ = await once(request, given.assembly.journal, "prune", act)
    return reply


async def prune_once(parts: Parts, wanted: Prune) -> Pruned:
    """What ``wanted`` does not say is the settings'."""
    retention = parts.assembly.settings.retention
    now_ms = time.time_ns() // 1_000_000

    def before(name: str) -> int | None:
        days: float | None = getattr(wanted if name in wanted.model_fields_set else retention, name)
        return None if days is None else now_ms - int(days * _DAY_MS)

    done, run_ids = await parts.assembly.journal.prune(
        deltas_before_ms=before("deltas_days"),
        events_before_ms=before("events_days"),
        sessions_before_ms=before("sessions_days"),
        limit=AT_ONCE,
    )
    await erase_workspaces(parts, run_ids)
    return done


async def prune_by_settings(parts: Parts) -> None:
    """Nothing but blobs that nobody refers to, where the settings keep everything."""
    while True:
        done = await prune_once(parts, Prune())
        if done.deltas or done.events or done.sessions or done.blobs:
            log.info("retention removed %s", done)
        if not done.more:
            return
        await asyncio.sleep(0.1)  # others write, too


async def erase_workspaces(parts: Parts, run_ids: Sequence[str]) -> None:
    """The files of runs whose session was deleted, as far as they are on this machine."""
    for run_id in run_ids:
        folder = parts.assembly.settings.workspaces / run_id
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
