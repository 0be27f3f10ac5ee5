"""Groups and tasks survive encoding and files unchanged, and invalid messages give errors that name the problem."""

import math
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from arlarena.proto.trajectory import (
    SCHEMA_VERSION,
    Group,
    GroupTask,
    PolicyVersion,
    Sampling,
    SchemaError,
    Task,
    Trajectory,
    Turn,
    VersionSpan,
    decode_group,
    decode_group_task,
    encode,
    pack_floats,
    pack_ids,
    prompt_lengths,
    read_groups,
    write_groups,
)

INT32 = 2**31 - 1
AWKWARD_TEXTS = ["", "√ box", "\x00", "a" * 5000, "<think>\n</think>", "🀄" * 3, "\ud7ff"]
AWKWARD_FLOATS = [0.0, -0.0, -1e-45, -87.3, float(np.finfo("f4").min), -math.inf]


def random_text(rng: random.Random) -> str:
    return rng.choice(AWKWARD_TEXTS) or "".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randrange(20)))


def random_version(rng: random.Random) -> PolicyVersion:
    return PolicyVersion(f"run{rng.randrange(9)}", rng.randrange(INT32), f"{rng.getrandbits(128):032x}")


def random_turn(rng: random.Random, *, reset: bool = True) -> Turn:
    length = rng.choice([0, 1, 2, 77])
    cut = rng.randint(0, length)
    return Turn(
        new_prompt_ids=pack_ids(rng.randrange(INT32) for _ in range(rng.randrange(50))),
        response_ids=pack_ids(rng.choice([0, INT32, rng.randrange(INT32)]) for _ in range(length)),
        logprobs=pack_floats(rng.choice([*AWKWARD_FLOATS, -rng.random() * 20]) for _ in range(length)),
        loss_mask=bytes(rng.randrange(2) for _ in range(length)),
        spans=(VersionSpan(0, cut, random_version(rng)), VersionSpan(cut, length, random_version(rng))),
        reward=rng.choice([-0.1, 1e300, rng.uniform(-1, 1)]),
        state_key=random_text(rng),
        observation_key=random_text(rng),
        action_valid=rng.random() < 0.5,
        format_valid=rng.random() < 0.5,
        finish_reason=rng.choice(["stop", "length", "abort"]),
        no_action=rng.random() < 0.5,
        observation=random_text(rng),
        response=random_text(rng),
        action=random_text(rng),
        images=tuple(random_text(rng) for _ in range(rng.randrange(3))),
        reset=reset or rng.random() < 0.3,
    )


def random_group(rng: random.Random) -> Group:
    size = rng.randrange(4)
    trajectories = tuple(
        Trajectory(
            id=random_text(rng),
            seed=rng.getrandbits(62),
            turns=tuple(random_turn(rng, reset=not number) for number in range(rng.randrange(5))),
            terminated=rng.random() < 0.5,
            truncated=rng.random() < 0.5,
            score=rng.random(),
            success=rng.random() < 0.5,
            outcome=rng.choice(["ok", "policy_error"]),
            duration_s=rng.random(),
            metrics={random_text(rng): rng.random() for _ in range(rng.randrange(3))},
        )
        for _ in range(size)
    )
    task = Task("sokoban", rng.choice(["train", "test"]), rng.randrange(INT32), rng.getrandbits(60))
    return Group(random_text(rng), task, size, trajectories, Sampling(), random_version(rng), random_version(rng))


@pytest.mark.parametrize("seed", range(40))
def test_any_group_survives_encoding_and_decoding(seed: int) -> None:
    group = random_group(random.Random(seed))
    data = encode(group)
    back = decode_group(data)
    assert back == group
    assert encode(back) == data


@pytest.mark.parametrize("seed", range(10))
def test_any_task_survives_encoding_and_decoding(seed: int) -> None:
    rng = random.Random(seed)
    task = GroupTask(
        group_id=random_text(rng),
        task=Task(random_text(rng), "train", rng.randrange(INT32), rng.getrandbits(62)),
        size=rng.randrange(1, 64),
        sampling=Sampling(rng.uniform(0.1, 2), rng.random(), rng.randrange(100), rng.randrange(1, 9999)),
        issued_at_step=rng.randrange(INT32),
    )
    assert decode_group_task(encode(task)) == task


