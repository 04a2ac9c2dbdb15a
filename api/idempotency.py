"""``Idempotency-Key``: the first reply again, instead of the effect again.

The key reserves the id of the object to be created. Whoever takes over a reservation whose owner
died creates under the same id, and the journal finds what is there: nothing is made twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.responses import Response

from api.actor import ANONYMOUS
from api.actor import HEADER as ACTOR
from api.bodies import JsonRequest, fingerprint
from api.parts import PROJECT
from api.problems import Problem, parameter_problem, problem_of
from perdure.store.idempotency import TAKE_OVER_AFTER_MS
from perdure.store.journal import Journal
from perdure.store.rows import StoredReply
from perdure.store.trouble import JournalTrouble, KeyInProgress, KeyReused

log = logging.getLogger("perdure.api")

HEADER: Final = "idempotency-key"
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and body give the first reply again, with `Idempotent-Replayed: true`.",
    "schema": {"type": "string", "maxLength": 255},
}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")  # fits an index row of both databases and Temporal's ids
_KEPT_HEADERS = ("content-type", "location", "etag")
# Whoever lets TemporalUnavailable through has done nothing yet: what is durable is told to Temporal later. That the
# journal is away leaves in doubt whether it has taken the last transaction.
_NOTHING_DONE = ("temporal_unavailable",)
_IN_PROGRESS_RETRY_SECONDS = 1
_MARGIN_MS = 2_000  # for the way to the journal

Act = Callable[[str], Awaitable[Response]]


async def once(request: JsonRequest, journal: Journal, object_id: str, act: Act) -> tuple[Response, bool]:
    """The reply of ``act(object id)`` and whether it is a replay. Without the header, ``act`` just runs.

    A request that is refused (4xx), or that Temporal's absence has kept from doing anything, leaves its key
    free; one that ends in doubt (5xx) keeps it, for the next try to take over.
    """
    key = _key_of(request)
    if key is None:
        return await act(object_id), False
    mark = fingerprint(request.method, request.url.path, request.document, request.headers.get(ACTOR, ANONYMOUS))
    try:
        object_id, kept = await journal.reserve_key(PROJECT, key, mark, object_id)
    except KeyReused:
        raise Problem(
            "idempotency_key_reused", "This Idempotency-Key came before with another request; use a new one."
        ) from None
    except KeyInProgress:
        raise Problem(
            "idempotency_in_progress",
            "The first request with this Idempotency-Key is still being answered; ask again soon.",
            headers={"retry-after": str(_IN_PROGRESS_RETRY_SECONDS)},
        ) from None
    if kept is not None:
        return Response(kept.body, kept.status, {**kept.headers, "idempotent-replayed": "true"}), True
    begun = asyncio.get_running_loop().time()
    try:
        reply = await act(object_id)
    except Exception as error:
        problem = problem_of(error)
        took_ms = (asyncio.get_running_loop().time() - begun) * 1_000
        # Later it may be the key of another try, which has taken it over and is at work.
        own = took_ms < TAKE_OVER_AFTER_MS - _MARGIN_MS
        if own and problem is not None and (problem.status < 500 or problem.code in _NOTHING_DONE):
            with suppress(JournalTrouble):
                await asyncio.shield(journal.release_key(PROJECT, key))
        raise
    headers = {name: reply.headers[name] for name in _KEPT_HEADERS if name in reply.headers}
    try:
        await journal.keep_reply(PROJECT, key, StoredReply(reply.status_code, headers, bytes(reply.body)))
    except JournalTrouble as trouble:
        # The effect is durable, and a repetition finds it under the reserved id: the reply is true.
        log.warning("the reply to an Idempotency-Key could not be kept: %s", trouble)
    return reply, False


def _key_of(request: JsonRequest) -> str | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise parameter_problem("invalid_request", HEADER, "Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key
