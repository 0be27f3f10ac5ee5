"""Episodes without a turn: prompts that do not fit the policy's context, and tasks that are over at reset."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.rollout.rollout_support import GOAL, Corridor, House, command

from arlarena.rollout.tokens import Tokens


class OverAtReset(Corridor):
    """Even tasks begin at the goal; of the others, every third is over without success."""

    def reset(self, walk: Any, item: dict[str, Any]) -> dict[str, Any]:
        answer = super().reset(walk, item)
        if item["index"] % 2 == 0:
            walk.at = GOAL
            return walk.reply(0.0, "", True, True)
        if item["index"] % 3 == 0:
            answer["observation"]["terminated"] = answer["done"] = True
        return answer


async def evaluate(house: House, policy_directory: Path, out: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of an evaluation."""
    code = await command(house, policy_directory, "evaluate", "--count", "6", "--out", str(out), *flags)
    return code, json.loads(out.read_text())


async def test_no_prompt_fits_ends_with_the_lengths_and_the_fix(
    house: House, tokens: Tokens, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.mouth.context = length = len(tokens.prompt("you are at 0"))
    code, result = await evaluate(house, policy_directory, tmp_path / "x.json")
    reason = f"a prompt of {length} tokens leaves no room for a response in a context of {length} tokens"
    assert code == 1
    assert (result["episodes"], result["errors"], result["without_turns"]) == (6, 0, 6)
    assert result["without_turns_reasons"] == [reason]
    said = capsys.readouterr()
    assert f"without a turn 6 ({reason})" in said.out
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert reason in line
    assert "max_positions" in line
    assert "--max-model-len" in line
    assert "template or history" in line


async def test_a_context_that_some_prompts_fit_is_no_error(
    house: House, tokens: Tokens, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Longer(Corridor):
        def reset(self, walk: Any, item: dict[str, Any]) -> dict[str, Any]:
            answer = super().reset(walk, item)
            answer["observation"]["prompt"] += " and go on" * (item["index"] == 2)
            return answer

    house.corridor.__class__ = Longer
    house.mouth.context = len(tokens.prompt("you are at 0")) + 1
    code, result = await evaluate(house, policy_directory, tmp_path / "x.json")
    assert code == 0
    assert result["without_turns"] == 1
    assert result["policy_errors"] == 1
    assert "error:" not in capsys.readouterr().err


async def test_tasks_over_at_reset_count_as_the_environment_says(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.corridor.__class__ = OverAtReset
    episodes = tmp_path / "episodes.jsonl"
    code, result = await evaluate(house, policy_directory, tmp_path / "x.json", "--episodes", str(episodes))
    assert code == 0
    assert (result["without_turns"], result["without_turns_reasons"]) == (4, ["over at reset"])
    assert [(index, success, turns) for index, success, _, turns in result["results"]] == [
        (0, 1, 0), (1, 1, 3), (2, 1, 0), (3, 0, 0), (4, 1, 0), (5, 1, 3)
    ]  # fmt: skip
    assert "without a turn 4 (over at reset)" in capsys.readouterr().out


async def test_an_evaluation_with_turns_says_nothing_of_them(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = await evaluate(house, policy_directory, tmp_path / "x.json")
    assert (code, result["without_turns"], result["without_turns_reasons"]) == (0, 0, [])
    assert "without a turn" not in capsys.readouterr().out
