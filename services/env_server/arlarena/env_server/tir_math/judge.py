r"""Whether an answer is right, decided in a process of its own with a deadline: answers are written by models, and
reading LaTeX can take forever.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Protocol

from arlarena.env_server.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.env_server.tir_math.scoring import Form

WORK = "arlarena.env_server.tir_math.verdict"
REMEMBERED = 16_384
RIGHT = "right"


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
        """Start the zygote. Errors as in `ForkSandbox`."""
        self._sandbox = ForkSandbox(settings, WORK)
        self._kept: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
        self._lock = threading.Lock()

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        """See `Judge`. What takes too long to be read is wrong."""
        if gold.strip() == answer.strip():
            return True
        key = form, gold, answer
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        payload = json.dumps(key).encode("utf-8", "surrogatepass")
        verdict = self._sandbox.carry_out(payload).stdout == RIGHT
        with self._lock:
            self._kept[key] = verdict
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return verdict

    def close(self) -> None:
        """End the zygote."""
        self._sandbox.close()
