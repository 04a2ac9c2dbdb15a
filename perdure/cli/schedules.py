"""`perdure schedules` and `perdure schedule …`: runs that start again and again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from perdure.cli.client import Api, Object, Where
from perdure.cli.money import budget_from
from perdure.cli.run import read_policy
from perdure.cli.text import clean, pretty
from perdure.cli.trouble import Failed

LISTED_MAX = 100
SHOWN_TIMES = 3
SHOWN_INVOCATIONS = 10
_SPAN = re.compile(r"(\d{1,9})\s*(s|min|m|h|d)?")
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, None: 1}


@dataclass(frozen=True)
class NewSchedule:
    """What `perdure schedule create` was told."""

    name: str
    text: str
    cron: list[str]
    every: str | None
    at: list[str]
    timezone: str
    agent: str | None
    model: str | None
    instructions: str | None
    tools: list[str]
    overlap: str
    jitter: str | None
    catch_up: str | None
    quiet: str | None
    one_session: bool
    pause_on_failure: bool
    max_cost: str | None
    max_tokens: str | None
    on_limit: str | None
    policy: Path | None

    def body(self) -> Object:
        """The request. Failed when an option cannot be read; what it may be, the API says."""
        body: Object = {
            "name": self.name, "input": self.text, "spec": self._spec(), "timezone": self.timezone,
            "overlap": self.overlap, "pause_on_failure": self.pause_on_failure, **self._who(),
        }  # fmt: skip
        if self.jitter is not None:
            body["jitter_seconds"] = seconds_of(self.jitter, "--jitter")
        if self.catch_up is not None:
            body["catchup_window_seconds"] = seconds_of(self.catch_up, "--catch-up")
        if self.quiet is not None:
            begin, _, end = self.quiet.partition("-")
            body["quiet_hours"] = {"from": begin.strip(), "to": end.strip()}
        if self.one_session:
            body["session"] = "continue"
        if budget := budget_from(self.max_cost, self.max_tokens, None, self.on_limit):
            body["budget"] = budget
        if self.policy is not None:
            body["policy"] = read_policy(self.policy)
        return body

    def _spec(self) -> Object:
        given = [name for name in ("cron", "every", "at") if getattr(self, name)]
        if len(given) != 1:
            raise Failed("say when: one of --cron, --every and --at", status=2)
        if self.cron:
            return {"cron": self.cron}
        return {"at": self.at} if self.at else {"every_seconds": seconds_of(self.every or "", "--every")}

    def _who(self) -> Object:
        if (self.agent is None) == (self.model is None):
            raise Failed("say who: one of --agent and --model", status=2)
        if self.agent is not None:
            return {"agent": self.agent}
        return {
            "agent_inline": {"model": self.model, "instructions": self.instructions or "", "tools": self.tools}
        }  # fmt: skip


def seconds_of(text: str, option: str) -> int:
    """``90``, ``90s``, ``15min``, ``6h``, ``1d``. Failed."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise Failed(f"{option} {text!r} is not a span of time as 30s, 15min, 6h or 1d", status=2)
    return int(found[1]) * _SECONDS[found[2]]


def create_schedule(new: NewSchedule, *, as_json: bool, where: Where) -> int:
    body = new.body()
    api = where.connect()
    made = api.post("/v1/schedules", body)
    if as_json:
        print(pretty(made))
        return 0
    print(f"{made['id']} ({made['name']}) fires next at {_local(made['next_at'], made['timezone'])}")
    if not made["applied"]:
        print("it is stored; Temporal hears of it when it is back")
    print(f"`{api.command('schedule', 'show', made['name'])}` shows what becomes of it")
    return 0


def list_schedules(*, as_json: bool, where: Where) -> int:
    page = where.connect().get("/v1/schedules", limit=LISTED_MAX)
    rows = page["data"]
    if as_json:
        print(pretty(rows))
        return 0
    if not rows:
        print("there are no schedules")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "status", "when", "next", "runs"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        cells = (row["name"], row["status"], when(row), _local(row["next_at"], row["timezone"]), who(row))
        table.add_row(*(clean(cell).replace("[", r"\[") for cell in cells))
    Console(emoji=False, highlight=False, width=160).print(table)
    if page["has_more"]:
        print(f"… the newest {LISTED_MAX}; the API has the rest")
    return 0


