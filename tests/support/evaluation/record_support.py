"""Creates records of attempts for tests of statistics."""

from typing import Any

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, EnvironmentPlan, EvaluationPlan, TurnRecord


def turn(observation: str = "", action: str = "", **changes: Any) -> TurnRecord:
    values: dict[str, Any] = {
        "response": action,
        "reward": 0.0,
        "action_valid": True,
        "format_valid": True,
        "no_action": False,
        "state_key": "",
        "finish": "stop",
    }
    return TurnRecord(observation=observation, action=action, **(values | changes))


def attempt(
    index: int, number: int = 0, success: bool = False, environment: str = "corridor", **changes: Any
) -> AttemptRecord:
    values: dict[str, Any] = {
        "task_id": f"{environment}/test/{index}",
        "content_key": f"room{index}",
        "kind": "",
        "status": "ok",
        "score": float(success),
        "total_reward": 10.0 * success,
        "steps": 5,
        "terminated": success,
        "truncated": not success,
        "turns": (),
        "metrics": {},
        "usage": TokenUsage(),
        "requests": 0,
        "started": 0.0,
        "seconds": 1.0,
    }
    key = AttemptKey(environment, "test", index, number)
    return AttemptRecord(key=key, success=success, **(values | changes))


def plan(indices: dict[str, tuple[int, ...]], attempts: int = 1) -> EvaluationPlan:
    environments = tuple(
        EnvironmentPlan(name, "", "1", "full", "tags", {}, "test", numbers) for name, numbers in indices.items()
    )
    return EvaluationPlan(1, "expert", "", "plain", {}, {}, environments, attempts, 0, False)
