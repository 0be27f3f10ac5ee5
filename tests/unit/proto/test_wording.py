"""Numbers in messages."""

import pytest

from arlarena.proto.text.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "step", "0 steps"),
        (1, "step", "1 step"),
        (2, "training step", "2 training steps"),
        (12345, "token", "12,345 tokens"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
