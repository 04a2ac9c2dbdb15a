"""Sets of numbers as intervals, held against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.numbers import Numbers, contains, count, union, with_number, without

SMALL = st.sets(st.integers(1, 40))


def numbers_of(members: set[int]) -> Numbers:
    numbers: Numbers = ()
    for member in sorted(members):
        numbers = with_number(numbers, member)
    return numbers


def members_of(numbers: Numbers) -> set[int]:
    return {member for first, last in numbers for member in range(first, last + 1)}


def is_tidy(numbers: Numbers) -> bool:
    """Disjoint, ascending, none touching the next: so equal sets are equal values."""
    ends = [end for interval in numbers for end in interval]
    return ends == sorted(ends) and all(one[1] + 1 < other[0] for one, other in pairwise(numbers))


@given(st.lists(st.integers(1, 40)))
def test_numbers_that_come_in_any_order_and_twice_are_each_in_the_set_once(order: list[int]) -> None:
    numbers: Numbers = ()
    for number in order:
        numbers = with_number(numbers, number)
    assert numbers == numbers_of(set(order))
    assert members_of(numbers) == set(order)
    assert is_tidy(numbers)


@given(SMALL, st.integers(0, 42))
def test_a_set_knows_its_members_and_how_many_they_are(members: set[int], number: int) -> None:
    assert contains(numbers_of(members), number) == (number in members)
    assert count(numbers_of(members)) == len(members)


@given(SMALL, SMALL)
def test_a_union_has_the_members_of_both(one: set[int], other: set[int]) -> None:
    assert union(numbers_of(one), numbers_of(other)) == numbers_of(one | other)


@given(SMALL, SMALL)
def test_what_is_taken_out_is_gone_and_nothing_else(members: set[int], gone: set[int]) -> None:
    assert without(numbers_of(members), numbers_of(gone)) == numbers_of(members - gone)


@given(SMALL, st.lists(st.integers(1, 40)))
def test_intervals_that_somebody_else_has_cut_in_pieces_are_understood_as_well(
    members: set[int], cut: list[int]
) -> None:
    pieces = tuple((number, number) for number in cut)
    assert union(numbers_of(members), pieces) == numbers_of(members | set(cut))
    assert without(numbers_of(members), pieces) == numbers_of(members - set(cut))


def test_ten_thousand_messages_in_a_row_take_as_little_room_as_one() -> None:
    assert numbers_of(set(range(1, 10_001))) == ((1, 10_000),)
