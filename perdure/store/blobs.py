"""Large bodies beside the journal: files named by their content, two levels of 256 folders each."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from perdure.store.trouble import NotFound

PREFIX = "blob_"


def write_blob(folder: Path, body: bytes) -> str:
    """The body's id. Durable when this returns: a reader sees the whole file or none."""
    id_ = PREFIX + hashlib.sha256(body).hexdigest()
    path = _path(folder, id_)
    if path.exists():
        return id_
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_folder(path.parent)
    return id_


def remove_blob(folder: Path, blob_id: str) -> None:
    """Gone when this returns; one that is gone already is nothing."""
    _path(folder, blob_id).unlink(missing_ok=True)


def read_blob(folder: Path, blob_id: str, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes from ``offset`` on, at most ``length``. NotFound."""
    try:
        with _path(folder, blob_id).open("rb") as file:
            file.seek(max(0, offset))
            return file.read(-1 if length is None else max(0, length))
    except FileNotFoundError:
        raise NotFound("blob", blob_id) from None


def _path(folder: Path, blob_id: str) -> Path:
    digest = blob_id.removeprefix(PREFIX)
    if not blob_id.startswith(PREFIX) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise NotFound("blob", blob_id)
    return folder / digest[:2] / digest[2:4] / digest


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
