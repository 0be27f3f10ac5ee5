"""Scripted servers around a runner (see `rollout_support`)."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

SUPPORT = str(Path(__file__).resolve().parents[2])
if SUPPORT not in sys.path:
    sys.path.append(SUPPORT)

from rollout_support import House, open_house  # noqa: E402

from arlarena.rollout.tokens import Tokens  # noqa: E402
from arlarena.trainer.tiny import build_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    return Tokens(build_tokenizer())


@pytest.fixture
async def house(tokens: Tokens) -> AsyncIterator[House]:
    async with open_house(tokens) as opened:
        yield opened
