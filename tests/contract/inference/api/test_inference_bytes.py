"""Log-probs of a model whose tokens are bytes: their bytes join to the text of every response and stream."""

import pytest
from support.inference.inference_support import model, running_server
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SEEDS = range(4)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Samples random bytes, so most characters are invalid. Has two special tokens."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(piece, special=True) for piece in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    made = model(3, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    made.save_pretrained(folder / "model")
    with running_server(folder / "run", f'model = "{folder / "model"}"\n') as running:
        yield running


def asked(route, **parameters):
    if route == CHAT:
        return {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 3, **parameters}
    return {"prompt": "hi", "logprobs": 3, **parameters}


def whole_and_streamed(server, route, **parameters):
    """The choice of a complete response, and the parts of the same choice in a stream."""
    (choice,) = server.post(route, asked(route, **parameters))["choices"]
    events = server.http.events(route, asked(route, stream=True, **parameters))
    return choice, [piece for event in events for piece in event["choices"]]


def text_of(one):
    return one["text"] if "text" in one else (one.get("message") or one["delta"]).get("content") or ""


def bytes_of(one):
    return b"".join(bytes(entry["bytes"]) for entry in (one["logprobs"] or {"content": []})["content"])


@pytest.mark.parametrize("special", [True, False], ids=["skipped", "shown"])
@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_join_to_the_text_of_a_chat_and_of_its_stream(server, seed, special):
    parameters = {"seed": seed, "max_tokens": 80, "skip_special_tokens": special, "ignore_eos": seed % 2 == 0}
    choice, pieces = whole_and_streamed(server, CHAT, **parameters)
    assert bytes_of(choice).decode(errors="replace") == text_of(choice)
    assert b"".join(map(bytes_of, pieces)) == bytes_of(choice)
    entries = [entry for piece in pieces if piece["logprobs"] for entry in piece["logprobs"]["content"]]
    assert entries == choice["logprobs"]["content"]
    for entry in entries:
        top = entry["top_logprobs"]
        assert [one["logprob"] for one in top] == sorted((one["logprob"] for one in top), reverse=True)
        assert len(top) == 3
        sampled = {"token": entry["token"], "bytes": entry["bytes"], "logprob": entry["logprob"]}
        assert (sampled in top) == (entry["logprob"] >= top[-1]["logprob"])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("include", [False, True])
def test_bytes_end_where_a_stop_string_ends_the_text(server, seed, include):
    common = {"seed": seed, "max_tokens": 80, "ignore_eos": True}
    free = text_of(whole_and_streamed(server, CHAT, **common)[0])
    stop = free[20:23]
    choice, pieces = whole_and_streamed(server, CHAT, **common, stop=[stop], include_stop_str_in_output=include)
    assert choice["finish_reason"] == "stop"
    assert text_of(choice) == free[: free.index(stop)] + stop * include
    assert bytes_of(choice).decode(errors="replace") == text_of(choice)
    shown, text = b"", ""
    for piece in pieces:  # after each event, the bytes sent so far are the text sent so far
        shown, text = shown + bytes_of(piece), text + text_of(piece)
        assert shown.decode(errors="replace") == text
    assert (shown, text) == (bytes_of(choice), text_of(choice))


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_of_a_completion_are_at_their_offsets(server, seed):
    choice, pieces = whole_and_streamed(server, COMPLETIONS, seed=seed, max_tokens=80, ignore_eos=True)
    logprobs, text = choice["logprobs"], text_of(choice)
    for key, values in logprobs.items():
        assert [value for piece in pieces for value in piece["logprobs"][key]] == values
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith(("\\x", "<|im_")) or text.startswith(token, offset)
    for token, value, top in zip(*(logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True):
        assert top[token] == value
        assert len(top) in (3, 4)
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
