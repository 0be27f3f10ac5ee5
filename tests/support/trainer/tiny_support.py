"""The vocabulary of Sokoban for tiny policies and tokenizers of tests."""

from transformers import PreTrainedTokenizerFast

from arlarena.environment.registry import load
from arlarena.trainer.model.tiny import build_tokenizer, pieces_of

SOKOBAN = pieces_of(load("tests", "sokoban", {}).info)


def sokoban_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tiny policy for Sokoban."""
    return build_tokenizer(SOKOBAN)
