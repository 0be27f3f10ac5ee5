r"""Normalises LaTeX, plain text and Python, so that texts with equal meanings become equal if possible.

    normalize(r"$\left(\dfrac12, \; 3\right)$")    # "(\frac{1}{2},3)"
    normalize("sqrt(2)/2 + x**2")                  # "\sqrt{2}/2+x^{2}"

In the result, a product is written `*`, degrees `°`, percent `%`, and words `\text{…}`. Spaces that have no meaning are
removed. Texts are short (see `equivalence.LIMIT`), so quadratic time is acceptable.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from arlarena.environments.tir_math.episode.replies import boxed
from arlarena.environments.tir_math.judge.characters import to_latex
from arlarena.environments.tir_math.judge.parser_guard import FUNCTIONS

_FUNCTIONS = "|".join(sorted(FUNCTIONS))
_GREEK = "alpha|beta|theta|phi|omega|lambda|pi|infty"
# Replacements of commands, by the complete name of the command.
_COMMANDS = {
    name: replacement
    for names, replacement in {
        "left right displaystyle textstyle scriptstyle limits nolimits mathop": "",
        "quad qquad enspace thinspace medspace thickspace": " ",
        "dfrac tfrac cfrac": r"\frac", "dbinom tbinom": r"\binom", "leqslant leq": r"\le ", "geqslant geq": r"\ge ",
        "neq": r"\ne ", "lt": "<", "gt": ">", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]",
        "lvert rvert vert mid": "|", "langle": "(", "rangle": ")", "times cdot ast": "*", "div": "/", "lor vee": " , ",
        "colon": ":", "varnothing": r"\emptyset ", "dots ldots cdots vdots": "...", "R": r"\mathbb{R}", "degree": "°",
    }.items()
    for name in names.split()
}  # fmt: skip
_FONTS = "(?:text|math)(?:normal|bf|it|rm|sf|tt)|[mh]box|boldsymbol|operatorname|bm|rm|bf"

# Digits in groups of three, before or after the point.
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d| ?/|,\d{3}(?!\d))|\.\d{3}(?: \d{3})*(?: \d{1,3})(?![\d/])")
_GAP = "\ue000"  # a private-use character that marks a space to keep

# Pairs (pattern, replacement), applied in order. `(?![A-Za-z])` requires that a command's name ends here. `(?<!\\)`
# skips `\\`, the end of a matrix row.
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:(?:left|right)\s*\.|[bB]igg?[lrm]?(?![A-Za-z]))", ""),
        (r"\\([A-Za-z]+)", lambda found: _COMMANDS.get(found[1], found[0])),
        (r"\\phantom\s*(?:\{[^{}]*\}|-|\S)", ""),
        (r"(?<=\d)(?:\s*\{\s*,\s*\}\s*|,\\!\s*|')(?=\d{3}(?!\d))|(?<!\\)\\!\s*", ""),
        (r"(?<![\w.,}])(\d{1,3}(?:\\?_\d{3})+)(?![\w,])", lambda found: re.sub(r"\\?_", "", found[1])),
        (r"\{\\[,;: ]\}", " "),
        (r"(?<!\\)\\[,;: ]|~|\\hspace\{[^{}]*\}", " "),
        (rf"\\(?:{_FONTS})\*?\s*\{{", r"\\text{"),
        (r"\\text\s+\{|\{\\(?:rm|bf|it|sf|tt)\s+(?=[^{}]*\})", r"\\text{"),
        (rf"\\text\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
        (r"\\text\{\s*([-+]?[\d.,]+|[-+A-Za-z])\s*\}", r"\1"),
        (r"\{:\}", ":"),
        (r"\\text\{\s*to\s*\}|(?<=\d) to (?=\d)", ":"),
        (r"\\text\{\s*,?\s*(?:and|or)\s*\}", " , "),
        (r"\\text\{\s*,?\s*(?:and|or)\s+", r" , \\text{"),
        (r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", " , "),
        (r"\\%|\\text\{\s*(?:percent|percentage|pct)\s*\}|(?<![A-Za-z])(?:percent|percentage|pct)(?![A-Za-z])", "%"),
        (r"(?:US)?\\?\$|\\text\{\s*(?:USD|dollars?)\s*\}|(?<![A-Za-z])USD(?![A-Za-z])", " "),
        (r"\^\s*\{\s*(?:\\?circ|°)\s*\}|\^\s*(?:\\circ(?![A-Za-z])|°)", "°"),
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\not\s*=|!=", r"\\ne "),
        (r"\*\*", "^"),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"\\mathbb\s*\{?\s*R\s*\}?(?![A-Za-z])", r"\\mathbb{R}"),
        (r"(?<![\\A-Za-z])(?:oo|inf|infinity)(?![A-Za-z])", r"\\infty "),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS}|{_GREEK}|sqrt)(?![A-Za-z])", r"\\\1 "),
        (r"(?<![\\A-Za-z])a(sin|cos|tan)(?![A-Za-z])", r"\\arc\1 "),
        (r"(?<![A-Za-z])np\.(?:float|int)\d+\(([^()]*)\)", r"\1"),
        (r"(?<=\d)j(?![A-Za-z])", "i"),
        (r"(?<![A-Za-z])(?:Fraction|Rational)\(\s*(-?\d+)\s*,\s*(\d+)\s*\)", r"\\frac{\1}{\2}"),
        (r"(?<![A-Za-z])(?:Immutable)?(?:Dense)?Matrix\(\s*(\[\[.*\]\])\s*\)", r"\1"),
    )
)
# `\log` without a base is the decimal logarithm in LaTeX. `log` is the natural logarithm in Python.
_PLAIN_LOG = re.compile(r"(?<![\\A-Za-z])log(?=\s*\()")
_INDIAN = re.compile(r"[^\d([{]*\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?\D*")


class Malformed(ValueError):
    """The text is not valid LaTeX."""


def possible_meanings(text: str) -> tuple[str, ...]:
    """Return the possible meanings of a text.

    There are two meanings if `log(` may be Python's natural logarithm, or if digits may be grouped as in India
    (1,00,000).
    """
    other = text.replace(",", "") if _INDIAN.fullmatch(text) else _PLAIN_LOG.sub("ln", text)
    return (text,) if other == text else (other, text)


def normalize(text: str) -> str:
    """Return a text in the normal form that the module's docstring describes.

    Raises:
        Malformed: the braces in the text do not match.
    """
    text = to_latex(_bare(text))
    if not _braces_match(text):
        raise Malformed(text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _round_to_braces(_round_to_braces(text, r"\\sqrt(?:\[\d\])?"), r"\^")
    text = _scripts(_arguments(_arguments(text, "\\frac", 2), "\\sqrt", 1))
    text = re.sub(r"^\s*(?:\\approx|[=~:])\s*", "", text)
    text = re.sub(r"(?<!\.)\.$|[\s,;:]+$", "", re.sub(r"(?<=\.\d{6})(\d*)\.\.\.$", r"\1", text))
    if text.strip()[:1] == "{" and closing(text.strip(), 0) == len(text.strip()) - 1:  # a set in Python
        text = f"\\{{{text.strip()[1:-1]}\\}}"
    text = _GROUPED.sub(lambda found: found[0].replace(" ", ""), text)
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?!\d))", ";", text)  # "15, 600" is two numbers, "15,600" is one
    return re.sub(r"([,;])(?:\s*,)+", r"\1", _without_spaces(text))


def _bare(text: str) -> str:
    """Remove boxes, dollar signs, emphasis and a full stop around the text."""
    if "\\boxed" in text or "\\fbox" in text:
        text = boxed(text) or text
    before = ""
    while before != text:
        before = text
        text = re.sub(r"(?<!\.)\.$", "", text.strip()).strip("`").strip()
        for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
            if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
                text = text[len(left) : -len(right)]
    return text


def _braces_match(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def closing(text: str, start: int) -> int:
    """Return the position of the bracket that closes the bracket at `start`, or -1 if that bracket is not closed.

    >>> closing("(0,1]+2", 0)
    4
    """
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    return -1


def _round_to_braces(text: str, command: str) -> str:
    r"""Replace parentheses after a command by braces: `\sqrt(2)` becomes `\sqrt{2}`, `2^(1/3)` becomes `2^{1/3}`."""
    for found in reversed(list(re.finditer(rf"({command})\s*\(", text))):
        end = closing(text, found.end() - 1)
        if end > 0 and text[end] == ")":
            text = f"{text[: found.start()]}{found[1]}{{{text[found.end() : end]}}}{text[end + 1 :]}"
    return text


def _arguments(text: str, command: str, count: int) -> str:
    r"""Put braces around the arguments of a command: `\frac12` becomes `\frac{1}{2}`, `\sqrt3` becomes `\sqrt{3}`."""
    for found in reversed(list(re.finditer(re.escape(command) + r"(?![A-Za-z])", text))):
        position, made = found.end(), command
        if command == "\\sqrt" and (root := re.match(r"\s*\[[^\[\]]*\]", text[position:])):
            made, position = made + root[0].strip(), position + root.end()
        for _ in range(count):
            argument, position = _argument(text, position, r"\d+(?:\.\d+)?|" if command == "\\sqrt" else "")
            made += f"{{{argument}}}"
        text = text[: found.start()] + made + text[position:]
    return text


def _argument(text: str, position: int, number: str) -> tuple[str, int]:
    r"""Return the argument of a command at `position`, and the position after the argument. A missing argument is "".

    `number`: a pattern for arguments of several digits without braces, or "". In TeX, an argument without braces is one
    digit, but models write \sqrt12 for the root of 12.
    """
    while position < len(text) and text[position].isspace():
        position += 1
    if text[position : position + 1] == "{":
        end = closing(text, position)
        return (text[position + 1 : end], end + 1) if end > 0 else (text[position + 1 :], len(text))
    token = re.match(number + r"\\[A-Za-z]+(?:\{[^{}]*\})*|.", text[position:])
    return (token[0], position + token.end()) if token else ("", position)


_SCRIPT = re.compile(r"([\^_])\s*([-+]?\d+(?:\.\d+)?|\\frac\{[^{}]*\}\{[^{}]*\}|-?\\?[A-Za-z]+(?:\{[^{}]*\})?)")


def _scripts(text: str) -> str:
    """Put braces around exponents and indices: `x^10` becomes `x^{10}`. As in TeX, only the first of several letters is
    the exponent.
    """

    def braced(found: re.Match[str]) -> str:
        sign, body = found[1], found[2]
        if body.lstrip("-")[0].isalpha():
            end = body.find(body.lstrip("-")[0]) + 1
            return f"{sign}{{{body[:end]}}}{body[end:]}"
        return f"{sign}{{{body}}}"

    return _SCRIPT.sub(braced, text)


def _without_spaces(text: str) -> str:
    r"""Remove spaces, except inside \text{…}, between letters, between digits, and between a digit and a word."""
    parts = re.split(r"(\\text\{[^{}]*\})", text)
    for number in range(0, len(parts), 2):
        part = re.sub(r"(?<=\d)\s+(?=\d)|(?<=[a-zA-Z])\s+(?=[a-zA-Z])|(?<=\d)\s+(?=[a-zA-Z]{2})", _GAP, parts[number])
        parts[number] = re.sub(r"\s+", "", part).replace(_GAP, " ")
    return "".join(parts)


def compact(text: str) -> str:
    """Remove the spaces from a normalised text, except spaces between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def unwrap_text(text: str) -> str:
    r"""Return the text with each \text{…} replaced by its content."""
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
