"""Tools that the caller of a run executes."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.definitions import AgentDefinition, ClientToolDefinition
from perdure.tools.client_tools import (
    CLIENT_TOOLS_MAX,
    ClientTool,
    RunToolBox,
    client_tool_problems,
    run_tool_names,
    run_toolbox,
)
from perdure.tools.port import ToolTrouble
from perdure.tools.registry import UnknownTool, build_toolbox
from tests.tools.calls import a_call

BOX = build_toolbox()
PICK = ClientToolDefinition(
    name="pick_file",
    description="Let the user pick a file.",
    parameters={"type": "object", "properties": {"kind": {"enum": ["image", "text"]}}, "required": ["kind"]},
    expires_seconds=60,
)


def test_a_client_tool_is_described_like_any_other_and_answered_by_the_client() -> None:
    about = ClientTool(PICK).description
    assert (about["name"], about["description"], about["parameters"]) == (
        PICK["name"],
        PICK["description"],
        PICK["parameters"],
    )
    assert (about["answered_by"], about["effect"], about["approval"]) == ("client", "once", False)


async def test_a_worker_that_is_told_to_run_it_refuses() -> None:
    with pytest.raises(ToolTrouble, match="client"):
        await ClientTool(PICK).run({"kind": "image"}, a_call())


def test_its_arguments_are_judged_by_its_schema() -> None:
    tool = ClientTool(PICK)
    assert tool.problem({"kind": "image"}) is None
    assert "kind" in (tool.problem({"kind": "sound"}) or "")
    assert "required" in (tool.problem({}) or "")
    assert "Expected" in (tool.problem({}) or "")
    assert tool.problem({"kind": "\ud800"}) is not None


def test_a_wrong_megabyte_is_not_repeated_to_the_model() -> None:
    assert len(ClientTool(PICK).problem({"kind": "x" * 1_000_000}) or "") < 3_000


def test_the_tools_of_a_run_are_its_agents_and_its_clients() -> None:
    box = RunToolBox(BOX, ["read_file", "calculator"], [PICK])
    assert box.names() == ["read_file", "calculator", "pick_file"]
    assert [about["name"] for about in box.describe()] == box.names()
    assert [about["name"] for about in box.describe(["pick_file"])] == ["pick_file"]
    assert box.get("write_file") is None
    assert box.get("calculator") is BOX.get("calculator")
    assert isinstance(box.get("pick_file"), ClientTool)
    with pytest.raises(UnknownTool, match="write_file"):
        box.describe(["write_file"])


def test_a_client_tool_never_takes_the_place_of_one_of_ours() -> None:
    """The name was free when the run was made; a worker that came later has a tool of that name."""
    box = RunToolBox(BOX, ["read_file"], [{**PICK, "name": "read_file"}])
    assert box.names() == ["read_file"]
    assert box.get("read_file") is BOX.get("read_file")


def test_the_box_of_a_definition_is_made_once() -> None:
    definition = AgentDefinition(
        name="a", model="m", instructions="", tools=["calculator"], model_settings={}, limits={}, client_tools=[PICK]
    )
    box = run_toolbox(BOX, definition)
    assert box.names() == run_tool_names(definition) == ["calculator", "pick_file"]
    assert run_toolbox(box, definition) is box


def test_sound_definitions_have_no_problems() -> None:
    assert client_tool_problems([PICK, {**PICK, "name": "other"}], BOX) == []


@pytest.mark.parametrize(
    ("more", "pointer", "code"),
    [
        ({"name": "two words"}, "/client_tools/0/name", "invalid_name"),
        ({"name": ""}, "/client_tools/0/name", "invalid_name"),
        ({"name": 7}, "/client_tools/0/name", "invalid_name"),
        ({"name": "read_file"}, "/client_tools/0/name", "tool_exists"),
        ({"name": "ask_user"}, "/client_tools/0/name", "tool_exists"),
        ({"description": "x" * 9_000}, "/client_tools/0/description", "invalid_text"),
        ({"expires_seconds": 0}, "/client_tools/0/expires_seconds", "out_of_range"),
        ({"expires_seconds": float("nan")}, "/client_tools/0/expires_seconds", "out_of_range"),
        ({"expires_seconds": 2_592_001}, "/client_tools/0/expires_seconds", "out_of_range"),
        ({"expires_seconds": True}, "/client_tools/0/expires_seconds", "out_of_range"),
        ({"parameters": {"type": "objekt"}}, "/client_tools/0/parameters", "invalid_schema"),
        ({"parameters": {"type": "string"}}, "/client_tools/0/parameters", "invalid_schema"),
        ({"parameters": None}, "/client_tools/0/parameters", "invalid_schema"),
    ],
)
def test_a_definition_that_cannot_be_used_is_refused_with_its_place(
    more: dict[str, Any], pointer: str, code: str
) -> None:
    found = client_tool_problems([{**PICK, **more}], BOX)
    assert [(one.pointer, one.code) for one in found] == [(pointer, code)]


def test_two_client_tools_of_one_name_and_too_many_are_refused() -> None:
    assert [one.code for one in client_tool_problems([PICK, PICK], BOX)] == ["duplicate"]
    many = [{**PICK, "name": f"t{n}"} for n in range(CLIENT_TOOLS_MAX + 1)]
    assert [one.code for one in client_tool_problems(many, BOX)] == ["too_many"]
