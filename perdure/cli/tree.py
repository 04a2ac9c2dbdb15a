"""`perdure tree`: a run with the agents that it has started, and what all of them have cost."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from perdure.cli.client import Object, Where
from perdure.cli.money import cost
from perdure.cli.render import status_style
from perdure.cli.text import clean, one_line, pretty

GOAL_CHARACTERS = 60


def show_tree(run: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    tree = api.get(f"/v1/runs/{api.resolve(run)}/tree")
    if as_json:
        print(pretty(tree))
        return 0
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for line, style in tree_lines(tree):
        console.print(line, style=style, markup=False, emoji=False)
    return 0


def tree_lines(tree: Object) -> Iterator[tuple[str, str]]:
    """A line for each run, each with its style; then the sum."""
    yield from _lines(tree, "", "")
    total = tree["total"]
    yield f"{total['runs']} runs, {cost(total)} together", "bold"


def _lines(node: Object, before: str, below: str) -> Iterator[tuple[str, str]]:
    marks = [mark for mark in ("background", "detached") if node[mark]]
    why = node["status_reason"] or node["stop_reason"] or ""
    state = node["status"] + (f" ({clean(why)})" if why and why != "end" else "")
    words = [node["id"], clean(node["agent"]["name"]), state, cost(node), *marks]
    yield f"{before}{'  '.join(words)}  {one_line(node['goal'], GOAL_CHARACTERS)}", status_style(node["status"])
    for number, child in enumerate(node["children"]):
        last = number == len(node["children"]) - 1
        yield from _lines(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
