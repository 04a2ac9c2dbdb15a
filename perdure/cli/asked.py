"""What people and clients are asked by a run, in words, and the exact commands that resolve it. Pure."""

from __future__ import annotations

from typing import Any

from perdure.cli.client import Command
from perdure.cli.text import ago, clean, one_line, shown_json, until

Object = dict[str, Any]

ARGUMENTS_CHARACTERS = 100  # of a call, shown on its line
QUESTION_CHARACTERS = 300  # of a question, on its line
WORDS = {"approval": "approval", "question": "question", "client_tool": "client tool call"}


def subject(ask: Object) -> str:
    """What is asked, on one line."""
    match ask["type"]:
        case "question":
            return one_line(" / ".join(str(each["question"]) for each in ask["questions"]), QUESTION_CHARACTERS)
        case _:
            arguments = shown_json(ask["arguments"])
            return f"{clean(ask['tool'])} {one_line(arguments, ARGUMENTS_CHARACTERS)}"


def circumstances(ask: Object) -> str:
    """Whose it is, since when and how long, and what else matters to who decides."""
    parts = [ask["run_id"], f"asked {ago(ask['created_at'])}", until(ask["expires_at"])]
    if ask["type"] == "approval":
        if ask["about"] == "unknown_outcome":
            parts.append("it was started, and nobody knows what became of it")
        else:
            parts.append(why(ask))
        if ask["quorum"] > 1:
            parts.append(f"{len(ask['votes'])} of {ask['quorum']} have approved")
        if ask["four_eyes"]:
            parts.append(f"not by {clean(ask['requested_by'] or 'who asked for the run')}")
        if ask["escalated"]:
            parts.append("escalated: nobody has decided in time")
    return " · ".join(parts)


def why(ruling: Object) -> str:
    """The rule that asks, and its reason if it has one."""
    rule, reason = clean(ruling["rule"]), one_line(ruling.get("reason") or "", QUESTION_CHARACTERS)
    if reason:
        return f"{rule}: {reason}"
    return f"asked by {rule}" if rule.partition("[")[0].endswith("rules") else f"rule {rule}"


def commands(ask: Object, command: Command) -> list[tuple[str, str]]:
    """Each way to resolve it: what it does, and the line to paste."""
    match ask["type"]:
        case "approval":
            return approval_commands(ask["id"], ask["about"], command)
        case "question":
            return [("answer", answer_command(ask["id"], ask["questions"], command))]
        case _:
            return [("answer", result_command(ask["run_id"], ask["call_id"], command))]


def approval_commands(approval_id: str, about: str, command: Command) -> list[tuple[str, str]]:
    if about == "unknown_outcome":
        return [
            ("run it again", command("approve", approval_id)),
            ("leave it", command("deny", approval_id)),
            ("its result", command("respond", approval_id, "RESULT")),
        ]
    return [("approve", command("approve", approval_id)), ("deny", command("deny", approval_id, "--message", "WHY"))]


def answer_command(question_id: str, questions: list[Object], command: Command) -> str:
    """VALUE stands for what the person has to say; without the pairs the command asks."""
    return command("answer", question_id, *(f"{each['id']}=VALUE" for each in questions))


def result_command(run_id: str, call_id: str, command: Command) -> str:
    return command("respond", run_id, "--call", call_id, "RESULT")


def recovery_commands(run_id: str, call_id: str, command: Command) -> list[tuple[str, str]]:
    """What can be done about a call that has begun and does not end."""
    return [
        ("run it again", command("retry", run_id, call_id)),
        ("give it up", command("abort", run_id, call_id, "--reason", "WHY")),
        ("its result", result_command(run_id, call_id, command)),
    ]


def options_of(question: Object) -> list[tuple[Any, str]]:
    """Each option's value and description (empty when it has none)."""
    return [
        (each["value"], str(each.get("description") or "")) if isinstance(each, dict) else (each, "")
        for each in question.get("options") or []
    ]


def question_line(question: Object) -> str:
    """The question with its options, on one line."""
    text = one_line(str(question["question"]), QUESTION_CHARACTERS)
    options = " | ".join(one_line(str(value), 60) for value, _ in options_of(question))
    return f"{text} [{options}]" if options else text
