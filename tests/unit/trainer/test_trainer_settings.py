"""Errors of `python -m arlarena.trainer.settings`, before a run starts."""

import pytest

from arlarena.proto.config import ConfigError, load_table
from arlarena.trainer.preflight import check_file, policy_directory
from arlarena.trainer.settings import CloneSettings, TrainerSettings, load_recipe


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('[trainer]\nrecipe = "sampoo"', r"run\.toml: \[trainer\] unknown recipe 'sampoo': did you mean 'sampo'"),
        ('[trainer.recipe_overrides]\nclip = "ppo2"', r"run\.toml: \[trainer\] sampo\.clip = 'ppo2'"),
        ("[trainer.recipe_overrides]\nomegga = 1.0", "no choice 'omegga': did you mean 'omega'"),
        ("[trainer]\ngroup_size = 1", "drops every group with group_size = 1; either set group_size to 2"),
        (
            '[trainer]\nrecipe = "grpo"\npolicy_anchor = "decoupled"\ngroups_per_step = 4\nminibatch_groups = 4',
            "has no effect",
        ),
        ("[trainer]\nstepz = 3", "unknown key 'stepz'"),
        ("[clone]\nlr = -1.0", "lr = -1.0"),
        ('[trainer]\ndevice = "gpu"', r"\[trainer\] device = 'gpu'"),
        ('[trainer]\ndevice = "cuda:99"', r'\[trainer\] device = "cuda:99" means GPU 99, but torch sees \d+ GPUs'),
        ('[clone]\ndevice = "cuda:99"', r'\[clone\] device = "cuda:99" means GPU 99'),
        (
            "[trainer]\nminibatch_groups = 8\ngroups_per_step = 4",
            "minibatch_groups = 8 is above groups_per_step = 4.*set minibatch_groups to 4 or less",
        ),
        (
            '[trainer]\nrecipe = "grpo"\ngroup_size = 1',
            "no baseline; either set group_size to 2 or more, or use recipe = 'r",
        ),
        (
            "[trainer]\nreissue_after_s = 60.0\nno_data_timeout_s = 50.0",
            "reissue_after_s = 60 must be below no_data_timeout_s = 50",
        ),
        (
            '[policy]\npath = "m"\n[policy.tiny]\nhidden = 8',
            r"path selects an existing policy, but \[policy.tiny\] is",
        ),
        ("[policy.tiny]\nheads = 4\nkv_heads = 3", "heads = 4 must be a multiple of kv_heads = 3"),
        ("[policy.tiny]\nhead_dim = 7", "head_dim = 7 must be even"),
        ("[clone]\nmin_score = 1.0", "min_score = 1.0: Input should be less than 1"),
        (
            "[trainer]\nmax_response_tokens = 512\n[policy.tiny]\nmax_positions = 512",
            r"run\.toml: \[trainer\] max_response_tokens = 512 leaves no room.*the policy's context is 512",
        ),
        (
            "[trainer]\nmax_response_tokens = 200\n[inference]\nmax_model_len = 128",
            r"\[inference\] max_model_len is 128 tokens",
        ),
        ("[evaluation]\nmax_tokens = 600", r"\[evaluation\] max_tokens = 600 leaves no room"),
        (
            "[inference]\nmax_model_len = 1024\n[evaluation]\nmax_tokens = 9",
            "1024: the policy has only 512",
        ),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_reason(tmp_path, text, output):
    with pytest.raises(ConfigError, match=output):
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
def test_a_rank_uses_the_gpu_of_its_local_rank(monkeypatch, chosen, gpus, rank, device):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert TrainerSettings(device=chosen).torch_device() == CloneSettings(device=chosen).torch_device() == device


@pytest.mark.parametrize(("chosen", "gpus", "rank"), [("cuda", 0, None), ("auto", 1, "1"), ("cuda:1", 1, None)])
def test_a_missing_gpu_is_refused(monkeypatch, chosen, gpus, rank):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", rank or "0")
    with pytest.raises(ConfigError, match=f'device = "{chosen}" means GPU ., but torch sees {gpus}'):
        TrainerSettings(device=chosen).torch_device()


