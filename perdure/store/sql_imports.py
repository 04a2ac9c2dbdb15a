"""Sessions of other journals: all their messages in one transaction, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert, select

from perdure.core.state import Json
from perdure.store.json_text import dump, dump_map, plain
from perdure.store.rows import ImportedMessage, SessionRow
from perdure.store.run_transaction import ADD_BLOB_USES, blob_uses_of, now_ms
from perdure.store.schema import messages, sessions
from perdure.store.sql_sessions import get_session

_AT_ONCE = 500  # messages of one statement: bounds memory
_ADD = insert(messages)


def import_session(
    connection: Connection, project_id: str, session_id: str, entries: Iterable[ImportedMessage],
    labels: Mapping[str, str], metadata: Mapping[str, Json],
) -> SessionRow:  # fmt: skip
    """What ``entries`` raises undoes all of it. A session that is there already is returned as it is."""
    if connection.execute(select(sessions.c.no).where(sessions.c.id == plain(session_id))).first() is None:
        row = {
            "id": plain(session_id), "project_id": project_id, "created_ms": now_ms(), "labels": dump_map(labels),
            "metadata": dump_map(metadata),
        }  # fmt: skip
        no: int = connection.execute(insert(sessions), row).inserted_primary_key[0]  # type: ignore[index]
        left = iter(entries)
        while some := list(islice(left, _AT_ONCE)):
            connection.execute(_ADD, [_row(no, entry) for entry in some])
            if uses := [use for entry in some for use in blob_uses_of(no, entry.number, entry.content)]:
                connection.execute(ADD_BLOB_USES, uses)
    return get_session(connection, project_id, session_id)


def _row(session_no: int, entry: ImportedMessage) -> dict[str, Any]:
    return {
        "session_no": session_no, "number": entry.number, "run_no": None, "id": plain(entry.id), "role": entry.role,
        "content": dump(entry.content), "at_ms": entry.at_ms,
        "producer": plain(entry.producer) if entry.producer is not None else None,
        "stop_reason": plain(entry.stop_reason) if entry.stop_reason is not None else None,
    }  # fmt: skip
