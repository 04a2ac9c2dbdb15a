"""Request bodies. Unknown members are refused: a misspelt limit must not be ignored. Numbers and truth values are
JSON's own: ``true`` is not 1, and ``"5"`` is not 5."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    Tag,
)
from pydantic_core import to_json

LABELS_MAX = 64
METADATA_BYTES_MAX = 16 * 1024
INSTRUCTIONS_CHARACTERS_MAX = 1_000_000  # far beyond any model's window; the body limit rules before
TOOLS_MAX = 256
INPUT_ITEMS_MAX = 10_000


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


def _no_id(name: str) -> str:
    if name.startswith("agt_"):
        raise ValueError("names that begin with agt_ are ids of agents")
    return name


# A name is what people type and what `name@version` is split at.
AgentName = Annotated[
    str, AfterValidator(_no_id), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["researcher"])
]
ModelName = Annotated[str, Field(min_length=1, max_length=256, examples=["openai/gpt-5.5"])]
ToolName = Annotated[str, Field(min_length=1, max_length=128, examples=["write_file"])]


class TextBlockIn(Body):
    """A block of text."""

    type: Literal["text"]
    text: str


class UserMessageIn(Body):
    """A message of the user: text, or blocks of it."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[TextBlockIn], Tag("blocks")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "blocks"),
    ]


def _kind_of_item(value: Any) -> str:
    is_message = "role" in value if isinstance(value, dict) else isinstance(value, UserMessageIn)
    return "message" if is_message else "block"


InputItem = Annotated[
    Annotated[TextBlockIn, Tag("block")] | Annotated[UserMessageIn, Tag("message")], Discriminator(_kind_of_item)
]
RunInput = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[InputItem], Tag("items"), Field(min_length=1, max_length=INPUT_ITEMS_MAX)],
    Discriminator(lambda value: "text" if isinstance(value, str) else "items"),
    Field(description="What the agent is to do: text, or text blocks, or user messages.", examples=["Say hello."]),
]


class ModelSettingsIn(Body):
    """What is passed on to the model; its own defaults rule where nothing is said."""

    temperature: StrictFloat | None = Field(default=None, ge=0, le=2)
    top_p: StrictFloat | None = Field(default=None, gt=0, le=1)
    max_output_tokens: StrictInt | None = Field(default=None, ge=1, le=10_000_000)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None


class LimitsIn(Body):
    """Counts a run may not exceed; reaching one ends it `incomplete`."""

    max_turns: StrictInt | None = Field(default=None, ge=1, le=100_000)
    max_tool_calls: StrictInt | None = Field(default=None, ge=1, le=1_000_000)


class AgentBody(Body):
    """The parts of an agent; `tools` are names from GET /v1/tools."""

    model: ModelName
    instructions: str = Field(default="", max_length=INSTRUCTIONS_CHARACTERS_MAX)
    tools: list[ToolName] = Field(default=[], max_length=TOOLS_MAX)
    model_settings: ModelSettingsIn = ModelSettingsIn()
    limits: LimitsIn = LimitsIn()


class CreateAgent(AgentBody):
    """Makes a new agent, or the next version of the agent with this name."""

    name: AgentName


class InlineAgent(AgentBody):
    """An agent for this run only."""

    name: AgentName | None = None


class BudgetIn(Body):
    """Not available in this version: a run that names a budget is refused."""

    max_cost_usd: Decimal | None = Field(default=None, gt=0)
    max_tokens: StrictInt | None = Field(default=None, ge=1)


class CreateRun(Body):
    """Either `agent` or `agent_inline` says who runs."""

    agent: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Name or id of a stored agent; `@version` pins one, the newest runs otherwise.",
        examples=["researcher", "researcher@3"],
    )
    agent_inline: InlineAgent | None = None
    input: RunInput
    session_id: str | None = Field(default=None, max_length=64, description="Continue this conversation.")
    deadline: Annotated[AwareDatetime, BeforeValidator(_rfc_3339)] | None = Field(
        default=None, description="RFC 3339; in the future, at most 400 days ahead. The run is `expired` then."
    )
    limits: LimitsIn = LimitsIn()
    budget: BudgetIn | None = None
    labels: Labels = {}
    metadata: Metadata = {}
    stream: StrictBool = Field(default=False, description="Answer with the run's events as they happen.")


class PatchRun(Body):
    """Each member given replaces the whole of it."""

    labels: Labels | None = None
    metadata: Metadata | None = None


class CancelRun(Body):
    """`graceful` lets the workflow end what is in flight; `force` ends the run now, even without a worker."""

    mode: Literal["graceful", "force"] = "graceful"
    reason: str = Field(default="", max_length=1_000)


class CreateSession(Body):
    labels: Labels = {}
    metadata: Metadata = {}