def test_packed_arrays_keep_their_exact_values() -> None:
    logprobs = np.array([*AWKWARD_FLOATS, np.nan, np.nextafter(np.float32(-1), np.float32(0))], dtype="f4")
    n = len(logprobs)
    ids = np.arange(n, dtype=np.int64) * (INT32 // n)
    turn = msgspec.structs.replace(
        random_turn(random.Random(0)),
        response_ids=pack_ids(ids),
        logprobs=pack_floats(logprobs),
        loss_mask=bytes([1] * n),
    )
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(turn), type=Turn)
    assert back.tokens().tolist() == ids.tolist()
    assert back.behaviour_logprobs().view("i4").tolist() == logprobs.view("i4").tolist()
    assert back.mask().tolist() == [1] * n
    assert back.tokens().dtype == np.int32
    assert back.behaviour_logprobs().dtype == np.float32


@pytest.mark.parametrize(
    ("logprobs", "mask"), [(2, 3), (4, 3), (3, 2), (3, 4), (0, 0), (3, 0)], ids=lambda value: str(value)
)
def test_a_turn_with_arrays_of_different_lengths_is_refused(logprobs: int, mask: int) -> None:
    turn = random_turn(random.Random(1))
    arrays = {
        "response_ids": pack_ids(range(3)),
        "logprobs": pack_floats([-1.0] * logprobs),
        "loss_mask": bytes([1] * mask),
    }
    with pytest.raises(ValueError, match=rf"3 response tokens has {logprobs} log-probs and .* of length {mask}"):
        msgspec.structs.replace(turn, **arrays)
    group = msgspec.to_builtins(random_group(random.Random(3)), builtin_types=(bytes,))
    bad = msgspec.to_builtins(turn, builtin_types=(bytes,)) | arrays
    trajectory = {"id": "t", "seed": 0, "turns": [bad], "terminated": True, "truncated": False, "score": 0.0}
    group["trajectories"] = [trajectory | {"success": False}]
    with pytest.raises(SchemaError, match="must be equal"):
        decode_group(msgspec.msgpack.encode(group))


def conversation(rng: random.Random, turns: int) -> Trajectory:
    """An episode whose prompts contain the full history: 60 tokens for each turn, half of them sampled."""
    turn = random_turn(rng)
    arrays = {"logprobs": pack_floats([-1.0] * 30), "loss_mask": bytes([1] * 30)}
    spans = (VersionSpan(0, 30, random_version(rng)),)

    def ids() -> bytes:
        return pack_ids(rng.randrange(INT32) for _ in range(30))

    played = tuple(
        msgspec.structs.replace(
            turn, new_prompt_ids=ids(), response_ids=ids(), **arrays, spans=spans, reset=number == 0,
            state_key=f"{number:032x}", observation_key=f"{number:032x}", observation="o" * 100, response="r" * 100,
            action="a" * 10, images=(),
        )
        for number in range(turns)
    )  # fmt: skip
    return Trajectory("t", 0, played, terminated=True, truncated=False, score=1.0, success=True)


def test_the_bytes_of_a_conversation_grow_linearly_with_its_turns() -> None:
    group = random_group(random.Random(4))
    sizes = {
        turns: len(encode(msgspec.structs.replace(group, trajectories=(conversation(random.Random(4), turns),))))
        for turns in (5, 50)
    }
    assert sizes[50] <= 11 * sizes[5], sizes


@pytest.mark.parametrize("seed", range(10))
def test_full_prompts_are_reconstructed_for_each_turn(seed: int) -> None:
    rng = random.Random(seed)
    turns = tuple(random_turn(rng, reset=not number) for number in range(6))
    one = Trajectory("t", 0, turns, terminated=True, truncated=False, score=1.0, success=True)
    expected: list[list[int]] = []
    for number, turn in enumerate(turns):
        before = [] if turn.reset else [*expected[-1], *turns[number - 1].tokens().tolist()]
        expected.append([*before, *turn.new_prompt().tolist()])
    assert [prompt.tolist() for prompt in one.prompts()] == expected
    assert prompt_lengths(turns) == [len(prompt) for prompt in expected]
    runs = one.conversations()
    assert [number for run in runs for number in range(*run)] == list(range(6))
    assert [first for first, _ in runs] == [number for number, turn in enumerate(turns) if turn.reset]


