r"""Whether an answer is mathematically the same as the gold one.

    judge(r"\frac{1}{2}", "0.5")                    # True
    judge(r"(1,2]", r"1 < x \le 2")                 # True
    judge(r"\pi", "3.14")                           # False

Both are brought into one way of writing (`latex`), taken apart into lists, tuples, intervals, relations (`structures`),
and their parts compared as words, or as quantities (`quantities`): numbers (`numbers.same_number`), and formulas, which
only see what `parser_guard` lets through.

An answer is written by a model: it may be anything, and is never evaluated as a program. It may still cost
much time or memory, so call this where both are limited.
"""

from __future__ import annotations

import logging
import re

from arlarena.environments.tir_math.judge.expressions import same_relation
from arlarena.environments.tir_math.judge.latex import Malformed, readings, squashed, tidy, unwrapped
from arlarena.environments.tir_math.judge.quantities import same_quantity
from arlarena.environments.tir_math.judge.structures import (
    Relation,
    Shape,
    as_interval,
    as_set,
    read_relation,
    read_shape,
    split,
)

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
# The letter of an option, and what stands behind it; then another letter there.
_OPTION = re.compile(
    r"(?:(?i:option|choice|answer)\s*:?\s*)?[(\[]?([A-Z])"
    r"(?:(?:[)\]](?![-+])|[.:]|\s*-(?=\s*[A-Za-z][a-z]{2}))+\s*((?![+*/^=<>,;]).*))?",
    re.DOTALL,
)
_OTHER = re.compile(r"\([A-Z]\)|(?:^|[,;/&])\s*[A-Z]\)?\s*(?:$|[,;.:)])")
_CURRENCY = re.compile(
    r"(?P<dollar>\\\$|USD|dollar)|(?P<cent>¢|(?<![A-Za-z])cents?(?![A-Za-z]))|(?P<euro>€|\\euro)|(?P<pound>£|\\pounds)"
    "|(?P<yen>¥)|(?P<rupee>₹)|(?P<won>₩)"
)


def judge(gold: str, answer: str) -> bool:
    """Whether the answer is right. Never raises: what cannot be read is wrong, unless it is the gold text itself."""
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > LIMIT or not gold or not answer:
        return False
    meant, said = ({found.lastgroup for found in _CURRENCY.finditer(text)} for text in (gold, answer))
    if meant and said and not meant & said:
        return False
    try:
        plain, others = tidy(gold), [tidy(reading) for reading in readings(answer)]
    except Malformed:
        return False
    return any(alike(plain, other) for other in others)


def alike(gold: str, answer: str, nesting: int = 0) -> bool:
    """Whether two tidy texts mean the same. What cannot be read or computed is like nothing but itself."""
    try:
        return _alike(gold, answer, nesting)
    except Exception:  # RecursionError and MemoryError among them; the answer is what a model made up
        logger.debug("an answer that cannot be judged", exc_info=True)
        return False


def _alike(gold: str, answer: str, nesting: int) -> bool:
    if squashed(gold) == squashed(answer):
        return True
    if nesting > MAX_NESTING or not gold or not answer:
        return False
    gold, answer = as_set(gold), as_set(answer)
    for rule in (by_words, by_parts, by_relations):
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
    several = len(split(unwrapped(gold), ",;")) > 1
    if "\\text{" in gold and not (several and re.fullmatch(r"(?:[A-Z],)+[A-Z]", unwrapped(gold).replace(" ", ""))):
        return re.sub(r"[\s().,;:'\"]|(?<=\w)-(?=\w)", "", unwrapped(answer)).lower() == meant.replace(":", "")
    return None


def by_parts(gold: str, answer: str, nesting: int) -> bool | None:
    """Lists in any order, tuples and matrices in theirs, sets, intervals, unions. None for single values."""
    if any("\\text{" in text and "," in text and _words_of(text) for text in (gold, answer)):
        gold, answer = unwrapped(gold), unwrapped(answer)
    meant, said = read_shape(gold), read_shape(answer)
    if (meant.kind == "list") != (said.kind == "list"):  # beside a list, 15,600 may be one
        meant, said = read_shape(gold, said.kind != "list"), read_shape(answer, meant.kind != "list")
    golds, answers, kinds = list(meant.items), list(said.items), {meant.kind, said.kind}
    if kinds <= {"value", "relation"}:
        return None if (golds, answers) == ([gold], [answer]) else alike(golds[0], answers[0], nesting)
    if "list" in kinds:
        if kinds <= {"list", "tuple", "set"}:
            return (_pairwise if meant.kind == "tuple" else _in_any_order)(golds, answers, nesting)
        union = _as_union(golds if meant.kind == "list" else answers)
        return union is not None and alike(*((union, answer) if meant.kind == "list" else (gold, union)), nesting)
    if "relation" in kinds:
        return None
    if "matrix" in kinds:
        if kinds == {"matrix", "tuple"}:  # a vector may be written as a tuple
            golds, answers = _entries(meant), _entries(said)
        return kinds <= {"matrix", "tuple"} and _pairwise(golds, answers, nesting)
    if meant.kind == "set" and (said.kind == "set" or (said.brackets == "[]" and len(answers) != 2)):
        return _in_any_order(_different(golds, nesting), _different(answers, nesting), nesting)
    if meant.kind != said.kind:
        return False
    if meant.kind == "union":
        return _in_any_order(golds, answers, nesting)
    return (meant.brackets == said.brackets or len(golds) != 2) and _pairwise(golds, answers, nesting)


def _entries(shape: Shape) -> list[str]:
    """The entries of a tuple or of a row; the rows of other matrices, of which a column's have one entry each."""
    return list(read_shape(shape.items[0]).items if len(shape.items) == 1 else shape.items)


def _different(values: list[str], nesting: int) -> list[str]:
    """The values of a set, each once."""
    found: list[str] = []
    for value in values[:MAX_PARTS]:
        if not any(alike(value, other, nesting) for other in found):
            found.append(value)
    return found


def _as_union(parts: list[str]) -> str | None:
    r"""`x<1, x>3` as the union of two intervals."""
    relations = [read_relation(part) for part in parts]
    intervals = [as_interval(relation) for relation in relations if relation]
    return "\\cup ".join(one for one in intervals if one) if len(intervals) == len(parts) and all(intervals) else None


def by_relations(gold: str, answer: str, nesting: int) -> bool | None:
    """Equations, inequalities, and values that are given a name."""
    meant, said = read_relation(gold), read_relation(answer)
    if meant is None and said is None:
        return None
    if meant and said:
        return _same_relation(meant, said, nesting)
    relation = meant or said
    assert relation is not None
    if not relation.is_equation:
        interval = as_interval(relation)
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
    elif _values(meant) and _values(said):
        names = [parts[-1] if _NAME.fullmatch(parts[-1]) else parts[0] for parts in (meant.parts, said.parts)]
        both = all(_NAME.fullmatch(name) for name in names)
        if not both or alike(names[0], names[1], nesting):
            return all(any(alike(value, one, nesting) for value in _values(meant)) for one in _exact(said))
    if len(meant.parts) != 2 or len(said.parts) != 2 or meant.signs != said.signs:
        return False
    (left, right), (low, high) = meant.parts, said.parts
    return same_relation((left, right), (low, high), not meant.is_equation)
