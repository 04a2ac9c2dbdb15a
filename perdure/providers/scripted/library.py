"""The scripts on disk: folders are read at the start and again when a file in them changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import from_json

from perdure.providers.scripted.script import Script

SUFFIXES = (".yaml", ".yml", ".json")
FILES_SHOWN_MAX = 5  # in a sentence; /healthz has them all
DETAIL_CHARACTERS_MAX = 300  # in a sentence: a parser may quote much of what it did not like
_TEXT_FORMS = {"a string", "some words", "a repetition"}  # tags of the text union, no part of what the author wrote
_Signature = tuple[tuple[str, int, int], ...]  # file name, modification time in ns, size in bytes


class ScriptError(Exception):
    """A script file that cannot be used. The message names the file and the field, one line for each thing wrong."""

    def __init__(self, path: Path, details: Sequence[str]) -> None:
        self.path = path
        self.details = [" ".join(detail.split()) for detail in details]
        super().__init__("\n".join(self.lines(str(path))))

    def lines(self, file: str) -> list[str]:
        return [f"{file}: {detail}" for detail in self.details]

    def first(self) -> str:
        """The first thing wrong in a few words, the file without its folder."""
        detail, more = self.details[0], len(self.details) - 1
        short = detail if len(detail) <= DETAIL_CHARACTERS_MAX else f"{detail[:DETAIL_CHARACTERS_MAX]}…"
        return f"{self.path.name}: {short}" + (f" (and {more} more)" if more else "")


def shipped_scripts() -> Path:
    """The folder of the scripts that come with the product."""
    return Path(__file__).parent / "scripts"


def script_names(folder: Path | None = None) -> list[str]:
    """Names of all scripts that a server with ``folder`` serves, the shipped ones included; a broken file has none.
    ScriptError when there is nothing at ``folder``."""
    return Library(folder).names()


def read_scripts(path: Path) -> dict[str, Script]:
    """The scripts of one file by name. ScriptError names the file and the field."""
    try:
        raw = path.read_bytes()
        data = from_json(raw) if path.suffix == ".json" else yaml.load(raw, Loader=_Loader)
    except OSError as error:
        raise ScriptError(path, [f"cannot be read: {error.strerror}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ScriptError(path, [f"cannot be read: {where}{error.problem or error.context}"]) from None
    except Exception as error:  # a tag that does not fit its value, a nesting too deep: the parser raises anything
        raise ScriptError(path, [f"cannot be read: {error or type(error).__name__}"]) from None
    if not isinstance(data, dict):
        raise ScriptError(path, [f"a script file holds a mapping, not {type(data).__name__}"])
    if "scripts" in data:
        several = data["scripts"]
        if not isinstance(several, dict) or len(data) != 1:
            raise ScriptError(path, ["scripts: must be a mapping of name to script, alone in its file"])
        return {str(name): _script(path, f"scripts.{name}", body, str(name)) for name, body in several.items()}
    if data and not Script.model_fields.keys() & data.keys() and all(isinstance(body, dict) for body in data.values()):
        return {str(name): _script(path, str(name), body, str(name)) for name, body in data.items()}
    script = _script(path, "", {"name": path.stem, **data})
    return {script.name: script}


def _script(path: Path, prefix: str, body: Any, name: str | None = None) -> Script:
    try:
        if name is not None and isinstance(body, dict):
            body = {**body, "name": name}
        return Script.model_validate(body)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            place = [str(part) for part in problem["loc"] if part not in _TEXT_FORMS]
            where = ".".join([prefix, *place] if prefix else place) or "the script"
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
        raise ScriptError(path, lines) from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses a key given twice: the first one would silently be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int)) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, (str, int)) else None)
        return super().construct_mapping(node, deep)


@dataclass(slots=True)
class _Folder:
    """A folder of script files, or one file. What is wrong in a file takes only this file's scripts away."""

    path: Path
    report: Callable[[str], None]
    signature: _Signature | None = None
    scripts: dict[str, Script] = field(default_factory=dict)
    errors: list[ScriptError] = field(default_factory=list)

    def refresh(self) -> None:
        """Read again what has changed. ScriptError when there was never anything at this place."""
        try:
            signature = self._signature()
        except ScriptError as error:
            if self.signature is None:
                raise
            self._become((), {}, [error])
            return
        if signature != self.signature:
            self._become(signature, *self._read(signature))

    def _read(self, signature: _Signature) -> tuple[dict[str, Script], list[ScriptError]]:
        scripts: dict[str, Script] = {}
        errors: list[ScriptError] = []
        origin: dict[str, str] = {}
        for file, _, _ in signature:
            path = self.path / file if self.path.is_dir() else self.path
            try:
                found = read_scripts(path)
                if clashes := [f"name: {name!r} is also in {origin[name]}" for name in found if name in origin]:
                    raise ScriptError(path, clashes)
            except ScriptError as error:
                errors.append(error)
                continue
            origin |= dict.fromkeys(found, file)
            scripts |= found
        return scripts, errors

    def _become(self, signature: _Signature, scripts: dict[str, Script], errors: list[ScriptError]) -> None:
        known = {str(error) for error in self.errors}
        self.signature, self.scripts, self.errors = signature, scripts, errors
        for error in errors:
            if str(error) not in known:
                self.report(str(error))

    def _signature(self) -> _Signature:
        try:
            if self.path.is_file():
                return ((self.path.name, *_facts(self.path)),)
            with os.scandir(self.path) as entries:
                return tuple(sorted((entry.name, *_facts(entry)) for entry in entries if entry.name.endswith(SUFFIXES)))
        except OSError as error:
            raise ScriptError(self.path, [f"cannot be read: {error.strerror}"]) from None


