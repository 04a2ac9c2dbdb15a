"""A process of its own that writes to one run: ``python -m tests.store.second_process URL BLOBS RUN NAME COUNT``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from perdure.store.rows import Delta
from perdure.store.sql import open_journal
from tests.store.runs import outbox


async def write(url: str, blobs: str, run_id: str, name: str, count: str) -> None:
    """Half of the keys are shared with every other writer, half are its own; live text in between."""
    journal = await open_journal(url, Path(blobs))
    print("ready", flush=True)
    sys.stdin.readline()

    async def one(n: int) -> None:
        journal.live(Delta(run_id, "model-1", 1, "text.delta", f"[{name}{n}]"))
        await journal.record(run_id, f"r-{name}-{n}", [outbox(key=f"shared-{n}"), outbox(key=f"{name}-{n}")], None)

    await asyncio.gather(*(one(n) for n in range(int(count))))
    await journal.flush_live(run_id, "model-1")
    await journal.close()


if __name__ == "__main__":
    asyncio.run(write(*sys.argv[1:]))
