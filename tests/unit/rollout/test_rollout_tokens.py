"""Prompts equal the chat template's own, responses decode without markers and with their tags."""

from pathlib import Path
from typing import Any

import pytest
from support.trainer.tiny_support import sokoban_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from arlarena.rollout.tokens import PROBES, TokenizerError, Tokens

ROOM = "######\n#_P__#\n######\n#_X_##\n##O__#\n######\nyou 1 2 box 3 2 goal 4 2"


def byte_tokenizer(template: str, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    named = ["<unk>", "<eos>", *special]
    vocabulary = {token: i for i, token in enumerate([*named, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", additional_special_tokens=list(special)
    )
    fast.chat_template = template
    return fast


PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}[assistant]"
STRIPPING = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}<eos>{% endfor %}[assistant]"
UPPER = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
TWICE = "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}"


def reference_ids(tokenizer: Any, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    return list(ids["input_ids"] if hasattr(ids, "keys") else ids)


@pytest.mark.parametrize("text", [*PROBES, ROOM, "a <eos> inside", "x" * 3000])
@pytest.mark.parametrize(("template", "fast"), [(PLAIN, True), (STRIPPING, True), (UPPER, False), (TWICE, False)])
def test_prompt_equals_the_templates_own_ids(template: str, fast: bool, text: str) -> None:
    tokenizer = byte_tokenizer(template)
    tokens = Tokens(tokenizer)
    assert tokens.is_fast is fast
    assert tokens.prompt(text) == reference_ids(tokenizer, text)


def test_prompt_of_the_tiny_policy() -> None:
    tokenizer = sokoban_tokenizer()
    tokens = Tokens(tokenizer)
    assert tokens.is_fast
    assert tokens.prompt(ROOM) == reference_ids(tokenizer, ROOM)


def test_text_drops_markers_and_keeps_tags() -> None:
    tokenizer = sokoban_tokenizer()
    tokens = Tokens(tokenizer)
    reply = "<think>push left</think><action>up</action>"
    ids = tokens.reply(reply)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokens.text(ids) == reply
    assert tokens.text([ids[-1]]) == ""
    assert tokens.text([]) == ""


def test_tags_of_thoughts_and_of_the_environment_survive_even_as_special_tokens() -> None:
    tokens = Tokens(byte_tokenizer(PLAIN, ("<think>", "</think>", "<|tool|>", "<action>", "</action>")))
    ids = tokens.encode("<think>so</think><|tool|><action>up</action><eos>")
    assert tokens.text(ids) == "<think>so</think>up"
    assert tokens.with_tags(["<action>", "</action>"]).text(ids) == "<think>so</think><action>up</action>"


def test_text_equals_the_librarys_decoding_where_tags_are_ordinary() -> None:
    tokenizer = sokoban_tokenizer()
    tokens = Tokens(tokenizer)
    for ids in (list(range(len(tokenizer))), [2, 5, 5, 3], tokens.encode("odd √ text 漢")):
        assert tokens.text(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_directory_round_trips(tmp_path: Path) -> None:
    sokoban_tokenizer().save_pretrained(tmp_path)
    assert Tokens.load(tmp_path).prompt(ROOM) == Tokens(sokoban_tokenizer()).prompt(ROOM)


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such directory"):
        Tokens.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="the tokenizer cannot be read"):
        Tokens.load(tmp_path)
    silent = byte_tokenizer(PLAIN)
    silent.chat_template = None
    with pytest.raises(TokenizerError, match="no chat template"):
        Tokens(silent)
    endless = byte_tokenizer(PLAIN)
    endless.eos_token = None
    with pytest.raises(TokenizerError, match="end-of-sequence"):
        Tokens(endless)
