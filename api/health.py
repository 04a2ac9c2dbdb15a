"""Is this process alive, is the whole of it ready, and what is it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import APIRouter
from starlette.responses import Response
from temporalio.envconfig import ClientConfig

from api.bodies import JsonRoute
from api.body import LABELS_MAX, METADATA_BYTES_MAX
from api.budget_bodies import USD_MAX
from api.encoding import JsonReply
from api.paging import PAGE_MAX
from api.parts import Given
from api.people_bodies import DECISIONS_MAX, RESULTS_MAX
from api.problems import RETRY_AFTER_SECONDS, declared
from api.replies import Health, Info, Readiness
from api.waiting import WAIT_SECONDS_MAX
from perdure.assembly import Assembly
from perdure.cli.place import read_up
from perdure.runs import TemporalUnavailable
from perdure.store.rows import INBOX_WAITING_MAX
from perdure.store.trouble import JournalTrouble
from perdure.tools.client_tools import CLIENT_TOOLS_MAX
from perdure.tools.policy_check import RULES_MAX

FEATURES = [
    "runs", "events", "sessions", "agents", "models", "tools", "idempotency", "budgets", "ledger", "usage", "policy",
    "approvals", "questions", "client_tools", "messages", "pause", "schedules", "signals", "timers", "families",
    "boards",
]  # fmt: skip
CHECK_SECONDS = 4.0  # Temporal's calls give up after 3; load balancers commonly after 5

router = APIRouter(tags=["service"], route_class=JsonRoute)


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Is this process alive?",
    response_model=None,
    responses={**declared(), 200: {"model": Health, "description": "It is"}},
)
async def healthz() -> Response:
    return JsonReply({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Is everything there that a run needs?",
    response_model=None,
    responses={
        **declared(),
        200: {"model": Readiness, "description": "Journal, Temporal and at least one worker answer"},
        503: {"model": Readiness, "description": "Something is missing: `checks` tells what. Runs are accepted as long "
              "as the journal answers, and start later"},
    },
)  # fmt: skip
async def readyz(given: Given) -> Response:
    assembly = given.assembly
    wanted: dict[str, Callable[[Assembly], Awaitable[str]]] = {
        "journal": _journal, "temporal": _temporal, "workers": _workers,
    }  # fmt: skip
    found = await asyncio.gather(*(_check(check(assembly)) for check in wanted.values()))
    checks = {name: {"ok": ok, "detail": detail} for name, (ok, detail) in zip(wanted, found, strict=True)}
    if all(ok for ok, _ in found):
        return JsonReply({"status": "ready", "checks": checks})
    return JsonReply({"status": "not_ready", "checks": checks}, 503, {"retry-after": str(RETRY_AFTER_SECONDS)})


async def _check(check: Awaitable[str]) -> tuple[bool, str]:
    try:
        return True, await asyncio.wait_for(check, CHECK_SECONDS)
    except TimeoutError:
        return False, f"no answer within {CHECK_SECONDS:.0f} s"
    except (JournalTrouble, TemporalUnavailable, _NoWorkers) as trouble:
        return False, str(trouble) or type(trouble).__name__


class _NoWorkers(Exception):
    pass


async def _journal(assembly: Assembly) -> str:
    return f"schema {await assembly.journal.ready()}"


async def _temporal(assembly: Assembly) -> str:
    await assembly.runs.namespace_ready()
    return "the namespace answers"


async def _workers(assembly: Assembly) -> str:
    pollers, queue = await assembly.runs.pollers(), assembly.settings.task_queue
    if not pollers:
        raise _NoWorkers(f"no worker polls the task queue {queue!r}: start one")
    return f"{pollers} polling the task queue {queue!r}"


@router.get(
    "/v1/info",
    operation_id="get_info",
    summary="What this service is and where its parts are",
    response_model=None,
    responses={**declared(), 200: {"model": Info, "description": "Version, Temporal, features and limits"}},
)
async def get_info(given: Given) -> Response:
    settings = given.assembly.settings
    temporal = ClientConfig.load_client_connect_config()
    address = temporal.get("target_host") or "localhost:7233"  # Temporal's own default
    up = read_up(settings.home)
    ours = up is not None and up["temporal_address"] == address
    return JsonReply(
        {
            "object": "info",
            "name": "perdure",
            "version": version("perdure"),
            "task_queue": settings.task_queue,
            "temporal": {
                "address": address,
                "namespace": temporal.get("namespace") or "default",
                "ui_url": up["temporal_ui_url"] if up is not None and ours else None,
            },
            "features": FEATURES,
            "limits": {
                "request_bytes_max": settings.limits.request_bytes_max,
                "max_turns_default": settings.limits.max_turns,
                "max_tool_calls_default": settings.limits.max_tool_calls,
                "max_questions_default": settings.limits.max_questions,
                "max_children_default": settings.limits.max_children,
                "max_depth_default": settings.limits.max_depth,
                "deadline_seconds_default": settings.limits.deadline_seconds,
                "page_max": PAGE_MAX,
                "wait_seconds_max": WAIT_SECONDS_MAX,
                "inbox_waiting_max": INBOX_WAITING_MAX,
                "decisions_max": DECISIONS_MAX,
                "tool_results_max": RESULTS_MAX,
                "client_tools_max": CLIENT_TOOLS_MAX,
                "policy_rules_max": RULES_MAX,
                "budget_usd_max": USD_MAX,
                "labels_max": LABELS_MAX,
                "metadata_bytes_max": METADATA_BYTES_MAX,
            },
        }
    )
