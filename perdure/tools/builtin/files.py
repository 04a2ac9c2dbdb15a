"""``list_files``, ``read_file``, ``write_file``, ``edit_file``: the run's own folder.

Confinement is in ``perdure/tools/workspace.py``, once-only writing in ``perdure/tools/staging.py``.
"""

from __future__ import annotations

import io
from typing import Annotated

from pydantic import Field

from perdure.tools.call import current_call
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolTrouble
from perdure.tools.staging import EditNote, Staging, Step, content_hash, no_step, staging
from perdure.tools.workspace import Workspace, path_parts, read_at

_ENTRIES_MAX = 1_000  # a longer list is no overview any more
_LINES_DEFAULT = 2_000
_TIMEOUT_SECONDS = 30  # local disk; more means the disk is stuck
_MATCHES_NAMED = 10

FilePath = Annotated[str, Field(min_length=1, description="path in the workspace, for example notes/plan.md")]


def file_tools(limits: ToolLimits, on_step: Step = no_step) -> list[AnyTool]:
    """``on_step`` is told each step of a write by name, in the thread that does it."""
    bytes_max = limits.file_bytes_max

    @tool(effect="read", timeout_seconds=_TIMEOUT_SECONDS)
    def list_files(
        path: Annotated[str, Field(description="folder in the workspace; empty for all of it")] = "",
    ) -> str:
        """List the files and folders of the workspace, with sizes in bytes."""
        entries, more = Workspace(current_call().workspace).entries(path, _ENTRIES_MAX)
        lines = [
            {"file": f"{entry.path}  {entry.size}", "folder": f"{entry.path}/"}.get(
                entry.kind, f"{entry.path}  (a link or device: not accessible)"
            )
            for entry in entries
        ]
        if more:
            lines.append(f"[only the first {_ENTRIES_MAX}; list a folder to see the rest]")
        return "\n".join(lines) or "[empty]"

    @tool(effect="read", timeout_seconds=_TIMEOUT_SECONDS)
    def read_file(
        path: FilePath,
        offset_lines: Annotated[int, Field(ge=0, description="lines to skip")] = 0,
        limit_lines: Annotated[int, Field(ge=1, description="lines to read")] = _LINES_DEFAULT,
    ) -> str:
        """Read a text file of the workspace (UTF-8)."""
        text = _text(Workspace(current_call().workspace).read(path, bytes_max), path)
        lines = io.StringIO(text, newline="\n").readlines()  # at \n only, as editors count
        end = min(offset_lines + limit_lines, len(lines))
        if offset_lines == 0 and end == len(lines):
            return text
        if offset_lines >= len(lines):
            return f"[{path} has {len(lines)} lines; nothing after line {offset_lines}]"
        more = f"; read on with offset_lines {end}" if end < len(lines) else ""
        return f"{''.join(lines[offset_lines:end])}\n[lines {offset_lines + 1} to {end} of {len(lines)}{more}]"

    @tool(effect="idempotent", timeout_seconds=_TIMEOUT_SECONDS)
    def write_file(path: FilePath, content: Annotated[str, Field(description="the whole file")]) -> str:
        """Write a text file of the workspace, replacing what it held; folders are made as needed."""
        data = content.encode()
        _refuse_large(data, path, bytes_max)
        call = current_call()
        folders, name = _place(path)
        with (
            staging(call.workspace, call.idempotency_key, call.attempt, on_step) as staged,
            Workspace(call.workspace).folder(folders, create=True) as folder,
        ):
            staged.replace(data, folder, name, path)
        return f"wrote {path} ({len(data)} bytes)"

    @tool(effect="idempotent", timeout_seconds=_TIMEOUT_SECONDS)
    def edit_file(
        path: FilePath,
        old: Annotated[str, Field(min_length=1, description="text that stands in the file exactly once")],
        new: Annotated[str, Field(description="text to put in its place")],
    ) -> str:
        """Replace one piece of text in a file of the workspace. The old text must match exactly, once."""
        call = current_call()
        folders, name = _place(path)
        with (
            staging(call.workspace, call.idempotency_key, call.attempt, on_step) as staged,
            Workspace(call.workspace).folder(folders) as folder,
        ):
            note = staged.edit_note()
            if note is not None and note.done:
                return f"edited {path}"
            found = read_at(folder, name, path, bytes_max)
            if note is not None and _renamed_before(note, content_hash(found), path):
                staged.keep_edit_note(EditNote(note.path, note.before, note.after, done=True))
                return f"edited {path}"
            _edit(staged, folder, name, path, found, old, new, bytes_max)
        return f"edited {path}"

    return [list_files, read_file, write_file, edit_file]


def _edit(staged: Staging, folder: int, name: str, path: str, found: bytes, old: str, new: str, bytes_max: int) -> None:
    text = _text(found, path)
    _refuse_unclear(text, old, new, path)
    changed = text.replace(old, new).encode()
    _refuse_large(changed, path, bytes_max)
    note = EditNote(path, content_hash(found), content_hash(changed))
    staged.replace(changed, folder, name, path, note)
    staged.keep_edit_note(EditNote(note.path, note.before, note.after, done=True))


def _renamed_before(note: EditNote, now: str, path: str) -> bool:
    """Whether an earlier attempt of this call already changed the file; what it noted first tells."""
    if now == note.after:
        return True
    if now == note.before:
        return False
    raise ToolTrouble(
        f"{path} was changed by something else while this edit was being done, so whether the edit is in it is "
        "not known; read the file and decide",
        code="edit_unknown",
    )


def _refuse_unclear(text: str, old: str, new: str, path: str) -> None:
    if old == new:
        raise ToolTrouble("old and new are the same text: nothing to edit", code="edit_mismatch")
    starts = _starts(text, old)
    if not starts:
        raise ToolTrouble(
            f"{path} does not contain the old text; read the file and give it exactly, blanks and line ends included",
            code="edit_mismatch",
        )
    if len(starts) > 1:
        lines = ", ".join(str(text.count("\n", 0, start) + 1) for start in starts[:_MATCHES_NAMED])
        many = f"{len(starts)} times" if len(starts) <= _MATCHES_NAMED else f"more than {_MATCHES_NAMED} times"
        raise ToolTrouble(
            f"{path} contains the old text {many} (lines {lines}); give more of its surroundings so that it is one",
            code="edit_mismatch",
        )


def _starts(text: str, old: str) -> list[int]:
    """Where ``old`` begins, overlapping matches included: "aa" stands twice in "aaa". One more than named at most."""
    starts: list[int] = []
    start = text.find(old)
    while start >= 0 and len(starts) <= _MATCHES_NAMED:
        starts.append(start)
        start = text.find(old, start + 1)
    return starts


def _place(path: str) -> tuple[tuple[str, ...], str]:
    parts = path_parts(path)
    if not parts or path.endswith("/"):
        raise ToolTrouble(f"{path!r} names a folder; give the path of a file", code="not_a_file")
    return parts[:-1], parts[-1]


def _text(data: bytes, path: str) -> str:
    try:
        if b"\0" not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise ToolTrouble(
        f"{path} is not UTF-8 text ({len(data)} bytes, beginning with {data[:16].hex(' ')})", code="not_text"
    )


def _refuse_large(data: bytes, path: str, bytes_max: int) -> None:
    if len(data) > bytes_max:
        raise ToolTrouble(
            f"{path} would have {len(data)} bytes; files of at most {bytes_max} bytes are written", code="too_large"
        )
