"""Invalid groups are refused with the reason. A group with any single changed field is refused or harmless."""

import itertools
import math
import time

import msgspec
import pytest

from arlarena.proto.trajectory import (
    GroupTask,
    PolicyVersion,
    Sampling,
    SchemaError,
    Task,
    VersionSpan,
    decode_group,
    encode,
    pack_floats,
)
from arlarena.trainer.batching.scoring import score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.batching.validation import MAX_PROMPT_TOKENS, MIN_TEMPERATURE, refusal_reason
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.objectives import RECIPES, recipe
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("run", 3, "now")
VOCABULARY = 137
NAN, INF = math.nan, math.inf


@pytest.fixture
def group(make_group):
    return make_group("g", [True, False, True], NOW, turns=3)


def why(group, method="sampo", **options):
    return refusal_reason(group, vocabulary=VOCABULARY, recipe=recipe(method, **options))


def corrupt(group, **fields):
    """Change fields of turn 1 of member 2."""
    turn = group.trajectories[2].turns[1]
    for name, value in fields.items():
        setattr(turn, name, value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_valid_group_is_accepted(group, name):
    assert refusal_reason(group, vocabulary=VOCABULARY, recipe=recipe(name)) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"response_ids": b"\x05\0\0\0\x89\0\0\0\x06\0\0\0\x02\0\0\0"}, "token id 137 is outside [0, 137)"),
        ({"response_ids": b"\x05\0\0\0\xff\xff\xff\xff\x06\0\0\0\x02\0\0\0"}, "token id -1 is outside [0, 137)"),
        ({"new_prompt_ids": b"\x01\0\0\0\0\0\0\x80"}, "token id -2147483648 is outside [0, 137)"),
        ({"new_prompt_ids": b"\x01\0\0\0\xff\xff\xff\x7f"}, "token id 2147483647 is outside [0, 137)"),
        ({"new_prompt_ids": b""}, "its prompt is empty, so nothing predicts the first token of the response"),
        ({"logprobs": pack_floats([-0.1, NAN, -0.1, -0.1])}, "a log-prob is not finite"),
        ({"logprobs": pack_floats([-0.1, INF, -0.1, -0.1])}, "a log-prob is not finite"),
        ({"logprobs": pack_floats([-0.1, -INF, -0.1, -0.1])}, "a log-prob is not finite"),
        ({"logprobs": pack_floats([-0.1, 0.002, -0.1, -0.1])}, "log-prob 0.002 is above 0"),
        ({"logprobs": b"\0" * 12}, "token ids, log-probs and loss mask have different lengths"),
        ({"loss_mask": b"\1"}, "token ids, log-probs and loss mask have different lengths"),
        ({"new_prompt_ids": b"\1\0\0"}, "token ids, log-probs and loss mask have different lengths"),
        ({"reward": NAN}, "its reward is nan"),
        ({"reward": -INF}, "its reward is -inf"),
        ({"state_key": ""}, "its state_key is empty, but the method compares turns by this key; choose another anchor"),
    ],
)
def test_an_invalid_turn_is_named_with_the_reason(group, fields, reason):
    corrupt(group, **fields)
    assert why(group) == f"member 2, turn 1: {reason}"


def test_the_first_turn_of_an_episode_must_not_continue_another(group):
    group.trajectories[1].turns[0].reset = False
    assert why(group) == "member 1, turn 0: the first turn must have `reset` set to true"
    with pytest.raises(SchemaError, match="the first turn of an episode must have `reset`"):
        decode_group(encode(group))


def test_a_continuing_turn_may_add_no_prompt_tokens(group):
    corrupt(group, new_prompt_ids=b"", reset=False)
    assert why(group) is None


def test_prompts_above_the_total_length_limit_are_refused(group):
    """Each of 6,000 turns continues the turn before, so the prompts together have more than 72 million tokens."""
    (turn, *_), count = group.trajectories[2].turns, 6000
    rest = msgspec.structs.replace(turn, new_prompt_ids=b"", reset=False)
    group.trajectories[2].turns = (turn, *[rest] * count)
    tokens = sum(4 + 4 * number for number in range(count + 1))
    assert tokens > MAX_PROMPT_TOKENS
    assert why(group) == f"member 2: its prompts have {tokens} tokens in total, more than {MAX_PROMPT_TOKENS}"
    assert len(encode(group)) < MAX_PROMPT_TOKENS / 4


@pytest.mark.parametrize(
    "edges",
    [[], [(0, 3)], [(1, 4)], [(0, 5)], [(0, 2), (3, 4)], [(0, 3), (2, 4)], [(2, 4), (0, 2)], [(0, 4), (4, 3), (3, 4)]],
)
def test_spans_must_cover_the_response_in_order(group, edges):
    corrupt(group, spans=tuple(VersionSpan(*edge, NOW) for edge in edges))
    shown = ", ".join(f"[{start}, {end})" for start, end in edges) or "none"
    expected = f"member 2, turn 1: its spans of versions ({shown}) do not cover its 4 response tokens in order"
    assert why(group) == expected


