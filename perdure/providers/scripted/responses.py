"""The OpenAI Responses dialect: ``POST /v1/responses``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from perdure.providers.scripted import openai_errors
from perdure.providers.scripted.wire import Answer, BadTranscript, Event, Problem, Step

NAME = "responses"
TRANSCRIPT = "input"

_RANK = {"reasoning": 0, "message": 1, "function_call": 2}  # the order of items in one reply of ours

error = openai_errors.error


def steps(body: dict[str, Any]) -> Iterator[Step]:
    """Items of one reply follow each other in the order reasoning, message, calls; an item that steps back in
    that order begins the next reply."""
    if earlier := body.get("previous_response_id"):
        raise BadTranscript(f"Previous response with id '{earlier}' not found.")  # nothing is stored here
    items = body.get(TRANSCRIPT)
    if isinstance(items, str):
        yield Step("user", items, (), 0)
        return
    if not isinstance(items, list):
        raise BadTranscript("Missing required parameter: 'input'.")
    rank, start = -1, 0
    calls: list[str] = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadTranscript(f"Invalid type for 'input[{index}]': expected an object.")
        kind = item.get("type", "message")
        if kind in _RANK and (kind != "message" or item.get("role") == "assistant"):
            if rank >= 0 and (_RANK[kind] < rank or _RANK[kind] == rank != 2):
                yield Step("reply", None, tuple(calls), start)
                rank, calls = -1, []
            if rank < 0:
                start = index
            rank = _RANK[kind]
            if kind == "function_call":
                calls.append(str(item.get("call_id")))
            continue
        if rank >= 0:
            yield Step("reply", None, tuple(calls), start)
            rank, calls = -1, []
        if kind == "function_call_output":
            yield Step("result", item.get("output"), (str(item.get("call_id")),), index)
        else:
            yield Step("user" if item.get("role") == "user" else "other", item.get("content"), (), index)
    if rank >= 0:
        yield Step("reply", None, tuple(calls), start)


def whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return _response(body, answer, _final_status(answer), [item for item, _ in _items(body, answer)])


def events(body: dict[str, Any], answer: Answer) -> Iterator[Event]:
    for number, event in enumerate(_events(body, answer)):
        assert isinstance(event.data, dict), "every event of this dialect is an object"
        event.data["sequence_number"] = number
        yield event


def error_events(body: dict[str, Any], answer: Answer, problem: Problem, sequence: int) -> list[Event]:
    code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
    if problem.kind == "error":
        flat: dict[str, Any] = {"code": code, "message": problem.message, "param": None, "sequence_number": sequence}
        return [_event("error", last=True, **flat)]
    failed = _response(body, answer, "failed", [])
    failed |= {"error": {"code": code, "message": problem.message}, "usage": None}
    return [_event("response.failed", last=True, response=failed, sequence_number=sequence)]


def _events(body: dict[str, Any], answer: Answer) -> Iterator[Event]:
    started = _response(body, answer, "in_progress", [])
    yield _event("response.created", response=dict(started))
    yield _event("response.in_progress", response=dict(started))
    items = _items(body, answer)
    for index, (item, source) in enumerate(items):
        at = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "reasoning":
                yield from _reasoning_events(answer, item, index, at)
            case "message":
                yield from _message_events(answer, item, index, at)
            case "function_call":
                opened = {**item, "arguments": "", "status": "in_progress"}
                yield _event("response.output_item.added", output_index=index, item=opened)
                for piece in answer.pieces(source):
                    yield _event("response.function_call_arguments.delta", piece=True, **at, delta=piece)
                yield _event("response.function_call_arguments.done", **at, name=item["name"], arguments=source)
        yield _event("response.output_item.done", output_index=index, item=item)
    status = _final_status(answer)
    yield _event(f"response.{status}", last=True, response=_response(body, answer, status, [i for i, _ in items]))


def _reasoning_events(answer: Answer, item: dict[str, Any], index: int, at: dict[str, Any]) -> Iterator[Event]:
    opened = {key: value for key, value in item.items() if key != "encrypted_content"} | {"summary": []}
    at = {**at, "summary_index": 0}
    part = {"type": "summary_text", "text": ""}
    yield _event("response.output_item.added", output_index=index, item=opened)
    yield _event("response.reasoning_summary_part.added", **at, part=part)
    for piece in answer.pieces(answer.reasoning):
        yield _event("response.reasoning_summary_text.delta", piece=True, **at, delta=piece)
    yield _event("response.reasoning_summary_text.done", **at, text=answer.reasoning)
    yield _event("response.reasoning_summary_part.done", **at, part={**part, "text": answer.reasoning})


def _message_events(answer: Answer, item: dict[str, Any], index: int, at: dict[str, Any]) -> Iterator[Event]:
    at = {**at, "content_index": 0}
    done = item["content"][0]
    refused = done["type"] == "refusal"
    field, word = ("refusal", "refusal") if refused else ("text", "output_text")
    extra: dict[str, Any] = {} if refused else {"logprobs": []}
    text: dict[str, Any] = {field: answer.text}
    yield _event(
        "response.output_item.added", output_index=index, item={**item, "content": [], "status": "in_progress"}
    )
    yield _event("response.content_part.added", **at, part={**done, field: ""})
    for piece in answer.pieces(answer.text):
        yield _event(f"response.{word}.delta", piece=True, **at, delta=piece, **extra)
    yield _event(f"response.{word}.done", **at, **text, **extra)
    yield _event("response.content_part.done", **at, part=done)


def _event(event: str, /, *, piece: bool = False, last: bool = False, **data: Any) -> Event:
    return Event(event, {"type": event, **data}, piece, last)


def _items(body: dict[str, Any], answer: Answer) -> list[tuple[dict[str, Any], str]]:
    """The finished output items, each with the text that streams into it."""
    items: list[tuple[dict[str, Any], str]] = []
    if answer.reasoning:
        thought: dict[str, Any] = {
            "id": f"rs_{answer.id}",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": answer.reasoning}],
        }
        if "reasoning.encrypted_content" in (body.get("include") or []):
            thought["encrypted_content"] = base64.b64encode(f"scripted:{answer.id}".encode()).decode()
        items.append((thought, answer.reasoning))
    if answer.text:
        part: dict[str, Any] = (
            {"type": "refusal", "refusal": answer.text}
            if answer.stop == "refusal"
            else {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        )
        status = "incomplete" if answer.stop == "max_output_tokens" and not answer.calls else "completed"
        message = {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "status": status}
        items.append(({**message, "content": [part]}, answer.text))
    for number, call in enumerate(answer.calls):
        item = {
            "id": f"fc_{answer.id}{number}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        items.append((item, call.arguments))
    return items


def _final_status(answer: Answer) -> str:
    return "incomplete" if answer.stop == "max_output_tokens" else "completed"


def _response(body: dict[str, Any], answer: Answer, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    tokens, over = answer.tokens, status in ("completed", "incomplete")
    usage = {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": 0},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
        "service_tier": "default",
        "store": bool(body.get("store", True)),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [{"strict": True, **tool} if tool.get("type") == "function" else tool for tool in _tools(body)],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": usage if over else None,
        "user": None,
    }


def _tools(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
