"""Transcripts and runs this worker has read before: messages never change, pinned definitions only when another agent
takes over, so a turn reads only what is new. Bounded; losing an entry costs one more read."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from activities.view import Exact
from perdure.content import Message
from perdure.core.budget import TOKENS_PER_BYTE_PERMILLE
from perdure.store.journal import Journal
from perdure.store.rows import RunRow
from perdure.tools.client_tools import run_toolbox
from perdure.tools.port import ToolBox

SESSIONS_MAX = 64  # the busiest ones
BYTES_MAX = 64 * 1024 * 1024  # of message text, roughly
RUNS_MAX = 1_000
CALIBRATION_SECONDS = 300.0  # a model that was seen to make more tokens of a byte is known everywhere after this
CALIBRATION_MARGIN_PERMILLE = 1_100


class Transcripts:
    """A read-through cache over one journal. Not shared between processes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sessions: OrderedDict[str, list[Message]] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._runs: OrderedDict[str, RunRow] = OrderedDict()
        self._toolboxes: dict[str, tuple[RunRow, ToolBox]] = {}
        self._exact: dict[str, Exact | None] = {}
        self._permille: dict[str, int] = {}
        self._calibrated = -CALIBRATION_SECONDS

    async def run(self, run_id: str, transfers: int = 0) -> RunRow:
        """The run's constants (definition, session), after so many transfers at least. Its status and usage may be
        stale."""
        known = self._runs.get(run_id)
        if known is None or known.transfers < transfers:
            run = self._runs[run_id] = await self._journal.get_run(run_id)
            # What was known counted other instructions and tools.
            self._exact[run_id] = Exact(run.exact_tokens, run.exact_number) if run.exact_tokens is not None else None
            if len(self._runs) > RUNS_MAX:
                oldest, _ = self._runs.popitem(last=False)
                self._toolboxes.pop(oldest, None)
                self._exact.pop(oldest, None)
        return self._runs[run_id]

    def toolbox(self, run: RunRow, toolbox: ToolBox) -> ToolBox:
        """The tools of a run: those of the registry that its agent names, its agents that are tools, its client's."""
        known = self._toolboxes.get(run.id)
        if known is None or known[0] is not run:
            known = self._toolboxes[run.id] = (run, run_toolbox(toolbox, run.definition))
        return known[1]

    def exact(self, run: RunRow) -> Exact | None:
        """How large the transcript was when a vendor counted it last, of a run that was got here."""
        return self._exact.get(run.id)

    def count(self, run: RunRow, exact: Exact) -> None:
        """Unless another agent has taken over since."""
        if self._runs.get(run.id) is run:
            self._exact[run.id] = exact

    async def permille(self, model: str) -> int:
        """The most thousandths of a token that a byte may be for this model: what no tokenizer exceeds, unless
        this model's vendor was seen to count more."""
        if time.monotonic() - self._calibrated > CALIBRATION_SECONDS:
            self._calibrated = time.monotonic()
            self._permille = {
                row.model: TOKENS_PER_BYTE_PERMILLE * row.worst_permille * CALIBRATION_MARGIN_PERMILLE // 1_000_000
                for row in await self._journal.calibrations()
                if row.misses
            }
        return self._permille.get(model, TOKENS_PER_BYTE_PERMILLE)

    def blobs(self, session_id: str) -> SessionBlobs:
        """The spooled results of a session; nothing is read before somebody asks."""
        return SessionBlobs(self, self._journal, session_id)

    async def messages(self, session_id: str, newest: int | None = None) -> list[Message]:
        """The whole transcript, by number; who knows the ``newest`` number spares a read where that is here. The list
        must not be changed."""
        known = self._sessions.get(session_id, [])
        if known and known[-1]["number"] == newest:
            return known
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
