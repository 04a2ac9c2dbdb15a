"""Many writers at once, in tasks and in processes: no gap, nothing twice, and everybody hears of it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.notify import Followers, SocketNotifier, socket_folder
from perdure.store.rows import Delta, NewMessage, ToolCommit
from perdure.store.sql import open_journal
from perdure.store.trouble import NotFound, RunOver
from tests.store.conftest import Open
from tests.store.runs import ASK, MODEL, all_events, asks, begin, new_run, outbox, types


async def start_writer(sql_url: str, blobs: Path, run_id: str, name: str, count: int) -> asyncio.subprocess.Process:
    """A process that is ready to write and waits for a line on its standard input."""
    command = [sys.executable, "-m", "tests.store.second_process", sql_url, str(blobs), run_id, name, str(count)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


def go(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")


async def test_many_writers_in_tasks_and_processes_leave_no_gap_and_write_each_key_once(
    journal: Journal, sql_url: str, blob_folder: Path
) -> None:
    count = 60
    run = await new_run(journal)
    await begin(journal, run.id)
    others = [await start_writer(sql_url, blob_folder, run.id, name, count) for name in "ab"]
    for other in others:
        go(other)

    async def one(n: int) -> None:
        journal.live(Delta(run.id, "model-1", 1, "text.delta", f"[c{n}]"))
        await journal.record(run.id, f"r-c-{n}", [outbox(key=f"shared-{n}", n=n), outbox(key=f"c-{n}", n=n)], None)

    await asyncio.gather(*(one(n) for n in range(count)))
    await journal.flush_live(run.id, "model-1")
    for other in others:
        assert await asyncio.wait_for(other.wait(), 30) == 0
    seen = await types(journal, run.id)
    assert seen.count("log") == count * 4
    deltas = await all_events(journal, run.id, types=["text.delta"])
    text = "".join(str(event.data["text"]) for event in deltas)
    assert sorted(text[1:-1].split("][")) == sorted(f"{name}{n}" for name in "abc" for n in range(count))


async def test_many_runs_are_written_at_once_without_a_deadlock(journal: Journal, open_another: Open) -> None:
    journals = [journal, await open_another()]
    runs = [await new_run(journal) for _ in range(6)]
    for run in runs:
        await begin(journal, run.id)

    async def writer(by: Journal) -> None:
        for n in range(10):
            for run in runs:
                by.live(Delta(run.id, "model-1", 1, "text.delta", f"{n} "))
            await asyncio.gather(*(by.record(run.id, f"r{n}", [outbox()], None) for run in runs))

    await asyncio.gather(*(writer(by) for by in journals * 2))
    for run in runs:
        for by in journals:
            await by.flush_live(run.id, "model-1")
        seen = await types(journal, run.id)
        assert seen.count("log") == 40
        said = "".join(str(e.data["text"]) for e in await all_events(journal, run.id, types=["text.delta"]))
        assert sorted(said.split()) == sorted(str(n) for n in range(10) for _ in range(4))


async def test_a_follower_hears_what_another_process_commits(journal: Journal, sql_url: str, blob_folder: Path) -> None:
    run, quiet = await new_run(journal), await new_run(journal)
    await begin(journal, run.id)
    other = await start_writer(sql_url, blob_folder, run.id, "a", 1)
    async with journal.follow(run.id) as follower, journal.follow(quiet.id) as nobody:
        while await follower.wait(0.3):
            pass
        while await nobody.wait(0.01):
            pass
        go(other)
        while not (logged := await all_events(journal, run.id, types=["log"])):
            assert await follower.wait(10), "nobody told us"
        assert time.time() * 1_000 - logged[0].at_ms < 1_000
        assert not await nobody.wait(0.05)
    assert await asyncio.wait_for(other.wait(), 30) == 0


async def test_a_burst_of_commits_wakes_every_follower(tmp_path: Path) -> None:
    """More notices than a socket's queue holds, while its owner is busy: nobody is forgotten."""
    followers = Followers()
    hearing, telling = (SocketNotifier(tmp_path / "journal.db", some) for some in (followers, Followers()))
    await hearing.listen()
    runs = [f"run_{n}" for n in range(2_000)]
    waiting = [followers.add(run) for run in runs]
    telling.committed(runs)  # nothing is read before this returns: reader and writer share the loop
    assert all([await follower.wait(1) for follower in waiting])
    await hearing.close()
    await telling.close()


