"""Judges answers in a separate process with limits, because answers are untrusted and parsing LaTeX may never end."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Protocol

from arlarena.environments.tir_math.judge.scoring import Form
from arlarena.sandbox.execution import SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSandbox, ForkSettings

WORK = "arlarena.environments.tir_math.judge.judge_worker"
CACHE_SIZE = 16_384  # maximum number of cached verdicts
RIGHT = "right"
SELF_TEST: dict[tuple[Form, str, str], bool] = {
    ("math", r"\frac{1}{2}", "0.5"): True,
    ("math", "x^2+2x+1", "(x+1)^2"): True,
    ("math", r"\sqrt{8}", r"2\sqrt{3}"): False,
    ("roots", "-0.5, 2.0", "2, -0.5"): True,
}


class Judge(Protocol):
    """Judges answers. Thread-safe."""

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        """Return whether `answer` equals `gold`. `form`: the form of answer that the problem requires (see `scoring`).

        Raises:
            SandboxError: judging failed, and the answer did not cause the failure.
        """
        ...


class ForkJudge:
    """Judges each answer in a locked-down fork of a zygote (see `arlarena.sandbox`). The zygote has loaded math-verify.

    Verdicts are cached, because episodes of the same task often give the same answer.
    """

    def __init__(self, settings: ForkSettings) -> None:
        """Start the zygote and judge the answers of SELF_TEST. If a library failed in the sandbox, every answer would
        be judged wrong; the self-test detects this.

        Raises:
            SandboxUnavailable: a verdict of the self-test is wrong, or a required layer of the sandbox is missing.
            SandboxError: the zygote did not start, or an execution failed.
        """
        self._sandbox = ForkSandbox(settings, WORK)
        self._cache: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
        self._lock = threading.Lock()
        for (form, gold, answer), expected in SELF_TEST.items():
            if self.is_right(gold, answer, form) != expected:
                self.close()
                raise SandboxUnavailable(
                    f"answers cannot be judged in the sandbox: wrong verdict on {answer} with the gold answer {gold}"
                )

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        """Return whether `answer` equals `gold`, the gold answer. Return False if judging reaches the limit of CPU
        time.

        Raises:
            SandboxError: judging failed, and the answer did not cause the failure.
        """
        if gold.strip() == answer.strip():
            return True
        key = form, gold, answer
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        verdict = self._judge(json.dumps(key).encode("utf-8", "surrogatepass"))
        with self._lock:
            self._cache[key] = verdict
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return verdict

    def close(self) -> None:
        """Stop the zygote."""
        self._sandbox.close()

    def _judge(self, payload: bytes) -> bool:
        """Judge the payload in a fork.

        If the fork crashes or reaches the limit of CPU time, the answer is wrong. If the fork ends early for another
        reason, such as a lack of memory, raise SandboxError.
        """
        execution = self._sandbox.run_payload(payload)
        if execution.ending == "ok":
            return execution.stdout == RIGHT
        if execution.hit_cpu_limit or execution.ending == "killed":
            return False
        raise SandboxError(f"an answer could not be judged: {execution.error_line or execution.ending}")
