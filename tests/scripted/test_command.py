"""``python -m perdure.providers.scripted`` as a user runs it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

COMMAND = [sys.executable, "-m", "perdure.providers.scripted"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    server = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, server.poll())
        yield server, found.group()
    finally:
        server.kill()
        server.communicate()


def test_it_starts_in_a_blink_prints_its_address_and_answers(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.jsonl"
    began = time.monotonic()
    with running("--log", str(log)) as (_, url):
        body = {"model": "hello", "input": "hi"}
        answer = httpx2.post(f"{url}/v1/responses", json=body)
        took = time.monotonic() - began
        assert answer.json()["status"] == "completed"
        while len(lines := log.read_text().splitlines()) < 3:  # the last line follows the last byte
            time.sleep(0.01)
        assert [json.loads(line)["event"] for line in lines] == ["asked", "first_byte", "completed"]
    assert took < 5, "0.3 s on a quiet machine; the SDKs of the vendors alone take 2 s and must not be imported"


def test_it_imports_no_vendor_sdk() -> None:
    code = "import sys, perdure.providers.scripted.__main__; print({'openai', 'anthropic'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_stream_is_not_slowed_down_by_the_network_stack() -> None:
    """With Nagle's algorithm on, each answer of several events takes 40 ms more."""
    with running() as (_, url), httpx2.Client() as client:
        took = []
        for _ in range(20):
            began = time.perf_counter()
            client.post(f"{url}/v1/responses", json={"model": "hello", "input": "hi", "stream": True})
            took.append(time.perf_counter() - began)
        assert sorted(took)[5] < 0.03


def test_it_stops_on_a_signal_even_while_an_answer_hangs(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("turns: [{text: x, faults: [{hang: forever, after_event: 1}]}]")
    with (
        running("--scripts", str(tmp_path)) as (server, url),
        httpx2.stream("POST", f"{url}/v1/responses", json={"model": "s", "input": "x", "stream": True}),
    ):
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=5)


def test_it_starts_in_spite_of_a_wrong_script_and_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("turns: [{txt: x}]")
    with running("--scripts", str(tmp_path)) as (server, url):
        answer = httpx2.post(f"{url}/v1/responses", json={"model": "hello", "input": "hi"})
        assert answer.json()["status"] == "completed"
        assert server.stderr is not None
        told = f"script file not used: {tmp_path}/s.yaml: turns.0.txt: Extra inputs are not permitted\n"
        assert server.stderr.readline() == told


def test_it_refuses_a_folder_that_is_not_there_and_a_taken_port_with_a_plain_sentence(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    wrong = subprocess.run([*COMMAND, "--scripts", str(nowhere)], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, f"{nowhere}: cannot be read: No such file or directory\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_it_asks_for_a_key_when_told_to() -> None:
    with running("--require-key") as (_, url):
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        assert httpx2.get(f"{url}/v1/models", headers={"authorization": "Bearer any"}).status_code == 200
        assert httpx2.get(f"{url}/v1/models", headers={"x-api-key": "any"}).status_code == 200
