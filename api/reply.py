"""What all replies share: the list envelope and the problem document."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")
Usd = Annotated[str, Field(pattern=r"^\d+\.\d{2,6}$", description="US dollars, decimal.", examples=["0.0123"])]


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FieldErrorOut(Reply):
    pointer: str | None = Field(description="JSON Pointer into the request body.")
    parameter: str | None = Field(description="Name of the query parameter or header instead.")
    code: str
    message: str
    line: int | None = Field(default=None, description="Of a body in lines, from 1; `pointer` is into that line.")


class OpenAIError(Reply):
    """The same error in the words of OpenAI's clients."""

    message: str
    type: str
    code: str
    param: str | None


class ProblemDocument(Reply):
    """RFC 9457. `code` is stable; `retryable` says whether the same request may succeed later."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None
    retryable: bool
    errors: list[FieldErrorOut]
    error: OpenAIError


class ListReply(Reply, Generic[Item]):
    object: Literal["list"]
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None
    next_cursor: str | None = Field(description="`after` of the next page; null on the last.")
