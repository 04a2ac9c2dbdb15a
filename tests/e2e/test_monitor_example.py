"""``examples/monitor`` as its README says, on the scripted vendors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.stack import UpProcess, environment, until
from tests.e2e.stack import ROOT

EXAMPLE = ROOT / "examples" / "monitor"


def test_the_monitor_polls_sleeps_and_tells_what_it_saw(tmp_path: Path) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text("25")
    tools = {"PYTHONPATH": f"{EXAMPLE}:{ROOT}", "PERDURE_TOOLS": "shop_tools"}
    up = UpProcess(
        tmp_path / "home", "--scripted", "--scripts", str(EXAMPLE / "scripts"), cwd=tmp_path, **tools
    ).ready()
    log = tmp_path / "monitor.log"
    try:
        with log.open("wb") as out:
            monitor = subprocess.Popen(
                [sys.executable, str(EXAMPLE / "monitor.py")],
                env=environment(PERDURE_API_URL=up.up()["api_url"]),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until(lambda: "tool.progress" in log.read_text(), 60)
        queue.write_text("3")
        assert monitor.wait(timeout=90) == 0, log.read_text()
    finally:
        up.end()
    said = log.read_text()
    assert "run.waiting poll" in said
    assert "timer.started let the queue settle" in said
    assert "All is well" in said
