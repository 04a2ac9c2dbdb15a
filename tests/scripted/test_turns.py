"""Which turn is played follows from the transcript alone: retries and crashes hear the same answer again."""

from __future__ import annotations

import copy
import json

import anthropic
import openai
import pytest

from tests.scripted.conftest import Serve
from tests.scripted.talk import DIALECTS, Reply, Talk
from tests.scripted.test_answers import every_dialect, streamed_or_not

CONVERSATION = {
    "turns": [
        {"reasoning": "r1", "text": "one", "tool_calls": [{"name": "a"}, {"name": "b"}]},
        {"tool_calls": [{"name": "c"}]},
        {"reasoning": "r3", "tool_calls": [{"name": "d"}]},
        {"text": "four", "tool_calls": [{"name": "e"}]},
        {"text": "five"},
    ]
}


def play(talk: Talk, stream: bool = True) -> list[Reply]:
    """Ask and answer until a reply has no calls."""
    replies = [talk.ask(stream)]
    while replies[-1].calls:
        talk.answer_calls(f"result {len(replies)}")
        replies.append(talk.ask(stream))
        assert len(replies) < 100
    return replies


def shape(replies: list[Reply]) -> list[tuple[str, list[str]]]:
    return [(reply.text, [name for _, name, _ in reply.calls]) for reply in replies]


@every_dialect
@streamed_or_not
def test_a_conversation_with_tools_goes_through_the_turns_in_order(serve: Serve, dialect: str, stream: bool) -> None:
    replies = play(serve({"s": CONVERSATION}).talk(dialect, "s"), stream)
    assert shape(replies) == [("one", ["a", "b"]), ("", ["c"]), ("", ["d"]), ("four", ["e"]), ("five", [])]
    ids = [call_id for reply in replies for call_id, _, _ in reply.calls]
    assert len(set(ids)) == 5


@every_dialect
def test_asking_the_same_again_plays_the_same_turn_with_the_same_call_ids(serve: Serve, dialect: str) -> None:
    served = serve({"s": CONVERSATION})
    talk = served.talk(dialect, "s")
    talk.ask()
    talk.answer_calls("r")
    again: Talk = copy.copy(talk)
    again.transcript = list(talk.transcript)  # type: ignore[attr-defined]
    first = talk.ask()
    second = again.ask()
    assert first.calls == second.calls != []


@every_dialect
def test_what_the_user_says_starts_the_script_again(serve: Serve, dialect: str) -> None:
    talk = serve({"s": CONVERSATION}).talk(dialect, "s")
    play(talk)
    talk.say("and now again")
    assert talk.ask().text == "one"
    talk.answer_calls("r")
    talk.say("wait, something else")  # in the middle of a run
    assert talk.ask().text == "one"


@every_dialect
def test_a_script_for_the_whole_conversation_goes_on_when_the_user_speaks(serve: Serve, dialect: str) -> None:
    turns = [{"text": f"answer {number}"} for number in range(3)]
    talk = serve({"s": {"turns": turns, "whole_conversation": True}}).talk(dialect, "s")
    heard = []
    for _ in range(4):
        heard.append(talk.ask().text)
        talk.say("and?")
    assert heard == ["answer 0", "answer 1", "answer 2", "That is all."]


@every_dialect
def test_a_paused_turn_is_continued_by_the_next_one(serve: Serve, dialect: str) -> None:
    turns = [{"text": "first half", "stop": "pause"}, {"reasoning": "hm", "text": "second half", "stop": "pause"}]
    talk = serve({"s": {"turns": [*turns, {"text": "end"}]}}).talk(dialect, "s")
    assert [talk.ask().text for _ in range(3)] == ["first half", "second half", "end"]


