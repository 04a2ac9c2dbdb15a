"""Conversations on the command line: a whole `perdure up`, and what a person would type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.stack import UpProcess


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    folder = tmp_path_factory.mktemp("sessions")
    process = UpProcess(folder / "home", "--scripted", cwd=folder).ready()
    yield process
    process.end()


def said(up: UpProcess, *arguments: str, status: int = 0) -> str:
    done = up.perdure(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def run(up: UpProcess, text: str, *options: str) -> dict[str, str]:
    return dict(json.loads(said(up, "run", text, "--model", "scripted/echo", "--no-follow", "--json", *options)))


def ended(up: UpProcess, run_id: str) -> None:
    said(up, "watch", run_id)


def test_a_conversation_is_listed_carried_forked_and_erased(up: UpProcess, tmp_path: Path) -> None:
    first = run(up, "one")
    ended(up, first["id"])
    session = first["session_id"]
    assert said(up, "board", first["id"]) == f"nothing is on the board of {first['id']}\n"
    listed = json.loads(said(up, "sessions", "--json"))
    assert session in [row["id"] for row in listed]
    file = tmp_path / "talk.jsonl"
    assert "bytes" in said(up, "session", "export", first["id"], str(file))
    assert said(up, "session", "export", session) == file.read_text()
    imported = said(up, "session", "import", str(file)).split()[0]
    assert f"{imported} " in said(up, "sessions")
    ended(up, run(up, "two", "--session", imported)["id"])
    fork = said(up, "session", "fork", imported, "--at", "2").strip()
    assert f"{imported} at 2" in said(up, "sessions")
    refused = said(up, "session", "delete", fork, status=2)
    assert "--yes" in refused
    assert said(up, "session", "delete", fork, "--yes") == f"{fork} is erased\n"
    assert "session_deleted" in said(up, "session", "export", fork, status=1)


def test_a_broken_export_is_refused_with_its_line(up: UpProcess, tmp_path: Path) -> None:
    file = tmp_path / "foreign.jsonl"
    file.write_text('{"role": "user", "content": "hi"}\n')
    refused = said(up, "session", "import", str(file), status=1)
    assert "export_invalid" in refused
    assert "line 1 /format" in refused


def test_a_run_is_forked_and_retried(up: UpProcess) -> None:
    first = run(up, "one")
    ended(up, first["id"])
    assert "Two, then." in said(up, "fork", first["id"], "2", "Two, then.")
    assert "invalid_transition" in said(up, "retry", first["id"], status=1)
    slow = json.loads(said(up, "run", "go", "--model", "scripted/slow", "--no-follow", "--json"))
    said(up, "cancel", slow["id"], "--force")
    retried = said(up, "retry", slow["id"], "--max-turns", "3", "--no-follow").strip()
    assert up.get(f"/v1/runs/{retried}")["retry_of"] == slow["id"]
    said(up, "cancel", retried, "--force")


def test_a_busy_session_takes_a_message(up: UpProcess) -> None:
    busy = json.loads(said(up, "run", "go", "--model", "scripted/slow", "--no-follow", "--json"))
    told = run(up, "and this", "--session", busy["session_id"], "--on-conflict", "enqueue")
    assert told["id"] == busy["id"]
    assert told["inbox_message_id"].startswith("msg_")
    up.perdure("cancel", busy["id"], "--force")


def test_what_is_old_is_pruned(up: UpProcess) -> None:
    first = run(up, "one")
    ended(up, first["id"])
    assert said(up, "prune").startswith("removed: live text of 0 runs")
    assert json.loads(said(up, "prune", "--deltas-days", "0", "--json"))["deltas"] >= 1
