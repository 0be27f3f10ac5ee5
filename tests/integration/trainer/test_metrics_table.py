"""proto/arlarena/proto/metrics.toml lists exactly the metrics that training writes."""

import asyncio
import json
import re
import tomllib
from pathlib import Path

import pytest
from support.trainer.trainer_processes_support import prepare, recorded, train_with_ends

pytestmark = pytest.mark.slow  # runs two trainers

TABLE = Path(__file__).parents[3] / "proto" / "arlarena" / "proto" / "metrics.toml"
# Together, these methods write all metrics that only some methods have.
METHODS = (
    {"recipe": "sampo"},
    {"recipe": "cispo_sm", "policy_anchor": "decoupled", "correction": "icepop"},
)


def pattern(key):
    """Return the pattern of the metrics that a key of the table describes. `<word>` in the key matches any word."""
    return re.compile(re.sub(r"<[a-z]+>", "[a-z_]+", key))


@pytest.fixture
def written(redis_url, run_name, tmp_path, tiny_directory, make_group):
    """Return the names of all metrics that runs of `METHODS` write."""
    keys = set()
    for number, method in enumerate(METHODS):
        run = tmp_path / str(number)
        prepare(run, 2, **method)
        player = recorded(run, make_group)
        asyncio.run(train_with_ends(redis_url, f"{run_name}-{number}", run, tiny_directory, player, []))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 2
        keys.update(key for line in lines for key in json.loads(line))
    return keys


def test_the_metrics_table_lists_all_written_keys(written):
    patterns = {key: pattern(key) for key in tomllib.loads(TABLE.read_text(encoding="utf-8"))["training"]}
    assert {key for key in written if not any(one.fullmatch(key) for one in patterns.values())} == set()
    assert {key for key, one in patterns.items() if not any(one.fullmatch(name) for name in written)} == set()
