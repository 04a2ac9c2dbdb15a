"""What the terminal shows of a blackboard. Needs nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from perdure.cli.board import board_lines


def entry(number: int, text: str, **more: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    by = {"agent": "scout", "run_id": "run_1"}
    known = {
        "number": number, "version": 1, "topic": None, "text": text, "posted_by": by, "updated_by": by,
        "created_at": now, "updated_at": now,
    }  # fmt: skip
    return {**known, **more}


def test_each_entry_says_who_wrote_it_and_drives_no_terminal() -> None:
    lines = [
        line
        for line, _ in board_lines(
            [
                entry(1, "two\nlines \x1b[2J", topic="facts\x1b"),
                entry(4, "new", version=3, updated_by={"agent": "lead", "run_id": "run_0"}),
            ]
        )
    ]
    assert lines[0].startswith("1  facts�  scout (run_1), ")
    assert lines[1:3] == ["    two", "    lines �[2J"]
    assert "; version 3 by lead (run_0), " in lines[3]
    assert lines[4] == "    new"
