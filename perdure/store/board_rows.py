"""The rows of blackboards, as the journal's port shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BoardEntry:
    """One entry of a tree's blackboard. ``number`` counts posts from 1 and is never given again, ``version`` the
    entry's own changes from 1; ``revision`` is the board's when the entry was changed last."""

    id: str
    root_run_id: str
    number: int
    version: int
    revision: int
    topic: str | None
    text: str
    posted_run_id: str
    posted_agent: str
    posted_ms: int
    changed_run_id: str
    changed_agent: str
    changed_ms: int


@dataclass(frozen=True, slots=True)
class Board:
    """All entries, by number. ``revision`` counts what was posted, updated and removed."""

    revision: int
    entries: list[BoardEntry]


@dataclass(frozen=True, slots=True)
class BoardChange:
    """What a write has made: the entry's version, and the board's revision after it."""

    entry_id: str
    number: int
    version: int
    revision: int
