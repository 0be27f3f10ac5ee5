r"""Whether an answer is mathematically the same as the gold one.

    judge(r"\frac{1}{2}", "0.5")                    # True
    judge(r"(1,2]", r"1 < x \le 2")                 # True
    judge(r"\pi", "3.14")                           # False

Both are brought into one way of writing (`latex`), taken apart into lists, tuples, intervals, relations (`shapes`), and
their parts compared as words, or as quantities (`quantities`): numbers, and formulas, which only see what `guard` lets
through. An answer is written by a model: it may be anything, and is never evaluated as a program. It may still cost
much time or memory, so call this where both are limited.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from arlarena.env_server.tir_math import shapes
from arlarena.env_server.tir_math.expressions import same_relation
from arlarena.env_server.tir_math.latex import readings, squashed, tidy, unwrapped
from arlarena.env_server.tir_math.numbers import read_number
from arlarena.env_server.tir_math.quantities import same_in_base, same_quantity, same_ratio
from arlarena.env_server.tir_math.shapes import Bracketed, Relation

logger = logging.getLogger(__name__)

# Characters of what is more than compared as text. 8,583 golds have 159 at most, but one is 2^{4950}: 1,491 digits.
LIMIT = 2_000
MAX_NESTING = 6  # of lists in tuples in unions
MAX_PARTS = 64  # of one list: each part is compared with each

_SETS_IN_WORDS = {"allrealnumbers": r"\mathbb{R}", "emptyset": r"\emptyset", "nosolution": r"\emptyset"}
_NAME = re.compile(
    r"[A-Za-z]+'?(?:_\{\w+\})?|\\(?!pi)[a-z]+|[A-Za-z](?:\^\{-1\})?\([A-Za-z]\)"
    r"|\([A-Za-z](?:,[A-Za-z])+\)|\\(?:angle|triangle)\s*[A-Z]+|\\text\{[^{}]*\}"
)
_LETTERS = re.compile(r"\\text\{([^{}]*)\}|\\[A-Za-z]+")
_VARIABLE = re.compile(r"\\(?:alpha|beta|theta|phi|omega|lambda|mu|sigma|tau|rho)(?![A-Za-z])|(?<![\\A-Za-z])[A-Za-z]")
# The letter of an option, and what stands behind it; `_OTHER` is another letter there.
_OPTION = re.compile(
    r"(?:(?i:option|choice|answer)\s*:?\s*)?[(\[]?([A-Z])(?:(?:[)\]](?![-+])|[.:]|\s*-(?=\s*[A-Za-z][a-z]{2}))+\s*((?![+*/^=<>]).*))?",
    re.DOTALL,
)
_OTHER = re.compile(r"\([A-Z]\)|(?:^|[,;/&])\s*[A-Z]\)?\s*(?:$|[,;.:)])")
_EURO, _DOLLAR = re.compile("[€£¥₹₩]|\\\\(?:pounds|euro)(?![A-Za-z])"), re.compile(r"\\\$|USD|dollar")


def judge(gold: str, answer: str) -> bool:
    """Whether the answer is right. Never raises: what cannot be read is wrong, unless it is the gold text itself."""
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > LIMIT or not gold or not answer:
        return False
    if _DOLLAR.search(gold) and _EURO.search(answer):
        return False
    try:
        meant = tidy(gold)
        return any(alike(meant, tidy(reading)) for reading in readings(answer))
    except Exception:  # RecursionError and MemoryError among them; the answer is what a model made up
        logger.debug("an answer that cannot be judged", exc_info=True)
        return False


def alike(gold: str, answer: str, nesting: int = 0) -> bool:
    """Whether two tidy texts mean the same."""
    if squashed(gold) == squashed(answer):
        return True
    if nesting > MAX_NESTING or not gold or not answer:
        return False
    gold, answer = shapes.as_set(gold), shapes.as_set(answer)
    for rule in RULES:
        verdict = rule(gold, answer, nesting + 1)
        if verdict is not None:
            return verdict
    return same_quantity(gold, answer)


def _pairwise(golds: list[str], answers: list[str], nesting: int) -> bool:
    return len(golds) == len(answers) and all(
        alike(gold, answer, nesting) for gold, answer in zip(golds, answers, strict=True)
    )


def _in_any_order(golds: list[str], answers: list[str], nesting: int) -> bool:
    """Whether each gold value has an answer of its own. Being alike is transitive, so the first one found will do."""
    if len(golds) != len(answers) or len(golds) > MAX_PARTS:
        return False
    left = list(answers)
    for gold in golds:
        found = next((answer for answer in left if alike(gold, answer, nesting)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _words_of(text: str) -> str | None:
    r"""The letters and digits of a text that is words: in \text{…}, or letters alone. None for a formula."""
    if "\\text{" in text:
        outside = re.sub(r"\\text\{[^{}]*\}", "", text)
        if re.search(r"[^\s(),.;:]", outside):
            return None
        text = _LETTERS.sub(lambda found: found[1] or "", text)
    elif not re.fullmatch(r"\(?[A-Za-z][A-Za-z\s\-',.]*\)?", text):
        return None
    return re.sub(r"[^a-z0-9:]", "", text.lower())


def _option(text: str) -> tuple[str, str] | None:
    """The letter of an option and the text behind it, if that names no other letter: `C. 12`, `(C) 12`, `C`."""
    found = _OPTION.fullmatch(unwrapped(text))
    return None if found is None or _OTHER.search(found[2] or "") else (found[1], found[2] or "")


def by_words(gold: str, answer: str, nesting: int) -> bool | None:
    """Answers in words, and letters of options. Words that differ may still be the same product of letters."""
    meant, said = _words_of(gold), _words_of(answer)
    option, choice = _option(gold), _option(answer)
    if option and choice and (meant is None or len(meant) == 1):
        return option[0] == choice[0] and (option[1] == choice[1] or not (option[1] and choice[1]))
    for words, other in ((meant, answer), (said, gold)):
        if words in _SETS_IN_WORDS and alike(_SETS_IN_WORDS[words], other, nesting + 1):
            return True
    if meant is None:
        return None
    if meant == said:
        return True
    if re.fullmatch(r"[A-Z]{3,}", gold):
        return False
    several = len(shapes.split(unwrapped(gold), ",;")) > 1
    if "\\text{" in gold and not (several and re.fullmatch(r"(?:[A-Z],)+[A-Z]", unwrapped(gold).replace(" ", ""))):
        return re.sub(r"[\s().,;:'\"]|(?<=\w)-(?=\w)", "", unwrapped(answer)).lower() == meant.replace(":", "")
    return None


def by_lists(gold: str, answer: str, nesting: int) -> bool | None:
    """Several values, in any order; in that of the gold one where it is a tuple."""
    if any("\\text{" in text and "," in text and _words_of(text) for text in (gold, answer)):
        gold, answer = unwrapped(gold), unwrapped(answer)
    golds, answers = shapes.read_list(gold), shapes.read_list(answer)
    if len(golds) == len(answers) == 1:
        if golds == [gold] and answers == [answer]:
            return None
        return alike(golds[0], answers[0], nesting)
    meant, said = shapes.read_brackets(gold), shapes.read_brackets(answer)
    if len(golds) == 1 and meant and not meant.is_interval:
        compare = _in_any_order if meant.is_set else _pairwise
        return compare(list(meant.items), answers, nesting)
    if len(answers) == 1 and said:
        return _in_any_order(golds, list(said.items), nesting)
    if len(golds) == 1 and (pieces := _as_union(answers)):
        return alike(gold, pieces, nesting)
    if len(answers) == 1 and (pieces := _as_union(golds)):
        return alike(pieces, answer, nesting)
    golds, answers = shapes.read_list(gold, len(answers) == 1), shapes.read_list(answer, len(golds) == 1)
    return _in_any_order(golds, answers, nesting)


def _as_union(parts: list[str]) -> str | None:
    r"""`x<1, x>3` as the union of two intervals."""
    relations = [shapes.read_relation(part) for part in parts]
    intervals = [shapes.as_interval(relation) for relation in relations if relation]
    return "\\cup ".join(one for one in intervals if one) if len(intervals) == len(parts) and all(intervals) else None


def by_relations(gold: str, answer: str, nesting: int) -> bool | None:
    """Equations, inequalities, and values that are given a name."""
    meant, said = shapes.read_relation(gold), shapes.read_relation(answer)
    if meant is None and said is None:
        return None
    if meant and said:
        return _same_relation(meant, said, nesting)
    relation = meant or said
    assert relation is not None
    if not relation.is_equation:
        interval = shapes.as_interval(relation)
        if interval is None:
            return False
        return alike(interval, answer, nesting) if meant else alike(gold, interval, nesting)
    values = _values(relation)
    if meant:
        return any(alike(value, answer, nesting) for value in values)
    return bool(values) and all(alike(gold, value, nesting) for value in _exact(relation))


def _values(relation: Relation) -> list[str]:
    """What an equation says that something is: `x=2` says 2, `0.5=50%` says both; `x+y=2` says nothing."""
    parts = list(relation.parts)
    if _NAME.fullmatch(parts[-1]) and not _NAME.fullmatch(parts[0]):
        parts.reverse()
    if _NAME.fullmatch(parts[0]):
        return parts[1:]
    return [] if any(_VARIABLE.search(part) for part in parts) else parts


def _exact(relation: Relation) -> list[str]:
    """The values that an equation means: all have to be right, but for those that are about right."""
    values = _values(relation)
    rough = {part for part, sign in zip(relation.parts[1:], relation.signs, strict=True) if sign == "\\approx"}
    return [value for value in values if value not in rough] or values[-1:]


def _same_relation(meant: Relation, said: Relation, nesting: int) -> bool:
    if meant.is_equation != said.is_equation:
        return False
    if not meant.is_equation:
        if meant.signs == said.signs and _pairwise(list(meant.parts), list(said.parts), nesting):
            return True
        one, other = shapes.as_interval(meant), shapes.as_interval(said)
        if one and other:
            return alike(one, other, nesting) and _letters_of(meant) == _letters_of(said)
    elif _values(meant) and _values(said):
        names = [parts[-1] if _NAME.fullmatch(parts[-1]) else parts[0] for parts in (meant.parts, said.parts)]
        both = all(_NAME.fullmatch(name) for name in names)
        if not both or alike(names[0], names[1], nesting):
            return all(any(alike(value, one, nesting) for value in _values(meant)) for one in _exact(said))
        if not _VARIABLE.search(_values(said)[-1]):
            return False
    if len(meant.parts) != 2 or len(said.parts) != 2 or meant.signs != said.signs:
        return False
    (left, right), (low, high) = meant.parts, said.parts
    return same_relation((left, right), (low, high), not meant.is_equation)


def _letters_of(relation: Relation) -> set[str]:
    return set(_VARIABLE.findall(" ".join(relation.parts)))


def by_sets(gold: str, answer: str, nesting: int) -> bool | None:
    """Unions, and the real numbers as an interval."""
    golds, answers = (shapes.read_union(_spelled_out(text)) for text in (gold, answer))
    if len(golds) == 1 and len(answers) == 1:
        return None if golds == [gold] and answers == [answer] else alike(golds[0], answers[0], nesting)
    return _in_any_order(golds, answers, nesting)


def _spelled_out(text: str) -> str:
    r"""`\mathbb{R}` as an interval, without some points as a union of intervals."""
    found = re.fullmatch(r"\\mathbb\{R\}(?:(?:\\setminus|\\backslash|-)\s*\\\{(?P<points>[^{}]*)\\\})?", text)
    if not found:
        return text
    ends = ["-\\infty", *sorted(shapes.split(found["points"] or "", ","), key=_position), "\\infty"]
    return "\\cup ".join(f"({low},{high})" for low, high in pairwise(ends))


def _position(point: str) -> Fraction:
    number = read_number(point)
    return number.value if number else Fraction(0)


def by_brackets(gold: str, answer: str, nesting: int) -> bool | None:
    """Tuples, intervals, sets, matrices."""
    rows, others = shapes.read_matrix(gold), shapes.read_matrix(answer)
    meant, said = shapes.read_brackets(gold), shapes.read_brackets(answer)
    if rows is not None:
        if others is None:  # a vector may be written as a tuple
            return said is not None and _same_vector(rows, said, nesting)
        return len(rows) == len(others) and all(
            _pairwise(row, other, nesting) for row, other in zip(rows, others, strict=True)
        )
    if others is not None and meant:
        return _same_vector(others, meant, nesting)
    if meant is None and said is None:
        return None
    if (meant and len(meant.items) == 1) or (said and len(said.items) == 1):
        return alike(_only(meant) or gold, _only(said) or answer, nesting)
    return _same_brackets(meant, said, nesting) if meant and said else False


def _same_vector(rows: list[list[str]], brackets: Bracketed, nesting: int) -> bool:
    """Whether a matrix of one row or one column has the entries of a tuple."""
    one = len(rows) == 1 or all(len(row) == 1 for row in rows)
    entries = [entry for row in rows for entry in row]
    return one and not brackets.is_set and _pairwise(entries, list(brackets.items), nesting)


def _only(brackets: Bracketed | None) -> str | None:
    return brackets.items[0] if brackets and len(brackets.items) == 1 else None


def _same_brackets(meant: Bracketed, said: Bracketed, nesting: int) -> bool:
    golds, answers = list(meant.items), list(said.items)
    if meant.is_set and (said.is_set or (said.left == "[" and len(answers) != 2)):
        return _in_any_order(_different(golds, nesting), _different(answers, nesting), nesting)
    if meant.is_set != said.is_set:
        return False
    if (meant.left, meant.right) != (said.left, said.right) and (len(golds) == 2 or not said.matched):
        return False
    return _pairwise(golds, answers, nesting)


def _different(values: list[str], nesting: int) -> list[str]:
    """The values of a set, each once."""
    found: list[str] = []
    for value in values[:MAX_PARTS]:
        if not any(alike(value, other, nesting) for other in found):
            found.append(value)
    return found


RULES: tuple[Callable[[str, str, int], bool | None], ...] = (
    by_words,
    by_lists,
    by_relations,
    by_sets,
    by_brackets,
    lambda gold, answer, _: same_in_base(gold, answer),
    lambda gold, answer, _: same_ratio(gold, answer),
)
