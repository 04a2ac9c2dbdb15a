"""A worker that kills itself once, at a point: ``python -m tests.e2e.faulty_worker``.

``FAULT`` is ``point`` or ``point:key-prefix``; ``FAULT_MARK`` is a file that says it has happened.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from perdure.settings import Settings
from worker import run_worker


def reached(point: str, key: str) -> None:
    wanted, _, prefix = os.environ["FAULT"].partition(":")
    mark = Path(os.environ["FAULT_MARK"])
    if point == wanted and key.startswith(prefix) and not mark.exists():
        mark.write_text(f"{point} {key}")
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(run_worker(Settings(), reached))
