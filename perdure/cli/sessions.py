"""`perdure sessions`, `session …`, `fork`, `retry`, `prune`: conversations, and what is kept of them, over HTTP."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure.cli.client import Api, Object, Where
from perdure.cli.follow import EXIT_COMPLETED, follow
from perdure.cli.given import text_given
from perdure.cli.money import budget_from
from perdure.cli.text import ago, pretty
from perdure.cli.trouble import Failed

MEDIA_TYPE = "application/jsonl"


@dataclass(frozen=True)
class GoingOn:
    """What a run that goes on from another one has of its own."""

    max_cost: str | None = None
    max_turns: int | None = None
    follow: bool = True
    json: bool = False

    def body(self) -> Object:
        body: Object = {}
        if budget := budget_from(self.max_cost, None, None, None):
            body["budget"] = budget
        if self.max_turns is not None:
            body["limits"] = {"max_turns": self.max_turns}
        return body


def list_sessions(*, limit: int, as_json: bool, where: Where) -> int:
    rows = where.connect().get("/v1/sessions", limit=limit, order="desc")["data"]
    if as_json:
        print(pretty(rows))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("session", "messages", "active run", "forked from", "used"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "messages" else "left")
    for row in rows:
        origin = row["forked_from"]
        table.add_row(
            row["id"],
            f"{row['last_number']:,}",
            row["active_run_id"] or "",
            f"{origin['session_id']} at {origin['number']}" if origin else "",
            ago(row["updated_at"]),
        )
    Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(
        table if rows else "no sessions"
    )
    return 0


def export_session(session: str, file: Path | None, *, where: Where) -> int:
    """A file appears when it is whole."""
    api = where.connect()
    path = f"/v1/sessions/{_resolve(api, session)}/export"
    if file is None:
        api.download(path, sys.stdout.buffer)
        return 0
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as opened:
            api.download(path, opened)
        unfinished.replace(file)
    except OSError as trouble:
        raise Failed(f"{file} cannot be written: {trouble}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def import_session(file: Path, *, where: Where) -> int:
    api = where.connect()
    with file.open("rb") as opened:
        session = api.upload("/v1/sessions:import", opened, MEDIA_TYPE)
    print(f"{session['id']} has {session['last_number']:,} messages")
    print(f"say more: {api.command('run', '…', '--session', session['id'])}")
    return 0


def fork_session(session: str, at: int | None, *, where: Where) -> int:
    api = where.connect()
    forked = api.post(f"/v1/sessions/{_resolve(api, session)}/fork", {} if at is None else {"at_number": at})
    print(forked["id"])
    return 0


def delete_session(session: str, *, sure: bool, where: Where) -> int:
    api = where.connect()
    id_ = _resolve(api, session)
    head = api.get(f"/v1/sessions/{id_}")
    if not sure:
        if not sys.stdin.isatty():
            raise Failed(f"{id_} would be erased for good: say so with --yes", status=2)
        if input(f"erase {id_} with its {head['last_number']:,} messages for good? [y/N] ").strip().lower() != "y":
            return 1
    api.delete(f"/v1/sessions/{id_}")
    print(f"{id_} is erased")
    return 0


def fork_run(run: str, seq: int, text: str | None, options: GoingOn, *, where: Where) -> int:
    api = where.connect()
    said = {} if text is None else {"input": text_given(text)}
    made = api.post(f"/v1/runs/{api.resolve(run)}/fork", {"from_seq": seq, **said, **options.body()})
    return _shown(api, made, options)


def retry_run(run: str, options: GoingOn, *, where: Where) -> int:
    api = where.connect()
    return _shown(api, api.post(f"/v1/runs/{api.resolve(run)}/retry", options.body()), options)


def prune(days: Mapping[str, float | None], *, as_json: bool, where: Where) -> int:
    """Again and again until nothing is left."""
    api = where.connect()
    body = {name: value for name, value in days.items() if value is not None}
    total: Counter[str] = Counter()
    while True:
        done = api.post("/v1/prune", body)
        total.update({name: done[name] for name in ("deltas", "events", "sessions", "blobs")})
        if not done["more"]:
            break
    if as_json:
        print(pretty(dict(total)))
        return 0
    print(
        f"removed: live text of {total['deltas']:,} runs, events of {total['events']:,} runs, "
        f"{total['sessions']:,} sessions, {total['blobs']:,} blobs"
    )
    return 0


def _resolve(api: Api, session: str) -> str:
    """The session's own id, or that of a run's session."""
    if session.startswith("ses_"):
        return session
    return str(api.get(f"/v1/runs/{api.resolve(session)}")["session_id"])


def _shown(api: Api, run: Object, options: GoingOn) -> int:
    if not options.follow:
        print(json.dumps(run) if options.json else run["id"])
        return EXIT_COMPLETED
    return follow(api, run["id"], as_json=options.json)
