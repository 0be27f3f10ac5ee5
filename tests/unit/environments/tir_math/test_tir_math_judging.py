"""Verdicts on hand-written pairs, on golds like those of MATH and AIME, on altered golds, and on attacks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from arlarena.environments.tir_math.judge.equivalence import LIMIT, judge
from arlarena.environments.tir_math.judge.latex import normalize

VERDICTS = Path(__file__).resolve().parents[3] / "data" / "golden" / "tir_math" / "verdicts.tsv"
REPORTED = VERDICTS.with_name("pairs.jsonl")


def pairs():
    for line in VERDICTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sign, gold, answer = line.split("\t")
            yield gold, answer, {"=": True, "!=": False}[sign]


PAIRS = list(pairs())
# The kinds come from public issue reports on answer judges (Math-Verify, lm-evaluation-harness, NeMo Gym).
REPORTED_PAIRS = [json.loads(line) for line in REPORTED.read_text(encoding="utf-8").splitlines()]


def test_there_are_enough_pairs_of_both_kinds():
    right = sum(verdict for _, _, verdict in PAIRS)
    assert len(PAIRS) == len(set(PAIRS)) >= 200
    assert right >= 100
    assert len(PAIRS) - right >= 100


def test_verdicts():
    assert [pair for pair in PAIRS if judge(*pair[:2]) is not pair[2]] == []


def test_reported_pairs_are_distinct_and_enough():
    reported = {(pair["gold"], pair["answer"]) for pair in REPORTED_PAIRS}
    assert len(reported) == len(REPORTED_PAIRS)
    assert len(reported - {(gold, answer) for gold, answer, _ in PAIRS}) >= 200


def test_verdicts_on_pairs_from_issue_reports():
    assert [pair for pair in REPORTED_PAIRS if judge(pair["gold"], pair["answer"]) is not pair["right"]] == []


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("5", " 5\n", True),
        ("5", "", False),
        ("5", "5\x00", False),
        ("", "5", False),
        ("2^{2005}", str(2**2005), True),
        ("2^{2005}", str(2**2005 + 1), False),
        ("2^{4950}", str(2**4950), True),
        ("2^{4950}", str(2**4950 - 1), False),
    ],
)
def test_verdict_on_pairs_with_line_breaks(gold, answer, verdict):
    assert judge(gold, answer) is verdict


def made_golds():
    """Golds like those of MATH and AIME: numbers, fractions, roots, intervals, tuples, polynomials, matrices."""
    random = Random(0)
    brackets = [("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")]

    def some(count, make):
        return {make() for _ in range(count)}

    def number(low=-99, high=99):
        return random.choice([value for value in range(low, high) if value not in (0, 1)])

    def fraction():
        return f"{random.choice(['', '-'])}\\frac{{{random.randint(1, 99)}}}{{{random.randint(2, 60)}}}"

    def interval():
        (left, right), low = random.choice(brackets), number()
        return f"{left}{low},{low + random.randint(1, 40)}{right}"

    return sorted(
        {str(value) for value in range(1000)}
        | some(900, lambda: str(random.randint(-5000, 99999)))
        | some(1200, fraction)
        | some(400, lambda: f"{number(2, 60)}\\sqrt{{{random.choice((2, 3, 5, 6, 7, 10, 11, 13))}}}")
        | some(700, interval)
        | some(300, lambda: f"({number()},{number()})")
        | some(300, lambda: f"{number(2, 50)}x^2{number(2, 50):+d}x{number(2, 50):+d}")
        | some(200, lambda: f"\\frac{{{number(2, 9)}\\pi}}{{{random.randint(2, 12)}}}")
        | some(100, lambda: f"\\begin{{pmatrix}} {number()} \\\\ {number()} \\end{{pmatrix}}")
    )


@pytest.fixture(scope="module")
def golds():
    """Generated golds, golds of the hand-written pairs, and golds of the files in TIR_MATH_DATA, if it is set."""
    folder = os.environ.get("TIR_MATH_DATA")
    files = sorted(Path(folder).glob("*.jsonl")) if folder else []
    read = [str(json.loads(line)["answer"]) for file in files for line in file.read_text().splitlines()]
    written = {gold for gold, _, verdict in PAIRS if verdict and judge(gold, gold)}
    return [*made_golds(), *sorted(written), *read]


def test_every_gold_equals_itself(golds):
    assert len(golds) > 4000
    assert [gold for gold in golds if not judge(gold, gold)] == []


DRESSED = {
    "boxed": lambda gold: f"\\boxed{{{gold}}}",
    "in dollars": lambda gold: f"${gold}$.",
    "large fractions": lambda gold: gold.replace("\\frac", "\\dfrac"),
    "plain brackets": lambda gold: gold.replace("\\left", "").replace("\\right", ""),
}


@pytest.mark.parametrize("dress", DRESSED.values(), ids=DRESSED)
def test_every_gold_equals_its_decorated_forms(golds, dress):
    assert [gold for gold in sorted(set(golds)) if gold and not judge(gold, dress(gold))] == []


FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")


def test_every_fraction_equals_its_decimal_and_its_unreduced_form(golds):
    fractions = [(gold, found) for gold in sorted(set(golds)) if (found := FRACTION.fullmatch(gold))]
    assert len(fractions) > 500
    for gold, (sign, top, bottom) in ((gold, found.groups()) for gold, found in fractions):
        assert judge(gold, f"{sign}{int(top) / int(bottom)!r}"), gold
        assert judge(gold, f"{sign}{3 * int(top)}/{3 * int(bottom)}"), gold


def changed_digit(gold):
    """The gold with its last digit changed."""
    found = re.match(r"(.*)(\d)(\D*)", gold, re.DOTALL)
    return found and f"{found[1]}{(int(found[2]) + 1) % 10}{found[3]}"


def one_more(gold):
    return f"{gold}+1"


def other_sign(gold):
    return gold[1:] if gold.startswith("-") else f"-{gold}"


def other_bracket(gold):
    found = re.fullmatch(r"(.*)([\[(])([^\[\]()]*,[^\[\]()]*)([\])].*)", gold)
    return found and f"{found[1]}{'(' if found[2] == '[' else '['}{found[3]}{found[4]}"


def other_order(gold):
    found = re.fullmatch(r"\(\s*([^,()]+),\s*([^,()]+?)\s*\)", gold)
    return found and found[1].strip() != found[2] and f"({found[2]},{found[1]})"


# Changes that stay right: "-0" is 0, also in a vector, and an approximation next to the exact value may be wrong.
SAME = re.compile(r"0(,.*)?|\\begin\{pmatrix\}[0\s\\]*\\end\{pmatrix\}|.*approx.*", re.DOTALL)


@pytest.mark.parametrize(
    ("change", "least"),
    [(changed_digit, 1000), (one_more, 1000), (other_sign, 1000), (other_bracket, 100), (other_order, 30)],
)
# Slow if every third is judged, at some milliseconds each.
@pytest.mark.parametrize("every", [24, pytest.param(3, marks=pytest.mark.slow)])
def test_no_altered_gold_is_right(golds, every, change, least):
    some = sorted(set(golds))[1::every]
    changed = [(gold, change(gold)) for gold in some if not SAME.fullmatch(gold)]
    changed = [(gold, answer) for gold, answer in changed if answer]
    assert len(changed) >= least * 3 // every
    assert [(gold, answer) for gold, answer in changed if judge(gold, answer)] == []


def test_a_too_long_answer_is_wrong_unless_it_is_the_gold():
    long = "1" * (LIMIT + 1)
    assert judge(long, long)
    assert not judge("5", long)
    assert not judge(long, "5")


def test_normalize_is_idempotent(golds):
    for gold in sorted(set(golds)):
        assert normalize(normalize(gold)) == normalize(gold)


# A child process without sandbox judges pairs and reports compiled code, written files and times.
CHILD = """
import json, resource, sys, time
from arlarena.environments.tir_math.judge.equivalence import judge
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
judge("\\\\sqrt{2}", "x+1")
compiled = []
def watch(event, arguments):
    if event == "compile" and arguments[0] is not None:
        compiled.append(str(arguments[0]))
