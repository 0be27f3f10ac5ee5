"""What stands between two responses of a conversation: the chat template's own, and never a response encoded again.

The templates are written after those of well-known families; the tokenizers are small, with merges that cross words.
"""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.trainer.tiny_support import sokoban_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from arlarena.rollout.conversation import Conversation
from arlarena.rollout.tokens import TokenizerError, Tokens

GENERATE = "{% if add_generation_prompt %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + GENERATE
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen3: turns before the last user message lose what they thought.
QWEN = (
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set said = m.content %}"
    "{% if m.role == 'assistant' and loop.index0 < last.user and '</think>' in said %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
    + GENERATE
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    + GENERATE
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    + GENERATE
    + "{{ '<start_of_turn>model\n' }}{% endif %}"
)
# DeepSeek's distilled models: the generation prompt begins a thought that earlier turns lose.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    + GENERATE
    + "{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# No family's: turns that end without a sign, and begin with ordinary text.
SCREENPLAY = (
    "{% for m in messages %}{{ '\n' + m.role + ': ' + m.content }}{% endfor %}"
    + GENERATE
    + "{{ '\nassistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template with its special tokens. `end`: what it puts after a response, "" for nothing special."""

    template: str
    special: tuple[str, ...]
    eos: str
    end: str
    spaces: bool = False  # a tokenizer like SentencePiece's, which puts a blank before a text

    def tokenizer(self) -> Any:
        words = sorted({word for path in Path(__file__).parent.glob("*.py") for word in path.read_text().split("\n")})
        inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=self.spaces))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if self.spaces:
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            inner.decoder = decoders.Metaspace(prepend_scheme="first")
            alphabet = sorted({*string.printable, "▁"})
        else:
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = decoders.ByteLevel()
        special = ["<unk>", "<s>", self.eos, *self.special]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
        inner.train_from_iterator(words, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token=self.eos,
            additional_special_tokens=list(self.special),
        )  # fmt: skip
        fast.chat_template = self.template
        return fast


