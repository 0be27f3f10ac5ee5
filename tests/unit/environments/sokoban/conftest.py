"""Levels in the format of Boxoban's files: 64 generated rooms of 10 x 10 cells with 4 boxes."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def boxoban_file() -> Path:
    return Path(__file__).resolve().parents[3] / "data" / "sokoban" / "rooms_10x10.txt"
