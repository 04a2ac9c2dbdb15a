"""Where things are: the home, ``up.json``, the API's address, an outside Temporal. Cheap to import.

The few settings that the command line needs before anything runs are read here as
``perdure.settings`` reads them (environment over ``perdure.toml``), without its weight.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from perdure.cli.trouble import Failed

UP_FILE = "up.json"


class ChildEntry(TypedDict):
    name: str
    pid: int


class Up(TypedDict):
    """``HOME/up.json``: there while `perdure up` runs, rewritten when a child is replaced."""

    pid: int
    api_url: str
    temporal_address: str
    temporal_ui_url: str | None
    vendors_url: NotRequired[str]
    children: list[ChildEntry]


def setting(name: str) -> str | None:
    """``PERDURE_<NAME>``, else the top-level key of ``perdure.toml``, else None."""
    if (value := os.environ.get(f"PERDURE_{name.upper()}")) is not None:
        return value
    value = _toml(Path(os.environ.get("PERDURE_CONFIG", "perdure.toml"))).get(name)
    return None if value is None else str(value)


def home_folder(given: Path | None) -> Path:
    return (given or Path(setting("home") or ".perdure")).absolute()


def read_up(home: Path) -> Up | None:
    """What `up.json` says, whether or not that process still lives; None without the file."""
    try:
        up: Up = json.loads((home / UP_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return up


def write_up(home: Path, up: Up) -> None:
    """All at once: a reader sees the old file or the new one."""
    draft = home / f"{UP_FILE}.new"
    draft.write_text(json.dumps(up, indent=2) + "\n")
    draft.replace(home / UP_FILE)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def outside_temporal() -> tuple[str, str] | None:
    """The address of a Temporal server that Temporal's own configuration names, and where it stands; None
    when it names none. The rules are those of ``temporalio.envconfig``."""
    if address := os.environ.get("TEMPORAL_ADDRESS"):
        return address, "TEMPORAL_ADDRESS"
    file = Path(os.environ.get("TEMPORAL_CONFIG_FILE") or _config_folder() / "temporalio" / "temporal.toml")
    profile = os.environ.get("TEMPORAL_PROFILE") or "default"
    address = _toml(file).get("profile", {}).get(profile, {}).get("address")
    return (str(address), f"profile {profile!r} of {file}") if address else None


def _config_folder() -> Path:
    """The platform's folder for user settings, as Go's ``os.UserConfigDir`` has it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as trouble:
        raise Failed(f"{file} cannot be read: {trouble}") from trouble
