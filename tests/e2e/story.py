"""What every run's story must satisfy, read from its events and transcript alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.e2e.stack import TERMINAL, Stack

Event = dict[str, Any]


def told_well(stack: Stack, run_id: str) -> list[Event]:
    """The events of a run that is over: without a gap, with one end which is last, with live text that
    is exactly the text of the messages, and with the usage that the run shows."""
    events = stack.events(run_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    ends = [event["type"] for event in events if event["type"].removeprefix("run.") in TERMINAL]
    assert ends == [events[-1]["type"]], ends
    assert spoken(events) == written(events)
    tokens = sum(
        event["data"]["usage"]["output_tokens"]
        for event in events
        if event["type"] in ("model.completed", "usage.updated")
    )
    assert stack.run(run_id)["usage"]["output_tokens"] == tokens
    return events


def spoken(events: list[Event]) -> dict[str, str]:
    """By model call, the live text of the attempt that answered."""
    answered = {event["call_id"]: event["attempt"] for event in events if event["type"] == "model.completed"}
    texts = dict.fromkeys(answered, "")
    for event in events:
        if event["type"] == "text.delta" and answered.get(event["call_id"]) == event["attempt"]:
            texts[event["call_id"]] += event["data"]["text"]
    return texts


def written(events: list[Event]) -> dict[str, str]:
    """By model call, the text of its message."""
    calls = [event["call_id"] for event in events if event["type"] == "model.completed"]
    messages = [event["data"]["message"] for event in events if event["type"] == "message.added"]
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(answers) == len(calls)
    return {
        call: "".join(block.get("text", "") for block in answer["content"] if block["type"] == "text")
        for call, answer in zip(calls, answers, strict=True)
    }


def types(events: list[Event]) -> Counter[str]:
    return Counter(event["type"] for event in events)


def effects(stack: Stack, run_id: str) -> Counter[str]:
    """How often each call of the run took effect."""
    lines = stack.effects.read_text().split() if stack.effects.exists() else []
    return Counter(line for line in lines if line.startswith(f"{run_id}:"))
