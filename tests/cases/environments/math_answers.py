"""Option letters with or without their text, and answers in Unicode's mathematical characters, beside wrong ones."""

import json
from pathlib import Path

from cases.case_support import check, finish, run

JUDGE = """
import json, sys
from arlarena.environments.tir_math.judge.equivalence import judge
print(json.dumps([judge(gold, answer) for gold, answer, _ in json.load(sys.stdin)]))
"""

for name in ("math_option_letter.json", "math_unicode.json"):
    pairs = Path(__file__).with_name(name).read_text()
    for (gold, answer, right), said in zip(json.loads(pairs), json.loads(run(JUDGE, input=pairs)), strict=True):
        check(f"gold {gold} answer {answer}", said, right)
finish()
