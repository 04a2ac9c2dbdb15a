"""What `perdure demo` claims, computed from what others wrote down: the reader's events, the journal's replay,
the vendors' log, the file of effects. Pure: it looks nothing up itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass
class Kill:
    """One SIGKILL. ``at_seconds`` and ``recovered_seconds`` count on the demo's clock and from the kill."""

    what: str
    pid: int
    when: str
    at_seconds: float
    recovered_seconds: float | None = None


@dataclass(frozen=True)
class Check:
    """One line of the closing table."""

    name: str
    found: str
    ok: bool


@dataclass
class Evidence:
    """``live`` are the events as the SSE reader got them, ``replayed`` as the journal gives them afterwards.
    ``vendor`` is the scripted vendors' count by request key, None with a real vendor. ``effects`` are
    the idempotency keys in the file of effects, a line each."""

    run: Object
    live: list[Object]
    replayed: list[Object]
    steps: list[Object]
    vendor: dict[str, dict[str, int]] | None
    effects: list[str]
    kills: list[Kill]
    kills_wanted: int
    checks: list[Check] = field(default_factory=list)

    def judge(self) -> bool:
        """Fill ``checks``; whether all of them hold."""
        self.checks = [
            self._status(),
            *self._model_calls(),
            self._effects(),
            self._tool_calls(),
            self._gap_free(),
            self._replay(),
            self._text(),
            self._kills(),
        ]
        return all(check.ok for check in self.checks)

    def _status(self) -> Check:
        return Check("run", self.run["status"], self.run["status"] == "completed")

    def _model_calls(self) -> list[Check]:
        models = [step for step in self.steps if step["kind"] == "model"]
        completed = sum(step["status"] == "completed" for step in models)
        journal = Check(
            "model calls in the journal", f"{completed} of {len(models)} completed", completed == len(models)
        )
        if self.vendor is None:
            return [journal]
        asked, done = (sum(row[name] for row in self.vendor.values()) for name in ("asked", "completed"))
        twice = sum(1 for row in self.vendor.values() if row["completed"] > 1)
        return [
            journal,
            Check("model calls asked of the vendor", f"{asked} (those cut by a kill are asked again)", asked >= done),
            Check("model calls completed by the vendor", str(done), done == len(models) == len(self.vendor)),
            Check("model calls paid twice", str(twice), twice == 0),
        ]

    def _effects(self) -> Check:
        counts = Counter(self.effects)
        calls = [step for step in self.steps if step["name"] == "demo_effect"]
        keys = {f"{self.run['id']}:{step['key']}" for step in calls}
        each = ", ".join(str(count) for count in counts.values()) or "none"
        return Check(
            "effects of demo_effect, per call", each, bool(calls) and set(counts) == keys and max(counts.values()) == 1
        )

    def _tool_calls(self) -> Check:
        tools = [step for step in self.steps if step["kind"] == "tool"]
        done = sum(step["status"] == "completed" for step in tools)
        return Check(
            "tool calls", f"{done} of {len(tools)} completed, one result each", done == len(tools) == self._results()
        )

    def _results(self) -> int:
        ended = [event["call_id"] for event in self.replayed if event["type"] == "tool.completed"]
        return len(ended) if len(set(ended)) == len(ended) else -1

    def _gap_free(self) -> Check:
        seqs = [event["seq"] for event in self.live]
        whole = seqs == list(range(1, self.run["last_seq"] + 1))
        return Check(
            "events at the reader", f"1 to {seqs[-1] if seqs else 0}, " + ("no gap" if whole else "WITH GAPS"), whole
        )

    def _replay(self) -> Check:
        same = self.live == self.replayed
        return Check("replay of the events", "identical" if same else "DIFFERENT", same)

    def _text(self) -> Check:
        """What streamed in the attempt that answered, against the answer; a cut attempt's text is not in it."""
        streamed: dict[tuple[str, int], str] = {}
        good = answers = 0
        answering: tuple[str, int] | None = None
        for event in self.live:
            match event["type"]:
                case "model.started":
                    answering = (event["call_id"], event["attempt"])
                case "text.delta":
                    key = (event["call_id"], event["attempt"])
                    streamed[key] = streamed.get(key, "") + event["data"]["text"]
                case "message.added" if event["data"]["message"]["role"] == "assistant" and answering:
                    content = event["data"]["message"]["content"]
                    answers += 1
                    good += streamed.get(answering, "") == "".join(b["text"] for b in content if b["type"] == "text")
        return Check("answers equal to what streamed", f"{good} of {answers}", good == answers > 0)

    def _kills(self) -> Check:
        recovered = [kill for kill in self.kills if kill.recovered_seconds is not None]
        return Check("kills survived", f"{len(recovered)} of {self.kills_wanted}", len(recovered) == self.kills_wanted)

    def document(self) -> Object:
        vendor = self.vendor
        counts = Counter(self.effects)
        return {
            "run_id": self.run["id"],
            "model": self.run["agent"]["model"],
            "status": self.run["status"],
            "model_calls": None
            if vendor is None
            else {
                "asked": sum(row["asked"] for row in vendor.values()),
                "completed": sum(row["completed"] for row in vendor.values()),
                "paid_twice": sum(1 for row in vendor.values() if row["completed"] > 1),
            },
            "tool_effects": dict(counts),
            "events": {
                "last_seq": self.run["last_seq"],
                "gap_free": self._gap_free().ok,
                "identical_on_replay": self._replay().ok,
            },
            "kills": [
                {
                    "what": kill.what,
                    "pid": kill.pid,
                    "when": kill.when,
                    "at_seconds": round(kill.at_seconds, 2),
                    "recovered_seconds": None if kill.recovered_seconds is None else round(kill.recovered_seconds, 2),
                }
                for kill in self.kills
            ],
            "usage": self.run["usage"],
        }
