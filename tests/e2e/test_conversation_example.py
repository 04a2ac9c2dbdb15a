"""The example of a months-long conversation does what its page says, on the scripted vendors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.e2e.stack import ROOT, Stack

EXAMPLE = ROOT / "examples" / "months-long-conversation"


def test_a_conversation_goes_on_for_months_and_is_forked_retried_and_carried_away(
    build: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = build()
    stack.scripts = EXAMPLE / "scripts"
    stack.start()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "conversation.py")],
        env={**os.environ, "PERDURE_API_URL": stack.api_url, "WEEKS": "6"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + stack.logs()
    assert "6 runs in ses_" in done.stdout
    assert "Noted on day 1: This is week 6." in done.stdout
    assert "said twice at once: the second was heard by" in done.stdout
    assert "a fork at message 10: Noted on day 1: What if this were the last week?" in done.stdout
    assert "the copy is the same" in done.stdout
    assert list(tmp_path.glob("*.jsonl")) == []
    sessions = stack.http.get("/v1/sessions").raise_for_status().json()["data"]
    assert len(sessions) == 2, "the conversation and its fork; the copy is deleted"
