"""What a model call may come to before it is made: an upper bound of its input, and its price."""

from __future__ import annotations

import json
from collections.abc import Sequence

from perdure.content import Block, Message
from perdure.core.budget import Price
from perdure.core.state import Usage
from perdure.definitions import ToolDescription
from perdure.providers.port import ModelCatalog


def price_of(catalog: ModelCatalog, model: str) -> Price:
    """Micro-USD of a call at the dearest kind of input: a vendor that writes its cache asks more for it than for
    plain input. None while nobody knows the model's price."""

    def price(input_tokens: int, output_tokens: int) -> int | None:
        costs = [
            catalog.cost_micros(model, usage)
            for usage in (
                Usage(input_tokens, output_tokens),
                Usage(input_tokens, output_tokens, cache_read_tokens=input_tokens),
                Usage(input_tokens, output_tokens, cache_write_tokens=input_tokens),
            )
        ]
        known = [cost for cost in costs if cost is not None]
        return max(known) if known else None

    return price


def request_bytes(instructions: str, tools: Sequence[ToolDescription], messages: Sequence[Sequence[Block]]) -> int:
    """The bytes of everything in a request that a vendor counts: instructions, tools with their schemas, and
    the content of messages."""
    schemas = sum(
        _bytes(tool["name"]) + _bytes(tool["description"]) + _bytes(json.dumps(tool["parameters"])) for tool in tools
    )
    return _bytes(instructions) + schemas + sum(map(content_bytes, messages))


def content_bytes(content: Sequence[Block]) -> int:
    """The bytes of one message, as text. A vendor's opaque reasoning counts with the whole of its letters."""
    return sum(_block_bytes(block) for block in content)


def message_bytes(messages: Sequence[Message]) -> int:
    return sum(content_bytes(message["content"]) for message in messages)


def _block_bytes(block: Block) -> int:
    match block["type"]:
        case "text":
            return _bytes(block["text"])
        case "reasoning":
            return _bytes(block["text"]) + _bytes(json.dumps(block.get("opaque", ""), ensure_ascii=False))
        case "tool_call":
            arguments = block.get("raw_arguments") or json.dumps(block.get("arguments", {}), ensure_ascii=False)
            return _bytes(block["call_id"]) + _bytes(block["name"]) + _bytes(arguments)
        case "tool_result":
            return _bytes(block["call_id"]) + _bytes(block["name"]) + _bytes(block["text"])


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
