"""Bytes of tokens join to the text: for several tokenizers, at a stop string, and while the text grows."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from arlarena.inference.embedded.text.codec import GrowingText, TextCodec, cut
from arlarena.inference.embedded.text.token_bytes import printed

END = "<\uff5cend▁of\uff5c>"  # like DeepSeek's special tokens; a byte-level vocabulary has no byte for U+FF5C and ▁
SAMPLES = ["go up", "√12 = 2√3", "naïve 👩‍👩‍👧 漢字", " leading", "a", "", "tab\tnewline\n", "  two  blanks  "]


def byte_level():
    """A tokenizer with one token for each byte. The tokens are spelled as in the vocabularies of GPT-2 and Qwen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|im_end|>", special=True), AddedToken(END, special=True)])
    made.add_tokens([AddedToken("<think>", special=False)])
    return made


def sentence_pieces():
    """A tokenizer like that of Llama 2: words begin with ▁, all other text is bytes, and the decoder strips the first
    space of a text.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁go", "▁up", "x", "a", "g"]
    made = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(piece, special=True) for piece in ("<unk>", "<s>", "</s>")])
    return made


def metaspace():
    """A tokenizer like that of T5."""
    pieces = ["<unk>", "</s>", "▁", "▁go", "▁up", "x", "é"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([AddedToken("</s>", special=True)])
    return made


def characters():
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["<end>", *"abé√ "])}, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken("<end>", special=True)])
    return made


MAKERS = [byte_level, sentence_pieces, metaspace, characters]


def token_texts(text, ids, skip_special=True):
    texts = text.token_texts(skip_special=skip_special)
    texts.extend(ids)
    return texts.tokens


def joined(tokens):
    return b"".join(token.raw for token in tokens)


def some_ids(made, seed):
    """A response of random tokens; byte tokens form complete characters."""
    vocabulary = made.get_vocab()
    words = [[i] for piece, i in sorted(vocabulary.items()) if not piece.startswith("<0x")]
    if "<0x20>" in vocabulary:
        words += 3 * [[vocabulary[f"<0x{byte:02X}>"] for byte in character.encode()] for character in "é√👩 "]
    draw = random.Random(seed)
    return [i for _ in range(12) for i in draw.choice(words)]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("skip_special", [True, False])
def test_byte_level_tokens_join_to_the_text(sample, skip_special):
    text = TextCodec(byte_level())
    ids = [*text.encode(sample), text.tokenizer.token_to_id("<think>"), text.tokenizer.token_to_id("<|im_end|>")]
    assert joined(token_texts(text, ids, skip_special)).decode() == text.decode(ids, skip_special=skip_special)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make.__name__)
def test_tokens_of_other_vocabularies_join_to_the_text(make, seed, skip_special):
    made = make()
    text, ids = TextCodec(made), some_ids(made, seed)
    assert joined(token_texts(text, ids, skip_special)).decode() == text.decode(ids, skip_special=skip_special)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_join_to_the_text_with_replacement_characters(seed):
    text = TextCodec(byte_level())
    ids = [random.Random(seed).randrange(text.tokenizer.get_vocab_size()) for _ in range(60)]
    assert joined(token_texts(text, ids)).decode(errors="replace") == text.decode(ids)


def test_the_first_space_is_stripped_only_if_the_decoder_strips_it():
    for make in (sentence_pieces, metaspace):
        text = TextCodec(make())
        go, up, end = (text.tokenizer.token_to_id(piece) for piece in ("▁go", "▁up", "</s>"))
        assert [one.raw for one in token_texts(text, [go, up, go])] == [b"go", b" up", b" go"]
        assert [one.raw for one in token_texts(text, [end, go, up])] == [b"", b"go", b" up"]
        assert text.piece(go) == " go"


def test_a_part_of_a_character_is_printed_as_its_bytes():
    text = TextCodec(byte_level())
    tokens = token_texts(text, text.encode("a√b"))
    assert [token.token for token in tokens] == ["a", r"\xe2", r"\x88", r"\x9a", "b"]
    assert [token.raw for token in tokens] == [b"a", b"\xe2", b"\x88", b"\x9a", b"b"]
    assert [token.begin for token in tokens] == [0, 1, 1, 1, 2]
    assert printed("é".encode() + b"\xe2") == r"é\xe2"


def test_a_skipped_special_token_has_a_name_and_no_bytes():
    text = TextCodec(byte_level())
    end = text.tokenizer.token_to_id(END)
    (skipped,), (kept,) = token_texts(text, [end]), token_texts(text, [end], skip_special=False)
    assert (skipped.token, skipped.raw) == (END, b"")
    assert (kept.token, kept.raw.decode()) == (END, END)


@pytest.mark.parametrize(
    ("stop", "include"), [("√", False), ("3", False), ("= 2", True), ("= 2", False), ("√1", False)]
)
@pytest.mark.parametrize("sample", ["√12 = 2√3", "x√12 = 2√3 and more"])
def test_bytes_after_a_stop_string_are_cut_off(sample, stop, include):
    text = TextCodec(byte_level())
    texts = text.token_texts(skip_special=True)
    texts.extend(text.encode(sample))
    expected = cut(sample, stop, include=include)
    texts.cut(len(expected))
    assert joined(texts.tokens).decode() == expected
    assert len(texts.tokens) == len(text.encode(sample))
    assert max(token.begin for token in texts.tokens) <= len(expected)


@pytest.mark.parametrize("sample", ["√12 = 2√3 END and", "no stop string, only EN", "👩‍👩‍👧 family E√ND"])
def test_sent_tokens_join_to_the_sent_text(sample):
    text, stops = TextCodec(byte_level()), ("END", "√3 E")
    ids = text.encode(sample)
    growing = GrowingText(text, stops, skip_special=True, include_stop=False)
    texts, sent = text.token_texts(skip_special=True), ""
    for size in range(1, len(ids)):
        sent += growing.advance(ids[:size], finished=False, stop=None)
        texts.extend(ids[:size])
        assert growing.sent == len(sent)
        assert joined(texts.tokens[: texts.count_within(len(sent))]).decode() == sent
