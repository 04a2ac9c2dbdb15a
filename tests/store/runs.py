"""Runs to write about, and what is held of every event log."""

from __future__ import annotations

import itertools
from typing import Any

from ulid import ULID

from perdure.content import Block
from perdure.core.budget import Ask
from perdure.core.happenings import CallAsked
from perdure.core.state import Json, OutboxEvent, Usage
from perdure.definitions import AgentDefinition
from perdure.store.journal import Journal
from perdure.store.rows import EventRow, ModelCommit, NewRun, RunRow

AGENT: AgentDefinition = {
    "name": "clerk",
    "model": "scripted/tour",
    "instructions": "Be brief.",
    "tools": ["book"],
    "model_settings": {},
    "limits": {},
}
MODEL = "scripted/tour"
FAR = 4_000_000_000_000  # a deadline nobody meets


def text(words: str) -> list[Block]:
    return [{"type": "text", "text": words}]


async def new_run(journal: Journal, words: str = "Book a room", **more: Any) -> RunRow:
    run_id = more.pop("run_id", f"run_{ULID()}")
    limits = more.pop("limits", {"max_turns": 100})
    return await journal.create_run(NewRun(run_id, AGENT, text(words), FAR, limits, **more))


USAGE = Usage(100, 20, cost_micros=375)


def said(words: str, usage: Usage = USAGE, **more: Any) -> ModelCommit:
    return ModelCommit(text(words), MODEL, "end", usage, [], {"stop": "end"}, **more)


def asks(*call_ids: str, arguments: dict[str, Json] | None = None) -> ModelCommit:
    """An answer that asks for tool calls."""
    content: list[Block] = [
        {"type": "tool_call", "call_id": call_id, "name": "book", "arguments": arguments or {"room": 7}}
        for call_id in call_ids
    ]
    calls = [CallAsked(call_id, "book") for call_id in call_ids]
    return ModelCommit(content, MODEL, "tool_calls", Usage(50, 5, cost_micros=100), calls, {"stop": "tool_calls"})


def price(input_tokens: int, output_tokens: int) -> int:
    """A micro-USD a token of input, five a token of output."""
    return input_tokens + 5 * output_tokens


ASK = Ask(1_000, 1_000, price)


async def begin(journal: Journal, run_id: str, turn: int = 1, **more: Any) -> int:
    """Begin the model call of a turn; the attempt's number."""
    more.setdefault("ask", ASK)
    begun = await journal.begin_model(run_id, f"model-{turn}", turn, model=MODEL, worker="w1", **more)
    assert begun.ended is None
    return begun.attempt


async def all_events(journal: Journal, run_id: str, **more: Any) -> list[EventRow]:
    return await journal.read_events(run_id, after=0, limit=100_000, **more)


async def types(journal: Journal, run_id: str) -> list[str]:
    """The types of all events, having checked that the numbers have no gap."""
    events = await all_events(journal, run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (await journal.get_run(run_id)).last_seq == len(events)
    return [event.type for event in events]


_keys = itertools.count(1)


def outbox(type_: str = "log", key: str | None = None, **data: Json) -> OutboxEvent:
    return OutboxEvent(key or f"outbox-{next(_keys)}", type_, data)
