"""What `perdure show` says of a run that waits. Needs nothing."""

from __future__ import annotations

import shlex
from typing import Any

from perdure.cli.show import stands
from perdure.cli.waits import wait_lines

SOON = "2026-12-01T00:00:00Z"


def command(*words: str) -> str:
    return shlex.join(["perdure", *words])


def said(*waits: tuple[str, str | None, str | None], **more: Any) -> list[str]:
    waiting_for = [{"type": type_, "ref": ref, "until": until} for type_, ref, until in waits]
    run = {"id": "run_1", "waiting_for": waiting_for, "pending_actions": more.get("asks", [])}
    return list(wait_lines(run, more.get("timers", []), more.get("steps", []), command))


def test_a_sleeper_says_until_when_and_what_for() -> None:
    timers = [{"id": "tmr_1", "reason": "the shop\nopens\x1b[2J"}]
    (line,) = said(("timer", "tmr_1", SOON), timers=timers)
    assert line.startswith(f'sleeps until {SOON} ("the shop opens')
    assert line.endswith('"): perdure fire run_1')
    assert "\x1b" not in line
    two = [*timers, {"id": "tmr_2", "reason": None}]
    assert said(("timer", "tmr_2", SOON), timers=two) == [f"sleeps until {SOON}: perdure fire run_1 tmr_2"]


def test_every_wait_comes_with_the_command_that_ends_it() -> None:
    poll = {"name": "poll", "ended_at": None, "arguments": {"tool": "look", "every_seconds": 5}}
    assert said(("event", "paid", SOON)) == [f"waits for event paid until {SOON}: perdure signal run_1 paid '{{…}}'"]
    assert said(("poll", None, None), steps=[poll]) == [
        "polls look every 5 s: a message ends it, perdure say run_1 '…'"
    ]
    assert said(("pause", None, None)) == ["is paused: perdure resume run_1"]
    assert said(("budget", "max_tokens", None)) == ["has reached max_tokens: perdure budget run_1 --max-tokens N"]
    assert said(("budget", "max_cost_usd", None)) == ["has reached max_cost_usd: perdure budget run_1 --max-cost USD"]
    assert said(("rate_limit", "look", None)) == ["waits for the rate limit of look; it goes on by itself"]
    assert said(("start", None, SOON)) == [
        f"waits for its start until {SOON}; it goes on by itself, or perdure cancel run_1"
    ]
    assert said(("children", "run_2", SOON), ("children", "run_3", SOON)) == [
        "waits for the agents run_2, run_3: perdure tree run_1"
    ]
    assert said(("approval", "apv_1", SOON), asks=[{"id": "apv_1"}]) == [], "it comes with its own commands"


def test_only_a_call_that_a_worker_runs_may_be_stuck() -> None:
    step = {"kind": "tool", "name": "wait_for_agents", "status": "started", "running": False, "ended_at": None}
    assert not stands(step)
    assert stands({**step, "running": True})
    assert not stands({**step, "kind": "model", "running": True})
