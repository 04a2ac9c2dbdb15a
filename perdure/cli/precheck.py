"""The settings, the tool modules and the models, built once before anything is started with them.

``python -m perdure.cli.child perdure.cli.precheck`` builds them in a process of its own, so that neither their
weight nor what a user's module does at its import stays in the supervisor; ``find_problems`` starts it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from perdure.settings import Settings

CHECK_TIMEOUT_SECONDS = 60.0  # as long as a child may take until it is ready; ours takes half a second


class SettingsProblem(TypedDict):
    """``what`` is ``settings``, ``tool modules``, ``agents`` or ``journal``. ``found`` is one line that names the
    culprit."""

    what: str
    found: str


def find_problems(env: Mapping[str, str]) -> list[SettingsProblem]:
    """What would keep a process from starting in the current folder with these variables over our own."""
    command = [sys.executable, "-P", "-m", "perdure.cli.child", "perdure.cli.precheck"]
    try:
        checked = subprocess.run(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        found = f"the modules of tools are not imported after {CHECK_TIMEOUT_SECONDS:.0f} s"
        return [SettingsProblem(what="tool modules", found=found)]
    with contextlib.suppress(ValueError, IndexError):
        problems: list[SettingsProblem] = json.loads(checked.stdout.splitlines()[-1])
        return problems
    last = (checked.stderr.strip().splitlines() or ["it said nothing"])[-1]  # a module may end its process
    return [SettingsProblem(what="tool modules", found=f"the check ended with {checked.returncode}: {last}")]


def examine() -> Iterator[SettingsProblem]:
    """The same in this process. Problems that follow from an earlier one are not looked for."""
    from pydantic import ValidationError

    from perdure.settings import Settings

    source = os.environ.get("PERDURE_CONFIG", "perdure.toml")
    try:
        settings = Settings()
    except ValidationError as error:
        for detail in error.errors():
            where = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                yield _problem("settings", f"{where}: there is no such setting")
            else:
                yield _problem("settings", f"{where}: {detail['msg'].removeprefix('Value error, ')}")
        return
    except (OSError, ValueError) as error:
        yield _problem("settings", f"{source}: {error}")
        return
    yield from _tools_and_models(settings)
    yield from _journal(settings)


def _journal(settings: Settings) -> Iterator[SettingsProblem]:
    """One that this code cannot use. What cannot be reached now may be there when the children need it."""
    file = settings.home / "journal.db"
    if settings.database_url or not file.exists():
        return
    import asyncio

    from perdure.store.migrate import SchemaMismatch
    from perdure.store.sql import open_journal
    from perdure.store.trouble import JournalTrouble

    async def look() -> None:
        await (await open_journal(settings.sql_url, settings.blob_folder, migrate=False)).close()

    try:
        asyncio.run(look())
    except SchemaMismatch as trouble:
        if not trouble.migrates:
            yield _problem("journal", f"{file}: {trouble}")
    except (JournalTrouble, ValueError):
        return


def _tools_and_models(settings: Settings) -> Iterator[SettingsProblem]:
    from perdure.providers.catalog import EndpointConfig, build_catalog
    from perdure.providers.port import UnknownModel
    from perdure.tools.policy_check import policy_problems
    from perdure.tools.registry import build_toolbox

    try:
        toolbox = build_toolbox(settings.tools)
    except Exception as error:  # whatever a user's module raises, while it is imported or looked at
        yield _problem("tool modules", str(error) or type(error).__name__)
        return
    try:
        catalog = build_catalog(
            [EndpointConfig(name, end.base_url, models=tuple(end.models)) for name, end in settings.endpoints.items()],
            scripted_url=settings.scripted_url,
            scripts=settings.scripts,
        )
    except ValueError as error:
        yield _problem("settings", f"endpoints: {error}")
        return
    for name, agent in settings.agents.items():
        try:
            catalog.check(agent.model)
        except UnknownModel as error:
            yield _problem("agents", f"[agents.{name}] model: {error}")
        for tool in agent.tools:
            if toolbox.get(tool) is None:
                known = ", ".join(toolbox.names())
                yield _problem("agents", f"[agents.{name}] tools: there is no tool {tool!r}; there are: {known}")
        described = toolbox.describe([tool for tool in agent.tools if toolbox.get(tool)])
        if agent.agent_tools:  # the API, which knows what they are named by default, looks at these policies
            continue
        for fault in policy_problems(agent.policy, described, at="policy"):
            yield _problem("agents", f"[agents.{name}] {fault.pointer.replace('/', '.')}: {fault.message}")


def _problem(what: str, found: str) -> SettingsProblem:
    return SettingsProblem(what=what, found=" ".join(found.split()))


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):  # what a module prints is not our answer
        problems = list(examine())
    print(f"\n{json.dumps(problems)}", flush=True)
    os._exit(0)  # threads that a module has started do not keep us


if __name__ == "__main__":
    main()
