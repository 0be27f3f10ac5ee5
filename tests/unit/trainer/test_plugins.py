"""Recipes, clips, advantages, filters and aggregations of plugins, and their errors."""

import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch

from arlarena.proto.config import ConfigError
from arlarena.trainer.__main__ import _parser, _settings
from arlarena.trainer.objectives import (
    Batch,
    ClipConfig,
    Denominators,
    GroupAdvantages,
    GroupRewards,
    Recipe,
    RecipeError,
    RunContext,
    Selection,
    check,
    compute_advantages,
    hyperparameter,
    load_plugins,
    policy_loss,
    recipe,
    register_advantage,
    register_aggregation,
    register_clip,
    register_filter,
    register_recipe,
    registry,
)
from arlarena.trainer.preflight import check_file

CLIP = """
    from dataclasses import dataclass
    from arlarena.trainer.objectives import ClipConfig, Recipe, hyperparameter, register_clip, register_recipe

    @dataclass(frozen=True, slots=True)
    class SoftConfig(ClipConfig):
        softness: float = hyperparameter(0.5, "how soft", above=0, at_most=2)

    @register_clip("soft", SoftConfig)
    def soft(terms, config):
        return -terms.advantages * terms.ratio * config.softness

    register_recipe(Recipe(name="softly", clip="soft", clip_options={"softness": 0.25}))
"""


@pytest.fixture(autouse=True)
def registries():
    """Undo registrations and imports after each test."""
    restore, imported = [each.snapshot() for each in registry._REGISTRIES], set(sys.modules)
    yield
    for each in restore:
        each()
    for name in set(sys.modules) - imported:
        if name.startswith("plug"):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function `(name, text)` that writes a Python module, which can then be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return write


def batch():
    return Batch(
        log_probs=torch.tensor([-1.0, -0.5], dtype=torch.float64, requires_grad=True),
        old_log_probs=torch.tensor([-1.2, -0.4], dtype=torch.float64),
        row_of_token=torch.tensor([0, 1]),
        trajectory_of_row=torch.tensor([0, 1]),
        advantages=torch.tensor([2.0, -1.0], dtype=torch.float64),
    )


def loss_of(method):
    return policy_loss(method, batch(), Denominators.count([batch()]))[0].item()


def test_a_clip_from_a_module_gets_its_hyperparameter_from_recipe_and_override(module):
    load_plugins([module("plug_soft", CLIP)])
    ratios = torch.tensor([0.2, -0.1], dtype=torch.float64).exp()
    for method, softness in ((recipe("softly"), 0.25), (recipe("softly", softness=2), 2.0)):
        assert loss_of(method) == pytest.approx((-2.0 * ratios[0] + ratios[1]).item() / 2 * softness)
    assert recipe("grpo", clip="soft").clip_config.softness == 0.5


def test_a_change_of_the_clip_drops_the_hyperparameters_that_the_new_one_lacks(module):
    load_plugins([module("plug_dropped", CLIP)])
    assert recipe("softly", clip="ppo", clip_low=0.1).clip_options == {"clip_low": 0.1}
    assert recipe("sampo", clip="soft").clip_options == {"clip_low": 3e-3, "clip_high": 4e-3}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("softli", {}, "unknown recipe 'softli': did you mean 'softly'"),
        ("softly", {"softnes": 1}, "recipe 'softly' has no choice 'softnes': did you mean 'softness'"),
        ("softly", {"softness": 0}, r"softly\.softness = 0 must be above 0 and at most 2"),
        ("softly", {"softness": 2.5}, "at most 2"),
        ("softly", {"softness": "much"}, "must be a finite number"),
        ("softly", {"softness": None}, "must be a finite number"),
        (
            "softly",
            {"tau_positive": 1.0},
            "clip 'soft' has no hyperparameter 'tau_positive'; clips with this hyperparameter: 'sapo'",
        ),
        (
            "grpo",
            {"softness": 1},
            "clip 'ppo' has no hyperparameter 'softness'; clips with this hyperparameter: 'soft'",
        ),
        ("grpo", {"clip": "sofd"}, r"grpo\.clip = 'sofd': did you mean 'soft'"),
    ],
)
def test_an_invalid_hyperparameter_is_named(module, name, overrides, message):
    load_plugins([module("plug_mistakes", CLIP)])
    with pytest.raises(RecipeError, match=message):
        recipe(name, **overrides)


def test_advantage_filter_and_aggregation_can_be_registered():
    @register_advantage("returns", batch_baseline=True)
    def returns(groups, config):
        return [GroupAdvantages(total=[list(turns) for turns in g.rewards], episode=[]) for g in groups]

    register_filter("rich")(lambda returns, _successes: max(returns) > 1)
    register_aggregation("half")(lambda batch, _of, _length: batch.token_ones() / 2)
    method = Recipe(name="mine", advantage="returns", filter="rich", aggregation="half", clip="reinforce")
    (result,) = compute_advantages(method, [GroupRewards(rewards=[[1.0, 2.0], [3.0]])])
    assert result.total == [[1.0, 2.0], [3.0]]
    assert loss_of(method) == pytest.approx((2.0 * 1.0 - 1.0 * 0.5) / 2)
    selection = Selection(method.filter, 1)
    assert [selection.offer("a", [1.0]).value, selection.offer("b", [2.0]).value] == ["dropped", "kept"]
    check(
        Recipe(name="alone", advantage="returns"), RunContext(updates_per_batch=2, policy_anchor="bypass", group_size=1)
    )


