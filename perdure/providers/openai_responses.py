"""The OpenAI Responses dialect: our transcript as input items, its events as an answer.

Nothing is stored at the vendor (``store: false``): the journal holds the transcript, and reasoning goes
back as encrypted items to the model that made it. ``usage.input_tokens`` is the whole prompt; cache reads
and writes are parts of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, assert_never

from perdure.content import Block, Message
from perdure.core.state import Usage
from perdure.definitions import ToolDescription
from perdure.providers.answer import AnswerBuilder, arguments_text, tokens
from perdure.providers.errors import trouble_from_words
from perdure.providers.port import Answer, ModelRequest, Piece
from perdure.providers.sdk_client import SdkClient

Item = dict[str, Any]

_NO_ENCRYPTED_REASONING = ("gpt-3", "gpt-4", "chatgpt-4")  # OpenAI refuses the include for models that do not reason


class ResponsesAdapter:
    """``vendor``: the server is OpenAI's own, so what only OpenAI understands may be sent."""

    def __init__(self, client: SdkClient, *, vendor: bool) -> None:
        self._client = client
        self._vendor = vendor

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        body = request_body(request, vendor=self._vendor)
        async for item in self._client.stream("/responses", body, request, ResponsesFold(request.model)):
            yield item


def request_body(request: ModelRequest, *, vendor: bool) -> dict[str, Any]:
    name = request.model.partition("/")[2]
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "store": False,
        "input": input_items(request.transcript, request.model),
    }
    if request.instructions:
        body["instructions"] = request.instructions
    if request.tools:
        body["tools"] = [function_tool(tool) for tool in request.tools]
    if vendor and not name.startswith(_NO_ENCRYPTED_REASONING):
        body["include"] = ["reasoning.encrypted_content"]
    settings = request.settings
    for key in ("temperature", "top_p", "max_output_tokens"):
        if key in settings:
            body[key] = settings[key]
    if "reasoning_effort" in settings:
        body["reasoning"] = {"effort": settings["reasoning_effort"]}
    return body


def function_tool(tool: ToolDescription) -> Item:
    """``strict`` is false: it would demand that every property is required."""
    return {
        "type": "function",
        "name": tool["name"],
        "description": tool["description"],
        "parameters": tool["parameters"],
        "strict": False,
    }


def input_items(transcript: Sequence[Message], model: str) -> list[Item]:
    """One or more items a message, in order. Reasoning of other producers is left out."""
    items: list[Item] = []
    for message in transcript:
        part = "output_text" if message["role"] == "assistant" else "input_text"
        role = "assistant" if message["role"] == "assistant" else "user"
        for block in message["content"]:
            _append(items, block, role, part, model)
    return items


def _append(items: list[Item], block: Block, role: str, part: str, model: str) -> None:
    match block["type"]:
        case "text":
            if block["text"]:
                content = [{"type": part, "text": block["text"]}]
                items.append({"type": "message", "role": role, "content": content})
        case "reasoning":
            opaque = block.get("opaque")
            if block["producer"] == model and isinstance(opaque, dict) and opaque.get("type") == "reasoning":
                items.append(opaque)
        case "tool_call":
            arguments = block.get("raw_arguments") or arguments_text(block.get("arguments", {}))
            call = {"type": "function_call", "call_id": block["call_id"], "name": block["name"], "arguments": arguments}
            items.append(call)
        case "tool_result":
            items.append({"type": "function_call_output", "call_id": block["call_id"], "output": block["text"]})
        case _:
            assert_never(block["type"])


