"""Which models there are, who serves them, what they cost.

A model is named ``endpoint/model``. Two endpoints are built in, with their SDKs' own environment variables:
``openai`` and ``anthropic``. A scripted vendor server adds ``scripted`` (Responses), ``scripted-chat`` (chat
completions) and ``scripted-messages`` (Messages): the same scripts in three dialects. Settings add the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never
from urllib.parse import urlsplit

from perdure.core.state import Usage
from perdure.providers.port import ModelInfo, ModelPort, UnknownModel
from perdure.providers.pricing import LibrarySource, PriceBook, PriceConfig
from perdure.providers.sdk_client import READ_SECONDS, ClientConfig, SdkClient

if TYPE_CHECKING:
    from perdure.providers.scripted.library import Library

Dialect = Literal["responses", "chat_completions", "messages"]

MODEL_NAME_CHARACTERS_MAX = 256  # longer than any vendor's, short enough for an index and an error message
NAMES_SHOWN_MAX = 20  # in an error message
_SCRIPTED_DIALECTS: dict[str, Dialect] = {
    "scripted": "responses",
    "scripted-chat": "chat_completions",
    "scripted-messages": "messages",
}


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """A server that speaks a vendor's dialect. ``base_url`` is what the dialect's SDK takes: with ``/v1`` for
    ``responses`` and ``chat_completions``, without for ``messages``. ``api_key_env`` names the variable that holds
    the key; without one, ``none`` is sent. With ``models``, only these exist."""

    name: str
    base_url: str
    dialect: Dialect = "chat_completions"
    api_key_env: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Endpoint:
    client: ClientConfig
    dialect: Dialect
    models: tuple[str, ...] = ()  # empty: whatever the server knows


class Catalog:
    """A ``ModelCatalog``. Holds the SDK clients of its endpoints; ``close`` when done."""

    def __init__(
        self,
        endpoints: Mapping[str, _Endpoint],
        prices: PriceBook,
        scripts: Path | None,
        output_tokens_default: int,
        read_timeout_seconds: float,
    ) -> None:
        self._endpoints = dict(endpoints)
        self._prices = prices
        self._scripts = scripts
        self._output_tokens_default = output_tokens_default
        self._read_timeout_seconds = read_timeout_seconds
        self._clients: dict[str, SdkClient] = {}
        self._ports: dict[str, ModelPort] = {}
        self._library: Library | None = None

    def check(self, model: str) -> None:
        """UnknownModel when no endpoint serves it. No network: an endpoint without a list takes any name."""
        endpoint, slash, name = model.partition("/")
        if not slash or not endpoint or not name:
            raise UnknownModel(f"a model is named endpoint/model, not {_shown(model)}; endpoints: {self._known()}")
        if endpoint not in self._endpoints:
            raise UnknownModel(f"no endpoint {_shown(endpoint)}; endpoints: {self._known()}")
        if len(model) > MODEL_NAME_CHARACTERS_MAX or not name.isprintable() or " " in name:
            raise UnknownModel(f"{_shown(model)} is no model's name")
        if endpoint in _SCRIPTED_DIALECTS:
            self._check_script(endpoint, name)
        elif (models := self._endpoints[endpoint].models) and name not in models:
            raise UnknownModel(f"{endpoint} has no model {_shown(name)}; it has {_listed(models)}")

    def port(self, model: str) -> ModelPort:
        """The adapter of its endpoint. UnknownModel."""
        self.check(model)
        endpoint = model.partition("/")[0]
        if endpoint not in self._ports:
            self._ports[endpoint] = self._adapter(self._endpoints[endpoint])
        return self._ports[endpoint]

    def cost_micros(self, model: str, usage: Usage) -> int | None:
        """Micro-USD, rounded up. None when nobody knows the price, or the vendor told no usage."""
        return self._prices.cost_micros(model, usage)

    def list(self) -> list[ModelInfo]:
        """The models that have a name here: listed ones, scripts, and what the price library knows of the two
        vendors. An endpoint without a list serves more than are shown."""
        return [self._info(endpoint, name) for endpoint in self._endpoints for name in self._models(endpoint)]

    async def warm(self) -> None:
        """Import the SDKs and make the clients that calls will likely need, in threads: the scripted server's, and
        those of the vendors whose keys are set. ModelTrouble is left to the first call."""
        wanted = [name for name in ("openai", "anthropic") if os.environ.get(f"{name.upper()}_API_KEY")]
        wanted += [name for name in ("scripted",) if name in self._endpoints]
        clients = [self._client(self._endpoints[name].client) for name in wanted]
        await asyncio.gather(*(client.ready() for client in clients), return_exceptions=True)

    async def close(self) -> None:
        """Close all clients: calls in flight end with trouble."""
        clients, self._clients, self._ports = list(self._clients.values()), {}, {}
        await asyncio.gather(*(client.close() for client in clients))

    def _client(self, config: ClientConfig) -> SdkClient:
        if config.endpoint not in self._clients:
            self._clients[config.endpoint] = SdkClient(config, self._read_timeout_seconds)
        return self._clients[config.endpoint]

    def _adapter(self, endpoint: _Endpoint) -> ModelPort:
        client = self._client(endpoint.client)
        host = urlsplit(endpoint.client.base_url or "").hostname or ""
        named = endpoint.client.endpoint
        at_openai = named == "openai" or host == "api.openai.com" or host.endswith(".openai.azure.com")
        match endpoint.dialect:
            case "responses":
                from perdure.providers.openai_responses import ResponsesAdapter

                return ResponsesAdapter(client, vendor=at_openai or named in _SCRIPTED_DIALECTS)
            case "chat_completions":
                from perdure.providers.chat_completions import ChatCompletionsAdapter

                return ChatCompletionsAdapter(
                    client, output_cap_field="max_completion_tokens" if at_openai else "max_tokens"
                )
            case "messages":
                from perdure.providers.anthropic_messages import MessagesAdapter

                return MessagesAdapter(client, output_tokens_default=self._output_tokens_default)
            case _:
                assert_never(endpoint.dialect)

    def _models(self, endpoint: str) -> Iterable[str]:
        """The models of an endpoint that one can name without asking it."""
        from perdure.providers.scripted.library import ScriptError

        if endpoint in _SCRIPTED_DIALECTS:
            with suppress(ScriptError):  # no such folder: `check` tells it to whoever names one of the scripts
                return self._script_library().names()
            return ()
        if endpoint in ("openai", "anthropic"):
            return self._prices.agent_models(endpoint)
        return self._endpoints[endpoint].models

    def _check_script(self, endpoint: str, name: str) -> None:
        from perdure.providers.scripted.library import ScriptError

        try:
            library = self._script_library()
        except ScriptError as error:  # its message holds the whole path: no business of who asks over HTTP
            place = self._scripts.name if self._scripts else ""
            raise UnknownModel(f"{endpoint} has no scripts: {place}: {error.details[0]}") from error
        if library.find(name) is None:
            unread = library.unread()
            has = f"{endpoint} has no script {_shown(name)}; it has {_listed(library.names())}"
            raise UnknownModel(f"{has}. {unread}" if unread else has)

    def _script_library(self) -> Library:
        """Read once; a look at it again costs one listing of the folder, and sees what has changed."""
        if self._library is None:
            from perdure.providers.scripted.library import Library

            self._library = Library(self._scripts)
        return self._library

    def _info(self, endpoint: str, name: str) -> ModelInfo:
        model = f"{endpoint}/{name}"
        price = self._prices.list_price(model)
        return ModelInfo(
            id=model,
            endpoint=endpoint,
            dialect=self._endpoints[endpoint].dialect,
            input_price_micros=price.input_micros,
            output_price_micros=price.output_micros,
            context_tokens=price.context_tokens,
        )

    def _known(self) -> str:
        return _listed(sorted(self._endpoints))


def build_catalog(
    endpoints: Iterable[EndpointConfig] = (),
    prices: Mapping[str, PriceConfig] | None = None,
    scripted_url: str | None = None,
    scripts: Path | None = None,
    *,
    output_tokens_default: int = 8_192,
    read_timeout_seconds: float = READ_SECONDS,
) -> Catalog:
    """The catalogue of these settings. ``prices`` are by full model name. ``scripted_url`` is where the scripted
    vendor server listens (without ``/v1``), ``scripts`` its folder (None: the shipped ones).
    ``output_tokens_default`` is sent where a dialect demands a cap (Messages); ``read_timeout_seconds`` is how long
    a vendor may be silent. Imports no SDK, opens nothing.
    ValueError for an endpoint whose name is taken or has no form."""
    known: dict[str, _Endpoint] = {
        "openai": _Endpoint(ClientConfig("openai", "openai"), "responses"),
        "anthropic": _Endpoint(ClientConfig("anthropic", "anthropic"), "messages"),
    }
    library = {"openai": LibrarySource(provider="openai"), "anthropic": LibrarySource(provider="anthropic")}
    if scripted_url is not None:
        known |= {name: _scripted(name, dialect, scripted_url) for name, dialect in _SCRIPTED_DIALECTS.items()}
    for endpoint in endpoints:
        if endpoint.name in known or endpoint.name in _SCRIPTED_DIALECTS:
            raise ValueError(f"the endpoint name {endpoint.name!r} is taken: choose another")
        if not endpoint.name or "/" in endpoint.name or not endpoint.name.isprintable():
            raise ValueError(f"{endpoint.name!r} cannot name an endpoint: it must be text without a slash")
        sdk: Literal["openai", "anthropic"] = "anthropic" if endpoint.dialect == "messages" else "openai"
        client = ClientConfig(endpoint.name, sdk, endpoint.base_url, api_key_env=endpoint.api_key_env)
        known[endpoint.name] = _Endpoint(client, endpoint.dialect, endpoint.models)
        library[endpoint.name] = LibrarySource(api_url=endpoint.base_url)
    book = PriceBook(prices or {}, library, scripted=frozenset(_SCRIPTED_DIALECTS))
    return Catalog(known, book, scripts, output_tokens_default, read_timeout_seconds)


def _scripted(name: str, dialect: Dialect, url: str) -> _Endpoint:
    root = url.rstrip("/")
    if dialect == "messages":  # this SDK adds /v1 itself
        return _Endpoint(ClientConfig(name, "anthropic", root, api_key="scripted"), dialect)
    return _Endpoint(ClientConfig(name, "openai", f"{root}/v1", api_key="scripted"), dialect)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
