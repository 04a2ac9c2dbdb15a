"""What a run may spend and what it has spent: reserve the worst case before a call, settle after it.

All amounts are integers: micro-USD and tokens. The journal calls these functions inside the transaction
that takes the run's row, so no two calls can spend the same money.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perdure.core.spec import OnLimit

OUTPUT_FLOOR_TOKENS = 256  # an answer shorter than this is rarely of use: the budget counts as reached
WRAP_UP_FLOOR_TOKENS = 64  # two sentences about what is done and what is not
WRAP_UP_TOKENS_MAX = 1_024  # a page; what is kept aside has to pay for it
KEPT_ASIDE_PERCENT = 10  # of each limit, for the wrap-up, from the start
WARNING_PERCENT = 80
SHARE_PERCENT = 25  # of what is left, for a child whose parent names no slice: four of them leave a third
TOKENS_PER_BYTE_PERMILLE = 1_000  # no byte-level tokenizer makes more than one token of a byte
TOKENS_PER_BLOCK = 64  # role, separators and what a vendor wraps around a call or a result, ids included
TOKENS_PER_REQUEST = 1_024  # a vendor's own preamble; the largest one published for tools has 733

Price = Callable[[int, int], int | None]
"""``price(input_tokens, output_tokens)`` in micro-USD, at the dearest kind of input; None when unknown."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what all model calls of a run may use together; None is no limit."""

    max_cost_micros: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    on_limit: OnLimit = "wrap_up"


