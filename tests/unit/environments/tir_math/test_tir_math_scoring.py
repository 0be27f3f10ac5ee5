"""Answers in the forms that generated problems require."""

from fractions import Fraction
from typing import get_args

import pytest

from arlarena.environments.tir_math.judge.arithmetic import NoArithmetic, evaluate
from arlarena.environments.tir_math.judge.equivalence import LIMIT
from arlarena.environments.tir_math.judge.scoring import Form, verdict

TIMES, DOT = "\u00d7", "\u00b7"
VERDICTS = [
    # numbers: computed, not repeated
    ("number", "1024", "1024", True),
    ("number", "1024", "1,024", True),
    ("number", "1024", "1024.0", True),
    ("number", "1024", "$1024$", True),
    ("number", "1024", "x = 1024", True),
    ("number", "1024", "1_024", True),
    ("number", "1024", "1024 million", False),
    ("number", "1024", "2^{10}", False),
    ("number", "1024", "32 * 32", False),
    ("number", "1024", "1023+1", False),
    ("number", "1024", "1023", False),
    ("number", "1024", "1024, 1025", False),
    ("number", "-7", "-7", True),
    ("number", "-7", "7", False),
    ("number", "21/40", r"\frac{21}{40}", True),
    ("number", "21/40", "0.525", True),
    ("number", "21/40", "21/41", False),
    ("number", "23.348", "23.348", True),
    ("number", "23.348", "23.348000000000003", True),
    ("number", "23.348", "23.35", False),
    # digits
    ("digits", "ff", "ff", True),
    ("digits", "ff", "FF", True),
    ("digits", "ff", "0xff", True),
    ("digits", "ff", "ff_{16}", True),
    ("digits", "ff", r"\text{ff}_{16}", True),
    ("digits", "ff", r"$\mathrm{ff}$", True),
    ("digits", "ff", "00ff", True),
    ("digits", "ff", "fe", False),
    ("digits", "ff", "255", False),
    ("digits", "1e5", "1e5", True),
    ("digits", "1e5", "100000", False),
    ("digits", "pi", "pi", True),
    ("digits", "-0x3", "-3", True),
    ("digits", "-0x3", "0x3", False),
    ("digits", "0", "0", True),
    ("digits", "0x0", "0", True),
    ("digits", "101", "0b101", True),
    # factors
    ("factors", f"2 {TIMES} 2 {TIMES} 3", f"2 {TIMES} 2 {TIMES} 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", f"3{TIMES}2{TIMES}2", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", r"2 \times 2 \times 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", r"2^2 \cdot 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", "2^{2} * 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", "2 x 2 x 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", r"12 = 2 \times 2 \times 3", True),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", "12", False),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", r"4 \times 3", False),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", r"2 \times 3", False),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", "2, 2, 3", False),
    ("factors", f"2 {TIMES} 2 {TIMES} 3", "2^{999999999} * 3", False),
    ("factors", "7", "7", True),
    # roots
    ("roots", "-0.7192, 0.0, 0.7192", "-0.7192, 0.0, 0.7192", True),
    ("roots", "-0.7192, 0.0, 0.7192", "0.7192, 0, -0.7192", True),
    ("roots", "-0.7192, 0.0, 0.7192", "[-0.7192, 0, 0.7193]", True),
    ("roots", "-0.7192, 0.0, 0.7192", "x = -0.7192, 0, 0.7192", True),
    ("roots", "-0.7192, 0.0, 0.7192", "-0.7192, 0, 0.7195", False),
    ("roots", "-0.7192, 0.0, 0.7192", "-0.7192, 0.7192", False),
    ("roots", "-0.7192, 0.0, 0.7192", "0, 0, 0.7192", False),
    ("roots", "-16.75", "-16.75", True),
    ("roots", "-16.75", r"u = -\frac{67}{4}", True),
    ("roots", "-16.75", "16.75", False),
    ("roots", "-16.75", "-16.75, 3", False),
    # geometry
    ("point", "(-4.000, -16.818)", "(-4, -16.818)", True),
    ("point", "(-4.000, -16.818)", r"\left(-4, -\frac{185}{11}\right)", True),
    ("point", "(-4.000, -16.818)", "H = (-4, -16.818)", True),
    ("point", "(-4.000, -16.818)", "(-16.818, -4)", False),
    ("point", "(-4.000, -16.818)", "(-4, -16.82)", False),
    ("point", "(-4.000, -16.818)", "-4", False),
    ("radius", "0.245", "0.245", True),
    ("radius", "0.245", "0.24462397500855543", True),
    ("radius", "0.245", "r = 0.245", True),
    ("radius", "0.245", "0.25", False),
    ("angle", "45.00°", "45°", True),
    ("angle", "45.00°", r"45^\circ", True),
    ("angle", "12.35°", "12.345", True),
    ("angle", "12.35°", "12.3", False),
    # countdown
    ("expression", "47*(49 - 20 - 11) - 25", "47*(49 - 20 - 11) - 25", True),
    ("expression", "47*(49 - 20 - 11) - 25", "(49-20-11)*47-25", True),
    ("expression", "47*(49 - 20 - 11) - 25", r"47 \times (49 - 20 - 11) - 25", True),
    ("expression", "47*(49 - 20 - 11) - 25", r"$47 \cdot \left(49-20-11\right)-25$", True),
    ("expression", "47*(49 - 20 - 11) - 25", "821", False),
    ("expression", "47*(49 - 20 - 11) - 25", "47*18 - 25", False),
    ("expression", "47*(49 - 20 - 11) - 25", "47*(49 - 20 - 11) - 25 + 0", False),
    ("expression", "47*(49 - 20 - 11) - 25", "47*(49 - 20 - 11) - 25 = 821", False),
    ("expression", "47*(49 - 20 - 11) - 25", "47*(49 + 20 - 11) - 25", False),
    ("expression", "60 / 4 * 7", r"\frac{60}{4} \cdot 7", True),
    ("expression", "60 / 4 * 7", "60 // 4 * 7", False),
    ("expression", "60 / 4 * 7", "60 / 0 * 7", False),
]


