"""The scripts on disk: folders are read at the start and again when a file in them changes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import from_json

from perdure.providers.scripted.script import Script

SUFFIXES = (".yaml", ".yml", ".json")
_TEXT_FORMS = {"a string", "some words", "a repetition"}  # tags of the text union, no part of what the author wrote


class ScriptError(Exception):
    """A script file that cannot be used. The message names the file and the field."""


def shipped_scripts() -> Path:
    """The folder of the scripts that come with the product."""
    return Path(__file__).parent / "scripts"


def script_names(folder: Path | None = None) -> list[str]:
    """Names of all scripts that a server with ``folder`` serves, the shipped ones included. ScriptError."""
    return Library(folder).names()


def read_scripts(path: Path) -> dict[str, Script]:
    """The scripts of one file by name. ScriptError names the file and the field."""
    try:
        raw = path.read_bytes()
        data = from_json(raw) if path.suffix == ".json" else yaml.load(raw, Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ScriptError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ScriptError(f"{path}: a script file holds a mapping, not {type(data).__name__}")
    if "scripts" in data:
        several = data["scripts"]
        if not isinstance(several, dict) or len(data) != 1:
            raise ScriptError(f"{path}: scripts: must be a mapping of name to script, alone in its file")
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
            lines.append(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}")
        raise ScriptError("\n".join(lines)) from None


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
    path: Path
    signature: tuple[Any, ...] | None = None
    scripts: dict[str, Script] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def refresh(self) -> None:
        signature = self._signature()
        if signature == self.signature:
            return
        self.signature, self.scripts, self.errors = signature, {}, []
        origin: dict[str, str] = {}
        for name, _, _ in signature:
            try:
                found = read_scripts(self.path / name if self.path.is_dir() else self.path)
            except ScriptError as error:
                self.errors.append(str(error))
                continue
            for script in found.values():
                if script.name in origin:
                    self.errors.append(f"{self.path / name}: name: {script.name!r} is also in {origin[script.name]}")
                origin[script.name] = name
            self.scripts.update(found)

    def _signature(self) -> tuple[Any, ...]:
        try:
            if self.path.is_file():
                facts = self.path.stat()
                return ((self.path.name, facts.st_mtime_ns, facts.st_size),)
            with os.scandir(self.path) as entries:
                rows = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(SUFFIXES)]
        except OSError as error:
            raise ScriptError(f"{self.path}: cannot be read: {error.strerror}") from None
        return tuple(sorted((name, facts.st_mtime_ns, facts.st_size) for name, facts in rows))


class Library:
    """Scripts by name: those of ``folder`` (a folder or one file) first, then the shipped ones.

    The first read is strict (ScriptError). Later a broken file only takes its own scripts away, and who
    asks for a script that is not there is told what is broken.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folders = [folder, shipped_scripts()] if folder is not None else [shipped_scripts()]
        self._folders = [_Folder(path) for path in folders]
        self._refresh()
        if errors := self._errors():
            raise ScriptError("\n".join(errors))

    def find(self, name: str) -> Script | None:
        """The script, or None when there is none of that name. ScriptError when broken files may hold it."""
        self._refresh()
        for folder in self._folders:
            if script := folder.scripts.get(name):
                return script
        if errors := self._errors():
            raise ScriptError("\n".join(errors))
        return None

    def names(self) -> list[str]:
        self._refresh()
        return sorted({name for folder in self._folders for name in folder.scripts})

    def _refresh(self) -> None:
        for folder in self._folders:
            folder.refresh()

    def _errors(self) -> list[str]:
        return [error for folder in self._folders for error in folder.errors]
