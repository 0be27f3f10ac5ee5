"""Every metric is in the glossary, has one definition, and is computed in one place."""

import ast
import runpy
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.metrics.diagnostics import episode_metrics, training_metrics

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"training": "trainer", "evaluation": "rollout", "episode": "rollout"}
GLOSSARY: dict[str, dict[str, tuple[str, str, str]]] = tomllib.loads(
    (ROOT / "proto" / "arlarena" / "proto" / "metrics.toml").read_text(encoding="utf-8")
)
# Keys of dictionaries in the modules of training metrics that are no metrics.
NO_METRICS = {
    "loop": {"max_minutes", "max_environment_steps"},  # limits of the run
    "metrics.behaviour": {"other"},  # remaining transitions between actions
    "learning.learner": {"state"},  # of the optimiser
}
# Metrics that one module of training writes to two records of a step.
WRITTEN_TWICE = {"step"}


def source(section: str, module: str) -> Path:
    service = SERVICES[section]
    return ROOT / "services" / service / "arlarena" / service / f"{module.replace('.', '/')}.py"


def keys_written(path: Path) -> Counter[str]:
    """The text keys of dictionaries that a module writes."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            found += node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found.append(node.slice)
    return Counter(key.value for key in found if isinstance(key, ast.Constant) and isinstance(key.value, str))


@pytest.mark.parametrize("section", GLOSSARY)
def test_the_module_of_a_metric_writes_it_once_and_no_other_module_does(section: str) -> None:
    entries = GLOSSARY[section]
    written = {module: keys_written(source(section, module)) for _, _, module in entries.values()}
    for name, (unit, definition, module) in entries.items():
        assert unit, name
        assert definition, name
        if "<" in name:
            assert f'f"{name.partition("<")[0]}' in source(section, module).read_text(encoding="utf-8"), name
        else:
            places = {each: keys[name] for each, keys in written.items() if keys[name]}
            assert places.keys() == {module}, name
            # An evaluation has a result of the whole set, of kinds of tasks and of single episodes.
            assert section == "evaluation" or places[module] == 1 + (name in WRITTEN_TWICE), name


def test_the_modules_of_training_metrics_write_no_other_keys() -> None:
    entries = GLOSSARY["training"]
    for module in {module for _, _, module in entries.values()}:
        unknown = keys_written(source("training", module)).keys() - entries.keys()
        assert unknown == NO_METRICS.get(module, set()), module


def test_figures_of_an_empty_step_are_metrics_of_training() -> None:
    figures = episode_metrics([]) | training_metrics([], StalenessPolicy(0, 0, {}))
    assert len(figures) > 20
    assert figures.keys() <= GLOSSARY["training"].keys()


def test_a_name_means_the_same_in_training_and_evaluation() -> None:
    training, evaluation = GLOSSARY["training"], GLOSSARY["evaluation"]
    shared = training.keys() & evaluation.keys()
    assert {"format_valid", "action_valid"} <= shared
    for name in shared:
        assert training[name][:2] == evaluation[name][:2], name


def test_the_page_of_metrics_is_the_one_that_the_script_writes() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["metrics"]()
    page = ROOT / "docs" / "reference" / "metrics.md"
    assert page.read_text(encoding="utf-8") == written, "run python -m scripts.reference_pages"
