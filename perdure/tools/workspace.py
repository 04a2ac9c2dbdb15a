"""A run's own folder, and nothing outside it.

Paths are walked one component at a time from an open folder, never following a link (openat with
O_NOFOLLOW), so a link planted between a check and its use leads nowhere. Only regular files with one name are
opened: a hard link could be a file of somewhere else.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from perdure.tools.port import ToolTrouble

PATH_BYTES_MAX = 1_024  # far below the kernel's 4,096, and short enough for a model to repeat
_NAME_BYTES_MAX = 255  # what file systems take for one name
_DEPTH_MAX = 32  # each level costs an open folder while it is walked
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^[A-Za-z]:")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hold the opener


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder. ``kind`` is ``file``, ``folder`` or ``other`` (links and devices: never opened)."""

    path: str
    kind: str
    size: int


def path_parts(path: str) -> tuple[str, ...]:
    """The components of a relative path; () is the workspace itself. Raises ToolTrouble (``invalid_path``)."""
    if reason := _path_problem(path):
        raise ToolTrouble(
            f"the path {path[:200]!r} is not allowed: {reason}; give a path relative to the workspace, "
            "for example notes/plan.md",
            code="invalid_path",
        )
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _path_problem(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid text"
    parts = path.split("/")
    if size > PATH_BYTES_MAX:
        return f"it is longer than {PATH_BYTES_MAX} bytes"
    if path.startswith("/"):
        return "it is absolute"
    if path.startswith("~"):
        return "it names a home folder"
    if _CONTROL.search(path):
        return "it holds a control character"
    if "\\" in path or _DRIVE.match(path):
        return "folders are separated by /, and there are no drives"
    if ".." in parts:
        return "it leads out of its folder with .."
    if len(parts) > _DEPTH_MAX:
        return f"it is deeper than {_DEPTH_MAX} folders"
    if any(len(part.encode()) > _NAME_BYTES_MAX for part in parts):
        return f"a name in it is longer than {_NAME_BYTES_MAX} bytes"
    return None


class Workspace:
    """One run's folder. All methods block; all raise ToolTrouble in words for the model."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def folder(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        """The open folder at ``parts``, as a file descriptor."""
        self.root.mkdir(parents=True, exist_ok=True)
        here = os.open(self.root, _FOLDER)
        try:
            for number, part in enumerate(parts, start=1):
                below = _step(here, part, "/".join(parts[:number]), create)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def read(self, path: str, bytes_max: int) -> bytes:
        """The bytes of a file."""
        *folders, name = path_parts(path) or ("",)
        if not name:
            raise ToolTrouble("the workspace itself is a folder, not a file", code="not_a_file")
        with self.folder(tuple(folders)) as folder:
            return read_at(folder, name, path, bytes_max)

    def entries(self, path: str, entries_max: int) -> tuple[list[Entry], bool]:
        """Everything below a folder, sorted, folders before what is in them; and whether there is more."""
        parts = path_parts(path)
        found: list[Entry] = []
        with self.folder(parts) as folder:
            complete = _collect(folder, parts, found, entries_max)
        return found, not complete


def read_at(folder: int, name: str, path: str, bytes_max: int) -> bytes:
    """The bytes of the regular file ``name`` in an open folder; ``path`` is for messages."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise _trouble(error, path) from error
    try:
        refuse_irregular(os.fstat(file), path)
        with os.fdopen(file, "rb", closefd=False) as opened:
            data = opened.read(bytes_max + 1)
    finally:
        os.close(file)
    if len(data) > bytes_max:
        raise ToolTrouble(f"{path} is larger than {bytes_max} bytes, the most this tool takes", code="too_large")
    return data


def refuse_irregular(status: os.stat_result, path: str) -> None:
    """Raise ToolTrouble unless it is a regular file with one name."""
    if stat.S_ISDIR(status.st_mode):
        raise ToolTrouble(f"{path} is a folder, not a file", code="not_a_file")
    if not stat.S_ISREG(status.st_mode):
        raise ToolTrouble(f"{path} is a link or a device; only regular files are opened", code="invalid_path")
    if status.st_nlink > 1:
        raise ToolTrouble(f"{path} is a hard link to a file with another name; it is not opened", code="invalid_path")


def _step(here: int, part: str, path: str, create: bool) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=here)
    except FileNotFoundError as error:
        if not create:
            raise _trouble(error, path) from error
    except OSError as error:
        raise _trouble(error, path) from error
    try:
        with suppress(FileExistsError):  # somebody else made it: whatever it is, it is opened like any other
            os.mkdir(part, dir_fd=here)
        return os.open(part, _FOLDER, dir_fd=here)
    except OSError as error:
        raise _trouble(error, path) from error


def _collect(folder: int, parts: tuple[str, ...], found: list[Entry], entries_max: int) -> bool:
    for name in sorted(os.listdir(folder)):
        if len(found) >= entries_max:
            return False
        path = "/".join((*parts, name)).encode("utf-8", "replace").decode()
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed meanwhile
        if not stat.S_ISDIR(status.st_mode):
            kind = "file" if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else "other"
            found.append(Entry(path, kind, status.st_size))
            continue
        found.append(Entry(path, "folder", 0))
        if len(parts) + 1 >= _DEPTH_MAX:
            continue
        try:
            below = os.open(name, _FOLDER, dir_fd=folder)
        except OSError:
            continue  # removed or replaced meanwhile
        try:
            if not _collect(below, (*parts, name), found, entries_max):
                return False
        finally:
            os.close(below)
    return True


def _trouble(error: OSError, path: str) -> ToolTrouble:
    match error.errno:
        case errno.ENOENT:
            return ToolTrouble(f"there is no {path} in the workspace", code="not_found")
        case errno.ELOOP | errno.EMLINK:
            return ToolTrouble(f"{path} is a link; links are not followed", code="invalid_path")
        case errno.ENOTDIR:
            return ToolTrouble(f"{path} is not a folder, or is a link; links are not followed", code="invalid_path")
        case errno.ENXIO | errno.ENODEV:
            return ToolTrouble(f"{path} is a link or a device; only regular files are opened", code="invalid_path")
        case errno.EISDIR:
            return ToolTrouble(f"{path} is a folder, not a file", code="not_a_file")
        case _:
            return ToolTrouble(f"{path} cannot be opened: {error.strerror}", code="file_error")
