"""Large bodies as files named by their content: ``<folder>/ab/cd/<sha256>``. Writing one twice is harmless."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from perdure.store.journal import JournalTrouble, NotFound

_ID = re.compile(r"blob_([0-9a-f]{64})")


def blob_id(body: bytes) -> str:
    return f"blob_{hashlib.sha256(body).hexdigest()}"


def write_blob(folder: Path, body: bytes) -> str:
    """Put the body on disk, whole or not at all; its id. JournalTrouble when the folder cannot be written."""
    id_ = blob_id(body)
    path = _path(folder, id_)
    try:
        if path.exists():
            return id_
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise JournalTrouble(f"the blob folder {folder} cannot be written: {error}") from error
    return id_


def read_blob(folder: Path, id_: str, offset: int, length: int | None) -> bytes:
    """Bytes from ``offset``, at most ``length``; empty beyond the end. NotFound; ValueError for negative numbers."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError("offset and length of a blob count from 0")
    try:
        with _path(folder, id_).open("rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)
    except FileNotFoundError:
        raise NotFound("blob", id_) from None
    except OSError as error:
        raise JournalTrouble(f"the blob folder {folder} cannot be read: {error}") from error


def _path(folder: Path, id_: str) -> Path:
    match = _ID.fullmatch(id_)
    if match is None:
        raise NotFound("blob", id_)
    digest = match[1]
    return folder / digest[:2] / digest[2:4] / digest
