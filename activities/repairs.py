"""A transcript that needed repair before a model could see it: said once in the run's events, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from perdure.content import Message
from perdure.core.state import Json, OutboxEvent
from perdure.core.transcript import flaws
from perdure.providers.port import ModelTrouble
from perdure.store.journal import Journal

RUNS_MAX = 1_000  # whose repairs are remembered; a forgotten one is said again, which the journal ignores


class Repairs:
    """``strict``: a broken transcript is no basis for a model call."""

    def __init__(self, journal: Journal, *, strict: bool) -> None:
        self._journal, self._strict = journal, strict
        self._said: dict[str, dict[str, int]] = {}

    async def look_at(self, run_id: str, messages: Sequence[Message], view: Sequence[Message]) -> None:
        """``view`` is the transcript, repaired. Event ``log`` {what: transcript_repaired, counts}, or ModelTrouble."""
        if len(view) == len(messages) and {*map(id, view)} == {*map(id, messages)}:
            return  # at most in another order
        counts = flaws(messages)
        if not counts or self._said.get(run_id) == counts:
            return
        if self._strict:
            found = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())
            raise ModelTrouble("transcript_broken", f"the transcript of the session is broken: {found}")
        key = "repaired-" + "-".join(f"{kind}{count}" for kind, count in sorted(counts.items()))
        data: dict[str, Json] = {"what": "transcript_repaired", "counts": cast("dict[str, Json]", counts)}
        await self._journal.record(run_id, key, [OutboxEvent(key, "log", data)], None)
        self._said[run_id] = counts
        while len(self._said) > RUNS_MAX:
            del self._said[next(iter(self._said))]
