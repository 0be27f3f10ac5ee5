"""Converts text to index terms, as Lucene's EnglishAnalyzer does.

    terms("The women's running shoes")    # ["women", "run", "shoe"]

The steps are: split the text into words by the rules of Unicode's UAX #29 (Lucene's StandardTokenizer), remove a
possessive 's, convert to lower case, remove 33 stop words, apply Porter's stemmer. There are two differences from
Lucene: symbols such as emoji are not terms, and quotation marks inside Hebrew words end a word.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import Stemmer

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
_LONGEST_WORD = 255  # characters; longer words are cut into parts, as by Lucene (DEFAULT_MAX_TOKEN_LENGTH)
_APOSTROPHES = "'\u2019\uff07"  # EnglishPossessiveFilter
# Classes of characters in Unicode 17. Each line of the file has the name of a class, then the class's code points and
# ranges in hexadecimal.
_RANGES = Path(__file__).parent / "data" / "word_break.txt"
# UAX #29 for ASCII: letters joined by one of . ' : and digits joined by one of . ' , ; are one word.
_ascii_words = re.compile(
    r"[a-zA-Z0-9_]+(?:(?<=[a-zA-Z])[.':](?=[a-zA-Z])[a-zA-Z0-9_]+|(?<=[0-9])[.,;'](?=[0-9])[a-zA-Z0-9_]+)*"
).findall
_stemmer = Stemmer.Stemmer("porter", 0)  # 0: without its own cache, because `search.build` caches terms


@cache
def _unicode_words() -> re.Pattern[str]:
    """Return a regular expression that matches one word. Unlike `_ascii_words`, it works for any text.

    A character of the class `extend` belongs to the character before it.
    """
    sets = dict(map(_character_set, _RANGES.read_text(encoding="ascii").splitlines()))

    def character(*names: str) -> str:
        return f"(?:[{''.join(sets[name] for name in names)}][{sets['extend']}]*)"

    letter, number, underscore = character("letter", "hebrew"), character("numeric"), character("underscore")
    letters = f"{letter}(?:(?:{underscore}*|{character('mid_letter', 'mid_both')}){letter})*"
    numbers = f"{number}(?:(?:{underscore}*|{character('mid_number', 'mid_both')}){number})*"
    katakana = f"{character('katakana')}(?:{underscore}*{character('katakana')})*"
    unit = f"(?:{katakana}|(?:{letters}|{numbers})+)"
    word = f"{underscore}*{unit}(?:{underscore}+{unit})*{underscore}*"
    return re.compile(f"{word}|[{sets['complex']}][{sets['complex']}{sets['extend']}]*|{character('single')}")


def _character_set(line: str) -> tuple[str, str]:
    name, *ranges = line.split()
    ends = (part.split("-") for part in ranges)
    return name, "".join("-".join(f"\\U{int(end, 16):08x}" for end in pair) for pair in ends)


def words(text: str) -> list[str]:
    """Return the words of a text in order, without changes of case. Words longer than `_LONGEST_WORD` are split.

    In an ASCII text, underscores alone can be a word; `term` leaves such words out.
    """
    if text.isascii():
        found = _ascii_words(text)
    else:  # first split at white space, which no word contains: ASCII parts then use the faster pattern
        parts = (_ascii_words(part) if part.isascii() else _unicode_words().findall(part) for part in text.split())
        found = [word for part in parts for word in part]
    if len(text) > _LONGEST_WORD and max(map(len, found), default=0) > _LONGEST_WORD:
        return [word[at : at + _LONGEST_WORD] for word in found for at in range(0, len(word), _LONGEST_WORD)]
    return found


def term(word: str) -> str | None:
    """Return the term of a word. Return None if the word is a stop word or consists of underscores."""
    if word[-1] in "sS" and word[-2:-1] and word[-2] in _APOSTROPHES:
        word = word[:-2]
    word = word.lower()
    if not word.strip("_") or word in STOP_WORDS:
        return None
    # Lucene's stemmer leaves words of one or two letters as they are.
    return str(_stemmer.stemWord(word)) if len(word) > 2 else word


def terms(text: str) -> list[str]:
    """Return the terms of a text in order, with repetitions."""
    return [found for found in map(term, words(text)) if found is not None]
