"""`perdure run`, `watch`, `ls`, `show`, `cancel`: a run from the outside, over HTTP."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure.cli.client import TERMINAL, Api, Object, find_api
from perdure.cli.render import (
    LineView,
    LiveView,
    View,
    clean,
    duration_seconds,
    one_line,
    pretty,
    status_style,
    summary,
)
from perdure.cli.trouble import Failed

EXIT_COMPLETED, EXIT_FAILED, EXIT_DETACHED = 0, 1, 130
TOUR = "scripted/tour"
PREFERRED_MODELS = {"OPENAI_API_KEY": "openai/gpt-5.5", "ANTHROPIC_API_KEY": "anthropic/claude-sonnet-5-5"}
INSTRUCTIONS = "You are a helpful agent. Use your tools where they help, and answer briefly."


@dataclass(frozen=True)
class RunOptions:
    """What `perdure run` was told. ``tools`` None means the built-in ones."""

    agent: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: list[str] | None = None
    session: str | None = None
    json: bool = False
    follow: bool = True


def run_agent(text: str, options: RunOptions, *, api_url: str | None, home: Path | None) -> int:
    api = Api(find_api(api_url, home))
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
    if options.session:
        body["session_id"] = options.session
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


def watch_run(run: str, *, as_json: bool, api_url: str | None, home: Path | None) -> int:
    api = Api(find_api(api_url, home))
    return follow(api, api.resolve(run), as_json=as_json)


def follow(api: Api, run_id: str, *, as_json: bool) -> int:
    """Show the run until it ends; Ctrl-C leaves it running."""
    console = Console(emoji=False, highlight=False)
    view: View = LiveView(console) if console.is_terminal else LineView(console)

    def trouble(why: str) -> None:
        if as_json:
            print(f"reconnecting: {why}", file=sys.stderr)
        else:
            view.note(f"reconnecting to the API ({why})")

    try:
        for event in api.events(run_id, trouble=trouble):
            if as_json:
                print(json.dumps(event, ensure_ascii=False), flush=True)
            else:
                view.show(event)
        run = api.get(f"/v1/runs/{run_id}")
    except KeyboardInterrupt:
        print(
            f"\ndetached; the run goes on. Watch it: perdure watch {run_id}   Stop it: perdure cancel {run_id}",
            file=sys.stderr,
        )
        return EXIT_DETACHED
    if not as_json:
        console.print(summary(run), style=status_style(run["status"]), markup=False, soft_wrap=True)
    return EXIT_COMPLETED if run["status"] == "completed" else EXIT_FAILED


def list_runs(*, statuses: list[str], limit: int, as_json: bool, api_url: str | None, home: Path | None) -> int:
    api = Api(find_api(api_url, home))
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
            _ago(run["created_at"]),
            one_line(text, 200).replace("[", r"\["),
        )
    Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(
        table if runs else "no runs"
    )
    return 0


def show_run(run: str, *, as_json: bool, api_url: str | None, home: Path | None) -> int:
    api = Api(find_api(api_url, home))
    run_id = api.resolve(run)
    whole = api.get(f"/v1/runs/{run_id}")
    steps = api.get(f"/v1/runs/{run_id}/steps", limit=100)
    messages = api.get(f"/v1/runs/{run_id}/messages", limit=100)
    if as_json:
        print(pretty({"run": whole, "steps": steps["data"], "messages": messages["data"]}))
        return 0
    console = Console(emoji=False, highlight=False, soft_wrap=True)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, emoji=False)

    say(summary(whole), status_style(whole["status"]))
    if whole["error"]:
        say(f"error      {whole['error']['code']}: {clean(whole['error']['message'])}", "red")
    say(f"model      {whole['agent']['model']}")
    say(f"session    {whole['session_id']}")
    say(f"created    {whole['created_at']}   deadline {whole['deadline']}   events {whole['last_seq']}")
    temporal = api.get("/v1/info")["temporal"]
    if temporal["ui_url"]:
        say(f"Temporal   {temporal['ui_url']}/namespaces/{temporal['namespace']}/workflows/{run_id}")
    say("\nsteps", "bold")
    for step in steps["data"]:
        took = f"{step['latency_ms'] / 1000:.2f} s" if step["latency_ms"] is not None else ""
        again = f" (attempt {step['attempts']})" if step["attempts"] > 1 else ""
        arguments = one_line(json.dumps(step["arguments"], ensure_ascii=False), 80) if step["kind"] == "tool" else ""
        error = f"  {step['error']['code']}" if step["error"] else ""
        say(
            f"  {step['turn']:>4}  {step['name']:<24} {step['status']:<10}{took:>9}{again}{error}  {arguments}".rstrip()
        )
    say("\ntranscript", "bold")
    for message in messages["data"]:
        for block in message["content"]:
            say(f"  {message['number']:>4}  {message['role']:<10} {_block(block)}")
    if steps["has_more"] or messages["has_more"]:
        say("  … the first 100 of each; `--json` and the API have the rest", "dim")
    return 0


def cancel_run(run: str, *, force: bool, reason: str, api_url: str | None, home: Path | None) -> int:
    api = Api(find_api(api_url, home))
    run_id = api.resolve(run)
    body = {"mode": "force" if force else "graceful", **({"reason": reason} if reason else {})}
    after = api.post(f"/v1/runs/{run_id}/cancel", body)
    status = after.get("status", "cancelling")
    print(f"{run_id} is {status}" + ("" if status in TERMINAL else f"; `perdure watch {run_id}` shows how it ends"))
    return 0


def _block(block: Object) -> str:
    match block["type"]:
        case "tool_call":
            arguments = block.get("raw_arguments") or json.dumps(block.get("arguments"), ensure_ascii=False)
            return f"→ {block['name']} {one_line(arguments, 100)}"
        case "tool_result":
            return f"{'✗' if block['is_error'] else '←'} {block['name']} {one_line(block['text'], 200)}"
        case "reasoning":
            return f"({one_line(block['text'], 200)})"
        case _:
            return one_line(block["text"], 400)


def _cost(run: Object) -> str:
    return "?" if run["usage"]["cost_usd"] is None else f"${run['usage']['cost_usd']}"


def _ago(at: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
