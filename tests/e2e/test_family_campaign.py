"""A short campaign of ``family_campaign.py``: the budget of a tree is kept, and nobody is left, whoever dies."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.e2e.family_campaign import play
from tests.e2e.stack import Stack


def test_a_tree_whose_workers_are_killed_is_accounted_to_the_cent_and_leaves_no_orphan(
    build: Callable[..., Stack],
) -> None:
    found = play(build().start(worker=False), Random(7), 2)
    assert found.violations == []
    assert found.trees == 2
    assert found.kills > 0
