"""Sets of counting numbers as intervals: ten thousand messages in a row take as little room as one."""

from __future__ import annotations

Numbers = tuple[tuple[int, int], ...]
"""Disjoint closed intervals in ascending order, none touching the next: ``((1, 7), (9, 9))``."""


def contains(numbers: Numbers, number: int) -> bool:
    return any(first <= number <= last for first, last in numbers)


def count(numbers: Numbers) -> int:
    return sum(last - first + 1 for first, last in numbers)


def with_number(numbers: Numbers, number: int) -> Numbers:
    """``numbers`` and ``number``. Numbers mostly come in order, so the newest interval is looked at first."""
    if numbers and numbers[-1][1] + 1 == number:
        return (*numbers[:-1], (numbers[-1][0], number))
    if not numbers or numbers[-1][1] < number:
        return (*numbers, (number, number))
    return union(numbers, ((number, number),))


def union(one: Numbers, other: Numbers) -> Numbers:
    merged: list[tuple[int, int]] = []
    for first, last in sorted((*one, *other)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def without(numbers: Numbers, gone: Numbers) -> Numbers:
    left = numbers
    for first_gone, last_gone in gone:
        left = tuple(
            piece
            for first, last in left
            for piece in ((first, min(last, first_gone - 1)), (max(first, last_gone + 1), last))
            if piece[0] <= piece[1]
        )
    return left
