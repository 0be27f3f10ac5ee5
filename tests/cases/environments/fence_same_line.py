"""Fenced programs whose fence or language is written as models write it now and then.

Report of the kind: cuga-project/cuga-agent#252.
"""

import json

from cases.case_support import check, finish, run

READ = """
import json, sys
from arlarena.environments.tir_math.episode.replies import read_reply
print(json.dumps([(r.code, r.no_action) for r in map(read_reply, json.load(sys.stdin))]))
"""
REPLIES = {
    "usual": "```python\nprint(6*7)\n```",
    "closing fence behind the code": "```python\nprint(6*7)```",
    "all on one line": "Run ```python print(6*7)```",
    "with a file's name": "```python:solve.py\nprint(6*7)\n```",
    "in braces": "```{python}\nprint(6*7)\n```",
    "ipython": "```ipython\nprint(6*7)\n```",
}

read = json.loads(run(READ, input=json.dumps(list(REPLIES.values()))))
for name, (code, no_action) in zip(REPLIES, read, strict=True):
    check(name, ((code or "").strip(), no_action), ("print(6*7)", False))
finish()
