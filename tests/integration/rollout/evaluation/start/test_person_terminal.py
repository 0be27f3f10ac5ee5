"""`arlarena eval person` on a real pseudo-terminal."""

import fcntl
import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server

from arlarena.rollout.evaluation.directory import JOURNAL, read_journal
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.evaluation.strategies.person import HINT

pytestmark = pytest.mark.processes
CTRL_C, CTRL_D = b"\x03", b"\x04"
TIMEOUT_S = 60.0


class Terminal:
    """A command on a pseudo-terminal of its own. `text`: what it has shown so far."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = os.openpty()
        self.modes = termios.tcgetattr(slave)
        self.text, self._read_up_to = "", 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arlarena.rollout.evaluation", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal sends SIGINT for Ctrl-C only to the processes that it controls.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def write(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, words: str) -> str:
        """Wait until the command shows these words. Return the text since the last call."""
        while (place := self.text.find(words, self._read_up_to)) < 0:
            assert self._read(), f"the command ended before it showed {words!r}: {self.text}"
        seen, self._read_up_to = self.text[self._read_up_to : place], place + len(words)
        return seen

    def end(self) -> int:
        """Wait until the command has ended. Return its exit status."""
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], TIMEOUT_S)
        assert ready, f"nothing new for {TIMEOUT_S} s after: {self.text}"
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # no process has the terminal any more
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture(scope="module")
def guess(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("guess"), "guess", capacity=8) as (url, _):
        yield url


@pytest.fixture
def terminal(guess: str, tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal("person", "--env", guess, "--count", 3, "--out", tmp_path / "out")
    yield found
    found.process.kill()
    os.close(found.master)


def solve(terminal: Terminal) -> None:
    """Play the next task of `guess` to its end, and wait for the first prompt of the task after it."""
    ranges = [(1, 100)]
    terminal.until(HINT)
    while True:
        low, high = ranges[-1]
        terminal.write(f"{(low + high) // 2}\n".encode())
        shown = terminal.until(HINT)
        ranges = [(int(low), int(high)) for low, high in re.findall(r"from (\d+) to (\d+)", shown)]
        if ranges == [(1, 100)]:  # a prompt without earlier turns
            return


def records(directory: Path) -> list[AttemptRecord]:
    return [event for event in read_journal(directory / JOURNAL) if isinstance(event, AttemptRecord)]


def test_one_ctrl_c_ends_the_evaluation_while_a_person_is_asked(terminal: Terminal, tmp_path: Path) -> None:
    solve(terminal)
    began = time.monotonic()
    terminal.write(b"4" + CTRL_C)
    assert terminal.end() == 130
    assert time.monotonic() - began < TIMEOUT_S / 2
    # No line is needed, and the next attempt was not shown at the same time.
    after = terminal.text.rpartition(HINT)[2]
    assert "stopped: SIGINT was received" in after
    assert "--out" in after
    assert "Traceback" not in terminal.text
    (record,) = records(tmp_path / "out")
    assert (record.status, record.success) == ("ok", True)
    assert (tmp_path / "out" / "summary.json").is_file()
    # The terminal is as before, and no display moves the cursor over the prompt.
    assert termios.tcgetattr(terminal.master) == terminal.modes
    assert "\x1b[?25l" not in terminal.text
    assert "\x1b[2K" not in terminal.text


def test_ctrl_d_ends_the_evaluation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until(HINT)
    terminal.write(CTRL_D)
    assert terminal.end() == 1
    assert "the person ended the evaluation" in terminal.text
    assert records(tmp_path / "out") == []
