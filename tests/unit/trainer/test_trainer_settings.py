"""What `python -m arlarena.trainer.settings` refuses before anything starts."""

import pytest

from arlarena.proto.config import ConfigError
from arlarena.trainer.settings import CloneSettings, TrainerSettings, check_file


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[trainer]\nrecipe = "sampoo"', r"run\.toml: \[trainer\] unknown recipe 'sampoo': did you mean 'sampo'"),
        ('[trainer.recipe_overrides]\nclip = "ppo2"', r"run\.toml: \[trainer\] sampo\.clip = 'ppo2'"),
        ("[trainer.recipe_overrides]\nomegga = 1.0", "no choice 'omegga': did you mean 'omega'"),
        ("[trainer]\ngroup_size = 1", "drops every group of one"),
        (
            '[trainer]\nrecipe = "grpo"\npolicy_anchor = "decoupled"\ngroups_per_step = 4\nminibatch_groups = 4',
            "clipping is dead",
        ),
        ("[trainer]\nstepz = 3", "unknown key 'stepz'"),
        ("[clone]\nlr = -1.0", "lr = -1.0"),
        ('[trainer]\ndevice = "gpu"', r"\[trainer\] device = 'gpu'"),
        ('[trainer]\ndevice = "cuda:99"', r'\[trainer\] device = "cuda:99" is GPU 99 here, and torch sees \d+ of them'),
        ('[clone]\ndevice = "cuda:99"', r'\[clone\] device = "cuda:99" is GPU 99'),
    ],
)
def test_a_run_that_cannot_work_is_refused_with_the_reason(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        check_file(write(tmp_path, text))


@pytest.mark.parametrize(
    ("chosen", "gpus", "rank", "device"),
    [
        ("auto", 0, None, "cpu"),
        ("auto", 1, None, "cuda:0"),
        ("auto", 4, "3", "cuda:3"),
        ("cuda", 4, "3", "cuda:3"),
        ("cuda:2", 4, None, "cuda:2"),
        ("cpu", 4, "3", "cpu"),
    ],
)
def test_a_rank_has_the_gpu_of_its_number(monkeypatch, chosen, gpus, rank, device):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert TrainerSettings(device=chosen).torch_device() == CloneSettings(device=chosen).torch_device() == device


@pytest.mark.parametrize(("chosen", "gpus", "rank"), [("cuda", 0, None), ("auto", 1, "1"), ("cuda:1", 1, None)])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, chosen, gpus, rank):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", rank or "0")
    with pytest.raises(ConfigError, match=f'device = "{chosen}" is GPU . here, and torch sees {gpus}'):
        TrainerSettings(device=chosen).torch_device()


def test_the_defaults_are_accepted(tmp_path):
    check_file(write(tmp_path, "[run]\nname = 'x'"))
