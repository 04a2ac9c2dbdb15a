"""`perdure up`: Temporal, the scripted vendors, the workers and the API as supervised child processes."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from perdure.cli.place import UP_FILE, Up, alive, home_folder, outside_temporal, read_up, setting, write_up
from perdure.cli.precheck import find_problems
from perdure.cli.supervisor import ChildSpec, Supervisor
from perdure.cli.trouble import Failed
from perdure.dev_server import LOOPBACK, DevServerFailed, dev_server_command, dev_server_ready, free_port, port_is_free

DEFAULT_API_PORT = 8600
DEFAULT_TEMPORAL_PORT = 7233
DEFAULT_UI_PORT = 8233
READY_TIMEOUT_SECONDS = 60.0  # the imports of both vendor SDKs take 7 s of CPU on a loaded machine
OLD_CHILDREN_SECONDS = 5.0  # after `up` itself was killed, its children die with it, and their ports with them
WORKER_STOP_SECONDS = 35.0  # the worker's own grace for calls in flight is 30 s

Say = Callable[[str], None]


@dataclass(frozen=True)
class UpOptions:
    """What the command line said. A port of None is the default (moved when busy), 0 any free one."""

    home: Path | None = None
    api_port: int | None = None
    temporal_port: int | None = None
    ui_port: int | None = None
    workers: int = 1
    scripts: Path | None = None
    scripted: bool = False
    json: bool = False


@dataclass
class Plan:
    """Everything that is fixed before the first child starts, and stays when a child is replaced."""

    home: Path
    api_url: str
    temporal_address: str
    temporal_ui_url: str | None
    vendors_url: str | None
    first: list[ChildSpec] = field(default_factory=list)  # what the others talk to
    then: list[ChildSpec] = field(default_factory=list)

    def up(self, supervisor: Supervisor) -> Up:
        up = Up(
            pid=os.getpid(),
            api_url=self.api_url,
            temporal_address=self.temporal_address,
            temporal_ui_url=self.temporal_ui_url,
            children=[{"name": child.spec.name, "pid": child.pid} for child in supervisor.children if child.pid],
        )
        if self.vendors_url:
            up["vendors_url"] = self.vendors_url
        return up


def run_up(options: UpOptions) -> int:
    """Run until stopped. The exit status is 0 after an orderly stop. Failed."""
    try:
        home = home_folder(options.home)
    except Failed as unreadable:
        raise Failed(str(unreadable), status=2) from unreadable
    check_settings(home, options)
    make_home(home)

    def say(line: str) -> None:
        with suppress(OSError):  # the terminal or the pipe may be gone; the children are not to die of it
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    with _lock(home):
        _clear_away(home)
        plan = make_plan(home, options, say)
        say(f"perdure is starting in {home}")
        up_written = False

        def changed() -> None:
            if up_written:
                write_up(home, plan.up(supervisor))

        with Supervisor(logs=home / "logs", say=say, changed=changed) as supervisor:
            ready = supervisor.start(plan.first, ready_timeout_seconds=READY_TIMEOUT_SECONDS)
            if not supervisor.stop_signals:
                ready &= supervisor.start(plan.then, ready_timeout_seconds=READY_TIMEOUT_SECONDS)
            if not supervisor.stop_signals:
                up_written = True
                write_up(home, plan.up(supervisor))
                if options.json:
                    print(json.dumps(plan.up(supervisor)), flush=True)
                _welcome(plan, ready, say)
                supervisor.watch()
            say("stopping")
            workers = [child.spec.name for child in supervisor.children if child.spec.name.startswith("worker-")]
            supervisor.stop([["api"], workers, ["vendors"], ["temporal"]])
            (home / UP_FILE).unlink(missing_ok=True)
            say("stopped")
    return 0


def check_settings(home: Path, options: UpOptions) -> None:
    """Failed, with a line for each problem, when the children could not start with these settings."""
    env = {"PERDURE_HOME": str(home)}
    if serves_scripted(options):
        env["PERDURE_SCRIPTED_URL"] = f"http://{LOOPBACK}"  # where they will listen is not known yet
    if options.scripts:
        env["PERDURE_SCRIPTS"] = str(options.scripts.absolute())
    if problems := find_problems(env):
        raise Failed("\n".join(f"{problem['what']}: {problem['found']}" for problem in problems), status=2)


def make_home(home: Path) -> None:
    """Failed when that cannot be a folder to write to."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as trouble:
        why = "it is a file" if home.is_file() else trouble.strerror
        raise Failed(
            f"{home} cannot be the home: {why}; choose another with --home or PERDURE_HOME", status=2
        ) from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise Failed(f"{home} cannot be the home: not writable; choose another with --home or PERDURE_HOME", status=2)


def serves_scripted(options: UpOptions) -> bool:
    """When asked to, and when no vendor's key is set."""
    keys = os.environ.get("OPENAI_API_KEY") or os.environ.get("ANTHROPIC_API_KEY")
    return options.scripted or options.scripts is not None or not keys


