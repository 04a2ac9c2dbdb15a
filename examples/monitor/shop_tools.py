"""The one tool of the monitor: how many orders wait. A real one would ask the shop."""

from __future__ import annotations

from pathlib import Path

from perdure.tools import ToolTrouble, tool

QUEUE = Path("queue.txt")


@tool(effect="read")
def queue_length() -> dict[str, int]:
    """How many orders wait in the shop's queue."""
    try:
        return {"waiting": int(QUEUE.read_text())}
    except (OSError, ValueError) as error:
        raise ToolTrouble(f"the queue cannot be read: {error}", retryable=True) from None
