"""The whole product as real processes on loopback: Temporal, scripted vendors, workers, the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from perdure.dev_server import DevServer, free_port

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
TERMINAL = {"completed", "incomplete", "failed", "cancelled", "expired"}


class Stack:
    """One home with its processes. Nothing is shared with another stack but the Temporal server."""

    def __init__(self, home: Path, temporal: DevServer, database_url: str | None = None) -> None:
        self.home = home
        self.temporal = temporal
        self.api_port, self.vendor_port = free_port(), free_port()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.effects = home / "effects.txt"
        self.scripts = SCRIPTS
        self.env = {
            **os.environ,
            "PERDURE_HOME": str(home),
            "PERDURE_API_PORT": str(self.api_port),
            "PERDURE_TASK_QUEUE": f"e2e-{self.api_port}",
            "PERDURE_TOOLS": "tests.e2e.effect_tools",
            "PERDURE_SCRIPTS": str(SCRIPTS),
            "PERDURE_SCRIPTED_URL": self.vendor_url,
            "TEMPORAL_ADDRESS": temporal.address,
            "EFFECTS": str(self.effects),
            "PYTHONPATH": str(ROOT),
        }
        if database_url:
            self.env["PERDURE_DATABASE_URL"] = database_url
        self.http = httpx2.Client(base_url=self.api_url, timeout=70, trust_env=False)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def vendor_url(self) -> str:
        return f"http://127.0.0.1:{self.vendor_port}"

    def start(self, *, worker: bool = True) -> Stack:
        self.home.mkdir(parents=True, exist_ok=True)
        self.spawn(
            "vendors", "-m", "perdure.providers.scripted",
            "--port", str(self.vendor_port), "--scripts", str(self.scripts),
        )  # fmt: skip
        self.env["PERDURE_SCRIPTS"] = str(self.scripts)
        self.spawn("api", "-m", "api")
        if worker:
            self.spawn("worker", "-m", "worker")
        self.wait_until(lambda: self._answers(f"{self.vendor_url}/_scripted/summary"), "the vendors answer")
        self.wait_until(lambda: self._answers(f"{self.api_url}/healthz"), "the API answers")
        return self

    def spawn(self, name: str, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.children[name] = child
        return child

    def kill(self, name: str) -> None:
        child = self.children.pop(name)
        child.send_signal(signal.SIGKILL)
        child.wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: it is there, and does nothing."""
        self.children[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.children[name].send_signal(signal.SIGCONT)

    def alive(self, name: str) -> bool:
        return name in self.children and self.children[name].poll() is None

    def stop(self) -> None:
        self.http.close()
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def post_run(self, model: str, tools: list[str] | None = None, **body: Any) -> dict[str, Any]:
        answer = self.http.post(
            "/v1/runs",
            json={
                "agent_inline": {"model": model, "instructions": "Do as scripted.", "tools": tools or []},
                "input": "go",
                **body,
            },
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/runs/{run_id}").raise_for_status().json())

    def wait_for_end(self, run_id: str, timeout_seconds: float = 60) -> dict[str, Any]:
        self.wait_until(lambda: self.run(run_id)["status"] in TERMINAL, f"run {run_id} ends", timeout_seconds)
        return self.run(run_id)

    def events(self, run_id: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"/v1/runs/{run_id}/events", headers={"accept": "application/jsonl"})
        return [json.loads(line) for line in answer.raise_for_status().text.splitlines()]

    def follow(self, run_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        with self.http.stream(
            "GET",
            f"/v1/runs/{run_id}/events",
            headers={"accept": "text/event-stream", "last-event-id": str(after)},
        ) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def summary(self) -> dict[str, Any]:
        return dict(httpx2.get(f"{self.vendor_url}/_scripted/summary", trust_env=False).raise_for_status().json())

    def bill(self, run_id: str) -> dict[str, dict[str, int]]:
        """What the vendors counted for each model call of a run, by the call's key."""
        calls = self.summary()["by_request_key"]
        return {key.partition(":")[2]: dict(counts) for key, counts in calls.items() if key.startswith(f"{run_id}:")}

    def close_gate(self, name: str) -> None:
        """Answers whose script waits for ``name`` are held from now on."""
        httpx2.delete(f"{self.vendor_url}/_scripted/release/{name}", trust_env=False).raise_for_status()

    def open_gate(self, name: str) -> None:
        httpx2.post(f"{self.vendor_url}/_scripted/release/{name}", trust_env=False).raise_for_status()

    def held(self, name: str) -> int:
        """How many answers wait at the gate."""
        held = httpx2.get(f"{self.vendor_url}/_scripted/held", trust_env=False).raise_for_status().json()
        return int(held.get(name, 0))

    def wait_until(self, holds: Callable[[], bool], what: str, timeout_seconds: float = 30) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"never: {what}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3_000:]}" for path in sorted(self.home.glob("*.log")))

    def _answers(self, url: str) -> bool:
        try:
            return httpx2.get(url, timeout=1, trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False
