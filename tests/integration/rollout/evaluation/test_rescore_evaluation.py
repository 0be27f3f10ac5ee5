"""`arlarena rescore` on the records of an evaluation: plan.json and journal.jsonl."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from support.evaluation import judged_guess
from support.evaluation.small_run import LOG

from arlarena.proto.env_api import ResetSpec
from arlarena.rollout.evaluation.certificate.rescore import RescoreRequest, rescore
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import (
    SCHEMA,
    AttemptKey,
    AttemptRecord,
    EnvironmentPlan,
    EvaluationPlan,
    RequestEvent,
    Status,
    TurnRecord,
)

TESTS = Path(__file__).parents[3]
NAME = judged_guess.NAME
COUNT = 4


def attempt(index: int, status: Status = "ok") -> AttemptRecord:
    """The expert's attempt at a task, judged by the faulty judge, played without a server."""
    environment = judged_guess.load("test", {"judge": "faulty"})
    episode = environment.start(environment.task(ResetSpec(split="test", index=index)))
    result, turns = episode.observe(), []
    for reply in episode.expert():
        before, result = result, episode.step(reply)
        assert before.metadata is not None
        assert result.metadata is not None
        seen, after = before.observation, result.observation
        turns.append(
            TurnRecord(
                seen.text, reply, result.metadata.action, result.reward or 0.0, after.action_valid,
                after.format_valid, False, before.metadata.state_key, "stop",
            )
        )  # fmt: skip
    last = result.metadata
    assert last is not None
    return AttemptRecord(
        AttemptKey(NAME, "test", index, 0), last.task_id, last.content_key, "", status, last.success, last.score,
        sum(turn.reward for turn in turns), len(turns), result.observation.terminated, result.observation.truncated,
        tuple(turns), {}, TokenUsage(), len(turns), 0.0, 1.0, final_observation=result.observation.text,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation with one unscored attempt, one repeated attempt, and a line that a kill cut off."""
    # The server gets the recorded options. In this test they already have the corrected judge.
    planned = EnvironmentPlan(NAME, "", "1", "full 1", "1", {"judge": "right"}, "test", tuple(range(COUNT)))
    plan = EvaluationPlan(SCHEMA, "expert", "", "plain", {}, {}, (planned,), 1, 0, False)
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    request = RequestEvent(AttemptKey(NAME, "test", 0, 0), 0, 0, "answer", "0", 0.0)
    first = msgspec.structs.replace(attempt(0, "infra_error"), turns=())
    events = [request, first, *map(attempt, range(COUNT - 1)), attempt(COUNT - 1, "model_error")]
    lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    (tmp_path / "journal.jsonl").write_bytes(lines + b'{"event":"request","key":{"env')
    return tmp_path


def test_a_damaged_journal_is_an_error(folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(EvaluationError, match=r"journal\.jsonl, line 1 is damaged"):
        asyncio.run(rescore(RescoreRequest(folder), LOG))


def test_the_recorded_replies_are_judged_by_the_corrected_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    result = asyncio.run(rescore(RescoreRequest(folder), LOG))
    # The last result of each scored attempt, with the numbers 5, 10 and 15.
    assert [each.old.success for each in result.episodes] == [False, True, False]
    assert [each.new.success for each in result.episodes if each.new] == [True, True, True]
    assert result.changed == [f"{NAME}/test/0", f"{NAME}/test/2"]
    assert not any(each.diverged or each.unfinished for each in result.episodes)
    (summary,) = result.files
    assert (summary.judged, summary.changed) == (3, 2)
    assert summary.success_old == pytest.approx(1 / 3)
    assert summary.success_new == 1.0
    assert (folder / "rescored.json").is_file()
