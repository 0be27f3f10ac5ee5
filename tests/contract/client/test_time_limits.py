"""The default time limits of a step are consistent: each caller waits longer than the limit of its callee."""

from arlarena.client.environments import DEADLINE_SHARE, REQUEST_S
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environments.tir_math.options import SandboxOptions
from arlarena.rollout.settings import RolloutSettings
from arlarena.sandbox.forks import ForkSettings


def test_each_time_limit_exceeds_the_limits_that_it_contains():
    program_s = ForkSettings().max_wall_factor * SandboxOptions().wall_s
    server, rollout = EnvironmentSettings(), RolloutSettings()
    assert program_s < server.step_timeout_s < server.batch_deadline_s
    for request_s in (REQUEST_S, rollout.environment_timeout_s):
        assert max(server.step_timeout_s, server.reset_timeout_s, server.expert_timeout_s) < DEADLINE_SHARE * request_s
