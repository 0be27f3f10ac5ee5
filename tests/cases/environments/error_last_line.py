"""The error that a policy is shown names its type, whatever stands on the last line of standard error.

The state key of an error depends on its kind alone. Report of the kind: sympy/sympy#24418.
"""

import tempfile
from pathlib import Path

from cases.case_support import check, environment, finish, problems, session, step

SOLVE = "from sympy import *\nx = symbols('x')\nprint(solve(cos(x) - {} * x, x))"
ERRORS = (
    ("a note", "e = ValueError('bad')\ne.add_note('look here')\nraise e", "ValueError"),
    ("a group", "raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])", "ExceptionGroup"),
    ("a warning behind it", "import asyncio\nasync def main(): return 42\nprint(asyncio.run(main()))", "Error"),
    ("one line", "1 / 0", "ZeroDivisionError"),
)


def told(at, code):
    """(text shown, state key) after the program."""
    body = step(at, session(at, split="t", index=0), f"```python\n{code}\n```")[1]
    return body["observation"]["text"].removeprefix("Code execution result: "), body["metadata"]["state_key"]


with (
    tempfile.TemporaryDirectory() as folder,
    environment("tir_math", problems(Path(folder), ("What is 6 * 7?", "42"))) as at,
):
    (one, key), (_, other) = told(at, SOLVE.format(1)), told(at, SOLVE.format(2))
    check(f"sympy's solve names the kind ({one})", "NotImplementedError" in one, True)
    check("two errors of one kind have one state key", key == other, True)
    for name, code, kind in ERRORS:
        said = told(at, code)[0]
        check(f"{name} ({said})", kind in said, True)
finish()
