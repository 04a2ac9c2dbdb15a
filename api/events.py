"""What happened to a run, as it happens: SSE, JSON lines, or a page of JSON, from one numbered log.

A stream subscribes first and reads afterwards, so no commit falls between the two. It reads pages and
waits for the client to take each one: a slow reader costs one page of memory, and nobody else's time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from api.bodies import JsonRoute
from api.encoding import encode
from api.event_types import EventType
from api.family import family_batches, family_page
from api.paging import PAGE_DEFAULT, Limit, list_reply
from api.parts import PROJECT, Given, Parts
from api.problems import declared, parameter_problem
from api.rendering import event
from api.replies import EventOut
from api.reply import ListReply
from perdure.core.state import TERMINAL
from perdure.store.rows import EventRow, RunRow
from perdure.store.trouble import EventsExpired, JournalTrouble

log = logging.getLogger("perdure.api")

ROWS_AT_ONCE = 200  # of one read: bounds the memory of a reader; messages of a megabyte are ordinary
CHUNK_BYTES = 64 * 1024  # of one write: the client takes it before the next is made
LOOK_UP_SECONDS = 1.0  # how late a stopping process is noticed by an idle stream
TROUBLE_PAUSE_SECONDS = 0.5  # before a journal that is away is asked again
RETRY = b"retry: 1000\n"  # one newline: it belongs to the first event, and is no event by itself
PING = b": ping\n"  # one newline: followed by a blank line, stock clients emit an empty event
ENDINGS: Final = frozenset(f"run.{status}" for status in TERMINAL)

Until = Literal["terminal", "requires_action"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked for. ``after`` is the number of the last event it has."""

    after: int
    types: tuple[str, ...] = ()
    deltas: bool = True
    until: Until = "terminal"

    def shows(self, row: EventRow) -> bool:
        return not self.types or row.type in self.types

    def ends_with(self, row: EventRow) -> bool:
        return row.type in ENDINGS or (self.until == "requires_action" and row.type == "run.requires_action")

    @property
    def types_to_read(self) -> Sequence[str]:
        """Ends are read even when they are not shown: the stream must end there."""
        return (*self.types, *ENDINGS, "run.requires_action") if self.types else ()


router = APIRouter(tags=["events"], route_class=JsonRoute)


@router.get(
    "/v1/runs/{run_id}/events",
    operation_id="list_run_events",
    summary="Follow or page through a run's events",
    response_model=None,
    responses={
        **declared("run_not_found", "invalid_cursor", "invalid_last_event_id", "events_expired"),
        200: {
            "description": "By Accept: `text/event-stream` follows the run until it ends; `application/jsonl` gives "
            "all events up to now, one a line; anything else a page. `follow` says otherwise for the first two.",
            "model": ListReply[EventOut],
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/jsonl": {"schema": {"type": "string"}},
            },
        },
        204: {"description": "A stream that reconnects (Last-Event-ID) to a run that has ended and holds nothing more"},
    },
)
async def list_run_events(
    request: Request,
    given: Given,
    run_id: str,
    after: Annotated[
        str | None, Query(max_length=64, description="A `seq`, or `latest`: only events after it.")
    ] = None,
    types: Annotated[list[EventType], Query(description="Only these types.")] = [],  # noqa: B006
    types_bracketed: Annotated[
        list[EventType], Query(alias="types[]", description="The same, as some clients write it.")
    ] = [],  # noqa: B006
    deltas: Annotated[
        bool, Query(description="With the live lane: text.delta, reasoning.delta, tool_args.delta.")
    ] = True,
    until: Annotated[Until, Query(description="When a stream ends, at the latest with the run.")] = "terminal",
    follow: Annotated[
        bool | None,
        Query(description="Go on until the run ends: SSE does unless `false`, JSON lines do with `true`, pages never."),
    ] = None,
    include_children: Annotated[
        bool,
        Query(description="With those of all runs below, by time, in pages and JSON lines. `after` is an `id` then."),
    ] = False,
    limit: Limit = PAGE_DEFAULT,
    last_event_id: Annotated[
        str | None, Header(description="Wins over `after`: what a reconnecting SSE client sends.")
    ] = None,
) -> Response:
    run = await given.assembly.journal.get_run(run_id, PROJECT)
    if include_children:
        media_type = _media_type(request.headers.get("accept", ""))
        return await _of_family(given, run, media_type, after, (*types, *types_bracketed), deltas, limit)
    wanted = Wanted(_position(run, after, last_event_id), (*types, *types_bracketed), deltas, until)
    if wanted.after < run.pruned_seq:
        raise EventsExpired(run.id, run.pruned_seq)
    match _media_type(request.headers.get("accept", "")):
        case "text/event-stream":
            nothing_left = run.status in TERMINAL and wanted.after >= run.last_seq
            if nothing_left and last_event_id:
                return Response(status_code=204)  # the one answer that stops an EventSource from reconnecting
            return sse_reply(given, run, wanted, follow=follow is not False)
        case "application/jsonl":
            lines = _lines(given, run, wanted, follow=follow is True)
            return StreamingResponse(lines, media_type="application/jsonl", headers=_STREAM_HEADERS)
        case _:
            return await _page(given, run.id, wanted, limit)