@pytest.mark.parametrize("edges", [[(0, 4)], [(0, 1), (1, 4)], [(0, 0), (0, 4)], [(0, 2), (2, 2), (2, 4)]])
def test_spans_that_cover_the_response_are_accepted(group, edges):
    corrupt(group, spans=tuple(VersionSpan(*edge, NOW) for edge in edges))
    assert why(group) is None


@pytest.mark.parametrize("spans", [(), (VersionSpan(0, 0, NOW),)])
def test_an_empty_response_is_accepted(group, spans):
    corrupt(group, response_ids=b"", logprobs=b"", loss_mask=b"", spans=spans)
    assert why(group) is None


def test_a_log_prob_rounded_above_zero_is_accepted(group):
    corrupt(group, logprobs=pack_floats([0.0005, 0.0, -0.1, -200.0]))
    assert why(group) is None


@pytest.mark.parametrize(("anchor", "field"), [("state", "state_key"), ("observation", "observation_key")])
def test_an_empty_anchor_is_refused_only_for_methods_with_anchors(group, anchor, field):
    corrupt(group, **{field: ""})
    assert f"its {field} is empty" in why(group, "gigpo", anchor=anchor)
    for name in ("grpo", "gspo", "empg", "rloo"):
        assert why(group, name) is None
    other = {"state": "observation", "observation": "state"}[anchor]
    assert why(group, "gigpo", anchor=other) is None


def test_similar_anchors_need_the_observation_text(group):
    assert "member 0, turn 0: its observation is empty" in why(group, "gigpo", anchor="similar")


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (Sampling(temperature=0.0), "it was sampled at temperature 0: only 0.01 and above"),
        (Sampling(temperature=-1.0), "at temperature -1:"),
        (Sampling(temperature=NAN), "at temperature nan, which is not finite"),
        (Sampling(temperature=INF), "at temperature inf, which is not finite"),
        (Sampling(temperature=1e-4), "greedy decoding"),
        (Sampling(top_p=0.95), "it was sampled at top_p 0.95 and top_k 0: only the full distribution"),
        (Sampling(top_p=NAN), "top_p nan"),
        (Sampling(top_k=20), "top_p 1 and top_k 20"),
    ],
)
def test_truncated_and_greedy_sampling_are_refused(group, sampling, reason):
    group.sampling = sampling
    assert reason in why(group)


@pytest.mark.parametrize("sampling", [Sampling(temperature=MIN_TEMPERATURE), Sampling(temperature=2.0, top_k=-1)])
def test_full_distribution_sampling_is_accepted(group, sampling):
    group.sampling = sampling
    assert why(group) is None


def test_a_wrong_number_of_members_is_refused(group):
    group.size = 4
    assert why(group) == "it has 3 members, but its size field is 4"
    group.trajectories, group.size = (), 0
    assert why(group) == "it has no members"


def test_a_score_must_be_finite(group):
    group.trajectories[1].score = NAN
    assert why(group) == "member 1: its score is nan"


@pytest.mark.parametrize("reward", [1e300, 1.7e308, -1e20])
def test_rewards_whose_squares_overflow_are_refused(group, reward):
    corrupt(group, reward=reward)
    assert why(group) == "its rewards are so large that the sum of their squares overflows"
    corrupt(group, reward=math.copysign(1e6, reward))
    assert why(group) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"group_id": "h"}, "its id is 'g', but 'h' was issued"),
        ({"size": 8}, "its size is 3, but 8 was issued"),
        ({"task": Task("webshop", "train", 0)}, "its environment is 'sokoban', but 'webshop' was issued"),
        ({"task": Task("sokoban", "test", 0)}, "its split is 'train', but 'test' was issued"),
        ({"task": Task("sokoban", "train", 9)}, "its index is 0, but 9 was issued"),
        ({"task": Task("sokoban", "train", 0, seed=5)}, "its seed is 0, but 5 was issued"),
        ({"task": Task("sokoban", "train", 0, name="room")}, None),
    ],
)
def test_a_group_must_match_its_task(group, change, reason):
    issued = msgspec.structs.replace(GroupTask("g", group.task, 3, Sampling()), **change)
    assert refusal_reason(group, vocabulary=VOCABULARY, recipe=recipe("sampo"), task=issued) == reason


def test_validation_takes_microseconds_per_turn(make_group):
    groups = [make_group(f"g{number}", [True] * 8, NOW, turns=50) for number in range(4)]
    for one in groups:
        for trajectory in one.trajectories:
            for turn in trajectory.turns:
                turn.new_prompt_ids = turn.new_prompt_ids * 200  # 800 tokens
    started = time.process_time()
    assert [why(each) for each in groups] == [None] * 4
    assert (time.process_time() - started) / (4 * 8 * 50) < 200e-6


# ---- any single field changed --------------------------------------------------------------------------------------

