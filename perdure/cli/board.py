"""`perdure board`: what the agents of a tree have written on the board that they share."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from perdure.cli.client import Object, Where
from perdure.cli.text import ago, clean, one_line, pretty

TOPIC_CHARACTERS = 64


def show_board(run: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    entries = api.get(f"/v1/runs/{run_id}/board")["data"]
    if as_json:
        print(pretty(entries))
        return 0
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for line, style in board_lines(entries):
        console.print(line, style=style, markup=False, emoji=False)
    if not entries:
        print(f"nothing is on the board of {run_id}")
    return 0


def board_lines(entries: list[Object]) -> Iterator[tuple[str, str | None]]:
    """A heading for each entry, then its text; each line with its style."""
    for entry in entries:
        topic = f"  {one_line(entry['topic'], TOPIC_CHARACTERS)}" if entry["topic"] else ""
        said = [f"{_who(entry['posted_by'])}, {ago(entry['created_at'])}"]
        if entry["version"] > 1:
            said.append(f"version {entry['version']} by {_who(entry['updated_by'])}, {ago(entry['updated_at'])}")
        yield f"{entry['number']}{topic}  {'; '.join(said)}", "bold"
        for line in clean(entry["text"]).splitlines():
            yield f"    {line}", None


def _who(writer: Object) -> str:
    return f"{clean(writer['agent'])} ({writer['run_id']})"
