"""Asking a person in the terminal: lines from the keyboard while a run goes on, approvals, questions.

Nothing that was typed before a question was shown answers it, and Enter alone approves nothing.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from perdure.cli.asked import QUESTION_CHARACTERS, circumstances, options_of
from perdure.cli.asks import arguments_from, send_answers, send_decision, value_from
from perdure.cli.client import Api, Object, Refused
from perdure.cli.text import clean, one_line, shown_json
from perdure.cli.trouble import Failed

ARGUMENTS_LINES_MAX = 60  # more than a screen is not read; the whole is a command away
SETTLED = frozenset({"approval_already_resolved", "approval_expired", "run_terminal", "approval_stale"})

_CHOICES = "[a]pprove, [d]eny, [e]dit, [l]ater"
_KINDS = {"string": "your own words", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
_CHOICES_UNKNOWN = "[a] run it again, [d] leave it and tell the model, [r] give its result, [l]ater"


class LeftOpen(Exception):
    """The person answers later: ``later``, or the end of input."""


class Overtaken(Exception):
    """What was asked has been resolved elsewhere, or is over."""


class Terminal:
    """Lines from standard input. ``wake`` is a file descriptor that becomes readable when something has
    happened; ``meanwhile`` then shows it and says whether the question still stands."""

    def __init__(self, wake: int | None = None, meanwhile: Callable[[], bool] = lambda: True) -> None:
        self.console = Console(emoji=False, highlight=False, soft_wrap=True)
        self._wake, self._meanwhile = wake, meanwhile
        self._stdin = sys.stdin.fileno()
        self._typed = b""

    def say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False)

    def forget(self) -> None:
        """Drop what has been typed so far: it was not meant as the answer to what is asked next."""
        import termios

        self._typed = b""
        if os.isatty(self._stdin):
            termios.tcflush(self._stdin, termios.TCIFLUSH)

    def line(self, prompt: str) -> str:
        """The next line, stripped. LeftOpen, Overtaken."""
        self.console.print(prompt, style="bold", markup=False, end=" ")
        self.console.file.flush()
        while b"\n" not in self._typed:
            ready = select.select([self._stdin] if self._wake is None else [self._stdin, self._wake], [], [])[0]
            if self._wake in ready:
                self.console.print()
                if not self._meanwhile():
                    raise Overtaken
                self.console.print(prompt, style="bold", markup=False, end=" ")
                self.console.file.flush()
            elif not (more := os.read(self._stdin, 65_536)):
                self.console.print()
                raise LeftOpen
            else:
                self._typed += more
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip()


def ask_approval(terminal: Terminal, api: Api, approval: Object) -> str:
    """Show the call and take the person's word; a line about what came of it. LeftOpen, Overtaken."""
    unknown = approval["about"] == "unknown_outcome"
    terminal.say(f"\n? {clean(approval['tool'])}", "bold magenta")
    lines = shown_json(approval["arguments"], indent=2).splitlines()
    for line in lines[:ARGUMENTS_LINES_MAX]:
        terminal.say(f"    {line}")
    if len(lines) > ARGUMENTS_LINES_MAX:
        rest = f"{len(lines) - ARGUMENTS_LINES_MAX} more lines"
        terminal.say(f"    … {rest}: {api.command('approvals', approval['run_id'], '--json')}", "yellow")
    terminal.say(f"  {circumstances(approval)}", "dim")
    terminal.forget()
    while True:
        word, _, rest = terminal.line(f"  {_CHOICES_UNKNOWN if unknown else _CHOICES}:").partition(" ")
        try:
            body = _decision(terminal, word.lower(), rest.strip(), approval, unknown=unknown)
            if body is not None:
                return send_decision(api, approval, {**body, "args_sha256": approval["args_sha256"]})
            terminal.say("  a, a run (this very call again needs no further approval in this run), a session, d WHY,")
            terminal.say("  e (edit the arguments), l" if not unknown else "  r RESULT, l")
        except Refused as refused:
            terminal.say(f"  {clean(str(refused))}", "red")
            if refused.code in SETTLED:
                raise Overtaken from None
        except Failed as trouble:
            terminal.say(f"  {clean(str(trouble))}", "red")


