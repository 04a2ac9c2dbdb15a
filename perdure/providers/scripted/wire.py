"""What the three dialects have in common: the question as asked, the answer to give, the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pydantic_core import to_json

from perdure.providers.scripted.script import Stop


@dataclass(frozen=True, slots=True)
class Tokens:
    """``input`` includes ``cache_read``; ``output`` includes ``reasoning``."""

    input: int
    output: int
    cache_read: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an answer; ``arguments`` is JSON text, or what the script gave as raw."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted reply. ``id`` is fresh for every request; ``chunk`` is characters per piece."""

    id: str
    created: int
    model: str
    reasoning: str
    text: str
    calls: tuple[Call, ...]
    stop: Stop
    tokens: Tokens
    chunk: int

    def pieces(self, text: str) -> Iterator[str]:
        for start in range(0, len(text), self.chunk):
            yield text[start : start + self.chunk]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error to report. ``kind`` is a word of ours that each dialect translates."""

    status: int
    kind: str
    message: str


class Event(NamedTuple):
    """One server-sent event. ``piece``: a chunk of text or arguments; ``last``: part of the proper ending."""

    name: str | None
    data: dict[str, Any] | str
    piece: bool = False
    last: bool = False

    def encode(self) -> bytes:
        body = self.data.encode() if isinstance(self.data, str) else to_json(self.data)
        head = b"" if self.name is None else b"event: " + self.name.encode() + b"\n"
        return head + b"data: " + body + b"\n\n"

    def encode_garbage(self) -> bytes:
        """The same event, broken off in the middle of its JSON."""
        whole = self.encode().rstrip(b"\n")
        return whole[: max(whole.index(b"data: ") + 7, len(whole) * 2 // 3)].rstrip() + b"\n\n"


class Step(NamedTuple):
    """One step of a transcript, oldest first. ``kind`` is user, reply, result or other; ``content`` as sent;
    ``call_ids`` are those a reply opens or a result closes; ``start`` is its index in the list of the request."""

    kind: str
    content: Any
    call_ids: tuple[str, ...]
    start: int


class BadTranscript(Exception):
    """A transcript that the vendor would refuse; the message is in the vendor's words."""


class Dialect(Protocol):
    """A vendor's wire format; the modules ``responses``, ``chat`` and ``messages`` are the three."""

    NAME: str
    TRANSCRIPT: str  # the field of the request that holds the transcript

    def steps(self, body: dict[str, Any]) -> Iterator[Step]:
        """The transcript of a request. BadTranscript."""
        ...

    def whole(self, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """The answer without streaming."""
        ...

    def events(self, body: dict[str, Any], answer: Answer) -> Iterator[Event]:
        """The answer as a stream."""
        ...

    def error_events(self, body: dict[str, Any], answer: Answer, problem: Problem, sequence: int) -> list[Event]:
        """An error in the middle of a stream, after ``sequence`` events."""
        ...

    def error(self, problem: Problem) -> dict[str, Any]:
        """The body of an error answer."""
        ...


def plain_text(content: Any) -> str:
    """The text of a message or of a tool result, whatever shape the vendor's client gave it."""
    match content:
        case str():
            return content
        case list():
            return "".join(plain_text(part) for part in content)
        case {"text": str(text)}:
            return text
        case {"content": inner}:
            return plain_text(inner)
    return ""