def show_schedule(name: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    row = _found(api, name)
    times = api.get(f"/v1/schedules/{row['id']}/next", count=SHOWN_TIMES)["data"]
    book = api.get(f"/v1/schedules/{row['id']}/invocations", limit=SHOWN_INVOCATIONS)["data"]
    if as_json:
        print(pretty({**row, "next": [time["at"] for time in times], "invocations": book}))
        return 0
    why = f": {clean(row['paused_reason'])}" if row["paused_reason"] else ""
    print(f"{row['id']} · {clean(row['name'])} · {row['status']}{why}")
    print(f"when       {clean(when(row))} ({row['timezone']}), overlap {row['overlap']}")
    print(f"runs       {clean(who(row))}")
    print("next       " + (", ".join(_local(time["at"], row["timezone"]) for time in times) or "never"))
    for one in book:
        what = one["run_id"] or one["reason"] or ""
        state = one["run_status"] if one["status"] == "started" else one["status"]
        print(f"  {_local(one['planned_at'], row['timezone'])}  {state:<10} {clean(what)}")
    return 0


def show_next(name: str, *, count: int, as_json: bool, where: Where) -> int:
    api = where.connect()
    row = _found(api, name)
    times = [time["at"] for time in api.get(f"/v1/schedules/{row['id']}/next", count=count)["data"]]
    if as_json:
        print(pretty(times))
        return 0
    if row["status"] == "paused":
        print(f"it is paused; when `{api.command('schedule', 'resume', row['name'])}` has been called:")
    print("\n".join(_local(time, row["timezone"]) for time in times) or "never")
    return 0


def pause_schedule(name: str, *, reason: str, where: Where) -> int:
    api = where.connect()
    row = api.post(f"/v1/schedules/{name}/pause", {"reason": reason} if reason else {})
    print(f"{row['name']} is paused; `{api.command('schedule', 'resume', row['name'])}` lets it fire again")
    return 0


def resume_schedule(name: str, *, where: Where) -> int:
    row = where.connect().post(f"/v1/schedules/{name}/resume", {})
    print(f"{row['name']} fires next at {_local(row['next_at'], row['timezone'])}")
    return 0


def trigger_schedule(name: str, *, overlap: str | None, where: Where) -> int:
    api = where.connect()
    row = api.post(f"/v1/schedules/{name}/trigger", {"overlap": overlap} if overlap else {})
    print(f"{row['name']} fires now; `{api.command('schedule', 'show', row['name'])}` shows the run")
    return 0


def delete_schedule(name: str, *, where: Where) -> int:
    where.connect().delete(f"/v1/schedules/{name}")
    print(f"{name} is removed; its runs stay")
    return 0


def when(row: Object) -> str:
    """Its spec on one line."""
    spec = row["spec"]
    if spec["cron"]:
        return " or ".join(spec["cron"])
    if spec["every_seconds"]:
        offset = f" + {spec['offset_seconds']} s" if spec["offset_seconds"] else ""
        return f"every {spec['every_seconds']} s{offset}"
    if spec["at"]:
        return ", ".join(str(at) for at in spec["at"][:3]) + (" …" if len(spec["at"]) > 3 else "")
    return "; ".join(", ".join(f"{name} {text}" for name, text in one.items()) or "daily" for one in spec["calendar"])


def who(row: Object) -> str:
    return str(row["agent"] or f"{row['agent_inline']['name']} ({row['agent_inline']['model']})")


def _found(api: Api, name: str) -> Object:
    return api.get(f"/v1/schedules/{name}")


def _local(at: str | None, zone: str) -> str:
    """In the schedule's own time zone: that is what its times are meant in."""
    if at is None:
        return "never"
    return datetime.fromisoformat(at).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S %Z")
