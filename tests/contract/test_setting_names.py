"""Settings that errors, warnings and help texts name exist."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from arlarena.console import settings as console
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.shared_settings import Gpus, RunSettings
from arlarena.rollout import settings as rollout
from arlarena.rollout.evaluation.openenv.rules import OpenEnvSettings
from arlarena.trainer import settings as trainer
from arlarena.trainer.objectives import RECIPES, Recipe
from arlarena.trainer.objectives.advantages import ADVANTAGES
from arlarena.trainer.objectives.aggregation import AGGREGATIONS
from arlarena.trainer.objectives.clipping import CLIPS
from arlarena.trainer.objectives.hyperparameters import hyperparameters
from arlarena.trainer.policy_settings import PolicySettings, TinyPolicy

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "run": RunSettings,
    "redis": console.BrokerSettings,
    "console": console.ConsoleSettings,
    "console.threads": console.Threads,
    "console.gpus": Gpus,
    "environment": EnvironmentSettings,
    "inference": InferenceSettings,
    "rollout": rollout.RolloutSettings,
    "evaluation": rollout.EvaluationSettings,
    "policy": PolicySettings,
    "policy.tiny": TinyPolicy,
    "clone": trainer.CloneSettings,
    "trainer": trainer.TrainerSettings,
}
# Words that follow a table's name and are no key.
WORDS = {"says", "of", "is", "makes", "gives", "that", "records", "and", "are", "nothing"}
# Names with an underscore that users meet and that are no setting: environments, files, methods, columns of metrics.
OTHERS = {
    "tir_math",
    "reinforce_pp",
    "from_pretrained",
    "save_pretrained",
    "eos_token",
    "chat_template",
    "tokenizer_config",
}
SETTINGS = {name for table in TABLES.values() for name in table.model_fields} | {field.name for field in fields(Recipe)}
OF_CLIPS = {name for clip in CLIPS.values() for name in hyperparameters(clip.config)}
OF_OPENENV = set(OpenEnvSettings.__struct_fields__)
KNOWN = SETTINGS | OF_CLIPS | OF_OPENENV | OTHERS | set(RECIPES) | set(ADVANTAGES) | set(AGGREGATIONS) | set(CLIPS)


def sources(*parts: str) -> Iterator[tuple[Path, ast.Module]]:
    for part in parts:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def texts(node: ast.AST) -> str:
    """All text below a node, in order, with a blank where a value goes."""
    found = []
    for child in ast.walk(node):
        if isinstance(child, ast.JoinedStr):
            found += [str(part.value) if isinstance(part, ast.Constant) else " {} " for part in child.values]
            found.append(" ")
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            found += [child.value, " "]
    return "".join(found)


def test_a_table_in_brackets_is_followed_by_one_of_its_keys() -> None:
    seen, wrong = 0, []
    for path, tree in sources("services", "environments", "sandbox", "client", "proto"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for table, key in re.findall(r"\[([a-z.]+)\] ([a-z]\w*)", node.value):
                    if table in TABLES and key not in WORDS:
                        seen += 1
                        wrong += [f"{path}:{node.lineno} [{table}] {key}"] * (key not in TABLES[table].model_fields)
    assert wrong == []
    assert seen > 30


def test_names_in_the_errors_of_configurations_and_recipes_are_settings() -> None:
    seen, wrong = 0, []
    for path, tree in sources(*(f"services/{name}/arlarena/{name}" for name in ("trainer", "console", "rollout"))):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            kind = ast.unparse(node.exc.func)
            if kind not in ("ConfigError", "RecipeError", "RunError", "LaunchError", "CheckpointError"):
                continue
            for name in re.findall(r"(?<![\w./])[a-z]+(?:_[a-z0-9]+)+\b", texts(node.exc)):
                seen += 1
                wrong += [f"{path}:{node.lineno} {name}"] * (name not in KNOWN)
    assert wrong == []
    assert seen > 20
