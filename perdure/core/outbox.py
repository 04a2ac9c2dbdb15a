"""Events that no activity would write by itself wait in the state until an action has carried them."""

from __future__ import annotations

from dataclasses import replace

from perdure.core.state import Json, OutboxEvent, RunState


def say(state: RunState, type_: str, data: dict[str, Json]) -> RunState:
    """One more event of this type, under the next key."""
    number = state.outbox_count + 1
    event = OutboxEvent(f"outbox-{number}", type_, data)
    return replace(state, outbox=(*state.outbox, event), outbox_count=number)
