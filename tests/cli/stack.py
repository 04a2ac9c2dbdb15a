"""`perdure up` with all its children, for tests that need the real thing. Needs a real Temporal dev server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from perdure.cli.place import read_up

STARTUP_SECONDS = 60.0  # two cores, and others at work


def environment(**more: str) -> dict[str, str]:
    vendors = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("PERDURE_", "TEMPORAL_")) and n not in vendors}
    return {**clean, **more}


class UpProcess:
    def __init__(self, home: Path, *options: str, cwd: Path, **env: str) -> None:
        self.home = home
        command = [sys.executable, "-P", "-m", "perdure.cli", "up", "--home", str(home), "--api-port", "0"]
        command += ["--temporal-port", "0", "--ui-port", "0", *options]
        self.output = cwd / f"up-{time.monotonic_ns()}.log"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment(**env), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ready(self) -> UpProcess:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            up = read_up(self.home)
            return up is not None and up["pid"] == self.process.pid

        try:
            until(is_ready, STARTUP_SECONDS)
        except BaseException:
            self.end()
            raise
        return self

    def up(self) -> dict[str, Any]:
        up: dict[str, Any] = json.loads((self.home / "up.json").read_text())
        return up

    def pids(self) -> dict[str, int]:
        return {child["name"]: child["pid"] for child in self.up()["children"]}

    def get(self, path: str) -> Any:
        return httpx2.get(self.up()["api_url"] + path, timeout=10, trust_env=False).json()

    def perdure(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "perdure.cli", *arguments, "--home", str(self.home)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=50)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
