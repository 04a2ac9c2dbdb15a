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
from perdure.cli.evidence_limits import ApprovalEvidence, BudgetEvidence, Decided
from perdure.cli.proof import Proof


def test_a_run_survives_kill_9_twice_an_effect_waits_for_a_person_and_no_cent_is_overspent(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "perdure.cli", "demo", "--json"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    shown = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=170)
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
    approval, budget = report["approval"], report["budget"]
    assert (approval["effects_before"], approval["effects_after"]) == (0, 1)
    assert approval["own_decision"] == "insufficient_scope"
    assert approval["other_decision"] == "approval_already_resolved"
    assert float(budget["highest_usd"]) <= float(budget["limit_usd"]) == 0.03
    assert float(budget["vendor_bill_usd"]) > 0.01
    assert float(budget["assumed_usd"]) > 0
    assert float(budget["spent_usd"]) <= 0.03
    assert budget["last_words"].startswith("I was stopped by the budget.")
    assert report["total_seconds"] < 140
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


def approved(**more: Any) -> ApprovalEvidence:
    approval = {"id": "apv_1", "status": "approved", "call_id": "call_1", "args_sha256": "0" * 64, "decided_by": "ada"}
    events = [
        {**event(5, "approval.requested"), "at": "2026-11-24T10:00:00.000Z"},
        {**event(7, "approval.decided"), "at": "2026-11-24T10:00:01.000Z"},
        {**event(8, "tool.started"), "at": "2026-11-24T10:00:01.040Z"},
    ]
    good: dict[str, Any] = {"run": {"id": "run_1", "status": "completed"}, "events": events, "after": ["run_1:call_1"]}
    decided: dict[str, Any] = {"approval": approval, "before": [], "looked_seconds": 1.0, "again": dict(approval)}
    decided |= {"own_code": "insufficient_scope", "other_code": "approval_already_resolved"}
    decided |= {name: more.pop(name) for name in list(more) if name in decided}
    return ApprovalEvidence(**{**good, "decided": Decided(**decided), **more})


def entry(number: int, spent: str, reserved: str, amount: str = "0", kind: str = "reserved") -> dict[str, Any]:
    balance = {"spent": {"cost_usd": spent}, "reserved": {"cost_usd": reserved}}
    row = {"entry": number, "kind": kind, "amount": {"cost_usd": amount}, "balance": balance}
    return {**row, "assumed": number == 2}


LEDGER = [
    entry(1, "0", "0.004"),
    entry(2, "0.004", "0", "0.004", "settled"),  # its worker was lost
    entry(3, "0.004", "0.016"),
    entry(4, "0.016", "0", "0.012", "settled"),
]


def spent_up(**more: Any) -> BudgetEvidence:
    spent, reserved = more.pop("spent", "0.016"), more.pop("reserved", "0")
    budget = {"limit": {"max_cost_usd": "0.02"}, "spent": {"cost_usd": spent}, "reserved": {"cost_usd": reserved}}
    run = {
        "status": "incomplete",
        "stop_reason": "budget_reached",
        "budget": budget,
        "output_text": "I was stopped by the budget.",
        "id": "run_2",
    }
    good: dict[str, Any] = {
        "run": run,
        "ledger": LEDGER,
        "billed": [{"input": 4_000, "output": 1_000}, {"input": 4_000, "output": 0}],
        "lost": [{"input": 1_000, "output": 600}],
    }
    return BudgetEvidence(**{**good, **more})


def wrong(part: ApprovalEvidence | BudgetEvidence) -> list[str]:
    return [check.name for check in part.checks() if not check.ok]


def test_an_approval_and_a_budget_that_hold_are_accepted() -> None:
    assert wrong(approved()) == []
    assert wrong(spent_up()) == []
    assert approved().started_after_ms() == 40
    assert Proof(good(), approved(), spent_up()).ok


def test_an_effect_before_the_approval_or_twice_is_seen() -> None:
    assert wrong(approved(before=["run_1:call_1"])) == ["effects while it waited"]
    assert wrong(approved(after=["run_1:call_1"] * 2)) == ["effects in the end"]
    assert wrong(approved(after=[])) == ["effects in the end"]
    events = approved().events
    assert wrong(approved(events=[events[0], {**events[2], "seq": 6}, events[1]])) == ["tool started"]
    assert wrong(approved(events=events[:1])) == ["tool started"]


def test_a_decision_of_the_wrong_person_or_one_that_was_overruled_is_seen() -> None:
    assert wrong(approved(own_code="")) == ["approval by who asked for the run"]
    assert wrong(approved(other_code="")) == ["another decision after that"]
    assert wrong(approved(again={})) == ["approved by"]


def test_one_entry_over_the_limit_is_seen_and_so_is_a_missing_one() -> None:
    over = [*LEDGER[:2], entry(3, "0.004", "0.0160001"), LEDGER[3]]
    assert wrong(spent_up(ledger=over)) == ["spent and reserved, at each entry"]
    assert wrong(spent_up(ledger=[LEDGER[0], *LEDGER[1:2], LEDGER[3]])) == ["spent and reserved, at each entry"]
    assert "spent and reserved, at each entry" in wrong(spent_up(ledger=[]))


def test_a_bill_that_differs_from_the_ledger_is_seen() -> None:
    assert wrong(spent_up(billed=[{"input": 1, "output": 1}])) == ["the vendor's bill"]
    assert wrong(spent_up(lost=[{"input": 9_000, "output": 1}])) == ["a call lost with its worker"]
    assert wrong(spent_up(lost=[])) == ["a call lost with its worker"]
    assert wrong(spent_up(spent="0.012")) == ["spent in the end"]
    assert wrong(spent_up(reserved="0.001")) == ["spent in the end"]


def test_a_run_that_went_without_its_last_words_is_seen() -> None:
    run = {**spent_up().run, "output_text": "Number 2: I square it, and go on with the next."}
    assert wrong(spent_up(run=run)) == ["last words, from what was kept aside"]


def test_one_part_that_does_not_hold_is_enough() -> None:
    assert not Proof(good(), approved(), spent_up(billed=[])).ok
    assert not Proof(good(), approved(after=[]), spent_up()).ok
    assert Proof(good()).ok
