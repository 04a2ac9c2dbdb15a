"""The script format: what a scripted model answers, turn by turn.

A script is YAML or JSON. One file holds one script (named after the file, or by ``name``) or several, as a
mapping of name to script, on its own or under ``scripts:``. Unknown fields are errors, so that no typo passes.

A script::

    turns:                        # or `generate:` below, or both: `generate` plays after `turns`
      - reasoning: Let me look.   # optional; `text` and `reasoning` are a string, {lorem: 200} (words)
        text: "You said: {user}"  #   or {repeat: "x ", times: 100}
        tool_calls:
          - name: read_file
            arguments: {path: notes.md}     # or raw_arguments: '{"path": "notes' (sent as it is)
            id: call_1                      # default: a fresh id
        stop: tool_calls          # end | tool_calls | max_output_tokens | refusal | pause
        usage: {input_tokens: 10, output_tokens: 5, cache_read_tokens: 0, reasoning_tokens: 0}
        chunk: 24                 # characters per streamed piece
        delay_seconds: 0.2        # before the first byte
        chunk_delay_seconds: 0.02 # before each further piece
        wait_for: NAME            # answer when POST /_scripted/release/NAME has come (60 s at most)
        hold_after_chunks: 3      # with wait_for: start at once, hold after this many pieces
        faults: [...]
      - echo: true                # answers with the user's own text
    repeat: last                  # after the last turn: last | loop | error | finish (default, a short text)
    whole_conversation: false     # true: count all replies, not only those since the last user message
    cache: false                  # true: what an earlier request already held counts as cache reads
    without_tools: All I have.    # what is said to a request that offers no tools, in place of any turn

``generate: {turns: 1000, tool: {name, arguments}, text: "Step {turn}", final: "Done"}`` is that many turns
with one tool call each and a final answer; it takes ``chunk``, ``delay_seconds``, ``chunk_delay_seconds`` too.

Templates in texts and, at any depth, in arguments: ``{user}`` (the last user text), ``{last_tool_result}``,
``{turn}`` (from 1; an argument that is exactly ``"{turn}"`` becomes a number).

Which turn is played follows from the request alone: the number of assistant replies after the last user
message. A retry plays the same turn.

An answer ends at the output cap of its request, in the middle of a word and without its tool calls, unless
the turn gives ``output_tokens``. Usage that is not given is estimated as one token for four bytes;
``input_tokens`` counts cache reads too, and ``output_tokens`` reasoning.

A fault is one of these, with ``times: N`` (default 1: the first N identical requests get it, then it goes
right) or ``always: true``. Several faults of a turn come one after the other::

    - status: 429                 # any 4xx or 5xx, in the vendor's own error shape
      retry_after_seconds: 1      #   sent as retry-after and retry-after-ms
      retry_after_header: both    #   seconds | milliseconds | both
    - context_exceeded: true      # the vendor's word for a prompt that is too long
    - insufficient_quota: true    # the vendor's word for an empty account
    - hang: forever               # or seconds, then the answer goes on
      after_event: 3              #   without it: before the headers
    - cut: 3                      # close the connection after SSE event 3 (0: right after the headers)
    - garbage: 2                  # SSE event 2 is not JSON
    - error_event: 4              # an error in the stream after SSE event 4
      error_as: failed            #   failed | error: which of OpenAI's two shapes (Responses only)
    - no_terminal_event: true     # the stream ends without its last event
    - duplicate_call_ids: true    # all tool calls share one id
    - empty: true                 # an answer without content

An event number beyond the stream's end brings no fault. Without streaming ``cut``, ``garbage`` and
``no_terminal_event`` break the body instead, ``error_event`` becomes status 500 and ``hang`` comes before the body.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
DEFAULT_CHUNK = 24  # about six tokens: a long answer visibly streams, a short one takes a few events

Stop = Literal["end", "tool_calls", "max_output_tokens", "refusal", "pause"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lorem(_Strict):
    """Filler prose of so many words, always the same."""

    lorem: int = Field(ge=1, le=1_000_000)  # 1,000,000 words are about 6 MB: longer answers no vendor gives


class Repeated(_Strict):
    repeat: str
    times: int = Field(ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _bounded(self) -> Repeated:
        if len(self.repeat) * self.times > 16_000_000:  # longer answers no vendor gives
            raise ValueError("repeat × times must stay under 16,000,000 characters")
        return self


def _text_form(value: Any) -> str | None:
    match value:
        case str():
            return "a string"
        case Lorem() | {"lorem": _}:
            return "some words"
        case Repeated() | {"repeat": _}:
            return "a repetition"
    return None


TextSpec = Annotated[
    Annotated[str, Tag("a string")] | Annotated[Lorem, Tag("some words")] | Annotated[Repeated, Tag("a repetition")],
    Discriminator(
        _text_form,
        custom_error_type="text_form",
        custom_error_message="must be a string, {lorem: words} or {repeat: text, times: n}",
    ),
]


class ToolCallSpec(_Strict):
    name: str = Field(min_length=1)
    arguments: dict[str, JsonValue] | None = None
    raw_arguments: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_arguments(self) -> ToolCallSpec:
        if self.arguments is not None and self.raw_arguments is not None:
            raise ValueError("give arguments or raw_arguments, not both")
        return self


class UsageSpec(_Strict):
    """Tokens. What is None is estimated."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cache_read_tokens: int | None = Field(default=None, ge=0)
    reasoning_tokens: int | None = Field(default=None, ge=0)


