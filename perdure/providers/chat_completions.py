"""The chat completions dialect, as OpenAI-compatible servers speak it at any base URL.

Reasoning that a server shows (``reasoning_content`` or ``reasoning``) is kept and goes back under the same
name to the model that made it. ``usage.input_tokens`` is the whole prompt; cache reads and writes are
parts of it. A server that tells no usage leaves it zero, which the catalogue takes as unpriced.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
from typing import Any

from perdure.content import Message
from perdure.core.state import Usage
from perdure.definitions import ToolDescription
from perdure.providers.answer import AnswerBuilder, arguments_object, arguments_text, tokens
from perdure.providers.port import Answer, ModelRequest, Piece
from perdure.providers.sdk_client import SdkClient

_REASONING_FIELDS = ("reasoning_content", "reasoning")  # DeepSeek, vLLM, … ; OpenRouter, Ollama, …


class ChatCompletionsAdapter:
    """``output_cap_field``: ``max_tokens`` everywhere but at OpenAI itself, which wants ``max_completion_tokens``."""

    def __init__(self, client: SdkClient, *, output_cap_field: str) -> None:
        self._client = client
        self._output_cap_field = output_cap_field

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        body = request_body(request, self._output_cap_field)
        async for item in self._client.stream("/chat/completions", body, request, ChatFold(request.model)):
            yield item


def request_body(request: ModelRequest, output_cap_field: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model.partition("/")[2],
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": chat_messages(request.instructions, request.transcript, request.model),
    }
    if request.tools:
        body["tools"] = [function_tool(tool) for tool in request.tools]
    settings = request.settings
    for key in ("temperature", "top_p", "reasoning_effort"):
        if key in settings:
            body[key] = settings[key]
    if "max_output_tokens" in settings:
        body[output_cap_field] = settings["max_output_tokens"]
    return body


def function_tool(tool: ToolDescription) -> dict[str, Any]:
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["parameters"]}
    return {"type": "function", "function": function}


def chat_messages(instructions: str, transcript: Sequence[Message], model: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for message in transcript:
        match message["role"]:
            case "assistant":
                if said := _assistant_message(message, model):
                    messages.append(said)
            case "user" | "tool":
                for block in message["content"]:
                    if block["type"] == "text":
                        messages.append({"role": "user", "content": block["text"]})
                    elif block["type"] == "tool_result":
                        messages.append({"role": "tool", "tool_call_id": block["call_id"], "content": block["text"]})
    return messages


def _assistant_message(message: Message, model: str) -> dict[str, Any] | None:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    said: dict[str, Any] = {"role": "assistant", "content": None}
    for block in message["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "tool_call":
            function = {"name": block["name"], "arguments": arguments_text(arguments_object(block))}
            calls.append({"id": block["call_id"], "type": "function", "function": function})
        elif block["type"] == "reasoning" and block["producer"] == model:
            opaque = block.get("opaque")
            field = opaque.get("field") if isinstance(opaque, dict) else None
            if field in _REASONING_FIELDS:
                said[field] = said.get(field, "") + block["text"]
    text = "".join(texts)
    if not text and not calls:
        return None  # servers refuse an assistant message that says nothing
    said["content"] = text or None
    if calls:
        said["tool_calls"] = calls
    return said


class ChatFold:
    """Slots are ``"text"``, ``"reasoning"`` and ``("call", n)``. An error never comes here: the SDK raises it."""

    def __init__(self, model: str) -> None:
        self._answer = AnswerBuilder(model)
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._vendor_id: str | None = None
        self._refused = False
        self._slot_of_index: dict[object, Hashable] = {}
        self._calls = 0

    def feed(self, event: Mapping[str, Any]) -> list[Piece]:
        if told := event.get("usage"):
            self._usage = usage(told)  # cumulative where a server sends it more than once
        self._vendor_id = self._vendor_id or event.get("id") or None
        pieces: list[Piece] = []
        for choice in event.get("choices") or []:
            pieces += self._delta(choice.get("delta") or {})
            self._finish = choice.get("finish_reason") or self._finish
        return pieces

    def _delta(self, delta: Mapping[str, Any]) -> list[Piece]:
        pieces: list[Piece] = []
        for name in _REASONING_FIELDS:
            if thought := delta.get(name):
                pieces += self._answer.reasoning("reasoning", thought, {"field": name})
                break
        if text := delta.get("content"):
            pieces += self._answer.text("text", text)
        if refusal := delta.get("refusal"):
            self._refused = True
            pieces += self._answer.text("text", refusal)
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            slot = self._slot(call.get("index"), call.get("id"))
            self._answer.call(slot, call.get("id"), function.get("name"))
            pieces += self._answer.arguments(slot, function.get("arguments") or "")
        return pieces

    def _slot(self, index: int | None, call_id: str | None) -> Hashable:
        """The place of a call. A new id at a known index is another call: some servers number all of them 0."""
        slot = self._slot_of_index.get(index)
        if slot is None or (call_id and self._answer.call_id(slot) not in ("", call_id)):
            slot = self._slot_of_index[index] = ("call", self._calls)
            self._calls += 1
        return slot

    @property
    def complete(self) -> bool:
        return self._finish is not None

    @property
    def settled(self) -> bool:
        return self._finish is not None and self._usage is not None

    def answer(self) -> Answer:
        return Answer(self._answer.blocks(), self._stop(), self._usage or Usage(), self._vendor_id)

    def _stop(self) -> str:
        if self._refused or self._finish == "content_filter":
            return "refusal"
        if self._finish == "length":
            return "max_output_tokens"
        return "tool_calls" if self._answer.has_calls else "end"


def usage(told: Mapping[str, Any]) -> Usage:
    read = told.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=tokens(told.get("prompt_tokens")),
        output_tokens=tokens(told.get("completion_tokens")),
        cache_read_tokens=tokens(read.get("cached_tokens") or told.get("prompt_cache_hit_tokens")),  # DeepSeek's word
        cache_write_tokens=tokens(read.get("cache_write_tokens")),
        reasoning_tokens=tokens((told.get("completion_tokens_details") or {}).get("reasoning_tokens")),
    )
