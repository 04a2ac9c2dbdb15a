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
    Float,
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
    Column("inherited", Integer, nullable=False, default=0),  # up to here its messages are others'
    Column("forked_from", Text),  # the session it was forked from, at its number ``inherited``
    Column("deleted_ms", BigInteger),  # its content is erased; this row stays
    Column("labels", Text),
    Column("metadata", Text),
)
Index("ix_sessions_project_id", sessions.c.project_id, sessions.c.no)

session_parts = Table(  # where the inherited messages of a forked session stand: flat, however often it was forked
    "session_parts",
    metadata,
    Column("session_no", BigInteger, ForeignKey("sessions.no"), primary_key=True),
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("last", Integer, nullable=False),
    Column("source_no", BigInteger, ForeignKey("sessions.no"), nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_session_parts_source_no", session_parts.c.source_no)

runs = Table(
    "runs",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("session_no", BigInteger, ForeignKey("sessions.no"), nullable=False),
    Column("agent_id", Text),
    Column("agent_version", Integer),
    Column("agent_name", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("requested_by", Text),
    Column("status", Text, nullable=False),
    Column("status_reason", Text),
    Column("stop_reason", Text),
    Column("error", Text),
    Column("input_number", Integer, nullable=False),
    Column("input_session_no", BigInteger),  # where the input stands, when it was said to another run
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
    Column("limits", Text, nullable=False),
    Column("budget", Text),
    Column("spent_micros", BigInteger, nullable=False),  # the newest balance of the ledger, in six numbers
    Column("spent_tokens", BigInteger, nullable=False),
    Column("spent_output_tokens", BigInteger, nullable=False),
    Column("reserved_micros", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("reserved_output_tokens", BigInteger, nullable=False),
    Column("overrun", Boolean, nullable=False),  # a line of the ledger has it
    Column("last_entry", Integer, nullable=False),  # of the ledger
    Column("last_order", Integer, nullable=False),
    Column("open_asks", Integer, nullable=False),  # how many: nobody looks for them where there are none
    Column("waiting_messages", Integer, nullable=False),  # how many wait in the inbox
    Column("buffered_signals", Integer, nullable=False),  # how many wait for somebody to wait for them
    Column("exact_tokens", BigInteger),  # the transcript up to ...
    Column("exact_number", Integer, nullable=False),  # ... this message, as the vendor counted it
    Column("recovering", Integer, nullable=False),  # how many of its calls are being recovered
    Column("workflow_started", Boolean, nullable=False),
    Column("last_progress_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("start_ms", BigInteger),  # when it shall start, if not at once
    Column("started_ms", BigInteger),
    Column("completed_ms", BigInteger),
    Column("parent_run_id", Text),
    Column("root_run_id", Text, nullable=False),
    Column("depth", SmallInteger, nullable=False),
    Column("retry_of", Text),
    Column("forked_from", Text),  # the run, ...
    Column("forked_seq", Integer),  # ... and its event
    Column("pruned", SmallInteger, nullable=False, default=0),  # 1: its deltas are gone, 2: its events
    Column("pruned_seq", Integer, nullable=False, default=0),  # events up to here are no longer kept
    Column("schedule_id", Text),
    Column("parent_call_id", Text),  # of the call that started it
    Column("background", Boolean, nullable=False),  # its parent's call does not wait for it
    Column("detached", Boolean, nullable=False),  # it does not end with its parent
    Column("slice", Text),  # what its parent's ledger has reserved for it, while it lives
    Column("children", Integer, nullable=False),  # how many runs it has started
    Column("transfers", Integer, nullable=False),  # how often its session was handed to another agent
    Column("said", Text),  # its output as its parent is shown it, when it is large
    Column("workflow_left", Boolean, nullable=False),  # it was ended here, and its workflow may not have heard of it
    Column("labels", Text),
    Column("metadata", Text),
    Column("traceparent", Text),
)
Index("ix_runs_project_id", runs.c.project_id, runs.c.no)
Index("ix_runs_session_no", runs.c.session_no)
Index("ix_runs_root_run_id", runs.c.root_run_id)
Index("ix_runs_pruned", runs.c.pruned, runs.c.completed_ms)
Index(
    "ix_runs_schedule_id", runs.c.schedule_id, runs.c.no,
    sqlite_where=text("schedule_id IS NOT NULL"), postgresql_where=text("schedule_id IS NOT NULL"),
)  # fmt: skip
Index(
    "uq_runs_parent", runs.c.parent_run_id, runs.c.parent_call_id, unique=True,
    sqlite_where=text("parent_run_id IS NOT NULL"), postgresql_where=text("parent_run_id IS NOT NULL"),
)  # fmt: skip
Index(
    "ix_runs_left", runs.c.no,
    sqlite_where=text("workflow_left"), postgresql_where=text("workflow_left"),
)  # fmt: skip
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
    Column("run_no", BigInteger, ForeignKey("runs.no")),  # none: it was imported
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
    Column("args_sha256", Text),
    Column("arguments", Text),  # those that a person put in place of the model's
    Column("reserved", Text),  # what the open attempt may cost at worst
    Column("usage", Text),
    Column("message_number", Integer),
    Column("error", Text),
    Column("vendor_id", Text),
    Column("worker", Text),
    Column("requested_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("recovering_ms", BigInteger),  # since when its worker is known to be lost
    Column("ordered", Integer),  # number of the newest order to run it again ...
    Column("ordered_attempts", Integer),  # ... and how many attempts it had had by then
    Column("outcome", Text),
    UniqueConstraint("run_no", "key"),
    sqlite_with_rowid=False,
)

inbox = Table(
    "inbox",
    metadata,
    Column("no", Number, primary_key=True),
    Column("run_no", BigInteger, ForeignKey("runs.no"), nullable=False),
    Column("number", Integer, nullable=False),  # of its order
    Column("message_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("delivery", Text, nullable=False),
    Column("status", Text, nullable=False),  # accepted, then applied or returned
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("run_no", "message_id"),
)
Index("uq_inbox_number", inbox.c.run_no, inbox.c.number, unique=True)

orders = Table(
    "orders",
    metadata,
    Column("run_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("verb", Text, nullable=False),
    Column("body", Text),
    Column("at_ms", BigInteger, nullable=False),
    Column("delivered_ms", BigInteger),
    sqlite_with_rowid=False,
)
Index(
    "ix_orders_waiting", orders.c.run_no, orders.c.number,
    sqlite_where=text("delivered_ms IS NULL"), postgresql_where=text("delivered_ms IS NULL"),
)  # fmt: skip

asks = Table(
    "asks",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("run_no", BigInteger, ForeignKey("runs.no"), nullable=False),
    Column("session_no", BigInteger, ForeignKey("sessions.no"), nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("call_id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("name", Text),  # of the event that is waited for
    Column("args_sha256", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("client_seconds", Float),
    Column("questions", Text),
    Column("awaits", Text),  # the children that a call waits for, and whether for all of them
    Column("answers", Text),
    Column("votes", Text),
    Column("decision", Text),
    Column("decided_by", Text),
    Column("message", Text),
    Column("edited", Boolean, nullable=False),
    Column("scope", Text, nullable=False),
    Column("escalated", Boolean, nullable=False),
    Column("settled_by", Text),  # key of the action that prolonged it, or found it decided
    Column("asked_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)
Index("ix_asks_project_id", asks.c.project_id, asks.c.status, asks.c.no)
Index("ix_asks_call", asks.c.run_no, asks.c.call_id)
Index("ix_asks_standing", asks.c.session_no, asks.c.args_sha256)
Index(
    "ix_asks_event", asks.c.project_id, asks.c.name,
    sqlite_where=text("name IS NOT NULL"), postgresql_where=text("name IS NOT NULL"),
)  # fmt: skip

signals = Table(
    "signals",
    metadata,
    Column("no", Number, primary_key=True),
    Column("run_no", BigInteger, ForeignKey("runs.no"), nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("urgency", Text, nullable=False),
    Column("payload", Text),
    Column("dedupe_key", Text),
    Column("buffered", Boolean, nullable=False),  # else it is only kept for its dedupe key
    Column("at_ms", BigInteger, nullable=False),
)
Index("ix_signals_run_no", signals.c.run_no, signals.c.no)

ledger = Table(
    "ledger",
    metadata,
    Column("run_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("entry", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("key", Text),
    Column("attempt", Integer),
    Column("model", Text),
    Column("cost_micros", BigInteger, nullable=False),  # what the line is about ...
    Column("tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("spent_micros", BigInteger, nullable=False),  # ... and the balance after it
    Column("spent_tokens", BigInteger, nullable=False),
    Column("spent_output_tokens", BigInteger, nullable=False),
    Column("reserved_micros", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("reserved_output_tokens", BigInteger, nullable=False),
    Column("assumed", Boolean, nullable=False),
    Column("overrun", Boolean, nullable=False),
    Column("limits", Text),
    Column("unpriced", Integer),  # of lines about what was used: calls without a known price, else NULL
    Column("assumed_micros", BigInteger),
    Column("cache_read_tokens", BigInteger),
    Column("bound_tokens", BigInteger),  # the bound of the input that was reserved
    Column("at_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index(
    "ix_ledger_used", ledger.c.at_ms,
    sqlite_where=text("unpriced IS NOT NULL"), postgresql_where=text("unpriced IS NOT NULL"),
)  # fmt: skip

boards = Table(  # what a tree of runs has written on its blackboard is counted here, and never goes back
    "boards",
    metadata,
    Column("root_no", BigInteger, ForeignKey("runs.no"), primary_key=True, autoincrement=False),
    Column("last_number", Integer, nullable=False),  # entries were posted so many
    Column("revision", Integer, nullable=False),  # changes were made so many
)

board_entries = Table(
    "board_entries",
    metadata,
    Column("root_no", BigInteger, ForeignKey("runs.no"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),  # of the board, when it was changed last
    Column("topic", Text),
    Column("text", Text, nullable=False),
    Column("posted_run_id", Text, nullable=False),
    Column("posted_agent", Text, nullable=False),
    Column("posted_ms", BigInteger, nullable=False),
    Column("changed_run_id", Text, nullable=False),
    Column("changed_agent", Text, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

schedules = Table(
    "schedules",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("timing_version", Integer, nullable=False),
    Column("applied_version", Integer, nullable=False),
    Column("definition", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("paused_reason", Text, nullable=False),
    Column("session_id", Text),
    Column("owner", Text),
    Column("made_by_run_id", Text),
    Column("requested_by", Text, nullable=False),
    Column("settled_ms", BigInteger, nullable=False),  # every firing planned up to here is in the book
    Column("settle_at_ms", BigInteger, nullable=False),  # when to look for firings that did not take place
    Column("triggered_ms", BigInteger, nullable=False),  # the newest planned time of a trigger: each has its own
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("deleted_ms", BigInteger),
)
Index(
    "uq_schedules_name", schedules.c.project_id, schedules.c.name, unique=True,
    sqlite_where=text("deleted_ms IS NULL"), postgresql_where=text("deleted_ms IS NULL"),
)  # fmt: skip
Index(
    "ix_schedules_unapplied", schedules.c.updated_ms,
    sqlite_where=text("applied_version < version"), postgresql_where=text("applied_version < version"),
)  # fmt: skip
Index(
    "ix_schedules_made_by", schedules.c.made_by_run_id,
    sqlite_where=text("made_by_run_id IS NOT NULL"), postgresql_where=text("made_by_run_id IS NOT NULL"),
)  # fmt: skip

invocations = Table(
    "invocations",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project_id", Text, nullable=False),
    Column("schedule_no", BigInteger, ForeignKey("schedules.no"), nullable=False),
    Column("key", Text, nullable=False),
    Column("planned_ms", BigInteger, nullable=False),
    Column("actual_ms", BigInteger),
    Column("cause", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("run_id", Text),
    UniqueConstraint("schedule_no", "key"),
)
Index("ix_invocations_planned", invocations.c.schedule_no, invocations.c.planned_ms)

schedule_orders = Table(
    "schedule_orders",
    metadata,
    Column("no", Number, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("schedule_no", BigInteger, ForeignKey("schedules.no"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("from_ms", BigInteger, nullable=False),  # of a trigger its planned time
    Column("to_ms", BigInteger),
    Column("overlap", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),  # how often Temporal was told
    Column("held_until_ms", BigInteger, nullable=False),  # somebody is at it, or there is nothing to do before this
    Column("sent_ms", BigInteger),  # Temporal has shown that it took it
    Column("dropped", BigInteger, nullable=False),  # firings that Temporal had dropped before it was told
    Column("done_ms", BigInteger),
)
Index(
    "ix_schedule_orders_open", schedule_orders.c.held_until_ms,
    sqlite_where=text("done_ms IS NULL"), postgresql_where=text("done_ms IS NULL"),
)  # fmt: skip
Index("ix_schedule_orders_schedule", schedule_orders.c.schedule_no, schedule_orders.c.from_ms)

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
    Column("created_ms", BigInteger, nullable=False),  # when it was put last
    Column("orphaned_ms", BigInteger),  # since when no message refers to it any more
)
Index(
    "ix_blobs_orphaned", blobs.c.orphaned_ms,
    sqlite_where=text("orphaned_ms IS NOT NULL"), postgresql_where=text("orphaned_ms IS NOT NULL"),
)  # fmt: skip

blob_uses = Table(  # which messages refer to a blob
    "blob_uses",
    metadata,
    Column("session_no", BigInteger, ForeignKey("sessions.no"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("blob_id", Text, primary_key=True),
    sqlite_with_rowid=False,
)
Index("ix_blob_uses_blob_id", blob_uses.c.blob_id)

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
