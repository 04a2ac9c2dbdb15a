"""Ask the researcher: ``python examples/researcher/research.py QUESTION``. Needs a running ``perdure up``."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

API = os.environ.get("PERDURE_API_URL", "http://127.0.0.1:8600")
MODEL = os.environ.get("MODEL", "scripted/researcher")
HELPER = os.environ.get("MODEL", "scripted/helper")
AGENTS = [
    {
        "name": "helper",
        "model": HELPER,
        "instructions": "Look at the one part of a question that you are given. Answer in two sentences.",
        "tools": ["http_get", "calculator"],
    },
    {
        "name": "researcher",
        "model": MODEL,
        "instructions": "Split the question into five parts. Give each to a helper with spawn_agent, all in one turn; "
        "then put together what they found.",
        "tools": ["spawn_agent"],
        "agents": ["helper"],
    },
]


def call(path: str, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=70) as reply:
        return dict(json.load(reply))


def main(question: str) -> int:
    for agent in AGENTS:
        call("/v1/agents", agent)
    run = call("/v1/runs", {"agent": "researcher", "input": question, "budget": {"max_cost_usd": "1.00"}})
    while run["status"] not in ("completed", "incomplete", "failed", "cancelled", "expired"):
        run = call(f"/v1/runs/{run['id']}", Prefer="wait=30")
    tree = call(f"/v1/runs/{run['id']}/tree")
    for child in tree["children"]:
        print(f"{child['status']:<10} ${child['usage']['cost_usd']}  {child['goal']}")
    print(f"{tree['total']['runs']} runs, ${tree['total']['usage']['cost_usd']} of $1.00\n\n{run['output_text']}")
    return 0 if run["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "What should a small library do about noise?"))
