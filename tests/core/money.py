"""What is promised about the money of a run, read off its ledger alone, line by line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from perdure.core.budget import Account, Amount, Budget
from tests.core.mini_journal import Entry, MiniJournal

NOTHING = (0, 0, 0)
LIMITS = (("max_cost_micros", "cost_micros"), ("max_tokens", "tokens"), ("max_output_tokens", "output_tokens"))


def ledger_promises(journal: MiniJournal, bills: Mapping[tuple[str, int], Amount]) -> None:
    """AssertionError says which promise is broken. ``bills`` is what the vendors said attempts have used."""
    spent, held, excused = NOTHING, {}, False
    for number, entry in enumerate(journal.ledger):
        attempt, amount = (entry.key, entry.attempt), _plain(entry.amount)
        if entry.kind == "reserved":
            assert attempt not in held, f"an attempt is reserved once, but {attempt} was again"
            held[attempt] = amount
        if entry.kind in ("settled", "corrected"):
            spent = _sum(spent, amount)
        if entry.kind in ("settled", "released"):
            assert attempt in held, f"an attempt is settled once, but {attempt} was again"
            del held[attempt]
        balance = Account(Amount(*spent), Amount(*map(sum, zip(NOTHING, *held.values(), strict=True))))
        assert balance == entry.account, (
            f"the balance of line {number} follows from the lines before: {balance}, {entry}"
        )
        excused = excused or entry.overrun or entry.kind == "limit"
        _within_limits(entry, number, excused)
    assert not held, f"nothing is reserved at the end, but {held} is"
    _each_attempt_is_paid_once(journal, bills)
    _overruns_are_told(journal, bills)
    _warnings_are_given(journal)


def _within_limits(entry: Entry, number: int, excused: bool) -> None:
    """``excused``: a vendor used more than it was allowed, or somebody changed the limit. A new reservation has no
    excuse, ever."""
    for limit_name, name in LIMITS:
        limit = getattr(entry.budget or Budget(), limit_name)
        if limit is None:
            continue
        used = getattr(entry.account.spent, name) + getattr(entry.account.reserved, name)
        if entry.kind == "reserved" or not excused or number == 0:
            assert used <= limit, (
                f"spent and reserved stay within {limit_name} {limit}, but were {used} in line {number}"
            )
        last_words = entry.key.startswith("wrap-up")
        if entry.kind == "reserved" and not last_words and entry.budget and entry.budget.on_limit == "wrap_up":
            left = limit - used
            assert 100 * left >= 10 * limit - 99, (
                f"a tenth of {limit_name} {limit} is kept for the last words, not {left}"
            )


def _each_attempt_is_paid_once(journal: MiniJournal, bills: Mapping[tuple[str, int], Amount]) -> None:
    reserved = {
        (entry.key, entry.attempt): _plain(entry.amount) for entry in journal.ledger if entry.kind == "reserved"
    }
    released = {(entry.key, entry.attempt) for entry in journal.ledger if entry.kind == "released"}
    spent: dict[tuple[str, int], tuple[int, ...]] = defaultdict(lambda: NOTHING)
    for entry in journal.ledger:
        if entry.kind in ("settled", "corrected"):
            attempt = entry.key, entry.attempt
            spent[attempt] = _sum(spent[attempt], _plain(entry.amount))
    for attempt, worst in reserved.items():
        due = _plain(bills[attempt]) if attempt in bills else NOTHING if attempt in released else worst
        assert spent[attempt] == due, (
            f"attempt {attempt} costs {due} (billed, assumed or nothing), not {spent[attempt]}"
        )


def _overruns_are_told(journal: MiniJournal, bills: Mapping[tuple[str, int], Amount]) -> None:
    """Recorded as it is, flagged in its line, said in an event."""
    reserved = {
        (entry.key, entry.attempt): _plain(entry.amount) for entry in journal.ledger if entry.kind == "reserved"
    }
    over = {
        attempt
        for attempt, bill in bills.items()
        for most, used in zip(reserved[attempt], _plain(bill), strict=True)
        if used > most and (most or not attempt[0].startswith("child-"))  # a slice of a limit that there is
    }
    flagged = {(entry.key, entry.attempt) for entry in journal.ledger if entry.overrun}
    assert flagged == over, f"what vendors used beyond their allowance is flagged: {over}, but flagged were {flagged}"
    assert journal.told()["budget.overrun"] == len(over), f"each overrun is told once, but {over} were not"


def _warnings_are_given(journal: MiniJournal) -> None:
    """Where a limit stayed as it was: a warning when more than four fifths of it were spent, and only then."""
    budgets = {entry.budget for entry in journal.ledger}
    if len(budgets) != 1 or (budget := budgets.pop()) is None:
        return
    due = 0
    for limit_name, name in LIMITS:
        limit = getattr(budget, limit_name)
        due += bool(limit) and any(5 * getattr(entry.account.spent, name) >= 4 * limit for entry in journal.ledger)
    told = journal.told()["budget.warning"]
    assert told >= due, f"{due} limits were nearly spent, but only {told} warnings given"
    assert due or not told, f"{due} limits were nearly spent, and {told} warnings given"


def _plain(amount: Amount) -> tuple[int, ...]:
    return amount.cost_micros, amount.tokens, amount.output_tokens


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
