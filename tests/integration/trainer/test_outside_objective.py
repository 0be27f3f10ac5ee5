"""An objective of another package: written by `arlarena init`, installed, and used for training."""

import asyncio
import os
import subprocess
import sys

import pytest
from support.trainer.recordings_support import Recordings
from support.trainer.trainer_processes_support import prepare, records, train_arguments

from arlarena.console.cli.scaffold import init
from arlarena.proto.config import load_table
from arlarena.proto.streams.queue import Streams
from arlarena.trainer.objectives import load_plugins, recipe, registry
from arlarena.trainer.replay import load_groups, replay
from arlarena.trainer.settings import TrainerSettings


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Return the source folder and the installation folder of the package."""
    work = tmp_path_factory.mktemp("outside")
    source, site = init("objective", "outside", work), work / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", site, source], check=True, capture_output=True, timeout=100)
    assert (site / "outside.py").is_file()
    return source, site


# Slow: installs a package and runs a trainer, 20 s. The quick tests are in tests/unit/trainer/test_plugins.py.
@pytest.mark.slow
async def test_an_installed_objective_trains_with_its_hyperparameter(
    package, redis_url, run_name, tmp_path, tiny_directory, make_group, monkeypatch
):
    source, site = package
    run = tmp_path / "run"
    prepare(run, 1, recipe="outside", minibatch_groups=4, kl_coefficient=0.0, record_groups_every=1)
    with (run / "run.toml").open("a") as file:
        file.write("[trainer.recipe_overrides]\nepsilon = 0.3\n")
    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05) as streams:
        feeding = asyncio.create_task(Recordings(streams, run / "weights", make_group).serve())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "arlarena.trainer"),
            *map(str, train_arguments(run, run_name, tiny_directory, redis_url)),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(site)},
        )
        _, output = await process.communicate()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert process.returncode == 0, output.decode()[-3000:]
    (record,) = records(run)
    # Replay the same groups with the module from the source folder, because the package is not installed in this
    # process. The loss is -A w + |A| / (2 ε) (w - 1)². The ratios w of these groups are nearly 0, so the loss is about
    # proportional to 1 / ε.
    monkeypatch.syspath_prepend(str(source))
    restore = [each.snapshot() for each in registry._REGISTRIES]
    try:
        load_plugins(["outside"])
        groups = load_groups(run / "groups" / "step-000001.msgpack")
        settings = load_table(run / "run.toml", "trainer", TrainerSettings)
        same, half = (
            replay(groups, str(tiny_directory), recipe("outside", epsilon=epsilon), settings).metrics["policy_loss"]
            for epsilon in (0.3, 0.6)
        )
    finally:
        for each in restore:
            each()
        sys.modules.pop("outside", None)
    assert record["policy_loss"] == pytest.approx(same, rel=1e-5)
    assert record["policy_loss"] == pytest.approx(2 * half, rel=0.02)
    assert record["grad_norm"] > 0
