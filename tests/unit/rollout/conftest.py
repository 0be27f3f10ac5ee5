"""Scripted servers around a runner (see `rollout_support`)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.rollout.rollout_support import House, open_house
from support.trainer.tiny_support import sokoban_tokenizer

from arlarena.rollout.tokens import Tokens


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    return Tokens(sokoban_tokenizer())


@pytest.fixture
async def house(tokens: Tokens) -> AsyncIterator[House]:
    async with open_house(tokens) as opened:
        yield opened


@pytest.fixture(scope="session")
def policy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer, as `--tokenizer` and [policy] path take it."""
    directory = tmp_path_factory.mktemp("policy")
    sokoban_tokenizer().save_pretrained(directory)
    return directory
