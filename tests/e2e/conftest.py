"""One Temporal server for the folder; a fresh home and fresh processes for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.dev_server import DevServer, start_dev_server
from tests.e2e.stack import Stack
from tests.postgres import postgres

__all__ = ["postgres"]


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    server = start_dev_server(tmp_path_factory.mktemp("temporal") / "temporal.db")
    yield server
    server.stop()


@pytest.fixture
def build(tmp_path: Path, temporal: DevServer) -> Iterator[Callable[..., Stack]]:
    """Build stacks that are stopped after the test."""
    built: list[Stack] = []

    def build_one(database_url: str | None = None) -> Stack:
        built.append(Stack(tmp_path / f"home-{len(built)}", temporal, database_url))
        return built[-1]

    yield build_one
    for stack in built:
        stack.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, temporal: DevServer) -> Iterator[Stack]:
    """A stack that the tests of a module share: each has runs of its own."""
    shared = Stack(tmp_path_factory.mktemp("shared") / "home", temporal)
    yield shared.start()
    shared.stop()
