"""Creates the tiny policy: a Qwen3 model with about a million parameters and its own tokenizer.

The tiny policy can be trained on the CPU of a laptop. The output is an ordinary Hugging Face directory.
`transformers`, vLLM and the embedded engine can load it.

`vocab_size` equals `len(tokenizer)`, because inference engines can sample any id below `vocab_size`. The output head
and the embedding are separate (untied) weights. With tied weights, vLLM on a CPU would still use the old output head
after a weight update (docs/reference/policy-server.md).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from arlarena.proto.env_api import Info
from arlarena.trainer.output import atomic_folder
from arlarena.trainer.policy_settings import TinyPolicy

PAD, UNKNOWN, END, USER, ASSISTANT = "<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, UNKNOWN, END, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PRINTABLE = tuple(string.printable)  # single-character tokens, so that any printable ASCII text can be encoded


def word_pieces(words: Sequence[str]) -> tuple[str, ...]:
    """Return two texts for each word: the word itself, and the word after a space. Each text becomes one token."""
    return tuple(piece for word in words for piece in (word, f" {word}"))


def pieces_of(info: Info | None, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the texts that become one token each: the environment's reply tags, then `word_pieces(words)`.

    If `words` is empty, the environment's vocabulary is used instead of `word_pieces(words)`. `info`: the environment's
    description; None: there are no tags and no vocabulary.
    """
    tags, own = (info.parser.tags, info.vocabulary) if info is not None else ([], [])
    return (*tags, *(word_pieces(words) if words else own))


def vocabulary(pieces: Sequence[str] = ()) -> list[str]:
    """Return all tokens without duplicates: special tokens, `pieces`, and the printable ASCII characters."""
    return list(dict.fromkeys((*SPECIAL, *pieces, *PRINTABLE)))


def build_tokenizer(pieces: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Build a tokenizer that reads a text from left to right, and always takes the longest matching token.

    The tokens are those of `vocabulary(pieces)`. Encoding and then decoding a printable ASCII text returns the same
    text.
    """
    tokens = vocabulary(pieces)
    ordinary = sorted((token for token in tokens if token not in SPECIAL), key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in ordinary) + r"|[\s\S]"
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(shape: TinyPolicy, vocab_size: int, pad_id: int, eos_id: int, seed: int) -> Qwen3ForCausalLM:
    """Build a model with random weights.

    The weights of the projections into the residual stream (`o_proj`, `down_proj`) are divided by √(2 · layers). The
    size of the residual stream then does not grow with the number of layers.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.max_positions,
        initializer_range=shape.init_std,
        tie_word_embeddings=False,
        attention_dropout=0.0,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_(math.sqrt(2 * shape.layers))
    return model


def create_tiny_policy(out: Path, shape: TinyPolicy, seed: int, pieces: Sequence[str] = ()) -> int:
    """Create a tiny policy, and write it to `out` as a Hugging Face directory. Returns the number of parameters.

    `seed`: the seed of the random weights. `pieces`: texts that become one token each (see `pieces_of`), in addition to
    the printable ASCII characters.

    Raises:
        ConfigError: `out` is a file, a mount point, or a folder with files of other programs.
    """
    # Progress bars would break the JSON log on stderr.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = build_tokenizer(pieces)
    model = build_model(shape, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with atomic_folder(out, {"kind": "tiny", "seed": seed, "parameters": parameters}) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return parameters
