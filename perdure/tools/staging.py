"""Writing a workspace file so that a call which is repeated, or wakes up late, does its effect once.

A write goes to a staging folder beside the workspace (which the model cannot reach) and is renamed into
place. Two notes are kept there per call, named after its idempotency key:

* ``edit-KEY-N``: the hashes of the file before and after, written *before* attempt N renames. A repetition
  compares the file with them and knows whether the rename happened, whatever the texts are.
* ``attempt-KEY-N``: a later attempt has begun. It removes what earlier attempts staged; an earlier attempt looks
  for such notes after staging and before renaming. Whichever way they interleave, an attempt that was
  superseded cannot rename any more: either it sees the note, or its staged file is gone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from perdure.tools.port import ToolTrouble
from perdure.tools.workspace import refuse_irregular

Step = Callable[[str], None]  # told after each step by its name; tests kill the process there

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class EditNote:
    """What an edit found and makes: SHA-256 of the file before and after; ``done`` once the rename happened."""

    path: str
    before: str
    after: str
    done: bool = False


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def no_step(_: str) -> None:
    """Nobody listens."""


class Staging:
    """The writes of one attempt of one call. Use within ``staging(...)``; blocks."""

    def __init__(self, folder: int, key: str, attempt: int, on_step: Step) -> None:
        self._folder = folder
        self._key = hashlib.sha256(key.encode()).hexdigest()[:32]  # a file name, whatever the key is
        self._attempt = attempt
        self._on_step = on_step

    def begin(self) -> None:
        """Supersede the earlier attempts of this call."""
        if self._attempt <= 1:
            return
        with suppress(FileExistsError):
            os.close(os.open(f"attempt-{self._key}-{self._attempt}", _NEW_FILE, 0o600, dir_fd=self._folder))
        self._on_step("announced")
        for name in os.listdir(self._folder):
            if name.startswith(f"staged-{self._key}-") and _number(name) < self._attempt:
                _unlink(name, self._folder)

    def edit_note(self) -> EditNote | None:
        """What earlier attempts of this call noted: the one that is done, else the newest."""
        mine = sorted((name for name in os.listdir(self._folder) if name.startswith(f"edit-{self._key}-")), key=_number)
        notes = [EditNote(**json.loads(self._read(name))) for name in mine]
        return next((note for note in notes if note.done), notes[-1] if notes else None)

    def keep_edit_note(self, note: EditNote) -> None:
        staged = self._stage(json.dumps(asdict(note)).encode())
        try:
            os.rename(staged, f"edit-{self._key}-{self._attempt}", src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileNotFoundError:
            raise _superseded() from None
        os.fsync(self._folder)
        self._on_step("noted done" if note.done else "noted")

    def replace(self, data: bytes, target_folder: int, name: str, path: str, note: EditNote | None = None) -> None:
        """Put ``data`` under ``name`` in the open folder, whole or not at all. The note, if any, is kept first."""
        mode = _mode_of(target_folder, name, path)
        self._on_step("begun")
        staged = self._stage(data, mode)
        self._on_step("staged")
        self._refuse_when_superseded(staged)
        self._on_step("checked")
        if note is not None:
            self.keep_edit_note(note)
        try:
            os.rename(staged, name, src_dir_fd=self._folder, dst_dir_fd=target_folder)
        except FileNotFoundError:
            raise _superseded() from None
        except OSError as error:
            _unlink(staged, self._folder)
            if error.errno in (errno.EISDIR, errno.ENOTEMPTY):
                raise ToolTrouble(f"{path} is a folder, not a file", code="not_a_file") from error
            raise
        os.fsync(target_folder)
        self._on_step("renamed")

    def _stage(self, data: bytes, mode: int = 0o644) -> str:
        name = f"staged-{self._key}-{self._attempt}-{secrets.token_hex(8)}"
        with os.fdopen(os.open(name, _NEW_FILE, mode, dir_fd=self._folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return name

    def _refuse_when_superseded(self, staged: str) -> None:
        later = [name for name in os.listdir(self._folder) if name.startswith(f"attempt-{self._key}-")]
        if any(_number(name) > self._attempt for name in later):
            _unlink(staged, self._folder)
            raise _superseded()

    def _read(self, name: str) -> bytes:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder), "rb") as file:
            return file.read()


@contextmanager
def staging(workspace: Path, key: str, attempt: int, on_step: Step = no_step) -> Iterator[Staging]:
    """The staging of one attempt. Its folder is ``.staging/RUN`` beside the workspace, on the same file system."""
    place = workspace.parent / ".staging" / workspace.name
    place.mkdir(parents=True, exist_ok=True)
    folder = os.open(place, _FOLDER)
    try:
        staged = Staging(folder, key, attempt, on_step)
        staged.begin()
        yield staged
    finally:
        os.close(folder)


def _mode_of(folder: int, name: str, path: str) -> int:
    """The permissions to keep; refuses to replace anything but a regular file with one name."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    refuse_irregular(status, path)
    return stat.S_IMODE(status.st_mode) & 0o777


def _number(name: str) -> int:
    """The attempt in ``staged-KEY-N-…``, ``attempt-KEY-N`` and ``edit-KEY-N``."""
    return int(name.split("-")[2])


def _superseded() -> ToolTrouble:
    return ToolTrouble("a later attempt of this call has taken over; this one changed nothing", code="superseded")


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):  # the other attempt removed it
        os.unlink(name, dir_fd=folder)
