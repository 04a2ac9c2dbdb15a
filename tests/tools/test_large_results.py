"""Large results: the preview a model sees, and reading on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tools import ToolLimits, ToolTrouble
from perdure.tools.builtin.results import result_tools
from perdure.tools.spool import preview
from tests.tools.calls import a_call, asked


def test_a_preview_shows_the_ends_and_says_how_to_read_on() -> None:
    text = "".join(f"line {number:06}\n" for number in range(10_000))
    shown = preview(text, "blob_1", len(text))
    assert shown.startswith("line 000000\n")
    assert "line 009999\n" in shown
    assert len(shown) < 3_000
    assert '120000 bytes and is kept as blob "blob_1"' in shown
    assert 'read_result {"blob": "blob_1", "offset": BYTES, "length": BYTES}' in shown


@given(st.text(min_size=0, max_size=200), st.integers(1, 60))
def test_a_preview_is_valid_text_and_leaves_out_what_it_says(part: str, times: int) -> None:
    text = part * times
    size = len(text.encode())
    shown = preview(text, "b", size)
    assert shown.encode().decode() == shown
    left_out = re.search(r"\n\n\[… (\d+) bytes left out …\]\n\n", shown)
    if len(text) > 2_500:
        assert left_out is not None
        head, rest = shown[: left_out.start()], shown[left_out.end() :]
        tail = rest[:500]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head.encode()) + len(tail.encode()) + int(left_out[1]) == size


async def read(data: bytes, **arguments: int) -> str:
    return await asked(
        result_tools(ToolLimits(read_result_bytes_max=1_000))[0],
        a_call(blobs={"blob_1": data}),
        blob="blob_1",
        **arguments,
    )


@given(st.text(max_size=300), st.integers(1, 50))
async def test_reading_on_from_part_to_part_gives_the_whole(text: str, length: int) -> None:
    data, parts, offset = text.encode(), [], 0
    while True:
        part, note = (await read(data, offset=offset, length=length)).rsplit("\n\n", 1) if data else ("", "end")
        parts.append(part)
        match = re.search(r"read on with offset (\d+)\]$", note)
        if match is None:
            break
        assert int(match[1]) > offset
        offset = int(match[1])
    assert "".join(parts) == text


async def test_a_part_is_never_larger_than_the_limit() -> None:
    answer = await read(b"x" * 5_000, length=4_000)
    assert answer == "x" * 1_000 + "\n\n[bytes 0 to 1000; read on with offset 1000]"


async def test_reading_in_the_middle_of_a_character_starts_at_the_next() -> None:
    assert (await read("aü€😀z".encode(), offset=2)).startswith("€😀z\n")


async def test_reading_beyond_the_end_says_so() -> None:
    assert "ends before" in await read(b"abc", offset=3)
    assert (await read(b"abc", offset=2)).endswith("[bytes 2 to 3; this is the end]")


async def test_only_results_of_the_session_can_be_read() -> None:
    tool = result_tools(ToolLimits())[0]
    call = a_call(blobs={"blob_1": b"x"})
    with pytest.raises(ToolTrouble, match="its results are: blob_1") as trouble:
        await asked(tool, call, blob="blob_of_somebody_else")
    assert trouble.value.code == "unknown_result"
