"""The commands `evaluate` and `demonstrate`, as a user runs them, against scripted services."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from support.rollout.rollout_support import RIGHT, Corridor, House, command
from support.trainer.tiny_support import sokoban_tokenizer

from arlarena.proto.config import ConfigError
from arlarena.proto.trajectory import read_groups
from arlarena.rollout.evaluation.statistics.intervals import clustered, success_rate
from arlarena.rollout.tokens import Tokens


def sometimes(share: float) -> Any:
    """A policy that walks right with this probability, by its seed alone, and else says nothing of use."""
    return lambda prompt, seed: RIGHT if seed / 2**63 < share else "hm"


async def test_an_evaluation_with_one_attempt_a_task(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.mouth.say = sometimes(0.5)
    out, lines = tmp_path / "eval_sets" / "before.json", tmp_path / "episodes.jsonl"
    flags = ("--split", "test", "--count", "40", "--out", str(out), "--episodes", str(lines), "--temperature", "0.9")
    assert await command(house, policy_directory, "evaluate", *flags, evaluation="episodes = 3\nfirst = 5") == 0
    result = json.loads(out.read_text())
    wins = sum(success for _, success, _, _ in result["results"])
    expected, _ = success_rate({task: [task < wins] for task in range(40)})
    assert 0 < wins < 40
    assert result["environment"] == "corridor"
    assert (result["eval_set"]["split"], result["eval_set"]["first"], result["eval_set"]["n"]) == ("test", 5, 40)
    assert (result["episodes"], result["errors"], result["ci_method"]) == (40, 0, "Clopper-Pearson")
    assert result["success"] == pytest.approx(wins / 40, abs=1e-4)
    assert result["ci95"] == [pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4)]
    assert [index for index, *_ in result["results"]] == list(range(5, 45))
    assert result["by_difficulty"] == [
        {"optimal_moves": 3, "n": 40, "success": result["success"], "ci95": result["ci95"]}
    ]
    odd = sum(success for index, success, *_ in result["results"] if index % 2)
    assert [(row["kind"], row["n"], row["success"]) for row in result["by_kind"]] == [
        ("even", 20, pytest.approx((wins - odd) / 20)),
        ("odd", 20, pytest.approx(odd / 20)),
    ]
    assert result["format_valid"] == result["action_valid"] < 0.9
    returns = {str(i): [value] for i, _, value, _ in result["results"]}
    assert result["return"]["mean"] == pytest.approx(clustered(returns).mean, abs=1e-3)
    assert result["versions"] == ["run:3:abc"]
    assert {r["sampling_params"]["temperature"] for r in house.mouth.requests} == {0.9}
    said = capsys.readouterr().out
    assert f"success {100 * wins / 40:.1f} %" in said
    assert "n=40" in said
    episodes = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [episode["task"] for episode in episodes] == [f"corridor/test/{i}" for i in (5, 6, 7)]
    assert episodes[0]["turns"][0]["observation"] == "at 0"
    assert len(episodes[0]["turns"]) == episodes[0]["metrics"]["turns"]


async def test_equal_tasks_get_equal_sampling_seeds(house: House, policy_directory: Path, tmp_path: Path) -> None:
    house.mouth.say = sometimes(0.4)
    results = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.json"
        assert await command(house, policy_directory, "evaluate", "--count", "20", "--out", str(out)) == 0
        results.append(json.loads(out.read_text()))
    assert results[0]["results"] == results[1]["results"]
    assert results[0]["eval_set"] == results[1]["eval_set"]
    other = tmp_path / "c.json"
    assert await command(house, policy_directory, "evaluate", "--count", "20", "--seed", "1", "--out", str(other)) == 0
    assert json.loads(other.read_text())["results"] != results[0]["results"]


async def test_attempts_are_clustered_by_task(house: House, policy_directory: Path, tmp_path: Path) -> None:
    house.mouth.say = sometimes(0.45)
    out = tmp_path / "k.json"
    flags = ("--count", "10", "--attempts", "4", "--out", str(out))
    assert await command(house, policy_directory, "evaluate", *flags) == 0
    result = json.loads(out.read_text())
    tasks: dict[str, list[bool]] = {}
    for index, success, _, _ in result["results"]:
        tasks.setdefault(str(index), []).append(bool(success))
    expected, method = success_rate(tasks)
    assert result["ci_method"] == method == "beta, clustered by task"
    assert result["success"] == pytest.approx(expected.mean, abs=1e-4)
    assert result["ci95"] == [pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4)]


async def test_errors_are_counted_and_not_scored(house: House, policy_directory: Path, tmp_path: Path) -> None:
    house.mouth.faults = [500] * 4
    out = tmp_path / "e.json"
    flags = ("--count", "6", "--out", str(out))
    assert await command(house, policy_directory, "evaluate", *flags, evaluation="concurrency = 2") == 1
    result = json.loads(out.read_text())
    assert (result["errors"], result["episodes"], result["success"]) == (2, 4, 1.0)
    assert "500" in result["error_examples"][0]


async def test_unavailable_service_is_named(
    house: House, policy_directory: Path, tmp_path: Path, unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"http://127.0.0.1:{unused_tcp_port}"
    flags = ("--environment-url", away, "--count", "6", "--out", str(tmp_path / "x.json"))
    assert await command(house, policy_directory, "evaluate", *flags, service_retry_timeout_s=1.0) == 1
    said = capsys.readouterr().err
    assert f"environment server at {away} did not answer within 1 s" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, 2, "/ready was refused with 404: no such page"),
        (500, 1, "is not ready after 1 s: GET"),
    ],
)
async def test_error_status_gets_no_running_hint(
    house: House,
    policy_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
    said: str,
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="no such page")

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", answer)])
    async with TestServer(app) as other:
        flags = ("--environment-url", f"http://127.0.0.1:{other.port}", "--out", str(tmp_path / "x.json"))
        started = time.monotonic()
        assert await command(house, policy_directory, "evaluate", *flags, service_retry_timeout_s=1.0) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert str(status) in printed
    assert "is it running" not in printed
    assert status != 404 or time.monotonic() - started < 2  # it is not waited for


async def test_an_evaluation_beyond_the_split_is_refused(house: House, policy_directory: Path, tmp_path: Path) -> None:
    house.corridor.size = 10
    flags = ("--split", "validation", "--first", "5", "--count", "6", "--out", str(tmp_path / "x.json"))
    message = "[evaluation] first = 5, count = 6: split 'validation' of corridor has 10 tasks; first + count must be at"
    with pytest.raises(ConfigError, match=re.escape(message)):
        await command(house, policy_directory, "evaluate", *flags)
    assert house.corridor.batches == house.mouth.requests == []
    assert not (tmp_path / "x.json").exists()
    assert await command(house, policy_directory, "evaluate", *flags, "--count", "5") == 0


async def test_an_unknown_split_is_refused(house: House, policy_directory: Path) -> None:
    message = "[evaluation] split = 'tset': corridor has no such split; known: train, validation, test"
    with pytest.raises(ConfigError, match=re.escape(message)):
        await command(house, policy_directory, "evaluate", "--split", "tset", "--out", "x.json")
    assert house.corridor.batches == []


class Repeating(Corridor):
    """Every third task is the room of the task before it, and the room of task 4 cannot be solved in time."""

    def reset(self, walk: Any, item: dict[str, Any]) -> dict[str, Any]:
        index = item["index"]
        answer = super().reset(walk, item | {"index": index - 1 if index % 3 == 2 else index})
        if index == 4:
            walk.at = -100
        return answer


async def test_demonstrations_are_distinct_and_solved(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.corridor.__class__ = Repeating
    house.corridor.plan = False
    out = tmp_path / "demonstrations.msgpack"
    assert await command(house, policy_directory, "demonstrate", "--first", "3", "--count", "9", "--out", str(out)) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    groups = read_groups(out)
    assert [group.task.index for group in groups] == [3, 5, 6, 7, 9, 10]
    assert (counts["asked"], counts["written"], counts["duplicates"], counts["rejected"]) == (9, 6, 2, 1)
    tokens = Tokens(sokoban_tokenizer())
    for group in groups:
        (one,) = group.trajectories
        assert (group.size, str(group.oldest), one.success) == (1, "expert:0:-", True)
        assert [list(prompt) for prompt in one.prompts()] == [tokens.prompt(f"you are at {i}") for i in range(3)]
        assert all(list(turn.tokens()) == tokens.reply(RIGHT) for turn in one.turns)
    assert counts["turns"] == 18


async def test_served_model_episodes_above_the_score_are_kept(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    left = "<think></think><action>left</action>"
    house.mouth.say = lambda prompt, seed: RIGHT if seed % 3 else left  # now and then it loses its way
    out = tmp_path / "demonstrations.msgpack"
    flags = ("--teacher-url", house.inference.url, "--teacher-key-variable", "TEACHER_KEY", "--temperature", "0.7")
    wanted = ("--count", "12", "--attempts", "3", "--max-tokens", "64", "--out", str(out))
    assert await command(house, policy_directory, "demonstrate", *flags, *wanted) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    groups = read_groups(out)
    assert counts["asked"] == 36 == counts["written"] + counts["duplicates"] + counts["rejected"]
    assert counts["rejected"] > 0
    assert 0 < counts["written"] <= 12  # one a task
    assert len({group.task.index for group in groups}) == len(groups) == counts["written"]
    tokens = Tokens(sokoban_tokenizer())
    for group in groups:
        (one,) = group.trajectories
        assert (one.score, str(group.oldest), group.worker) == (1.0, "chat:0:mouth", "chat")
        replies = [list(turn.tokens()) for turn in one.turns]
        assert set(map(tuple, replies)) <= {tuple(tokens.reply(RIGHT)), tuple(tokens.reply(left))}
    asked = house.mouth.requests[0]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("mouth", 0.7, 64)
    assert asked["authorization"] == "Bearer secret"
    assert 0 <= asked["seed"] < 2**31


async def test_a_reply_that_was_cut_off_is_not_closed(house: House, policy_directory: Path, tmp_path: Path) -> None:
    house.mouth.say = lambda prompt, seed: RIGHT if "at 0" not in prompt else "<think>I was about to…"
    out = tmp_path / "demonstrations.msgpack"
    flags = ("--teacher-url", house.inference.url, "--count", "1", "--min-score", "-1", "--out", str(out))
    assert await command(house, policy_directory, "demonstrate", *flags) == 0
    (group,) = read_groups(out)
    turn = group.trajectories[0].turns[0]
    tokens = Tokens(sokoban_tokenizer())
    assert list(turn.tokens()) == tokens.encode("<think>I was about to…")
    assert turn.finish_reason == "length"


async def test_equal_first_prompts_are_duplicates_by_prompt(
    house: House, policy_directory: Path, tmp_path: Path
) -> None:
    # All corridors begin at 0, so by their first prompt they are one.
    out = tmp_path / "demonstrations.msgpack"
    flags = ("--count", "5", "--distinct", "prompt", "--out", str(out))
    assert await command(house, policy_directory, "demonstrate", *flags) == 0
    assert [group.task.index for group in read_groups(out)] == [0]


@pytest.mark.parametrize(
    ("tables", "words", "message"),
    [
        ({"evaluation": "cuont = 3"}, ("evaluate", "--out", "x.json"), "unknown key 'cuont'; did you mean 'count'?"),
        ({}, ("evaluate", "--out", "x.json", "--temperature", "-1"), "temperature"),
        ({}, ("evaluate", "--out", "x.json", "--tokenizer", "/nowhere"), "/nowhere: no such directory"),
        ({}, ("demonstrate", "--count", "1", "--out", "x", "--environment-url", "host:1"), "not a service address"),
    ],
)
async def test_wrong_settings_are_named(
    house: House, policy_directory: Path, tables: dict[str, str], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        await command(house, policy_directory, *words, **tables)
