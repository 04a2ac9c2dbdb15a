"""``ask_user``: the model asks the people behind the run. No worker ever runs it: a call opens a question, and
the answer that somebody gives is its result. What makes a question sound is in ``perdure.tools.questions``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from perdure.core.policy import APPROVAL_EXPIRES_SECONDS
from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.tools.function_tool import tool
from perdure.tools.port import ToolCallContext, ToolTrouble
from perdure.tools.questions import OPTIONS_MAX, QUESTIONS_MAX, Question, normal_questions, question_problems

ASK_USER = "ask_user"
QUESTION_EXPIRES_SECONDS = APPROVAL_EXPIRES_SECONDS  # who may approve on Monday may answer on Monday
EXPIRES_SECONDS_MAX = 2_592_000.0  # thirty days
QUESTION_CHARS_MAX = 4_000  # a page; whoever needs more writes a file and asks about it
OPTION_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 1_000


class Option(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: Annotated[str, Field(min_length=1, max_length=OPTION_CHARS_MAX)]
    description: Annotated[str, Field(max_length=DESCRIPTION_CHARS_MAX)] | None = None


class AskedQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="names the answer")]
    question: Annotated[str, Field(min_length=1, max_length=QUESTION_CHARS_MAX)]
    options: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=OPTION_CHARS_MAX)] | Option],
            Field(max_length=OPTIONS_MAX, description="to choose from"),
        ]
        | None
    ) = None
    multiple: Annotated[bool, Field(description="the answer is a list of several")] = False
    free_form: Annotated[bool, Field(description="the answer need not be one of the options")] = False
    answer_schema: Annotated[
        dict[str, Any] | None, Field(description="JSON Schema of the answer, when it is not just text")
    ] = None
    default: Annotated[Any, Field(description="holds when nobody answers in time")] = None


@tool(effect="read", parallel=True, name=ASK_USER)
def _asked(
    questions: Annotated[list[AskedQuestion], Field(min_length=1, max_length=QUESTIONS_MAX)],
    expires_seconds: Annotated[
        float | None, Field(ge=1, le=EXPIRES_SECONDS_MAX, description="how long to wait for the answer")
    ] = None,
) -> None:
    """Ask the user one or several questions and wait for the answers. Ask only what you cannot find out and must
    not decide yourself; ask everything you need at once. The result maps the id of each question to its answer."""


class AskUser:
    """The tool. Its arguments are judged here; its answer comes from people."""

    description: ToolDescription = {**_asked.description, "answered_by": "people"}
    origin = "perdure.tools.builtin.ask_user"

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the questions, in words a model can act on; None when they can be asked."""
        if misshapen := _asked.problem(arguments):
            return misshapen
        found = question_problems(_questions(arguments))
        if not found:
            return None
        return "\n".join(
            [
                "These questions cannot be asked:",
                *(f"- questions{where.replace('/', '.')}: {why}" for where, why in found),
            ]
        )

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        raise ToolTrouble("ask_user is answered by people; no worker can run it", code="answered_by_people")


def asked_questions(arguments: dict[str, Json]) -> list[Question]:
    """The questions of a call without problems, as people are shown them."""
    return normal_questions(_questions(arguments))


def asked_seconds(arguments: dict[str, Json]) -> float:
    """How long people have for the answer."""
    given = arguments.get("expires_seconds")
    return float(given) if isinstance(given, int | float) else QUESTION_EXPIRES_SECONDS


def question_tools() -> list[AskUser]:
    return [AskUser()]


def _questions(arguments: dict[str, Json]) -> list[dict[str, Json]]:
    given = arguments["questions"]
    assert isinstance(given, list)
    return [question for question in given if isinstance(question, dict)]
