"""A session as JSON lines: its head, its messages, the blobs they refer to, and an end that says that nothing is
missing. What is written here is read here, exactly; anything else is refused with the number of the line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, assert_never, cast

from pydantic import ValidationError

from api.bodies import NESTING_MAX, parse
from api.problems import FieldError, Problem, body_errors
from api.session_line_bodies import LINE, BlobLine, EndLine, HeadLine, Line, MessageLine, ToolResult
from api.times import milliseconds, time
from perdure.content import Block, Message
from perdure.store.rows import ImportedMessage, SessionRow

FORMAT: Literal["perdure.session"] = "perdure.session"
VERSION: Literal[1] = 1
LINE_BYTES_MAX = 64 * 1024 * 1024  # one message; a whole request, and most answers, are smaller
BLOB_CHUNK_BYTES = 256 * 1024  # of a blob in one line

# Writing ----------------------------------------------------------------------------------------------


def head_line(session: SessionRow) -> bytes:
    return _encoded(
        {
            "type": "session",
            "format": FORMAT,
            "version": VERSION,
            "id": session.id,
            "created_at": time(session.created_ms),
            "labels": session.labels,
            "metadata": session.metadata,
            "messages": session.last_number,
        }
    )


def message_line(message: Message) -> bytes:
    return _encoded(
        {
            "type": "message",
            "number": message["number"],
            "id": message["id"],
            "role": message["role"],
            "content": message["content"],
            "producer": message["producer"],
            "stop_reason": message["stop_reason"],
            "created_at": time(message["at_ms"]),
        }
    )


def blob_line(id_: str, media_type: str, size: int, offset: int, piece: bytes) -> bytes:
    line = {"type": "blob", "id": id_, "media_type": media_type, "bytes": size, "offset": offset}
    return _encoded({**line, "base64": base64.b64encode(piece).decode()})


def missing_blob_line(id_: str) -> bytes:
    return _encoded({"type": "blob", "id": id_, "missing": True})


def end_line(messages: int, blobs: int) -> bytes:
    return _encoded({"type": "end", "messages": messages, "blobs": blobs})


def blobs_of(content: Sequence[Block]) -> list[str]:
    return [block["blob"] for block in content if block["type"] == "tool_result" and "blob" in block]


def _encoded(document: dict[str, Any]) -> bytes:
    """ASCII, so that nothing that text may hold breaks a line or an encoding."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


