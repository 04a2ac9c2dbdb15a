"""Pages: the query parameters of lists and the envelope they answer with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query

from api.encoding import JsonReply
from api.problems import parameter_problem
from perdure.store.rows import Page
from perdure.store.trouble import InvalidCursor

Row = TypeVar("Row")

PAGE_DEFAULT = 20
PAGE_MAX = 100

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Items on a page.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By creation.")]
After = Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")]
Before = Annotated[
    str | None, Query(max_length=512, description="Instead of `after`: the items before this id, in the same order.")
]


def list_reply(items: Sequence[dict[str, Any]], next_cursor: str | None, *, status: int = 200) -> JsonReply:
    return JsonReply(
        {
            "object": "list",
            "data": items,
            "has_more": next_cursor is not None,
            "first_id": items[0].get("id") if items else None,
            "last_id": items[-1].get("id") if items else None,
            "next_cursor": next_cursor,
        },
        status,
    )


Fetch = Callable[[str | None, bool], Awaitable[Page[Row]]]


async def page_reply(
    fetch: Fetch[Row],
    render: Callable[[Row], dict[str, Any]],
    *,
    order: Literal["asc", "desc"],
    after: str | None,
    before: str | None,
) -> JsonReply:
    """A page of a list, each row by itself. ``invalid_cursor``."""
    rows, next_cursor = await page_of(fetch, order=order, after=after, before=before)
    return list_reply([render(row) for row in rows], next_cursor)


async def page_of(
    fetch: Fetch[Row], *, order: Literal["asc", "desc"], after: str | None, before: str | None
) -> tuple[list[Row], str | None]:
    """A page after a row, or before one: then it is read backwards and turned round, and its
    ``next_cursor`` is the next ``before``. ``fetch`` takes a cursor and whether to go down. ``invalid_cursor``."""
    if after is not None and before is not None:
        raise parameter_problem("invalid_cursor", "before", "give after or before, not both")
    backwards = before is not None
    try:
        page = await fetch(before if backwards else after, (order == "desc") is not backwards)
    except InvalidCursor:
        name = "before" if backwards else "after"
        raise parameter_problem("invalid_cursor", name, "The cursor was not given out by this API.") from None
    return page.rows[::-1] if backwards else page.rows, page.next_cursor


def number_cursor(after: str | None) -> int:
    """A cursor that counts (messages, steps): 0 without one. ``invalid_cursor``."""
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit() and len(after) <= 15):
        raise parameter_problem("invalid_cursor", "after", f"{after!r} is not a cursor of this list.")
    return int(after)
