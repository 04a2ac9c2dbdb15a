"""The log of what was asked, delivered and completed: the witness in every claim about calls paid once."""

from __future__ import annotations

import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic_core import to_json

LogEvent = Literal["asked", "first_byte", "delivered", "completed", "cut", "disconnected"]


class CallLog:
    """One line per happening of a model call.

    Every call has ``asked``, mostly ``first_byte``, and then exactly one of: ``completed`` (the whole answer
    with its proper end went to the socket and the client was there), ``delivered`` (an error, or an answer
    without its proper end, was sent whole), ``cut`` (we broke it off) or ``disconnected`` (the client went).
    """

    LINES_MAX = 100_000  # kept for GET /_scripted/log, about 50 MB; the file keeps all
    KEYS_MAX = 1_000_000  # counted for GET /_scripted/summary, about 300 MB at the very most

    def __init__(self, path: Path | None = None) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=self.LINES_MAX)
        self._counts: dict[str, dict[str, int]] = {}
        self._number = 0
        self._file: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: LogEvent, call: dict[str, Any]) -> None:
        self._number += 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"n": self._number, "at": at, "event": event, **call}
        self._lines.append(line)
        key = call["request_key"] or f"body:{call['body_sha256']}"
        counts = self._counts.setdefault(key, {})
        counts[event] = counts.get(event, 0) + 1
        if len(self._counts) > self.KEYS_MAX:
            del self._counts[next(iter(self._counts))]
        if self._file is not None:
            os.write(self._file, to_json(line) + b"\n")  # one write: whole lines whoever dies

    def after(self, number: int) -> list[dict[str, Any]]:
        """Lines with a greater ``n``, oldest first."""
        first = self._lines[0]["n"] if self._lines else 0
        skip = max(0, number + 1 - first)
        return [line for index, line in enumerate(self._lines) if index >= skip]

    def summary(self) -> dict[str, Any]:
        """Counts per request key (``X-Client-Request-Id``, else ``body:<sha256>``), and their sums.

        ``paid_twice`` is the number of keys that were completed more than once.
        """
        events = get_args(LogEvent)
        keys = {key: {event: counts.get(event, 0) for event in events} for key, counts in self._counts.items()}
        total = {event: sum(row[event] for row in keys.values()) for event in events}
        paid_twice = sum(1 for row in keys.values() if row["completed"] > 1)
        return {**total, "paid_twice": paid_twice, "by_request_key": keys}

    def clear(self) -> None:
        """Forget lines and counts; numbers go on, and the file stays as it is."""
        self._lines.clear()
        self._counts.clear()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
