"""A short version of the budget campaign; ``make campaign`` plays the whole one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.e2e.budget_campaign import play
from tests.e2e.stack import Stack


def test_no_ledger_exceeds_its_limits_while_workers_are_killed(build: Callable[..., Stack]) -> None:
    found = play(build().start(worker=False), Random(7), 12)
    print(f"[measured] {found}")
    assert found.violations == []
    assert found.kills >= 2
    assert found.runs == 12
