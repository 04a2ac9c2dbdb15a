"""The tool box: built-ins and the user's modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.tools import ToolLimits
from perdure.tools.registry import ToolModuleError, UnknownTool, build_toolbox
from tests.tools.calls import a_call

BUILT_IN = [
    "ask_user", "board_post", "board_read", "board_remove", "board_update", "calculator", "cancel_agent",
    "cancel_schedule", "current_time", "edit_file", "http_get", "list_files",
    "list_schedules", "message_agent", "poll", "read_file", "read_result", "schedule_run", "sleep", "spawn_agent",
    "transfer_to_agent", "wait_for_agents", "wait_for_event", "write_file",
]  # fmt: skip

WriteModule = Callable[[str, str], str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write a module where the process stands, as a user does."""
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    written: list[str] = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    sys.path[:] = before
    for name in written:
        sys.modules.pop(name, None)


def test_the_built_in_tools_are_there_by_their_names() -> None:
    box = build_toolbox()
    assert box.names() == BUILT_IN
    assert [about["name"] for about in box.describe()] == BUILT_IN
    assert {about["name"]: about["effect"] for about in box.describe() if about["effect"] != "read"} == {
        "board_post": "idempotent",
        "board_remove": "idempotent",
        "board_update": "idempotent",
        "cancel_agent": "idempotent",
        "cancel_schedule": "idempotent",
        "edit_file": "idempotent",
        "message_agent": "idempotent",
        "schedule_run": "idempotent",
        "spawn_agent": "idempotent",
        "transfer_to_agent": "idempotent",
        "write_file": "idempotent",
    }
    assert all(about["description"] and about["parameters"]["type"] == "object" for about in box.describe())


def test_every_built_in_parameter_is_described_or_plain() -> None:
    for about in build_toolbox().describe():
        assert about["parameters"]["additionalProperties"] is False
        assert about["effect"] != "once"


def test_who_answers_each_built_in_tool() -> None:
    leading = ("spawn_agent", "wait_for_agents", "message_agent", "cancel_agent", "transfer_to_agent")
    family = dict.fromkeys(leading, "family")
    outside = {"ask_user": "people", "sleep": "time", "wait_for_event": "time", **family}
    assert {about["name"]: about["answered_by"] for about in build_toolbox().describe()} == {
        name: outside.get(name, "worker") for name in BUILT_IN
    }
    assert not any(about["approval"] for about in build_toolbox().describe())


def test_a_users_tool_cannot_ask_people_in_place_of_ours(write_module: WriteModule) -> None:
    name = write_module("ours_h", "from perdure.tools import tool\n@tool\ndef ask_user() -> None: ...\n")
    with pytest.raises(ToolModuleError, match=r"perdure\.tools\.builtin\.ask_user and ours_h\.ask_user"):
        build_toolbox([name])


async def test_the_tools_of_a_users_module_in_the_current_folder_are_there(write_module: WriteModule) -> None:
    name = write_module(
        "ours_a", "from perdure.tools import tool\n@tool\ndef greet(who: str) -> str:\n    return who\n"
    )
    box = build_toolbox([name])
    assert box.names() == sorted([*BUILT_IN, "greet"])
    greet = box.get("greet")
    assert greet is not None
    assert await greet.run({"who": "you"}, a_call()) == "you"


def test_a_tool_found_through_two_modules_is_one_tool(write_module: WriteModule) -> None:
    first = write_module("ours_b", "from perdure.tools import tool\n@tool\ndef one() -> None: ...\n")
    second = write_module("ours_c", "from ours_b import one\n")
    assert "one" in build_toolbox([first, second]).names()


def test_two_tools_of_one_name_are_refused_naming_both(write_module: WriteModule) -> None:
    text = "from perdure.tools import tool\n@tool\ndef one() -> None: ...\n"
    first, second = write_module("ours_d", text), write_module("ours_e", text)
    with pytest.raises(ToolModuleError, match=r"'one': ours_d\.one and ours_e\.one"):
        build_toolbox([first, second])


def test_a_users_tool_cannot_take_a_built_in_name(write_module: WriteModule) -> None:
    name = write_module("ours_f", "from perdure.tools import tool\n@tool\ndef calculator() -> None: ...\n")
    with pytest.raises(ToolModuleError, match=r"perdure\.tools\.builtin\.calculator\.calculator and ours_f"):
        build_toolbox([name])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_at_all", "nowhere_at_all"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("x = 1", "has no tool"),
        ("from perdure.tools import tool\n@tool\ndef f(x): ...\n", "'x' has no type"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_its_cause(write_module: WriteModule, text: str, said: str) -> None:
    name = write_module("ours_g", text)
    with pytest.raises(ToolModuleError) as refused:
        build_toolbox([name])
    assert "'ours_g'" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["no_such_module_here", "", ".relative", "no.such.package"])
def test_a_module_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(ToolModuleError) as refused:
        build_toolbox([name])
    assert repr(name) in str(refused.value)


def test_unknown_tools_are_named() -> None:
    box = build_toolbox()
    assert box.get("fly") is None
    with pytest.raises(UnknownTool, match=r"fly, swim; known are: ask_user, board_post, board_read"):
        box.describe(["calculator", "fly", "swim"])


def test_tools_are_described_in_the_order_asked() -> None:
    assert [about["name"] for about in build_toolbox().describe(["read_file", "calculator"])] == [
        "read_file",
        "calculator",
    ]


def test_a_bad_network_in_the_limits_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        build_toolbox(limits=ToolLimits(http_get_allow_addresses=("10.0.0.300/8",)))
