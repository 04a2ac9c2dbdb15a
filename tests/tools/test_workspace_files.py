"""The workspace tools: nothing outside the run's folder, and every write once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.state import Json
from perdure.tools import ToolLimits, ToolTrouble
from perdure.tools.builtin.files import file_tools
from perdure.tools.port import ToolCallContext
from perdure.tools.workspace import path_parts
from tests.tools.calls import a_call, asked, named

FILES = file_tools(ToolLimits(file_bytes_max=100_000))
PATH_TOOLS: list[tuple[str, dict[str, Json]]] = [
    ("read_file", {}),
    ("write_file", {"content": "overwritten"}),
    ("edit_file", {"old": "secret", "new": "overwritten"}),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A run's folder, not made yet; ``outside`` beside it holds a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    return tmp_path / "workspaces" / "run_1"


async def use(workspace: Path, name: str, /, *calls: ToolCallContext, **arguments: Json) -> str:
    return await asked(named(FILES, name), *(calls or (a_call(workspace),)), **arguments)


async def refused(workspace: Path, tool: str, **arguments: Json) -> ToolTrouble:
    with pytest.raises(ToolTrouble) as trouble:
        await use(workspace, tool, **arguments)
    assert trouble.value.code != "tool_error", trouble.value  # a refusal is meant, not stumbled upon
    return trouble.value


async def test_files_are_written_listed_read_and_edited(workspace: Path) -> None:
    assert await use(workspace, "list_files") == "[empty]"
    assert await use(workspace, "write_file", path="notes/day/plan.md", content="one\ntwo\nüç\n") == (
        "wrote notes/day/plan.md (13 bytes)"
    )
    assert await use(workspace, "edit_file", path="notes/day/plan.md", old="two", new="2") == "edited notes/day/plan.md"
    assert await use(workspace, "read_file", path="./notes//day/plan.md") == "one\n2\nüç\n"
    assert await use(workspace, "list_files") == "notes/\nnotes/day/\nnotes/day/plan.md  11"
    assert await use(workspace, "list_files", path="notes/day") == "notes/day/plan.md  11"


async def test_a_long_file_is_read_in_parts(workspace: Path) -> None:
    await use(workspace, "write_file", path="long.txt", content="".join(f"line {n}\n" for n in range(1, 5_001)))
    first = await use(workspace, "read_file", path="long.txt")
    assert first.startswith("line 1\n")
    assert first.endswith("[lines 1 to 2000 of 5000; read on with offset_lines 2000]")
    last = await use(workspace, "read_file", path="long.txt", offset_lines=4_999, limit_lines=10)
    assert last == "line 5000\n\n[lines 5000 to 5000 of 5000]"
    assert "5000 lines" in await use(workspace, "read_file", path="long.txt", offset_lines=5_000)


async def test_line_ends_and_blanks_survive_an_edit(workspace: Path) -> None:
    workspace.mkdir(parents=True)
    (workspace / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo  \r\n\ttail")
    await use(workspace, "edit_file", path="dos.txt", old="two", new="2")
    assert (workspace / "dos.txt").read_bytes() == b"\xef\xbb\xbfone\r\n2  \r\n\ttail"


async def test_an_edit_keeps_the_permissions_of_the_file(workspace: Path) -> None:
    workspace.mkdir(parents=True)
    (workspace / "run.sh").write_text("echo")
    (workspace / "run.sh").chmod(0o750)
    await use(workspace, "edit_file", path="run.sh", old="echo", new="true")
    assert (workspace / "run.sh").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("four", "4", "does not contain"),
        ("o", "0", "3 times (lines 1, 2, 4)"),
        ("one", "one", "same text"),
        ("aa", "b", "2 times (lines 3, 3)"),
    ],
)
async def test_an_edit_that_is_not_clear_is_refused_and_changes_nothing(
    workspace: Path, old: str, new: str, said: str
) -> None:
    await use(workspace, "write_file", path="a.txt", content="one\ntwo\naaa\nno\n")
    assert said in (await refused(workspace, "edit_file", path="a.txt", old=old, new=new)).message
    assert await use(workspace, "read_file", path="a.txt") == "one\ntwo\naaa\nno\n"


async def test_what_is_no_text_is_said_to_be_none(workspace: Path) -> None:
    workspace.mkdir(parents=True)
    (workspace / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    for tool, arguments in (("read_file", {}), ("edit_file", {"old": "PNG", "new": "x"})):
        trouble = await refused(workspace, tool, path="image.png", **arguments)
        assert trouble.code == "not_text"
        assert "10 bytes, beginning with 89 50 4e 47" in trouble.message


async def test_sizes_are_bounded(workspace: Path) -> None:
    assert (await refused(workspace, "write_file", path="a", content="x" * 100_001)).code == "too_large"
    await use(workspace, "write_file", path="a", content="x" * 100_000)
    assert (await refused(workspace, "edit_file", path="a", old="x" * 100_000, new="y" * 100_001)).code == "too_large"
    (workspace / "big").write_bytes(b"x" * 100_001)
    assert (await refused(workspace, "read_file", path="big")).code == "too_large"


async def test_a_list_is_bounded(workspace: Path) -> None:
    workspace.mkdir(parents=True)
    for number in range(1_005):
        (workspace / f"{number:04}").touch()
    lines = (await use(workspace, "list_files")).splitlines()
    assert len(lines) == 1_001
    assert lines[-1].startswith("[only the first 1000")


# Confinement ---------------------------------------------------------------------------------------

TRAVERSAL = [
    "../outside/secret.txt", "../../etc/passwd", "a/../../outside/secret.txt", "a/..", "..", "../", "./..", "a/./../b",
    "/etc/passwd", "//etc/passwd", "/", "/proc/self/environ", "~/secret.txt", "~root/x", "~",
    "..\\outside\\secret.txt", "C:\\Windows\\win.ini", "C:secret.txt", "c:/secret.txt", "\\\\host\\share",
    "a\0b", "secret.txt\0.md", "a\nb", "\x7f", "x" * 256, "ü" * 128, "/".join(["d"] * 40), "a/" * 600,
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSAL)
async def test_a_path_that_leads_outside_is_refused_by_every_tool(workspace: Path, path: str) -> None:
    for tool, arguments in [*PATH_TOOLS, ("list_files", {})]:
        assert (await refused(workspace, tool, path=path, **arguments)).code == "invalid_path"
    assert (workspace.parent.parent / "outside" / "secret.txt").read_text() == "secret"


@pytest.mark.parametrize("path", ["%2e%2e/outside/secret.txt", "..%2foutside", "...", "....//outside", "․․/outside"])
async def test_a_name_that_only_looks_like_a_way_out_stays_inside(workspace: Path, path: str) -> None:
    await use(workspace, "write_file", path=path, content="inside")
    assert await use(workspace, "read_file", path=path) == "inside"
    assert {p.name for p in workspace.parent.parent.iterdir()} == {"outside", "workspaces"}


async def test_links_are_refused_wherever_they_stand(workspace: Path) -> None:
    outside = workspace.parent.parent / "outside"
    workspace.mkdir(parents=True)
    (workspace / "file").symlink_to(outside / "secret.txt")
    (workspace / "folder").symlink_to(outside)
    (workspace / "dangling").symlink_to(outside / "new.txt")
    (workspace / "hard").hardlink_to(outside / "secret.txt")
    for tool, arguments in PATH_TOOLS:
        for path in ("file", "folder/secret.txt", "hard"):
            assert (await refused(workspace, tool, path=path, **arguments)).code == "invalid_path"
    assert (await refused(workspace, "write_file", path="dangling", content="x")).code == "invalid_path"
    assert (await refused(workspace, "write_file", path="folder/new.txt", content="x")).code == "invalid_path"
    assert (await refused(workspace, "list_files", path="folder")).code == "invalid_path"
    listed = await use(workspace, "list_files")
    assert "secret.txt" not in listed
    assert "folder  (a link or device: not accessible)" in listed
    assert [p.name for p in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"


async def test_a_workspace_that_is_itself_a_link_is_refused(workspace: Path) -> None:
    workspace.parent.mkdir(parents=True)
    workspace.symlink_to(workspace.parent.parent / "outside")
    for tool, arguments in PATH_TOOLS:
        with pytest.raises(ToolTrouble):
            await use(workspace, tool, path="secret.txt", **arguments)
    assert (workspace.parent.parent / "outside" / "secret.txt").read_text() == "secret"


async def test_devices_pipes_and_sockets_are_refused_without_waiting(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.mkdir(parents=True)
    os.mkfifo(workspace / "pipe")
    monkeypatch.chdir(workspace)  # a socket's whole path would be too long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        async with asyncio.timeout(5):
            for tool, arguments in PATH_TOOLS:
                for path in ("pipe", "socket"):
                    assert (await refused(workspace, tool, path=path, **arguments)).code == "invalid_path"


async def test_folders_are_no_files_and_files_no_folders(workspace: Path) -> None:
    await use(workspace, "write_file", path="folder/file", content="x")
    for tool, arguments in PATH_TOOLS:
        assert (await refused(workspace, tool, path="folder", **arguments)).code == "not_a_file"
        assert (await refused(workspace, tool, path="folder/", **arguments)).code == "not_a_file"
        assert (await refused(workspace, tool, path=".", **arguments)).code == "not_a_file"
        assert (await refused(workspace, tool, path="folder/file/below", **arguments)).code == "invalid_path"
    assert (await refused(workspace, "read_file", path="nothing")).code == "not_found"
    assert (await refused(workspace, "list_files", path="nothing")).code == "not_found"


async def test_a_refused_file_leaves_no_open_file_behind(workspace: Path) -> None:
    await use(workspace, "write_file", path="folder/file", content="x")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        await refused(workspace, "read_file", path="folder")
        await refused(workspace, "edit_file", path="folder/file", old="y", new="z")
    assert len(os.listdir("/dev/fd")) <= before + 2


async def test_a_link_planted_while_a_tool_works_leads_nowhere(workspace: Path) -> None:
    """A folder is swapped for a link to the outside, over and over, while tools read and write below it."""
    outside = workspace.parent.parent / "outside"
    (workspace / "real").mkdir(parents=True)
    (workspace / "real" / "secret.txt").write_text("inside")
    (workspace / "trap").symlink_to(outside)
    stop, swaps = threading.Event(), 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            for one, other in (("real", "was-real"), ("trap", "real"), ("real", "trap"), ("was-real", "real")):
                os.rename(workspace / one, workspace / other)
            swaps += 1

    async def attempt(tool: str, **arguments: Json) -> str | None:
        try:
            return await use(workspace, tool, path="real/secret.txt", **arguments)
        except ToolTrouble as trouble:
            return None if trouble.code in ("invalid_path", "not_found", "edit_mismatch") else trouble.message

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(100):
            assert await attempt("read_file") in ("inside", "inSide", None)
            assert await attempt("edit_file", old="s", new="S") in ("edited real/secret.txt", None)
            assert await attempt("edit_file", old="S", new="s") in ("edited real/secret.txt", None)
    finally:
        stop.set()
        swapper.join()
    assert swaps > 100
    assert (outside / "secret.txt").read_text() == "secret"
    assert [p.name for p in outside.iterdir()] == ["secret.txt"]


_names = st.one_of(st.sampled_from(["..", ".", "", "~", "a", "C:", "...", "\\", "\0"]), st.text(max_size=5))


@given(st.lists(_names, max_size=8).map("/".join))
def test_no_path_resolves_to_a_place_outside(path: str) -> None:
    try:
        parts = path_parts(path)
    except ToolTrouble:
        return
    root = "/some/workspace"
    resolved = os.path.normpath(os.path.join(root, *parts))
    assert resolved == root or resolved.startswith(f"{root}/")
    assert not {"..", ".", ""} & set(parts)


# Once ----------------------------------------------------------------------------------------------

STEPS = ["announced", "begun", "staged", "checked", "noted", "renamed", "noted done"]


def killed_after(step: str, workspace: Path, attempt: int, tool: str, arguments: dict[str, Json]) -> bool:
    """Run a call in another process; whether it was killed at the step."""
    command = [sys.executable, "-m", "tests.tools.write_once", str(workspace), "call_x", str(attempt), step, tool]
    done = subprocess.run([*command, json.dumps(arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.parametrize(("old", "new"), [("a", "ab"), ("a", "b"), ("a", ""), ("a", "aa")])
@pytest.mark.parametrize("step", STEPS[1:])
async def test_an_edit_killed_at_any_step_and_repeated_is_done_once(
    workspace: Path, step: str, old: str, new: str
) -> None:
    await use(workspace, "write_file", path="f", content="x a y\n")
    edit: dict[str, Json] = {"path": "f", "old": old, "new": new}
    assert killed_after(step, workspace, 1, "edit_file", edit)
    assert await use(workspace, "edit_file", a_call(workspace, "call_x", 2), **edit) == "edited f"
    assert (workspace / "f").read_text() == f"x {new} y\n"
    assert await use(workspace, "edit_file", a_call(workspace, "call_x", 3), **edit) == "edited f"
    assert (workspace / "f").read_text() == f"x {new} y\n"
    assert not [p for p in (workspace.parent / ".staging" / "run_1").iterdir() if p.name.startswith("staged")]


@pytest.mark.parametrize("first", ["staged", "noted", "renamed", "noted done"])
@pytest.mark.parametrize("second", ["announced", "staged", "noted", "renamed", "noted done"])
async def test_an_edit_killed_twice_is_done_once(workspace: Path, first: str, second: str) -> None:
    await use(workspace, "write_file", path="f", content="a")
    edit: dict[str, Json] = {"path": "f", "old": "a", "new": "ab"}
    assert killed_after(first, workspace, 1, "edit_file", edit)
    killed_after(second, workspace, 2, "edit_file", edit)
    assert await use(workspace, "edit_file", a_call(workspace, "call_x", 3), **edit) == "edited f"
    assert (workspace / "f").read_text() == "ab"


async def test_the_same_edit_asked_twice_by_the_model_is_two_edits(workspace: Path) -> None:
    await use(workspace, "write_file", path="f", content="a")
    for _ in range(2):
        await use(workspace, "edit_file", path="f", old="a", new="ab")
    assert (workspace / "f").read_text() == "abb"


async def test_an_edit_done_before_is_not_done_again_whatever_became_of_the_file(workspace: Path) -> None:
    await use(workspace, "write_file", path="f", content="a")
    await use(workspace, "edit_file", a_call(workspace, "call_x", 1), path="f", old="a", new="ab")
    (workspace / "f").write_text("a, and more")
    await use(workspace, "edit_file", a_call(workspace, "call_x", 2), path="f", old="a", new="ab")
    assert (workspace / "f").read_text() == "a, and more"
    (workspace / "f").unlink()
    assert await use(workspace, "edit_file", a_call(workspace, "call_x", 3), path="f", old="a", new="ab") == "edited f"


async def test_when_nobody_can_know_whether_an_edit_happened_the_model_is_told(workspace: Path) -> None:
    await use(workspace, "write_file", path="f", content="a")
    edit: dict[str, Json] = {"path": "f", "old": "a", "new": "ab"}
    assert killed_after("renamed", workspace, 1, "edit_file", edit)
    (workspace / "f").write_text("something else with a")
    with pytest.raises(ToolTrouble) as trouble:
        await use(workspace, "edit_file", a_call(workspace, "call_x", 2), **edit)
    assert trouble.value.code == "edit_unknown"
    assert (workspace / "f").read_text() == "something else with a"


@pytest.mark.parametrize("step", ["staged", "renamed"])
async def test_a_file_being_written_when_the_worker_dies_is_old_or_new_never_half(workspace: Path, step: str) -> None:
    await use(workspace, "write_file", path="f", content="old")
    assert killed_after(step, workspace, 1, "write_file", {"path": "f", "content": "new"})
    assert (workspace / "f").read_text() == ("old" if step == "staged" else "new")
    assert await use(workspace, "list_files") == "f  3"
    await use(workspace, "write_file", a_call(workspace, "call_x", 2), path="f", content="new")
    assert (workspace / "f").read_text() == "new"


@pytest.mark.parametrize(
    ("tool", "step"),
    [
        *(("write_file", step) for step in ("begun", "staged", "checked")),
        *(("edit_file", step) for step in ("begun", "staged", "checked", "noted")),
    ],
)
async def test_an_attempt_that_wakes_up_late_changes_nothing(workspace: Path, tool: str, step: str) -> None:
    """Attempt 1 freezes; attempt 2 does the work, a later call changes the file; then attempt 1 goes on."""
    await use(workspace, "write_file", path="f", content="a")
    arguments: dict[str, Json] = {"content": "ab"} if tool == "write_file" else {"old": "a", "new": "ab"}

    def freeze(reached: str) -> None:
        if reached == step:
            asyncio.run(use(workspace, tool, a_call(workspace, "call_x", 2), path="f", **arguments))
            asyncio.run(use(workspace, "write_file", path="f", content="later"))

    frozen = named(file_tools(ToolLimits(), freeze), tool)
    with pytest.raises(ToolTrouble) as trouble:
        await asked(frozen, a_call(workspace, "call_x", 1), path="f", **arguments)
    assert trouble.value.code == "superseded"
    assert (workspace / "f").read_text() == "later"
    if tool == "edit_file":  # attempt 2 did it, and what attempt 1 noted late does not hide that
        assert await use(workspace, tool, a_call(workspace, "call_x", 3), path="f", **arguments) == "edited f"
        assert (workspace / "f").read_text() == "later"


async def test_a_late_attempt_does_not_make_a_finished_edit_happen_again(workspace: Path) -> None:
    await use(workspace, "write_file", path="f", content="a")
    edit: dict[str, Json] = {"path": "f", "old": "a", "new": "ab"}

    def freeze(reached: str) -> None:
        if reached == "staged":
            asyncio.run(use(workspace, "edit_file", a_call(workspace, "call_x", 2), **edit))

    with pytest.raises(ToolTrouble):
        await asked(named(file_tools(ToolLimits(), freeze), "edit_file"), a_call(workspace, "call_x", 1), **edit)
    await use(workspace, "edit_file", a_call(workspace, "call_x", 3), **edit)
    assert (workspace / "f").read_text() == "ab"
