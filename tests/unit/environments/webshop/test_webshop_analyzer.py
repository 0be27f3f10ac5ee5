"""Words and terms of search texts, compared with the `regex` package's word boundaries and with Lucene's rules."""

import random
import unicodedata

import pytest
import regex

from arlarena.environments.webshop.search.analyzer import STOP_WORDS, terms, words

PIECES = [
    *"abzAZ019",
    *" \t-_.,:;'\"/&+",
    *"éßñøИяЖя",
    *"٣५",
    *"カナー",
    "e\u0301",
    "\u00ad",
    *"\u2019\u2018·",
    "½",
    "™",
    "…",
]
_boundary = regex.compile(r"(?w)\b", flags=regex.VERSION0)
_has_character = regex.compile(r"[\p{WB=ALetter}\p{WB=Numeric}\p{WB=Katakana}\p{WB=Hebrew_Letter}]")


def uax29_words(text):
    """The words by the default word boundaries of the `regex` package, which has the rules of UAX #29."""
    cuts = [match.start() for match in _boundary.finditer(text)]
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [part for part in parts if _has_character.search(part)]


def random_text(source):
    return "".join(source.choice(PIECES) for _ in range(source.randint(1, 24)))


def test_words_equal_the_word_boundaries_of_unicode():
    source = random.Random(0)
    for _ in range(4000):
        text = random_text(source)
        found = [word for word in words(text) if _has_character.search(word)]
        assert [word.rstrip("\u00ad\u0301") for word in found] == [
            word.rstrip("\u00ad\u0301") for word in uax29_words(text)
        ], ascii(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("can't stop: 3.5,000 o'clock", ["can't", "stop", "3.5,000", "o'clock"]),
        ("size:xl 12:30", ["size:xl", "12", "30"]),
        ("A4-paper x_y __", ["A4", "paper", "x_y", "__"]),
        ("日本語 ひら カタカナ", ["日", "本", "語", "ひ", "ら", "カタカナ"]),
        ("ภาษาไทย", ["ภาษาไทย"]),
        ("naïve\u2019s “café”", ["naïve\u2019s", "café"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
    ],
)
def test_words_of_examples(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Women's RUNNING shoes, and such", ["women", "run", "shoe"]),
        ("boys\u2019 toys", ["boi", "toi"]),
        ("is us it", ["us"]),  # two letters are not stemmed
        ("__ _a_", ["_a_"]),
        ("'s", ["s"]),
        ("dresses dresses", ["dress", "dress"]),
    ],
)
def test_terms_of_examples(text, expected):
    assert terms(text) == expected


def test_stop_words_are_lucenes():
    expected = (
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
        "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was",
        "will", "with",
    )  # fmt: skip
    assert set(expected) == STOP_WORDS
    assert len(expected) == 33
    assert terms(" ".join(STOP_WORDS)) == []


def test_terms_of_arbitrary_characters_are_found_without_an_error():
    for code in range(0, 0x11000, 7):
        for term in terms(f"a{chr(code)}b {chr(code)}"):
            assert term == term.lower() or unicodedata.category(chr(code)) != "Lu"
