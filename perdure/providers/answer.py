"""An answer while it streams: blocks in the order in which they were first seen, pieces as they come.

Each dialect folds its own events into an ``AnswerBuilder``. Text is collected in parts and joined once:
a long answer costs what it is long, not the square of it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, assert_never

from pydantic_core import PydanticSerializationError, to_json

from perdure.content import Block, ReasoningBlock, TextBlock, ToolCallBlock
from perdure.core.state import Json
from perdure.providers.port import Piece

Kind = Literal["text", "reasoning", "tool_args"]


@dataclass(slots=True)
class _OpenBlock:
    kind: Kind
    index: int
    parts: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    opaque: Json = None


class AnswerBuilder:
    """``slot`` is the vendor's own place of a block (an index or a tuple of them). A block exists from its
    first text, its first opaque item or the start of its call on; empty text makes none."""

    def __init__(self, producer: str) -> None:
        self._producer = producer
        self._blocks: list[_OpenBlock] = []
        self._by_slot: dict[Hashable, _OpenBlock] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def _at(self, slot: Hashable, kind: Kind) -> _OpenBlock:
        block = self._by_slot.get(slot)
        if block is None or block.kind != kind:
            block = self._by_slot[slot] = _OpenBlock(kind, len(self._blocks))
            self._blocks.append(block)
        return block

    def _grow(self, slot: Hashable, kind: Kind, delta: str) -> list[Piece]:
        if not delta:
            return []
        block = self._at(slot, kind)
        block.parts.append(delta)
        return [Piece(kind, delta, block.index)]

    def text(self, slot: Hashable, delta: str) -> list[Piece]:
        return self._grow(slot, "text", delta)

    def reasoning(self, slot: Hashable, delta: str, opaque: Json = None) -> list[Piece]:
        """``opaque``, when given, replaces what was kept before."""
        if opaque is not None:
            self._at(slot, "reasoning").opaque = opaque
        return self._grow(slot, "reasoning", delta)

    def call(self, slot: Hashable, call_id: str | None = None, name: str | None = None) -> None:
        """Start a tool call, or learn more of one. The first id and name win: some servers repeat them."""
        block = self._at(slot, "tool_args")
        block.call_id = block.call_id or call_id or ""
        block.name = block.name or name or ""

    def arguments(self, slot: Hashable, delta: str) -> list[Piece]:
        return self._grow(slot, "tool_args", delta)

    def call_id(self, slot: Hashable) -> str | None:
        """The id of the call at ``slot``; None when there is no such call."""
        block = self._by_slot.get(slot)
        return block.call_id if block is not None and block.kind == "tool_args" else None

    def has(self, slot: Hashable) -> bool:
        """Whether any text, reasoning or arguments came for ``slot``."""
        block = self._by_slot.get(slot)
        return block is not None and bool(block.parts)

    @property
    def has_calls(self) -> bool:
        return any(block.kind == "tool_args" for block in self._blocks)

    def blocks(self) -> list[Block]:
        return [self._finished(block) for block in self._blocks]

    def _finished(self, block: _OpenBlock) -> Block:
        text = "".join(block.parts)
        match block.kind:
            case "text":
                return TextBlock(type="text", text=text)
            case "reasoning":
                reasoning = ReasoningBlock(type="reasoning", text=text, producer=self._producer)
                if block.opaque is not None:
                    reasoning["opaque"] = block.opaque
                return reasoning
            case "tool_args":
                call = ToolCallBlock(type="tool_call", call_id=block.call_id, name=block.name)
                arguments = parse_arguments(text)
                if arguments is None:
                    call["raw_arguments"] = text
                else:
                    call["arguments"] = arguments
                return call
            case _:
                assert_never(block.kind)


def parse_arguments(text: str) -> dict[str, Json] | None:
    """The arguments of a tool call; None when ``text`` is not a JSON object. No text at all means none: ``{}``."""
    if not text.strip():
        return {}
    try:
        value: Any = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # NaN and Infinity cannot go back to any vendor


def arguments_text(arguments: Mapping[str, Json]) -> str:
    """Arguments as the JSON text that a vendor expects back. All of a transcript's are written anew for each request,
    by the encoder that takes a fifth of the time of the standard one, which takes over for what this one refuses."""
    with suppress(PydanticSerializationError):
        return to_json(arguments).decode()
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def arguments_object(call: ToolCallBlock) -> dict[str, Json]:
    """The arguments as an object; broken ones inside one, for servers that parse what they get back."""
    if "raw_arguments" in call:
        return {"raw_arguments": call["raw_arguments"]}
    return call.get("arguments", {})


def tokens(value: object) -> int:
    """A vendor's token count; what is not a positive number counts as none."""
    return int(value) if isinstance(value, int | float) and value > 0 else 0
