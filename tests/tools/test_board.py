"""The tools of the blackboard on a real journal: what a model reads, and what it can mend."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activities.boards import TreeBoard
from perdure.core.state import Json
from perdure.definitions import BOARD_ENTRIES_MAX
from perdure.store.sql import SqlJournal, open_journal
from perdure.tools.builtin.board import board_tools
from perdure.tools.port import ToolTrouble
from tests.store.runs import new_run
from tests.tools.calls import a_call, asked, named

TOOLS = board_tools()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqlJournal]:
    opened = await open_journal(f"sqlite:///{tmp_path / 'journal.db'}", tmp_path / "blobs")
    await new_run(opened, run_id="run_1")
    yield opened
    await opened.close()


async def use(
    journal: SqlJournal, name: str, arguments: Mapping[str, Json] | None = None, call: str | None = None
) -> Any:
    context = replace(a_call(call_id=call), board=TreeBoard(journal, "run_1"))
    return json.loads(await asked(named(TOOLS, name), context, **(arguments or {})))


async def test_an_entry_is_posted_read_changed_and_taken_off(journal: SqlJournal) -> None:
    made = await use(journal, "board_post", {"text": "The mill is shut.", "topic": "facts"})
    assert {name: made[name] for name in ("number", "version", "revision")} == {
        "number": 1,
        "version": 1,
        "revision": 1,
    }
    board = await use(journal, "board_read")
    (entry,) = board["entries"]
    assert (board["revision"], entry["id"], entry["text"], entry["topic"]) == (
        1, made["id"], "The mill is shut.", "facts",
    )  # fmt: skip
    assert (entry["posted_by"]["agent"], entry["posted_by"]["run_id"]) == ("clerk", "run_1")
    assert "updated_by" not in entry
    await use(journal, "board_update", {"id": made["id"], "text": "It is open.", "version": 1})
    await use(journal, "board_post", {"text": "More"})
    news = await use(journal, "board_read", {"since": 2})
    assert ([one["text"] for one in news["entries"]], news["on_the_board"]) == (["More"], [1, 2])
    (changed, _) = (await use(journal, "board_read"))["entries"]
    assert (changed["text"], changed["version"], changed["updated_by"]["run_id"]) == ("It is open.", 2, "run_1")
    await use(journal, "board_remove", {"id": made["id"]})
    gone = await use(journal, "board_read", {"since": 3})
    assert (gone["revision"], gone["entries"], gone["on_the_board"]) == (4, [], [2])


async def test_another_attempt_of_a_call_posts_nothing_more_and_tells_the_same(journal: SqlJournal) -> None:
    first = await use(journal, "board_post", {"text": "once"}, "call_p")
    await use(journal, "board_remove", {"id": first["id"]}, "call_r")
    assert await use(journal, "board_post", {"text": "once"}, "call_p") == first
    assert (await use(journal, "board_read"))["entries"] == []


async def test_what_cannot_be_is_told_in_words_and_codes_that_a_model_can_act_on(journal: SqlJournal) -> None:
    made = await use(journal, "board_post", {"text": "one"})
    await use(journal, "board_update", {"id": made["id"], "text": "two"})
    wrong: list[tuple[str, dict[str, Json], str, str]] = [
        ("board_update", {"id": made["id"], "text": "x", "version": 1}, "stale_entry", "is at version 2 now: read it"),
        ("board_remove", {"id": made["id"], "version": 1}, "stale_entry", "is at version 2 now: read it"),
        ("board_update", {"id": "brd_none", "text": "x"}, "entry_not_found", "board_read shows those there are"),
        ("board_remove", {"id": "brd_none"}, "entry_not_found", "board_read shows those there are"),
    ]
    for name, arguments, code, words in wrong:
        with pytest.raises(ToolTrouble, match=words) as trouble:
            await use(journal, name, arguments)
        assert (trouble.value.code, trouble.value.retryable) == (code, False)
    for number in range(BOARD_ENTRIES_MAX - 1):
        await use(journal, "board_post", {"text": str(number)})
    with pytest.raises(ToolTrouble, match="60 entries, as many as it may have: update or remove one") as full:
        await use(journal, "board_post", {"text": "one more"})
    assert full.value.code == "board_full"


def test_text_that_is_too_long_or_empty_is_refused_before_anything_happens() -> None:
    post, update = named(TOOLS, "board_post"), named(TOOLS, "board_update")
    assert post.problem({"text": "x" * 2_000, "topic": "y" * 64}) is None
    for tool, arguments in (
        (post, {"text": "x" * 2_001}),
        (post, {"text": ""}),
        (post, {"text": "x", "topic": "y" * 65}),
        (update, {"id": "brd_1", "text": "x" * 2_001}),
        (update, {"id": "brd_1", "text": "x", "version": 0}),
    ):
        assert tool.problem(arguments), arguments  # type: ignore[arg-type]
    assert "2000" in (post.problem({"text": "x" * 2_001}) or "")
