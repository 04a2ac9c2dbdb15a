"""What people are asked and told in a run, and what happens to its money: events as lines."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from perdure.cli.asked import (
    ARGUMENTS_CHARACTERS,
    QUESTION_CHARACTERS,
    answer_command,
    approval_commands,
    question_line,
    result_command,
    why,
)
from perdure.cli.client import Command
from perdure.cli.text import clean, one_line

Event = dict[str, Any]
Lines = list[tuple[str, str]]  # each with its style

LIMITS = {"max_cost_usd": "cost", "max_tokens": "tokens", "max_output_tokens": "output tokens"}

_DECIDED = {
    "approve": ("✓ {tool} is approved by {by}", "green"),
    "edit": ("✓ {tool} is approved with other arguments by {by}", "green"),
    "deny": ("✗ {tool} is denied by {by}", "red"),
    "respond": ("✓ {tool} is answered in its place by {by}", "green"),
}
_EXPIRED = {
    "deny": "nobody has decided in time: it is denied",
    "fail": "nobody has decided in time: the run ends",
    "escalate": "nobody has decided in time: it is escalated, and waits once more",
    "cancelled": "it is not asked any more",
}


class PeopleLines:
    """``command`` as in ``LineView``. Remembers which tool an approval is about."""

    def __init__(self, command: Command | None) -> None:
        self._command = command
        self._tools: dict[str, str] = {}
        self._answering = False  # a model has been asked: a user's message after that was sent to the running run

    def of(self, event: Event) -> Lines:
        """The lines of an event, none when it is nothing to show."""
        data, type_ = event["data"], event["type"]
        match type_.partition(".")[0]:
            case "approval":
                return self._approval(type_, data)
            case "question":
                return self._question(type_, data)
            case "inbox" | "message":
                return self._message(type_, data)
            case "budget":
                return _money(type_, data)
            case "timer" | "signal":
                return _time(type_, data)
            case "child":
                return _child(type_, data)
            case "agent":
                return [(f"⇒ {clean(data['from']['name'])} hands over to {clean(data['to']['name'])}", "cyan")]
            case "run":
                return self._status(type_, event)
            case "turn":
                self._answering = True
        return []

    def _approval(self, type_: str, data: Event) -> Lines:
        id_ = data["approval_id"]
        tool = self._tools.get(id_, id_)
        match type_:
            case "approval.requested":
                tool = self._tools[id_] = clean(data["tool"])
                if data["about"] == "unknown_outcome":
                    text = f"? {tool} was started, and nobody knows what became of it: what shall be done?"
                else:
                    arguments = one_line(data["arguments_preview"], ARGUMENTS_CHARACTERS)
                    because = f" ({why(data)})" if self._command else ""  # else it is asked here, and says why
                    text = f"? {tool} {arguments} needs an approval{because}"
                return [(text, "magenta"), *self._commands(approval_commands(id_, data["about"], self._words))]
            case "approval.voted":
                return [(f"✓ {_by(data)} approves {tool}; more approvals are needed", "green")]
            case "approval.decided":
                words, style = _DECIDED.get(data["decision"], ("✓ {tool} is decided by {by}", "green"))
                scope = f", for the whole {data['scope']}" if data.get("scope") in ("run", "session") else ""
                message = f": {one_line(data['message'], QUESTION_CHARACTERS)}" if data.get("message") else ""
                return [(words.format(tool=tool, by=_by(data)) + scope + message, style)]
            case "approval.expired":
                return [(f"✗ {tool}: {_EXPIRED.get(data['reason'], data['reason'])}", "yellow")]
        return []

    def _question(self, type_: str, data: Event) -> Lines:
        id_ = data["question_id"]
        match type_:
            case "question.asked" if self._command is None:
                return []  # they are about to be asked, one after another
            case "question.asked":
                questions = data["questions"]
                lines = [(f"? {question_line(each)}", "magenta") for each in questions]
                return lines + self._commands([("answer", answer_command(id_, questions, self._words))])
            case "question.answered":
                return [(f"✓ answered by {_by(data)}", "green")]
            case "question.expired":
                words = {"deny": "nobody has answered in time", **_EXPIRED, "answered": "the defaults are the answer"}
                return [(f"✗ the question is over: {words.get(data['reason'], data['reason'])}", "yellow")]
        return []

    def _message(self, type_: str, data: Event) -> Lines:
        match type_:
            case "inbox.accepted":
                return [(f"… a message has arrived ({data['delivery']})", "dim")]
            case "inbox.returned":
                return [(f"✗ a message is returned unread: {clean(str(data['reason']))}", "yellow")]
            case "message.added" if data["message"]["role"] == "user" and self._answering:
                texts = [block["text"] for block in data["message"]["content"] if block["type"] == "text"]
                return [(f"» {clean(text).strip()}", "bold") for text in texts]
        return []

    def _status(self, type_: str, event: Event) -> Lines:
        data, status = event["data"], type_.removeprefix("run.")
        reason = f": {clean(str(data['reason']))}" if data.get("reason") else ""
        match status:
            case "requires_action":
                results = [
                    ("answer", result_command(event["run_id"], action["call_id"], self._words))
                    for action in data.get("actions") or []
                    if action["type"] == "client_tool"
                ]
                return [(f"… waits for people or the client{reason}", "yellow"), *self._commands(results)]
            case "paused":
                line = [("go on", self._words("resume", event["run_id"]))]
                what, _, limit = str(data.get("reason") or "").partition(": ")
                if what == "budget_reached":
                    line = [("give more", self._words("budget", event["run_id"], budget_option(limit), "MORE"))]
                return [(f"… paused{reason}", "yellow"), *self._commands(line)]
            case "waiting" | "cancelling" | "resumed":
                return [(f"… {status}{reason}", "yellow")]
        return []

    def _words(self, *words: str) -> str:
        return "" if self._command is None else self._command(*words)

    def _commands(self, listed: list[tuple[str, str]]) -> Lines:
        return [] if self._command is None else [(f"    {what + ':':<13} {line}", "magenta") for what, line in listed]


def budget_option(limit: str) -> str:
    """Of `perdure budget`, the one that raises this limit."""
    return f"--{limit.removesuffix('_usd').replace('_', '-')}"


def _child(type_: str, data: Event) -> Lines:
    who = f"{clean(data['agent'])} {data['run_id']}"
    match type_:
        case "child.started":
            return [(f"→ agent {who}: {one_line(data['goal'], ARGUMENTS_CHARACTERS)}", "cyan")]
        case "child.completed":
            return [(f"← agent {who} {data['status']}: {one_line(data['preview'], ARGUMENTS_CHARACTERS)}", "green")]
        case "child.failed":
            why = f"{data['code']}: {one_line(data['message'], ARGUMENTS_CHARACTERS)}"
            return [(f"✗ agent {who} {data['status']} ({why})", "red")]
    return []


def _money(type_: str, data: Event) -> Lines:
    limit = LIMITS.get(str(data.get("limit")), str(data.get("limit") or ""))
    match type_:
        case "budget.warning":
            return [(f"! {data['percent']} % of the budget is spent ({limit})", "yellow")]
        case "budget.reached":
            return [(f"! the budget is reached ({limit}): it pays for no further call", "yellow")]
        case "budget.overrun":
            return [("! the vendor used more than the call was allowed; the ledger has it", "red")]
    return []


def _time(type_: str, data: Event) -> Lines:
    by = f" by {_by(data)}" if data.get("by") else ""
    match type_:
        case "timer.started":
            at = datetime.fromtimestamp(data["until_ms"] / 1_000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            reason = f": {one_line(str(data['reason']), QUESTION_CHARACTERS)}" if data.get("reason") else ""
            return [(f"… sleeps until {at}{reason}", "yellow")]
        case "timer.fired":
            return [(f"… wakes{by or ': it is time'}", "yellow")]
        case "timer.cancelled" if data.get("reason") != "run_ended":
            return [
                (f"… wakes: {'a message' if data['reason'] == 'message' else f'its sleep is cancelled{by}'}", "yellow")
            ]
        case "signal.received":
            return [(f"! signal {clean(str(data['name']))} ({data['urgency']}){by}: {data['disposition']}", "magenta")]
    return []


def _by(data: Event) -> str:
    return one_line(str(data.get("by") or "somebody"), 128)
