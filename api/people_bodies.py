"""What people and clients tell a run: decisions, answers, messages, results, orders."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from api.body import Body, Content, Labels, Reason
from perdure.store.rows import INBOX_WAITING_MAX, Decided, Scope, Urgency

DECISIONS_MAX = 100  # of one batch
RESULTS_MAX = 128  # more calls than any model asks for in a turn
TEXT_CHARACTERS_MAX = 100_000

GivenDelivery = Literal["steer", "enqueue", "interrupt"]  # notes come from children only
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ExpectedSeq = Annotated[
    StrictInt | None,
    Field(ge=0, description="The `last_seq` you have seen: when the run has moved on since, 409 `stale_view`."),
]


class Decide(Body):
    """`approve` lets the call run, `edit` lets it run with `edited_arguments`, `deny` answers it with `message` as
    the reason, `respond` with `message` as its result. `args_sha256` is the hash of the arguments you have seen."""

    decision: Decided
    message: str = Field(default="", max_length=TEXT_CHARACTERS_MAX)
    scope: Scope = Field(
        default="once", description="Whether the same arguments are decided for the run, or its session, from now on."
    )
    args_sha256: Sha256 | None = None
    edited_arguments: dict[str, Any] | None = None


class DecideOne(Decide):
    """One decision of a batch."""

    id: str = Field(min_length=1, max_length=64)


class DecideMany(Body):
    """Each is decided by itself, in the order given."""

    decisions: list[DecideOne] = Field(min_length=1, max_length=DECISIONS_MAX)


class Answers(Body):
    """The answers, by the ids of the questions. A question with a default may be left out."""

    answers: dict[Annotated[str, Field(min_length=1, max_length=128)], Any] = Field(max_length=100)


class MessageIn(Body):
    """`steer`: at the next boundary; tool calls of the turn that have not begun are skipped. `enqueue`: after the
    next answer. `interrupt`: the model call in flight is cut short."""

    content: Content
    delivery: GivenDelivery = "steer"


class PostMessage(MessageIn):
    """A message to a run."""

    expected_seq: ExpectedSeq = None


class ReplaceInbox(Body):
    """What shall wait for the run, in place of all that waits now."""

    messages: list[MessageIn] = Field(max_length=INBOX_WAITING_MAX)


class ToolResultIn(Body):
    """`output` is any JSON, `error` says why there is none: one of the two."""

    call_id: str = Field(min_length=1, max_length=128)
    output: Any = None
    error: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ToolResultIn:
        if ("output" in self.model_fields_set) == (self.error is not None):
            raise PydanticCustomError("conflict", "give either output or error")
        return self


class ToolResults(Body):
    """Results of client tools, taken all or none."""

    results: list[ToolResultIn] = Field(min_length=1, max_length=RESULTS_MAX)


class CancelRun(Body):
    """`graceful` gives the agent one last word when it has begun and its budget allows; `force` ends the run now,
    even without a worker."""

    mode: Literal["graceful", "force"] = "graceful"
    reason: Reason = ""
    expected_seq: ExpectedSeq = None


class PauseRun(Body):
    """The run holds at its next boundary: what is in flight is finished."""

    reason: Reason = ""
    expected_seq: ExpectedSeq = None


class ResumeRun(Body):
    """The run goes on."""

    expected_seq: ExpectedSeq = None


class RetryCall(Body):
    """The attempt in flight, or the lost one, is given up, and the call runs again."""

    reason: Reason = ""


class AbortCall(Body):
    """The call ends as failed, with this reason."""

    reason: Annotated[str, Field(min_length=1, max_length=1_000)]


class ResolveCall(Body):
    """The result of the call, given by hand: any JSON."""

    output: Any


class EndTimer(Body):
    """Nothing needs to be said."""


class SendSignal(Body):
    """`critical` and `high` interrupt a run that does not wait for it; `normal` and `low` are kept for a day until it
    does. The same `dedupe_key` within a day is the same signal."""

    payload: Any = None
    urgency: Urgency = "normal"
    dedupe_key: Annotated[str | None, Field(min_length=1, max_length=255)] = None


class SendSignalToAll(SendSignal):
    """To the runs that wait for it, and have all of these labels."""

    labels: Labels = {}
