r"""Decides whether an answer is mathematically equal to the gold answer.

    judge(r"\frac{1}{2}", "0.5")                    # True
    judge(r"(1,2]", r"1 < x \le 2")                 # True
    judge(r"\pi", "3.14")                           # False

Both answers are normalised (`latex`) and split into lists, tuples, intervals and relations (`structures`). The parts
are compared as words or as quantities (`quantities`). A quantity is a number (`numbers.same_number`) or a formula
(`expressions`). A formula is parsed only if `parser_guard` allows it.

An answer is untrusted text of a model. An answer is never evaluated as a program. Judging an answer may take much time
and memory, so call `judge` only in a process with limits.
"""

from __future__ import annotations

import logging
import re

from arlarena.environments.tir_math.judge.expressions import same_relation
from arlarena.environments.tir_math.judge.latex import Malformed, compact, normalize, possible_meanings, unwrap_text
from arlarena.environments.tir_math.judge.quantities import same_quantity
from arlarena.environments.tir_math.judge.structures import (
    Relation,
    Structure,
    as_interval,
    as_set,
    read_relation,
    read_structure,
    split,
)

logger = logging.getLogger(__name__)

# Maximum characters of an answer that is parsed. Of 8,583 gold answers of MATH and AIME, one (2^{4950}) has 1,491
# characters, and the others have at most 159.
LIMIT = 2_000
MAX_NESTING = 6  # maximum levels of nested parts, such as a list in a tuple in a union
MAX_PARTS = 64  # maximum parts of a list; the time of a comparison grows with the square of this number

_SETS_IN_WORDS = {"allrealnumbers": r"\mathbb{R}", "emptyset": r"\emptyset", "nosolution": r"\emptyset"}
_NAME = re.compile(
    r"[A-Za-z]+'?(?:_\{\w+\})?|\\(?!pi)[a-z]+|[A-Za-z](?:\^\{-1\})?\([A-Za-z]\)"
    r"|\([A-Za-z](?:,[A-Za-z])+\)|\\(?:angle|triangle)\s*[A-Z]+|\\text\{[^{}]*\}"
)
_LETTERS = re.compile(r"\\text\{([^{}]*)\}|\\[A-Za-z]+")
_VARIABLE = re.compile(r"\\(?:alpha|beta|theta|phi|omega|lambda|mu|sigma|tau|rho)(?![A-Za-z])|(?<![\\A-Za-z])[A-Za-z]")
# _OPTION: the letter of a multiple-choice option, and the text after the letter. _OTHER: the letter of another option
# in that text.
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
    """Return whether the answer is right. Never raises. An answer that cannot be parsed is right only if its text
    equals the gold answer.
    """
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > LIMIT or not gold or not answer:
        return False
    currencies, others = ({found.lastgroup for found in _CURRENCY.finditer(text)} for text in (gold, answer))
    if currencies and others and not currencies & others:
        return False
    try:
        expected, given = normalize(gold), [normalize(meaning) for meaning in possible_meanings(answer)]
    except Malformed:
        return False
    return any(equivalent(expected, meaning) for meaning in given)


def equivalent(gold: str, answer: str, nesting: int = 0) -> bool:
    """Return whether two normalised texts have the same meaning. A text that cannot be parsed is equivalent only to
    itself.
    """
    try:
        return _equivalent(gold, answer, nesting)
    except Exception:  # also RecursionError and MemoryError, because the answer is untrusted
        logger.debug("an answer could not be judged", exc_info=True)
        return False


def _equivalent(gold: str, answer: str, nesting: int) -> bool:
    if compact(gold) == compact(answer):
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
        equivalent(gold, answer, nesting) for gold, answer in zip(golds, answers, strict=True)
    )


