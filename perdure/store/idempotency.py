"""First replies by idempotency key, so that a request that comes again is answered and not done again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from perdure.store.json_text import dump, load, plain
from perdure.store.rows import StoredReply
from perdure.store.run_transaction import now_ms
from perdure.store.schema import idempotency_keys as keys
from perdure.store.trouble import KeyInProgress, KeyReused

TAKE_OVER_AFTER_MS = 10_000  # a request that has not been answered by then has lost its process

_THIS = and_(keys.c.project_id == bindparam("project"), keys.c.key == bindparam("wanted"))
_TAKE = select(keys).where(_THIS).with_for_update()
_RESERVE_AGAIN = update(keys).where(_THIS).values(reserved_ms=bindparam("now"))
_REPLY = (
    update(keys)
    .where(_THIS, keys.c.status.is_(None))
    .values(status=bindparam("new_status"), headers=bindparam("new_headers"), body=bindparam("new_body"))
)
_FORGET = delete(keys).where(keys.c.reserved_ms < bindparam("before_ms"))
_RELEASE = delete(keys).where(_THIS, keys.c.status.is_(None))


def reserve_key(
    connection: Connection, project_id: str, key: str, fingerprint: str, object_id: str
) -> tuple[str, StoredReply | None]:
    this = {"project": project_id, "wanted": plain(key)}
    at_ms = now_ms()
    row = connection.execute(_TAKE, this).one_or_none()
    if row is None:
        new: dict[str, Any] = {
            "project_id": project_id, "key": plain(key), "fingerprint": fingerprint, "object_id": object_id,
            "reserved_ms": at_ms,
        }  # fmt: skip
        connection.execute(insert(keys), new)
        return object_id, None
    if row.fingerprint != fingerprint:
        raise KeyReused(f"idempotency key {key!r} came before with another body")
    if row.status is not None:
        return row.object_id, StoredReply(row.status, load(row.headers), row.body)
    if at_ms - row.reserved_ms < TAKE_OVER_AFTER_MS:
        raise KeyInProgress(f"the first request with idempotency key {key!r} is still being answered")
    connection.execute(_RESERVE_AGAIN, {**this, "now": at_ms})
    return row.object_id, None


def keep_reply(connection: Connection, project_id: str, key: str, reply: StoredReply) -> None:
    values = {"new_status": reply.status, "new_headers": dump(reply.headers), "new_body": reply.body}
    connection.execute(_REPLY, {"project": project_id, "wanted": plain(key), **values})


def release_key(connection: Connection, project_id: str, key: str) -> None:
    connection.execute(_RELEASE, {"project": project_id, "wanted": plain(key)})


def forget_keys(connection: Connection, older_than_ms: int) -> int:
    return connection.execute(_FORGET, {"before_ms": now_ms() - older_than_ms}).rowcount