async def _of_family(
    parts: Parts, run: RunRow, media_type: str, after: str | None, types: Sequence[str], deltas: bool, limit: int
) -> Response:
    if media_type == "text/event-stream":
        message = "a stream has the numbers of one run: read pages or JSON lines, or follow each run of its /tree"
        raise parameter_problem("invalid_request", "include_children", message)
    if media_type == "application/jsonl":
        batches = family_batches(parts, run.id, after, types, deltas)
        await family_page(parts, run.id, after, types, deltas, 1)  # a bad cursor is said before the stream begins
        return StreamingResponse(_as_lines(batches), media_type="application/jsonl", headers=_STREAM_HEADERS)
    return await family_page(parts, run.id, after, types, deltas, limit)


def _media_type(accept: str) -> str:
    """The first of our types that the header names; JSON when it names none."""
    for item in accept.lower().split(","):
        match item.partition(";")[0].strip():
            case "text/event-stream":
                return "text/event-stream"
            case "application/jsonl" | "application/x-ndjson" | "application/jsonlines":
                return "application/jsonl"
            case "application/json":
                return "application/json"
    return "application/json"


def _position(run: RunRow, after: str | None, last_event_id: str | None) -> int:
    """``invalid_last_event_id`` and ``invalid_cursor``: nobody can have seen an event that is not there."""
    if last_event_id:
        number = _seq(last_event_id, run.last_seq)
        if number is None:
            raise parameter_problem(
                "invalid_last_event_id", "last-event-id", f"{last_event_id[:40]!r} is no event number of {run.id}"
            )
        return number
    if after is None:
        return 0
    if after == "latest":
        return run.last_seq
    number = _seq(after, run.last_seq)
    if number is None:
        raise parameter_problem("invalid_cursor", "after", f"{after!r} is no event number of {run.id}")
    return number


def _seq(text: str, last_seq: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        return None
    return int(text) if int(text) <= last_seq else None


async def _page(parts: Parts, run_id: str, wanted: Wanted, limit: int) -> Response:
    rows = await parts.assembly.journal.read_events(
        run_id, after=wanted.after, limit=limit + 1, types=wanted.types, deltas=wanted.deltas
    )
    shown = rows[:limit]
    return list_reply([event(row) for row in shown], str(shown[-1].seq) if len(rows) > limit else None)


# Streams ------------------------------------------------------------------------------------------

_STREAM_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}  # proxies must not hold it