def make_plan(home: Path, options: UpOptions, say: Say) -> Plan:
    """Choose ports and commands. Failed when a port that was asked for is taken."""
    env = {"PERDURE_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    api_host = setting("api_host") or LOOPBACK
    api_setting = setting("api_port")
    asked_api = options.api_port if options.api_port is not None else (int(api_setting) if api_setting else None)
    api_port = _port("API", asked_api, DEFAULT_API_PORT, "--api-port", say)
    env["PERDURE_API_PORT"] = str(api_port)
    connect_host = LOOPBACK if api_host in ("0.0.0.0", "::") else api_host
    plan = Plan(home, f"http://{connect_host}:{api_port}", "", None, None)

    if outside := outside_temporal():
        plan.temporal_address, where = outside
        say(f"using the Temporal server at {plan.temporal_address} ({where}); none is started here")
    else:
        port = _port("Temporal", options.temporal_port, DEFAULT_TEMPORAL_PORT, "--temporal-port", say)
        ui_port = _port("Temporal UI", options.ui_port, DEFAULT_UI_PORT, "--ui-port", say)
        plan.temporal_address, plan.temporal_ui_url = f"{LOOPBACK}:{port}", f"http://{LOOPBACK}:{ui_port}"
        env["TEMPORAL_ADDRESS"] = plan.temporal_address
        plan.first.append(_temporal(home / "temporal.db", port, ui_port))

    if serves_scripted(options):
        port = free_port()
        plan.vendors_url = f"http://{LOOPBACK}:{port}"
        env["PERDURE_SCRIPTED_URL"] = plan.vendors_url
        scripts = options.scripts or (Path(given) if (given := setting("scripts")) else None)
        if scripts:
            env["PERDURE_SCRIPTS"] = str(scripts.absolute())  # so that the API and the workers know their names
        plan.first.append(_vendors(port, scripts, env))

    for number in range(1, options.workers + 1):
        name = f"worker-{number}"
        command = _ours("worker")
        plan.then.append(ChildSpec(name, command, lambda log: "worker ready" in log, WORKER_STOP_SECONDS, env))
    plan.then.append(
        ChildSpec("api", _ours("api"), lambda _: _answers(connect_host, api_port, "/healthz"), stop_seconds=8, env=env)
    )
    ports = [url.rsplit(":", 1)[1] for url in (plan.api_url, plan.temporal_address, plan.temporal_ui_url) if url]
    if len(set(ports)) < len(ports):
        raise Failed("the API, Temporal and its UI need three different ports")
    return plan


def _temporal(db: Path, port: int, ui_port: int) -> ChildSpec:
    namespace = os.environ.get("TEMPORAL_NAMESPACE") or "default"
    http_port = free_port()
    try:
        command = dev_server_command(db=db, port=port, http_port=http_port, ui_port=ui_port, namespace=namespace)
    except DevServerFailed as trouble:
        raise Failed(str(trouble)) from trouble
    return ChildSpec("temporal", command, lambda _: dev_server_ready(http_port, namespace), stop_seconds=10)


def _vendors(port: int, scripts: Path | None, env: dict[str, str]) -> ChildSpec:
    command = _ours("perdure.providers.scripted", "--host", LOOPBACK, "--port", str(port))
    if scripts:
        command += ["--scripts", str(scripts.absolute())]
    return ChildSpec("vendors", command, lambda _: _answers(LOOPBACK, port, "/_scripted/summary"), 5, env)


def _ours(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "perdure.cli.child", module, *arguments]


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)  # a loopback answer takes milliseconds
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _port(what: str, asked: int | None, default: int, option: str, say: Say) -> int:
    if asked == 0:
        return free_port()
    if asked is None and not port_is_free(default):
        port = free_port()
        say(f"port {default} is busy: the {what} listens on {port} instead")
        return port
    if asked is not None and not port_is_free(asked):
        raise Failed(f"port {asked} ({what}) is busy: stop what listens there, or give {option} another (0: any)")
    return asked if asked is not None else default


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One `perdure up` per home. The kernel lets go of it when the process ends, however it ends."""
    with (home / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            up = read_up(home)
            where = f" (API at {up['api_url']})" if up else ""
            raise Failed(
                f"`perdure up` with pid {holder} already runs in {home}{where}: "
                f"use it, stop it with `kill {holder}`, or give another --home"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _clear_away(home: Path) -> None:
    """After a `perdure up` that was killed: wait for its children to be gone, and kill the rest."""
    if not (old := read_up(home)):
        return
    deadline = time.monotonic() + OLD_CHILDREN_SECONDS
    while left := [
        child["pid"] for child in old["children"] if alive(child["pid"]) and _is_of_home(child["pid"], home)
    ]:
        if sys.platform != "linux" or time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    (home / UP_FILE).unlink(missing_ok=True)


def _is_of_home(pid: int, home: Path) -> bool:
    """Whether that pid is still a child of a `perdure up` here, and not somebody else's by now."""
    import psutil  # only after a crash

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (
            process.environ().get("PERDURE_HOME") == str(home) or str(home / "temporal.db") in process.cmdline()
        )
    except psutil.Error:
        return False


def _welcome(plan: Plan, ready: bool, say: Say) -> None:
    home = "" if plan.home == home_folder(None) else f" --home {plan.home}"
    say("")
    say(f"  API          {plan.api_url}   (reference: {plan.api_url}/docs)")
    say(
        f"  Temporal     {plan.temporal_address}" + (f"   (UI: {plan.temporal_ui_url})" if plan.temporal_ui_url else "")
    )
    if plan.vendors_url:
        say(f"  Models       scripted/… at {plan.vendors_url} (set OPENAI_API_KEY or ANTHROPIC_API_KEY for real ones)")
    else:
        say("  Models       openai/… and anthropic/…, as far as their keys are set")
    say(f"  Home         {plan.home}   (logs: {plan.home / 'logs'})")
    say("")
    if not ready:
        say(f"Not everything is ready, see above; it is tried again and again. `perdure doctor{home}` says more.")
    say("Next, in another terminal:")
    say(f'  perdure run{home} "Show me what you can do"')
    say("Ctrl-C stops everything here.")
