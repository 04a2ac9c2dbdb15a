"""The three dialects give the same answers, over HTTP, with the vendors' own SDKs."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from perdure.core.state import Usage
from perdure.providers import Catalog, build_catalog
from perdure.providers.port import Answer
from tests.providers.conftest import ENDPOINTS, SCRIPTS, Vendor, call, message, request, result, said

pytestmark = pytest.mark.parametrize("endpoint", ENDPOINTS)


def without_vendor_words(answer: Answer) -> Any:
    """An answer without what each vendor words differently: opaque items, producers, ids."""
    keep = ("type", "text", "call_id", "name", "arguments", "raw_arguments")
    return [{key: value for key, value in block.items() if key in keep} for block in answer.content]


async def test_reasoning_text_and_parallel_calls_arrive_as_blocks_with_usage_and_cost(
    catalog: Catalog, endpoint: str
) -> None:
    model = f"{endpoint}/everything"
    pieces, answer = await call(catalog, request(model, said("both files")))
    assert without_vendor_words(answer) == [
        {"type": "reasoning", "text": "I look at both files at once."},
        {"type": "text", "text": "Two calls for: both files"},
        {
            "type": "tool_call",
            "call_id": "call_a",
            "name": "read_file",
            "arguments": {"path": "ä b.md", "depth": {"turn": 1}},
        },
        {"type": "tool_call", "call_id": "call_b", "name": "list_files", "arguments": {}},
    ]
    assert answer.stop == "tool_calls"
    usage = dataclasses.replace(answer.usage, reasoning_tokens=30)  # Anthropic need not tell reasoning apart
    assert usage == Usage(input_tokens=1200, output_tokens=80, cache_read_tokens=200, reasoning_tokens=30)
    assert answer.vendor_id
    assert catalog.cost_micros(model, answer.usage) == 1000 * 1 + 200 // 10 + 80 * 4
    assert answer.content[0].get("producer") == model
    for index, kind, text in (
        (0, "reasoning", "I look at both files at once."),
        (1, "text", "Two calls for: both files"),
    ):
        assert "".join(piece.text for piece in pieces if piece.index == index) == text
        assert {piece.kind for piece in pieces if piece.index == index} == {kind}
    assert {piece.kind for piece in pieces if piece.index >= 2} == {"tool_args"}


async def test_the_next_turn_gets_the_results_and_a_user_who_speaks_in_between_is_heard(
    catalog: Catalog, endpoint: str
) -> None:
    model = f"{endpoint}/everything"
    _, first = await call(catalog, request(model, said("go")))
    answered = message("assistant", *first.content, producer=model)
    results = [message("tool", result("call_b", "b.md")), message("tool", result("call_a", "ZWEI"))]
    _, second = await call(catalog, request(model, said("go"), answered, *results))
    expected = "b.md" if endpoint == "scripted-messages" else "ZWEI"  # there, results go in the order of the calls
    assert without_vendor_words(second) == [{"type": "text", "text": f"The last tool said: {expected}"}]
    assert second.stop == "end"
    _, third = await call(catalog, request(model, said("go"), answered, *results, said("again")))
    assert "Two calls for: again" in str(without_vendor_words(third))


async def test_text_outside_ascii_survives_any_cut_into_pieces(catalog: Catalog, endpoint: str) -> None:
    pieces, answer = await call(catalog, request(f"{endpoint}/plain"))
    assert without_vendor_words(answer) == [{"type": "text", "text": "Grüße, 世界 🌍!"}]
    assert "".join(piece.text for piece in pieces) == "Grüße, 世界 🌍!"


async def test_an_answer_of_half_a_megabyte_arrives_whole(catalog: Catalog, endpoint: str) -> None:
    _, answer = await call(catalog, request(f"{endpoint}/long", settings={"max_output_tokens": 200_000}))
    assert without_vendor_words(answer) == [{"type": "text", "text": "0123456789" * 50_000}]


async def test_an_answer_ends_at_the_output_cap_of_its_request(catalog: Catalog, endpoint: str) -> None:
    _, answer = await call(catalog, request(f"{endpoint}/long", settings={"max_output_tokens": 100}))
    assert answer.stop == "max_output_tokens"
    assert answer.usage.output_tokens <= 100


@pytest.mark.parametrize(("script", "raw"), [("broken-arguments", '{"path": "no'), ("list-arguments", "[1]")])
async def test_arguments_that_are_no_object_are_kept_as_they_came_and_can_be_sent_back(
    catalog: Catalog, endpoint: str, script: str, raw: str
) -> None:
    model = f"{endpoint}/{script}"
    _, answer = await call(catalog, request(model))
    assert without_vendor_words(answer) == [
        {"type": "tool_call", "call_id": "call_x", "name": "read_file", "raw_arguments": raw}
    ]
    told = [message("assistant", *answer.content), message("tool", result("call_x", "not JSON", is_error=True))]
    _, after = await call(catalog, request(model, said("Hello"), *told))
    assert after.content


@pytest.mark.parametrize(
    ("script", "stop"), [("cut-short", "max_output_tokens"), ("refusing", "refusal"), ("plain", "end")]
)
async def test_why_the_model_stopped_is_told_in_our_words(
    catalog: Catalog, endpoint: str, script: str, stop: str
) -> None:
    _, answer = await call(catalog, request(f"{endpoint}/{script}"))
    assert answer.stop == stop
    assert len(answer.content) == 1


async def test_a_pause_is_told_where_the_dialect_has_a_word_for_it(catalog: Catalog, endpoint: str) -> None:
    _, answer = await call(catalog, request(f"{endpoint}/pausing"))
    assert answer.stop == ("pause" if endpoint == "scripted-messages" else "end")


async def test_an_answer_without_content_is_an_answer(catalog: Catalog, endpoint: str) -> None:
    pieces, answer = await call(catalog, request(f"{endpoint}/empty"))
    assert (pieces, answer.content, answer.stop) == ([], [], "end")


async def test_two_calls_with_one_id_stay_two_calls(catalog: Catalog, endpoint: str) -> None:
    _, answer = await call(catalog, request(f"{endpoint}/same-ids"))
    calls = [(block["name"], block.get("arguments")) for block in answer.content if block["type"] == "tool_call"]
    assert calls == [("a", {"n": 1}), ("b", {"n": 2})]


async def test_the_vendor_is_told_our_request_key_and_completes_what_we_read(
    catalog: Catalog, vendor: Vendor, endpoint: str
) -> None:
    key = f"run_key:{endpoint}"
    await call(catalog, request(f"{endpoint}/plain", request_key=key))
    assert await vendor.saw(key, "completed")
    assert await vendor.log(key) == ["asked", "first_byte", "completed"]


async def test_a_reader_who_stops_early_ends_the_call_at_the_vendor(
    catalog: Catalog, vendor: Vendor, endpoint: str
) -> None:
    key = f"run_early:{endpoint}"
    stream = catalog.port(f"{endpoint}/drip").stream(request(f"{endpoint}/drip", request_key=key))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert await vendor.saw(key, "disconnected", within_seconds=2)


async def test_a_cancelled_call_ends_at_the_vendor(catalog: Catalog, vendor: Vendor, endpoint: str) -> None:
    key = f"run_cancelled:{endpoint}"
    task = asyncio.create_task(call(catalog, request(f"{endpoint}/drip", request_key=key)))
    assert await vendor.saw(key, "first_byte")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await vendor.saw(key, "disconnected", within_seconds=2)


async def test_calls_share_one_client_and_run_side_by_side(vendor: Vendor, endpoint: str) -> None:
    catalog = build_catalog(scripted_url=vendor.url, scripts=SCRIPTS)
    answers = await asyncio.gather(*(call(catalog, request(f"{endpoint}/plain")) for _ in range(20)))
    assert {answer.stop for _, answer in answers} == {"end"}
    await catalog.close()
