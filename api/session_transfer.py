"""Sessions as JSON lines: written while they are read, and taken in whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from email.message import Message as MimeHeaders
from typing import IO

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse
from ulid import ULID

from api.bodies import JsonRequest, JsonRoute
from api.encoding import JsonReply
from api.idempotency import IDEMPOTENCY_KEY, once
from api.parts import PROJECT, Given, Strict
from api.problems import FieldError, Problem, declared
from api.rendering import session as render_session
from api.replies import SessionOut
from api.session_lines import (
    BLOB_CHUNK_BYTES,
    blob_line,
    blobs_of,
    checked,
    end_line,
    head_line,
    message_line,
    missing_blob_line,
)
from perdure.store.journal import Journal
from perdure.store.rows import SessionRow
from perdure.store.trouble import NotFound, SessionDeleted

MEDIA_TYPE = "application/jsonl"
MESSAGES_AT_ONCE = 200
IN_MEMORY_BYTES = 4 * 1024 * 1024  # of a body that is being taken in; more goes to a temporary file
_TAKEN = frozenset({"jsonl", "x-ndjson", "jsonlines"})

router = APIRouter(tags=["sessions"], route_class=JsonRoute)


@router.get(
    "/v1/sessions/{session_id}/export",
    operation_id="export_session",
    summary="Write a conversation as JSON lines",
    response_model=None,
    responses={
        **declared("session_not_found", "session_deleted"),
        200: {
            "description": "The head, the messages, the whole of large results as base64, and an end line",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
    },
)
async def export_session(given: Given, session_id: str) -> Response:
    journal = given.assembly.journal
    session = await journal.get_session(PROJECT, session_id)
    if session.deleted_ms is not None:
        raise SessionDeleted(session_id)
    headers = {"content-disposition": f'attachment; filename="{session.id}.jsonl"'}
    return StreamingResponse(_lines(journal, session), media_type=MEDIA_TYPE, headers=headers)


async def _lines(journal: Journal, session: SessionRow) -> AsyncIterator[bytes]:
    """The session as it was when this began: what is added meanwhile is not in it."""
    yield head_line(session)
    written, blobs = 0, dict[str, None]()
    while written < session.last_number:
        most = min(MESSAGES_AT_ONCE, session.last_number - written)
        messages = await journal.list_messages(session.id, after=written, limit=most)
        if not messages:
            return  # deleted meanwhile: without its end line nobody takes the export for whole
        for message in messages:
            blobs.update(dict.fromkeys(blobs_of(message["content"])))
        yield b"".join(map(message_line, messages))
        written = messages[-1]["number"]
    for blob_id in blobs:
        async for line in _blob_lines(journal, blob_id):
            yield line
    yield end_line(written, len(blobs))


async def _blob_lines(journal: Journal, blob_id: str) -> AsyncIterator[bytes]:
    try:
        media_type, body = await journal.media_type_of(blob_id), await journal.get_blob(blob_id)
    except NotFound:
        yield missing_blob_line(blob_id)
        return
    for offset in range(0, max(1, len(body)), BLOB_CHUNK_BYTES):
        yield blob_line(blob_id, media_type, len(body), offset, body[offset : offset + BLOB_CHUNK_BYTES])


@router.post(
    "/v1/sessions:import",
    operation_id="import_session",
    summary="Take in an exported conversation",
    status_code=201,
    response_model=None,
    responses={
        **declared(
            "idempotency_in_progress", "payload_too_large", "export_invalid", "idempotency_key_reused",
        ),
        201: {"model": SessionOut, "description": "A new session with the same messages"},
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "description": "What GET /v1/sessions/{session_id}/export wrote.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
    },
)  # fmt: skip
async def import_session(request: Strict, given: Given) -> Response:
    journal = given.assembly.journal
    _check_media_type(request.headers.get("content-type", ""))
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
        request.document = {"sha256": await _received(request, file)}  # what an Idempotency-Key stands for
        export = await asyncio.to_thread(checked, file)

        async def act(session_id: str) -> Response:
            for blob in export.blobs:
                await journal.put_blob(await asyncio.to_thread(export.body, blob), blob.media_type)
            row = await journal.import_session(
                PROJECT, session_id, export, labels=export.head.labels, metadata=export.head.metadata
            )
            return JsonReply(render_session(row), 201, {"location": f"/v1/sessions/{row.id}"})

        reply, _ = await once(request, journal, f"ses_{ULID()}", act)
        return reply


def _check_media_type(content_type: str) -> None:
    """A web form of a foreign page must not import anything."""
    headers = MimeHeaders()
    headers["content-type"] = content_type or "none/none"
    if headers.get_content_maintype() == "application" and headers.get_content_subtype() in _TAKEN:
        return
    raise Problem(
        "invalid_request",
        f"Content-Type must be {MEDIA_TYPE}, not {content_type or 'absent'}.",
        status=415,
        errors=[FieldError(None, "unsupported_media_type", f"must be {MEDIA_TYPE}", "content-type")],
    )


async def _received(request: JsonRequest, file: IO[bytes]) -> str:
    """The body in the file, and its SHA-256."""
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()
