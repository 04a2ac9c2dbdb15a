"""Every setting of Perdure with its default: environment (``PERDURE_*``) over ``perdure.toml`` over this page.

Temporal's address, namespace, TLS and API key are not here: they are read by Temporal's own
environment configuration (``TEMPORAL_*`` and its TOML profile). Vendors' keys and base URLs are read by
their SDKs (``OPENAI_API_KEY``, ``OPENAI_BASE_URL``, ``ANTHROPIC_API_KEY``, ``ANTHROPIC_BASE_URL``).
"""

from __future__ import annotations

import ipaddress
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from perdure.core.spec import OnLimit

Dialect = Literal["responses", "chat_completions", "messages"]

ENDPOINT_NAMES_TAKEN = frozenset({"openai", "anthropic", "scripted", "scripted-chat", "scripted-messages"})
_ENDPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it stands before the slash of a model's name


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(_Table):
    """``[endpoints.NAME]``: a server that speaks a vendor's dialect; its models are ``NAME/…``."""

    base_url: str
    dialect: Dialect = "chat_completions"
    api_key_env: str | None = None  # the variable that holds its key; without one, "none" is sent
    models: list[str] = []  # when given, only these exist

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, brackets around no address
            usable = False
        if not usable or not value.isprintable() or " " in value:
            raise ValueError(f"{value!r} is not a URL of the form http://host or https://host")
        return value


