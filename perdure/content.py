"""Content, as the journal keeps it: messages and their blocks. Plain JSON, described by ``TypedDict``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from perdure.core.state import Json


class TextBlock(TypedDict):
    type: Literal["text"]
    text: str


class ReasoningBlock(TypedDict):
    """``text`` may be shown to people; ``opaque`` is the vendor's own item, sent back only to the
    ``producer`` (``openai/gpt-5.5``) that made it."""

    type: Literal["reasoning"]
    text: str
    producer: str
    opaque: NotRequired[Json]


class ToolCallBlock(TypedDict):
    """``arguments`` is what the model sent, parsed; ``raw_arguments`` is there instead when it was not
    a JSON object."""

    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: NotRequired[dict[str, Json]]
    raw_arguments: NotRequired[str]


class ToolResultBlock(TypedDict):
    """``text`` is what the model sees: whole, or a preview when ``blob`` holds the whole."""

    type: Literal["tool_result"]
    call_id: str
    name: str
    text: str
    is_error: bool
    blob: NotRequired[str]
    bytes: NotRequired[int]


Block = TextBlock | ReasoningBlock | ToolCallBlock | ToolResultBlock
Role = Literal["user", "assistant", "tool"]


class Message(TypedDict):
    """One transcript entry. ``number`` counts from 1 in its session, without gaps. ``at_ms`` is unix
    milliseconds. ``producer`` is the model of an assistant message."""

    id: str
    session_id: str
    run_id: str | None
    number: int
    role: Role
    content: list[Block]
    producer: str | None
    stop_reason: str | None
    at_ms: int