def test_the_defaults_are_accepted(tmp_path):
    check_file(write(tmp_path, "[run]\nname = 'x'"))


def test_all_errors_are_reported_together(tmp_path):
    text = '[run]\nseed = -1\n[trainer]\nrecipe = "sampoo"\n[clone]\nlr = 0\n[policy.tiny]\nhead_dim = 7'
    with pytest.raises(ConfigError) as refused:
        check_file(write(tmp_path, text))
    assert [line.split("] ")[0].split("[")[1] for line in str(refused.value).splitlines()] == [
        "run", "policy", "clone", "trainer"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("lr_warmup_steps = 6\nsteps = 5", "lr_warmup_steps = 6 is above steps = 5"),
        ("cold_start_steps = 5\nsteps = 5", "cold_start_steps = 5 covers all steps = 5"),
    ],
)
def test_settings_without_effect_in_few_steps_give_warnings(tmp_path, text, warning):
    settings = load_table(write(tmp_path, f"[trainer]\n{text}"), "trainer", TrainerSettings)
    assert warning in " ".join(load_recipe(settings)[1])


FILES = ("config.json", "model.safetensors", "tokenizer.json")


def policy(folder, *files, config='{"max_position_embeddings": 64}'):
    folder.mkdir()
    for file in files:
        (folder / file).write_text(config if file == "config.json" else "")
    return folder


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        (FILES[1:], "lacks config.json;"),
        (FILES[::2], r"lacks weights \(\*\.safetensors\);"),
        (FILES[:2], r"lacks a tokenizer \(tokenizer.json\);"),
        ((), r"lacks config.json, weights \(\*\.safetensors\), a tokenizer"),
    ],
)
def test_a_policy_with_missing_files_is_refused_on_its_machine(tmp_path, files, lacking):
    result = policy(tmp_path / "policy", *files)
    config = write(tmp_path, f'[policy]\npath = "{result}"')
    check_file(config)
    with pytest.raises(ConfigError, match=rf"run.toml: \[policy\] path = '{result}'.*{lacking}"):
        check_file(config, machine=True)


def test_a_missing_shard_of_the_index_is_named(tmp_path):
    result = policy(tmp_path / "policy", "config.json", "tokenizer.json")
    (result / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    with pytest.raises(ConfigError, match=r"lacks a\.safetensors;"):
        policy_directory(str(result), "--model")


def test_a_complete_policy_is_accepted_and_limits_the_responses(tmp_path):
    result = policy(tmp_path / "policy", *FILES)
    check_file(write(tmp_path, f'[policy]\npath = "{result}"'), machine=True)
    with pytest.raises(ConfigError, match=r"max_response_tokens = 64 leaves no room.*context is 64 tokens"):
        check_file(write(tmp_path, f'[policy]\npath = "{result}"\n[trainer]\nmax_response_tokens = 64'), machine=True)


def test_a_missing_policy_is_named_with_its_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"\[policy\] path: model '/nowhere': no such directory"):
        check_file(write(tmp_path, '[policy]\npath = "/nowhere"'), machine=True)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('[trainer]\ndevice = "cpu"\npush_transport = "nccl"', 'push_transport = "nccl" needs a GPU'),
        ("[console.gpus]\ntrainer = [99]", r"\[console.gpus\] trainer = \[99\]: torch sees \d+ GPUs"),
    ],
)
def test_missing_hardware_is_refused_only_with_machine(tmp_path, text, output):
    config = write(tmp_path, text)
    check_file(config)
    with pytest.raises(ConfigError, match=output):
        check_file(config, machine=True)


def test_a_wrong_method_is_reported_beside_a_wrong_number(tmp_path):
    text = '[trainer]\ngroups_per_step = 0\nrecipe = "sampoo"\n'
    with pytest.raises(ConfigError, match=r"(?s)groups_per_step = 0.*'sampoo'.*sampo") as refused:
        check_file(write(tmp_path, text))
    assert str(refused.value).count("groups_per_step") == 1
    with pytest.raises(ConfigError, match=r"recipe = 3: [^\n]*$") as refused:  # reported once
        check_file(write(tmp_path, "[trainer]\nrecipe = 3\n"))
    assert str(refused.value).count("recipe = 3") == 1
