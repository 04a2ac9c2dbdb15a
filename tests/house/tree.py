"""The files of this repository as a reader of a fresh clone would see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("perdure", "workflows", "activities", "api")

_IGNORED = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split() if line.endswith("/")} | {".git"}


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file that is not ignored, in a stable order."""
    for path in sorted(folder.iterdir()):
        if path.name in _IGNORED or path.suffix == ".egg-info" or path.is_symlink():
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def text_files() -> Iterator[tuple[str, str]]:
    """Every file that is text, as its path from the root and its content."""
    for path in files():
        try:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def product_modules() -> Iterator[Path]:
    for name in PRODUCT:
        yield from (path for path in files(ROOT / name) if path.suffix == ".py")
    yield ROOT / "worker.py"
