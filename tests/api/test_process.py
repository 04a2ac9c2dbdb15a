"""``python -m api`` as a process: where it may listen, how it starts without Temporal, how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from api.gate import is_loopback
from tests.api.service import HELLO


def _environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    return {**kept, "PERDURE_HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


@pytest.mark.parametrize("host", ["0.0.0.0", "example.com"])
def test_an_open_address_without_keys_is_refused(tmp_path: Path, host: str) -> None:
    command = [sys.executable, "-m", "api"]
    environment = _environment(tmp_path, PERDURE_API_HOST=host)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "refusing to start" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_addresses_are_allowed(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "::", "10.0.0.1", "192.0.2.1", "localhost.example.com"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The API with a Temporal address where nobody listens; and its URL."""
    with socket.socket() as taken:  # bound and not listening: refused, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = _environment(tmp_path, PERDURE_API_PORT="0", TEMPORAL_ADDRESS=nobody)
        child = subprocess.Popen(
            [sys.executable, "-m", "api"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdout is not None
        line = child.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        try:
            yield child, found.group()
        finally:
            child.kill()
            child.wait(10)
            child.stdout.close()


def test_without_temporal_runs_are_accepted_and_readiness_says_what_is_wrong(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    _, url = process
    with httpx2.Client(base_url=url, timeout=20) as http:
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["journal"]["ok"]) == (503, True)
        assert not ready.json()["checks"]["temporal"]["ok"]
        began = time.monotonic()
        reply = http.post("/v1/runs", json={**HELLO, "agent_inline": {"model": "openai/gpt-5.5"}})
        assert (reply.status_code, reply.json()["status"]) == (201, "queued")
        assert time.monotonic() - began < 8
        assert http.get("/v1/info").json()["temporal"]["address"].startswith("127.0.0.1:")


def test_a_stop_ends_open_streams_quickly_and_cleanly(process: tuple[subprocess.Popen[str], str]) -> None:
    child, url = process
    with httpx2.Client(base_url=url, timeout=20) as http:
        run = http.post("/v1/runs", json={**HELLO, "agent_inline": {"model": "openai/gpt-5.5"}}).json()
        with http.stream("GET", f"/v1/runs/{run['id']}/events", headers={"accept": "text/event-stream"}) as reply:
            chunks = reply.iter_text()
            next(chunks)
            began = time.monotonic()
            child.send_signal(signal.SIGTERM)
            for _ in chunks:  # ends without a protocol error
                pass
            assert time.monotonic() - began < 2
        assert child.wait(5) in (0, -signal.SIGTERM)
