r"""Whether an answer is right, decided in a process of its own with a deadline: answers are written by models, and
reading LaTeX can take forever.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Protocol

from arlarena.environments.tir_math.judge.scoring import Form
from arlarena.sandbox.execution import SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSandbox, ForkSettings

WORK = "arlarena.environments.tir_math.judge.judge_worker"
REMEMBERED = 16_384
RIGHT = "right"
KNOWN: dict[tuple[Form, str, str], bool] = {
    ("math", r"\frac{1}{2}", "0.5"): True,
    ("math", "x^2+2x+1", "(x+1)^2"): True,
    ("math", r"\sqrt{8}", r"2\sqrt{3}"): False,
    ("roots", "-0.5, 2.0", "2, -0.5"): True,
}


class Judge(Protocol):
    """Decides. Safe to call from many threads."""

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        """Whether `answer` is the answer `gold`, in the form that the problem asks for (see `scoring`).

        Raises:
            SandboxError: it could not be decided for a reason that is not the answer's.
        """
        ...


class ForkJudge:
    """Each question in a fork of a zygote that has loaded math-verify, locked down like a program. Verdicts are kept:
    a group's members often give the same answer.
    """

    def __init__(self, settings: ForkSettings) -> None:
        """Start the zygote, and ask it what is known: a library that fails under lock and key would call all wrong.

        Raises:
            SandboxUnavailable: it does not judge rightly here; or as in `ForkSandbox`.
            SandboxError: see `ForkSandbox`.
        """
        self._sandbox = ForkSandbox(settings, WORK)
        self._kept: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
        self._lock = threading.Lock()
        for (form, gold, answer), expected in KNOWN.items():
            if self.is_right(gold, answer, form) != expected:
                self.close()
                raise SandboxUnavailable(f"answers cannot be judged in the sandbox: {answer} for {gold} went wrong")

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        """See `Judge`. What takes too much computing to be read is wrong."""
        if gold.strip() == answer.strip():
            return True
        key = form, gold, answer
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        verdict = self._asked(json.dumps(key).encode("utf-8", "surrogatepass"))
        with self._lock:
            self._kept[key] = verdict
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return verdict

    def close(self) -> None:
        """End the zygote."""
        self._sandbox.close()

    def _asked(self, payload: bytes) -> bool:
        """The verdict of a fork. One that was stopped is the answer's fault only if that made it compute for too long,
        or crash: a busy machine, or one without memory, makes no answer wrong.
        """
        execution = self._sandbox.carry_out(payload)
        if execution.ending == "ok":
            return execution.stdout == RIGHT
        if execution.computed_too_long or execution.ending == "killed":
            return False
        raise SandboxError(f"an answer could not be judged: {execution.error_line or execution.ending}")
