"""`perdure show`: everything about one run, and how to go on with it."""

from __future__ import annotations

import json

from rich.console import Console

from perdure.cli.asked import WORDS, circumstances, commands, recovery_commands, subject
from perdure.cli.client import TERMINAL, Object, Where
from perdure.cli.money import budget_lines, cost
from perdure.cli.render import status_style, summary
from perdure.cli.text import clean, one_line, pretty
from perdure.cli.waits import wait_lines


def show_run(run: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    whole = api.get(f"/v1/runs/{run_id}")
    steps = api.get(f"/v1/runs/{run_id}/steps", limit=100)
    messages = api.get(f"/v1/runs/{run_id}/messages", limit=100)
    if as_json:
        print(pretty({"run": whole, "steps": steps["data"], "messages": messages["data"]}))
        return 0
    tree = api.get(f"/v1/runs/{run_id}/tree")
    console = Console(emoji=False, highlight=False, soft_wrap=True)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, emoji=False)

    say(summary(whole, cost(tree, "price unknown")), status_style(whole["status"]))
    if whole["status_reason"]:
        say(f"because    {clean(whole['status_reason'])}")
    if whole["error"]:
        say(f"error      {whole['error']['code']}: {clean(whole['error']['message'])}", "red")
    say(f"model      {whole['agent']['model']}")
    say(f"session    {whole['session_id']}")
    say(f"created    {whole['created_at']}   deadline {whole['deadline']}   events {whole['last_seq']}")
    for line in budget_lines(whole["budget"]):
        say(line)
    sleeps = any(wait["type"] == "timer" for wait in whole["waiting_for"])
    timers = api.get(f"/v1/runs/{run_id}/timers", limit=100)["data"] if sleeps else []
    for line in wait_lines(whole, timers, steps["data"], api.command):
        say(f"now        {line}", "yellow")
    temporal = api.get("/v1/info")["temporal"]
    if temporal["ui_url"]:
        say(f"Temporal   {temporal['ui_url']}/namespaces/{temporal['namespace']}/workflows/{run_id}")
    if whole["pending_actions"]:
        say("\nwaits for a person or the client", "bold")
    for ask in whole["pending_actions"]:
        say(f"  {ask['id']}  {WORDS[ask['type']]}  {subject(ask)}", "magenta")
        say(f"      {circumstances(ask)}", "dim")
        for what, line in commands(ask, api.command):
            say(f"      {what:<12} {line}")
    asked_calls = {ask["call_id"] for ask in whole["pending_actions"]}
    in_flight = [step for step in steps["data"] if stands(step) and step["call_id"] not in asked_calls]
    if in_flight and whole["status"] not in TERMINAL:
        say("\ntool calls in flight; should one be stuck:", "bold")
    for step in in_flight if whole["status"] not in TERMINAL else []:
        say(f"  {step['call_id']}  {clean(step['name'])}, attempt {step['attempts']}", "yellow")
        for what, line in recovery_commands(run_id, step["call_id"], api.command):
            say(f"      {what:<12} {line}")
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


def stands(step: Object) -> bool:
    """A tool call that a worker runs: who knows whether it ever ends. One that waits is not stuck."""
    return bool(step["kind"] == "tool" and step["running"] and step["ended_at"] is None)


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
