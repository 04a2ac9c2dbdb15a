"""What a run may spend, held against trying every output cap one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.budget import (
    KEPT_ASIDE_PERCENT,
    OUTPUT_FLOOR_TOKENS,
    WRAP_UP_FLOOR_TOKENS,
    Account,
    Amount,
    Ask,
    Budget,
    Grant,
    Price,
    Reached,
    exceeded,
    input_bound,
    reserve,
    settle,
    warnings,
    worst_case,
)
from perdure.core.spec import OnLimit

LIMIT = st.none() | st.integers(0, 3_000)
ON_LIMIT: st.SearchStrategy[OnLimit] = st.sampled_from(["wrap_up", "pause", "stop"])
AMOUNT = st.builds(Amount, st.integers(0, 800), st.integers(0, 800), st.integers(0, 400))
PRICES = st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([1, 2, 7]))


def price(input_price: int, output_price: int, divisor: int) -> Price:
    """Rounded up, dearer in long prompts."""

    def of(input_tokens: int, output_tokens: int) -> int:
        factor = 2 if input_tokens > 300 else 1
        return -(-factor * (input_tokens * input_price + output_tokens * output_price) // divisor)

    return of


def in_tokens(limit: int | None, on_limit: OnLimit, *, wrap_up: bool, at_least: int = 0) -> int | None:
    """What is left of a limit when the part for the last words is kept aside."""
    if limit is None or on_limit != "wrap_up" or wrap_up:
        return limit
    return limit - max(limit * 10 // 100, at_least)


def fits(budget: Budget, account: Account, ask: Ask, output_tokens: int) -> bool:
    amount = Amount(ask.price(ask.input_tokens, output_tokens) or 0, ask.input_tokens + output_tokens, output_tokens)
    used = account.spent.plus(account.reserved).plus(amount)
    limits = [
        (in_tokens(budget.max_cost_micros, budget.on_limit, wrap_up=ask.wrap_up), used.cost_micros),
        (in_tokens(budget.max_tokens, budget.on_limit, wrap_up=ask.wrap_up), used.tokens),
        (in_tokens(budget.max_output_tokens, budget.on_limit, wrap_up=ask.wrap_up, at_least=64), used.output_tokens),
    ]
    return all(limit is None or now <= limit for limit, now in limits)


@given(
    st.builds(Budget, LIMIT, LIMIT, LIMIT, ON_LIMIT),
    st.builds(Account, AMOUNT, AMOUNT),
    st.integers(0, 700), st.integers(1, 700), PRICES, st.booleans(),
)  # fmt: skip
def test_the_cap_that_is_granted_is_the_largest_that_fits(
    budget: Budget, account: Account, inputs: int, cap: int, prices: tuple[int, int, int], wrap_up: bool
) -> None:
    ask = Ask(inputs, cap, price(*prices), wrap_up)
    floor = min(cap, WRAP_UP_FLOOR_TOKENS if wrap_up else OUTPUT_FLOOR_TOKENS)
    largest = next((tokens for tokens in range(cap, floor - 1, -1) if fits(budget, account, ask, tokens)), None)
    match reserve(budget, account, ask):
        case Grant(tokens, amount, clamped_by, binding):
            assert tokens == largest
            assert amount == worst_case(ask, tokens)
            assert bool(clamped_by) == (tokens < cap)
            assert binding == (budget != Budget(on_limit=budget.on_limit))
        case Reached(limit):
            assert largest is None
            assert limit in ("max_cost_usd", "max_tokens", "max_output_tokens")


@given(st.builds(Budget, LIMIT, LIMIT, LIMIT, ON_LIMIT), st.builds(Account, AMOUNT, AMOUNT), AMOUNT)
def test_what_is_reserved_counts_like_what_is_spent(budget: Budget, account: Account, more: Amount) -> None:
    ask = Ask(100, 500, price(1, 2, 1))
    in_flight = Account(account.spent, account.reserved.plus(more))
    over = Account(account.spent.plus(more), account.reserved)
    assert reserve(budget, in_flight, ask) == reserve(budget, over, ask)


def test_a_budget_without_limits_grants_what_is_asked_and_binds_nothing() -> None:
    ask = Ask(10**9, 8_192, price(3, 5, 1))
    granted = reserve(Budget(), Account(), ask)
    assert isinstance(granted, Grant)
    assert (granted.output_tokens, granted.clamped_by, granted.binding) == (8_192, "", False)


def test_a_call_whose_price_nobody_knows_does_not_fit_a_limit_in_money() -> None:
    assert reserve(Budget(max_cost_micros=10**9), Account(), Ask(1, 1_000, lambda _i, _o: None)) == Reached(
        "max_cost_usd"
    )


def test_the_last_words_may_spend_what_was_kept_for_them_and_nothing_else_may() -> None:
    budget, account = Budget(max_tokens=10_000), Account(Amount(0, 9_000, 0))
    assert reserve(budget, account, Ask(100, 500, price(0, 0, 1))) == Reached("max_tokens")
    words = reserve(budget, account, Ask(100, 500, price(0, 0, 1), wrap_up=True))
    assert isinstance(words, Grant)
    assert words.output_tokens == 500
    assert KEPT_ASIDE_PERCENT == 10


@given(st.builds(Account, AMOUNT, AMOUNT), AMOUNT, AMOUNT)
def test_a_settlement_gives_back_the_reservation_and_charges_what_was_used(
    account: Account, reserved: Amount, actual: Amount
) -> None:
    held = Account(account.spent, account.reserved.plus(reserved))
    assert settle(held, reserved, actual) == Account(account.spent.plus(actual), account.reserved)


@given(st.builds(Budget, LIMIT, LIMIT, LIMIT), AMOUNT, st.lists(AMOUNT, min_size=1, max_size=6))
def test_whoever_spends_in_steps_is_warned_of_each_limit_once_when_four_fifths_are_spent(
    budget: Budget, spent: Amount, steps: list[Amount]
) -> None:
    given_, before = [], Amount()
    for step in [spent, *steps]:
        after = before.plus(step)
        given_ += warnings(budget, before, after)
        before = after
    limits = {
        "max_cost_usd": (budget.max_cost_micros, before.cost_micros),
        "max_tokens": (budget.max_tokens, before.tokens),
        "max_output_tokens": (budget.max_output_tokens, before.output_tokens),
    }
    assert sorted(given_) == sorted(name for name, (limit, now) in limits.items() if limit and 5 * now >= 4 * limit)


@given(st.builds(Budget, LIMIT, LIMIT, LIMIT), AMOUNT)
def test_what_is_overspent_is_named(budget: Budget, spent: Amount) -> None:
    named = exceeded(budget, spent)
    assert ("max_tokens" in named) == (budget.max_tokens is not None and spent.tokens > budget.max_tokens)
    assert ("max_cost_usd" in named) == (
        budget.max_cost_micros is not None and spent.cost_micros > budget.max_cost_micros
    )


@given(AMOUNT, AMOUNT)
def test_an_amount_exceeds_another_when_any_part_of_it_does(one: Amount, other: Amount) -> None:
    parts = ("cost_micros", "tokens", "output_tokens")
    assert one.exceeds(other) == any(getattr(one, part) > getattr(other, part) for part in parts)


@given(st.none() | st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 4_000))
def test_a_prompt_has_at_most_a_token_a_byte_and_what_vendors_add(
    exact: int | None, added_bytes: int, messages: int, permille: int
) -> None:
    bound = input_bound(exact, added_bytes, messages, permille)
    assert bound >= (exact if exact is not None else 1_024) + added_bytes + 16 * messages
    assert bound >= added_bytes * permille / 1_000


def test_a_longer_prompt_has_a_higher_bound_whatever_was_counted_before() -> None:
    ask = Ask(input_bound(500, 100, 1, 1_000), 100, price(1, 1, 1))
    assert ask.with_added(0, 0) == ask
    assert ask.with_added(70, 2).input_tokens == input_bound(500, 170, 3, 1_000)
