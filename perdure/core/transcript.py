"""Repair of a transcript before a model sees it: vendors refuse a request in which a tool call and
its result do not stand together. The journal keeps what happened; this is only the view of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

Entry = TypeVar("Entry", bound=Mapping[str, Any])  # contract.Message: role, content blocks, and what else it has

NEVER_MADE = frozenset({"max_output_tokens", "refusal", "interrupted"})  # stops of answers whose calls nobody runs
NOT_EXECUTED = (
    "not executed: the call was cut off before it had a result. If it may change anything, find out whether it "
    "did before you repeat it."
)


def repaired(messages: Sequence[Entry]) -> list[Entry]:
    """The same conversation, well-formed: every tool call is followed at once by its result.

    Results are stored one a message in the order in which the calls ended, with user messages
    possibly in between. Here they stand right after the assistant message that asked, in the order
    asked; user messages come after them. A call without a result gets an error result, a result without a call
    (or a second one) is dropped, and so are a call that repeats an id and an assistant message with
    nothing in it. What needs no repair comes back as the same object.
    """
    results = _results(messages)
    whole: list[Entry] = []
    asked: set[str] = set()
    for message in messages:
        if message["role"] == "user":
            whole.append(message)
        elif message["role"] == "assistant":
            kept = _with_fresh_calls(message, asked)
            if kept["content"]:
                whole.append(kept)
                whole.extend(results.get(call["call_id"]) or _not_executed(kept, call) for call in _calls(kept))
    return whole


def flaws(messages: Sequence[Entry]) -> dict[str, int]:
    """What ``repaired`` has to mend that no ordinary life of a run leaves behind, by kind. It is ordinary that calls of
    an answer that was cut off are never made, that results stand in any order, and that an answer is empty."""
    asked: set[str] = set()
    waiting: set[str] = set()
    ended: set[str] = set()
    found = dict.fromkeys(("duplicate_calls", "orphan_calls", "orphan_results", "duplicate_results"), 0)
    for message in messages:
        for call in _calls(message):
            id_ = call["call_id"]
            if id_ in asked:
                found["duplicate_calls"] += 1
            elif message.get("stop_reason") not in NEVER_MADE:
                waiting.add(id_)
            asked.add(id_)
        if message["role"] == "tool":
            for block in message["content"]:
                if block["type"] == "tool_result":
                    id_ = block["call_id"]
                    kind = "orphan_results" if id_ not in asked else "duplicate_results" if id_ in ended else ""
                    if kind:
                        found[kind] += 1
                    else:
                        ended.add(id_)
    found["orphan_calls"] = len(waiting - ended)
    return {kind: count for kind, count in found.items() if count}


def unanswered_calls(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The calls of the newest answer that have no result. Last words, which ask for nothing, may stand between a call
    and its result: then they are those of the answer before."""
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    asking = [at for at in answers if any(_calls(messages[at]))]
    if not asking:
        return []
    newest = asking[-1]
    if newest != answers[-1] and messages[newest].get("stop_reason") in NEVER_MADE:
        return []  # it was gone on from without them
    ended = {
        block["call_id"]
        for message in messages[newest:]
        for block in message["content"]
        if block["type"] == "tool_result"
    }
    return [call for call in _calls(messages[newest]) if call["call_id"] not in ended]


def _results(messages: Sequence[Entry]) -> dict[str, Entry]:
    """The first result of each call that was asked for before it, each in a message of its own."""
    found: dict[str, Entry] = {}
    asked: set[str] = set()
    for message in messages:
        asked.update(call["call_id"] for call in _calls(message))
        if message["role"] != "tool":
            continue
        for block in message["content"]:
            if block["type"] == "tool_result" and block["call_id"] in asked:
                alone = message if len(message["content"]) == 1 else _changed(message, content=[block])
                found.setdefault(block["call_id"], alone)
    return found


def _with_fresh_calls(message: Entry, asked: set[str]) -> Entry:
    """The assistant message without the calls whose id was ``asked`` before; notes those it keeps."""
    content = []
    for block in message["content"]:
        if block["type"] == "tool_call":
            if block["call_id"] in asked:
                continue
            asked.add(block["call_id"])
        content.append(block)
    return message if len(content) == len(message["content"]) else _changed(message, content=content)


def _calls(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if message["role"] == "assistant":
        yield from (block for block in message["content"] if block["type"] == "tool_call")


def _not_executed(asking: Entry, call: Mapping[str, Any]) -> Entry:
    result = {
        "type": "tool_result",
        "call_id": call["call_id"],
        "name": call["name"],
        "text": NOT_EXECUTED,
        "is_error": True,
    }
    return _changed(asking, role="tool", content=[result], producer=None, stop_reason=None)


def _changed(message: Entry, **changes: Any) -> Entry:
    return cast("Entry", {**message, **changes})
