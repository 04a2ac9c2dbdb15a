"""The Anthropic Messages dialect: ``POST /v1/messages``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic_core import from_json

from perdure.providers.scripted.wire import Answer, BadTranscript, Event, Problem, Step

NAME = "messages"
TRANSCRIPT = "messages"

_STOP = {
    "end": "end_turn",
    "tool_calls": "tool_use",
    "max_output_tokens": "max_tokens",
    "refusal": "refusal",
    "pause": "pause_turn",
}
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def steps(body: dict[str, Any]) -> Iterator[Step]:
    """A user message that holds nothing but tool results is no word of the user."""
    messages = body.get(TRANSCRIPT)
    if not isinstance(messages, list) or not messages:
        raise BadTranscript("messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadTranscript(f"messages.{index}: Input should be an object")
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        match message.get("role"):
            case "assistant":
                calls = tuple(str(block.get("id")) for block in blocks if block.get("type") == "tool_use")
                yield Step("reply", None, calls, index)
            case "user":
                results = [block for block in blocks if block.get("type") == "tool_result"]
                for block in results:
                    yield Step("result", block.get("content"), (str(block.get("tool_use_id")),), index)
                if len(results) < len(blocks) or isinstance(content, str):
                    words = [block for block in blocks if block.get("type") != "tool_result"]
                    yield Step("user", words or content, (), index)
            case _:
                raise BadTranscript(f"messages.{index}.role: Input should be 'user' or 'assistant'")


def whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return _message(answer, [block.done for block in _blocks(answer)], over=True)


def events(body: dict[str, Any], answer: Answer) -> Iterator[Event]:
    yield _event("message_start", message=_message(answer, [], over=False))
    yield _event("ping")
    for index, block in enumerate(_blocks(answer)):
        yield _event("content_block_start", index=index, content_block=block.opened)
        for piece in answer.pieces(block.source):
            delta = {"type": block.delta, block.field: piece}
            yield _event("content_block_delta", piece=True, index=index, delta=delta)
        if signature := block.done.get("signature"):
            delta = {"type": "signature_delta", "signature": signature}
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    usage = _usage(answer, answer.tokens.output)
    yield _event("message_delta", last=True, delta=_ending(answer), usage=usage)
    yield _event("message_stop", last=True)


def error_events(body: dict[str, Any], answer: Answer, problem: Problem, sequence: int) -> list[Event]:
    return [Event("error", error(problem), last=True)]


def error(problem: Problem) -> dict[str, Any]:
    fallback = "api_error" if problem.status >= 500 else "invalid_request_error"
    kind = _ERROR_TYPES.get(problem.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": problem.message}, "request_id": None}


class _Block(NamedTuple):
    """A content block when it opens and when it is done, and how its ``source`` streams into it."""

    opened: dict[str, Any]
    done: dict[str, Any]
    delta: str
    field: str
    source: str


def _blocks(answer: Answer) -> list[_Block]:
    blocks: list[_Block] = []
    opened: dict[str, Any]
    done: dict[str, Any]
    if answer.reasoning:
        signature = base64.b64encode(f"scripted:{answer.id}".encode()).decode()
        opened = {"type": "thinking", "thinking": "", "signature": ""}
        done = {"type": "thinking", "thinking": answer.reasoning, "signature": signature}
        blocks.append(_Block(opened, done, "thinking_delta", "thinking", answer.reasoning))
    if answer.text:
        opened = {"type": "text", "text": "", "citations": None}
        blocks.append(_Block(opened, {**opened, "text": answer.text}, "text_delta", "text", answer.text))
    for call in answer.calls:
        opened = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        done = {**opened, "input": _input(call.arguments)}
        blocks.append(_Block(opened, done, "input_json_delta", "partial_json", call.arguments))
    return blocks


def _input(arguments: str) -> dict[str, Any]:
    """Without streaming, ``input`` is an object whatever the model wrote; the vendor's guide wraps what is not."""
    try:
        value = from_json(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


def _event(name: str, *, piece: bool = False, last: bool = False, **data: Any) -> Event:
    return Event(name, {"type": name, **data}, piece, last)


def _message(answer: Answer, content: list[dict[str, Any]], *, over: bool) -> dict[str, Any]:
    message = {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "model": answer.model}
    nothing_yet = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
    usage = _usage(answer, answer.tokens.output if over else 1)
    return {**message, "content": content, **(_ending(answer) if over else nothing_yet), "usage": usage}


def _ending(answer: Answer) -> dict[str, Any]:
    refused = {"type": "refusal", "category": None, "explanation": answer.text or None}
    return {
        "stop_reason": _STOP[answer.stop],
        "stop_sequence": None,
        "stop_details": refused if answer.stop == "refusal" else None,
    }


def _usage(answer: Answer, output: int) -> dict[str, Any]:
    """Anthropic counts cache reads beside ``input_tokens``, not in it."""
    return {
        "input_tokens": answer.tokens.input - answer.tokens.cache_read,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.tokens.cache_read,
        "output_tokens": output,
    }