@dataclass(frozen=True, slots=True)
class Amount:
    """``tokens`` is input and output together."""

    cost_micros: int = 0
    tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(
            self.cost_micros + other.cost_micros,
            self.tokens + other.tokens,
            self.output_tokens + other.output_tokens,
        )

    def minus(self, other: Amount) -> Amount:
        return Amount(
            self.cost_micros - other.cost_micros,
            self.tokens - other.tokens,
            self.output_tokens - other.output_tokens,
        )

    def exceeds(self, other: Amount) -> bool:
        return (
            self.cost_micros > other.cost_micros
            or self.tokens > other.tokens
            or self.output_tokens > other.output_tokens
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What a run has spent, and what its calls in flight may still cost at worst."""

    spent: Amount = Amount()
    reserved: Amount = Amount()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model call wants: ``input_tokens`` is an upper bound, ``output_tokens`` the cap the agent has
    asked for (or the default). ``wrap_up`` may spend what was kept aside. ``permille`` is how many thousandths
    of a token a byte may be, for what is still added."""

    input_tokens: int
    output_tokens: int
    price: Price
    wrap_up: bool = False
    permille: int = TOKENS_PER_BYTE_PERMILLE

    def with_added(self, added_bytes: int, added_blocks: int) -> Ask:
        """The same call with more in its prompt."""
        bound = input_bound(self.input_tokens, added_bytes, added_blocks, self.permille)
        return Ask(bound, self.output_tokens, self.price, self.wrap_up, self.permille)


@dataclass(frozen=True, slots=True)
class Grant:
    """The call fits. ``output_tokens`` is the cap it must be sent with when a budget is ``binding``;
    ``clamped_by`` names the limit that lowered it. ``amount`` is what was reserved."""

    output_tokens: int
    amount: Amount
    clamped_by: str = ""
    binding: bool = False


@dataclass(frozen=True, slots=True)
class Reached:
    """The call does not fit any more: the name of the limit, as in the API."""

    limit: str


def reserve(budget: Budget, account: Account, ask: Ask) -> Grant | Reached:
    """The largest output cap that the tightest limit can pay for, or the limit that cannot pay for the floor."""
    cap, clamped_by = ask.output_tokens, ""
    limits = _affordable(budget, account, ask)
    for limit, affordable in limits:
        if affordable < cap:
            cap, clamped_by = affordable, limit
    floor = WRAP_UP_FLOOR_TOKENS if ask.wrap_up else OUTPUT_FLOOR_TOKENS
    if cap < min(floor, ask.output_tokens):
        return Reached(clamped_by)
    return Grant(cap, worst_case(ask, cap), clamped_by, binding=bool(limits))


def worst_case(ask: Ask, output_tokens: int) -> Amount:
    return Amount(ask.price(ask.input_tokens, output_tokens) or 0, ask.input_tokens + output_tokens, output_tokens)


def settle(account: Account, reserved: Amount, actual: Amount) -> Account:
    """The call is over: its reservation is released, what it really used is spent."""
    return Account(account.spent.plus(actual), account.reserved.minus(reserved))


def slice_of(budget: Budget, account: Account, wanted: Budget, own: Budget) -> tuple[Budget, Amount] | Reached:
    """What a child may spend, and what of it is to be reserved: of each limit that the parent has what is
    ``wanted``, or else a share of what is left, and never more than the child's ``own`` agent allows. Reached: so much
    is not left. A limit that the parent does not have is the child's alone, and reserves nothing."""
    used = account.spent.plus(account.reserved)
    keeps = budget.on_limit == "wrap_up"
    parts: list[tuple[int | None, int]] = []
    for name, limit, spent, asked, most, aside_min in (
        ("max_cost_usd", budget.max_cost_micros, used.cost_micros, wanted.max_cost_micros, own.max_cost_micros, 0),
        ("max_tokens", budget.max_tokens, used.tokens, wanted.max_tokens, own.max_tokens, 0),
        (
            "max_output_tokens", budget.max_output_tokens, used.output_tokens, wanted.max_output_tokens,
            own.max_output_tokens, WRAP_UP_FLOOR_TOKENS,
        ),
    ):  # fmt: skip
        left = _left(limit, spent, keeps, aside_min)
        if left is None:
            parts.append((_least(asked, most), 0))
            continue
        share = _least(asked if asked is not None else left * SHARE_PERCENT // 100, most)
        assert share is not None, "one of the two is there"
        if share <= 0 or share > left:
            return Reached(name)
        parts.append((share, share))
    (cost, cost_held), (tokens, tokens_held), (output, output_held) = parts
    return Budget(cost, tokens, output, own.on_limit), Amount(cost_held, tokens_held, output_held)


def left_to_give(budget: Budget, account: Account) -> Budget:
    """The most that slices may take of each limit; what is kept aside for the last word is not given away."""
    used, keeps = account.spent.plus(account.reserved), budget.on_limit == "wrap_up"
    return Budget(
        _left(budget.max_cost_micros, used.cost_micros, keeps),
        _left(budget.max_tokens, used.tokens, keeps),
        _left(budget.max_output_tokens, used.output_tokens, keeps, WRAP_UP_FLOOR_TOKENS),
        budget.on_limit,
    )


def _least(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def warnings(budget: Budget, before: Amount, after: Amount) -> list[str]:
    """The limits of which more than ``WARNING_PERCENT`` is spent now and was not before."""
    return [
        name
        for name, limit, was, now in _limits(budget, before, after)
        if limit is not None and 100 * was < WARNING_PERCENT * limit <= 100 * now
    ]


def exceeded(budget: Budget, spent: Amount) -> list[str]:
    """The limits that are overspent: a vendor used more than it was allowed, or a limit was lowered."""
    return [name for name, limit, _, now in _limits(budget, spent, spent) if limit is not None and now > limit]


def input_bound(exact_tokens: int | None, added_bytes: int, added_blocks: int, permille: int) -> int:
    """An upper bound of a prompt's tokens: what was counted by the vendor last time, and the most that
    ``added_bytes`` of text can be. Without an exact count the whole request is what was added."""
    added = -(-added_bytes * max(permille, TOKENS_PER_BYTE_PERMILLE) // 1_000) + TOKENS_PER_BLOCK * added_blocks
    return (TOKENS_PER_REQUEST if exact_tokens is None else exact_tokens) + added


def _affordable(budget: Budget, account: Account, ask: Ask) -> list[tuple[str, int]]:
    """For each limit that there is: how many output tokens it can pay for, below zero when not even the input."""
    found = []
    used = account.spent.plus(account.reserved)
    keeps = budget.on_limit == "wrap_up" and not ask.wrap_up
    if (left := _left(budget.max_cost_micros, used.cost_micros, keeps)) is not None:
        found.append(("max_cost_usd", _tokens_for(left, ask)))
    if (left := _left(budget.max_tokens, used.tokens, keeps)) is not None:
        found.append(("max_tokens", left - ask.input_tokens))
    if (left := _left(budget.max_output_tokens, used.output_tokens, keeps, WRAP_UP_FLOOR_TOKENS)) is not None:
        found.append(("max_output_tokens", left))
    return found


def _left(limit: int | None, used: int, keeps_aside: bool, aside_min: int = 0) -> int | None:
    if limit is None:
        return None
    if not keeps_aside:
        return limit - used
    return limit - used - max(limit * KEPT_ASIDE_PERCENT // 100, aside_min)


def _tokens_for(micros: int, ask: Ask) -> int:
    """The largest output, up to the cap asked for, that ``micros`` can pay for beside the input; below zero
    when there is none. Prices only grow with the number of tokens."""
    low, high = -1, ask.output_tokens
    while low < high:
        middle = (low + high + 1) // 2
        cost = ask.price(ask.input_tokens, middle)
        if cost is not None and cost <= micros:
            low = middle
        else:
            high = middle - 1
    return low


def _limits(budget: Budget, before: Amount, after: Amount) -> list[tuple[str, int | None, int, int]]:
    return [
        ("max_cost_usd", budget.max_cost_micros, before.cost_micros, after.cost_micros),
        ("max_tokens", budget.max_tokens, before.tokens, after.tokens),
        ("max_output_tokens", budget.max_output_tokens, before.output_tokens, after.output_tokens),
    ]
