"""A vendor refuses a request in which a call and its result do not stand together."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.transcript import NOT_EXECUTED, flaws, repaired, unanswered_calls

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def assistant(*calls: str, text: str = "") -> Message:
    said = [{"type": "text", "text": text}] if text else []
    return {
        "role": "assistant",
        "content": [*said, *({"type": "tool_call", "call_id": call, "name": "t", "arguments": {}} for call in calls)],
        "producer": "openai/x",
        "stop_reason": "end",
    }


def result(*calls: str) -> Message:
    return {
        "role": "tool",
        "content": [{"type": "tool_result", "call_id": c, "name": "t", "text": c, "is_error": False} for c in calls],
    }


_ids = st.sampled_from(["c1", "c2", "c3", "c4", "c5"])
_any_message = st.one_of(
    st.text(max_size=3).map(user),
    st.builds(
        lambda calls, text: assistant(*calls, text=text), st.lists(_ids, max_size=3), st.sampled_from(["", "hm"])
    ),
    st.lists(_ids, max_size=2).map(lambda calls: result(*calls)),
)
transcripts = st.lists(_any_message, max_size=12)


@st.composite
def well_formed_transcripts(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = []
    for turn in range(draw(st.integers(0, 5))):
        messages += [user(text) for text in draw(st.lists(st.text(max_size=3), max_size=2))]
        calls = [f"c{turn}_{index}" for index in range(draw(st.integers(0, 3)))]
        messages += [assistant(*calls, text="well"), *(result(call) for call in calls)]
    return messages


def follows_each_call_with_its_result(messages: list[Message]) -> bool:
    expected: list[str] = []
    seen: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if [block["call_id"] for block in message["content"]] != expected[:1]:
                return False
            expected.pop(0)
            continue
        if expected or not message["content"]:
            return False
        if message["role"] == "assistant":
            expected = [block["call_id"] for block in message["content"] if block["type"] == "tool_call"]
            seen += expected
    return not expected and len(set(seen)) == len(seen)


@given(transcripts)
def test_whatever_is_stored_the_model_sees_every_call_followed_by_its_result(messages: list[Message]) -> None:
    assert follows_each_call_with_its_result(repaired(messages))


@given(transcripts)
def test_repairing_twice_is_repairing_once(messages: list[Message]) -> None:
    once = repaired(messages)
    twice = repaired(once)
    assert len(once) == len(twice)
    assert all(first is second for first, second in zip(once, twice, strict=True))


@given(transcripts)
def test_no_word_of_a_user_is_lost_or_changes_places(messages: list[Message]) -> None:
    assert [m for m in repaired(messages) if m["role"] == "user"] == [m for m in messages if m["role"] == "user"]


@given(well_formed_transcripts())
def test_a_well_formed_transcript_comes_back_as_it_is(messages: list[Message]) -> None:
    assert follows_each_call_with_its_result(messages)
    whole = repaired(messages)
    assert len(whole) == len(messages)
    assert all(first is second for first, second in zip(whole, messages, strict=True))


def calls_and_results(messages: list[Message]) -> Counter[str]:
    return Counter(
        f"{block['type']} {block['call_id']} {block.get('text')}"
        for message in messages
        for block in message["content"]
        if block["type"] in ("tool_call", "tool_result")
    )


@given(transcripts)
def test_flaws_are_told_exactly_when_the_repair_adds_or_drops_a_call_or_a_result(messages: list[Message]) -> None:
    changed = calls_and_results(repaired(messages)) != calls_and_results(messages)
    assert bool(flaws(messages)) == changed
    assert flaws(repaired(messages)) == {}


@given(transcripts)
def test_as_many_results_are_told_lost_as_the_repair_makes_up(messages: list[Message]) -> None:
    made_up = sum(block.get("text") == NOT_EXECUTED for message in repaired(messages) for block in message["content"])
    assert flaws(messages).get("orphan_calls", 0) == made_up


@given(well_formed_transcripts())
def test_a_well_formed_transcript_has_no_flaw_and_no_call_without_an_answer(messages: list[Message]) -> None:
    assert flaws(messages) == {}
    assert unanswered_calls(messages) == []


def test_each_kind_of_flaw_is_counted() -> None:
    messages = [assistant("c1", "c2"), result("c1"), result("c1"), result("c9"), assistant("c1", "c3"), result("c3")]
    assert flaws(messages) == {
        "duplicate_calls": 1, "orphan_calls": 1, "orphan_results": 1, "duplicate_results": 1,
    }  # fmt: skip


def test_calls_of_an_answer_that_was_cut_off_are_no_flaw() -> None:
    cut = {**assistant("c1"), "stop_reason": "max_output_tokens"}
    assert flaws([user("go"), cut, user("go on")]) == {}
    assert [call["call_id"] for call in unanswered_calls([user("go"), cut])] == ["c1"]
    assert unanswered_calls([assistant("c1", "c2"), result("c2"), assistant("c3"), result("c3")]) == []
    assert unanswered_calls([user("hi")]) == []
    assert unanswered_calls([user("go"), cut, user("go on"), assistant(text="Gone on.")]) == []


def test_a_call_may_have_its_result_after_the_last_words() -> None:
    spoken = [user("go"), assistant("c1", "c2"), assistant(text="That is all."), result("c1")]
    assert [call["call_id"] for call in unanswered_calls(spoken)] == ["c2"]
    assert unanswered_calls([*spoken, result("c2")]) == []


def test_results_come_in_the_order_asked_and_before_what_a_user_said_meanwhile() -> None:
    asked, one, meanwhile, two = assistant("c1", "c2"), result("c1"), user("hurry"), result("c2")
    assert repaired([asked, two, meanwhile, one]) == [asked, one, two, meanwhile]


def test_a_call_without_a_result_is_answered_with_an_error_that_promises_nothing() -> None:
    asked = {**assistant("c1"), "id": "msg_1", "number": 7}
    whole = repaired([asked, user("go on")])
    assert whole[1]["role"] == "tool"
    assert whole[1]["content"] == [
        {"type": "tool_result", "call_id": "c1", "name": "t", "text": NOT_EXECUTED, "is_error": True}
    ]
    assert (whole[1]["number"], whole[1]["producer"]) == (7, None)


def test_results_that_nobody_asked_for_and_second_results_are_not_shown() -> None:
    asked, first = assistant("c1"), result("c1")
    assert repaired([result("c1"), asked, first, result("c1"), result("c9")]) == [asked, first]


def test_an_answer_with_nothing_in_it_is_not_shown() -> None:
    assert repaired([user("a"), assistant(), user("b")]) == [user("a"), user("b")]


def test_what_was_given_is_not_changed() -> None:
    messages = [assistant("c1", "c1"), result("c1", "c2")]
    before = repr(messages)
    repaired(messages)
    assert repr(messages) == before