class Price(_Table):
    """``[prices."openai/my-model"]``: USD per million tokens; overrides the price library."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)


class LimitSettings(_Table):
    """``[limits]``"""

    max_turns: int = Field(default=100, ge=1, le=100_000)
    max_tool_calls: int = Field(default=1_000, ge=1, le=1_000_000)
    max_questions: int = Field(default=10, ge=0, le=1_000)  # how often a run may ask people
    max_children: int = Field(default=50, ge=0, le=10_000)
    max_depth: int = Field(default=3, ge=0, le=10)
    max_running_children: int = Field(default=50, ge=0, le=1_000)  # of one run at once
    max_schedules: int = Field(default=1_000, ge=0, le=100_000)  # of the whole service
    max_schedules_per_agent: int = Field(default=10, ge=0, le=1_000)  # that an agent makes for itself
    tool_output_bytes_per_turn: int | None = Field(default=None, ge=1_000)  # beyond: the model is asked to sum up
    deadline_seconds: int = Field(default=7 * 86_400, ge=1, le=400 * 86_400)  # of a run that names none
    request_bytes_max: int = Field(default=16 * 1024 * 1024, ge=1_024)  # body of one HTTP request
    import_bytes_max: int = Field(default=1024 * 1024 * 1024, ge=1_024)  # body of one import of a session
    spool_bytes: int = Field(default=50_000, ge=1_000)  # larger tool results become blobs with a preview
    tool_result_bytes_max: int = Field(default=64 * 1024 * 1024, ge=1_000)  # beyond: the call fails, typed
    output_tokens_default: int = Field(default=8_192, ge=1)  # sent where a dialect demands a cap


class BudgetSettings(_Table):
    """``[budget]``: of runs that name none, and whose agent has none. None is no limit."""

    max_cost_usd: Decimal | None = Field(default=None, gt=0, le=1_000_000, decimal_places=6)
    max_tokens: int | None = Field(default=None, ge=1, le=10**12)
    max_output_tokens: int | None = Field(default=None, ge=1, le=10**12)
    on_limit: OnLimit = "wrap_up"


class RetentionSettings(_Table):
    """``[retention]``: days after which the API removes things by itself, once an hour. None keeps for ever."""

    deltas_days: float | None = Field(default=None, ge=0, le=36_500)  # live text of ended runs; messages carry it whole
    events_days: float | None = Field(default=None, ge=0, le=36_500)  # of ended runs, all but the last
    sessions_days: float | None = Field(default=None, ge=0, le=36_500)  # without a run and untouched: deleted


class AgentSettings(_Table):
    """``[agents.NAME]``: stored as an agent when the API starts."""

    model: str
    instructions: str = ""
    tools: list[str] = []
    model_settings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    budget: dict[str, Any] | None = None
    policy: dict[str, Any] = {}
    agents: list[str] = []  # stored agents that it may start with all of their own tools, or hand its session to
    agent_tools: list[dict[str, Any]] = []  # stored agents that it calls as tools


class WorkerSettings(_Table):
    """``[worker]``: recovery after a kill is a setting; these are the measured ones."""

    heartbeat_timeout_seconds: float = Field(default=2.5, ge=1)  # a lost worker is noticed after this
    heartbeat_every_seconds: float = Field(default=0.75, gt=0)  # also how late a cancelled activity hears of it
    sticky_timeout_seconds: float = Field(default=0.5, gt=0)  # a dead worker's cached runs wait this long
    graceful_stop_seconds: float = Field(default=30, ge=0)
    max_cached_workflows: int = Field(default=1_000, ge=1)  # about 130 KiB each
    model_timeout_seconds: float = Field(default=600, ge=1)  # one attempt of a model call
    model_max_attempts: int = Field(default=8, ge=1)  # of one model call, lost workers included
    max_concurrent_activities: int = Field(default=200, ge=1)
    tool_threads: int = Field(default=64, ge=1)  # synchronous tools running at once
    strict_transcripts: bool = False  # a broken transcript ends the run instead of being repaired for the model
    continue_as_new_events: int = Field(default=1_500, ge=50, le=20_000)  # keeps a cold replay under a second


class ToolSettings(_Table):
    """``[tool_settings]``: limits of the built-in tools."""

    http_get_bytes_max: int = Field(default=2 * 1024 * 1024, ge=1)
    http_get_timeout_seconds: float = Field(default=20, gt=0)
    http_get_redirects_max: int = Field(default=5, ge=0)
    http_get_allow_addresses: list[str] = []  # networks in CIDR form that are reachable although private
    file_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1)

    @field_validator("http_get_allow_addresses")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"not a network in CIDR form, such as 10.0.0.0/8: {error}") from None
        return value


class Settings(BaseSettings):
    """Read with ``Settings()``; bad values, and keys of ``perdure.toml`` that are no setting, raise pydantic's
    ``ValidationError`` naming the setting."""

    model_config = SettingsConfigDict(
        env_prefix="PERDURE_", env_nested_delimiter="__", toml_file="perdure.toml", extra="forbid", frozen=True
    )

    home: Path = Path(".perdure")
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8600, ge=0, le=65_535)
    api_hosts: Annotated[list[str], NoDecode] = []  # names besides loopback in a client's Host header
    database_url: str | None = None  # default: SQLite in the home; postgresql://… for production
    blobs_url: str | None = None  # default: a folder in the home; file:///… for a shared one
    task_queue: str = "perdure"
    tools: Annotated[list[str], NoDecode] = []  # modules with @tool functions
    scripts: Path | None = None  # folder of scripts for scripted/… models; default: the shipped ones
    scripted_url: str | None = None  # where the scripted vendor server listens; set by `perdure up`
    previews: bool = True  # short previews of goals and calls in Temporal's history, for its UI
    search_attributes: bool = True  # typed search attributes; off when the namespace may not have them
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    endpoints: dict[str, Endpoint] = {}
    prices: dict[str, Price] = {}
    limits: LimitSettings = LimitSettings()
    budget: BudgetSettings = BudgetSettings()
    retention: RetentionSettings = RetentionSettings()
    agents: dict[str, AgentSettings] = {}
    worker: WorkerSettings = WorkerSettings()
    tool_settings: ToolSettings = ToolSettings()

    @field_validator("tools", "api_hosts", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("endpoints")
    @classmethod
    def _have_names_of_their_own(cls, value: dict[str, Endpoint]) -> dict[str, Endpoint]:
        for name in value:
            if name in ENDPOINT_NAMES_TAKEN:
                raise ValueError(f"the endpoint name {name!r} is taken: choose another")
            if not _ENDPOINT_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name an endpoint: use up to 64 letters, digits, '.', '_' and '-', "
                    "beginning with a letter or digit"
                )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=os.environ.get("PERDURE_CONFIG", "perdure.toml")),
        )

    @property
    def sql_url(self) -> str:
        """The journal's URL; the store chooses the driver."""
        url = self.database_url or f"sqlite:///{self.home.absolute() / 'journal.db'}"
        return f"postgresql:{url.removeprefix('postgres:')}" if url.startswith("postgres:") else url

    @property
    def blob_folder(self) -> Path:
        """The folder of large bodies. ``BLOBS_URL`` may name another by ``file://``."""
        if self.blobs_url is None:
            return self.home.absolute() / "blobs"
        if self.blobs_url.startswith("file://"):
            return Path(self.blobs_url.removeprefix("file://"))
        raise ValueError(f"PERDURE_BLOBS_URL must be a file:// URL, not {self.blobs_url!r}")

    @property
    def workspaces(self) -> Path:
        """One folder a run, for its workspace files."""
        return self.home.absolute() / "workspaces"
