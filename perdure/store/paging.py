"""Lists by creation, page by page. A cursor is the id of the last row that was shown."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, Select, Table, select

from perdure.store.json_text import plain
from perdure.store.trouble import InvalidCursor


def page_of(
    connection: Connection,
    query: Select[*tuple[object, ...]],
    table: Table,
    project_id: str,
    limit: int,
    cursor: str | None,
    descending: bool,
) -> tuple[Sequence[RowMapping], str | None]:
    """Rows of ``query`` after ``cursor`` by ``table.no``, and the next cursor. InvalidCursor."""
    if cursor is not None:
        seen = connection.execute(
            select(table.c.no).where(table.c.id == plain(cursor), table.c.project_id == project_id)
        ).scalar_one_or_none()
        if seen is None:
            raise InvalidCursor(f"{cursor!r} is not a cursor of this list")
        query = query.where(table.c.no < seen if descending else table.c.no > seen)
    query = query.order_by(table.c.no.desc() if descending else table.c.no).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None
