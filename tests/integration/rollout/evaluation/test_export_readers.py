"""Inspect's own reader and `datasets.load_dataset` open the exports of an evaluation."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.evaluation.recorded import HOSTILE, small_evaluation, summarise

from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.report.inspect_log import write_inspect_logs
from arlarena.rollout.evaluation.report.prices import read_prices

ROOT = Path(__file__).resolve().parents[4]
PYTHON = ROOT / ".venv-inspect" / "bin" / "python"
DRIVER = ROOT / "tests" / "support" / "evaluation" / "export_readers.py"

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="INSPECT IS NOT INSTALLED: `make setup EXTRA=inspect`"),
    # Importing inspect_ai and datasets takes ten seconds and more. test_exports.py checks the contents of the files.
    pytest.mark.slow,
]


def driver(*arguments):
    paths = [str(ROOT / name) for name in ("proto", "client", "services/rollout")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, DRIVER, *map(str, arguments)], capture_output=True, text=True, timeout=110, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    results = read_evaluation(small_evaluation(folder / "evaluation"))
    price = read_prices().price("openai/gpt-5")
    sokoban, alfworld = write_inspect_logs(results, folder, summarise, price)
    driver("write", folder / "evaluation", folder / "attempts.parquet")
    return {
        "sokoban": json.loads(driver(sokoban, folder / "attempts.parquet")),
        "alfworld": json.loads(driver(alfworld, folder / "attempts.parquet")),
    }


def test_inspect_reads_tasks_scores_and_messages(read):
    log = read["sokoban"]["inspect"]
    assert (log["status"], log["task"], log["model"], log["epochs"]) == (
        "success", "arlarena/sokoban", "openai/gpt-5", 2,
    )  # fmt: skip
    assert log["values"].count("C") == 5
    assert log["values"].count("I") == 11
    assert log["metrics"]["accuracy"] == pytest.approx(5 / 16)
    assert log["metrics"]["ci95_low"] < 5 / 16 < log["metrics"]["ci95_high"]
    assert log["summaries"] == 16
    assert log["texts"][3] == HOSTILE
    assert log["texts"][-1] == "done"
    assert log["images"] == ["data:image/png;base64,"]


def test_inspect_counts_all_tokens_once_and_the_cost(read):
    log = read["sokoban"]["inspect"]
    assert log["input"] == 16 * 1_000
    # 600 tokens at 1.25, 400 cached at 0.125, and 200 at 10 dollars per million, 16 times.
    assert log["cost"] == pytest.approx(16 * (600 * 1.25 + 400 * 0.125 + 200 * 10) / 1e6)


def test_inspect_shows_an_infrastructure_failure_as_an_error_without_a_score(read):
    log = read["alfworld"]["inspect"]
    assert log["errors"] == ["the server did not answer"]
    assert log["values"].count(None) == 1
    # 12 tasks with two attempts: 14 successes in 11 tasks, and a task whose only scored attempt is a success.
    assert log["metrics"]["accuracy"] == pytest.approx((14 / 2 + 1) / 12)


def test_datasets_loads_one_row_per_attempt_with_chat_messages(read):
    table = read["sokoban"]["parquet"]
    assert table["rows"] == 40
    assert {"messages", "final_observation", "metric_repeated_actions", "task_id"} <= set(table["columns"])
    assert [message["role"] for message in table["messages"]] == ["user", "assistant", "user", "assistant"]
    assert table["messages"][3]["content"] == HOSTILE
    assert table["success"].count(None) == 1
    assert table["success"].count(True) == 5 + 15
    assert table["dollars"] == [pytest.approx(0.0028)] * 40
