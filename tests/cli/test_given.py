"""What cannot be sent is refused in one line, with the status of wrong arguments, before anything is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.cli.given import json_of
from perdure.cli.run import read_policy
from perdure.cli.trouble import Failed
from tests.cli.stack import environment


def refusal(*words: str | bytes, stdin: bytes = b"", home: Path) -> str:
    """The one line that the command says."""
    command = [sys.executable, "-P", "-m", "perdure.cli", *words, "--home", str(home)]
    env = {**environment(), "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=env, capture_output=True, input=stdin, timeout=60)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), said
    assert said.startswith("perdure: ")
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    "words",
    [
        ("say", "last", b"\xff"),
        ("signal", "last", "a", b"\xff"),
        ("show", b"\xff"),
        ("schedule", "create", "x", b"\xff", "--every", "1h"),
        ("run", "hello", "--as", b"\xff"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_by_every_command(
    words: tuple[str | bytes, ...], tmp_path: Path
) -> None:
    assert "the argument '\\xff' is not UTF-8" in refusal(*words, home=tmp_path)


@pytest.mark.parametrize("words", [("run", "-"), ("signal", "last", "a", "-"), ("schedule", "create", "x", "-")])
def test_standard_input_that_is_no_text_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert "standard input is not UTF-8" in refusal(*words, stdin=b"a\xff", home=tmp_path)


@pytest.mark.parametrize(
    ("payload", "wrong"),
    [
        ("{", "is not JSON"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":1e400}', "out of range"),
        ('{"a":"\\ud800"}', "half a character"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_what_json_cannot_say_is_refused(payload: str, wrong: str, tmp_path: Path) -> None:
    assert wrong in refusal("signal", "last", "a", payload, home=tmp_path)
    assert wrong in refusal("policy", "check", "clerk", "book", payload, home=tmp_path)


def test_what_json_can_say_is_taken_as_it_is() -> None:
    assert json_of('{"a": [1, 2.5, "\\ud83d\\ude00", null]}') == {"a": [1, 2.5, "😀", None]}


def test_a_policy_that_json_cannot_say_is_refused(tmp_path: Path) -> None:
    odd = {"p.json": '{"a": NaN}', "q.json": '{"a": 1e400}', "p.toml": "a = inf", "q.toml": "a = 2026-01-01"}
    for name, text in odd.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(Failed) as refused:
            read_policy(tmp_path / name)
        assert refused.value.status == 2