ODD = {
    float: [NAN, INF, -INF, 0.0, -0.0, -1.0, 1e-320, 0.3, 1.7e308],
    int: [-1, 0, 1, 2, 7, 1 << 31, (1 << 63) - 1],
    str: ["", "other", "\N{SNOWMAN}" * 40],
    bool: [True, False],
    bytes: [b"", b"\0", b"\1\1\1\1", b"\0" * 16, b"\xff" * 16, b"\0\0\xc0\x7f" * 4, b"\0\0\x80\x7f" * 4, b"\1" * 64],
}


def variants(value):
    """Yield unusual values of the type of `value`."""
    for kind, odd in ODD.items():
        if type(value) is kind:
            yield from odd
    if isinstance(value, tuple):
        yield from ((), value * 2, value[::-1], value[:-1])
    if isinstance(value, dict):
        yield {"odd": NAN}


def changed_copies(path):
    """Return a function from a group to (description, changed group) pairs.

    In each pair, one field of the struct at `path` in the group has an unusual value.
    """

    def make(fresh):
        struct = fresh
        for step in path:
            struct = struct[step] if isinstance(step, int) else getattr(struct, step)
        return struct

    def changed(fresh, name, value):
        """Return `fresh` with one field of the struct at `path` replaced. Structs along the path are copied."""
        made = msgspec.structs.replace(make(fresh), **{name: value})
        for depth in range(len(path) - 1, -1, -1):
            parent = fresh
            for step in path[:depth]:
                parent = parent[step] if isinstance(step, int) else getattr(parent, step)
            if isinstance(path[depth], int):
                made = (*parent[: path[depth]], made, *parent[path[depth] + 1 :])
            else:
                made = msgspec.structs.replace(parent, **{path[depth]: made})
        return made

    def cases(fresh):
        struct = make(fresh)
        for field in msgspec.structs.fields(struct):
            for value in variants(getattr(struct, field.name)):
                try:
                    yield f"{field.name} = {value!r}"[:80], changed(fresh, field.name, value)
                except ValueError:
                    continue  # the constructor of Turn checks the lengths of its arrays

    return cases


PATHS = {
    "group": (),
    "task": ("task",),
    "sampling": ("sampling",),
    "member": ("trajectories", 1),
    "turn": ("trajectories", 1, "turns", 1),
    "last turn": ("trajectories", 2, "turns", 2),
    "span": ("trajectories", 1, "turns", 1, "spans", 0),
    "version": ("trajectories", 1, "turns", 1, "spans", 0, "version"),
}


# Three of the four recipes are slow: each place takes one to two seconds.
@pytest.mark.parametrize(
    "name", ["sampo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("empg", "dr_grpo", "dapo_gigpo"))]
)
@pytest.mark.parametrize("place", list(PATHS))
def test_any_changed_field_is_refused_or_harmless(make_group, policy, place, name):
    method = recipe(name)
    learner = Learner(policy, None, method, TrainerSettings(device="cpu", kl_coefficient=0.0))
    others = [make_group("other", [True, False], NOW)]
    outcomes = {"refused": 0, "harmless": 0}
    for what, invalid in changed_copies(PATHS[place])(make_group("g", [True, False, True], NOW, turns=3)):
        refusal_reason(invalid, vocabulary=VOCABULARY, recipe=method)
        try:
            received = decode_group(encode(invalid))
        except SchemaError:
            outcomes["refused"] += 1
            continue
        reason = refusal_reason(received, vocabulary=VOCABULARY, recipe=method)
        if reason is not None:
            assert reason
            outcomes["refused"] += 1
            continue
        outcomes["harmless"] += 1
        for growing in (False, True):
            assert_harmless(learner, method, [received, *others], growing, what)
    assert sum(outcomes.values()) > 3, outcomes
    assert outcomes["harmless"], outcomes


def assert_harmless(learner, method, groups, growing, what):
    """Check that the advantages, and the metrics of an update, are finite."""
    scored = score(
        method, groups, StalenessPolicy(3, 1, {"now": 3}), invalid_penalty=0.1, max_response_tokens=8,
        entropy_fn=learner.mean_entropies, growing=growing,
    )  # fmt: skip
    values = [value for each in scored for turns in each.advantages.total for value in turns]
    assert all(map(math.isfinite, values)), what
    rows = training_samples(scored, "now", growing=growing)
    figures = learner.update([rows], rate=1e-6)
    assert learner.skipped_minibatches == [], what
    assert all(map(math.isfinite, figures.values())), (what, figures)


def test_pairs_of_changed_fields_raise_no_exception(make_group):
    """The fields are set without decoding the group, which would refuse some of the values."""
    turns = changed_copies(PATHS["turn"])
    spans = changed_copies(PATHS["span"])
    count = 0
    for (_, one), number in zip(turns(make_group("g", [True, False, True], NOW, turns=3)), itertools.count()):
        if number % 3 == 0 and one.trajectories[1].turns[1].spans:
            for _, both in spans(one):
                refusal_reason(both, vocabulary=VOCABULARY, recipe=recipe("sampo"))
                count += 1
    assert count > 100
