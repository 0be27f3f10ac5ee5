"""Version directories: loading, order, and refusals."""

import json
import os

import pytest
from support.inference.inference_support import label, model, save, write_version

from arlarena.inference.embedded.architecture import read_architecture
from arlarena.inference.embedded.weights.loading import load_model, load_version
from arlarena.inference.weights.versions import VersionError, committed_versions, verify
from arlarena.proto.versions.directory import SafetensorsError, safetensors_digest, tensors_digest


@pytest.fixture
def version(tmp_path):
    return write_version(tmp_path, model(1), 3)


def test_an_intact_directory_is_loaded_under_its_version(version):
    loaded = load_version(version)
    assert loaded.label == label(version)
    assert verify(version).label == loaded.label
    assert loaded.difference is None


def damage_marker(d):
    (d / "COMMITTED").unlink()


def damage_bit(d):
    path = d / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_cut(d):
    path = d / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def damage_missing(d):
    (d / "config.json").unlink()


def damage_manifest(d):
    (d / "manifest.json").write_text("{")


def damage_schema(d):
    path = d / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 3}))


def damage_digest(d):
    path = d / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["version"]["digest"] = "0" * 32
    path.write_text(json.dumps(manifest))


def damage_escape(d):
    path = d / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../other"] = {"blake3": "", "bytes": 0}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_marker, "not committed"),
        (damage_bit, "digest"),
        (damage_cut, "bytes"),
        (damage_missing, "does not exist"),
        (damage_manifest, "cannot be read"),
        (damage_schema, "schema 3"),
        (damage_digest, "digest"),
        (damage_escape, "plain file name"),
    ],
)
def test_a_damaged_directory_is_refused_by_name(version, damage, words):
    damage(version)
    with pytest.raises(VersionError, match=words) as error:
        load_version(version)
    assert str(version) in str(error.value)


def test_another_architecture_is_refused_and_the_difference_named(tmp_path):
    serving = read_architecture(save(model(1), tmp_path / "serving"))
    other = write_version(tmp_path, model(1, intermediate_size=96), 1)
    with pytest.raises(VersionError, match="ffn 96 instead of 128"):
        load_version(other, serving)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    broken = model(1)
    broken.model.norm.weight.data[3] = float("nan")
    with pytest.raises(VersionError, match=r"model\.norm\.weight"):
        load_version(write_version(tmp_path, broken, 1))


def test_tensors_of_another_model_are_refused(tmp_path):
    directory = save(model(1), tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(VersionError, match=r"model\.layers\.1"):
        load_model(directory)
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(VersionError, match=r"model\.layers\.2"):
        load_model(directory)


def test_a_hugging_face_directory_is_version_initial(tmp_path):
    directory = save(model(1), tmp_path)
    assert load_model(directory).label == f"initial:0:{safetensors_digest(directory / 'model.safetensors')}"


def test_a_directory_without_weights_is_refused(tmp_path):
    directory = save(model(1), tmp_path)
    (directory / "model.safetensors").unlink()
    with pytest.raises(VersionError, match="safetensors"):
        load_model(directory)


def test_versions_are_ordered_by_step_then_by_commit(tmp_path):
    second, tenth = write_version(tmp_path, model(1), 2), write_version(tmp_path, model(2), 10)
    again = write_version(tmp_path, model(3), 2)
    uncommitted = write_version(tmp_path, model(4), 11)
    (uncommitted / "COMMITTED").unlink()
    os.utime(second / "COMMITTED", ns=(1, 1))
    os.utime(again / "COMMITTED", ns=(2, 2))
    assert committed_versions(tmp_path) == [tenth, again, second]


def test_the_digest_depends_on_names_shapes_and_bytes_and_not_on_order():
    a, b = ("a", "F32", (1, 2), b"12345678"), ("b", "F32", (1,), b"1234")
    base = tensors_digest([a, b])
    assert tensors_digest([b, a]) == base
    assert len(base) == 32
    for changed in (("c", *a[1:]), (a[0], "I32", *a[2:]), (*a[:2], (2, 1), a[3]), (*a[:3], b"12345679")):
        assert tensors_digest([changed, b]) != base


@pytest.mark.parametrize(
    "data",
    [b"", b"1234567", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]", (8).to_bytes(8, "little") + b'{"a":{}}'],
)
def test_a_file_that_is_not_safetensors_is_named(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorsError, match=r"x\.safetensors"):
        safetensors_digest(path)


@pytest.mark.parametrize(
    ("offsets", "reason"),
    [([0, -4], "begin at 0, but end before that, at -4"), ([2, 4], "begin at 2, but should begin at 0")],
)
def test_wrong_offsets_of_a_tensor_are_named(tmp_path, offsets, reason):
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": offsets}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(SafetensorsError, match=reason):
        safetensors_digest(path)


def test_equal_weights_have_equal_digests_across_files(tmp_path):
    first, second = save(model(1), tmp_path / "1"), save(model(1), tmp_path / "2")
    other = save(model(2), tmp_path / "3")
    digests = [safetensors_digest(d / "model.safetensors") for d in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]
