"""What the user is told of a service's end."""

from pathlib import Path

import pytest

from arlarena.console.launch.failures import TAIL_BYTES, describe_exit, last_error

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in y\n    z()\nValueError: deep inside\n'
INFO = '{"level":"info","event":"fine"}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"level":"error","event":"push_failed","ts":1,"service":"x","reason":"late"}\n' + TRACE,
            "push_failed reason=late",
        ),
        ('{"level":"error","event":"old"}\n{"level":"error","event":"new"}\n' + INFO, "new"),
        ("fatal: no memory\nLoading weights:   0%|  | 0/47\rLoading weights: 100%|##| 47/47\n", "fatal: no memory"),
        ("error: port 80 is taken\n" + INFO, "port 80 is taken"),
        (INFO + TRACE, "ValueError: deep inside"),
        (INFO, "no output"),
        ("", "no output"),
        ('{"level":"error"', "no output"),
    ],
)
def test_the_best_line_of_a_log(tmp_path: Path, text: str, said: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert last_error(log) == said


def test_errors_of_an_earlier_process_do_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: yesterday\n")
    assert last_error(log, log.stat().st_size) == "no output"


def test_a_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (3 * TAIL_BYTES) + b"\n\xff\xfe broken\nerror: full\n")
    assert last_error(log) == "full"


def test_a_missing_log(tmp_path: Path) -> None:
    assert last_error(tmp_path / "none") == "no output"


def test_signals_have_names() -> None:
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-200) == "killed by signal 200"
