"""`perdure run`, `watch`, `ls`, `cancel`: a run from the outside, over HTTP."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure.cli.client import TERMINAL, Api, Object, Where
from perdure.cli.follow import EXIT_COMPLETED, follow
from perdure.cli.given import json_of, sendable
from perdure.cli.money import budget_from
from perdure.cli.render import duration_seconds, status_style
from perdure.cli.text import ago, one_line, pretty
from perdure.cli.trouble import Failed

TOUR = "scripted/tour"
PREFERRED_MODELS = {"OPENAI_API_KEY": "openai/gpt-5.5", "ANTHROPIC_API_KEY": "anthropic/claude-sonnet-5-5"}
INSTRUCTIONS = "You are a helpful agent. Use your tools where they help, and answer briefly."


@dataclass(frozen=True)
class RunOptions:
    """What `perdure run` was told. ``tools`` None means all there are. ``policy`` is a file."""

    agent: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: list[str] | None = None
    session: str | None = None
    max_cost: str | None = None
    max_tokens: str | None = None
    on_limit: str | None = None
    policy: Path | None = None
    json: bool = False
    follow: bool = True
    on_conflict: str = "reject"


def run_agent(text: str, options: RunOptions, *, where: Where) -> int:
    policy = None if options.policy is None else read_policy(options.policy)
    budget = budget_from(options.max_cost, options.max_tokens, None, options.on_limit)
    api = where.connect()
    body: Object = {"input": text}
    if options.agent:
        if options.model or options.tools or options.instructions is not None:
            raise Failed(
                "--agent names a stored agent; --model, --instructions and --tool make one for this run: choose"
            )
        body["agent"] = options.agent
    else:
        body["agent_inline"] = {
            "model": options.model or default_model(api),
            "instructions": INSTRUCTIONS if options.instructions is None else options.instructions,
            "tools": [tool["name"] for tool in api.get("/v1/tools")["data"]]
            if options.tools is None
            else options.tools,
        }
    if policy is not None:
        (body if options.agent else body["agent_inline"])["policy"] = policy  # a stored agent's is only narrowed
    if budget:
        body["budget"] = budget
    if options.session:
        body |= {"session_id": options.session, "on_conflict": options.on_conflict}
    run = api.post("/v1/runs", body)
    if not options.follow:
        print(json.dumps(run) if options.json else run["id"])
        return EXIT_COMPLETED
    return follow(api, run["id"], as_json=options.json)


def default_model(api: Api) -> str:
    """The scripted tour when the API serves it, else a model of the vendor whose key is set."""
    listed = {str(model["id"]) for model in api.get("/v1/models")["data"]}
    if TOUR in listed:
        return TOUR
    for key, model in PREFERRED_MODELS.items():
        if model in listed or os.environ.get(key):
            return model
    raise Failed("no model to choose by itself: name one with --model (`curl …/v1/models` lists them)")


def read_policy(file: Path) -> Object:
    """A policy, as JSON or (``.toml``) as TOML. Failed."""
    try:
        text = file.read_text()
        policy = sendable(tomllib.loads(text)) if file.suffix == ".toml" else json_of(text)
    except (OSError, ValueError) as trouble:
        raise Failed(f"the policy {file} cannot be read: {trouble}", status=2) from None
    if not isinstance(policy, dict):
        raise Failed(f"the policy {file} is not an object with rules", status=2)
    return policy


def watch_run(run: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    return follow(api, api.resolve(run), as_json=as_json)


def list_runs(*, statuses: list[str], limit: int, as_json: bool, where: Where) -> int:
    api = where.connect()
    runs = api.get("/v1/runs", limit=limit, order="desc", status=statuses or None)["data"]
    if as_json:
        print(pretty(runs))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "status", "model", "turns", "cost", "took", "started", "input"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if heading == "input" else None)
    for run in runs:
        seconds = duration_seconds(run)
        text = " ".join(block.get("text", "") for block in run["input"])
        table.add_row(
            run["id"],
            f"[{status_style(run['status'])}]{run['status']}[/]",
            run["agent"]["model"],
            str(run["turns"]),
            _cost(run),
            f"{seconds:.1f} s" if seconds is not None else "",
            ago(run["created_at"]),
            one_line(text, 200).replace("[", r"\["),
        )
    Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(
        table if runs else "no runs"
    )
    return 0


def cancel_run(run: str, *, force: bool, reason: str, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    body = {"mode": "force" if force else "graceful", **({"reason": reason} if reason else {})}
    after = api.post(f"/v1/runs/{run_id}/cancel", body)
    status = after.get("status", "cancelling")
    print(f"{run_id} is {status}" + ("" if status in TERMINAL else f"; `perdure watch {run_id}` shows how it ends"))
    return 0


def _cost(run: Object) -> str:
    return "?" if run["usage"]["cost_usd"] is None else f"${run['usage']['cost_usd']}"
