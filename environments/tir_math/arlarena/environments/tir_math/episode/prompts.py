r"""Texts that the policy sees: the prompt, the result of a program, and the response to a reply without an action."""

from __future__ import annotations

import re
from typing import Literal

from arlarena.environment.prompts import PromptTemplate
from arlarena.sandbox.execution import Execution

TemplateName = Literal["full", "compact"]

_FULL = (
    "Solve the problem at the end. Think step by step. Whenever it helps, have Python compute for you or check you: "
    "write one complete program in a fenced block, print what you want to know, and stop there.\n\n"
    "```python\nprint(2**10)\n```\n\n"
    'The program is run at once, and you are told what it printed, as "Code execution result: 1024". numpy, scipy and '
    "sympy are there; files, network and other processes are not. {memory} You have {horizon} turns in all.\n"
    "When you know the answer, give it as \\boxed{{answer}}, or call final_answer(answer) in a program: that ends your "
    "work.\n\nProblem: {task}\n{history}"
)
_FORGETS = "Each program starts anew, so repeat the imports and definitions that it needs."
_REMEMBERS = "Programs share their variables: what one has defined, the next ones can use."
_COMPACT = "{task}{history}"

NOTHING_PRINTED = "(nothing was printed)"
RESULT = "Code execution result: "
NO_ACTION = (
    "Your reply had neither a program nor an answer. Write a program in a fenced block of Python, or give the answer "
    "as \\boxed{answer}."
)


def template(name: TemplateName, *, stateful: bool) -> PromptTemplate:
    """Return the prompt template. If you change the text of a template, change its version."""
    if name == "compact":
        return PromptTemplate("compact", "1", _COMPACT)
    variant = "full-stateful" if stateful else "full"
    return PromptTemplate(variant, "1", _FULL.replace("{memory}", _REMEMBERS if stateful else _FORGETS))


def result(execution: Execution, max_chars: int) -> str:
    """Return a program's output and error line in at most `max_chars` characters. If both together are longer, the end
    of the output is cut off.
    """
    error = execution.error_line[:max_chars]
    printed = execution.stdout.strip("\n")
    room = max_chars - (len(error) + 1 if error else 0)
    if len(printed) > room:
        printed = printed[: max(0, room - 1)] + "…" if room > 0 else ""
    return "\n".join(part for part in (printed, error) if part) or NOTHING_PRINTED


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def canonical(execution: Execution) -> str:
    """Return a program's result in canonical form, so that equal results give equal texts.

    White space is normalised. Numbers are rounded to ten digits. An error is represented only by its type.
    """
    printed = _NUMBER.sub(lambda found: _ten_digits(found[0]), " ".join(execution.stdout.split()))
    if execution.ending == "ok":
        return printed
    return f"{printed} !{execution.error_line.partition(':')[0]}"


def _ten_digits(number: str) -> str:
    if number.lstrip("+-").isdigit():
        return number.lstrip("+")
    return f"{float(number):.10g}"
