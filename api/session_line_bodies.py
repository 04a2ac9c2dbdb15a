"""The lines of an exported session, one model each: what is taken of them, and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from api.body import Labels, Metadata, Moment
from api.times import milliseconds
from perdure.store.json_text import plain

MESSAGES_MAX = 10_000_000
_YEAR_10000_MS = 253_402_300_800_000


def _one(value: Any) -> Any:
    """``true`` and ``1.0`` equal 1, and are none."""
    if type(value) is not int:
        raise ValueError("must be the number 1")
    return value


def _kept_moment(at: datetime) -> datetime:
    """Of the years that can be written down again, in every zone."""
    if not 0 <= milliseconds(at) < _YEAR_10000_MS:
        raise ValueError("must lie between 1970 and 9999, in UTC")
    return at


def _kept_text(text: str) -> str:
    """Of a column that holds no other: it would come back changed."""
    if plain(text) != text:
        raise ValueError("holds the character NUL or a lone surrogate")
    return text


_Written = Annotated[Moment, Field(strict=False), AfterValidator(_kept_moment)]
_Plain = Annotated[str, Field(max_length=256), AfterValidator(_kept_text)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HeadLine(_Line):
    type: Literal["session"]
    format: Literal["perdure.session"]
    version: Annotated[Literal[1], BeforeValidator(_one)]
    id: str = Field(max_length=64)
    created_at: _Written
    labels: Labels
    metadata: Metadata
    messages: int = Field(ge=0, le=MESSAGES_MAX)


class _Text(_Line):
    type: Literal["text"]
    text: str


class _Reasoning(_Line):
    type: Literal["reasoning"]
    text: str
    producer: str
    opaque: Any = None


class _ToolCall(_Line):
    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: dict[str, Any] = {}
    raw_arguments: str = ""


class ToolResult(_Line):
    type: Literal["tool_result"]
    call_id: str
    name: str
    text: str
    is_error: bool
    blob: str = Field(default="", pattern="^blob_[0-9a-f]{64}$")
    bytes: int = Field(default=0, ge=0)


class MessageLine(_Line):
    type: Literal["message"]
    number: int
    id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")
    role: Literal["user", "assistant", "tool"]
    content: list[Annotated[_Text | _Reasoning | _ToolCall | ToolResult, Field(discriminator="type")]]
    producer: _Plain | None
    stop_reason: _Plain | None
    created_at: _Written


class BlobLine(_Line):
    """A piece of a blob. ``missing``: it was gone when the session was exported, and nothing else is known of it."""

    type: Literal["blob"]
    id: str = Field(pattern="^blob_[0-9a-f]{64}$")
    media_type: str = Field(default="text/plain", max_length=256)
    bytes: int = Field(default=0, ge=0)
    offset: int = Field(default=0, ge=0)
    base64: str = ""
    missing: bool = False

    @property
    def contradictory(self) -> bool:
        return self.missing and not self.model_fields_set <= {"type", "id", "missing"}


class EndLine(_Line):
    type: Literal["end"]
    messages: int
    blobs: int


Line = HeadLine | MessageLine | BlobLine | EndLine
LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="type")])
