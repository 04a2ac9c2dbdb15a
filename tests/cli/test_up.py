"""`perdure up` with all its children. Needs a real Temporal dev server; a stack is started once for the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.cli.stack import UpProcess, environment, until


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "worker.py").write_text("raise SystemExit('the worker.py of somebody else')\n")
    (folder / "my_tools.py").write_text(
        "from perdure.tools import tool\n\n\n"
        "@tool(effect='read')\ndef my_tool() -> str:\n    '''Mine.'''\n    return 'mine'\n"
    )
    running = UpProcess(folder / "home", "--workers", "2", cwd=folder, PERDURE_TOOLS="my_tools").ready()
    yield running
    running.end()


def test_everything_is_up_when_up_json_is_there_and_it_names_every_child(stack: UpProcess) -> None:
    up = stack.up()
    assert set(stack.pids()) == {"temporal", "vendors", "worker-1", "worker-2", "api"}
    assert not any(gone(pid) for pid in stack.pids().values())
    assert stack.get("/healthz") == {"status": "ok"}
    until(lambda: stack.get("/readyz")["status"] == "ready")
    assert httpx2.get(up["temporal_ui_url"], timeout=10, trust_env=False).status_code == 200
    said = stack.output.read_text()
    for part in (up["api_url"], f"{up['api_url']}/docs", up["temporal_ui_url"], f"perdure run --home {stack.home}"):
        assert part in said
    assert httpx2.get(f"{up['api_url']}/docs", timeout=10, trust_env=False).status_code == 200


def test_tools_are_found_where_up_was_typed_and_a_worker_py_there_does_not_stand_in_for_ours(stack: UpProcess) -> None:
    assert "my_tool" in [tool["name"] for tool in stack.get("/v1/tools")["data"]]
    assert "worker ready" in (stack.home / "logs" / "worker-1.log").read_text()


def test_the_tour_runs_from_the_command_line_and_is_listed_and_shown(stack: UpProcess) -> None:
    ran = stack.perdure("run", "Show me what you can do")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "→ calculator" in ran.stdout
    assert "That was the tour." in ran.stdout
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("completed · ")
    run_id = last.rsplit(" ", 1)[-1]
    assert run_id in stack.perdure("ls").stdout
    shown = stack.perdure("show", run_id[: len("run_") + 20]).stdout
    assert "calculator" in shown
    assert f"{stack.up()['temporal_ui_url']}/namespaces/default/workflows/{run_id}" in shown
    watched = stack.perdure("watch", "last", "--json")
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert stack.perdure("ls", "--status", "failed").stdout.strip() == "no runs"


def test_a_session_is_continued(stack: UpProcess) -> None:
    first = json.loads(stack.perdure("run", "One", "--model", "scripted/echo", "--no-follow", "--json").stdout)
    stack.perdure("watch", first["id"])
    second = stack.perdure("run", "Two", "--model", "scripted/echo", "--tool", "none", "--session", first["session_id"])
    assert second.returncode == 0, second.stderr
    assert len(stack.get(f"/v1/sessions/{first['session_id']}/messages")["data"]) == 4


def test_a_run_is_cancelled_from_the_command_line(stack: UpProcess) -> None:
    run = json.loads(stack.perdure("run", "Go slowly", "--model", "scripted/slow", "--no-follow", "--json").stdout)
    assert stack.perdure("cancel", run["id"], "--reason", "a test").returncode == 0
    assert stack.perdure("watch", run["id"]).returncode == 1
    assert stack.get(f"/v1/runs/{run['id']}")["status"] == "cancelled"


def test_what_the_api_refuses_is_said_in_its_words(stack: UpProcess) -> None:
    refused = stack.perdure("run", "Hello", "--model", "nobody/nothing")
    assert refused.returncode == 1
    assert "(unknown_model)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_doctor_finds_nothing_wrong(stack: UpProcess) -> None:
    until(lambda: stack.get("/readyz")["status"] == "ready")
    report = stack.perdure("doctor", "--json")
    findings = json.loads(report.stdout)["findings"]
    assert [finding for finding in findings if finding["level"] == "fail"] == []
    assert {"Temporal", "dispatch", "journal", "API", "API: workers"} <= {finding["what"] for finding in findings}
    assert report.returncode == 0


def test_a_second_up_in_the_same_home_is_refused_and_says_who_is_there(stack: UpProcess) -> None:
    second = stack.perdure("up")
    assert second.returncode == 1
    assert f"pid {stack.process.pid} already runs in {stack.home}" in second.stderr
    assert stack.up()["api_url"] in second.stderr


@pytest.mark.parametrize("name", ["temporal", "vendors", "worker-1", "worker-2", "api"])
def test_any_child_that_is_killed_is_replaced_and_a_run_in_flight_reaches_its_reader_whole(
    stack: UpProcess, name: str
) -> None:
    before = stack.pids()
    run = json.loads(stack.perdure("run", "Show me", "--model", "scripted/tour", "--no-follow", "--json").stdout)
    command = [sys.executable, "-P", "-m", "perdure.cli", "watch", run["id"], "--json", "--home", str(stack.home)]
    reader = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    give_up = threading.Timer(60, reader.kill)  # the tour takes six seconds, a recovery at most five
    give_up.start()
    try:
        events = [json.loads(reader.stdout.readline()) for _ in range(12)]  # somewhere in its first turns
        os.kill(before[name], signal.SIGKILL)
        events += [json.loads(line) for line in reader.stdout]
    finally:
        give_up.cancel()
        reader.kill()
        reader.wait()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run.completed"
    until(lambda: stack.pids()[name] != before[name])
    after = stack.pids()
    assert not gone(after[name])
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    assert stack.up()["pid"] == stack.process.pid


def test_a_run_is_started_once_although_the_api_was_just_killed(stack: UpProcess) -> None:
    before = len(stack.get("/v1/runs?limit=100")["data"])
    os.kill(stack.pids()["api"], signal.SIGKILL)
    ran = stack.perdure("run", "Hello", "--model", "scripted/hello")
    assert ran.returncode == 0, ran.stderr
    assert len(stack.get("/v1/runs?limit=100")["data"]) == before + 1


def test_ctrl_c_leaves_the_run_running_and_says_how_to_come_back(stack: UpProcess) -> None:
    run = json.loads(stack.perdure("run", "Show me", "--model", "scripted/tour", "--no-follow", "--json").stdout)
    command = [sys.executable, "-P", "-m", "perdure.cli", "watch", run["id"], "--home", str(stack.home)]
    reader = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    reader.stdout.readline()
    reader.send_signal(signal.SIGINT)
    _, said = reader.communicate(timeout=10)
    assert reader.returncode == 130
    assert f"perdure watch {run['id']}" in said
    assert f"perdure cancel {run['id']}" in said
    assert stack.perdure("watch", run["id"]).returncode == 0


def test_the_supervisor_is_small(stack: UpProcess) -> None:
    assert psutil.Process(stack.process.pid).memory_info().rss < 60 * 1024**2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next `perdure up` clears away")
def test_an_up_that_is_killed_leaves_no_child_and_the_next_one_goes_on(tmp_path: Path) -> None:
    first = UpProcess(tmp_path / "home", cwd=tmp_path).ready()
    second = None
    try:
        pids, old = first.pids(), first.up()
        tour = ["run", "Hello", "--model", "scripted/tour", "--no-follow", "--json"]
        run = json.loads(first.perdure(*tour).stdout)
        first.process.kill()
        first.process.wait()
        until(lambda: all(gone(pid) for pid in pids.values()), 5)
        assert old["pid"] == first.process.pid
        second = UpProcess(tmp_path / "home", cwd=tmp_path).ready()
        assert second.perdure("watch", run["id"], timeout=90).returncode == 0
        pids = second.pids()
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(timeout=50) == 0
        assert all(gone(pid) for pid in pids.values())
        assert not (tmp_path / "home" / "up.json").exists()
    finally:
        first.end()
        if second:
            second.end()


def test_with_temporal_address_set_that_server_is_used_and_none_is_started(stack: UpProcess, tmp_path: Path) -> None:
    address = stack.up()["temporal_address"]
    other = UpProcess(tmp_path / "home", cwd=tmp_path, TEMPORAL_ADDRESS=address, PERDURE_TASK_QUEUE="other").ready()
    try:
        up = other.up()
        assert up["temporal_address"] == address
        assert up["temporal_ui_url"] is None
        assert "temporal" not in other.pids()
        assert other.perdure("run", "Hello", "--model", "scripted/hello").returncode == 0
    finally:
        other.end()
