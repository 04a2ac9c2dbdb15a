"""The OpenAI Chat Completions dialect, as compatible servers speak it: ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from perdure.providers.scripted import openai_errors
from perdure.providers.scripted.wire import Answer, BadTranscript, Event, Problem, Step

NAME = "chat"
TRANSCRIPT = "messages"

_FINISH = {
    "end": "stop",
    "tool_calls": "tool_calls",
    "max_output_tokens": "length",
    "refusal": "stop",  # the refusal stands in the message
    "pause": "stop",  # the dialect has no word for it
}

error = openai_errors.error


def steps(body: dict[str, Any]) -> Iterator[Step]:
    messages = body.get(TRANSCRIPT)
    if not isinstance(messages, list) or not messages:
        raise BadTranscript("Missing required parameter: 'messages'.")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadTranscript(f"Invalid type for 'messages[{index}]': expected an object.")
        match message.get("role"):
            case "assistant":
                calls = tuple(str(call.get("id")) for call in message.get("tool_calls") or ())
                yield Step("reply", None, calls, index)
            case "tool":
                yield Step("result", message.get("content"), (str(message.get("tool_call_id")),), index)
            case "user":
                yield Step("user", message.get("content"), (), index)
            case _:
                yield Step("other", None, (), index)


def whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    message["refusal" if answer.stop == "refusal" else "content"] = answer.text or None
    if not answer.text and not answer.calls:
        message["content"] = ""
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": _FINISH[answer.stop], "logprobs": None}
    return _frame(answer, "chat.completion", [choice]) | {"usage": _usage(answer)}


def events(body: dict[str, Any], answer: Answer) -> Iterator[Event]:
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    def chunk(delta: dict[str, Any], *, piece: bool = False, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        data = _frame(answer, "chat.completion.chunk", [choice])
        return Event(None, data | {"usage": None} if with_usage else data, piece, finish is not None)

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for part in answer.pieces(answer.reasoning):
        yield chunk({"reasoning_content": part}, piece=True)
    field = "refusal" if answer.stop == "refusal" else "content"
    for part in answer.pieces(answer.text):
        yield chunk({field: part}, piece=True)
    for index, call in enumerate(answer.calls):
        head = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield chunk({"tool_calls": [head]})
        for part in answer.pieces(call.arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]}, piece=True)
    yield chunk({}, finish=_FINISH[answer.stop])
    if with_usage:
        yield Event(None, _frame(answer, "chat.completion.chunk", []) | {"usage": _usage(answer)}, last=True)
    yield Event(None, "[DONE]", last=True)


def error_events(body: dict[str, Any], answer: Answer, problem: Problem, sequence: int) -> list[Event]:
    return [Event(None, error(problem), last=True)]


def _frame(answer: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
        "choices": choices,
    }


def _usage(answer: Answer) -> dict[str, Any]:
    tokens = answer.tokens
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
