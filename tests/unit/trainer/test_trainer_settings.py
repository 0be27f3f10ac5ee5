"""What `python -m arlarena.trainer.settings` refuses before anything starts."""

import pytest

from arlarena.proto.config import ConfigError
from arlarena.trainer.settings import check_file


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
    ],
)
def test_a_run_that_cannot_work_is_refused_with_the_reason(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        check_file(write(tmp_path, text))


def test_the_defaults_are_accepted(tmp_path):
    check_file(write(tmp_path, "[run]\nname = 'x'"))
