"""A tiny policy: a Qwen3-shaped model of about a million parameters with a tokenizer of its own.

It exists so that everything runs, and learns, on a laptop's CPU. It is an ordinary Hugging Face directory:
`transformers`, vLLM and the embedded engine load it like any other. `vocab_size` equals `len(tokenizer)` because
engines sample any id below it, and the output head is untied because vLLM on a CPU keeps a packed copy of a tied one
after a weight update (docs/guide/inference.md).
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

from arlarena.trainer.output import whole_folder
from arlarena.trainer.settings import TinyPolicy

PAD, UNKNOWN, END, USER, ASSISTANT = "<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, UNKNOWN, END, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

REPLY_PIECES = ("<think>", "</think>", "<action>", "</action>")
SOKOBAN_WORDS = (
    *("\nyou ", " box ", " goal ", "\naround you ", " around box "),
    *("push up", "push down", "push left", "push right", "up", "down", "left", "right", "still"),
    *(f" {digit}" for digit in string.digits),
    "√",
)
PRINTABLE = tuple(string.printable)  # any other text still has ids


def border_pieces(width: int) -> tuple[str, ...]:
    """The borders of a room `width` cells wide, one token each: top, between two rows, bottom.

    A cell is one token too, so a room of this width always has the same number of tokens and each cell the same offset:
    positions are what a small model must read. Pieces for other widths are left out, as they would also match a row
    that is all wall.
    """
    return "#" * width + "\n#", "#\n#", "#" * (width - 1) + "\nyou "


def word_pieces(words: Sequence[str]) -> tuple[str, ...]:
    """Each word, and each with the space before it: one token wherever it stands."""
    return tuple(piece for word in words for piece in (word, f" {word}"))


def vocabulary(shape: TinyPolicy) -> list[str]:
    """Every piece once, special tokens first."""
    own = word_pieces(shape.words) if shape.words else (*border_pieces(shape.room_width), *SOKOBAN_WORDS)
    return list(dict.fromkeys((*SPECIAL, *REPLY_PIECES, *own, *PRINTABLE)))


def build_tokenizer(shape: TinyPolicy | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts text into the longest known pieces from left to right, without loss for printable ASCII."""
    pieces = vocabulary(shape or TinyPolicy())
    ordinary = sorted((piece for piece in pieces if piece not in SPECIAL), key=len, reverse=True)
    pattern = "|".join(re.escape(piece) for piece in ordinary) + r"|[\s\S]"
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN))
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
    """A freshly initialised model; projections into the residual stream start smaller, by the square root of their
    number.
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


def create_tiny_policy(out: Path, shape: TinyPolicy, seed: int) -> int:
    """Write the policy to `out` as a Hugging Face directory. Returns the number of parameters.

    Raises:
        ConfigError: `out` holds other files.
    """
    # The bar of saving would be among the lines of JSON.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = build_tokenizer(shape)
    model = build_model(shape, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with whole_folder(out, {"kind": "tiny", "seed": seed, "parameters": parameters}) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return parameters
