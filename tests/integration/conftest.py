"""A real broker for every test that needs one: one server a session, a fresh run name a test."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from arlarena.console.launch.broker import Broker

_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server that lives as long as the session."""
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker.url


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A server of the test's own, for tests that hurt it. `always`: what was answered is on the disk."""
    with Broker(tmp_path / "broker", fsync="always") as own:
        yield own


@pytest.fixture
def run_name() -> str:
    """A run that no other test uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"