FAULT_KINDS = (
    "status", "context_exceeded", "insufficient_quota", "hang", "cut", "garbage", "error_event",
    "no_terminal_event", "duplicate_call_ids", "empty",
)  # fmt: skip


class FaultSpec(_Strict):
    """One thing that goes wrong: exactly one of the kinds in ``FAULT_KINDS`` is set."""

    status: int | None = Field(default=None, ge=400, le=599)
    context_exceeded: Literal[True] | None = None
    insufficient_quota: Literal[True] | None = None
    hang: Annotated[float, Field(ge=0)] | Literal["forever"] | None = None
    cut: int | None = Field(default=None, ge=0)
    garbage: int | None = Field(default=None, ge=1)
    error_event: int | None = Field(default=None, ge=0)
    no_terminal_event: Literal[True] | None = None
    duplicate_call_ids: Literal[True] | None = None
    empty: Literal[True] | None = None

    retry_after_seconds: float | None = Field(default=None, ge=0)
    retry_after_header: Literal["seconds", "milliseconds", "both"] = "both"
    after_event: int | None = Field(default=None, ge=0)
    error_as: Literal["failed", "error"] = "failed"
    message: str | None = None
    times: int = Field(default=1, ge=1)
    always: bool = False

    @property
    def kind(self) -> str:
        return next(kind for kind in FAULT_KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> FaultSpec:
        kinds = [kind for kind in FAULT_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a fault is exactly one of {', '.join(FAULT_KINDS)}; this one has {kinds or 'none'}")
        belongs = {"retry_after_seconds": "status", "retry_after_header": "status", "after_event": "hang"}
        belongs["error_as"] = "error_event"
        for field, kind in belongs.items():
            if field in self.model_fields_set and kinds[0] != kind:
                raise ValueError(f"{field} belongs to {kind}, not to {kinds[0]}")
        return self


class Turn(_Strict):
    """One assistant reply."""

    reasoning: TextSpec | None = None
    text: TextSpec | None = None
    echo: bool = False
    tool_calls: tuple[ToolCallSpec, ...] = ()
    stop: Stop | None = None
    usage: UsageSpec = UsageSpec()
    chunk: int = Field(default=DEFAULT_CHUNK, ge=1)
    delay_seconds: float = Field(default=0.0, ge=0)
    chunk_delay_seconds: float = Field(default=0.0, ge=0)
    wait_for: str | None = None
    hold_after_chunks: int | None = Field(default=None, ge=0)
    faults: tuple[FaultSpec, ...] = ()

    @property
    def stop_reason(self) -> Stop:
        return self.stop or ("tool_calls" if self.tool_calls else "end")

    @model_validator(mode="after")
    def _consistent(self) -> Turn:
        if self.echo and self.text is not None:
            raise ValueError("echo answers with the user's text: leave text out")
        if self.hold_after_chunks is not None and self.wait_for is None:
            raise ValueError("hold_after_chunks needs wait_for: the name to release")
        return self


class GeneratedTool(_Strict):
    name: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = {}


class Generate(_Strict):
    """``turns`` replies with one tool call each, then one with ``final``."""

    turns: int = Field(ge=0, le=1_000_000)
    tool: GeneratedTool
    text: TextSpec | None = None
    final: TextSpec = "Done after {turn} turns."
    chunk: int = Field(default=DEFAULT_CHUNK, ge=1)
    delay_seconds: float = Field(default=0.0, ge=0)
    chunk_delay_seconds: float = Field(default=0.0, ge=0)

    def turn(self, index: int) -> Turn:
        """The turn at ``index`` from 0; ``index == turns`` is the final one."""
        pace = {field: getattr(self, field) for field in ("chunk", "delay_seconds", "chunk_delay_seconds")}
        if index == self.turns:
            return Turn(text=self.final, **pace)
        call = ToolCallSpec(name=self.tool.name, arguments=self.tool.arguments)
        return Turn(text=self.text, tool_calls=(call,), **pace)


class Script(_Strict):
    """A scripted model. ``name`` is filled in from the file when the script does not say."""

    name: str = ""
    description: str = ""
    turns: tuple[Turn, ...] = ()
    generate: Generate | None = None
    repeat: Literal["last", "loop", "error", "finish"] = "finish"
    whole_conversation: bool = False
    cache: bool = False
    without_tools: TextSpec | None = None

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if name and not NAME.fullmatch(name):
            raise ValueError("a name is 1 to 128 letters, digits, '.', '_', ':' or '-'")
        return name

    @model_validator(mode="after")
    def _not_empty(self) -> Script:
        if not self.turns and self.generate is None:
            raise ValueError("a script needs turns or generate")
        return self

    def __len__(self) -> int:
        return len(self.turns) + (self.generate.turns + 1 if self.generate else 0)

    def turn_at(self, index: int) -> Turn:
        """The turn at ``index`` from 0, which must be below ``len(self)``."""
        if index < len(self.turns):
            return self.turns[index]
        assert self.generate is not None, "turn_at is asked below len(self) only"
        return self.generate.turn(index - len(self.turns))