sys.addaudithook(watch)
verdicts, slowest = [], 0.0
for gold, answer in json.load(sys.stdin):
    start = time.monotonic()
    verdicts.append(judge(gold, answer))
    slowest = max(slowest, time.monotonic() - start)
print(json.dumps({"verdicts": verdicts, "slowest": slowest, "compiled": compiled}))
"""


def judged_in_a_child(questions, folder, timeout=100):
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


GOLDS = ("5", r"\frac{\sqrt{3}}{4}", "x^2+1", "(1,2)", "1,2", "[0,1)", "x=5", r"\text{Monday}", "2x+z-5=0", "f(4-x)")


def attack():
    """Python code for open("attacked", "w") without capitals, parentheses and quotes, as in a symbol's name."""
    letters = "+".join(f"open.__doc__[{open.__doc__.index(letter)}]" for letter in "open('attacked','w')")
    return f"[[0for[quit.__class__.__class_getitem__]in[[exec]]],quit.__class__[{letters}]]"


def test_math_verify_without_the_guard_executes_answers(tmp_path):
    """The reason for the guard. If this fails, the libraries are fixed and the guard may be simplified."""
    program = (
        "import sys\nfrom math_verify import parse, verify\n"
        "answer = sys.stdin.read()\n"
        "verify(parse('$\\\\frac{\\\\sqrt{3}}{4}$', parsing_timeout=None), parse(answer, parsing_timeout=None), "
        "timeout_seconds=None)\n"
    )
    answer = f"$\\sum_{{n=0}}^{{\\infty}} \\frac{{\\text{{{attack()}}}^{{n}}}}{{n!}}+1$"
    subprocess.run(
        [sys.executable, "-c", program],
        input=answer,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "attacked").exists()


