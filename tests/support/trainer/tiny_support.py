"""The vocabulary of Sokoban for tiny policies and tokenizers of tests."""

from transformers import PreTrainedTokenizerFast

from arlarena.environment.registry import load
from arlarena.trainer.model.tiny import build_tokenizer, pieces_of

SOKOBAN = pieces_of(load("tests", "sokoban", {}).info)


def sokoban_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of a tiny policy for rooms of six cells."""
    return build_tokenizer(SOKOBAN)