def sse_reply(
    parts: Parts,
    run: RunRow,
    wanted: Wanted,
    *,
    follow: bool = True,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """The run's events from ``wanted.after`` on, until they end; without ``follow`` those up to now."""
    events = _sse(parts, run, wanted, follow=follow)
    return StreamingResponse(events, status, {**_STREAM_HEADERS, **(headers or {})}, media_type="text/event-stream")


async def _sse(parts: Parts, run: RunRow, wanted: Wanted, *, follow: bool) -> AsyncIterator[bytes]:
    yield RETRY
    async for rows in follow_run(parts, run, wanted) if follow else _up_to_now(parts, run.id, wanted):
        for chunk in _chunks(map(_sse_event, rows)) if rows else (PING,):
            yield chunk


def _sse_event(row: EventRow) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (row.seq, row.type.encode(), encode(event(row)))


def _line(row: EventRow) -> bytes:
    return encode(event(row)) + b"\n"


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Small pieces together, so that a replay is not a thousand writes; large ones soon alone."""
    held: list[bytes] = []
    held_bytes = 0
    for piece in pieces:
        held.append(piece)
        held_bytes += len(piece)
        if held_bytes >= CHUNK_BYTES:
            yield b"".join(held)
            held, held_bytes = [], 0
    if held:
        yield b"".join(held)


async def _as_lines(batches: AsyncIterator[list[EventRow]]) -> AsyncIterator[bytes]:
    async for rows in batches:
        for chunk in _chunks(map(_line, rows)):
            yield chunk


async def _lines(parts: Parts, run: RunRow, wanted: Wanted, *, follow: bool) -> AsyncIterator[bytes]:
    async for rows in follow_run(parts, run, wanted) if follow else _up_to_now(parts, run.id, wanted):
        for chunk in _chunks(map(_line, rows)):  # JSON lines know no heartbeat
            yield chunk


async def _up_to_now(parts: Parts, run_id: str, wanted: Wanted) -> AsyncIterator[list[EventRow]]:
    """Batches of the events that are there, without waiting; none of them empty."""
    after = wanted.after
    while True:
        rows = await parts.assembly.journal.read_events(
            run_id, after=after, limit=ROWS_AT_ONCE, types=wanted.types, deltas=wanted.deltas
        )
        if rows:
            yield rows
        if len(rows) < ROWS_AT_ONCE:
            return
        after = rows[-1].seq


async def follow_run(parts: Parts, run: RunRow, wanted: Wanted) -> AsyncIterator[list[EventRow]]:
    """Batches of events as they are committed, an empty batch whenever a heartbeat is due. Ends with the
    run, or when this process stops. A journal that is away for a while only delays it."""
    if run.status in TERMINAL and wanted.after >= run.last_seq:
        return
    position = wanted.after
    while not parts.stopping.is_set():
        try:
            async for rows in _follow_once(parts, run.id, position, wanted):
                if not rows:
                    yield []
                    continue
                position = rows[-1].seq
                shown = [row for row in rows if wanted.shows(row)]
                if shown:
                    yield shown
                if wanted.ends_with(rows[-1]):
                    return
            return
        except JournalTrouble as trouble:
            log.warning("the stream of %s waits for the journal: %s", run.id, trouble)
            yield []
            await asyncio.sleep(TROUBLE_PAUSE_SECONDS)


async def _follow_once(parts: Parts, run_id: str, position: int, wanted: Wanted) -> AsyncIterator[list[EventRow]]:
    """One subscription: batches that end at an ending event at the latest."""
    journal = parts.assembly.journal
    clock = asyncio.get_running_loop().time
    async with journal.follow(run_id) as follower:
        beat_at = clock() + parts.heartbeat_seconds
        while not parts.stopping.is_set():
            rows = await journal.read_events(
                run_id, after=position, limit=ROWS_AT_ONCE, types=wanted.types_to_read, deltas=wanted.deltas
            )
            if rows:
                end = next((index for index, row in enumerate(rows) if wanted.ends_with(row)), None)
                rows = rows if end is None else rows[: end + 1]
                position = rows[-1].seq
                yield rows
                beat_at = clock() + parts.heartbeat_seconds
                if len(rows) == ROWS_AT_ONCE:
                    continue
            while not await follower.wait(max(0.0, min(LOOK_UP_SECONDS, beat_at - clock()))):
                if parts.stopping.is_set():
                    return
                if clock() >= beat_at:
                    yield []
                    beat_at = clock() + parts.heartbeat_seconds
                    break  # and read again, for safety
