"""Agents as tools: what a model sees of them, what they are told, and whether their answers fit."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.definitions import AgentDefinition
from perdure.tools.agent_tools import (
    TASK_SCHEMA,
    AgentTool,
    agent_tool_problems,
    task_of,
    tool_name_of,
    typed_answer,
    with_answer_schema,
)
from perdure.tools.client_tools import run_tool_names, run_toolbox
from perdure.tools.port import ToolTrouble
from perdure.tools.registry import build_toolbox
from tests.tools.calls import a_call

BOX = build_toolbox()
STARS: Any = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}


def made(**more: Any) -> Any:
    return {"agent": "rater", "name": "rate", "description": "Rates.", "input_schema": TASK_SCHEMA, **more}


def test_the_agents_name_becomes_one_that_every_vendor_takes() -> None:
    assert tool_name_of("res.earcher@3") == "res_earcher"
    assert tool_name_of("a-b_C9") == "a-b_C9"


async def test_a_model_sees_a_function_that_another_run_answers() -> None:
    tool = AgentTool(made())
    about = tool.description
    assert (about["name"], about["parameters"], about["answered_by"], about["parallel"]) == (
        "rate", TASK_SCHEMA, "family", True,
    )  # fmt: skip
    assert tool.problem({"task": "tea"}) is None
    assert "task" in (tool.problem({}) or "")
    assert "The arguments do not fit the tool rate" in (tool.problem({"task": "", "more": 1}) or "")
    with pytest.raises(ToolTrouble, match="another agent"):
        await tool.run({"task": "tea"}, a_call())


def test_a_runs_tools_are_the_registrys_then_agents_then_the_clients() -> None:
    client: Any = {"name": "rate", "description": "", "parameters": {"type": "object"}, "expires_seconds": 60.0}
    definition: AgentDefinition = {
        "name": "lead", "model": "openai/m", "instructions": "", "tools": ["calculator"], "model_settings": {},
        "limits": {}, "agent_tools": [made()], "client_tools": [{**client, "name": "pick"}, client],
    }  # fmt: skip
    box = run_toolbox(BOX, definition)
    assert box.names() == run_tool_names(definition) == ["calculator", "rate", "pick"]
    assert box.describe()[1]["answered_by"] == "family"
    assert isinstance(box.get("rate"), AgentTool)


def test_the_agent_is_told_the_task_or_all_arguments() -> None:
    assert task_of(made(), {"task": "tea"}) == "tea"
    two = {"type": "object", "properties": {"task": {"type": "string"}, "more": {}}}
    assert task_of(made(input_schema=two), {"task": "tea"}) == '{"task": "tea"}'
    assert task_of(made(input_schema=STARS), {"stars": 3, "ü": 1}) == '{"stars": 3, "ü": 1}'
    number = {"type": "object", "properties": {"task": {"type": "integer"}}}
    assert task_of(made(input_schema=number), {"task": 3}) == '{"task": 3}'


@pytest.mark.parametrize(
    "text", ['{"stars": 4}', ' \n{"stars":4}\n', '```json\n{"stars": 4}\n```', '```\n{"stars": 4}\n```\n']
)
def test_json_that_fits_is_the_answer_fenced_or_not(text: str) -> None:
    assert typed_answer(STARS, text) == ('{"stars": 4}', "")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("four", "no JSON"),
        ("", "no JSON"),
        ('Here: {"stars": 4}', "no JSON"),
        ('{"stars": NaN}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"stars": 4, "more": 1e400}', "no JSON: Out of range"),
        ('{"stars": 4, "more": ' + "[" * 900 + "]" * 900 + "}", "nested deeper than 100 levels"),
        ('{"stars": "4"}', "stars: "),
        ("{}", '"stars" is a required property'),
    ],
)
def test_what_is_wrong_with_another_answer_is_said(text: str, wrong: str) -> None:
    same, why = typed_answer(STARS, text)
    assert same == text
    assert wrong in why


def test_half_characters_become_the_sign_for_what_is_no_text_as_in_every_result() -> None:
    text = '{"stars": 4, "why": "half \\ud800, whole \\ud83d\\ude00", "\\udfff": 1}'
    assert typed_answer(STARS, text) == ('{"stars": 4, "why": "half \ufffd, whole 😀", "\ufffd": 1}', "")
    strict = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
    assert typed_answer(strict, text)[1] == "", "a schema that looks at the text sees it so, too"


def test_instructions_end_with_what_the_answer_has_to_be() -> None:
    assert with_answer_schema("Rate.", STARS).startswith("Rate.\n\n[Perdure]")
    assert with_answer_schema("", STARS).endswith('"required": ["stars"]}')


def test_everything_that_is_wrong_with_a_declaration_is_told_with_a_pointer() -> None:
    bad = [
        made(name="calculator"),
        made(name="mine"),
        made(),
        made(),
        made(name="a", input_schema={"type": "array"}),
        made(name="b", input_schema={"type": 7}),
        made(name="c", output_schema={"$ref": "#"}),
        made(name="d", output_schema={"type": "array"}),
    ]
    found = agent_tool_problems(bad, ["mine"], BOX)
    assert [(one.pointer, one.code) for one in found] == [
        ("/agent_tools/0/name", "tool_exists"),
        ("/agent_tools/1/name", "tool_exists"),
        ("/agent_tools/3/name", "duplicate"),
        ("/agent_tools/4/input_schema", "invalid_schema"),
        ("/agent_tools/5/input_schema", "invalid_schema"),
        ("/agent_tools/6/output_schema", "invalid_schema"),
    ]
