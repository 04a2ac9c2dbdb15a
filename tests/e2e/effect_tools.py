"""Tools whose effects the crash tests count: each adds a line to the file named by ``EFFECTS``."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from perdure.tools import ToolTrouble, current_call, tool


def _file() -> Path:
    return Path(os.environ["EFFECTS"])


def _book_idempotent(what: str) -> str:
    key = current_call().idempotency_key
    done = _file().read_text().splitlines() if _file().exists() else []
    if key not in done:
        with _file().open("a") as file:
            file.write(f"{key}\n")
    return f"booked {what}"


@tool(effect="idempotent", timeout_seconds=20)
def book_idempotent(what: str) -> str:
    """Book something; booking under the same idempotency key again changes nothing."""
    return _book_idempotent(what)


@tool(timeout_seconds=20)
def book_once(what: str) -> str:
    """Book something; nothing protects against booking twice."""
    with _file().open("a") as file:
        file.write(f"{current_call().idempotency_key}\n")
    return f"booked {what}"


@tool(effect="idempotent", timeout_seconds=30)
async def book_when_open(what: str) -> str:
    """Book something once the office is open, which is when a file beside the effects says so."""
    while not _file().with_suffix(".open").exists():
        await asyncio.sleep(0.05)
    return _book_idempotent(what)


@tool(timeout_seconds=30)
async def book_once_when_open(what: str) -> str:
    """Book something once the office is open; nothing protects against booking twice."""
    while not _file().with_suffix(".open").exists():
        await asyncio.sleep(0.05)
    with _file().open("a") as file:
        file.write(f"{current_call().idempotency_key}\n")
    return f"booked {what}"


@tool(effect="idempotent", max_attempts=2)
def blow_up_with(what: str) -> str:
    """Asks for another attempt in words of its own, each time."""
    raise ToolTrouble(what, retryable=True)


@tool(effect="read", timeout_seconds=1)
def hang() -> str:
    """Never answers in time."""
    time.sleep(5)
    return "late"


@tool(effect="read")
def blow_up() -> str:
    """Raises."""
    raise RuntimeError("the reactor is on fire")


@tool(effect="read")
def leave() -> str:
    """Tries to end the process politely."""
    raise SystemExit(3)


@tool(effect="read", max_attempts=2)
def die() -> str:
    """Ends the process for real, each time."""
    os._exit(9)


@tool(effect="read")
def not_a_number() -> float:
    """Returns what JSON has no word for."""
    return float("nan")


@tool(effect="read")
def broken_text() -> str:
    """Returns a lone surrogate and a NUL."""
    return "a\ud800b\x00c"


@tool(effect="read")
def huge(megabytes: int) -> str:
    """Returns that many megabytes of text."""
    return "0123456789abcde\n" * (megabytes * 65_536)


@tool(effect="read")
def measure(blob: str) -> int:
    """Counts the characters of a long argument."""
    return len(blob)


@tool(effect="read")
def look(at: str) -> dict[str, int | str]:
    """How often this has been looked at, which is counted beside the effects."""
    path = _file().with_suffix(f".{at}")
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    return {"at": at, "count": count}
