"""The Anthropic Messages dialect: results beside their calls, signed thinking, prompt caching.

``usage.input_tokens`` is the whole prompt, as in the other dialects: Anthropic's own ``input_tokens``
(what was neither read from nor written to the cache) plus cache reads plus cache writes.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from perdure.content import Block, Message
from perdure.core.state import Json, Usage
from perdure.definitions import ModelSettings, ToolDescription
from perdure.providers.answer import AnswerBuilder, arguments_object, arguments_text, tokens
from perdure.providers.port import Answer, ModelRequest, Piece
from perdure.providers.sdk_client import SdkClient

Content = dict[str, Any]

CACHE: Content = {"type": "ephemeral"}  # five minutes, renewed by each use: longer than a turn, cheaper than an hour
NO_TEXT = "(no text)"  # Anthropic refuses empty text

_THINKS_BY_BUDGET = re.compile(r"claude-(3-7|(opus|sonnet|haiku)-4(-[015])?(-\d{8})?$)")  # later ones adapt by effort
_BUDGET_TOKENS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384}  # 1,024 is the vendor's least
_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_STOP = {
    "end_turn": "end",
    "stop_sequence": "end",
    "tool_use": "tool_calls",
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "refusal",
    "pause_turn": "pause",
}


class MessagesAdapter:
    """``output_tokens_default`` is sent when a request names no cap: the dialect demands one."""

    def __init__(self, client: SdkClient, *, output_tokens_default: int) -> None:
        self._client = client
        self._output_tokens_default = output_tokens_default

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        body = request_body(request, self._output_tokens_default)
        async for item in self._client.stream("/v1/messages", body, request, MessagesFold(request.model)):
            yield item


def request_body(request: ModelRequest, output_tokens_default: int) -> dict[str, Any]:
    settings = request.settings
    name = request.model.partition("/")[2]
    cap = settings.get("max_output_tokens", output_tokens_default)
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "max_tokens": cap,
        "messages": cached(vendor_messages(request.transcript, request.model)),
    }
    if request.instructions:
        body["system"] = [{"type": "text", "text": request.instructions, "cache_control": CACHE}]
    if request.tools:
        body["tools"] = [tool_param(tool) for tool in request.tools]
        body["tools"][-1]["cache_control"] = CACHE
    for key in ("temperature", "top_p"):
        if key in settings:
            body[key] = settings[key]
    return body | thinking(settings, name, cap)


def thinking(settings: ModelSettings, name: str, cap: int) -> dict[str, Any]:
    """Our reasoning effort in the words that this generation of models knows. Without one: the model's default."""
    effort = settings.get("reasoning_effort")
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if not _THINKS_BY_BUDGET.match(name):
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": _EFFORT[effort]}}
    budget = min(_BUDGET_TOKENS[effort], cap - 1)  # must be below the cap
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= _BUDGET_TOKENS["minimal"] else {}


def tool_param(tool: ToolDescription) -> Content:
    return {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}


def vendor_messages(transcript: Sequence[Message], model: str) -> list[Content]:
    """Alternating user and assistant messages. All results of a turn come first in the one user message
    after their calls, in the order of the calls."""
    messages: list[Content] = []
    order: dict[str, int] = {}
    for message in transcript:
        if message["role"] == "assistant":
            content = [said for block in message["content"] if (said := _said(block, model))]
            _append(messages, "assistant", content)
            calls = (block["call_id"] for block in message["content"] if block["type"] == "tool_call")
            order = {call_id: position for position, call_id in enumerate(calls)}
        else:
            _append(messages, "user", [_given(block) for block in message["content"]])
            _results_first(messages[-1]["content"], order)
    return messages


def _append(messages: list[Content], role: str, content: list[Content]) -> None:
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += content
    elif content or role == "user":
        messages.append({"role": role, "content": content or [{"type": "text", "text": NO_TEXT}]})


def _results_first(content: list[Content], order: Mapping[str, int]) -> None:
    last = len(order)
    content.sort(key=lambda item: order.get(item["tool_use_id"], last) if item["type"] == "tool_result" else last + 1)


def _said(block: Block, model: str) -> Content | None:
    """A block of the model's; None for what cannot go back."""
    match block["type"]:
        case "text":
            return {"type": "text", "text": block["text"]} if block["text"].strip() else None
        case "tool_call":
            given = arguments_object(block)
            return {"type": "tool_use", "id": block["call_id"], "name": block["name"], "input": given}
        case "reasoning":
            opaque = block.get("opaque")
            if block["producer"] != model or not isinstance(opaque, dict):
                return None
            if opaque.get("type") == "redacted_thinking":
                return opaque
            if opaque.get("type") == "thinking":
                return {"type": "thinking", "thinking": block["text"], "signature": opaque.get("signature")}
    return None


