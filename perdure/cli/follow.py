"""A run as it happens, until it ends. On a terminal the person is asked right there what the run asks of people."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import dataclass

from rich.console import Console

from perdure.cli.asked import commands
from perdure.cli.client import Api, Object, Refused
from perdure.cli.render import LineView, LiveView, View, status_style, summary
from perdure.cli.terminal import LeftOpen, Overtaken, Terminal, ask_approval, ask_questions
from perdure.cli.trouble import Failed

EXIT_COMPLETED, EXIT_FAILED, EXIT_DETACHED = 0, 1, 130
UNREAD_EVENTS_MAX = 1_000  # then the reader waits: the journal keeps them
QUIET_SECONDS = 0.3  # without an event before a person is asked: a replay has come to its end by then


@dataclass(frozen=True)
class Note:
    """Something about the reading itself."""

    text: str


class Reader:
    """The events of a run, read in a thread. ``wake`` is readable while something waits to be taken: one byte of
    the pipe for each item of the queue."""

    def __init__(self, api: Api, run_id: str) -> None:
        self._api, self._run_id = api, run_id
        self._items: queue.Queue[Object | Note | Failed | None] = queue.Queue(UNREAD_EVENTS_MAX)
        self.wake, self._bell = os.pipe()
        threading.Thread(target=self._read, daemon=True).start()

    def take(self, timeout_seconds: float | None = None) -> Object | Note | None:
        """The next item; None after the last. ``queue.Empty`` after the timeout, Failed when reading has."""
        item = self._items.get(timeout=timeout_seconds)
        os.read(self.wake, 1)
        if isinstance(item, Failed):
            raise item
        return item

    def _read(self) -> None:
        try:
            for event in self._api.events(self._run_id, trouble=lambda why: self._put(Note(why))):
                self._put(event)
            self._put(None)
        except Failed as trouble:
            self._put(trouble)

    def _put(self, item: Object | Note | Failed | None) -> None:
        self._items.put(item)
        os.write(self._bell, b".")  # a pipe holds more bytes than the queue items


class Follower:
    """Shows a run. ``asks`` when there is a person at the keyboard."""

    def __init__(self, api: Api, run_id: str, *, as_json: bool) -> None:
        self._api, self._run_id, self._as_json = api, run_id, as_json
        self.console = Console(emoji=False, highlight=False)
        self.asks = not as_json and self.console.is_terminal and sys.stdin.isatty()
        command = None if self.asks else api.command
        self._view: View = (
            LiveView(self.console, command) if self.console.is_terminal else LineView(self.console, command)
        )
        self._reader = Reader(api, run_id)
        self._open: dict[str, str] = {}  # what waits for a person, by id: its path in the API
        self._left: set[str] = set()  # of these, what the person leaves open or has had a say in
        self._over = False

    def run(self) -> None:
        """Return when the run has ended."""
        while not self._over:
            due = next((id_ for id_ in self._open if id_ not in self._left), None) if self.asks else None
            try:
                self._show(self._reader.take(None if due is None else QUIET_SECONDS))
            except queue.Empty:
                assert due is not None, "only a due question sets a timeout"
                try:
                    self._ask(due)
                except Refused:
                    raise
                except Failed as outage:
                    self._left.discard(due)
                    self._view.note(str(outage))

    def waiting(self) -> list[str]:
        """The commands that resolve what the run still waits for."""
        if not self._open:
            return []
        asks = [self._api.get(f"{path}/{id_}") for id_, path in self._open.items()]
        return [line for ask in asks if ask["status"] == "open" for _, line in commands(ask, self._api.command)]

    def _show(self, item: Object | Note | None) -> None:
        match item:
            case None:
                self._over = True
            case Note(text):
                if self._as_json:
                    print(f"reconnecting: {text}", file=sys.stderr)
                else:
                    self._view.note(f"reconnecting to the API ({text})")
            case event:
                self._remember(event)
                if self._as_json:
                    print(json.dumps(event, ensure_ascii=False), flush=True)
                else:
                    self._view.show(event)

    def _remember(self, event: Object) -> None:
        data = event["data"]
        match event["type"]:
            case "approval.requested":
                self._open[data["approval_id"]] = "/v1/approvals"
            case "question.asked":
                self._open[data["question_id"]] = "/v1/questions"
            case "approval.expired" if data["reason"] == "escalate":
                pass
            case "approval.decided" | "approval.expired":
                self._open.pop(data["approval_id"], None)
            case "question.answered" | "question.expired":
                self._open.pop(data["question_id"], None)

    def _ask(self, id_: str) -> None:
        """One question to the person; whatever happens meanwhile is shown, and ends it when it settles it."""
        path = self._open[id_]
        ask = self._api.get(f"{path}/{id_}")
        self._left.add(id_)  # asked once; an event takes it away when it is settled
        if ask["status"] != "open":
            return

        def meanwhile() -> bool:
            try:
                while not self._over:
                    self._show(self._reader.take(0))
            except queue.Empty:
                pass
            return id_ in self._open and not self._over

        terminal = Terminal(self._reader.wake, meanwhile)
        ask_person = ask_approval if ask["type"] == "approval" else ask_questions
        try:
            self.console.print(ask_person(terminal, self._api, ask), style="dim", markup=False, soft_wrap=True)
        except Overtaken:
            self.console.print("  this is settled already", style="dim")
        except LeftOpen:
            for what, line in commands(ask, self._api.command):
                self.console.print(f"  left open; {what}: {line}", style="yellow", markup=False, soft_wrap=True)


def follow(api: Api, run_id: str, *, as_json: bool) -> int:
    """Show the run until it ends; Ctrl-C leaves it running, or waiting."""
    follower = Follower(api, run_id, as_json=as_json)
    try:
        follower.run()
        run = api.get(f"/v1/runs/{run_id}")
    except KeyboardInterrupt:
        watch, cancel = api.command("watch", run_id), api.command("cancel", run_id)
        print(f"\ndetached; the run goes on. Watch it: {watch}   Stop it: {cancel}", file=sys.stderr)
        try:
            for line in follower.waiting():
                print(f"it waits for: {line}", file=sys.stderr)
        except (Refused, Failed):
            pass  # `perdure approvals` tells
        return EXIT_DETACHED
    if not as_json:
        follower.console.print(summary(run), style=status_style(run["status"]), markup=False, soft_wrap=True)
    return EXIT_COMPLETED if run["status"] == "completed" else EXIT_FAILED
