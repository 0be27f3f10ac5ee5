r"""Converts Unicode characters of mathematics to LaTeX.

    to_latex("3√10 · x₁⁻²")       # "3\sqrt{10} * x_{1}^{-2}"

Unicode's own decompositions (NFKC) lose the meaning: `10²` becomes 102, and `2½` becomes 21/2. So this module has its
own rule for each kind of decomposition. This module also finds the operand of a root sign: in `√12`, the operand is 12,
not 1.
"""

# ruff: noqa: RUF001 - look-alike characters are intended.

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

_SIGNS = {
    "‐‑‒–—―−﹣－➖": "-", "＋➕": "+", "×·⋅∗∙•⨯✕✖⨉": "*", "÷⁄∕⧸⟋": "/", "∶": ":", "∼": "~", "∨": ",",
    "≤≦⩽": r"\le ", "≥≧⩾": r"\ge ", "≠": r"\ne ", "≈≃≅": r"\approx ", "≡": r"\equiv ", "±": r"\pm ", "∓": r"\mp ",
    "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∅⌀": r"\emptyset ", "∈": r"\in ", "∖": r"\setminus ",
    "ℝ": r"\mathbb{R}", "∠∡": r"\angle ", "△▵∆": r"\triangle ", "⟨〈〈": "(", "⟩〉〉": ")", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|", "º˚∘": "°", "′’‘ʹ": "'", "“”\"": "", "⊥": r"\perp ",
    "∥": r"\parallel ", "→": r"\to ", "\u2062": "*", "\u2064": "+", "⋯": "...", "¢": r"\text{ cents}", "€£¥₹₩": "$",
}  # fmt: skip
_TRANSLATION = str.maketrans({sign: latex for signs, latex in _SIGNS.items() for sign in signs})
_SCRIPTS = {"<super>": "^", "<sub>": "_"}
_SPELLED_OUT = {"<font>", "<wide>", "<narrow>", "<noBreak>", "<compat>", "<circle>", "<square>", "<small>"}
_STACKED = re.compile(r"\^\{(\d+)\}/_\{(\d+)\}")  # a fraction: superscripts, a slash, subscripts
# The operand of a root sign: parentheses, braces, a number with decimals, a letter, or a command.
_OPERAND = (
    r"\s*((?=\()|\{[^{}]*\}|\d+(?:,\d{3})*(?:\.\d+)?|\\[A-Za-z]+(?:\[\d\])?(?:\{[^{}]*\})*(?![A-Za-z{])|[A-Za-z])"
)
_ROOT = re.compile(r"(?:\^\{(\d)\})?([√∛∜])" + _OPERAND)
_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}


def to_latex(text: str) -> str:
    """Replace mathematical characters by LaTeX. Remove quotation marks, format characters and combining marks."""
    if text.isascii():
        return text.replace('"', "")
    text = re.sub(r"(?:\d\u0305)+", lambda found: f"\\overline{{{found[0][::2]}}}", text).translate(_TRANSLATION)
    converted = [_converted(character) for character in text]
    runs = ((mark, "".join(body for _, body in run)) for mark, run in groupby(converted, key=lambda part: part[0]))
    text = _STACKED.sub(r"\\frac{\1}{\2}", "".join(f"{mark}{{{body}}}" if mark else body for mark, body in runs))
    text = re.sub(r"(?<=[√∛∜])\s*\\overline(?=\{)", "", text)
    before = ""
    while before != text:  # replace the innermost of nested roots first
        before, text = text, _ROOT.sub(_rooted, text)
    return text


def _rooted(found: re.Match[str]) -> str:
    index, sign, operand = found[1], found[2], found[3]
    if operand:  # if not, parentheses follow, and `latex.normalize` replaces them by braces
        operand = f"{{{operand.strip('{}') if operand[0] == '{' else operand}}}"
    if index and sign == "√" and not found.string[: found.start()].rstrip()[-1:].isalnum():  # ³√8, not x²√3
        return f"\\sqrt[{index}]{operand}"
    return (f"^{{{index}}}" if index else "") + f"\\sqrt{_INDEX[sign]}{operand}"


def _converted(character: str) -> tuple[str, str]:
    """Return a pair (kind, LaTeX) for a character. The kind is `^` for a superscript, `_` for a subscript, else ""."""
    if character.isascii():
        return "", character
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    body = "".join(chr(int(code, 16)) for code in codes)
    if kind in _SCRIPTS:
        return _SCRIPTS[kind], "".join(_converted(part)[1] for part in body.translate(_TRANSLATION))
    if kind == "<fraction>":
        top, _, bottom = body.partition("\N{FRACTION SLASH}")
        return "", f"\\frac{{{top}}}{{{bottom or '1'}}}"
    if kind in _SPELLED_OUT and not any(map(unicodedata.combining, body)):
        return "", to_latex(body)
    name = unicodedata.name(character, "").split()
    if name[:1] == ["GREEK"] and name[2:3] == ["LETTER"] and len(name) == 4:
        return "", f"\\{name[3].lower() if name[1] == 'SMALL' else name[3].capitalize()} "
    return "", "" if unicodedata.category(character) in ("Cf", "Mn") and character != "\u0338" else character
