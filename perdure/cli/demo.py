"""`perdure demo`: a run over HTTP survives kill -9 of its worker, twice, and of Temporal, and proves it; then an
approval and a budget hold (``demo_limits.py``).

What happens is in ``Demo.strike``; what it proves is in ``evidence.py`` and ``evidence_limits.py``.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from perdure.cli.client import TERMINAL_EVENTS, Api, Object, Refused
from perdure.cli.demo_limits import hold_for_approval, run_into_the_budget
from perdure.cli.demo_tools import EFFECTS_FILE
from perdure.cli.evidence import Evidence, Kill
from perdure.cli.place import Up, read_up
from perdure.cli.proof import Proof, print_proof
from perdure.cli.supervisor import die_with_parent
from perdure.cli.text import one_line
from perdure.cli.trouble import Failed

SCRIPTED = "scripted/crash-demo"
STARTUP_SECONDS = 90.0  # a fresh machine compiles every module once
RUN_SECONDS = 110.0  # the whole demo promises two minutes
STOP_SECONDS = 45.0  # `perdure up` gives workers 35 s
PIECES_BEFORE_KILL = {True: 8, False: 3}  # of streamed text; a scripted model's short turns have fewer than eight
STRIKES = 3

INSTRUCTIONS = (
    "You carry out a task in steps and use the tools, one step after another: look at the clock, write a report of "
    "about ten sentences as text and store it with write_file as report.md, read it back, then call demo_effect with "
    "step 4. At the end sum up in three sentences. Do not ask back."
)
TASK = "Write a report, read it back, do the effect of step 4, and sum up."


@dataclass
class Demo:
    """One demonstration. ``say`` prints a line of progress."""

    model: str | None
    home: Path
    console: Console
    began: float = field(default_factory=time.monotonic)
    kills: list[Kill] = field(default_factory=list)
    live: list[Object] = field(default_factory=list)

    def say(self, text: str, style: str | None = None) -> None:
        line = f"[{time.monotonic() - self.began:5.1f} s] {text}"
        self.console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def run(self) -> Proof:
        """Everything, from the first process to the last question. The processes are gone afterwards."""
        self.say("starting Temporal, a worker and the API" + ("" if self.model else ", and scripted model vendors"))
        process = self._start()
        try:
            up = self._wait_until_up(process)
            self.say(f"up: API {up['api_url']}, Temporal UI {up['temporal_ui_url']}")
            api = Api(up["api_url"])
            run_id = self._post(api)
            self.strike(api, run_id)
            proof = Proof(self._gather(api, run_id, up))
            if self.model is None and "vendors_url" in up:
                proof.approval = hold_for_approval(api.url, self._effects, self._kill_worker, self.say)
                proof.budget = run_into_the_budget(api.url, up["vendors_url"], self._kill_worker, self.say)
            proof.total_seconds = time.monotonic() - self.began
            return proof
        finally:
            self.say("stopping everything")
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_SECONDS)
            process.kill()
            process.wait()

    def strike(self, api: Api, run_id: str) -> None:
        """Follow the run and kill: the worker in the middle of an answer, Temporal between two turns, the
        worker in the middle of a tool call. Returns when the run has ended."""
        events: queue.Queue[Object | None] = queue.Queue()
        reader = threading.Thread(target=self._read, args=(api, run_id, events), daemon=True)
        reader.start()
        pieces = PIECES_BEFORE_KILL[self.model is None]
        streamed = 0
        waiting: tuple[Kill, set[str], str | None] | None = None  # the last kill, and what shows that it was survived
        struck: set[str] = set()
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            try:
                event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Failed(f"the run {run_id} did not end within {RUN_SECONDS:.0f} s; {self._logs()}") from None
            if event is None:
                raise Failed(f"the reader of the events gave up; {self._logs()}")
            self._tell(event)
            type_, call = event["type"], event.get("call_id")
            streamed = 0 if type_ == "model.started" else streamed + (type_ == "text.delta")
            if waiting and type_ in waiting[1] and waiting[2] in (None, call):
                kill = waiting[0]
                kill.recovered_seconds = time.monotonic() - self.began - kill.at_seconds
                self.say(f"→ the run goes on {kill.recovered_seconds:.1f} s after the kill", "green")
                waiting = None
            if waiting is None:
                if "model" not in struck and type_ == "text.delta" and streamed >= pieces:
                    struck.add("model")
                    waiting = (self._kill("worker-1", "in the middle of a model's answer"), {"model.started"}, call)
                elif "temporal" not in struck and "model" in struck and type_ == "turn.started":
                    struck.add("temporal")
                    waiting = (
                        self._kill("temporal", "while a model answers"),
                        {"tool.started", "turn.started", *TERMINAL_EVENTS},
                        None,
                    )
                elif "tool" not in struck and type_ == "tool.started" and event["data"]["tool"] == "demo_effect":
                    struck.add("tool")
                    self._wait_for_effect()
                    waiting = (
                        self._kill("worker-1", "in a tool call, after its effect, before its report"),
                        {"tool.started"},
                        call,
                    )
            if type_ in TERMINAL_EVENTS:
                self.say(f"run {type_.removeprefix('run.')}", "bold")
                return

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "perdure.cli", "up", "--json", "--home", str(self.home)]
        command += ["--api-port", "0", "--temporal-port", "0", "--ui-port", "0", "--workers", "1"]
        if self.model is None:
            command += ["--scripted"]
        # Whatever is configured here for other purposes: the demo has its own Temporal and its own journal.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
        if self.model is None:
            env = {name: value for name, value in env.items() if not name.startswith("PERDURE_")}
        env |= {
            "PERDURE_CONFIG": str(
                Path(os.environ.get("PERDURE_CONFIG", "perdure.toml") if self.model else "none").absolute()
            ),
            "PERDURE_DATABASE_URL": f"sqlite:///{self.home / 'journal.db'}",
            "PERDURE_BLOBS_URL": f"file://{self.home / 'blobs'}",
            "PERDURE_TOOLS": "perdure.cli.demo_tools",
            "TEMPORAL_CONFIG_FILE": str(self.home / "no-temporal.toml"),
            EFFECTS_FILE: str(self._effects_file),
        }
        with (self.home / "up.log").open("w") as log:
            return subprocess.Popen(
                command,
                env=env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
                preexec_fn=die_with_parent(os.getpid(), signal.SIGTERM),
            )

    def _wait_until_up(self, process: subprocess.Popen[str]) -> Up:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not (up := read_up(self.home)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"`perdure up` did not come up; {self._logs()}")
            time.sleep(0.05)
        return up

    def _post(self, api: Api) -> str:
        builtin = ["current_time", "write_file", "read_file", "list_files", "calculator"]
        agent = {"model": self.model or SCRIPTED, "instructions": INSTRUCTIONS, "tools": [*builtin, "demo_effect"]}
        run_id: str = api.post("/v1/runs", {"agent_inline": agent, "input": TASK})["id"]
        self.say(f"POST /v1/runs → 201 {run_id}; following its events")
        return run_id

    def _read(self, api: Api, run_id: str, events: queue.Queue[Object | None]) -> None:
        """In a thread: the reader is slow to nobody and remembers everything."""
        try:
            for event in Api(api.url).events(run_id):
                self.live.append(event)
                events.put(event)
        except Failed as trouble:
            self.say(str(trouble), "red")
            events.put(None)

    def _kill(self, name: str, when: str) -> Kill:
        up = read_up(self.home)
        pid = next((child["pid"] for child in up["children"] if child["name"] == name), None) if up else None
        if pid is None:
            raise Failed(f"there is no child {name} in up.json; {self._logs()}")
        os.kill(pid, signal.SIGKILL)
        kill = Kill(name, pid, when, time.monotonic() - self.began)
        self.kills.append(kill)
        self.say(f"✗ kill -9 {pid} ({name}), {when}", "red")
        return kill

    def _kill_worker(self, when: str) -> Kill:
        return self._kill("worker-1", when)

    def _wait_for_effect(self) -> None:
        """The most spiteful moment: the effect is there, and nobody knows of it yet."""
        deadline = time.monotonic() + 10  # it takes 1.5 s
        while not self._effects() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _tell(self, event: Object) -> None:
        data = event["data"]
        match event["type"]:
            case "model.started":
                self.say(f"model call {event['call_id']}, attempt {data['attempt']}")
            case "model.aborted":
                self.say(
                    f"  attempt {data['attempt']} of {event['call_id']} is void: readers are told to drop its text"
                )
            case "message.added" if data["message"]["role"] == "assistant":
                text = " ".join(block["text"] for block in data["message"]["content"] if block["type"] == "text")
                self.say(f"  answer: {one_line(text, 90)}")
            case "tool.started":
                self.say(f"tool {data['tool']}, attempt {data['attempt']}")
            case "tool.completed":
                self.say(f"  {data['tool']}: {one_line(data.get('preview', ''), 90)}")
            case "tool.failed" | "tool.unknown" | "tool.denied" | "run.failed" | "model.retrying":
                self.say(f"  {event['type']}: {one_line(json.dumps(data), 200)}", "yellow")

    def _gather(self, api: Api, run_id: str, up: Up) -> Evidence:
        run = api.get(f"/v1/runs/{run_id}")
        replayed: list[Object] = []
        while not replayed or replayed[-1]["type"] not in TERMINAL_EVENTS:
            page = api.get(f"/v1/runs/{run_id}/events", after=replayed[-1]["seq"] if replayed else 0, limit=100)["data"]
            if not page:
                break
            replayed += page
        vendor = None
        if self.model is None and "vendors_url" in up:
            counts = Api(up["vendors_url"]).get("/_scripted/summary")["by_request_key"]
            vendor = {key: row for key, row in counts.items() if key.startswith(run_id)}
        return Evidence(
            run=run,
            live=self.live,
            replayed=replayed,
            steps=api.get(f"/v1/runs/{run_id}/steps", limit=100)["data"],
            vendor=vendor,
            effects=self._effects(),
            kills=list(self.kills),
            kills_wanted=STRIKES if self.model is None else max(1, len(self.kills)),  # a real model may be too quick
        )

    @property
    def _effects_file(self) -> Path:
        return self.home / "effects.txt"

    def _effects(self) -> list[str]:
        try:
            return [line.split(" ", 1)[0] for line in self._effects_file.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _logs(self) -> str:
        with suppress(OSError):
            tail = "\n".join((self.home / "up.log").read_text().splitlines()[-15:])
            return f"logs are kept in {self.home}; the end of up.log:\n{tail}"
        return f"look into {self.home}"


def run_demo(*, model: str | None, keep: bool, as_json: bool) -> int:
    """0 when every check holds, 1 otherwise; the home is kept then, and with ``keep``."""
    home = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    console = Console(stderr=as_json, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log need not fit a window
    keep_home = True
    try:
        proof = Demo(model, home, console).run()
        keep_home = keep or not proof.ok
        if as_json:
            print(json.dumps(proof.document(home=str(home) if keep_home else None), indent=2))
        else:
            print_proof(proof, console)
        if keep_home:
            console.print(f"kept: {home}", markup=False, soft_wrap=True)
        return 0 if proof.ok else 1
    except Refused:  # a wrong model name, most likely: there is nothing to look at
        keep_home = keep
        raise
    except KeyboardInterrupt:
        keep_home = keep
        return 130
    finally:
        if not keep_home:
            shutil.rmtree(home, ignore_errors=True)