FAMILIES = {
    "chatml": Family(CHATML, ("<|im_start|>",), "<|im_end|>", "<|im_end|>"),
    "qwen": Family(QWEN, ("<|im_start|>",), "<|im_end|>", "<|im_end|>"),
    "qwen base": Family(QWEN, ("<|im_start|>", "<|im_end|>"), "<|endoftext|>", "<|im_end|>"),
    "llama": Family(LLAMA, ("<|start_header_id|>", "<|end_header_id|>"), "<|eot_id|>", "<|eot_id|>"),
    "mistral": Family(MISTRAL, (), "</s>", "</s>"),
    "mistral, spaces": Family(MISTRAL, (), "</s>", "</s>", spaces=True),
    "gemma": Family(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<eos>", "<end_of_turn>"),
    "deepseek": Family(DEEPSEEK, ("<|User|>", "<|Assistant|>"), "<|end|>", "<|end|>"),
    "screenplay": Family(SCREENPLAY, (), "<eos>", ""),
    "screenplay, spaces": Family(SCREENPLAY, (), "<eos>", "", spaces=True),
}
# Those in which a whole conversation, rendered and encoded anew, is the conversation as it was: nothing is rewritten,
# and no token can reach across the edges of a response.
KEEPING = [name for name in FAMILIES if name.partition(",")[0] not in ("deepseek", "screenplay")]


@pytest.fixture(scope="module")
def served() -> dict[str, Tokens]:
    return {name: Tokens(family.tokenizer(), name) for name, family in FAMILIES.items()}


def some_texts(seed: int, count: int) -> list[str]:
    """Texts of words and code that no template would trim."""
    dice = random.Random(seed)
    pieces = ["print(2**10)", "x = 3", "the answer", "\n", "  ", "1024", "```python\n", "√", "<b>", "def f():"]
    if seed % 3 == 0:
        pieces.append("{{ m.content }} {% raw %}")
    return [f"so {' '.join(dice.choices(pieces, k=dice.randrange(1, 9)))} ok" for _ in range(count)]


def id_of(tokens: Tokens, name: str) -> list[int]:
    ids = tokens.encode(name)
    assert len(ids) == (1 if name else 0)
    return ids


def grown(tokens: Tokens, heard: Sequence[str], said: Sequence[Sequence[int]]) -> list[int]:
    """The prompt after all of it."""
    conversation = Conversation(tokens, heard[0])
    for ids, message in zip(said, heard[1:], strict=True):
        conversation.add_response(ids, tokens.text(ids))
        conversation.add_message(message)
    return list(conversation.prompt_ids)


def rendered(tokens: Tokens, heard: Sequence[str], said: Sequence[str]) -> list[int]:
    """The whole conversation through the template, encoded at once."""
    messages = [{"role": "user", "content": heard[0]}]
    for text, message in zip(said, heard[1:], strict=True):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": message}]
    return tokens.encode(tokens.render(messages))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", KEEPING)
def test_incremental_prompt_equals_the_rendered_conversation(served: dict[str, Tokens], name: str, seed: int) -> None:
    tokens, end = served[name], id_of(served[name], FAMILIES[name].end)
    heard, texts = some_texts(seed, 4), some_texts(100 + seed, 3)
    # The blank that some tokenizers put before a text of its own is none of the response's.
    said = [[*tokens.encode(text)[FAMILIES[name].spaces :], *end] for text in texts]
    assert grown(tokens, heard, said) == rendered(tokens, heard, texts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["screenplay", "screenplay, spaces"])
def test_template_without_turn_markers_keeps_text_and_response_tokens(
    served: dict[str, Tokens], name: str, seed: int
) -> None:
    tokens, heard, texts = served[name], some_texts(seed, 4), some_texts(100 + seed, 3)
    said = [tokens.encode(text)[FAMILIES[name].spaces :] for text in texts]
    found = grown(tokens, heard, said)
    assert (found == rendered(tokens, heard, texts)) is FAMILIES[name].spaces  # else tokens reach across the edges
    assert tokens.text(found) == tokens.text(rendered(tokens, heard, texts))
    first = len(tokens.prompt(heard[0]))
    assert found[first : first + len(said[0])] == said[0]


@pytest.mark.parametrize("seed", range(4))
def test_tiny_policy_template_renders_incrementally(seed: int) -> None:
    tokens = Tokens(sokoban_tokenizer())
    heard, texts = some_texts(seed, 4), some_texts(100 + seed, 3)
    assert grown(tokens, heard, [tokens.reply(text) for text in texts]) == rendered(tokens, heard, texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_truncated_and_finished_responses_get_the_same_end(served: dict[str, Tokens], name: str) -> None:
    tokens, end = served[name], id_of(served[name], FAMILIES[name].end)
    cut = tokens.encode("so far and no furth")
    assert tokens.following("go on", cut)[: len(end)] == end
    assert grown(tokens, ["a", "b"], [cut]) == grown(tokens, ["a", "b"], [[*cut, *end]])
    assert tokens.following("go on", []) == tokens.following("go on", cut)


@pytest.mark.parametrize("name", ["qwen base", "gemma", "screenplay"])
def test_another_end_token_stays_where_it_was_sampled(served: dict[str, Tokens], name: str) -> None:
    tokens = served[name]
    said = tokens.reply("so")
    assert said[-1:] != id_of(tokens, FAMILIES[name].end)
    assert tokens.following("go on", said) == tokens.following("go on", said[:-1])
    prompt = list(tokens.prompt("a"))
    assert grown(tokens, ["a", "b"], [said]) == [*prompt, *said, *tokens.following("b", [])]


def test_text_that_looks_like_the_template_is_not_removed(served: dict[str, Tokens]) -> None:
    tokens = served["screenplay"]
    glue = tokens.following("go on", [])
    assert tokens.following("go on", [*tokens.encode("so"), glue[0]]) == glue


@pytest.mark.parametrize("text", ["<think>2 and 2</think>\n\n4", "<think>\nhm\n</think>4", "</think>\n"])
def test_thoughts_stay_although_the_template_strips_them(served: dict[str, Tokens], text: str) -> None:
    tokens, end = served["qwen"], id_of(served["qwen"], "<|im_end|>")
    heard, texts = ["a", "b", "c"], [text, "so"]
    found = grown(tokens, heard, [[*tokens.encode(one), *end] for one in texts])
    assert found != rendered(tokens, heard, texts)
    assert found == rendered(served["chatml"], heard, texts)  # the same words, and nothing stripped


def test_the_generation_prompt_is_that_of_every_turn(served: dict[str, Tokens]) -> None:
    tokens = served["deepseek"]
    said = [tokens.reply("2 and 2</think>4"), tokens.reply("hm</think>5")]
    text = tokens._backend.decode(grown(tokens, ["a", "b", "c"], said), skip_special_tokens=False)
    turns = ["<s><|User|>a", "2 and 2</think>4<|end|><|User|>b", "hm</think>5<|end|><|User|>c", ""]
    assert text == "<|Assistant|><think>\n".join(turns)


def test_a_message_that_names_special_tokens_is_encoded_as_the_template_would(served: dict[str, Tokens]) -> None:
    tokens = served["chatml"]
    end = id_of(tokens, "<|im_end|>")
    heard = ["a", "printed: <|im_end|> and arlarena-sentinel-7f3a"]
    assert grown(tokens, heard, [[*tokens.encode("so"), *end]]) == rendered(tokens, heard, ["so"])


NO_CONVERSATION = {
    "does not render every message": "{{ messages[-1].content }}",
    "does not render every message once": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "in sequence": "{% for m in messages %}[{{ loop.index }}]{{ m.content }}{% endfor %}",
    r"refuses a conversation \(users alone\)": (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users alone') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    ),
}


@pytest.mark.parametrize("why", NO_CONVERSATION)
def test_template_without_multi_turn_support_is_an_error(why: str) -> None:
    tokens = Tokens(Family(NO_CONVERSATION[why], (), "<eos>", "").tokenizer(), "here/model")
    assert tokens.prompt("a single message is all it was made for")
    for _ in range(2):
        with pytest.raises(TokenizerError, match=f"here/model: its chat template .*{why}.*give the policy another"):
            tokens.following("b", [])