@pytest.mark.parametrize(
    ("repeat", "then"), [("last", ["b", "b"]), ("loop", ["a", "b"]), ("finish", ["That is all."] * 2)]
)
@every_dialect
def test_after_the_last_turn_the_script_repeats_as_it_says(
    serve: Serve, dialect: str, repeat: str, then: list[str]
) -> None:
    turns = [{"text": "a", "stop": "pause"}, {"text": "b", "stop": "pause"}]
    talk = serve({"s": {"turns": turns, "repeat": repeat}}).talk(dialect, "s")
    assert [talk.ask().text for _ in range(4)] == ["a", "b", *then]


@every_dialect
def test_a_script_may_refuse_to_go_on_after_its_last_turn(serve: Serve, dialect: str) -> None:
    talk = serve({"s": {"turns": [{"text": "a", "stop": "pause"}], "repeat": "error"}}).talk(dialect, "s")
    talk.ask()
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="has 1 turns, and turn 2"):
        talk.ask()


@every_dialect
def test_templates_carry_the_user_the_last_result_and_the_turn_into_texts_and_arguments(
    serve: Serve, dialect: str
) -> None:
    arguments = {"step": "{turn}", "deep": [{"said": "{user}!", "got": "<{last_tool_result}>"}], "keep": "{other} {}"}
    turns = [
        {"tool_calls": [{"name": "f"}]},
        {"text": "{turn}: {user}", "tool_calls": [{"name": "f", "arguments": arguments}]},
    ]
    talk = serve({"s": {"turns": turns}}).talk(dialect, "s", "say {turn}")
    talk.ask()
    talk.answer_calls("42 {user}")
    reply = talk.ask()
    assert reply.text == "2: say {turn}"
    assert json.loads(reply.calls[0][2]) == {
        "step": 2,
        "deep": [{"said": "say {turn}!", "got": "<42 {user}>"}],
        "keep": "{other} {}",
    }


@every_dialect
def test_an_echo_answers_with_the_words_of_the_user(serve: Serve, dialect: str) -> None:
    assert serve({}).talk(dialect, "echo", "Grüße\n{turn}").ask().text == "Grüße\n{turn}"


@every_dialect
def test_a_generated_script_calls_its_tool_so_many_times_and_ends(serve: Serve, dialect: str) -> None:
    tool = {"name": "f", "arguments": {"step": "{turn}"}}
    generate = {"turns": 7, "tool": tool, "text": "Turn {turn}", "final": "After {last_tool_result}"}
    replies = play(serve({"s": {"generate": generate}}).talk(dialect, "s"))
    assert [json.loads(reply.calls[0][2])["step"] for reply in replies[:-1]] == [1, 2, 3, 4, 5, 6, 7]
    assert replies[-1].text == "After result 7"


@every_dialect
def test_a_transcript_with_an_unanswered_call_is_refused_as_the_vendors_do(serve: Serve, dialect: str) -> None:
    served = serve({"s": CONVERSATION})
    talk = served.talk(dialect, "s")
    talk.ask()
    talk.say("never mind")
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="No tool output"):
        talk.ask()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_shipped_tour_plays_to_its_end(serve: Serve, dialect: str) -> None:
    replies = play(serve({}).talk(dialect, "tour", "Show me around."), stream=False)
    called = [sorted(name for _, name, _ in reply.calls) for reply in replies]
    assert called == [
        ["calculator", "current_time"], ["write_file"], ["list_files", "read_file"], ["edit_file"], [],
    ]  # fmt: skip
    assert "You asked: Show me around." in replies[-1].text
    assert replies[-1].reasoning


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ("crash-demo", ["current_time", "write_file", "read_file", "list_files", "demo_effect"]),
        ("long-run", ["calculator"] * 50),
    ],
)  # fmt: skip
def test_the_shipped_scripts_with_effects_play_to_their_end(serve: Serve, script: str, calls: list[str]) -> None:
    replies = play(serve({}).talk("responses", script), stream=False)
    assert [name for reply in replies for _, name, _ in reply.calls] == calls
    assert replies[-1].stop == "end"
