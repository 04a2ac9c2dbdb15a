"""What the command says when things are not as they should be. Needs nothing but the command."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def perdure(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    command = [sys.executable, "-P", "-m", "perdure.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=60)


def test_help_is_instant_and_names_every_command(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        began = time.perf_counter()
        shown = perdure("--help", cwd=tmp_path)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.4
    commands = [
        "up",
        "run",
        "watch",
        "ls",
        "show",
        "cancel",
        "doctor",
        "demo",
        "version",
        "approvals",
        "approve",
        "deny",
    ]
    for command in [
        *commands,
        "respond",
        "answer",
        "say",
        "pause",
        "resume",
        "budget",
        "usage",
        "policy",
        "signal",
        "timers",
        "fire",
    ]:
        assert f" {command} " in shown.stdout


def test_the_supervisor_loads_neither_temporal_nor_a_vendors_sdk(tmp_path: Path) -> None:
    heavy = "{'temporalio', 'openai', 'anthropic', 'fastapi', 'sqlalchemy', 'pydantic', 'httpx2'}"
    code = f"import sys, perdure.cli.app, perdure.cli.up; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        *(["run", "Hello"], ["ls"], ["watch"], ["show"], ["cancel", "last"], ["approvals"], ["approve", "last"]),
        *(["signal", "last", "x"], ["timers", "last"], ["fire", "last"]),
        *(["deny", "last"], ["respond", "last", "x"], ["answer", "last"], ["say", "last", "x"], ["pause", "last"]),
        *(["resume", "last"], ["budget"], ["usage"], ["policy", "check", "clerk", "calculator"]),
        *(["retry", "last", "call_1"], ["abort", "last", "call_1", "--reason", "x"]),
    ],
)
def test_without_anything_running_each_command_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    shown = perdure(*command, cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"perdure: nothing runs in {tmp_path / '.perdure'}: start it with `perdure up`")
    assert "Traceback" not in shown.stderr


def test_an_up_that_died_is_told_from_one_that_never_was(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    home = tmp_path / ".perdure"
    home.mkdir()
    up = {"pid": dead.pid, "api_url": "http://127.0.0.1:1", "temporal_address": "", "temporal_ui_url": None}
    (home / "up.json").write_text(json.dumps({**up, "children": []}))
    shown = perdure("ls", cwd=tmp_path)
    assert shown.returncode == 1
    assert f"(pid {dead.pid}) has died; start it again with `perdure up`" in shown.stderr
    assert "has died and left its up.json" in perdure("doctor", cwd=tmp_path).stdout


def test_an_api_that_does_not_answer_is_named(tmp_path: Path) -> None:
    shown = perdure("ls", "--api-url", "http://127.0.0.1:9", cwd=tmp_path)
    assert shown.returncode == 1
    assert "no API answers at http://127.0.0.1:9" in shown.stderr


def test_a_busy_port_that_was_asked_for_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown = perdure("up", "--api-port", port, "--temporal-port", "0", "--ui-port", "0", cwd=tmp_path)
    assert shown.returncode == 1
    assert f"port {port} (API) is busy" in shown.stderr
    assert "--api-port" in shown.stderr


def test_ports_that_collide_with_each_other_are_refused(tmp_path: Path) -> None:
    ports = ["--api-port", "18999", "--temporal-port", "18999", "--ui-port", "0"]
    shown = perdure("up", *ports, cwd=tmp_path)
    assert shown.returncode == 1
    assert "three different ports" in shown.stderr


def test_a_settings_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("home = [")
    shown = perdure("ls", cwd=tmp_path)
    assert shown.returncode == 1
    assert "perdure.toml cannot be read" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    assert perdure("run", cwd=tmp_path).returncode == 2
    assert perdure("ls", "--limit", "0", cwd=tmp_path).returncode == 2
    assert perdure("fly", cwd=tmp_path).returncode == 2
    assert perdure("approve", cwd=tmp_path).returncode == 2
    assert perdure("approve", "last", "--scope", "ever", cwd=tmp_path).returncode == 2
    assert perdure("say", "last", "x", "--delivery", "shout", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["approve", "last", "--edit", "{"], "--edit is not JSON"),
        (["approve", "last", "--edit", "[]"], "--edit is not a JSON object"),
        (["approve", "last", "--as", "two words"], "no spaces"),
        (["budget", "last", "--max-tokens", "many"], "'many' is not a whole number"),
        (["run", "Hello", "--max-tokens", "x"], "is not a whole number"),
        (["run", "Hello", "--policy", "missing.json"], "missing.json cannot be read"),
        (["policy", "check", "clerk", "calculator", "1"], "ARGUMENTS is not a JSON object"),
    ],
)
def test_an_option_that_cannot_mean_anything_is_refused_before_anything_is_sent(
    command: list[str], said: str, tmp_path: Path
) -> None:
    shown = perdure(*command, "--api-url", "http://127.0.0.1:9", cwd=tmp_path)
    assert shown.returncode == 2
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr


def test_the_doctor_finds_a_wrong_setting_and_says_where(tmp_path: Path) -> None:
    shown = perdure("doctor", cwd=tmp_path, PERDURE_LIMITS__MAX_TURNS="none")
    assert shown.returncode == 1
    assert "limits.max_turns" in shown.stdout


def test_the_doctor_finds_a_tool_module_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text("raise RuntimeError('no such device')\n")
    shown = perdure("doctor", "--json", cwd=tmp_path, PERDURE_TOOLS="my_tools")
    assert shown.returncode == 1
    report = json.loads(shown.stdout)
    assert not report["ok"]
    failed = [finding for finding in report["findings"] if finding["level"] == "fail"]
    assert [finding["what"] for finding in failed] == ["tool modules"]
    assert "no such device" in failed[0]["found"]


def test_the_doctor_finds_a_temporal_that_does_not_answer(tmp_path: Path) -> None:
    shown = perdure("doctor", cwd=tmp_path, TEMPORAL_ADDRESS="127.0.0.1:9")
    assert shown.returncode == 1
    assert "no Temporal at 127.0.0.1:9" in shown.stdout
    assert "check TEMPORAL_ADDRESS" in shown.stdout


EVENTS = [{"seq": n, "type": "text.delta" if n < 6 else "run.completed", "data": {"text": str(n)}} for n in range(1, 7)]


class CuttingApi(http.server.BaseHTTPRequestHandler):
    """Speaks just enough of the API to cut a stream: two events a connection, in the middle of a third."""

    asked_after: list[str] = []

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.endswith("/events"):
            after = int(self.headers["Last-Event-ID"])
            self.asked_after.append(str(after))
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            # The server repeats one event: a reader must not show it twice.
            for event in EVENTS[max(after - 1, 0) : after + 2]:
                self.wfile.write(
                    f"id: {event['seq']}\nevent: {event['type']}\n: ping\ndata: {json.dumps(event)}\n\n".encode()
                )
            if after < 4:
                self.wfile.write(b'id: 99\ndata: {"seq": 99, "ty')
            return
        body = json.dumps({"id": "run_0123456789ABCDEFGHJKMNPQRS", "status": "completed"}).encode()
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def cutting_api() -> Iterator[str]:
    CuttingApi.asked_after.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CuttingApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_reader_whose_connection_is_cut_misses_nothing_and_hears_nothing_twice(
    cutting_api: str, tmp_path: Path
) -> None:
    shown = perdure("watch", "run_0123456789ABCDEFGHJKMNPQRS", "--json", "--api-url", cutting_api, cwd=tmp_path)
    assert [json.loads(line)["seq"] for line in shown.stdout.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert CuttingApi.asked_after == ["0", "2", "4"]
    assert shown.returncode == 0
    assert "reconnecting" in shown.stderr
