"""`perdure policy check`: what the policy of an agent would say to a call. Nothing is called."""

from __future__ import annotations

from pathlib import Path

from perdure.cli.asks import arguments_from
from perdure.cli.client import Object, Where
from perdure.cli.run import read_policy
from perdure.cli.text import clean, pretty


def check(agent: str, tool: str, arguments: str, *, policy: Path | None, as_json: bool, where: Where) -> int:
    """0 whatever the verdict is: it is the answer."""
    body: Object = {"agent": agent, "tool": tool, "arguments": arguments_from(arguments, "ARGUMENTS")}
    if policy is not None:
        body["policy"] = read_policy(policy)
    said = where.connect().post("/v1/policy:check", body)
    if as_json:
        print(pretty(said))
        return 0
    reason = f": {clean(said['reason'])}" if said["reason"] else ""
    print(f"{said['verdict']} ({clean(said['rule'])}){reason}")
    print(f"arguments  {said['args_sha256']}")
    if said["problem"]:
        print(f"problem    {clean(str(said['problem']))}")
    return 0
