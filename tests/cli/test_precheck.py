"""What `perdure up` refuses before it starts anything. Needs nothing but the command."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from perdure.store.sql import open_journal
from tests.cli.test_messages import perdure


def refused(cwd: Path, *options: str, **env: str) -> list[str]:
    """The lines of the refusal; nothing is left behind by it."""
    shown = perdure("up", *options, cwd=cwd, **env)
    assert shown.returncode == 2, shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""
    assert not (cwd / ".perdure").exists()
    return shown.stderr.splitlines()


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('tool = ["shop"]', "settings: tool: there is no such setting"),
        ("[limit]\nmax_turns = 3", "settings: limit: there is no such setting"),
        ("[limits]\nmax_turns = -4", "settings: limits.max_turns: "),
        ('[endpoints.local]\nbase_url = "127.0.0.1:8080"', "settings: endpoints.local.base_url: "),
        ('[agents.clerk]\nmodel = "nobody/nothing"', "agents: [agents.clerk] model: no endpoint 'nobody'"),
        ('[agents.clerk]\nmodel = "scripted/tour"\ntools = ["fly"]', "agents: [agents.clerk] tools: "),
        (
            '[agents.clerk]\nmodel = "scripted/tour"\n[[agents.clerk.policy.rules]]\ntool = "fly"\naction = "ask"',
            "agents: [agents.clerk] policy.rules.0.tool: ",
        ),
        ("tools = ", "perdure.toml cannot be read: "),
    ],
)
def test_up_refuses_a_file_of_settings_that_cannot_work_in_one_line_that_names_the_place(
    toml: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "perdure.toml").write_text(toml)
    [line] = refused(tmp_path)
    assert line.startswith(f"perdure: {named}")


def test_up_says_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("zzz = 1\n[limits]\nmax_turns = 0\n")
    lines = refused(tmp_path, PERDURE_API_PORT="http")
    assert sorted(line.split(":")[2].strip() for line in lines) == ["api_port", "limits.max_turns", "zzz"]


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "import os\nprint('[]')\nos._exit(7)\n", "print('[]')\n", "raise SystemExit\n"]
)
def test_up_refuses_a_module_of_tools_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(text)
    [line] = refused(tmp_path, PERDURE_TOOLS="broken")
    assert line.startswith("perdure: tool modules: ")


@pytest.mark.parametrize("name", ["/proc/x", "a-file", "a-file/below"])
def test_up_refuses_a_home_that_cannot_be_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    [line] = refused(tmp_path, "--home", name)
    assert line.startswith(f"perdure: {tmp_path / name} cannot be the home: ")


def test_up_refuses_a_journal_that_another_build_has_made(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def make() -> None:
        await (await open_journal(f"sqlite:///{home / 'journal.db'}", home / "blobs")).close()

    asyncio.run(make())
    with sqlite3.connect(home / "journal.db") as journal:
        journal.execute("ALTER TABLE runs DROP COLUMN transfers")
    [line] = refused(tmp_path, "--home", str(home))
    assert line.startswith("perdure: journal: ")
    assert "lacks runs.transfers" in line


def test_what_up_refuses_it_refuses_within_two_seconds(tmp_path: Path) -> None:
    began = time.perf_counter()
    refused(tmp_path, PERDURE_API_PORT="http")
    assert time.perf_counter() - began < 2  # a third of a second on an idle machine


def test_the_doctor_says_what_up_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text('tool = ["shop"]')
    shown = perdure("doctor", "--json", cwd=tmp_path)
    assert shown.returncode == 1
    assert '"found": "tool: there is no such setting"' in shown.stdout
