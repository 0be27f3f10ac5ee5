"""A program that computes without end is stopped by a timeout, on a busy machine too.

Reports of the kind: oj-lab/judger#145, DOMjudge/domjudge#3667.
"""

import json

from cases.case_support import busy_cores, check, finish, run

RUN = """
import json
from arlarena.sandbox.forks import ForkSandbox
sandbox = ForkSandbox()
try:
    runs = [sandbox.run("while True: pass") for _ in range(3)]
finally:
    sandbox.close()
print(json.dumps([[one.ending, one.error_line, one.used.cpu_s] for one in runs]))
"""

with busy_cores():
    runs = json.loads(run(RUN))
for ending, line, cpu in runs:
    check(f"ending after {cpu:.2f} s of computing ({line})", ending, "timeout")
finish()
