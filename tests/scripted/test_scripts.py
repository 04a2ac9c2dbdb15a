"""Scripts on disk: what is wrong in one is said with file and field, and a change is seen without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import yaml

from perdure.providers.scripted import ScriptError, create_app, script_names, shipped_scripts
from perdure.providers.scripted.library import read_scripts
from tests.scripted.conftest import Serve

ONE = {"turns": [{"text": "one"}]}


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ({"turns": [{"txt": "x"}]}, "turns.0.txt: Extra inputs"),
        ({"turns": [{"text": 7}]}, "turns.0.text: must be a string, {lorem: words} or {repeat: text, times: n}"),
        ({"turns": [{"text": {"lorem": "many"}}]}, "turns.0.text.lorem: Input should be a valid integer"),
        ({"turns": [{"text": {"repeat": "x"}}]}, "turns.0.text.times: Field required"),
        ({"turns": [{}, {"tool_calls": [{"arguments": {}}]}]}, "turns.1.tool_calls.0.name: Field required"),
        ({"turns": [{"tool_calls": [{"name": "f", "arguments": {}, "raw_arguments": ""}]}]}, "not both"),
        ({"turns": [{"stop": "never"}]}, "turns.0.stop: Input should be 'end'"),
        ({"turns": [{"chunk": 0}]}, "turns.0.chunk: Input should be greater than or equal to 1"),
        ({"turns": [{"delay_seconds": -1}]}, "turns.0.delay_seconds"),
        ({"turns": [{"faults": [{"cut": 1, "garbage": 1}]}]}, "turns.0.faults.0: a fault is exactly one of"),
        ({"turns": [{"faults": [{"times": 2}]}]}, "this one has none"),
        ({"turns": [{"faults": [{"status": 200}]}]}, "turns.0.faults.0.status"),
        ({"turns": [{"faults": [{"hang": "long"}]}]}, "turns.0.faults.0.hang"),
        ({"turns": [{"faults": [{"cut": 1, "after_event": 2}]}]}, "after_event belongs to hang, not to cut"),
        ({"turns": [{"echo": True, "text": "x"}]}, "leave text out"),
        ({"turns": [{"hold_after_chunks": 2}]}, "needs wait_for"),
        ({"turns": [], "repeat": "last"}, "a script needs turns or generate"),
        ({"generate": {"turns": 3}}, "generate.tool: Field required"),
        ({"name": "no spaces", **ONE}, "name: a name is"),
        ({"turn": []}, "turn: Extra inputs"),
        ([], "a script file holds a mapping, not list"),
        ({"scripts": {"a": {"turns": 1}}}, "scripts.a.turns: Input should be a valid"),
        ({"a": ONE, "b": {"turns": [{"x": 1}]}}, "b.turns.0.x: Extra inputs"),
        ({"scripts": {}, "turns": []}, "alone in its file"),
    ],
)
def test_a_wrong_script_is_refused_with_its_file_and_field(tmp_path: Path, script: Any, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(script))
    with pytest.raises(ScriptError) as caught:
        read_scripts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.yaml", "turns: [", "cannot be read"),
        ("a.json", '{"turns": ', "cannot be read"),
        ("a.yaml", "turns: []\nturns: []", "'turns' is given twice"),
        ("a.yaml", "", "not NoneType"),
        ("a.yaml", "turns:\n  - text: [x", "cannot be read: line 3, column 1: "),
        ("a.yaml", "turns: !!int ''", "cannot be read"),
        ("a.yaml", "turns: " + "[" * 20_000, "cannot be read"),
        ("a.json", "[" * 20_000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_yaml_or_json_is_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ScriptError, match=complaint) as caught:
        read_scripts(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_file_takes_only_its_own_scripts_away(serve: Serve) -> None:
    served = serve({"good": ONE, "typo": {"turns": [{"txt": "x"}]}})
    assert served.talk("chat", "good").ask().text == "one"
    assert served.talk("chat", "hello").ask().text
    assert {"good", "hello"} < set(script_names(served.scripts))
    assert "typo" not in script_names(served.scripts)


@pytest.mark.parametrize("dialect", ["responses", "chat", "messages"])
def test_who_asks_for_a_script_of_a_broken_file_is_told_the_file_and_the_field_but_no_folder(
    serve: Serve, dialect: str
) -> None:
    served = serve({"typo": {"turns": [{"txt": "x"}]}})
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as caught:
        served.talk(dialect, "typo").ask()
    assert "1 script file cannot be read: typo.yaml: turns.0.txt: Extra inputs are not permitted" in str(caught.value)
    assert str(served.scripts) not in str(caught.value)
    with pytest.raises(openai.NotFoundError, match=r"typo\.yaml: turns\.0\.txt"):
        served.openai().models.retrieve("typo")


def test_a_broken_file_does_not_turn_its_script_into_the_shipped_one_of_the_same_name(serve: Serve) -> None:
    served = serve({"hello": {"turns": [{"txt": "x"}]}})
    with pytest.raises(openai.NotFoundError, match=r"hello\.yaml"):
        served.talk("chat", "hello").ask()
    served.write("hello", {"turns": [{"text": "Mine."}]})
    assert served.talk("chat", "hello").ask().text == "Mine."


def test_all_that_is_wrong_is_told_at_once_by_healthz_and_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve({"a": {"turns": [{"x": 1, "y": 2}]}, "b": {"turns": [{"z": 1}]}})
    health = httpx2.get(f"{served.url}/healthz").json()
    extra = "Extra inputs are not permitted"
    wrong = [f"a.yaml: turns.0.x: {extra}", f"a.yaml: turns.0.y: {extra}", f"b.yaml: turns.0.z: {extra}"]
    assert health == {"status": "ok", "problems": wrong}
    assert [record.getMessage() for record in caplog.records if "script file" in record.getMessage()] == [
        f"script file not used: {served.scripts}/{line}" for line in wrong
    ]
    for name in ("a", "b"):
        served.write(name, ONE)
    assert httpx2.get(f"{served.url}/healthz").json() == {"status": "ok", "problems": []}


def test_of_two_files_with_the_same_script_the_first_is_used_and_the_second_is_told(serve: Serve) -> None:
    served = serve({"a": {"name": "same", **ONE}, "b": {"name": "same", "turns": [{"text": "two"}]}})
    assert served.talk("chat", "same").ask().text == "one"
    problems = httpx2.get(f"{served.url}/healthz").json()["problems"]
    assert problems == ["b.yaml: name: 'same' is also in a.yaml"]


def test_a_link_to_nowhere_spoils_no_other_script(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(ONE))
    (tmp_path / ".#one.yaml").symlink_to("nobody@nowhere")  # what an editor leaves beside an unsaved file
    assert "one" in script_names(tmp_path)


def test_a_folder_that_goes_away_takes_only_its_own_scripts_and_may_come_back(serve: Serve) -> None:
    served = serve({"s": ONE})
    served.scripts.rename(served.scripts.with_name("away"))
    assert served.talk("chat", "hello").ask().text
    with pytest.raises(openai.NotFoundError, match="No such file or directory"):
        served.talk("chat", "s").ask()
    served.scripts.with_name("away").rename(served.scripts)
    assert served.talk("chat", "s").ask().text == "one"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="cannot be read"):
        create_app(tmp_path / "nowhere")


def test_one_file_may_hold_one_script_or_several_in_yaml_or_json(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(ONE))
    (tmp_path / "renamed.json").write_text('{"name": "other", "turns": [{"text": "x"}]}')
    (tmp_path / "mapping.yml").write_text(
        yaml.safe_dump({"a": ONE, "b": {"generate": {"turns": 1, "tool": {"name": "f"}}}})
    )
    (tmp_path / "under.yaml").write_text(yaml.safe_dump({"scripts": {"c": ONE}}))
    (tmp_path / "README.md").write_text("not a script")
    assert set(script_names(tmp_path)) - set(script_names(None)) == {"plain", "other", "a", "b", "c"}


def test_a_single_file_serves_as_well_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(ONE))
    (tmp_path / "two.yaml").write_text("broken: [")
    assert "one" in script_names(tmp_path / "one.yaml")


def test_the_shipped_scripts_are_those_the_documentation_names() -> None:
    shipped = [
        "ask-first", "crash-demo", "echo", "flaky", "hello", "lead", "letter", "long-run", "patient",
        "question", "refuse", "slow", "spender", "tour",
    ]  # fmt: skip
    assert script_names(None) == shipped
    assert all(read_scripts(path) for path in shipped_scripts().iterdir())


def test_a_script_of_the_user_goes_before_a_shipped_one_of_the_same_name(serve: Serve) -> None:
    served = serve({"hello": {"turns": [{"text": "Mine."}]}})
    assert served.talk("chat", "hello").ask().text == "Mine."
    assert served.talk("chat", "tour").ask().calls


def test_a_change_on_disk_is_seen_by_the_next_question(serve: Serve) -> None:
    served = serve({"s": ONE})
    assert served.talk("chat", "s").ask().text == "one"
    served.write("s", {"turns": [{"text": "another one"}]})
    served.write("new", {"turns": [{"text": "new"}]})
    assert served.talk("chat", "s").ask().text == "another one"
    assert served.talk("chat", "new").ask().text == "new"
    (served.scripts / "new.yaml").unlink()
    with pytest.raises(openai.NotFoundError):
        served.talk("chat", "new").ask()


def test_a_script_that_breaks_on_disk_says_so_and_leaves_the_others_alone(serve: Serve) -> None:
    served = serve({"s": ONE, "t": ONE})
    served.write("s", {"turns": [{"txt": "typo"}]})
    assert served.talk("chat", "t").ask().text == "one"
    with pytest.raises(openai.NotFoundError, match=r"s\.yaml: turns\.0\.txt"):
        served.talk("chat", "s").ask()
    served.write("s", ONE)
    assert served.talk("chat", "s").ask().text == "one"