# Reading ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Blob:
    """Its pieces come in lines one after another; ``places`` are where those begin in the file."""

    id: str
    media_type: str
    bytes: int
    received: int = 0
    places: list[int] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def complete(self) -> bool:
        return bool(self.places) and self.received == self.bytes

    def take(self, number: int, line: BlobLine, place: int) -> None:
        try:
            piece = base64.b64decode(line.base64, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(number, "not base64", "/base64") from None
        if self.complete or line.offset != self.received or line.bytes != self.bytes or len(piece) > BLOB_CHUNK_BYTES:
            raise invalid(number, f"byte {self.received} of the blob is expected here", "/offset")
        self.digest.update(piece)
        self.received += len(piece)
        self.places.append(place)
        if self.received > self.bytes or (not piece and not self.complete):
            raise invalid(number, f"the blob has {self.bytes} bytes, says its first line", "/base64")
        if self.complete and self.digest.hexdigest() != self.id.removeprefix("blob_"):
            raise invalid(number, "the blob is not the one that its id names", "/base64")


@dataclass(slots=True)
class Export:
    """A file that was read to its end and is whole. Its messages are read from it again, each time from the start."""

    file: IO[bytes]
    head: HeadLine
    blobs: list[Blob]

    def __iter__(self) -> Iterator[ImportedMessage]:
        self.file.seek(0)
        for number, line in enumerate(self.file, 1):
            if isinstance(parsed := _parsed(number, line), MessageLine):
                yield _message(parsed)

    def body(self, blob: Blob) -> bytes:
        pieces = []
        for place in blob.places:
            self.file.seek(place)
            pieces.append(base64.b64decode(json.loads(self.file.readline())["base64"]))
        return b"".join(pieces)


def checked(file: IO[bytes]) -> Export:
    """Read it all. ``export_invalid``, with the number of the line."""
    file.seek(0)
    reading = _Reading()
    number = place = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise invalid(number, f"a line has at most {LINE_BYTES_MAX} bytes")
        reading.take(number, _parsed(number, line), place)
        place = file.tell()
    return Export(file, reading.whole(number), list(reading.blobs.values()))


@dataclass(slots=True)
class _Reading:
    head: HeadLine | None = None
    messages: int = 0
    ids: set[str] = field(default_factory=set)
    blobs: dict[str, Blob] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    wanted: dict[str, dict[int, int]] = field(default_factory=dict)  # blobs: their bytes, says the message in this line
    open: Blob | None = None  # the one whose next piece must come now
    end: EndLine | None = None

    def take(self, number: int, line: Line, place: int) -> None:
        if self.end is not None:
            raise invalid(number, "nothing comes after the line of type end", "/type")
        if (self.head is None) is not isinstance(line, HeadLine):
            raise invalid(number, "the first line, and no other, has the type session", "/type")
        if self.open is not None and not (isinstance(line, BlobLine) and line.id == self.open.id):
            raise invalid(number, f"the rest of {self.open.id} is expected here")
        match line:
            case HeadLine():
                self.head = line
            case MessageLine():
                self._message(number, line)
            case BlobLine():
                self._blob(number, line, place)
            case EndLine():
                self.end = line
            case _:
                assert_never(line)

    def _message(self, number: int, line: MessageLine) -> None:
        self.messages += 1
        if line.number != self.messages or self.blobs or self.missing:
            raise invalid(number, f"message {self.messages} is expected here, in order, before all blobs", "/number")
        if line.id in self.ids:
            raise invalid(number, "another message has this id", "/id")
        self.ids.add(line.id)
        for block in line.content:
            if isinstance(block, ToolResult) and block.blob:
                self.wanted.setdefault(block.blob, {}).setdefault(block.bytes, number)

    def _blob(self, number: int, line: BlobLine, place: int) -> None:
        if line.id not in self.wanted:
            raise invalid(number, "no message refers to this blob", "/id")
        if line.id in self.missing or (line.missing and line.id in self.blobs):
            raise invalid(number, "this blob came before", "/id")
        if line.contradictory:
            raise invalid(number, "a blob that is missing has no media_type, bytes, offset or base64", "/missing")
        if line.missing:
            self.missing.add(line.id)
            return
        blob = self.blobs.setdefault(line.id, Blob(line.id, line.media_type, line.bytes))
        blob.take(number, line, place)
        self.open = None if blob.complete else blob

    def whole(self, lines: int) -> HeadLine:
        if self.head is None or self.end is None:
            raise invalid(lines + 1, "the export ends early: the line of type end is missing")
        written = (self.end.messages, self.end.blobs)
        if (self.messages, len(self.blobs) + len(self.missing)) != written or self.messages != self.head.messages:
            raise invalid(lines, f"{written[0]} messages and {written[1]} blobs were written, not all are here")
        for id_, sizes in self.wanted.items():
            blob = self.blobs.get(id_)
            for size, number in sizes.items():
                if blob is None and id_ not in self.missing:
                    raise invalid(number, f"{id_} is referred to, and not in this export", "/content")
                if blob is not None and size != blob.bytes:
                    raise invalid(number, f"{id_} has {blob.bytes} bytes, the result says otherwise", "/content")
        return self.head


def _parsed(number: int, line: bytes) -> Line:
    document = _json(number, line)
    if not isinstance(document, dict):
        raise invalid(number, "not a JSON object")
    if number == 1 and (document.get("type"), document.get("format")) != ("session", FORMAT):
        raise invalid(number, f'an export begins with a line of type "session" and format "{FORMAT}"', "/format")
    _check(document, number)
    if number == 1:
        _check_as_in_requests(line)
    try:
        return LINE.validate_python(document)
    except ValidationError as error:
        first = body_errors(error.errors(include_url=False)[:1], document)[0]
        raise invalid(number, first.message.removeprefix("Value error, "), first.pointer or "") from None


def _json(number: int, line: bytes) -> Any:
    if not line.strip():
        raise invalid(number, "an empty line; each holds one JSON object")
    try:
        return json.loads(line.decode("utf-8-sig").rstrip("\r\n"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise invalid(number, f"not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise invalid(number, f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise invalid(number, f"not JSON: {error}") from None


def _check(value: Any, number: int, pointer: str = "", depth: int = 0) -> None:
    """What the journal would not keep as it is. Text may hold anything: transcripts do."""
    if depth > NESTING_MAX:
        raise invalid(number, f"nested deeper than {NESTING_MAX} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(number, "the number is out of range", pointer)
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, number, f"{pointer}/{index}", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(item, number, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", depth + 1)


def _check_as_in_requests(head: bytes) -> None:
    """Labels and metadata may hold what they may hold when a session is made, and nothing else."""
    try:
        parse(head)
    except Problem as problem:
        first = problem.errors[0]
        raise invalid(1, first.message, first.pointer or "") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _message(line: MessageLine) -> ImportedMessage:
    content = [block.model_dump(exclude_unset=True) for block in line.content]
    return ImportedMessage(
        line.id,
        line.number,
        line.role,
        cast("list[Block]", content),
        line.producer,
        line.stop_reason,
        milliseconds(line.created_at),
    )


def invalid(line: int, message: str, pointer: str = "") -> Problem:
    errors = [FieldError(pointer, "export_invalid", message, line=line)]
    return Problem("export_invalid", f"Line {line}: {message}.", errors=errors)
