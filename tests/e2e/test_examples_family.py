"""``examples/researcher`` does what its page says, on the scripted vendors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.e2e.stack import ROOT, Stack

EXAMPLE = ROOT / "examples" / "researcher"


def test_the_researcher_fans_out_five_children_under_one_budget(build: Callable[..., Stack]) -> None:
    stack = build()
    stack.scripts = EXAMPLE / "scripts"
    stack.start()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "research.py"), "What about the noise?"],
        env={**stack.env, "PERDURE_API_URL": stack.api_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + stack.logs()
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["completed"] * 5
    assert lines[5].startswith("6 runs, $")
    assert "begin with the doors" in done.stdout
    drawn = perdure(stack, "tree", "last")
    assert len(drawn) == 7, "the newest run that nobody has started is the lead, not one of its helpers"
    assert drawn[6].startswith("6 runs, $")
    assert perdure(stack, "show", "last")[0].endswith(drawn[0].split()[0])


def perdure(stack: Stack, *words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "perdure.cli", *words, "--api-url", stack.api_url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