def _facts(entry: os.DirEntry[str] | Path) -> tuple[int, int]:
    try:
        facts = entry.stat()
    except OSError:  # gone since it was listed, or a link to nowhere: reading it tells
        return (0, 0)
    return (facts.st_mtime_ns, facts.st_size)


class Library:
    """Scripts by name: those of ``folder`` (a folder or one file) first, then the shipped ones.

    A file with something wrong in it only takes its own scripts away, at the start and later; ``report`` gets what
    is wrong once, with the whole path. ScriptError when there is nothing at ``folder`` to start with.
    """

    def __init__(self, folder: Path | None = None, report: Callable[[str], None] = lambda _: None) -> None:
        folders = [folder, shipped_scripts()] if folder is not None else [shipped_scripts()]
        self._folders = [_Folder(path, report) for path in folders]
        self._refresh()

    def find(self, name: str) -> Script | None:
        """The script, or None when there is none of that name that can be used."""
        return self._scripts().get(name)

    def names(self) -> list[str]:
        return sorted(self._scripts())

    def problems(self) -> list[str]:
        """What is wrong in the files, each as ``file: field: what``, the file without its folder."""
        self._refresh()
        return [line for error in self._errors() for line in error.lines(error.path.name)]

    def unread(self) -> str:
        """A sentence for who misses a script: which files cannot be read, and the first thing wrong in each.
        Empty when all can. Files go without their folder: the sentence may leave this machine."""
        self._refresh()
        if not (errors := self._errors()):
            return ""
        shown = "; ".join(error.first() for error in errors[:FILES_SHOWN_MAX])
        more = len(errors) - FILES_SHOWN_MAX
        count = "1 script file" if len(errors) == 1 else f"{len(errors)} script files"
        return f"{count} cannot be read: {shown}" + (f"; and {more} more" if more > 0 else "")

    def _scripts(self) -> dict[str, Script]:
        self._refresh()
        scripts: dict[str, Script] = {}
        for folder in reversed(self._folders):
            for error in folder.errors:  # my broken hello.yaml must not quietly become the shipped hello
                scripts.pop(error.path.stem, None)
            scripts |= folder.scripts
        return scripts

    def _refresh(self) -> None:
        for folder in self._folders:
            folder.refresh()

    def _errors(self) -> list[ScriptError]:
        return [error for folder in self._folders for error in folder.errors]
