"""Which turn a request gets, read from its transcript alone, and what the turn says for this request."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from perdure.providers.scripted.script import Lorem, Repeated, Script, TextSpec, Turn
from perdure.providers.scripted.wire import Answer, BadTranscript, Call, Dialect, Tokens, plain_text

_TEMPLATE = re.compile(r"\{(user|last_tool_result|turn)\}")
_FILLER = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo"
)


class ScriptOver(Exception):
    """The transcript is longer than a script with ``repeat: error``."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a transcript stands. ``replies`` counts assistant replies since the last user message;
    ``tail`` is the index of the last reply in the request's list, None without one."""

    replies: int
    replies_total: int
    user: str
    last_tool_result: str
    tail: int | None


def read_position(dialect: Dialect, body: dict[str, Any]) -> Position:
    """One pass over the transcript. BadTranscript for what each vendor refuses: a call without a result
    before the next question, or a result without a call."""
    replies = replies_total = 0
    user: Any = ""
    result: Any = ""
    tail: int | None = None
    open_calls: dict[str, None] = {}
    for step in dialect.steps(body):
        match step.kind:
            case "user":
                replies, user = 0, step.content
            case "reply":
                replies, replies_total, tail = replies + 1, replies_total + 1, step.start
                open_calls.update(dict.fromkeys(step.call_ids))
            case "result":
                result = step.content
                for call_id in step.call_ids:
                    open_calls.pop(call_id, None)
    if open_calls:
        raise BadTranscript(f"No tool output found for function call {next(iter(open_calls))}.")
    return Position(replies, replies_total, plain_text(user), plain_text(result), tail)


def select_turn(script: Script, position: Position) -> tuple[int, Turn]:
    """The turn to play and its index from 0. ScriptOver."""
    index = position.replies_total if script.whole_conversation else position.replies
    length = len(script)
    if index < length:
        return index, script.turn_at(index)
    match script.repeat:
        case "last":
            return index, script.turn_at(length - 1)
        case "loop":
            return index, script.turn_at(index % length)
        case "finish":
            return index, Turn(text="That is all.")
    raise ScriptOver(f"The script {script.name} has {length} turns, and turn {index + 1} was asked for.")


def turn_for(script: Script, position: Position, body: dict[str, Any]) -> tuple[int, Turn]:
    """The turn to play for this request and its index from 0. ScriptOver."""
    if script.without_tools is not None and not body.get("tools"):
        return position.replies, Turn(text=script.without_tools)
    return select_turn(script, position)


def output_cap(body: dict[str, Any]) -> int | None:
    """The output cap of a request, in the words of any dialect."""
    caps = [body.get(name) for name in ("max_output_tokens", "max_completion_tokens", "max_tokens")]
    return min((cap for cap in caps if isinstance(cap, int)), default=None)


def compose(
    script: Script,
    turn: Turn,
    index: int,
    position: Position,
    *,
    body_sha256: str,
    cached_bytes: int,
    body_bytes: int,
    cap: int | None = None,
) -> Answer:
    """What the turn says to this request. Call ids follow from the request, so a retry gets the same."""
    values = {"user": position.user, "last_tool_result": position.last_tool_result, "turn": str(index + 1)}
    text = position.user if turn.echo else _text(turn.text, values)
    reasoning = _text(turn.reasoning, values)
    calls = tuple(
        Call(
            id=_fill(call.id, values) if call.id is not None else f"call_{body_sha256[:20]}{number:02d}",
            name=call.name,
            arguments=_fill(call.raw_arguments, values)
            if call.raw_arguments is not None
            else to_json(_fill_all(call.arguments or {}, values, index + 1)).decode(),
        )
        for number, call in enumerate(turn.tool_calls)
    )
    given, stop = turn.usage, turn.stop_reason
    whole = estimate(len(reasoning)) + estimate(len(text) + _chars(calls))
    if cap is not None and given.output_tokens is None and whole > cap:
        reasoning = reasoning[: 4 * cap]
        text, calls, stop = text[: max(0, 4 * cap - len(reasoning) - 4)], (), "max_output_tokens"
    answer_chars = len(text) + _chars(calls)
    thought = given.reasoning_tokens if given.reasoning_tokens is not None else estimate(len(reasoning))
    asked = given.input_tokens if given.input_tokens is not None else max(1, estimate(body_bytes))
    cached = given.cache_read_tokens if given.cache_read_tokens is not None else estimate(cached_bytes)
    tokens = Tokens(
        input=asked,
        output=given.output_tokens if given.output_tokens is not None else thought + estimate(answer_chars),
        cache_read=min(cached, asked),
        reasoning=thought,
    )
    return Answer(
        id=secrets.token_hex(12), created=int(time.time()), model=script.name, reasoning=reasoning, text=text,
        calls=calls, stop=stop, tokens=tokens, chunk=turn.chunk,
    )  # fmt: skip


def _chars(calls: tuple[Call, ...]) -> int:
    return sum(len(call.name) + len(call.arguments) for call in calls)


def estimate(size: int) -> int:
    """Tokens of so many bytes: one for four, rounded up."""
    return -(-size // 4)


def cached_prefix_bytes(dialect: Dialect, body: dict[str, Any], position: Position, body_bytes: int) -> int:
    """How much of the request an earlier one must have held: all before the last reply."""
    if position.tail is None:
        return 0
    return max(0, body_bytes - len(to_json(body[dialect.TRANSCRIPT][position.tail :])))


def _text(spec: TextSpec | None, values: dict[str, str]) -> str:
    match spec:
        case None:
            return ""
        case str():
            return _fill(spec, values)
        case Lorem():
            return lorem(spec.lorem)
        case Repeated():
            return spec.repeat * spec.times


@lru_cache(maxsize=64)  # a bench asks for the same long text thousands of times
def lorem(words: int) -> str:
    """So many words of filler in sentences of 12 and paragraphs of 60, always the same."""
    filler, out = _FILLER.split(), list[str]()
    for number in range(words):
        word = filler[number % len(filler)]
        out.append(word.capitalize() if number % 12 == 0 else word)
        last = number + 1 == words
        out.append("." if last else ".\n\n" if number % 60 == 59 else ". " if number % 12 == 11 else " ")
    return "".join(out)


def _fill(text: str, values: dict[str, str]) -> str:
    return _TEMPLATE.sub(lambda found: values[found.group(1)], text) if "{" in text else text


def _fill_all(value: Any, values: dict[str, str], turn: int) -> Any:
    match value:
        case "{turn}":
            return turn
        case str():
            return _fill(value, values)
        case list():
            return [_fill_all(item, values, turn) for item in value]
        case dict():
            return {key: _fill_all(item, values, turn) for key, item in value.items()}
    return value
