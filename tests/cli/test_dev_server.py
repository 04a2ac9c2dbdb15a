"""The dev server as we launch it. Needs the real one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus

from perdure import contract
from perdure.dev_server import (
    DevServerFailed,
    dev_server_command,
    dev_server_ready,
    free_port,
    port_is_free,
    start_dev_server,
)


async def test_a_restart_on_the_same_file_keeps_workflows_and_search_attributes(tmp_path: Path) -> None:
    server = start_dev_server(tmp_path / "temporal.db")
    try:
        client = await Client.connect(server.address)
        await client.start_workflow("Anything", id="kept", task_queue="nobody")
        server.kill()
        server = start_dev_server(tmp_path / "temporal.db", server.port, free_port())
        client = await Client.connect(server.address)
        assert (await client.get_workflow_handle("kept").describe()).status is WorkflowExecutionStatus.RUNNING
        request = ListSearchAttributesRequest(namespace="default")
        known = (await client.operator_service.list_search_attributes(request)).custom_attributes
        assert set(known) >= set(contract.SEARCH_ATTRIBUTES)
    finally:
        server.stop()
    assert server.process.returncode is not None
    assert port_is_free(server.port)


async def test_a_namespace_that_is_not_the_default_is_made(tmp_path: Path) -> None:
    server = start_dev_server(tmp_path / "temporal.db", namespace="elsewhere")
    try:
        client = await Client.connect(server.address, namespace="elsewhere")
        await client.start_workflow("Anything", id="there", task_queue="nobody")
    finally:
        server.kill()


def test_the_file_is_in_wal_mode_because_the_default_doubles_the_cost_of_every_step(tmp_path: Path) -> None:
    server = start_dev_server(tmp_path / "temporal.db")
    server.kill()
    with sqlite3.connect(tmp_path / "temporal.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_port_that_is_taken_is_said_with_the_servers_own_words(tmp_path: Path) -> None:
    first = start_dev_server(tmp_path / "first.db")
    try:
        with pytest.raises(DevServerFailed, match=rf"did not come up on 127.0.0.1:{first.port}"):
            start_dev_server(tmp_path / "second.db", first.port)
    finally:
        first.kill()


def test_readiness_is_no_when_nobody_listens() -> None:
    assert not dev_server_ready(free_port())


def test_free_ports_are_free_different_and_out_of_the_way_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert all(port < 32_768 for port in ports)
    assert port_is_free(ports[0])


def test_the_search_attributes_are_those_of_the_contract() -> None:
    """Every name the workflows use has a type, and nothing else is registered."""
    named = {value for name, value in vars(contract).items() if name.startswith("SEARCH_") and isinstance(value, str)}
    assert set(contract.SEARCH_ATTRIBUTES) == named


def test_nothing_listens_beyond_this_machine(tmp_path: Path) -> None:
    command = dev_server_command(db=tmp_path / "t.db", port=free_port(), http_port=free_port(), ui_port=free_port())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not dev_server_ready(int(command[command.index("--http-port") + 1])):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        listening = _listening_addresses(process.pid)
        assert listening
        assert listening <= {"0100007F"}  # 127.0.0.1 as /proc writes it
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _listening_addresses(pid: int) -> set[str]:
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:  # 0A: listening
                found.add(fields[1].split(":")[0])
    return found
