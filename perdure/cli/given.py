"""What people give to commands, as words, as JSON and on standard input: taken when it can be sent, and refused in
words otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from perdure.cli.trouble import Failed

_SHOWN_CHARACTERS = 80


def check_words(words: Sequence[str]) -> None:
    """Failed for the first that is no UTF-8: nothing of it can be sent."""
    for word in words:
        if not _is_text(word):
            shown = repr(os.fsencode(word)).removeprefix("b")[:_SHOWN_CHARACTERS]
            raise Failed(f"the argument {shown} is not UTF-8", status=2)


def text_given(word: str) -> str:
    """The word; for ``-`` all of standard input. Failed."""
    if word != "-":
        return word
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise Failed(f"standard input is not UTF-8: {error.reason} at byte {error.start}", status=2) from None
    if not _is_text(text):  # some locales let bytes pass that are no text
        raise Failed("standard input is not UTF-8", status=2)
    return text


def json_given(text: str, where: str) -> Any:
    """Failed for what is not JSON; ``where`` is the beginning of the words."""
    try:
        return json_of(text)
    except ValueError as error:
        raise Failed(f"{where} is not JSON: {error}", status=2) from None


def json_of(text: str) -> Any:
    """ValueError for what is not JSON, or cannot be sent as it is."""
    try:
        return sendable(json.loads(text, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def sendable(value: Any) -> Any:
    """ValueError for what JSON cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("it holds a number that is out of range") from None
    if not _is_text(text):
        raise ValueError("it holds half a character (a lone surrogate)")
    return value


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