def test_results_of_a_wrong_shape_are_refused():
    register_clip("mean")(lambda terms, _config: terms.ratio.mean())
    with pytest.raises(
        ValueError, match=r"clip 'mean' returned losses of shape \(\); it must be \(2,\), one value per token"
    ):
        loss_of(recipe("grpo", clip="mean"))
    register_advantage("few")(lambda groups, _config: [GroupAdvantages([[0.0]], []) for _ in groups])
    with pytest.raises(ValueError, match=r"advantage .few. returned .* must return one value for each turn"):
        compute_advantages(recipe("grpo", advantage="few"), [GroupRewards(rewards=[[1.0, 2.0]])])


@dataclass(frozen=True)
class Shadowing(ClipConfig):
    gamma: float = hyperparameter(0.5, "a choice of recipes has this name")


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: register_clip("ppo")(lambda *_: None), "clip 'ppo' is registered already; choose another name"),
        (lambda: register_recipe(Recipe(name="grpo")), "recipe 'grpo' is registered already"),
        (
            lambda: register_filter("a-b")(lambda *_: True),
            "filter 'a-b': a name may have only letters, digits and underscores",
        ),
        (lambda: register_clip("c", dict), "must be a subclass of ClipConfig"),
        (
            lambda: (register_clip("c", Shadowing)(min), Recipe(name="r", clip="c")),
            "every recipe already has a field 'gamma'",
        ),
    ],
)
def test_an_invalid_registration_is_refused(register, message):
    with pytest.raises(RecipeError, match=message):
        register()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "plugin 'plug': there is no module 'plug': install its package, or put its folder on PYTHONPATH$"),
        (
            "import nothing_such",
            "it cannot be imported: ModuleNotFoundError: No module named 'nothing_such'",
        ),
        ("1 / 0", "it cannot be imported: ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", "it cannot be imported: ValueError: one$"),
        ("raise SystemExit(3)", "it cannot be imported: SystemExit: 3"),
        ("def f(:", "it cannot be imported: SyntaxError"),
        (
            "from arlarena.trainer.objectives import Recipe\nRecipe(name='own', clip='gspoo')",
            "plugin 'plug': own.clip = 'gspoo': did you mean 'gspo'",
        ),
        (CLIP + "    register_recipe(Recipe(name='sampo'))", "plugin 'plug': recipe 'sampo' is registered already"),
    ],
)
def test_a_failing_plugin_is_named_in_one_line_and_registers_nothing(module, tmp_path, text, message):
    if text is not None:
        module("plug", text)
    (tmp_path / "run.toml").write_text('[trainer]\nplugins = ["plug"]\n')
    with pytest.raises(ConfigError, match=message) as refused:
        check_file(tmp_path / "run.toml")
    assert len(str(refused.value).splitlines()) == 1
    assert not {"soft", "softly", "own"} & {name for each in registry._REGISTRIES for name in each}


def test_two_plugins_with_one_name_are_refused(module):
    with pytest.raises(RecipeError, match="plugin 'plug_b': clip 'soft' is registered already"):
        load_plugins([module("plug_a", CLIP), module("plug_b", CLIP)])


def test_an_installed_plugin_is_found_by_its_entry_point(module, tmp_path):
    module("plug_installed", CLIP)
    info = tmp_path / "soft_objective-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: soft-objective\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[arlarena.objectives]\nsoft = plug_installed\n")
    load_plugins()
    assert recipe("softly").clip == "soft"
    with pytest.raises(RecipeError, match=r"no module 'plug_instaled'.*did you mean 'plug_installed'"):
        load_plugins(["plug_instaled"])
    (tmp_path / "plug_installed.py").unlink()
    (info / "entry_points.txt").write_text("[arlarena.objectives]\nsoft = plug_gone\n")
    with pytest.raises(RecipeError, match="plugin 'soft' of soft-objective: there is no module 'plug_gone'"):
        load_plugins()


def test_a_configuration_with_a_plugin_is_accepted(module, tmp_path):
    module("plug_config", CLIP)
    text = '[trainer]\nrecipe = "softly"\nplugins = ["plug_config"]\n[trainer.recipe_overrides]\nsoftness = {}\n'
    (tmp_path / "run.toml").write_text(text.format(1.5))
    check_file(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text(text.format(3))
    with pytest.raises(ConfigError, match=r"run\.toml: \[trainer\] softly\.softness = 3 must be above 0 and at most 2"):
        check_file(tmp_path / "run.toml")


def test_plugins_of_the_command_line_are_added_to_those_of_the_file(tmp_path):
    (tmp_path / "run.toml").write_text('[trainer]\nplugins = ["a"]\n')
    common = ["--model", "m", "--config", str(tmp_path / "run.toml"), "--plugin", "b.c", "--plugin", "d"]
    for command in (["train", "--run-dir", "r"], ["replay", "groups"]):
        assert _settings(_parser().parse_args(command + common)).plugins == ("a", "b.c", "d")
