"""Questions to people: which can be asked, and which answers fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.policy import APPROVAL_EXPIRES_SECONDS
from perdure.tools.builtin.ask_user import AskUser, asked_questions, asked_seconds
from perdure.tools.port import ToolTrouble
from perdure.tools.questions import (
    ANSWER_CHARS_MAX,
    OPTIONS_MAX,
    QUESTIONS_MAX,
    answer_problems,
    defaults,
    normal_questions,
    question_problems,
    with_defaults,
)
from tests.tools.calls import a_call

TEXT = {"id": "why", "question": "Why?"}
ONE = {"id": "size", "question": "Which?", "options": ["S", {"value": "M", "description": "fits most"}]}
MANY = {**ONE, "id": "sizes", "multiple": True}
FREE = {**ONE, "id": "free", "free_form": True}
TYPED = {"id": "n", "question": "How many?", "answer_schema": {"type": "integer", "minimum": 1}}


def problem(*questions: dict[str, Any], **more: Any) -> str | None:
    return AskUser().problem({"questions": list(questions), **more})


def wrong(question: dict[str, Any], answer: Any) -> list[tuple[str, str]]:
    return answer_problems([question], {question["id"]: answer})


def test_people_answer_it_and_no_worker_ever_runs_it() -> None:
    about = AskUser().description
    assert (about["name"], about["answered_by"], about["effect"], about["parallel"], about["approval"]) == (
        "ask_user", "people", "read", True, False,
    )  # fmt: skip


async def test_a_worker_that_is_told_to_run_it_refuses() -> None:
    with pytest.raises(ToolTrouble, match="people"):
        await AskUser().run({"questions": [TEXT]}, a_call())


def test_sound_questions_can_be_asked() -> None:
    assert problem(TEXT, ONE, MANY, FREE, TYPED) is None
    assert problem(TEXT, expires_seconds=60) is None
    assert problem({**TEXT, "options": None, "default": None, "answer_schema": None}) is None  # models say null a lot
    assert problem({**ONE, "default": "M"}, {**MANY, "default": ["S", "M"]}, {**TYPED, "default": 3}) is None


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "questions"),
        ([{**TEXT, "id": f"q{n}"} for n in range(QUESTIONS_MAX + 1)], "questions"),
        ([{"id": "a"}], "question: missing"),
        ([{**TEXT, "id": "two words"}], "id"),
        ([{**TEXT, "question": ""}], "question"),
        ([TEXT, TEXT], "two questions have the id 'why'"),
        ([{**TEXT, "options": [str(n) for n in range(OPTIONS_MAX + 1)]}], "options"),
        ([{**TEXT, "options": ["a", {"value": "a"}]}], "the option 'a' is there twice"),
        ([{**TEXT, "options": [1]}], "options"),
        ([{**TEXT, "option": ["a"]}], "there is no such parameter"),
        ([{**TEXT, "answer_schema": {"type": "strin"}}], "is no JSON Schema"),
        ([{**TEXT, "answer_schema": {"$ref": "http://x.example/"}}], "only references into the schema itself"),
        ([{**ONE, "answer_schema": {"type": "integer"}}], "could not be answered"),
        ([{**ONE, "default": "XL"}], "the default does not fit: must be one of: 'S', 'M'"),
        ([{**MANY, "default": "S"}], "the default does not fit: must be a list"),
        ([{**MANY, "default": ["S", "XL"]}], "questions.0.default.1: the default does not fit"),
        ([{**TYPED, "default": 0}], "the default does not fit"),
        ([{**TEXT, "default": 3}], "the default does not fit: must be text"),
    ],
)
def test_questions_that_cannot_be_asked_are_explained_to_the_model(questions: list[Any], said: str) -> None:
    assert said in (problem(*questions) or "")


@pytest.mark.parametrize("seconds", [0, -1, 2_592_001, float("nan"), float("inf"), "60"])
def test_a_question_waits_a_second_at_least_and_thirty_days_at_most(seconds: Any) -> None:
    assert problem(TEXT, expires_seconds=seconds) is not None


def test_a_question_waits_as_long_as_the_model_says_or_three_days() -> None:
    assert asked_seconds({"questions": [TEXT], "expires_seconds": 5}) == 5.0
    assert asked_seconds({"questions": [TEXT]}) == APPROVAL_EXPIRES_SECONDS
    assert asked_seconds({"questions": [TEXT], "expires_seconds": None}) == APPROVAL_EXPIRES_SECONDS


def test_people_are_shown_every_question_in_one_shape() -> None:
    assert asked_questions({"questions": [TEXT, {**ONE, "default": "S"}]}) == [
        {"id": "why", "question": "Why?", "multiple": False, "free_form": True},
        {
            "id": "size",
            "question": "Which?",
            "options": [{"value": "S"}, {"value": "M", "description": "fits most"}],
            "multiple": False,
            "free_form": False,
            "default": "S",
        },
    ]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (TEXT, "because"), (ONE, "M"), (MANY, ["S", "M"]), (MANY, []), (FREE, "XXL"), (FREE, "S"), (TYPED, 7),
        ({**MANY, "free_form": True}, ["S", "XXL"]), ({**TEXT, "multiple": True}, ["a", "b"]),
        ({**TYPED, "answer_schema": {"type": "object"}}, {"any": [1]}),
    ],
)  # fmt: skip
def test_an_answer_that_fits_is_taken(question: dict[str, Any], answer: Any) -> None:
    assert wrong(question, answer) == []


@pytest.mark.parametrize(
    ("question", "answer", "where", "said"),
    [
        (TEXT, "", "/why", "must be text"),
        (TEXT, " \n", "/why", "must be text"),
        (TEXT, 7, "/why", "must be text"),
        (TEXT, None, "/why", "must be text"),
        (TEXT, "x" * ANSWER_CHARS_MAX, "/why", "at most"),
        (ONE, "XL", "/size", "must be one of: 'S', 'M'"),
        (ONE, ["S"], "/size", "must be one of"),
        (MANY, "S", "/sizes", "must be a list"),
        (MANY, ["S", "XL"], "/sizes/1", "must be one of"),
        (MANY, ["S", "S"], "/sizes/1", "is there twice"),
        (FREE, 7, "/free", "must be text"),
        (TYPED, 0, "/n", "minimum"),
        (TYPED, "7", "/n", "integer"),
        ({**TEXT, "multiple": True}, ["a"] * 101, "/why", "100 at most"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_with_its_place(
    question: dict[str, Any], answer: Any, where: str, said: str
) -> None:
    found = wrong(question, answer)
    assert found
    assert found[0][0] == where
    assert said in found[0][1]


def test_every_question_needs_an_answer_or_a_default() -> None:
    assert answer_problems([TEXT, {**ONE, "default": "S"}], {"why": "x"}) == []
    assert answer_problems([TEXT, ONE], {"why": "x"}) == [("/size", "this question needs an answer: it has no default")]
    assert answer_problems([TEXT, ONE], {"why": "x"}, partial=True) == []


def test_an_answer_to_a_question_nobody_asked_is_refused() -> None:
    assert answer_problems([TEXT], {"why": "x", "a/b": 1}) == [("/a~1b", "no question has this id; there are: why")]


def test_what_is_left_unanswered_has_its_default() -> None:
    asked = [TEXT, {**ONE, "default": "S"}]
    assert with_defaults(asked, {"why": "x"}) == {"why": "x", "size": "S"}
    assert with_defaults(asked, {"size": "M", "why": "x"}) == {"why": "x", "size": "M"}


def test_nobody_answers_for_people_unless_every_question_has_a_default() -> None:
    assert defaults([TEXT, {**ONE, "default": "S"}]) is None
    assert defaults([{**TEXT, "default": "x"}, {**ONE, "default": "S"}]) == {"why": "x", "size": "S"}


@given(
    st.builds(
        lambda id_, values, multiple, free: {
            "id": id_, "question": "?", "options": values, "multiple": multiple, "free_form": free,
        },
        st.sampled_from("abc"), st.lists(st.text(min_size=1, max_size=3), max_size=4, unique=True), st.booleans(),
        st.booleans(),
    )
)  # fmt: skip
def test_writing_questions_out_changes_nothing_the_second_time_and_nothing_for_answers(
    question: dict[str, Any],
) -> None:
    normal = normal_questions([question])
    assert normal_questions(normal) == normal
    assert question_problems(normal) == question_problems([question])
    for answer in ("a", ["a"], [], 1):
        assert answer_problems(normal, {question["id"]: answer}) == wrong(question, answer)
