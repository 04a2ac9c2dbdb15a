"""The questions of ``ask_user``: whether they can be answered, whether an answer fits, what holds by default.

Questions are normal once ``normal_questions`` has written them out: that is how the journal keeps them and how
people are shown them. The tool itself is in ``builtin/ask_user.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perdure.core.state import Json
from perdure.tools.arguments import canonical_json
from perdure.tools.json_schema import BadSchema, Schema, pointer, schema_of

QUESTIONS_MAX = 10
OPTIONS_MAX = 20
ANSWER_ITEMS_MAX = 100  # of a free answer to a question with ``multiple``
ANSWER_CHARS_MAX = 65_536  # of one answer as JSON: it becomes part of a transcript

Question = dict[str, Any]


def normal_questions(questions: Sequence[Mapping[str, Json]]) -> list[Question]:
    """As people are shown them: ``id``, ``question``, ``multiple`` and ``free_form`` are always there, ``options``
    (each ``{value, description?}``), ``answer_schema`` and ``default`` when they were given; null is not given."""
    return [_normal(question) for question in questions]


def question_problems(questions: Sequence[Mapping[str, Json]]) -> list[tuple[str, str]]:
    """Why they cannot be asked, each with a JSON Pointer into the list. They are of the tool's schema already."""
    found: list[tuple[str, str]] = []
    ids: set[str] = set()
    for number, question in enumerate(_normal(one) for one in questions):
        if question["id"] in ids:
            found.append((f"/{number}/id", f"two questions have the id {question['id']!r}"))
        ids.add(question["id"])
        found += [(f"/{number}{where}", why) for where, why in _own_problems(question)]
    return found


def answer_problems(
    questions: Sequence[Mapping[str, Json]], answers: Mapping[str, Json], *, partial: bool = False
) -> list[tuple[str, str]]:
    """What is wrong with ``answers`` (by the id of the question), each with a JSON Pointer into them. A question
    may be left unanswered when it has a default, or with ``partial``."""
    asked = {question["id"]: question for question in normal_questions(questions)}
    known = ", ".join(asked)
    found = [(pointer([id_]), f"no question has this id; there are: {known}") for id_ in answers if id_ not in asked]
    for id_, question in asked.items():
        if id_ in answers:
            found += [(pointer([id_]) + where, why) for where, why in _misfits(question, answers[id_])]
        elif "default" not in question and not partial:
            found.append((pointer([id_]), "this question needs an answer: it has no default"))
    return found


def with_defaults(questions: Sequence[Mapping[str, Json]], answers: Mapping[str, Json]) -> dict[str, Json]:
    """The answers in the order of the questions, the defaults of what was left unanswered among them."""
    asked = normal_questions(questions)
    given = {**{one["id"]: one["default"] for one in asked if "default" in one}, **answers}
    return {one["id"]: given[one["id"]] for one in asked if one["id"] in given}


def defaults(questions: Sequence[Mapping[str, Json]]) -> dict[str, Json] | None:
    """The answers when nobody gives any; None unless every question has a default."""
    asked = normal_questions(questions)
    return with_defaults(asked, {}) if all("default" in one for one in asked) else None


def _normal(question: Mapping[str, Json]) -> Question:
    options = question.get("options")
    normal: Question = {"id": question["id"], "question": question["question"]}
    if isinstance(options, list) and options:
        normal["options"] = [_option(option) for option in options]
    normal["multiple"] = question.get("multiple") is True
    normal["free_form"] = question.get("free_form") is True or "options" not in normal
    for name in ("answer_schema", "default"):
        if question.get(name) is not None:
            normal[name] = question[name]
    return normal


def _option(option: Json) -> dict[str, Json]:
    if not isinstance(option, dict):
        return {"value": option}
    return {name: value for name, value in option.items() if value is not None}


def _own_problems(question: Question) -> Iterator[tuple[str, str]]:
    values = [option["value"] for option in question.get("options", [])]
    for number, value in enumerate(values):
        if value in values[:number]:
            yield f"/options/{number}", f"the option {value!r} is there twice"
    try:
        schema = _schema(question)
    except BadSchema as bad:
        yield "/answer_schema", f"the answer_schema {bad}"
        return
    single = values and not question["multiple"] and not question["free_form"]
    if schema and single and not any(schema.fits(value) for value in values):
        yield "/answer_schema", "no option fits the answer_schema: the question could not be answered"
    if "default" in question:
        yield from (
            (f"/default{where}", f"the default does not fit: {why}") for where, why in _default_misfits(question)
        )


def _default_misfits(question: Question) -> list[tuple[str, str]]:
    return list(_misfits(question, question["default"]))


def _schema(question: Question) -> Schema | None:
    return schema_of(question["answer_schema"]) if "answer_schema" in question else None


def _misfits(question: Question, answer: Json) -> Iterator[tuple[str, str]]:
    """Read top to bottom: what is said first is what has to be mended first."""
    values = [option["value"] for option in question.get("options", [])]
    schema = _schema(question)
    size = len(canonical_json(answer))
    if size > ANSWER_CHARS_MAX:
        yield "", f"has {size} characters as JSON, {ANSWER_CHARS_MAX} at most"
    elif question["multiple"] and not isinstance(answer, list):
        yield "", "must be a list: this question may have several answers"
    elif question["multiple"]:
        assert isinstance(answer, list)
        yield from _list_misfits(answer, values, free_form=question["free_form"], typed=schema is not None)
    elif values and not question["free_form"] and answer not in values:
        yield "", _one_of(values)
    elif schema is None and not (isinstance(answer, str) and answer.strip()):
        yield "", "must be text, and not empty"
    if schema is not None and size <= ANSWER_CHARS_MAX:
        yield from schema.misfits(answer)


def _list_misfits(answer: list[Json], values: list[str], *, free_form: bool, typed: bool) -> Iterator[tuple[str, str]]:
    if len(answer) > ANSWER_ITEMS_MAX:
        yield "", f"has {len(answer)} entries, {ANSWER_ITEMS_MAX} at most"
        return
    for number, item in enumerate(answer):
        if not free_form and item not in values:
            yield f"/{number}", _one_of(values)
        elif not typed and not (isinstance(item, str) and item.strip()):
            yield f"/{number}", "must be text, and not empty"
        elif item in answer[:number]:
            yield f"/{number}", "is there twice"


def _one_of(values: list[str]) -> str:
    return f"must be one of: {', '.join(map(repr, values))}"
