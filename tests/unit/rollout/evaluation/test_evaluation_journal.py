"""The journal: what a kill leaves behind, damage, locks, and few syncs for many attempts."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from arlarena.rollout.evaluation.directory import JOURNAL, read_journal
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.play.journal import BLOCK, LOCK, Journal
from arlarena.rollout.evaluation.play.resume import EvaluationHistory
from arlarena.rollout.evaluation.records import AttemptKey, Event, FailureEvent, ReplyEvent, RequestEvent

KEY = AttemptKey("guess", "test", 0, 0)


def request(call: int, key: AttemptKey = KEY, start: int = 0) -> RequestEvent:
    return RequestEvent(key, call, 0, "answer", "d", 1.5, "s", start)


def reply(call: int, text: str = "hi", key: AttemptKey = KEY) -> ReplyEvent:
    return ReplyEvent(key, call, text, "stop", TokenUsage(3, 4), "m", "r", "", 0.1, 0)


async def written(directory: Path, *events: Event) -> Path:
    journal = Journal(directory)
    for event in events:
        await journal.commit(event)
    await journal.close()
    return directory / JOURNAL


async def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    events = [request(0), reply(0, "größer\n☕"), request(1), FailureEvent(KEY, 1, "no", True)]
    assert list(read_journal(await written(tmp_path, *events))) == events


@pytest.mark.parametrize("length", [10, 3 * BLOCK])
async def test_a_cut_off_last_line_is_ignored_and_removed(tmp_path: Path, length: int) -> None:
    path = await written(tmp_path, request(0), reply(0))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"request"' + b"x" * length)
    assert list(read_journal(path)) == [request(0), reply(0)]
    await written(tmp_path, request(1))
    assert list(read_journal(path)) == [request(0), reply(0), request(1)]
    assert path.read_bytes().startswith(whole)


async def test_every_cut_of_the_file_gives_the_complete_lines(tmp_path: Path) -> None:
    path = await written(tmp_path, request(0), reply(0), request(1))
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert len(list(read_journal(path))) == whole[:end].count(b"\n")


@pytest.mark.parametrize("damage", [b"{", b'{"event":"request"}', b"\xff\xfe", b""])
async def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = await written(tmp_path, request(0), reply(0), request(1))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    with pytest.raises(EvaluationError, match=r"journal\.jsonl, line 2 is damaged"):
        list(read_journal(path))


async def test_a_reply_without_its_request_is_an_error(tmp_path: Path) -> None:
    await written(tmp_path, reply(0))
    with pytest.raises(EvaluationError, match="without a request in attempt guess/test/0#0"):
        EvaluationHistory.read(tmp_path)


async def test_two_processes_cannot_write_and_a_kill_releases_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from arlarena.rollout.evaluation.play.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(EvaluationError, match=rf"another process \(id {holder.pid}\)"):
            Journal(tmp_path)
        assert (tmp_path / LOCK).read_text() == f"{holder.pid}\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    await written(tmp_path, request(0))


async def test_many_commits_share_a_sync_and_each_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def slow(handle: int) -> None:
        size = os.fstat(handle).st_size
        real(handle)
        synced.append(size)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal = Journal(tmp_path)

    async def one(number: int) -> None:
        key = msgspec.structs.replace(KEY, index=number)
        await journal.commit(request(0, key))
        lines = (tmp_path / JOURNAL).read_bytes()
        end = lines.index(f'"index":{number},'.encode())
        assert synced, "no sync has ended"
        assert synced[-1] > end, "a commit returned before its line was on the disk"

    await asyncio.gather(*(one(number) for number in range(500)))
    assert journal.syncs <= 10
    await journal.close()
    assert len(list(read_journal(tmp_path / JOURNAL))) == 500


async def test_a_full_disk_ends_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(EvaluationError, match="No space left on device"):
        await journal.commit(request(0))
    with pytest.raises(EvaluationError, match="No space left on device"):
        journal.append(request(1))
    await journal.close()


def test_possibly_charged_requests_are_those_without_an_outcome_and_those_that_say_so() -> None:
    other = msgspec.structs.replace(KEY, index=1)
    events: list[Event] = [
        request(0),  # killed
        request(0),  # fails, perhaps charged
        FailureEvent(KEY, 0, "lost", True),
        request(0),  # fails, certainly not charged
        FailureEvent(KEY, 0, "429", False),
        request(0),
        reply(0),
        request(1),  # killed
        request(0, other),
        reply(0, "x", other),
    ]
    history = EvaluationHistory.of(events)
    assert history.possibly_charged == 3
    assert history.of_attempt(KEY).requests == 5
    assert history.of_attempt(KEY).usage == TokenUsage(3, 4)
    assert EvaluationHistory.of(events[:5]).of_attempt(KEY).usage == TokenUsage(0, 0, 0, 0)  # no reply
    assert [call.reply is not None for call in history.of_attempt(KEY).usable()] == [True, False]
    history.of_attempt(KEY).add(request(2, start=1))
    assert [call.request.call for call in history.of_attempt(KEY).usable()] == [2]