async def test_a_follower_that_died_is_forgotten_by_the_next_commit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    code = (
        "import asyncio, os, pathlib, sys\n"
        "from perdure.store.sql import open_journal\n"
        "async def main():\n"
        "    journal = await open_journal(sys.argv[1], pathlib.Path('unused'))\n"
        "    async with journal.follow('run_x'):\n"
        "        os._exit(0)\n"
        "asyncio.run(main())"
    )
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", code, url)
    assert await dead.wait() == 0
    folder = socket_folder(tmp_path / "journal.db")
    assert len(list(folder.iterdir())) == 1
    journal = await open_journal(url, tmp_path / "blobs")
    await new_run(journal)
    assert list(folder.iterdir()) == []
    await journal.close()
    assert not folder.exists()


action = st.one_of(
    st.tuples(st.just("record"), st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("live"), st.integers(1, 3), st.text(max_size=5)),
    st.tuples(st.just("begin_model"), st.just(0), st.just(0)),
    st.tuples(st.just("commit_model"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("begin_tool"), st.booleans(), st.just(0)),
    st.tuples(st.just("commit_tool"), st.just(0), st.just(0)),
    st.tuples(st.just("message"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("end"), st.just(0), st.just(0)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(action, max_size=25), st.integers(1, 7))
def test_whatever_happens_every_replay_tells_the_same_story(tmp_path: Path, actions: list[tuple], page: int) -> None:  # type: ignore[type-arg]
    """Anything in any order, much of it twice: the numbers have no gap, keys and messages come once, what
    was read once is read the same later, and pages of any size add up to the whole."""

    async def story() -> None:
        journal = await open_journal(f"sqlite:///{tmp_path / 'story.db'}", tmp_path / "blobs")
        run = await new_run(journal)
        read = await all_events(journal, run.id)
        for kind, a, b in actions:
            try:
                match kind:
                    case "record":
                        await journal.record(run.id, "r", [outbox(key=f"k{a}"), outbox(key=f"k{b}")], None)
                    case "live":
                        journal.live(Delta(run.id, "model-1", a, "text.delta", b))
                    case "begin_model":
                        await journal.begin_model(
                            run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK, apply=((1, 2),)
                        )
                    case "commit_model":
                        await journal.flush_live(run.id, "model-1")
                        await journal.commit_model(run.id, "model-1", a, asks("call_1"))
                    case "begin_tool":
                        await journal.begin_tool(run.id, "call_1", worker="w", may_repeat=a)
                    case "commit_tool":
                        await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "done"))
                    case "message":
                        await journal.accept_message(run.id, NewMessage(f"msg_{a}", [], "steer"))
                    case "end":
                        await journal.record(run.id, "finish", [], Outcome("completed", "end"))
            except (RunOver, NotFound):
                pass
            again = await all_events(journal, run.id)
            assert again[: len(read)] == read
            read = again
        await journal.flush_live(run.id, "model-1")
        await types(journal, run.id)
        events = await all_events(journal, run.id)
        numbers = [event.data["message"]["number"] for event in events if event.type == "message.added"]  # type: ignore[index, call-overload]
        assert numbers == list(range(1, len(numbers) + 1))
        paged: list[object] = []
        while rows := await journal.read_events(run.id, after=len(paged), limit=page):
            paged += rows
        assert paged == events
        if (await journal.get_run(run.id)).status == "completed":
            assert [event.type for event in events].index("run.completed") == len(events) - 1
        await journal.close()

    asyncio.run(story())