def test_no_answer_is_executed(tmp_path):
    payload = attack()
    answers = [
        f"\\sum_{{n=0}}^{{\\infty}} \\frac{{\\text{{{payload}}}^{{n}}}}{{n!}}+1",
        *(form.replace("PAYLOAD", payload) for form in (
            r"\text{PAYLOAD}", r"\text{PAYLOAD}+1", r"f(\text{PAYLOAD})", r"x_{\text{PAYLOAD}}", r"\bm{PAYLOAD}+1",
            r"{PAYLOAD}", r"\begin{pmatrix}\text{PAYLOAD}\\1\end{pmatrix}", r"\max(\text{PAYLOAD},2)", r"x=PAYLOAD",
            r"\int_0^1 \text{PAYLOAD} dx", r"\prod_{n=1}^{3}\text{PAYLOAD}", r"\lim_{x \to 0} \text{PAYLOAD}",
            r"(\text{PAYLOAD},2)", r"\{PAYLOAD\}", r"[PAYLOAD)", r"\mathrm{PAYLOAD}^{2}+1", "Matrix([[PAYLOAD]])",
        )),
        "__import__('os').system('touch attacked')",
        "open('attacked','w')",
        "exec(\"open('attacked','w')\")",
        r"\text{__import__('os').system('touch attacked')}",
        "(1).__class__.__base__.__subclasses__()",
        r"\operatorname{exit}(1)",
        r"\variable{os}",
        "lambda:0",
        "1 if print(1) else 2",
        "import os\nos.system('touch attacked')",
        "$(touch attacked)",
        r"\write18{touch attacked}",
    ]  # fmt: skip
    reported = judged_in_a_child([[gold, answer] for answer in answers for gold in GOLDS], tmp_path)
    assert not any(reported["verdicts"])
    assert list(tmp_path.iterdir()) == []
    # sympy reads numbers by Python's eval, which must get nothing but digits.
    other = [
        source
        for source in reported["compiled"]
        if not re.fullmatch(r"b'(from sympy import \*|Integer \(\d+ \))'", source)
    ]
    assert [source for source in other if "class" in source or "attacked" in source or "__" in source] == []