def test_verdicts():
    assert [case for case in VERDICTS if verdict(*case[:3]) is not case[3]] == []


def test_every_form_has_a_case():
    assert {form for form, *_ in VERDICTS} | {"math"} == set(get_args(Form))


OUTSIDE = [
    "",
    " ",
    "__import__('os').system('touch attacked')",
    "(1).__class__",
    "9**9**9**9",
    "9" * LIMIT,
    "9" * (LIMIT + 1),
    "(" * 1000,
    "1+" * 900,
    "-" * 1900 + "5",
    "\x00",
    "\ud800",
    "{" * 100,
    "×" * 500,  # noqa: RUF001
    "1e999999999",
    "٣",
]


@pytest.mark.parametrize("form", get_args(Form))
def test_answers_outside_every_form_are_wrong_and_raise_nothing(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gold = {"expression": "3 + 4", "point": "(1.000, 2.000)", "factors": "7", "digits": "ff"}.get(form, "7")
    assert [answer[:50] for answer in OUTSIDE if verdict(form, gold, answer) is not False] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("3 + 4 * 2", 11, [3, 4, 2]),
        ("(3 + 4) * 2", 14, [3, 4, 2]),
        ("8 / 3 * 3", 8, [8, 3, 3]),
        ("-3 + 10", 7, [3, 10]),
        ("2 - 3 - 4", -5, [2, 3, 4]),
        ("1 / 3", Fraction(1, 3), [1, 3]),
        ("2 * -3", -6, [2, 3]),
        ("((5))", 5, [5]),
    ],
)
def test_evaluate_gives_the_value_and_the_numbers(text, value, numbers):
    assert evaluate(text) == (value, numbers)


@pytest.mark.parametrize(
    "text",
    ["", "3 +", "* 3", "3 4", "(3", "3)", "()", "3 ** 4", "3 // 4", "3.5", "x", "1 / 0", "3 = 3", "9" * 13, "1+" * 200],
)
def test_text_that_is_not_arithmetic_is_refused(text):
    with pytest.raises(NoArithmetic):
        evaluate(text)
