"""The blackboard of a tree of runs, on both databases: one for all, and each call writes once."""

from __future__ import annotations

import asyncio

import pytest
from ulid import ULID

from perdure.core.state import Outcome
from perdure.definitions import BOARD_ENTRIES_MAX
from perdure.store.journal import Journal
from perdure.store.trouble import BoardFull, NotFound, RunOver, StaleEntry
from tests.store.conftest import Open
from tests.store.runs import all_events, new_run
from tests.store.test_family import ask_for, child_of, parent_of, spawned


async def test_all_runs_of_a_tree_write_on_one_board_and_no_others_do(journal: Journal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    await ask_for(journal, child.id, "d1")
    grandchild = await spawned(journal, child, "d1", background=True)
    stranger = await new_run(journal)
    posted = [
        await journal.post_entry(run_id, "p1", f"by {name}", topic)
        for run_id, name, topic in (
            (root.id, "root", None),
            (child.id, "child", "facts"),
            (grandchild.id, "deep", None),
        )
    ]
    assert [(change.number, change.version, change.revision) for change in posted] == [(1, 1, 1), (2, 1, 2), (3, 1, 3)]
    boards = [await journal.read_board(run_id) for run_id in (root.id, child.id, grandchild.id)]
    assert boards[0] == boards[1] == boards[2]
    assert [(entry.text, entry.topic, entry.posted_run_id, entry.root_run_id) for entry in boards[0].entries] == [
        ("by root", None, root.id, root.id),
        ("by child", "facts", child.id, root.id),
        ("by deep", None, grandchild.id, root.id),
    ]
    assert {entry.posted_agent for entry in boards[0].entries} == {"clerk"}
    assert (await journal.read_board(stranger.id)).entries == []
    with pytest.raises(NotFound):
        await journal.update_entry(stranger.id, "u1", posted[0].entry_id, "mine now", None)
    with pytest.raises(NotFound):
        await journal.read_board("run_none")


async def test_anybody_of_the_tree_updates_and_removes_and_the_entry_says_who(journal: Journal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    made = await journal.post_entry(root.id, "p1", "first", "plan")
    changed = await journal.update_entry(child.id, "u1", made.entry_id, "second", 1)
    assert (changed.entry_id, changed.number, changed.version, changed.revision) == (made.entry_id, 1, 2, 2)
    board = await journal.read_board(root.id)
    ((entry,), revision) = (board.entries, board.revision)
    assert (entry.text, entry.topic, entry.posted_run_id, entry.changed_run_id, revision) == (
        "second", "plan", root.id, child.id, 2,
    )  # fmt: skip
    with pytest.raises(StaleEntry) as stale:
        await journal.update_entry(root.id, "u2", made.entry_id, "third", 1)
    assert stale.value.version == 2
    with pytest.raises(StaleEntry):
        await journal.remove_entry(root.id, "r1", made.entry_id, 1)
    removed = await journal.remove_entry(root.id, "r2", made.entry_id, 2)
    assert removed.revision == 3
    assert (await journal.read_board(child.id)).entries == []
    with pytest.raises(NotFound):
        await journal.remove_entry(root.id, "r3", made.entry_id, None)
    again = await journal.post_entry(root.id, "p2", "x", None)
    assert (again.number, again.revision) == (2, 4), "a number is never given again"


async def test_a_call_that_is_carried_out_again_changes_nothing_more_whatever_became_of_its_entry(
    journal: Journal,
) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    made = await journal.post_entry(root.id, "p1", "first", None)
    updated = await journal.update_entry(root.id, "u1", made.entry_id, "second", 1)
    assert await journal.post_entry(root.id, "p1", "first", None) == made
    assert await journal.update_entry(root.id, "u1", made.entry_id, "second", 1) == updated
    removed = await journal.remove_entry(child.id, "p1", made.entry_id, None)  # another run's call of the same name
    assert await journal.remove_entry(child.id, "p1", made.entry_id, None) == removed
    assert await journal.post_entry(root.id, "p1", "first", None) == made
    board = await journal.read_board(root.id)
    assert (board.entries, board.revision) == ([], 3)
    told = [event for event in await all_events(journal, root.id) if event.type.startswith("board.")]
    assert [(event.type, event.call_id) for event in told] == [("board.posted", "p1"), ("board.updated", "u1")]
    assert told[0].data == {"entry_id": made.entry_id, "number": 1, "version": 1, "revision": 1, "preview": "first"}
    (gone,) = [event for event in await all_events(journal, child.id) if event.type == "board.removed"]
    assert (gone.data["entry_id"], gone.data["preview"]) == (made.entry_id, "second")


async def test_a_full_board_takes_no_more_until_something_is_removed(journal: Journal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    made = [await journal.post_entry(root.id, f"p{n}", "x" * 2_000, None) for n in range(BOARD_ENTRIES_MAX)]
    with pytest.raises(BoardFull):
        await journal.post_entry(child.id, "p", "one more", None)
    await journal.update_entry(child.id, "u", made[7].entry_id, "shorter", None)
    await journal.remove_entry(child.id, "r", made[0].entry_id, None)
    assert (await journal.post_entry(child.id, "p", "one more", None)).number == BOARD_ENTRIES_MAX + 1
    assert len((await journal.read_board(root.id)).entries) == BOARD_ENTRIES_MAX


async def test_a_run_that_is_over_writes_nothing_and_others_go_on(journal: Journal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True, detached=True)
    await journal.record(root.id, "finish", [], Outcome("completed", "end"))
    with pytest.raises(RunOver):
        await journal.post_entry(root.id, "p1", "late", None)
    await journal.post_entry(child.id, "p1", "still here", None)
    assert [entry.text for entry in (await journal.read_board(root.id)).entries] == ["still here"]


async def test_writers_of_two_processes_at_once_lose_nothing_and_never_overfill(
    journal: Journal, open_another: Open
) -> None:
    calls = [f"c{number}" for number in range(4)]
    root = await parent_of(journal, *calls)
    children = [await journal.spawn_child(root.id, call, child_of(root, background=True)) for call in calls]
    other = await open_another()
    writers = [(journal if n % 2 else other, made.child.id) for n, made in enumerate(children) if made.child]

    async def post(number: int) -> int | None:
        where, run_id = writers[number % 4]
        try:
            return (await where.post_entry(run_id, f"p{number}", str(number), None)).number
        except BoardFull:
            return None

    found = await asyncio.gather(*map(post, range(BOARD_ENTRIES_MAX + 12)))
    numbers = sorted(number for number in found if number is not None)
    assert numbers == list(range(1, BOARD_ENTRIES_MAX + 1))
    board = await journal.read_board(root.id)
    assert (len(board.entries), board.revision) == (BOARD_ENTRIES_MAX, BOARD_ENTRIES_MAX)
    entry = board.entries[0]

    async def update(number: int) -> bool:
        where, run_id = writers[number % 4]
        try:
            await where.update_entry(run_id, f"u{number}", entry.id, str(number), 1)
        except StaleEntry:
            return False
        return True

    assert sum(await asyncio.gather(*map(update, range(12)))) == 1, "of those who have seen one version one wins"


async def test_text_that_is_hard_to_keep_is_kept(journal: Journal) -> None:
    root = await new_run(journal, run_id=f"run_{ULID()}")
    await journal.post_entry(root.id, "p1", "NUL \0, half \ud800, smile 😀", "t\0")
    (entry,) = (await journal.read_board(root.id)).entries
    assert (entry.text, entry.topic) == ("NUL �, half �, smile 😀", "t�")
