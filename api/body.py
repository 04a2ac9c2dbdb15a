"""What all request bodies share: unknown members are refused, for a misspelt limit must not be ignored; the
texts, labels and times that several of them hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import to_json

LABELS_MAX = 64
METADATA_BYTES_MAX = 16 * 1024
BLOCKS_MAX = 10_000
REASON_CHARACTERS_MAX = 1_000


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _bounded_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(metadata)) > METADATA_BYTES_MAX:
        raise ValueError(f"metadata may hold {METADATA_BYTES_MAX} bytes of JSON")
    return metadata


def _rfc_3339(value: Any) -> Any:
    """Numbers would be read as unix times, days as midnights somewhere: neither is what was meant."""
    if isinstance(value, str) and "T" in value.upper():
        return value
    raise ValueError("give the time in RFC 3339, as 2027-01-31T09:00:00Z")


def _in_utc(at: datetime) -> datetime:
    """What an offset puts before year 1 or after year 9999 in UTC can be shown to nobody."""
    try:
        at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999 in UTC") from None
    return at


LabelKey = Annotated[str, Field(min_length=1, max_length=64)]
LabelValue = Annotated[str, Field(max_length=256)]
Labels = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=LABELS_MAX, description="Short texts to filter by.", examples=[{"team": "billing"}]),
]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_bounded_metadata),
    Field(description="Anything of yours, at most 16 KB of JSON; not looked at."),
]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
Reason = Annotated[str, Field(max_length=REASON_CHARACTERS_MAX)]
ToolName = Annotated[str, Field(min_length=1, max_length=128, examples=["write_file"])]


class TextBlockIn(Body):
    """A block of text."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[TextBlockIn], Tag("blocks"), Field(min_length=1, max_length=BLOCKS_MAX)],
    Discriminator(lambda value: "text" if isinstance(value, str) else "blocks"),
    Field(description="Text, or blocks of it.", examples=["Look at the second page, too."]),
]
