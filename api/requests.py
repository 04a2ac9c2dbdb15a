"""Request bodies of agents, runs and sessions. Unknown members are refused: a misspelt limit must not be ignored.
Numbers and truth values are JSON's own: ``true`` is not 1, and ``"5"`` is not 5. What all bodies share is in
``body.py``; budgets, policies and what people say have modules of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag

from api.agent_tool_bodies import AgentToolIn
from api.body import Body, Content, Labels, Metadata, Moment, TextBlockIn, ToolName
from api.budget_bodies import BudgetIn, LimitsIn, LimitsPatch
from api.conflicts import OnConflict
from api.policy_bodies import CheckedCall, ClientToolIn, PolicyIn
from perdure.tools.agent_tools import AGENT_TOOLS_MAX
from perdure.tools.client_tools import CLIENT_TOOLS_MAX

INSTRUCTIONS_CHARACTERS_MAX = 1_000_000  # far beyond any model's window; the body limit rules before
TOOLS_MAX = 256
AGENTS_MAX = 64
INPUT_ITEMS_MAX = 10_000


def _no_id(name: str) -> str:
    if name.startswith("agt_"):
        raise ValueError("names that begin with agt_ are ids of agents")
    return name


# A name is what people type and what `name@version` is split at.
AgentName = Annotated[
    str, AfterValidator(_no_id), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["researcher"])
]
AgentReference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="Name or id of a stored agent; `@version` pins one, the newest runs otherwise.",
        examples=["researcher", "researcher@3"],
    ),
]
ModelName = Annotated[str, Field(min_length=1, max_length=256, examples=["openai/gpt-5.5"])]


class UserMessageIn(Body):
    """A message of the user: text, or blocks of it."""

    role: Literal["user"]
    content: Content


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


class AgentBody(Body):
    """The parts of an agent; `tools` are names from GET /v1/tools."""

    model: ModelName
    instructions: str = Field(default="", max_length=INSTRUCTIONS_CHARACTERS_MAX)
    tools: list[ToolName] = Field(default=[], max_length=TOOLS_MAX)
    model_settings: ModelSettingsIn = ModelSettingsIn()
    limits: LimitsIn = LimitsIn()
    budget: BudgetIn | None = None
    policy: PolicyIn = PolicyIn()
    agents: list[AgentName] = Field(
        default=[],
        max_length=AGENTS_MAX,
        description="Stored agents that it may start with all of their own tools (others keep those that it has, too), "
        "or hand its session to.",
    )
    agent_tools: list[AgentToolIn] = Field(
        default=[], max_length=AGENT_TOOLS_MAX, description="Stored agents that it calls as tools."
    )


class CreateAgent(AgentBody):
    """Makes a new agent, or the next version of the agent with this name."""

    name: AgentName


class InlineAgent(AgentBody):
    """An agent for this run only."""

    name: AgentName | None = None


class CreateRun(Body):
    """Either `agent` or `agent_inline` says who runs."""

    agent: AgentReference | None = None
    agent_inline: InlineAgent | None = None
    input: RunInput
    session_id: str | None = Field(default=None, max_length=64, description="Continue this conversation.")
    on_conflict: OnConflict = Field(
        default="reject",
        description="When the session has an active run: 409, or the input becomes a message to it, of this delivery.",
    )
    deadline: Moment | None = Field(
        default=None, description="RFC 3339; in the future, at most 400 days ahead. The run is `expired` then."
    )
    start_at: Moment | None = Field(
        default=None, description="RFC 3339; in the future, at most a year ahead. The run is `scheduled` until then."
    )
    limits: LimitsIn = LimitsIn()
    budget: BudgetIn | None = None
    policy: PolicyIn | None = Field(
        default=None, description="Asked beside the agent's own: the stricter answer stands, so it can only narrow."
    )
    client_tools: list[ClientToolIn] = Field(default=[], max_length=CLIENT_TOOLS_MAX)
    labels: Labels = {}
    metadata: Metadata = {}
    stream: StrictBool = Field(default=False, description="Answer with the run's events as they happen.")


class PatchRun(Body):
    """What is given replaces what was there; of `budget` and `limits` only the members given. `null` removes a
    limit of the budget."""

    labels: Labels | None = None
    metadata: Metadata | None = None
    budget: BudgetIn | None = None
    limits: LimitsPatch | None = None
    deadline: Moment | None = None


class CheckPolicy(CheckedCall):
    """What would policy say to this call? Either `agent` or `agent_inline` says of whom it would be."""

    agent: AgentReference | None = None
    agent_inline: InlineAgent | None = None
    policy: PolicyIn | None = Field(default=None, description="What a run would add.")


class CreateSession(Body):
    labels: Labels = {}
    metadata: Metadata = {}


class ForkSession(CreateSession):
    """`at_number` is the last message that the new session begins with; all of them without."""

    at_number: StrictInt | None = Field(default=None, ge=0, le=2**31 - 1)


class RetryRun(Body):
    """What is left out is the ended run's."""

    deadline: Moment | None = None
    limits: LimitsPatch = LimitsPatch()
    budget: BudgetIn | None = None


class ForkRun(RetryRun):
    """`from_seq` is an event of the run: what it had put into the transcript by then is shared. `input` stands in the
    place of the last message when that was a user's, and after it otherwise."""

    from_seq: StrictInt = Field(ge=1, le=2**31 - 1)
    input: RunInput | None = None


Days = Annotated[StrictInt | StrictFloat, Field(ge=0, le=36_500)]


class Prune(Body):
    """Days, or parts of one, since the end of a run, and since the last use of a session. What is left out is the
    service's setting; `null` keeps."""

    deltas_days: Days | None = None
    events_days: Days | None = None
    sessions_days: Days | None = None