def test_an_episode_without_turns_has_no_prompts_and_no_conversations() -> None:
    empty = Trajectory("t", 0, (), terminated=True, truncated=False, score=0.0, success=False)
    assert (empty.prompts(), empty.conversations(), prompt_lengths(())) == ([], [], [])


def test_a_first_turn_without_reset_is_refused() -> None:
    one = conversation(random.Random(0), 2)
    with pytest.raises(ValueError, match="first turn of an episode must have `reset`"):
        msgspec.structs.replace(one, turns=one.turns[1:])
    group = msgspec.to_builtins(random_group(random.Random(3)), builtin_types=(bytes,))
    group["trajectories"] = [msgspec.to_builtins(one, builtin_types=(bytes,))]
    group["trajectories"][0]["turns"][0]["reset"] = False
    with pytest.raises(SchemaError, match="first turn of an episode must have `reset`"):
        decode_group(msgspec.msgpack.encode(group))


@pytest.mark.parametrize("schema", [1, 2])
def test_an_older_schema_is_refused_with_the_fix(schema: int) -> None:
    group = msgspec.structs.replace(random_group(random.Random(5)), schema=schema)
    with pytest.raises(
        SchemaError, match=rf"group has schema {schema}, .* convert files with `python -m arlarena.proto"
    ):
        decode_group(encode(group))


def test_a_newer_schema_is_refused_with_the_fix() -> None:
    group = msgspec.structs.replace(random_group(random.Random(5)), schema=SCHEMA_VERSION + 1)
    with pytest.raises(SchemaError, match=rf"group has schema {SCHEMA_VERSION + 1}, .* update arlarena-proto"):
        decode_group(encode(group))
    task = GroupTask("g", group.task, 1, Sampling(), schema=SCHEMA_VERSION + 7)
    with pytest.raises(SchemaError, match=rf"group task has schema {SCHEMA_VERSION + 7}, .* update arlarena-proto"):
        decode_group_task(encode(task))


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_raise_no_exception_but_schema_errors(
    seed: int,
) -> None:
    rng = random.Random(seed)
    data = encode(random_group(rng))
    for cut in rng.sample(range(len(data)), min(200, len(data))):
        with pytest.raises(SchemaError, match="not a group"):
            decode_group(data[:cut])
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] = rng.randrange(256)
        try:
            decode_group(bytes(changed))
        except SchemaError:
            continue


def test_a_task_is_not_a_group_and_a_group_not_a_task() -> None:
    group = random_group(random.Random(2))
    with pytest.raises(SchemaError, match="not a group task"):
        decode_group_task(encode(group))
    with pytest.raises(SchemaError, match="not a group:"):
        decode_group(encode(GroupTask("g", group.task, 1, Sampling())))


def test_a_file_of_groups_is_read_in_order(tmp_path: Path) -> None:
    groups = [random_group(random.Random(seed)) for seed in range(6)]
    path = tmp_path / "demonstrations.msgpack"
    assert write_groups(path, groups) == 6
    assert read_groups(path) == groups
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_holds_no_groups(tmp_path: Path) -> None:
    assert write_groups(tmp_path / "none", []) == 0
    assert read_groups(tmp_path / "none") == []


def test_a_file_truncated_within_a_group_is_refused(tmp_path: Path) -> None:
    groups = [random_group(random.Random(seed)) for seed in (0, 1)]
    path = tmp_path / "groups"
    write_groups(path, groups)
    data = path.read_bytes()
    boundary = 4 + len(encode(groups[0]))
    for cut in random.Random(0).sample(range(1, len(data)), min(300, len(data) - 1)):
        path.write_bytes(data[:cut])
        if cut == boundary:
            assert read_groups(path) == groups[:1]
        else:
            with pytest.raises(SchemaError):
                read_groups(path)
    path.write_bytes(data[:-1])
    with pytest.raises(SchemaError, match="truncated after 1 groups"):
        read_groups(path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "groups"
    old = [random_group(random.Random(9))]
    write_groups(path, old)

    def broken():
        yield random_group(random.Random(10))
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write_groups(path, broken())
    assert read_groups(path) == old


def test_a_policy_version_parses_its_own_text() -> None:
    version = PolicyVersion("a1b2", 12, "ff00")
    assert PolicyVersion.parse(str(version)) == version
    for text in ("", "a:b", "a:b:c", "a:1:c:d", "a::c"):
        with pytest.raises(ValueError, match="incarnation:step:digest"):
            PolicyVersion.parse(text)