BOMBS = (
    "9^{9^{9^9}}", "9**9**9**9", "10^{10^{10}}", "(((9^9)^9)^9)^{9^9}", "99999!", "(10^9)!", "((10!)!)!", "10!!!!!!",
    "1e999999999", "2E999999999", "2^{-10^{10}}", "e^{10^{10^{10}}}", "e^{e^{e^{e^{10}}}}", r"\sin(10^{10^{10}})",
    r"\binom{10^9}{5\cdot 10^8}", r"\binom{999999999}{400000000}", r"\sqrt[10^{10}]{2}", "(x+y+z+w+a+b+c)^{1000}",
    "x^{x^{x^{x^{x^x}}}}", r"\frac{1}{" * 30 + "2" + "}" * 30, "(" * 500 + ")" * 500, "(" * 200 + "x" + ")" * 200,
    "{" * 400, r"\frac" * 150, r"\sqrt{" * 50 + "2" + "}" * 50, "1+" * 190 + "1", "1," * 300 + "1",
    "(1," * 80 + "1" + ")" * 80, "|x|" * 90, "|" * 300, r"\pm " * 200 + "1", r"\pm 1\pm 1\pm 1," * 20,
    r"\cup".join(["(1,2)"] * 90), "=" * 300, "a_" * 200, "9" * 1999, "1/" * 300 + "1", r"\sin " * 150 + "x",
    r"\sin(" * 12 + "x" + ")" * 12, "f(x)" * 60, r"\log answer" * 9, "2!04.0" * 9, r"\text{a}" * 80, "or " * 200,
    r"\{1," * 50 + "1" + r"\}" * 50, "sqrt(" * 80 + "2" + ")" * 80, "5\n" * 100, "\U0001f600" * 300, "\ud800",
    "\N{SQUARE ROOT}" * 1990 + "2", "\N{CUBE ROOT}(" * 900, "\N{SUPERSCRIPT TWO}" * 1990,
    "\N{VULGAR FRACTION ONE HALF}" * 500,
    "5\u0305" * 900, "\ufdfa" * 1990, "x\N{SUPERSCRIPT NINE}" * 900, "9\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT NINE}" * 300,
)  # fmt: skip
MEGABYTES = (
    "9" * 10**6,
    "{" * 10**6,
    "A" * 10**6,
    "1," * 500_000,
    "\\boxed{" * 150_000,
    "\\boxed{" * 70_000 + "5" + "}" * 70_000,
)


# Slow if each expensive answer is compared with both golds, because it takes five seconds more.
@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_expensive_answers_are_wrong_within_limits(tmp_path, both):
    golds = (GOLDS[1], r"\frac{1}{2004!}")
    questions = [
        [gold, answer] for i, answer in enumerate(BOMBS) for j, gold in enumerate(golds) if both or (i + j) % 2 == 0
    ]
    reported = judged_in_a_child([*questions, *(["5", answer] for answer in MEGABYTES)], tmp_path)
    assert not any(reported["verdicts"])
    assert reported["slowest"] < 20  # a second or two on an idle machine


@pytest.mark.parametrize(
    "answer", [r"\frac{1}", r"\frac{", "}{", "((", r"\begin{pmatrix} 1", "\\", "^", "_", "\\\\\\", "%"]
)
def test_malformed_answers_are_wrong_and_raise_nothing(answer):
    assert [gold for gold in GOLDS if judge(gold, answer) is not False] == []
