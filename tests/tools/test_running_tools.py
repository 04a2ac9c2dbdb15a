"""What happens when a tool runs: its result as text, its failures, its threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.tools import ToolTrouble, current_call, tool
from perdure.tools.port import ToolCallContext
from perdure.tools.threads import ToolThreads
from tests.tools.calls import a_call, asked


class Model(BaseModel):
    n: int


@dataclass
class Data:
    n: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain text", "plain text"),
        ("", ""),
        (None, "done"),
        (3, "3"),
        (True, "true"),
        ({"a": [1, None, "ü"]}, '{"a": [1, null, "ü"]}'),
        (Model(n=1), '{"n": 1}'),
        ([Data(n=2)], '[{"n": 2}]'),
        (Decimal("1.10"), '"1.10"'),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ({"k": "a\udfffb"}, '{"k": "a\ufffdb"}'),
    ],
)
async def test_a_result_reaches_the_model_as_text_or_json(value: object, text: str) -> None:
    @tool
    def give() -> object:
        return value

    assert await asked(give) == text


def _cycle() -> object:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def _deep() -> object:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: {"a": [float("-inf")]},
        lambda: b"\x00\xff",
        lambda: {"a": b"\xff"},
        _cycle,
        _deep,
        object,
        lambda: (n for n in iter(int, 1)),
        lambda: 10**5_000 and {"f": lambda: 1},
    ],
)
async def test_a_result_that_json_cannot_say_is_a_failure_the_model_sees(make: Callable[[], object]) -> None:
    @tool
    def give() -> object:
        return make()

    with pytest.raises(ToolTrouble) as trouble:
        await asked(give)
    assert trouble.value.code == "tool_result_invalid"
    assert not trouble.value.retryable


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "message", "code", "retryable"),
    [
        (ValueError("no such row"), "ValueError: no such row", "tool_error", False),
        (KeyError("x"), "KeyError: 'x'", "tool_error", False),
        (StopIteration(3), "StopIteration: 3", "tool_error", False),
        (AssertionError(), "AssertionError", "tool_error", False),
        (ConnectionResetError("gone"), "ConnectionResetError: gone", "tool_error", True),
        (TimeoutError("slow"), "TimeoutError: slow", "tool_error", True),
        (ValueError("a\ud800"), "ValueError: a\ufffd", "tool_error", False),
        (Unprintable(), "Unprintable: (its message cannot be read)", "tool_error", False),
        (SystemExit(1), "the tool tried to end the process: SystemExit: 1", "tool_exited", False),
        (KeyboardInterrupt(), "the tool tried to end the process: KeyboardInterrupt", "tool_exited", False),
        (asyncio.CancelledError("own"), "CancelledError: own", "tool_error", False),
        (ToolTrouble("later", code="busy", retryable=True), "later", "busy", True),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_a_tool_raises_is_its_failure_and_the_process_lives(
    error: BaseException, message: str, code: str, retryable: bool, kind: str
) -> None:
    @tool
    def blocking() -> None:
        raise error

    @tool
    async def waiting() -> None:
        await asyncio.sleep(0)
        raise error

    if kind == "async" and isinstance(error, StopIteration):
        message = "RuntimeError: coroutine raised StopIteration"
    with pytest.raises(ToolTrouble) as trouble:
        await asked(blocking if kind == "sync" else waiting)
    assert (trouble.value.message, trouble.value.code, trouble.value.retryable) == (message, code, retryable)


async def test_a_huge_error_message_is_cut() -> None:
    @tool
    def fail() -> None:
        raise ValueError("x" * 1_000_000)

    with pytest.raises(ToolTrouble) as trouble:
        await asked(fail)
    assert len(trouble.value.message) < 3_000


async def test_arguments_that_do_not_fit_never_reach_the_function() -> None:
    reached = []

    @tool
    def f(n: int) -> None:
        reached.append(n)

    with pytest.raises(ToolTrouble) as trouble:
        await f.run({"n": "1"}, a_call())
    assert trouble.value.code == "invalid_arguments"
    assert reached == []


async def test_a_tool_knows_the_call_it_runs_for() -> None:
    seen: list[ToolCallContext] = []

    def deeper() -> None:
        seen.append(current_call())

    @tool
    def blocking() -> None:
        deeper()

    @tool
    async def waiting() -> None:
        await asyncio.gather(asyncio.to_thread(deeper))

    call = a_call(attempt=2)
    await asked(blocking, call)
    await asked(waiting, call)
    assert seen == [call, call]
    assert (seen[0].run_id, seen[0].attempt, seen[0].idempotency_key) == ("run_1", 2, f"run_1:{call.call_id}")


async def test_parallel_calls_do_not_see_each_other() -> None:
    @tool
    async def whose() -> str:
        await asyncio.sleep(0.01)
        return current_call().call_id

    calls = [a_call() for _ in range(20)]
    assert await asyncio.gather(*(asked(whose, call) for call in calls)) == [call.call_id for call in calls]


def test_current_call_outside_a_call_says_what_is_wrong() -> None:
    with pytest.raises(LookupError, match="outside a tool call"):
        current_call()


async def test_a_default_is_the_functions_own() -> None:
    @tool
    def f(seen: list[int] = []) -> bool:  # noqa: B006  the point of the test
        return seen is f.function.__defaults__[0]  # type: ignore[index]

    assert await asked(f) == "true"


async def test_a_blocking_tool_keeps_nobody_else_waiting() -> None:
    @tool
    def block() -> str:
        time.sleep(0.3)
        return "late"

    threads = ToolThreads(4)
    began = time.monotonic()
    answers = await asyncio.gather(*(block.in_threads(threads).run({}, a_call()) for _ in range(4)))
    assert answers == ["late"] * 4
    assert time.monotonic() - began < 0.9  # one after the other would take 1.2


async def test_no_more_blocking_tools_run_at_once_than_there_are_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    threads = ToolThreads(3)
    await asyncio.gather(*(threads.run(work) for _ in range(12)))
    assert most == 3


async def test_the_wait_for_a_thread_counts_toward_the_timeout() -> None:
    threads, release = ToolThreads(1), threading.Event()
    holder = asyncio.create_task(threads.run(release.wait))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await threads.run(lambda: None)
    assert threads.abandoned == 0
    release.set()
    await holder


async def test_hung_tools_are_counted_and_replaced_up_to_a_bound_and_then_hold_their_place() -> None:
    threads, release = ToolThreads(1, abandoned_max=1), threading.Event()

    async def hang() -> None:
        async with asyncio.timeout(0.05):
            await threads.run(release.wait)

    with pytest.raises(TimeoutError):
        await hang()
    assert threads.abandoned == 1
    assert await threads.run(lambda: "replaced") == "replaced"
    with pytest.raises(TimeoutError):
        await hang()
    assert threads.abandoned == 2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await threads.run(lambda: "beyond the bound there is no place")
    release.set()
    assert await threads.run(lambda: "free again") == "free again"
    while threads.abandoned:
        await asyncio.sleep(0.01)


async def test_an_async_tool_that_swallows_its_cancellation_cannot_hold_its_caller() -> None:
    stop = asyncio.Event()

    @tool
    async def stubborn() -> str:
        while not stop.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return "at last"

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asked(stubborn)
    assert time.monotonic() - began < 3
    stop.set()
    await asyncio.sleep(0.1)


async def test_a_cancelled_async_tool_may_clean_up() -> None:
    cleaned = []

    @tool
    async def careful() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asked(careful)
    assert cleaned == [True]


def test_a_hung_tool_does_not_keep_the_process_from_ending() -> None:
    code = """
import asyncio, time
from perdure.tools.threads import ToolThreads
async def main():
    try:
        async with asyncio.timeout(0.1):
            await ToolThreads(1).run(lambda: time.sleep(60))
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "given up"


async def test_megabytes_of_arguments_and_results_are_ordinary() -> None:
    @tool
    def echo(text: str) -> dict[str, Any]:
        return {"text": text}

    text = "äb" * 1_000_000
    assert await asked(echo, text=text) == f'{{"text": "{text}"}}'
