"""What a model call costs: settings over the price library's snapshot; nobody knows is ``None``, never 0.

One US dollar per million tokens is one micro-dollar per token, so prices are used as they are written.
The library (``genai-prices``) is read from the data inside its package; its updater is never started, so
prices need no network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from perdure.core.state import Usage

SCRIPTED_UNPRICED = "-unpriced"
"""A scripted model whose name ends so has no price; the others cost ``SCRIPTED_PRICE``."""

_MADE_FOR_OTHER_THINGS = (  # what the library lists, but no agent can run on
    "audio", "babbage", "computer-use", "curie", "davinci", "deep-research", "embedding", "ft", "image", "instruct",
    "live", "moderation", "oss", "realtime", "search", "transcribe", "tts", "whisper", "claude-2", "claude-v1",
    "gpt-3", "extended", "vision",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PriceConfig:
    """USD per million tokens. Without a cache price, cached tokens cost what input costs."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


SCRIPTED_PRICE = PriceConfig(input=1, output=4, cache_read=0.1, cache_write=1.25)
"""The list price of every scripted model, so that cost can be seen without a key: $1 per million input
tokens, $4 output, $0.10 cache read, $1.25 cache write."""


@dataclass(frozen=True, slots=True)
class LibrarySource:
    """Where the library looks a model up: a provider of its own (``openai``) or the one that serves ``api_url``."""

    provider: str | None = None
    api_url: str | None = None


@dataclass(frozen=True, slots=True)
class ListPrice:
    """Micro-USD per million tokens, None when unpriced."""

    input_micros: int | None = None
    output_micros: int | None = None
    context_tokens: int | None = None


class PriceBook:
    """Prices by full model name. ``scripted`` endpoints have the fixed price, the others the library's."""

    def __init__(
        self,
        overrides: Mapping[str, PriceConfig],
        library: Mapping[str, LibrarySource],
        scripted: frozenset[str] = frozenset(),
    ) -> None:
        self._overrides = dict(overrides)
        self._library = dict(library)
        self._scripted = scripted
        self._found: dict[str, tuple[Any, Any] | None] = {}

    def cost_micros(self, model: str, usage: Usage) -> int | None:
        """Micro-USD, rounded up; None when the price or the usage is unknown (no call is without any token)."""
        if usage.input_tokens == 0 and usage.output_tokens == 0:
            return None
        read = min(usage.cache_read_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - read)
        if price := self._fixed(model):
            return _cost(price, usage.input_tokens - read - written, read, written, usage.output_tokens)
        if (found := self._lookup(model)) is None:
            return None
        from genai_prices import Usage as PricedUsage

        provider, entry = found
        counts = PricedUsage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=read,
            cache_write_tokens=written,
            output_tokens=usage.output_tokens,
        )
        dollars: Decimal = entry.calc_price(counts, provider).total_price
        return math.ceil(dollars * 1_000_000)

    def list_price(self, model: str) -> ListPrice:
        """Today's price of the first tier."""
        context = None
        found = self._lookup(model)
        if found is not None:
            context = found[1].context_window
        if price := self._fixed(model):
            return ListPrice(_micros(price.input), _micros(price.output), context)
        if found is None:
            return ListPrice(context_tokens=context)
        prices = found[1].get_prices(datetime.now(UTC))
        return ListPrice(_micros(_first_tier(prices.input_mtok)), _micros(_first_tier(prices.output_mtok)), context)

    def agent_models(self, provider_id: str) -> list[str]:
        """The models of a library provider that read and write text for a price and know their context size."""
        from genai_prices.data_snapshot import get_snapshot

        now = datetime.now(UTC)
        for provider in get_snapshot().providers:
            if provider.id == provider_id:
                return [
                    entry.id
                    for entry in provider.models
                    if entry.context_window
                    and not any(word in entry.id for word in _MADE_FOR_OTHER_THINGS)
                    and _has_text_prices(entry.get_prices(now))
                ]
        return []

    def _fixed(self, model: str) -> PriceConfig | None:
        if price := self._overrides.get(model):
            return price
        scripted = model.partition("/")[0] in self._scripted
        return SCRIPTED_PRICE if scripted and not model.endswith(SCRIPTED_UNPRICED) else None

    def _lookup(self, model: str) -> tuple[Any, Any] | None:
        """The library's provider and entry; looked up once a model, since a miss walks the whole library."""
        if model not in self._found:
            if len(self._found) >= 1_000:  # names come from requests: an endpoint takes any
                self._found.clear()
            self._found[model] = self._find(model)
        return self._found[model]

    def _find(self, model: str) -> tuple[Any, Any] | None:
        endpoint, _, name = model.partition("/")
        source = self._library.get(endpoint)
        if source is None:
            return None
        from genai_prices.data_snapshot import get_snapshot

        try:
            provider, entry = get_snapshot().find_provider_model(name, None, source.provider, source.api_url)
        except LookupError:
            return None
        return (provider, entry) if _has_text_prices(entry.get_prices(datetime.now(UTC))) else None


def _has_text_prices(prices: Any) -> bool:
    return prices.input_mtok is not None and prices.output_mtok is not None


def _first_tier(price: Any) -> Decimal | None:
    first: Decimal | None = getattr(price, "base", price)
    return first


def _micros(dollars: float | Decimal | None) -> int | None:
    return None if dollars is None else math.ceil(Decimal(str(dollars)) * 1_000_000)


def _cost(price: PriceConfig, fresh: int, read: int, written: int, output: int) -> int:
    read_price = price.input if price.cache_read is None else price.cache_read
    write_price = price.input if price.cache_write is None else price.cache_write
    counted = ((fresh, price.input), (read, read_price), (written, write_price), (output, price.output))
    return math.ceil(sum(Decimal(count) * Decimal(str(rate)) for count, rate in counted))
