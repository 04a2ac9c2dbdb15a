"""The test bed of the benches: a whole `perdure up` on free ports, the bare worker beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil

ROOT = Path(__file__).parents[1]
BARE_QUEUE = "bench-bare"
TERMINAL = {"completed", "incomplete", "failed", "cancelled", "expired"}


class Bed:
    """Start with ``with Bed(home)``; everything is stopped at the end."""

    def __init__(self, home: Path, *, workers: int = 1, env: dict[str, str] | None = None) -> None:
        self.home = home
        self.more = env or {}
        self.workers = workers

    def __enter__(self) -> Bed:
        self.home.mkdir(parents=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("TEMPORAL_", "PERDURE_"))}
        self.env = {**env, "PERDURE_TOOLS": "bench.bench_tools", "PYTHONPATH": str(ROOT), **self.more}
        with (self.home / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "perdure.cli", "up", "--home", str(self.home), "--scripted",
                    "--scripts", str(ROOT / "bench" / "scripts"), "--workers", str(self.workers),
                    "--api-port", "0", "--temporal-port", "0", "--ui-port", "0",
                ],
                cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while not (self.home / "up.json").exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"perdure up did not come up:\n{(self.home / 'up.log').read_text()[-3_000:]}")
            time.sleep(0.05)
        up = self.up()
        self.api_url, self.vendors_url, self.temporal_address = up["api_url"], up["vendors_url"], up["temporal_address"]
        self.bare = subprocess.Popen(
            [sys.executable, "-m", "bench.bare", BARE_QUEUE],
            cwd=ROOT, env={**self.env, "TEMPORAL_ADDRESS": self.temporal_address},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.http = httpx2.AsyncClient(base_url=self.api_url, timeout=600, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.bare.kill()
        self.bare.wait()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def up(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "up.json").read_text()))

    def pid(self, name: str) -> int:
        return next(int(child["pid"]) for child in self.up()["children"] if child["name"] == name)

    def cpu_seconds(self, name: str) -> float:
        times = psutil.Process(self.pid(name)).cpu_times()
        return float(times.user + times.system)

    def disk_bytes(self) -> int:
        """Both databases after their WAL is folded in: what a turn leaves for good."""
        total = 0
        for name in ("journal.db", "temporal.db"):
            path = self.home / name
            connection = sqlite3.connect(path, timeout=30)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            total += path.stat().st_size
        return total

    async def temporal(self) -> Any:
        from temporalio.client import Client

        from perdure.runs import DATA_CONVERTER

        return await Client.connect(self.temporal_address, data_converter=DATA_CONVERTER)

    async def post(self, model: str, tools: list[str] | None = None, **body: Any) -> dict[str, Any]:
        agent = {"model": f"scripted/{model}", "instructions": "Do as scripted.", "tools": tools or []}
        limits = {"max_turns": 5_000, "max_tool_calls": 5_000}
        answer = await self.http.post(
            "/v1/runs", json={"agent_inline": {**agent, "limits": limits}, "input": "go", **body}
        )
        if answer.status_code != 201:
            raise RuntimeError(f"POST /v1/runs: {answer.text}")
        return dict(answer.json())

    async def finish(self, run_id: str) -> dict[str, Any]:
        while True:
            answer = await self.http.get(f"/v1/runs/{run_id}", headers={"prefer": "wait=30"})
            run = dict(answer.raise_for_status().json())
            if run["status"] in TERMINAL:
                assert run["status"] == "completed", run
                return run
            await asyncio.sleep(0.1)

    async def vendor_log(self) -> list[dict[str, Any]]:
        """What the scripted vendors saw; ``at`` in unix seconds."""
        answer = await self.http.get(f"{self.vendors_url}/_scripted/log")
        return [
            {**line, "at": datetime.fromisoformat(line["at"]).timestamp()} for line in answer.raise_for_status().json()
        ]
