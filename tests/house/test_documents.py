"""What README and docs name exists: commands, targets, settings, files, tools. ``tests/e2e`` runs the tour."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from perdure.cli.app import app
from perdure.providers.scripted import shipped_scripts
from perdure.settings import Settings
from perdure.tools.registry import build_toolbox
from tests.house.readme import tour_blocks
from tests.house.test_settings_page import rows_of_the_code
from tests.house.tree import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of them
READ_BY_OTHERS = {"PERDURE_CONFIG", "PERDURE_API_URL"}  # by the settings' own source, and by the command line
IN_COMPOSE = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))


def found(pattern: str) -> Iterator[tuple[str, str]]:
    """Every match of the pattern's group in the documents, with the document's name."""
    for path in DOCUMENTS:
        for match in re.finditer(pattern, path.read_text()):
            yield path.name, match[1]


def test_every_make_target_in_the_documents_exists() -> None:
    assert {"install", "demo", "up", "test", "lint", "bench"} <= TARGETS
    assert [
        (name, target) for name, target in found(r"\bmake ([a-z]+)\b(?= *(?:[`#\n,;(]|TESTS))") if target not in TARGETS
    ] == []


def test_every_make_target_installs_first() -> None:
    rules = dict(re.findall(r"^([a-z]+):(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    alone = {"help", "install", "lock", "clean"}
    assert [target for target in rules if target not in alone and rules[target].split() != ["install"]] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_knows_how_to_make_each_target(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_in_the_documents_exists_and_every_command_is_in_the_readme() -> None:
    named = {command for _, command in found(r"`(?:\.venv/bin/)?perdure ([a-z]+)")} | {"up"}
    assert named - COMMANDS.keys() == set()
    in_table = set(re.findall(r"^\| `perdure ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert COMMANDS.keys() - in_table - {"version"} == set()


def test_every_option_in_the_table_of_commands_exists() -> None:
    for command, rest in re.findall(r"^\| `perdure ([a-z]+)(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert set(re.findall(r"`(--[a-z-]+)`", rest)) <= known, command


def test_every_setting_in_the_documents_exists() -> None:
    settings = {environment.strip("`") for environment, _, _ in rows_of_the_code()}
    known = settings | READ_BY_OTHERS | IN_COMPOSE
    assert [(name, setting) for name, setting in found(r"\b(PERDURE_[A-Z_]*[A-Z])\b") if setting not in known] == []


def test_every_example_of_perdure_toml_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [block for _, block in found(r"```toml\n(# perdure\.toml\n[^`]*)```")]
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "perdure.toml").write_text(example)
        monkeypatch.setenv("PERDURE_CONFIG", str(tmp_path / "perdure.toml"))
        tables = tomllib.loads(example)
        assert set(tables) <= Settings.model_fields.keys()
        settings = Settings()
        assert settings.endpoints.keys() == tables["endpoints"].keys()
        assert settings.prices.keys() == tables["prices"].keys()


def test_the_tools_of_the_documents_are_the_built_in_ones() -> None:
    names = set(build_toolbox().names())
    page = set(
        re.findall(r"^\| `(\w+)` \| (?:read|idempotent) \|", (ROOT / "docs" / "tools.md").read_text(), re.MULTILINE)
    )
    assert page == names
    effects = re.findall(
        r"^\| `(\w+)` \| (read|idempotent|once) \|", (ROOT / "docs" / "tools.md").read_text(), re.MULTILINE
    )
    described = {tool["name"]: tool["effect"] for tool in build_toolbox().describe()}
    assert dict(effects) == described
    assert all(f"`{name}`" in (ROOT / "README.md").read_text() for name in names)


def test_the_tools_in_the_documents_are_accepted_as_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [block for _, block in found(r"```python\n([^`]*@tool[^`]*)```")]
    assert len(examples) == 2
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, example in enumerate(examples):
        (tmp_path / f"documented_tools_{number}.py").write_text(example)
        documented = set(build_toolbox([f"documented_tools_{number}"]).names()) - set(build_toolbox().names())
        assert documented, example


def test_the_shipped_scripts_are_listed() -> None:
    page = (ROOT / "docs" / "scripted.md").read_text().split("## A script")[0]
    listed = set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))
    assert listed == {path.stem for path in shipped_scripts().iterdir() if path.suffix == ".yaml"}


def test_every_link_and_every_file_in_the_documents_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
    trees = r"`((?:perdure|workflows|activities|api|tests|docs|bench)/[\w/.]*)`"
    assert [(name, file) for name, file in found(trees) if not (ROOT / file).exists()] == []


def test_the_tour_is_plain_curl_and_python() -> None:
    blocks = tour_blocks()
    assert len(blocks) >= 10
    programs = set(re.findall(r"(?:^|\||\$\(|; )\s*([a-z][\w.-]*)(?= )", "\n".join(blocks), re.MULTILINE))
    assert "curl" in programs
    assert not {"jq", "http", "httpie"} & programs


def test_ci_runs_the_readmes_commands() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    readme = (ROOT / "README.md").read_text()
    for command in ("make lint", "make test"):
        assert command in script.read_text()
        assert command in readme
