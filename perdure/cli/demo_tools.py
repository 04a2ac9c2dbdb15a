"""The one tool of `perdure demo`: an effect that can be counted from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path

from perdure.tools import current_call, tool

EFFECTS_FILE = "PERDURE_DEMO_EFFECTS"  # the variable that names the file of effects
PAUSE_SECONDS = 1.5  # before and after the effect: time to be killed inside the call


@tool(effect="idempotent", timeout_seconds=30)
def demo_effect(step: int) -> str:
    """Do the effect of a step: one line in a file, and only one, however often the call is repeated.

    Args:
        step: The number of the step.
    """
    call = current_call()
    file = Path(os.environ[EFFECTS_FILE])
    if _done(file, call.idempotency_key):
        return f"the effect of step {step} was done by an earlier attempt; nothing was done again"
    time.sleep(PAUSE_SECONDS)
    with file.open("a") as out:
        out.write(f"{call.idempotency_key} attempt {call.attempt}\n")
        out.flush()
        os.fsync(out.fileno())
    time.sleep(PAUSE_SECONDS)
    return f"the effect of step {step} is done"


def _done(file: Path, key: str) -> bool:
    return file.exists() and any(line.split(" ", 1)[0] == key for line in file.read_text().splitlines())
