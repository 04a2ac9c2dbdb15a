"""The tables. Every change here needs a migration in ``migrations/versions``; a test compares the two.

Compact on purpose: the integer ``no`` of a run or session is the key of its rows, times are integer
milliseconds, JSON is TEXT (see ``json_text.py``), and what can be looked up by number is not stored
twice: a ``message.added`` event has no body, a tool call's arguments stand in the message that asked.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HEAD = "0001"  # the newest migration: what this code reads and writes

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in INTEGER columns

sessions = Table(
    "sessions",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("active_run_id", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("labels", Text),
    Column("metadata", Text),
)
Index("ix_sessions_project_id", sessions.c.project_id, sessions.c.no)

runs = Table(
    "runs",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("session_no", BigInteger, ForeignKey("sessions.no"), nullable=False),
    Column("agent_id", Text),
    Column("agent_version", Integer),
    Column("definition", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("stop_reason", Text),
    Column("error", Text),
    Column("input_number", Integer, nullable=False),
    Column("output_number", Integer),
    Column("last_number", Integer, nullable=False),  # newest message of the session, while this run is active
    Column("last_seq", Integer, nullable=False),
    Column("last_call", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_micros", BigInteger, nullable=False),
    Column("unpriced_calls", Integer, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("recovering", Integer, nullable=False),  # how many of its calls are being recovered
    Column("workflow_started", Boolean, nullable=False),
    Column("last_progress_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("completed_ms", BigInteger),
    Column("parent_run_id", Text),
    Column("root_run_id", Text, nullable=False),
    Column("depth", SmallInteger, nullable=False),
    Column("labels", Text),
    Column("metadata", Text),
    Column("traceparent", Text),
)
Index("ix_runs_project_id", runs.c.project_id, runs.c.no)
Index("ix_runs_session_no", runs.c.session_no)
Index("ix_runs_root_run_id", runs.c.root_run_id)
Index(
    "ix_runs_unstarted",
    runs.c.created_ms,
    postgresql_where=text("NOT workflow_started"),
    sqlite_where=text("NOT workflow_started"),
)

run_labels = Table(
    "run_labels",
    metadata,
    Column("run_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_run_labels_name", run_labels.c.name, run_labels.c.value)

messages = Table(
    "messages",
    metadata,
    Column("no", Number, primary_key=True),
    Column("session_no", BigInteger, ForeignKey("sessions.no"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run_no", BigInteger, ForeignKey("runs.no"), nullable=False),
    Column("id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("producer", Text),
    Column("stop_reason", Text),
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("session_no", "number"),
)

events = Table(
    "events",
    metadata,
    Column("run_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("type", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("key", Text),
    Column("call_id", Text),
    Column("message_id", Text),  # of messages that are not in the transcript (yet)
    Column("message_number", Integer),  # of message.added: the message is its data
    Column("attempt", Integer),
    Column("data", Text),
    sqlite_with_rowid=False,
)
Index(
    "uq_events_key", events.c.run_no, events.c.key, unique=True,
    sqlite_where=text("key IS NOT NULL"), postgresql_where=text("key IS NOT NULL"),
)  # fmt: skip

calls = Table(
    "calls",
    metadata,
    Column("run_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),  # in the order asked, from 1
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("open_attempt", Integer),
    Column("ended_attempt", Integer),
    Column("asked_number", Integer),  # the message that asked for this tool call ...
    Column("asked_index", Integer),  # ... and which of its tool_call blocks this is, from 0
    Column("usage", Text),
    Column("message_number", Integer),
    Column("error", Text),
    Column("vendor_id", Text),
    Column("worker", Text),
    Column("requested_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("recovering_ms", BigInteger),  # since when its worker is known to be lost
    Column("outcome", Text),
    UniqueConstraint("run_no", "key"),
    sqlite_with_rowid=False,
)

inbox = Table(
    "inbox",
    metadata,
    Column("no", Number, primary_key=True),
    Column("run_no", BigInteger, ForeignKey("runs.no"), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("delivery", Text, nullable=False),
    Column("status", Text, nullable=False),  # accepted, then applied or returned
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("run_no", "message_id"),
)

agents = Table(
    "agents",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("newest_version", Integer, nullable=False),
    UniqueConstraint("project_id", "name"),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    Column("agent_no", BigInteger, ForeignKey("agents.no"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("definition", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("project_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("reserved_ms", BigInteger, nullable=False),
    Column("status", Integer),
    Column("headers", Text),
    Column("body", LargeBinary),
)
