"""`perdure demo` holds, and its evidence would tell if it did not. Needs a real Temporal dev server."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.evidence import Evidence, Kill


def test_a_run_survives_kill_9_of_its_worker_twice_and_of_temporal(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "perdure.cli", "demo", "--json"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    shown = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    report = json.loads(shown.stdout)
    assert report["ok"]
    assert report["status"] == "completed"
    assert report["model_calls"]["paid_twice"] == 0
    assert report["model_calls"]["asked"] > report["model_calls"]["completed"] == 5
    assert list(report["tool_effects"].values()) == [1]
    assert report["events"]["gap_free"]
    assert report["events"]["identical_on_replay"]
    assert [kill["what"] for kill in report["kills"]] == ["worker-1", "temporal", "worker-1"]
    assert all(kill["recovered_seconds"] < 15 for kill in report["kills"])
    assert report["total_seconds"] < 120
    assert list(tmp_path.glob("perdure-demo-*")) == []  # nothing is left behind


def event(seq: int, type_: str, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "type": type_, "call_id": "model-1", "attempt": 1, "data": data}


def good() -> Evidence:
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    events = [
        event(1, "model.started", attempt=1),
        event(2, "text.delta", text="Hi"),
        event(3, "message.added", message=message),
        {**event(4, "tool.completed"), "call_id": "call_1"},
    ]
    return Evidence(
        run={"id": "run_1", "status": "completed", "last_seq": 4},
        live=events,
        replayed=copy.deepcopy(events),
        steps=[
            {"kind": "model", "name": "m", "key": "model-1", "status": "completed"},
            {"kind": "tool", "name": "demo_effect", "key": "call_1", "status": "completed"},
        ],
        vendor={"run_1:model-1": {"asked": 2, "completed": 1}},
        effects=["run_1:call_1"],
        kills=[Kill("worker-1", 1, "now", 1.0, 2.0)],
        kills_wanted=1,
        total_seconds=3.0,
    )


def failing(evidence: Evidence) -> list[str]:
    assert not evidence.judge()
    return [check.name for check in evidence.checks if not check.ok]


def test_good_evidence_is_accepted() -> None:
    assert good().judge()


def test_an_answer_that_was_paid_twice_is_seen() -> None:
    evidence = good()
    evidence.vendor = {"run_1:model-1": {"asked": 2, "completed": 2}}
    assert "model calls paid twice" in failing(evidence)


@pytest.mark.parametrize("effects", [["run_1:call_1"] * 2, [], ["run_1:other"]])
def test_an_effect_that_was_repeated_or_lost_is_seen(effects: list[str]) -> None:
    evidence = good()
    evidence.effects = effects
    assert failing(evidence) == ["effects of demo_effect, per call"]


def test_a_gap_a_repetition_and_a_different_replay_are_seen() -> None:
    evidence = good()
    del evidence.live[1]
    assert {"events at the reader", "replay of the events"} <= set(failing(evidence))
    evidence = good()
    evidence.live.append(evidence.live[-1])
    assert "events at the reader" in failing(evidence)
    evidence = good()
    evidence.replayed[1]["data"]["text"] = "Ho"
    assert failing(evidence) == ["replay of the events"]


def test_text_that_mixes_attempts_is_seen() -> None:
    evidence = good()
    for events in (evidence.live, evidence.replayed):
        events[1]["data"]["text"] = "HaHi"
    assert failing(evidence) == ["answers equal to what streamed"]


def test_a_kill_that_was_not_survived_and_one_that_did_not_happen_are_seen() -> None:
    evidence = good()
    evidence.kills[0].recovered_seconds = None
    assert failing(evidence) == ["kills survived"]
    evidence = good()
    evidence.kills_wanted = 2
    assert failing(evidence) == ["kills survived"]


def test_a_run_that_did_not_complete_is_seen() -> None:
    evidence = good()
    evidence.run["status"] = "failed"
    assert failing(evidence) == ["run"]
