"""A run's events for people. ``LiveView`` writes text as it streams, for a terminal; ``LineView`` writes what
is settled, one line each, for pipes and files. Both read the same events and never ask anything."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console

from perdure.cli.client import Command
from perdure.cli.people import PeopleLines
from perdure.cli.text import clean, one_line

Event = dict[str, Any]

ARGUMENTS_CHARACTERS = 100  # of a call, shown on its line
RESULT_CHARACTERS = 160  # of a result; `perdure show` has more

_STATUS_STYLE = {
    "completed": "green",
    "incomplete": "yellow",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "red",
    "running": "cyan",
    "cancelling": "yellow",
    "requires_action": "magenta",
    "paused": "yellow",
    "waiting": "cyan",
}


class View(Protocol):
    def show(self, event: Event) -> None: ...

    def note(self, text: str) -> None:
        """Something about the reading itself (an outage, a reconnection)."""
        ...


def status_style(status: str) -> str:
    return _STATUS_STYLE.get(status, "default")


class LineView:
    """Settled facts only: a message when it is whole, never a half that may be taken back. ``command`` makes the
    lines that resolve what a run waits for; without it they are not shown, for the person is asked instead."""

    def __init__(self, console: Console, command: Command | None = None) -> None:
        self._console = console
        self._people = PeopleLines(command)
        self._results: dict[str, str] = {}

    def note(self, text: str) -> None:
        self._line(f"… {text}", "dim")

    def show(self, event: Event) -> None:
        data = event["data"]
        match event["type"]:
            case "run.created":
                self._line(f"run {event['run_id']}", "dim")
            case "message.added" if data["message"]["role"] == "assistant":
                self._answer(event, data["message"])
            case "message.added" if data["message"]["role"] == "tool":
                for block in data["message"]["content"]:
                    self._results[block["call_id"]] = block["text"]
            case "model.aborted":
                self._aborted(event)
            case "model.retrying":
                self._line(
                    f"! model call failed ({data['code']}): {one_line(data['message'], RESULT_CHARACTERS)}; "
                    f"again in {data['retry_in_seconds']:g} s",
                    "yellow",
                )
            case "run.recovering":
                self._line("! a worker was lost; the run recovers", "yellow")
            case "run.recovered":
                self._line(f"✓ recovered after {data['after_ms'] / 1000:.1f} s", "green")
            case "tool.requested":
                self._line(f"→ {data['tool']} {one_line(data['arguments_preview'], ARGUMENTS_CHARACTERS)}", "cyan")
            case "tool.started" if data["attempt"] > 1:
                self._line(f"→ {data['tool']} again, attempt {data['attempt']}", "cyan")
            case "tool.retrying":
                self._line(
                    f"! {data['tool']} attempt {data['attempt']} is over ({data['code']}): {data['message']}", "yellow"
                )
            case "tool.completed":
                text = self._results.pop(event["call_id"], data.get("preview", ""))
                self._line(f"← {data['tool']} {one_line(text, RESULT_CHARACTERS)}", "green")
            case "tool.failed" | "tool.unknown" | "tool.denied" as type_:
                text = self._results.pop(event["call_id"], data.get("message", ""))
                what = type_.removeprefix("tool.")
                self._line(f"✗ {data['tool']} {what} ({data['code']}): {one_line(text, RESULT_CHARACTERS)}", "red")
            case "run.failed" | "run.incomplete" | "run.expired" | "run.cancelled" as type_:
                error = data.get("error") or {}
                why = f"{error['code']}: {clean(error['message'])}" if error else data.get("stop_reason") or ""
                self._line(f"✗ {type_.removeprefix('run.')}: {why}", "red")
            case _:
                for text, style in self._people.of(event):
                    self._line(text, style)

    def _answer(self, event: Event, message: Event) -> None:
        for block in message["content"]:
            if block["type"] == "text" and block["text"].strip():
                self._line(clean(block["text"]).strip(), None)

    def _aborted(self, event: Event) -> None:
        self._line(f"! {_cut(event)}{_next(event)}", "yellow")

    def _line(self, text: str, style: str | None) -> None:
        self._console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class LiveView(LineView):
    """Text as it comes. What an aborted attempt has shown cannot be unshown: it is marked as void before
    anything else is written, and the retry begins on a line of its own."""

    def __init__(self, console: Console, command: Command | None = None) -> None:
        super().__init__(console, command)
        self._open: tuple[str, int | None, int, str] | None = None  # call, attempt, block, kind: the line in progress
        self._shown: dict[int, str] = {}  # text by block, of the attempt in progress

    def show(self, event: Event) -> None:
        data = event["data"]
        match event["type"]:
            case "model.started":
                self._shown.clear()
            case "text.delta" | "reasoning.delta" as type_:
                here = (event["call_id"], event.get("attempt"), data["index"], type_)
                if here != self._open:
                    self._break()
                    self._open = here
                if type_ == "text.delta":
                    self._shown[data["index"]] = self._shown.get(data["index"], "") + data["text"]
                style = "dim italic" if type_ == "reasoning.delta" else None
                self._console.print(
                    clean(data["text"]), style=style, end="", markup=False, emoji=False, highlight=False, soft_wrap=True
                )
            case "tool_args.delta":
                pass  # the whole call is shown when it was asked for
            case _:
                super().show(event)

    def _answer(self, event: Event, message: Event) -> None:
        """Only what the live lane has not shown already: deltas may be pruned, or from another attempt."""
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        if texts != list(self._shown.values()):
            if any(self._shown.values()):
                self._line("! the text above is void; this is the answer:", "yellow")
            super()._answer(event, message)
        self._break()
        self._shown.clear()

    def _aborted(self, event: Event) -> None:
        if any(self._shown.values()) and event["data"].get("reason") != "interrupted":
            self._line(f"✗ {_cut(event)}: the text above is void{_next(event)}", "red")
        else:
            super()._aborted(event)
        self._shown.clear()

    def _line(self, text: str, style: str | None) -> None:
        self._break()
        super()._line(text, style)

    def _break(self) -> None:
        if self._open is not None:
            self._console.print()
            self._open = None


def _cut(event: Event) -> str:
    reason = event["data"].get("reason")
    why = {
        "lost": "its worker was lost",
        "failed": "the call failed",
        "cancelled": "the run was ended",
        "superseded": "a newer attempt answered first",
        "interrupted": "a message interrupted it; what was said stays in the transcript",
    }
    return f"attempt {event['data']['attempt']} of the answer was cut off ({why.get(str(reason), reason)})"


def _next(event: Event) -> str:
    """After a lost worker the next attempt begins at once. Whether a failed call is made again, `model.retrying`
    tells on a line of its own; one that was superseded is not."""
    return "; the model is asked again" if event["data"].get("reason") == "lost" else ""


def summary(run: Event, cost: str | None = None) -> str:
    """The closing line of a run object: turns, tokens, money (``cost``, where more is known of it), time."""
    usage = run["usage"]
    cost = cost or (f"${usage['cost_usd']}" if usage["cost_usd"] is not None else "price unknown")
    parts = [
        run["status"],
        f"{run['turns']} turn{'s' if run['turns'] != 1 else ''}",
        f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out",
        cost,
    ]
    if (seconds := duration_seconds(run)) is not None:
        parts.append(f"{seconds:.1f} s")
    return " · ".join([*parts, run["id"]])


def duration_seconds(run: Event) -> float | None:
    from datetime import datetime

    if not run["completed_at"]:
        return None
    begin, end = (datetime.fromisoformat(run[name]) for name in ("created_at", "completed_at"))
    return (end - begin).total_seconds()
