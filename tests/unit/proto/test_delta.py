"""Deltas between safetensors files: exact for every type, small for small changes, refused if damaged."""

import json
import struct
import tracemalloc

import pytest
import torch
import zstandard
from safetensors.torch import save_file

from arlarena.proto.versions.delta import DeltaError, apply_delta, write_delta
from arlarena.proto.versions.directory import SafetensorsError

KINDS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int32,
    torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def random_like(kind, seed, shape=(33, 7)):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2**31, shape, generator=generator)
    return (values % 2).bool() if kind is torch.bool else (values.double() / 2**20 - 700).to(kind)


def delta_of(folder, old, new):
    save_file(old, folder / "old")
    save_file(new, folder / "new", metadata={"format": "pt"})
    with (folder / "delta").open("wb") as out:
        size = write_delta(folder / "old", folder / "new", out)
    assert size == (folder / "delta").stat().st_size
    return size


def applied(folder):
    apply_delta(folder / "old", folder / "delta", folder / "made", (folder / "new").stat().st_size)
    return (folder / "made").read_bytes()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_result_equals_the_new_file(tmp_path, kind):
    old = {"a": random_like(kind, 1), "b": random_like(kind, 2), "same": random_like(kind, 3)}
    new = {"a": random_like(kind, 4), "b": random_like(kind, 5), "same": random_like(kind, 3)}
    delta_of(tmp_path, old, new)
    assert applied(tmp_path) == (tmp_path / "new").read_bytes()


def test_new_removed_reshaped_retyped_and_empty_tensors(tmp_path):
    old = {"gone": torch.ones(3), "wider": torch.ones(2, 2), "halved": torch.ones(4), "empty": torch.zeros(0, 3)}
    new = {"new": torch.ones(5), "wider": torch.ones(2, 3), "halved": torch.ones(4).half(), "empty": torch.zeros(0, 3)}
    delta_of(tmp_path, old, new)
    assert applied(tmp_path) == (tmp_path / "new").read_bytes()


@pytest.mark.parametrize(("kind", "most"), [(torch.float32, 0.45), (torch.bfloat16, 0.05)], ids=str)
def test_a_small_step_makes_a_small_delta(tmp_path, kind, most):
    torch.manual_seed(0)
    weights = torch.randn(256, 256) * 0.02
    step = 1e-6 * torch.randn(256, 256)
    size = delta_of(tmp_path, {"w": weights.to(kind)}, {"w": (weights + step).to(kind)})
    assert size < most * (tmp_path / "new").stat().st_size


def test_a_delta_without_changes_is_little_more_than_the_header(tmp_path):
    weights = {f"layer.{i}": torch.randn(64, 64) for i in range(10)}
    size = delta_of(tmp_path, weights, weights)
    header = (tmp_path / "new").stat().st_size - 10 * 64 * 64 * 4
    assert size == 8 + header + 10 * 9


@pytest.mark.parametrize("kept", [0, 4, 20, 400, -1])
def test_a_truncated_delta_is_refused(tmp_path, kept):
    delta_of(tmp_path, {"a": torch.zeros(100)}, {"a": torch.randn(100)})
    data = (tmp_path / "delta").read_bytes()
    (tmp_path / "delta").write_bytes(data[:kept])
    with pytest.raises((DeltaError, SafetensorsError)):
        applied(tmp_path)


def test_invalid_bytes_are_refused(tmp_path):
    delta_of(tmp_path, {"a": torch.zeros(100)}, {"a": torch.randn(100)})
    for seed in range(200):
        data = bytearray((tmp_path / "delta").read_bytes())
        generator = torch.Generator().manual_seed(seed)
        at = int(torch.randint(0, len(data), (), generator=generator))
        data[at] ^= 1 + int(torch.randint(0, 255, (), generator=generator))
        (tmp_path / "bad").write_bytes(data)
        try:
            apply_delta(tmp_path / "old", tmp_path / "bad", tmp_path / "made", (tmp_path / "new").stat().st_size)
        except (DeltaError, SafetensorsError):
            continue
        assert (tmp_path / "made").stat().st_size > 0  # the output differs, which the checksum in the manifest detects


def test_another_base_is_refused(tmp_path):
    delta_of(tmp_path, {"a": torch.zeros(100)}, {"a": torch.randn(100)})
    save_file({"b": torch.zeros(100)}, tmp_path / "old")
    with pytest.raises(DeltaError, match=r"but .* has no .* with this type and shape"):
        applied(tmp_path)


def forged(folder, header, payloads):
    """A delta with this header and these (kind, payload) entries in file order."""
    text = json.dumps(header).encode()
    body = b"".join(struct.pack("<BQ", kind, len(payload)) + payload for kind, payload in payloads)
    (folder / "delta").write_bytes(struct.pack("<Q", 8 + len(text)) + struct.pack("<Q", len(text)) + text + body)


def bytes_tensor(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {f"t{i}": bytes_tensor(0, 2**20) for i in range(500)},  # all of them the same bytes of the file
        {"a": bytes_tensor(0, 2**29)},
        {"a": bytes_tensor(2**40, 2**40 + 1)},  # a hole
        {"a": bytes_tensor(0, 10), "b": bytes_tensor(5, 20)},
    ],
    ids=["overlap", "large", "hole", "partly"],
)
def test_an_invalid_header_is_refused_before_data_are_written(tmp_path, header):
    save_file({"a": torch.zeros(100)}, tmp_path / "old")
    save_file({"a": torch.ones(100)}, tmp_path / "new")
    zeros = zstandard.ZstdCompressor().compress(bytes(2**20))
    forged(tmp_path, header, [(2, zeros)] * len(header))
    with pytest.raises((DeltaError, SafetensorsError)):
        applied(tmp_path)
    assert (tmp_path / "made").stat().st_size < 64 << 10


def test_an_announced_size_above_the_tensor_is_refused(tmp_path):
    save_file({"a": torch.zeros(100, dtype=torch.uint8)}, tmp_path / "old")
    save_file({"a": torch.ones(100, dtype=torch.uint8)}, tmp_path / "new")
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    header = {"a": bytes_tensor(0, 100)}
    forged(tmp_path, header, [(2, bomb)])
    length = 8 + len(json.dumps(header)) + 100
    tracemalloc.start()
    try:
        with pytest.raises(DeltaError, match="announce 268435456 bytes instead of 100"):
            apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "made", length)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
