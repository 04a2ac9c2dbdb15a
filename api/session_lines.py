"""A session as JSON lines: its head, its messages, the blobs they refer to, and an end that says that nothing is
missing. What is written here is read here, exactly; anything else is refused with the number of the line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Annotated, Any, Literal, assert_never, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api.bodies import NESTING_MAX
from api.body import Labels, Metadata, Moment
from api.problems import FieldError, Problem, body_errors
from api.times import milliseconds, time
from perdure.content import Block, Message
from perdure.store.rows import ImportedMessage, SessionRow

FORMAT: Literal["perdure.session"] = "perdure.session"
VERSION: Literal[1] = 1
LINE_BYTES_MAX = 64 * 1024 * 1024  # one message; a whole request, and most answers, are smaller
BLOB_CHUNK_BYTES = 256 * 1024  # of a blob in one line
MESSAGES_MAX = 10_000_000


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HeadLine(_Line):
    type: Literal["session"]
    format: Literal["perdure.session"]
    version: Literal[1]
    id: str = Field(max_length=64)
    created_at: Annotated[Moment, Field(strict=False)]
    labels: Labels
    metadata: Metadata
    messages: int = Field(ge=0, le=MESSAGES_MAX)


class _Text(_Line):
    type: Literal["text"]
    text: str


class _Reasoning(_Line):
    type: Literal["reasoning"]
    text: str
    producer: str
    opaque: Any = None


class _ToolCall(_Line):
    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: dict[str, Any] | None = None
    raw_arguments: str | None = None


class _ToolResult(_Line):
    type: Literal["tool_result"]
    call_id: str
    name: str
    text: str
    is_error: bool
    blob: str | None = Field(default=None, pattern="^blob_[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, ge=0)


class MessageLine(_Line):
    type: Literal["message"]
    number: int
    id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")
    role: Literal["user", "assistant", "tool"]
    content: list[Annotated[_Text | _Reasoning | _ToolCall | _ToolResult, Field(discriminator="type")]]
    producer: str | None = Field(max_length=256)
    stop_reason: str | None = Field(max_length=256)
    created_at: Annotated[Moment, Field(strict=False)]


class BlobLine(_Line):
    """A piece of a blob. ``missing``: it was gone when the session was exported."""

    type: Literal["blob"]
    id: str = Field(pattern="^blob_[0-9a-f]{64}$")
    media_type: str = Field(default="text/plain", max_length=256)
    bytes: int = Field(default=0, ge=0)
    offset: int = Field(default=0, ge=0)
    base64: str = ""
    missing: bool = False


class EndLine(_Line):
    type: Literal["end"]
    messages: int
    blobs: int


Line = HeadLine | MessageLine | BlobLine | EndLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="type")])

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
    blobs: dict[str, Blob] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    wanted: dict[str, int] = field(default_factory=dict)  # blobs that messages refer to, and in which line
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
            case BlobLine(missing=True):
                self.missing.add(line.id)
            case BlobLine():
                blob = self.blobs.setdefault(line.id, Blob(line.id, line.media_type, line.bytes))
                blob.take(number, line, place)
                self.open = None if blob.complete else blob
            case EndLine():
                self.end = line
            case _:
                assert_never(line)

    def _message(self, number: int, line: MessageLine) -> None:
        self.messages += 1
        if line.number != self.messages or self.blobs or self.missing:
            raise invalid(number, f"message {self.messages} is expected here, in order, before all blobs", "/number")
        for id_ in blobs_of(_message(line).content):
            self.wanted.setdefault(id_, number)

    def whole(self, lines: int) -> HeadLine:
        if self.head is None or self.end is None:
            raise invalid(lines + 1, "the export ends early: the line of type end is missing")
        written = (self.end.messages, self.end.blobs)
        if (self.messages, len(self.blobs) + len(self.missing)) != written or self.messages != self.head.messages:
            raise invalid(lines, f"{written[0]} messages and {written[1]} blobs were written, not all are here")
        for id_, number in self.wanted.items():
            if id_ not in self.blobs and id_ not in self.missing:
                raise invalid(number, f"{id_} is referred to, and not in this export", "/content")
        return self.head


def _parsed(number: int, line: bytes) -> Line:
    try:
        document = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(number, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid(number, "not a JSON object")
    if number == 1 and (document.get("type"), document.get("format")) != ("session", FORMAT):
        raise invalid(number, f'an export begins with a line of type "session" and format "{FORMAT}"', "/format")
    _check_depth(document, number)
    try:
        return _LINE.validate_python(document)
    except ValidationError as error:
        first = body_errors(error.errors(include_url=False)[:1], document)[0]
        raise invalid(number, first.message, first.pointer or "") from None


def _check_depth(value: Any, number: int, depth: int = 0) -> None:
    if depth > NESTING_MAX:
        raise invalid(number, f"nested deeper than {NESTING_MAX} levels")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, number, depth + 1)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _message(line: MessageLine) -> ImportedMessage:
    content = [block.model_dump(exclude_unset=True) for block in line.content]
    at_ms = milliseconds(datetime.fromisoformat(line.created_at.isoformat()).astimezone(UTC))
    return ImportedMessage(
        line.id, line.number, line.role, cast("list[Block]", content), line.producer, line.stop_reason, at_ms
    )


def invalid(line: int, message: str, pointer: str = "") -> Problem:
    errors = [FieldError(pointer, "export_invalid", message, line=line)]
    return Problem("export_invalid", f"Line {line}: {message}.", errors=errors)
