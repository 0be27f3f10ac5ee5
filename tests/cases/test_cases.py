"""Every program below this folder exits with 0: on a quiet machine, and, in the slow tests, on a busy one."""

import os
from pathlib import Path

import pytest
from support.processes import forking_support

TESTS = Path(__file__).parents[1]
PROGRAMS = sorted(Path(__file__).parent.glob("*/*.py"))
# They load every core until limits of CPU time are reached, make a model and start its server, import sympy in many
# sandboxes, or start a server whose imports were made for other tests. `make test` has shorter tests of each:
# test_endings, test_judge, test_inference_pieces, test_inference_parameters, test_rollout_without_turns, test_replies,
# test_env_outcomes_check, test_env_internal_errors.
LONG = {
    "judge_cpu_limit",
    "sandbox_cpu_limit",
    "chat_neutral_parameters",
    "error_last_line",
    "logprobs_pieces",
    "prompt_never_fits",
    "batch_one_exception",
    "reward_not_finite",
    "think_prefilled",
}


@pytest.mark.processes
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("program", "options"),
    [
        pytest.param(path, options, id=f"{path.stem}{''.join(options)}", marks=[pytest.mark.slow] if slow else [])
        for path in PROGRAMS
        for options in ([], ["--busy"])
        for slow in [bool(options) or path.stem in LONG]
    ],
)
def test_the_program_finds_nothing_wrong(program, options):
    module = ".".join(program.relative_to(TESTS).with_suffix("").parts)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = forking_support.run([module, *options], timeout=280, env=variables, imports="arlarena.env_server")
    assert done.returncode == 0, done.stdout + done.stderr
