"""Trains a policy of a few thousand parameters with TRL's GRPO on a real environment server.

    .venv-trl/bin/python tests/support/trainer/trl_driver.py URL FOLDER

proto, client and examples must be on PYTHONPATH.

The driver first trains the policy to reply to any prompt with one call of the tool `act`. TRL must find the tool, parse
the calls, step the environment and use its reward. Prints TRL's log as JSON.
"""

import json
import sys
from pathlib import Path

import torch
import trl
import trl_grpo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

BEGIN, END, PAD = "<|im_start|>assistant\n", "<|im_end|>", "<|endoftext|>"
CALL = '<tool_call>\n{"name": "act", "arguments": {"action": "up"}}\n</tool_call>'


def tokenizer():
    """Return a byte-level tokenizer with a token for each marker, and with TRL's chat template for Qwen3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=PAD)
    made.add_tokens([BEGIN, CALL])
    made.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    return made


def policy(vocabulary):
    """Train a policy that predicts CALL after BEGIN, and END after all other tokens."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(
        vocab_size=len(vocabulary), num_key_value_heads=1, head_dim=16, max_position_embeddings=8192,
        eos_token_id=vocabulary.eos_token_id, pad_token_id=vocabulary.pad_token_id, **size,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    begin, call = vocabulary.convert_tokens_to_ids([BEGIN, CALL])
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(60):
        ids = torch.randint(len(vocabulary), (16, 24))
        ids[:, ::3] = begin
        following = torch.where(ids == begin, call, vocabulary.eos_token_id)
        loss = torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), following.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main(url, folder):
    vocabulary = tokenizer()
    policy(vocabulary).save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    log = trl_grpo.train(url, folder, tasks=4, steps=2)
    print(json.dumps(log))


if __name__ == "__main__":
    main(*sys.argv[1:])
