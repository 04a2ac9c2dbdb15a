"""Signals: what has happened outside, told to the run that waits for it, or to all that do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response
from ulid import ULID

from api.actor import Actor
from api.bodies import JsonRoute
from api.encoding import JsonReply, encode
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import PROJECT, Given, Strict
from api.people_bodies import SendSignal, SendSignalToAll
from api.people_replies import SignalOut, SignalsOut
from api.problems import Problem, declared, field_problem
from api.times import Object, time
from perdure.store.rows import SIGNALS_BUFFERED_MAX, NewSignal, SignalRow
from perdure.store.trouble import RunOver
from perdure.tools.builtin.waiting import EVENT_NAME

PAYLOAD_BYTES_MAX = 32_768  # as JSON: it becomes part of a transcript, whole
RUNS_MAX = 1_000  # of one request to all

router = APIRouter(tags=["time"], route_class=JsonRoute)

Name = Annotated[str, Path(pattern=EVENT_NAME, description="What has happened, such as `order.paid`.")]


@router.post(
    "/v1/runs/{run_id}/signals/{name}",
    operation_id="send_signal",
    summary="Tell a run that something has happened",
    status_code=202,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "run_not_found", "run_terminal", "idempotency_in_progress", "payload_too_large",
            "validation_failed", "idempotency_key_reused", "queue_full",
        ),
        202: {"model": SignalOut, "description": "What became of it, durably"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def send_signal(
    request: Strict, given: Given, run_id: str, name: Name, actor: Actor, body: SendSignal | None = None
) -> Response:
    journal = given.assembly.journal
    sent = body or SendSignal()
    _check_size(sent)

    async def act(id_: str) -> Response:
        await journal.get_run(run_id, PROJECT)
        row = await journal.send_signal(run_id, _signal(id_, name, sent, actor))
        if row.disposition == "dropped":
            full = f"Run {run_id} has {SIGNALS_BUFFERED_MAX} signals buffered that nobody waits for yet."
            raise Problem("queue_full", full)
        given.nudge(run_id, *row.told)
        return JsonReply(_shown(row), 202)

    reply, _ = await once(request, journal, f"sig_{ULID()}", act)
    return reply


@router.post(
    "/v1/signals/{name}",
    operation_id="send_signal_to_all",
    summary="Tell all runs that wait for it",
    status_code=202,
    response_model=None,
    responses={
        **declared(
            "invalid_json", "idempotency_in_progress", "payload_too_large", "validation_failed",
            "idempotency_key_reused",
        ),
        202: {"model": SignalsOut, "description": "What became of it in each run that waits for an event so named"},
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)  # fmt: skip
async def send_signal_to_all(
    request: Strict, given: Given, name: Name, actor: Actor, body: SendSignalToAll | None = None
) -> Response:
    """Runs that do not wait hear nothing. Whose match the payload does not fit is `not_waiting`."""
    journal = given.assembly.journal
    sent = body or SendSignalToAll()
    _check_size(sent)

    async def act(id_: str) -> Response:
        signal, rows = _signal(id_, name, sent, actor), []
        waiting = await journal.runs_waiting_for(PROJECT, name, labels=sent.labels, limit=RUNS_MAX + 1)
        for run_id in waiting[:RUNS_MAX]:
            try:
                rows.append(await journal.send_signal(run_id, signal, only_waiting=True))
            except RunOver:  # it ended just now
                continue
            given.nudge(run_id)
        body = {"object": "list", "data": [_shown(row) for row in rows], "more": len(waiting) > RUNS_MAX}
        return JsonReply(body, 202)

    reply, _ = await once(request, journal, f"sig_{ULID()}", act)
    return reply


def _signal(id_: str, name: str, sent: SendSignal, actor: str) -> NewSignal:
    return NewSignal(id_, name, sent.payload, sent.urgency, sent.dedupe_key, actor)


def _check_size(sent: SendSignal) -> None:
    if (size := len(encode(sent.payload))) > PAYLOAD_BYTES_MAX:
        message = f"the payload has {size} bytes, {PAYLOAD_BYTES_MAX} at most: send a reference"
        raise field_problem("payload_too_large", "/payload", message)


def _shown(row: SignalRow) -> Object:
    return {
        "id": row.id,
        "object": "signal",
        "run_id": row.run_id,
        "name": row.name,
        "disposition": row.disposition,
        "call_id": row.call_id,
        "created_at": time(row.at_ms),
    }