def _given(block: Block) -> Content:
    """A block that people or tools gave to the model."""
    if block["type"] == "tool_result":
        result: Content = {"type": "tool_result", "tool_use_id": block["call_id"]}
        if block["text"]:
            result["content"] = block["text"]
        if block["is_error"]:
            result["is_error"] = True
        return result
    text = block["text"] if block["type"] == "text" else ""
    return {"type": "text", "text": text if text.strip() else NO_TEXT}


def cached(messages: list[Content]) -> list[Content]:
    """Cache breakpoints on the last two user messages: the older one is what the call before wrote, and a turn
    with many results may lie further apart than the vendor looks back (20 blocks). With those on system and
    tools they are four, the most allowed."""
    for message in [message for message in messages if message["role"] == "user"][-2:]:
        message["content"][-1]["cache_control"] = CACHE
    return messages


class MessagesFold:
    """Slots are the vendor's block indexes. An ``error`` event never comes here: the SDK raises it."""

    def __init__(self, model: str) -> None:
        self._answer = AnswerBuilder(model)
        self._usage: dict[str, Any] = {}
        self._vendor_id: str | None = None
        self._stop_reason: str | None = None
        self._stopped = False
        self._whole_input: dict[int, Content] = {}

    def feed(self, event: Mapping[str, Any]) -> list[Piece]:
        match event.get("type"):
            case "content_block_delta":
                return self._delta(event["index"], event["delta"])
            case "content_block_start":
                return self._start(event["index"], event["content_block"])
            case "content_block_stop":
                return self._input_given_at_once(event["index"])
            case "message_start":
                self._vendor_id = event["message"].get("id")
                self._count(event["message"].get("usage"))
            case "message_delta":
                self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
                self._count(event.get("usage"))
            case "message_stop":
                self._stopped = True
        return []

    def _start(self, index: int, block: Mapping[str, Any]) -> list[Piece]:
        match block["type"]:
            case "text":
                return self._answer.text(index, block.get("text") or "")
            case "thinking":
                return self._answer.reasoning(index, block.get("thinking") or "")
            case "redacted_thinking":
                return self._answer.reasoning(index, "", {"type": "redacted_thinking", "data": block["data"]})
            case "tool_use":
                self._answer.call(index, block.get("id"), block.get("name"))
                self._whole_input[index] = block.get("input") or {}
        return []

    def _delta(self, index: int, delta: Mapping[str, Any]) -> list[Piece]:
        match delta["type"]:
            case "text_delta":
                return self._answer.text(index, delta["text"])
            case "thinking_delta":
                return self._answer.reasoning(index, delta["thinking"])
            case "signature_delta":
                signed: Json = {"type": "thinking", "signature": delta["signature"]}
                return self._answer.reasoning(index, "", signed)
            case "input_json_delta":
                return self._answer.arguments(index, delta["partial_json"])
        return []

    def _input_given_at_once(self, index: int) -> list[Piece]:
        """Compatible servers may put the whole input into the start of the block and send no delta."""
        given = self._whole_input.pop(index, None)
        if not given or self._answer.has(index):
            return []
        return self._answer.arguments(index, arguments_text(given))

    def _count(self, told: Mapping[str, Any] | None) -> None:
        self._usage |= {key: value for key, value in (told or {}).items() if value is not None}

    @property
    def complete(self) -> bool:
        return self._stopped

    @property
    def settled(self) -> bool:
        return self._stopped

    def answer(self) -> Answer:
        stop = _STOP.get(self._stop_reason or "end_turn", "end")
        if stop in ("end", "tool_calls"):
            stop = "tool_calls" if self._answer.has_calls else "end"
        return Answer(self._answer.blocks(), stop, usage(self._usage), self._vendor_id)


def usage(told: Mapping[str, Any]) -> Usage:
    """No usage told: all zero, which the catalogue takes as unpriced."""
    read, written = tokens(told.get("cache_read_input_tokens")), tokens(told.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=tokens(told.get("input_tokens")) + read + written,
        output_tokens=tokens(told.get("output_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=tokens((told.get("output_tokens_details") or {}).get("thinking_tokens")),
    )