def _decision(terminal: Terminal, word: str, rest: str, approval: Object, *, unknown: bool) -> Object | None:
    """The body to post, None when the word means nothing here. LeftOpen, Failed."""
    match word:
        case "a" | "approve" if rest in ("", "once", "run", "session"):
            return {"decision": "approve", **({"scope": rest} if rest else {})}
        case "d" | "deny":
            message = rest or terminal.line("  why (the model is told; may be empty):")
            return {"decision": "deny", **({"message": message} if message else {})}
        case "e" | "edit" if not unknown:
            edited = arguments_from(rest or _edited(terminal, approval), "what you typed")
            return {"decision": "edit", "edited_arguments": edited}
        case "r" | "respond" | "result" if unknown:
            return {"decision": "respond", "message": rest or terminal.line("  the result, as the model shall see it:")}
        case "l" | "later":
            raise LeftOpen
    return None


def _edited(terminal: Terminal, approval: Object) -> str:
    """The arguments as the person's editor leaves them; without an editor, a line."""
    if os.environ.get("VISUAL") or os.environ.get("EDITOR"):
        import click

        try:
            text = click.edit(shown_json(approval["arguments"], indent=2) + "\n", extension=".json")
        except click.ClickException as trouble:
            raise Failed(trouble.format_message()) from None
        if text is None:
            raise Failed("the editor saved nothing: nothing is changed")
        return text
    return terminal.line("  the arguments, as JSON on one line:")


def ask_questions(terminal: Terminal, api: Api, question: Object) -> str:
    """Ask each of its questions, and those again whose answers the API refuses; a line about it. LeftOpen,
    Overtaken."""
    terminal.forget()
    count = len(question["questions"])
    answers: Object = {}
    while True:
        for number, asked in enumerate(question["questions"], 1):
            if asked["id"] in answers:
                continue
            of = f"{number} of {count}: " if count > 1 else ""
            later = "" if answers else "  (Ctrl-D: later)"
            terminal.say(f"\n? {of}{clean(str(asked['question']))}{later}", "bold magenta")
            answers[asked["id"]] = _ask_one(terminal, asked)
        try:
            return send_answers(api, question, answers)
        except Refused as refused:
            terminal.say(f"  {clean(str(refused))}", "red")
            if refused.code in SETTLED or refused.status == 409:
                raise Overtaken from None
            for id_ in refused_answers(refused.problem, list(answers)):
                del answers[id_]


def refused_answers(problem: Object, ids: list[str]) -> list[str]:
    """The ids of the questions to ask again; all of them when the problem does not say which."""
    pointers = [str(error.get("pointer") or "") for error in problem.get("errors") or []]
    parts = [pointer.split("/")[2] for pointer in pointers if pointer.startswith("/answers/")]
    named = {part.replace("~1", "/").replace("~0", "~") for part in parts}
    return [id_ for id_ in ids if id_ in named] or ids


def _ask_one(terminal: Terminal, asked: Object) -> Any:
    options = options_of(asked)
    for number, (value, description) in enumerate(options, 1):
        about = f" – {one_line(description, QUESTION_CHARACTERS)}" if description else ""
        terminal.say(f"  {number:>2}  {one_line(_words(value), QUESTION_CHARACTERS)}{about}")
    while True:
        try:
            return answer_from(terminal.line(f"  {_how(asked)}:"), asked)
        except ValueError as trouble:
            terminal.say(f"  {trouble}", "yellow")


def _how(asked: Object) -> str:
    parts = []
    if asked.get("options"):
        parts.append("numbers, separated by commas" if asked.get("multiple") else "a number")
    if not asked.get("options") or asked.get("free_form"):
        parts.append(_KINDS.get((asked.get("answer_schema") or {}).get("type", "string"), "JSON"))
    default = f" (Enter: {one_line(_words(asked['default']), 60)})" if asked.get("default") is not None else ""
    return " or ".join(parts) + default


def answer_from(line: str, asked: Object) -> Any:
    """What a typed line means as the answer to one question. ValueError, with words for the person."""
    options = options_of(asked)
    if not line:
        if asked.get("default") is None:
            raise ValueError("this question has no default: please answer, or Ctrl-D for later")
        return asked["default"]
    if not asked.get("multiple"):
        return _choice(line, asked)
    parts = [part.strip() for part in line.split(",") if part.strip()] if options else [line]
    return [_choice(part, asked) for part in parts]


def _choice(text: str, asked: Object) -> Any:
    options = options_of(asked)
    if options and text.isdecimal() and 1 <= int(text) <= len(options):
        return options[int(text) - 1][0]
    if not options or asked.get("free_form"):
        return value_from(text, asked)
    for value, _ in options:
        if text.casefold() == _words(value).casefold():
            return value
    raise ValueError(f"{text!r} is none of the options: give one of the numbers 1 to {len(options)}")


def _words(value: Any) -> str:
    return value if isinstance(value, str) else shown_json(value)
