"""What a model is shown for one call, and the most that it can come to: the transcript, repaired; a note at
its end where there is something to tell; for the last call a plain retelling that fits what is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from perdure.content import Block, Message, Role, TextBlock
from perdure.contract import CallModelInput
from perdure.core.budget import (
    TOKENS_PER_BYTE_PERMILLE,
    WRAP_UP_TOKENS_MAX,
    Account,
    Ask,
    Budget,
    Grant,
    Price,
    input_bound,
    reserve,
)
from perdure.core.transcript import repaired
from perdure.definitions import ToolDescription
from perdure.providers.estimate import message_bytes, request_bytes

WRAP_UP_NOTE = (
    "[Perdure] This is the last call of this run: its limits are reached, or somebody ended it. No tool can be called "
    "any more. Say briefly what is done, what is not, and what you would do next."
)
_SHORT_RESULT_CHARS = 200  # in a retelling that would be too long otherwise
_SHORT_TEXT_CHARS = 1_000
_ENDS_CHARS = (_SHORT_TEXT_CHARS, 400, 150)  # of each message, where only the beginning and the end are retold
_LAST_MESSAGES = 6  # what a retelling keeps at the least, beside the first message


@dataclass(frozen=True, slots=True)
class Exact:
    """The transcript up to message ``number`` has ``tokens``, as the vendor counted: input and output of the
    call that ended with it, with this run's instructions and tools."""

    tokens: int
    number: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call costs and how long its answer may be; ``permille`` is the most tokens seen of a byte."""

    price: Price
    output_tokens: int
    permille: int = TOKENS_PER_BYTE_PERMILLE


def ask_for(
    messages: Sequence[Message],
    exact: Exact | None,
    instructions: str,
    tools: Sequence[ToolDescription],
    order: CallModelInput,
    terms: Terms,
) -> Ask:
    """What an ordinary call wants of the budget. Messages that the call is to take along come on top, where they
    are put into the transcript."""
    new = [message for message in messages if exact is None or message["number"] > exact.number]
    added = message_bytes(new) + (len(output_note(order)) if order.tool_output_bytes else 0)
    if exact is None:
        added += request_bytes(instructions, tools, ())
    # The last answer is counted by what the model said, not by what it is wrapped in when it is sent back.
    blocks = sum(len(message["content"]) for message in messages if exact is None or message["number"] >= exact.number)
    bound = input_bound(exact.tokens if exact else None, added, blocks, terms.permille)
    return Ask(bound, terms.output_tokens, terms.price, permille=terms.permille)


def with_note(view: list[Message], order: CallModelInput) -> list[Message]:
    """The repaired transcript as the model gets it. A note goes into the last result: a message of its own would
    look like a person's."""
    if not order.tool_output_bytes or not view or view[-1]["role"] != "tool":
        return view
    last = view[-1]
    content = [
        cast("Block", {**block, "text": f"{block['text']}\n\n{output_note(order)}"})
        if block["type"] == "tool_result"
        else block
        for block in last["content"]
    ]
    return [*view[:-1], {**last, "content": content}]


def output_note(order: CallModelInput) -> str:
    return (
        f"[Perdure] The tool results of this turn have {order.tool_output_bytes} bytes, more than this run wants of "
        "one turn. Sum up what you need of them before you call more tools."
    )


def last_view(
    messages: Sequence[Message], instructions: str, budget: Budget | None, account: Account, terms: Terms
) -> tuple[list[Message], Ask]:
    """The transcript as plain text, for a call that offers no tools: whole when what is left pays for it, else
    with short results, else its beginning and its end. The last one is returned even when it does not fit:
    the reservation says so."""
    view: list[Message] = []
    ask = Ask(0, 0, terms.price, wrap_up=True)
    ends = (_ends(messages, chars) for chars in _ENDS_CHARS)
    for retold in (_retold(messages, None), _retold(messages, _SHORT_RESULT_CHARS), *ends):
        view = [*retold, _said(messages[-1], WRAP_UP_NOTE)]
        bytes_ = request_bytes(instructions, (), ()) + message_bytes(view)
        bound = input_bound(None, bytes_, len(view), terms.permille)
        ask = Ask(bound, min(terms.output_tokens, WRAP_UP_TOKENS_MAX), terms.price, wrap_up=True)
        if isinstance(reserve(budget or Budget(), account, ask), Grant):
            break
    return view, ask


def _ends(messages: Sequence[Message], chars: int) -> list[Message]:
    kept = [*messages[:1], *messages[max(1, len(messages) - _LAST_MESSAGES) :]]
    return [
        {**message, "content": [{**block, "text": _short(block["text"], chars)}]}
        for message in _retold(kept, _SHORT_RESULT_CHARS)
        for block in message["content"]
        if block["type"] == "text"
    ]


def _retold(messages: Sequence[Message], result_chars: int | None) -> list[Message]:
    """Calls and results in words: vendors refuse them as such when no tools are offered."""
    retold: list[Message] = []
    for message in repaired(messages):
        texts = [text for block in message["content"] if (text := _words(block, result_chars))]
        if texts:
            role: Role = "assistant" if message["role"] == "assistant" else "user"
            content: list[Block] = [TextBlock(type="text", text="\n".join(texts))]
            retold.append({**message, "role": role, "content": content})
    return retold


def _words(block: Block, result_chars: int | None) -> str:
    match block["type"]:
        case "text":
            return block["text"]
        case "tool_call":
            arguments = block.get("raw_arguments") or json.dumps(block.get("arguments", {}), ensure_ascii=False)
            return f"[called {block['name']} with {_short(arguments, _SHORT_TEXT_CHARS)}]"
        case "tool_result":
            return f"[result of {block['name']}: {_short(block['text'], result_chars)}]"
        case _:
            return ""  # reasoning belongs to calls that are only told of here


def _said(after: Message, text: str) -> Message:
    content: list[Block] = [TextBlock(type="text", text=text)]
    return {**after, "role": "user", "content": content, "producer": None, "stop_reason": None}


def _short(text: str, chars: int | None) -> str:
    return text if chars is None or len(text) <= chars else text[: chars - 1] + "…"
