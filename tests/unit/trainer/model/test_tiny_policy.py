import hashlib
import json
import random
import string

import pytest
from support.trainer.tiny_support import SOKOBAN, sokoban_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from arlarena.environment.registry import load
from arlarena.proto.config import ConfigError, parse_table
from arlarena.trainer.model.tiny import build_tokenizer, create_tiny_policy, pieces_of, vocabulary
from arlarena.trainer.policy_settings import PolicySettings, TinyPolicy

SMALL = TinyPolicy(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=64)

# The first digits of the SHA-256 of the vocabulary as JSON, by size of a room. The order of the tokens must not change,
# because another order gives other initial weights.
VOCABULARIES = {
    6: "b5c9239d66f54779",
    7: "4228d3b8770dec23",
}

ROOM = "######\n#_P__#\n######\n#_X_##\n##O__#\n######\nyou 1 2 box 3 2 goal 4 2"


def test_the_directory_loads_with_transformers(tiny_directory):
    model = AutoModelForCausalLM.from_pretrained(tiny_directory)
    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    config = json.loads((tiny_directory / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is False
    assert config["vocab_size"] == len(tokenizer) == model.get_output_embeddings().weight.shape[0]
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert model.get_output_embeddings().weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()


def test_the_seed_determines_the_weights(tmp_path, tiny_directory):
    create_tiny_policy(tmp_path / "same", SMALL, seed=3, pieces=SOKOBAN)
    create_tiny_policy(tmp_path / "other", SMALL, seed=4, pieces=SOKOBAN)
    first = (tiny_directory / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def environment(name, **options):
    return load("test", name, options).info


@pytest.mark.parametrize("size", VOCABULARIES)
def test_sokobans_vocabulary_keeps_its_tokens_and_their_order(size):
    tokens = vocabulary(pieces_of(environment("sokoban", size=size)))
    assert len(tokens) == 137
    assert hashlib.sha256(json.dumps(tokens).encode()).hexdigest().startswith(VOCABULARIES[size])


def test_words_of_the_configuration_replace_the_vocabulary_and_keep_the_reply_tags():
    pieces = pieces_of(environment("sokoban"), ("walk",))
    assert pieces == ("<think>", "</think>", "<action>", "</action>", "walk", " walk")
    assert pieces_of(None, ("walk",)) == ("walk", " walk")


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("sokoban", "<think>push up</think><action>up</action>"),
        ("guess", "<think></think><action>88</action>"),
    ],
)
def test_a_reply_has_few_tokens(name, reply):
    tokenizer = build_tokenizer(pieces_of(environment(name)))
    assert len(tokenizer.encode(reply)) <= 6
    assert tokenizer.decode(tokenizer.encode(reply)) == reply


def test_the_removed_room_width_is_refused_with_what_replaces_it():
    with pytest.raises(ConfigError, match=r"room_width was removed: .* leave room_width out"):
        parse_table("run.toml: [policy]", {"tiny": {"room_width": 7}}, PolicySettings)


@pytest.mark.parametrize(("width", "length"), [(6, 30), (7, 40), (10, 82)])
def test_every_room_of_a_size_has_the_same_layout_of_tokens(width, length):
    tokenizer = build_tokenizer(pieces_of(environment("sokoban", size=width)))
    generator = random.Random(0)
    inside = width - 2
    rooms = [[["#"] * inside] * inside]  # a room of walls, whose rows look like borders
    rooms += [[[generator.choice("###_XOP√S") for _ in range(inside)] for _ in range(inside)] for _ in range(200)]
    for room in rooms:
        grid = "\n".join(["#" * width, *("#" + "".join(row) + "#" for row in room), "#" * width])
        text = f"{grid}\nyou {generator.randrange(width)} 2 box 3 2 goal 4 2"
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == length
        cells = [cell for row in room for cell in row]
        at = [1 + row * (inside + 1) + column for row in range(inside) for column in range(inside)]
        assert [tokenizer.decode([ids[position]]) for position in at] == cells


def test_text_without_pieces_is_encoded_without_loss():
    tokenizer = sokoban_tokenizer()
    generator = random.Random(1)
    for _ in range(200):
        text = "".join(generator.choice(string.printable) for _ in range(40))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_frames_a_turn_and_a_reply_ends_with_the_end_token():
    tokenizer = sokoban_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": ROOM}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(prompt) == f"<|user|>{ROOM}<|assistant|>"
    complete = [{"role": "user", "content": ROOM}, {"role": "assistant", "content": "<action>up</action>"}]
    ids = tokenizer.apply_chat_template(complete, return_dict=False)
    assert ids[: len(prompt)] == prompt
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True) == "<action>up</action>"


def test_words_are_one_token_each_with_and_without_the_space_before_them():
    words = ("go to", "cabinet", "pen", "pencil", "1")
    tokenizer = build_tokenizer(pieces_of(None, words))
    text = "go to cabinet 1, pencil 1 pen"
    ids = tokenizer.encode(text)
    assert [tokenizer.decode([one]) for one in ids] == ["go to", " cabinet", " 1", ",", " pencil", " 1", " pen"]
    unknown = "go to cabinet 7: penguin"
    assert tokenizer.decode(tokenizer.encode(unknown)) == unknown
