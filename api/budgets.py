"""What is asked of budgets: a cost limit needs a known price, and a budget must pay for a first call. Which budget and
limits a run has is in ``perdure/assembly.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from api.problems import FieldError, Problem, field_problem
from perdure.assembly import Assembly
from perdure.content import Block
from perdure.core.budget import (
    TOKENS_PER_BYTE_PERMILLE,
    Account,
    Ask,
    Budget,
    Reached,
    input_bound,
    reserve,
)
from perdure.definitions import AgentDefinition, BudgetDefinition, ToolDescription
from perdure.providers.estimate import price_of, request_bytes
from perdure.settings import Settings
from perdure.store.rows import RunRow


def changed_budget(now: Budget | None, settings: Settings, change: BudgetDefinition) -> Budget:
    """PATCH: the members given, in place of those that hold now."""
    return replace(now or Budget(on_limit=settings.budget.on_limit), **change)


def check_price(assembly: Assembly, model: str, budget: Budget | None, pointer: str) -> None:
    """``model_not_priced``: a cost limit that nobody could hold is refused."""
    if budget is not None and budget.max_cost_micros is not None and not is_priced(assembly, model):
        raise field_problem("model_not_priced", pointer, not_priced(model))


def is_priced(assembly: Assembly, model: str) -> bool:
    return price_of(assembly.catalog, model)(1_000, 1_000) is not None


def not_priced(model: str) -> str:
    return (
        f"nobody knows the price of {model!r}: set [prices.{model!r}] in perdure.toml, or give no cost limit "
        "(`null` where the agent or the service has one)"
    )


def check_first_call(
    assembly: Assembly,
    definition: AgentDefinition,
    tools: Sequence[ToolDescription],
    content: Sequence[Block],
    budget: Budget | None,
    pointer_to: Callable[[str], str],
) -> None:
    """``budget_too_small``: not even the first call fits. What the session holds already is not counted here;
    the reservation before each call counts everything."""
    if budget is None:
        return
    sent = request_bytes(definition["instructions"], tools, [content])
    wanted = definition["model_settings"].get("max_output_tokens", assembly.settings.limits.output_tokens_default)
    bound = input_bound(None, sent, 1, TOKENS_PER_BYTE_PERMILLE)
    found = reserve(budget, Account(), Ask(bound, wanted, price_of(assembly.catalog, definition["model"])))
    if isinstance(found, Reached):
        message = (
            f"{found.limit} does not pay for the first model call: its input may have up to {bound} tokens, and an "
            "answer needs room beside it, as does the wrap-up that a tenth of each limit is kept aside for"
        )
        raise field_problem("budget_too_small", pointer_to(found.limit), message)


def contradictions(budget: BudgetDefinition, pointer: str) -> list[FieldError]:
    """A limit of one body that can never be reached because of another."""
    of_all, of_output = budget.get("max_tokens"), budget.get("max_output_tokens")
    if of_all is None or of_output is None or of_output <= of_all:
        return []
    message = f"can never be reached: max_tokens, which counts input and output, is {of_all}"
    return [FieldError(f"{pointer}/max_output_tokens", "contradictory_limits", message)]


def check_view(run: RunRow, expected_seq: int | None) -> None:
    """``stale_view``: whoever orders this has not seen what happened since."""
    if expected_seq is not None and expected_seq != run.last_seq:
        detail = f"Run {run.id} is at event {run.last_seq}, not {expected_seq}: read what happened since."
        raise Problem("stale_view", detail)
