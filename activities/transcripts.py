"""Transcripts and runs this worker has read before: messages and pinned definitions never change, so
a turn reads only what is new. Bounded; losing an entry costs one more read."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from perdure.contract import Message
from perdure.store.journal import Journal
from perdure.store.rows import RunRow

SESSIONS_MAX = 64  # the busiest ones
BYTES_MAX = 64 * 1024 * 1024  # of message text, roughly
RUNS_MAX = 1_000


class Transcripts:
    """A read-through cache over one journal. Not shared between processes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sessions: OrderedDict[str, list[Message]] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._runs: OrderedDict[str, RunRow] = OrderedDict()

    async def run(self, run_id: str) -> RunRow:
        """The run's constants (definition, session). Its status and usage may be stale."""
        if run_id not in self._runs:
            self._runs[run_id] = await self._journal.get_run(run_id)
            if len(self._runs) > RUNS_MAX:
                self._runs.popitem(last=False)
        return self._runs[run_id]

    def blobs(self, session_id: str) -> SessionBlobs:
        """The spooled results of a session; nothing is read before somebody asks."""
        return SessionBlobs(self, self._journal, session_id)

    async def messages(self, session_id: str) -> list[Message]:
        """The whole transcript, by number. The list must not be changed."""
        known = self._sessions.get(session_id, [])
        new = await self._journal.list_messages(session_id, after=known[-1]["number"] if known else 0)
        self._sessions[session_id] = messages = [*known, *new]
        self._sessions.move_to_end(session_id)
        self._bytes[session_id] = self._bytes.get(session_id, 0) + sum(map(_bytes, new))
        while len(self._sessions) > SESSIONS_MAX or (sum(self._bytes.values()) > BYTES_MAX and len(self._sessions) > 1):
            oldest, _ = self._sessions.popitem(last=False)
            del self._bytes[oldest]
        return messages


@dataclass(frozen=True)
class SessionBlobs:
    """See ``perdure.tools.port.BlobReader``."""

    transcripts: Transcripts
    journal: Journal
    session_id: str

    async def known(self) -> frozenset[str]:
        return frozenset(
            block["blob"]
            for message in await self.transcripts.messages(self.session_id)
            for block in message["content"]
            if block["type"] == "tool_result" and "blob" in block
        )

    async def get_blob(self, blob_id: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return await self.journal.get_blob(blob_id, offset=offset, length=length)


def _bytes(message: Message) -> int:
    return 200 + sum(len(str(block.get("text") or block.get("arguments") or "")) for block in message["content"])