class ResponsesFold:
    """Slots are ``(output_index, part)``."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._answer = AnswerBuilder(model)
        self._response: Mapping[str, Any] | None = None
        self._refused = False
        self._summary_part: dict[int, int] = {}

    def feed(self, event: Mapping[str, Any]) -> list[Piece]:
        match event.get("type"):
            case "response.output_text.delta":
                return self._answer.text((event["output_index"], event["content_index"]), event["delta"])
            case "response.refusal.delta":
                self._refused = True
                return self._answer.text((event["output_index"], event["content_index"]), event["delta"])
            case "response.reasoning_summary_text.delta":
                return self._reasoned(event["output_index"], event["summary_index"], event["delta"])
            case "response.reasoning_text.delta":
                return self._reasoned(event["output_index"], event["content_index"], event["delta"])
            case "response.function_call_arguments.delta":
                return self._answer.arguments((event["output_index"], "call"), event["delta"])
            case "response.output_item.added":
                item = event["item"]
                if item["type"] == "function_call":
                    self._answer.call((event["output_index"], "call"), item.get("call_id"), item.get("name"))
            case "response.output_item.done":
                return self._done(event["output_index"], event["item"])
            case "response.completed" | "response.incomplete":
                self._response = event["response"]
                return self._rest(event["response"].get("output") or [])
            case "response.failed":
                raise trouble_from_words(self._model, event["response"].get("error") or {}, "the response failed")
            case "error":
                raise trouble_from_words(self._model, event, "the stream reported an error")
        return []

    def _reasoned(self, output_index: int, part: int, delta: str) -> list[Piece]:
        before = self._summary_part.setdefault(output_index, part)
        self._summary_part[output_index] = part
        return self._answer.reasoning((output_index, "reasoning"), delta if part == before else f"\n\n{delta}")

    def _done(self, output_index: int, item: Mapping[str, Any]) -> list[Piece]:
        """A finished item: what no delta has told is taken from here."""
        match item["type"]:
            case "message":
                pieces: list[Piece] = []
                for index, part in enumerate(item.get("content") or []):
                    slot = (output_index, index)
                    self._refused = self._refused or part["type"] == "refusal"
                    if not self._answer.has(slot):
                        pieces += self._answer.text(slot, part.get("text") or part.get("refusal") or "")
                return pieces
            case "reasoning":
                slot_ = (output_index, "reasoning")
                if item.get("encrypted_content") or item.get("content"):  # without either it cannot be sent back
                    kept = {key: value for key, value in item.items() if key != "status"}
                    self._answer.reasoning(slot_, "", kept)
                if self._answer.has(slot_):
                    return []
                parts = item.get("summary") or item.get("content") or []
                return self._answer.reasoning(slot_, "\n\n".join(part["text"] for part in parts))
            case "function_call":
                slot_ = (output_index, "call")
                self._answer.call(slot_, item.get("call_id"), item.get("name"))
                return [] if self._answer.has(slot_) else self._answer.arguments(slot_, item.get("arguments") or "")
        return []

    def _rest(self, output: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """Some servers tell all in the last event and nothing before it."""
        if self._answer:
            return []
        return [piece for index, item in enumerate(output) for piece in self._done(index, item)]

    @property
    def complete(self) -> bool:
        return self._response is not None

    @property
    def settled(self) -> bool:
        return self._response is not None

    def answer(self) -> Answer:
        response = self._response or {}
        return Answer(self._answer.blocks(), self._stop(response), usage(response.get("usage")), response.get("id"))

    def _stop(self, response: Mapping[str, Any]) -> str:
        reason = (response.get("incomplete_details") or {}).get("reason")
        if self._refused or reason == "content_filter":
            return "refusal"
        if response.get("status") == "incomplete" or reason:
            return "max_output_tokens"
        return "tool_calls" if self._answer.has_calls else "end"


def usage(told: Mapping[str, Any] | None) -> Usage:
    """No usage told: all zero, which the catalogue takes as unpriced."""
    if not told:
        return Usage()
    read = told.get("input_tokens_details") or {}
    return Usage(
        input_tokens=tokens(told.get("input_tokens")),
        output_tokens=tokens(told.get("output_tokens")),
        cache_read_tokens=tokens(read.get("cached_tokens")),
        cache_write_tokens=tokens(read.get("cache_write_tokens")),
        reasoning_tokens=tokens((told.get("output_tokens_details") or {}).get("reasoning_tokens")),
    )