def _in_any_order(golds: list[str], answers: list[str], nesting: int) -> bool:
    """Return whether both lists have equivalent values, in any order.

    Each gold value is paired with the first equivalent answer that has no pair yet. No other search is needed, because
    equivalence is transitive.
    """
    if len(golds) != len(answers) or len(golds) > MAX_PARTS:
        return False
    remaining = list(answers)
    for gold in golds:
        match = next((answer for answer in remaining if equivalent(gold, answer, nesting)), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _words_of(text: str) -> str | None:
    r"""Return the letters and digits of a text of words, in lower case. Return None for a formula. A text is a text of
    words if all its words are in \text{…}, or if it has neither digits nor operators.
    """
    if "\\text{" in text:
        outside = re.sub(r"\\text\{[^{}]*\}", "", text)
        if re.search(r"[^\s(),.;:]", outside):
            return None
        text = _LETTERS.sub(lambda found: found[1] or "", text)
    elif not re.fullmatch(r"\(?[A-Za-z][A-Za-z\s\-',.]*\)?", text):
        return None
    return re.sub(r"[^a-z0-9:]", "", text.lower())


def _option(text: str) -> tuple[str, str] | None:
    """Split an answer to a multiple-choice question, such as `C. 12`, `(C) 12` or `C`, into its letter and its text.

    Returns None if the answer does not begin with the letter of an option, or if the letter of another option follows.
    """
    found = _OPTION.fullmatch(unwrap_text(text))
    return None if found is None or _OTHER.search(found[2] or "") else (found[1], found[2] or "")


def by_words(gold: str, answer: str, nesting: int) -> bool | None:
    """Compare words, or the letters of multiple-choice options. Return None if this comparison does not decide whether
    the answer is right.

    For example, `ab` and `ba` differ as words, but they are equal as products of letters.
    """
    expected, given = _words_of(gold), _words_of(answer)
    option, choice = _option(gold), _option(answer)
    if option and choice and (expected is None or len(expected) == 1):
        return option[0] == choice[0] and (option[1] == choice[1] or not (option[1] and choice[1]))
    for words, other in ((expected, answer), (given, gold)):
        if words in _SETS_IN_WORDS and equivalent(_SETS_IN_WORDS[words], other, nesting + 1):
            return True
    if expected is None:
        return None
    if expected == given:
        return True
    if re.fullmatch(r"[A-Z]{3,}", gold):
        return False
    several = len(split(unwrap_text(gold), ",;")) > 1
    if "\\text{" in gold and not (several and re.fullmatch(r"(?:[A-Z],)+[A-Z]", unwrap_text(gold).replace(" ", ""))):
        return re.sub(r"[\s().,;:'\"]|(?<=\w)-(?=\w)", "", unwrap_text(answer)).lower() == expected.replace(":", "")
    return None


def by_parts(gold: str, answer: str, nesting: int) -> bool | None:
    """Compare lists, tuples, matrices, sets, intervals and unions. Return None if both texts are single values, or if a
    text is a relation.

    In lists, sets and unions, the order of the parts does not matter.
    """
    if any("\\text{" in text and "," in text and _words_of(text) for text in (gold, answer)):
        gold, answer = unwrap_text(gold), unwrap_text(answer)
    expected, given = read_structure(gold), read_structure(answer)
    # If exactly one text is a list, a number such as 15,600 in the other text may be two values.
    if (expected.kind == "list") != (given.kind == "list"):
        expected, given = read_structure(gold, given.kind != "list"), read_structure(answer, expected.kind != "list")
    golds, answers, kinds = list(expected.items), list(given.items), {expected.kind, given.kind}
    if kinds <= {"value", "relation"}:
        return None if (golds, answers) == ([gold], [answer]) else equivalent(golds[0], answers[0], nesting)
    if "list" in kinds:
        if kinds <= {"list", "tuple", "set"}:
            return (_pairwise if expected.kind == "tuple" else _in_any_order)(golds, answers, nesting)
        union = _as_union(golds if expected.kind == "list" else answers)
        return union is not None and equivalent(
            *((union, answer) if expected.kind == "list" else (gold, union)), nesting
        )
    if "relation" in kinds:
        return None
    if "matrix" in kinds:
        if kinds == {"matrix", "tuple"}:  # a vector may be written as a tuple
            golds, answers = _entries(expected), _entries(given)
        return kinds <= {"matrix", "tuple"} and _pairwise(golds, answers, nesting)
    if expected.kind == "set" and (given.kind == "set" or (given.brackets == "[]" and len(answers) != 2)):
        return _in_any_order(_distinct(golds, nesting), _distinct(answers, nesting), nesting)
    if expected.kind != given.kind:
        return False
    if expected.kind == "union":
        return _in_any_order(golds, answers, nesting)
    return (expected.brackets == given.brackets or len(golds) != 2) and _pairwise(golds, answers, nesting)


def _entries(structure: Structure) -> list[str]:
    """Return the entries of a tuple, or of a matrix with one row. For other matrices, return the rows."""
    return list(read_structure(structure.items[0]).items if len(structure.items) == 1 else structure.items)


def _distinct(values: list[str], nesting: int) -> list[str]:
    """Return the first `MAX_PARTS` values of a list, without values that are equivalent to an earlier value."""
    distinct: list[str] = []
    for value in values[:MAX_PARTS]:
        if not any(equivalent(value, other, nesting) for other in distinct):
            distinct.append(value)
    return distinct


def _as_union(parts: list[str]) -> str | None:
    r"""Return inequalities such as `x<1, x>3` as a union of intervals. Return None for other parts."""
    relations = [read_relation(part) for part in parts]
    intervals = [as_interval(relation) for relation in relations if relation]
    return (
        "\\cup ".join(interval for interval in intervals if interval)
        if len(intervals) == len(parts) and all(intervals)
        else None
    )


def by_relations(gold: str, answer: str, nesting: int) -> bool | None:
    """Compare equations, inequalities, and named values such as `x=2`. Return None if neither text is a relation."""
    expected, given = read_relation(gold), read_relation(answer)
    if expected is None and given is None:
        return None
    if expected and given:
        return _same_relation(expected, given, nesting)
    relation = expected or given
    assert relation is not None
    if not relation.is_equation:
        interval = as_interval(relation)
        if interval is None:
            return False
        return equivalent(interval, answer, nesting) if expected else equivalent(gold, interval, nesting)
    values = _values(relation)
    if expected:
        return any(equivalent(value, answer, nesting) for value in values)
    return bool(values) and all(equivalent(gold, value, nesting) for value in _values_to_check(relation))


def _values(relation: Relation) -> list[str]:
    """Return the values in an equation: 2 for `x=2`, 0.5 and 50% for `0.5=50%`, none for `x+y=2`."""
    parts = list(relation.parts)
    if _NAME.fullmatch(parts[-1]) and not _NAME.fullmatch(parts[0]):
        parts.reverse()
    if _NAME.fullmatch(parts[0]):
        return parts[1:]
    return [] if any(_VARIABLE.search(part) for part in parts) else parts


def _values_to_check(relation: Relation) -> list[str]:
    """Return the values that must be right in the equation of an answer: the exact values.

    If all values are approximate, return only the last value.
    """
    values = _values(relation)
    approximate = {part for part, sign in zip(relation.parts[1:], relation.signs, strict=True) if sign == "\\approx"}
    return [value for value in values if value not in approximate] or values[-1:]


def _same_relation(expected: Relation, given: Relation, nesting: int) -> bool:
    if expected.is_equation != given.is_equation:
        return False
    if not expected.is_equation:
        if expected.signs == given.signs and _pairwise(list(expected.parts), list(given.parts), nesting):
            return True
    elif _values(expected) and _values(given):
        names = [parts[-1] if _NAME.fullmatch(parts[-1]) else parts[0] for parts in (expected.parts, given.parts)]
        both = all(_NAME.fullmatch(name) for name in names)
        if not both or equivalent(names[0], names[1], nesting):
            return all(
                any(equivalent(value, given_value, nesting) for value in _values(expected))
                for given_value in _values_to_check(given)
            )
    if len(expected.parts) != 2 or len(given.parts) != 2 or expected.signs != given.signs:
        return False
    (left, right), (low, high) = expected.parts, given.parts
    return same_relation((left, right), (low, high), not expected.is_equation)
