"""Sessions and agents: what runs belong to and what they pin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, or_, select, update

from perdure.core.state import Json
from perdure.definitions import AgentDefinition
from perdure.store.json_text import dump, dump_map, dump_sorted, load, load_map, plain
from perdure.store.paging import page_of
from perdure.store.rows import AgentRow, Page, SessionRow
from perdure.store.run_transaction import new_id, now_ms
from perdure.store.schema import agent_versions, agents, messages, sessions
from perdure.store.trouble import NameTaken, NotFound

_last_number = select(func.max(messages.c.number)).where(messages.c.session_no == sessions.c.no).scalar_subquery()
_newest = messages.alias("newest")
_SESSIONS = (
    select(
        sessions,
        _newest.c.number.label("last_number"),
        _newest.c.at_ms.label("last_ms"),
    )
    .select_from(sessions)
    .outerjoin(_newest, and_(_newest.c.session_no == sessions.c.no, _newest.c.number == _last_number))
)
_SESSION = _SESSIONS.where(sessions.c.id == bindparam("session_id"))

_AGENTS = select(agents, agent_versions.c.version, agent_versions.c.definition, agent_versions.c.created_ms)
_NEWEST = _AGENTS.join(
    agent_versions,
    and_(agent_versions.c.agent_no == agents.c.no, agent_versions.c.version == agents.c.newest_version),
)
_ALL_VERSIONS = _AGENTS.join(agent_versions, agent_versions.c.agent_no == agents.c.no)
_THIS_ONE = and_(
    agents.c.project_id == bindparam("project_id"),
    or_(agents.c.id == bindparam("wanted"), agents.c.name == bindparam("wanted")),
)
_ID_FIRST = (agents.c.id == bindparam("wanted")).desc()


def create_session(
    connection: Connection, project_id: str, session_id: str, labels: Mapping[str, str], metadata: Mapping[str, Json]
) -> SessionRow:
    existing = connection.execute(_SESSION, {"session_id": plain(session_id)}).first()
    if existing is None:
        row = {
            "id": plain(session_id), "project_id": project_id, "created_ms": now_ms(), "labels": dump_map(labels),
            "metadata": dump_map(metadata),
        }  # fmt: skip
        connection.execute(insert(sessions), row)
    return get_session(connection, project_id, session_id)


def get_session(connection: Connection, project_id: str, session_id: str) -> SessionRow:
    row = connection.execute(_SESSION, {"session_id": plain(session_id)}).mappings().one_or_none()
    if row is None or row["project_id"] != project_id:
        raise NotFound("session", session_id)
    return _session_of(row)


def list_sessions(
    connection: Connection, project_id: str, limit: int, cursor: str | None, descending: bool
) -> Page[SessionRow]:
    query = _SESSIONS.where(sessions.c.project_id == project_id, sessions.c.deleted_ms.is_(None))
    rows, next_cursor = page_of(connection, query, sessions, project_id, limit, cursor, descending)
    return Page([_session_of(row) for row in rows], next_cursor)


def _session_of(row: RowMapping) -> SessionRow:
    return SessionRow(
        id=row["id"],
        project_id=row["project_id"],
        last_number=row["last_number"] or row["inherited"],
        active_run_id=row["active_run_id"],
        created_ms=row["created_ms"],
        updated_ms=max(row["last_ms"] or 0, row["created_ms"]),  # imported messages are older than their session
        labels=load_map(row["labels"]),
        metadata=load_map(row["metadata"]),
        forked_from=row["forked_from"],
        inherited=row["inherited"],
        deleted_ms=row["deleted_ms"],
    )


def put_agent(connection: Connection, project_id: str, definition: AgentDefinition, agent_id: str | None) -> AgentRow:
    name = plain(definition["name"])
    which = agents.c.name == name if agent_id is None else agents.c.id == plain(agent_id)
    agent = connection.execute(
        select(agents).where(agents.c.project_id == project_id, which).with_for_update()
    ).one_or_none()
    if agent is None:
        if agent_id is not None:
            raise NotFound("agent", agent_id)
        row = {"id": new_id("agt"), "project_id": project_id, "name": name, "newest_version": 1}
        no = connection.execute(insert(agents), row).inserted_primary_key[0]  # type: ignore[index]
        _add_version(connection, no, 1, definition)
        return get_agent(connection, project_id, row["id"], None)  # type: ignore[arg-type]
    newest = get_agent(connection, project_id, agent.id, None)
    if dump_sorted(newest.definition) == dump_sorted(definition):
        return newest
    if (
        name != agent.name
        and connection.execute(
            select(agents.c.no).where(agents.c.project_id == project_id, agents.c.name == name)
        ).first()
    ):
        raise NameTaken(name)
    version = agent.newest_version + 1
    connection.execute(update(agents).where(agents.c.no == agent.no).values(newest_version=version, name=name))
    _add_version(connection, agent.no, version, definition)
    return get_agent(connection, project_id, agent.id, None)


def _add_version(connection: Connection, agent_no: int, version: int, definition: AgentDefinition) -> None:
    row: dict[str, Any] = {
        "agent_no": agent_no, "version": version, "definition": dump(definition), "created_ms": now_ms(),
    }  # fmt: skip
    connection.execute(insert(agent_versions), row)


def get_agent(connection: Connection, project_id: str, id_or_name: str, version: int | None) -> AgentRow:
    query = _NEWEST if version is None else _ALL_VERSIONS.where(agent_versions.c.version == version)
    rows = connection.execute(
        query.where(_THIS_ONE).order_by(_ID_FIRST).limit(1), {"project_id": project_id, "wanted": plain(id_or_name)}
    )
    row = rows.mappings().one_or_none()
    if row is None:
        raise NotFound("agent", id_or_name if version is None else f"{id_or_name}@{version}")
    return _agent_of(row)


def list_agents(
    connection: Connection, project_id: str, limit: int, cursor: str | None, descending: bool
) -> Page[AgentRow]:
    query = _NEWEST.where(agents.c.project_id == project_id)
    rows, next_cursor = page_of(connection, query, agents, project_id, limit, cursor, descending)
    return Page([_agent_of(row) for row in rows], next_cursor)


def list_agent_versions(connection: Connection, project_id: str, id_or_name: str) -> list[AgentRow]:
    agent = get_agent(connection, project_id, id_or_name, None)
    query = _ALL_VERSIONS.where(agents.c.id == agent.id).order_by(agent_versions.c.version)
    return [_agent_of(row) for row in connection.execute(query).mappings()]


def _agent_of(row: RowMapping) -> AgentRow:
    definition: AgentDefinition = load(row["definition"])
    return AgentRow(row["id"], row["project_id"], definition["name"], row["version"], definition, row["created_ms"])
