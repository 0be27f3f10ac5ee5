"""An answer that takes more computing than the judge allows is wrong, also on a busy machine; never a failure.

Reports of the kind: huggingface/Math-Verify#65, hkust-nlp/simpleRL-reason#95.
"""

import tempfile
from pathlib import Path

from cases.case_support import busy_cores, check, environment, finish, problems, session, step

answer = "x"
for _ in range(6):
    answer = rf"\ln({answer}^{{2}}+1)^{{2}}"

with (
    tempfile.TemporaryDirectory() as folder,
    environment("tir_math", problems(Path(folder), ("Simplify x + 0.", "x"))) as at,
    busy_cores(),
):
    for attempt in range(2):  # the white space makes it an answer that was not judged before
        status, body = step(at, session(at, split="t", index=0), rf"So \boxed{{{answer}}}{' ' * attempt}")
        check(f"attempt {attempt}", (status, body.get("reward"), body.get("message")), (200, 0.0, None))
finish()
