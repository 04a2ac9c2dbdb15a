"""The blackboard of a tree of runs, as the tools of one run use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from activities.lifeline import filed
from perdure.core.state import Json
from perdure.store.board_rows import BoardChange, BoardEntry
from perdure.store.journal import Journal
from perdure.store.trouble import BoardFull, NotFound, StaleEntry
from perdure.tools.call import current_call
from perdure.tools.port import ToolTrouble


@dataclass(frozen=True)
class TreeBoard:
    """See ``perdure.tools.port.SharedBoard``. The journal knows a call that has written before."""

    journal: Journal
    run_id: str

    async def read(self, since: int) -> dict[str, Json]:
        board = await filed(lambda: self.journal.read_board(self.run_id))
        shown: dict[str, Json] = {
            "revision": board.revision,
            "entries": [_shown(entry) for entry in board.entries if entry.revision > since],
        }
        if since:  # who has read before knows the others, and learns here which of them are gone
            shown["on_the_board"] = [entry.number for entry in board.entries]
        return shown

    async def post(self, text: str, topic: str | None) -> dict[str, Json]:
        return await self._changed(lambda call_id: self.journal.post_entry(self.run_id, call_id, text, topic))

    async def update(self, entry_id: str, text: str, version: int | None) -> dict[str, Json]:
        return await self._changed(
            lambda call_id: self.journal.update_entry(self.run_id, call_id, entry_id, text, version)
        )

    async def remove(self, entry_id: str, version: int | None) -> dict[str, Json]:
        return await self._changed(lambda call_id: self.journal.remove_entry(self.run_id, call_id, entry_id, version))

    async def _changed(self, write: Callable[[str], Awaitable[BoardChange]]) -> dict[str, Json]:
        call_id = current_call().call_id
        try:
            change = await filed(lambda: write(call_id))
        except BoardFull as full:
            raise ToolTrouble(f"{full}: update or remove one that is out of date", code="board_full") from None
        except StaleEntry as stale:
            raise ToolTrouble(f"{stale} now: read it again before you change it", code="stale_entry") from None
        except NotFound as missing:
            if missing.kind != "entry":
                raise
            words = f"there is no entry {missing.id!r} on the board: board_read shows those there are"
            raise ToolTrouble(words, code="entry_not_found") from None
        return {
            "id": change.entry_id,
            "number": change.number,
            "version": change.version,
            "revision": change.revision,
        }


def _shown(entry: BoardEntry) -> Json:
    shown: dict[str, Json] = {
        "id": entry.id,
        "number": entry.number,
        "version": entry.version,
        "topic": entry.topic,
        "text": entry.text,
        "posted_by": _by(entry.posted_agent, entry.posted_run_id, entry.posted_ms),
    }
    if entry.version > 1:
        shown["updated_by"] = _by(entry.changed_agent, entry.changed_run_id, entry.changed_ms)
    return shown


def _by(agent: str, run_id: str, ms: int) -> Json:
    return {
        "agent": agent,
        "run_id": run_id,
        "at": datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds"),
    }
