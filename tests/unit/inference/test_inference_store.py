"""Uploads of versions: missing files, refused files, and versions that are kept."""

import json

import pytest
from support.inference.inference_support import label, model, write_version

from arlarena.inference.weights.store import Store, UnknownVersion, newest_intact
from arlarena.inference.weights.versions import VersionError, verify
from arlarena.proto.versions.delta import write_delta


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "trainer"
    folder.mkdir()
    return [write_version(folder, model(step), step) for step in (1, 2, 3)]


@pytest.fixture
def store(tmp_path):
    (tmp_path / "server").mkdir()
    return Store(tmp_path / "server", keep=2)


async def in_pieces(data):
    for begin in range(0, len(data), 1000):
        yield data[begin : begin + 1000]


def announce(store, directory):
    return store.announce(directory.name, (directory / "manifest.json").read_bytes())


async def send(store, directory, wanted=None):
    for name in wanted or announce(store, directory).files:
        await store.receive(directory.name, name, in_pieces((directory / name).read_bytes()), None)
    return store.find(label(directory))


async def serve(store, directory):
    """Send a version and accept it."""
    found = await send(store, directory)
    store.remove_old(found)
    return found


async def test_an_upload_is_committed_by_find(store, sources):
    first = sources[0]
    assert set(announce(store, first).files) == set(json.loads((first / "manifest.json").read_text())["files"])
    with pytest.raises(VersionError, match="is incomplete"):
        store.find(label(first))
    found = await send(store, first)
    assert verify(found).label == label(first)
    assert announce(store, first).files == []


async def test_only_new_files_are_missing_and_may_arrive_as_deltas(store, sources, tmp_path):
    await send(store, sources[0])
    wanted = announce(store, sources[1])
    assert wanted.files == ["model.safetensors"]
    assert wanted.base == sources[0].name
    with (tmp_path / "delta").open("wb") as out:
        write_delta(sources[0] / "model.safetensors", sources[1] / "model.safetensors", out)
    body = in_pieces((tmp_path / "delta").read_bytes())
    await store.receive(sources[1].name, "model.safetensors", body, wanted.base)
    assert verify(store.find(label(sources[1]))).label == label(sources[1])


async def test_an_interrupted_upload_is_resumed(store, sources):
    names = announce(store, sources[0]).files
    await store.receive(sources[0].name, names[0], in_pieces((sources[0] / names[0]).read_bytes()), None)
    assert set(announce(store, sources[0]).files) == set(names) - {names[0]}


async def test_older_versions_and_later_ones_of_a_rolled_back_run_are_removed(store, sources):
    for directory in sources:
        await serve(store, directory)
    assert {path.name for path in store.root.glob("v*")} == {sources[1].name, sources[2].name}
    again = write_version(sources[0].parent, model(9), 2, incarnation="resumed")
    await serve(store, again)
    assert sources[2].name not in {path.name for path in store.root.glob("v*")}
    assert newest_intact(store.root) == store.root / again.name


async def test_equal_weights_of_another_incarnation_are_not_sent_again(store, sources):
    await send(store, sources[0])
    again = write_version(sources[0].parent, model(1), 1, incarnation="resumed")
    assert announce(store, again).files == []
    assert verify(store.find(label(again))).label == label(again)


async def test_a_damaged_file_is_refused_by_name_and_not_kept(store, sources):
    name = "model.safetensors"
    announce(store, sources[0])
    data = (sources[0] / name).read_bytes()
    for bad, word in (
        (data[:-1], "damaged"), (data[:-1] + bytes([data[-1] ^ 1]), "damaged"), (data + b"more", "larger")
    ):  # fmt: skip
        with pytest.raises(VersionError, match=f"{name}.*{word}"):
            await store.receive(sources[0].name, name, in_pieces(bad), None)
        assert name in announce(store, sources[0]).files
    with pytest.raises(VersionError, match="delta"):
        await store.receive(sources[0].name, name, in_pieces(data), "v000007-nothing")


@pytest.mark.parametrize("name", ["../../etc/passwd", "other.txt", "manifest.json", "COMMITTED"])
async def test_files_that_were_not_announced_are_refused(store, sources, name):
    announce(store, sources[0])
    with pytest.raises(VersionError):
        await store.receive(sources[0].name, name, in_pieces(b"x"), None)
    with pytest.raises(VersionError, match="not announced"):
        await store.receive("../elsewhere", "model.safetensors", in_pieces(b"x"), None)


def test_inconsistent_manifests_are_refused(store, sources):
    text = json.loads((sources[0] / "manifest.json").read_text())
    for changed, word in (
        ({"files": {"../x": {"blake3": "0", "bytes": 1}}}, "plain file name"),
        ({"version": {**text["version"], "step": 7}}, "v000007"),
        ({"schema": 1}, "schema 1"),
        ({"files": 3}, "cannot be read"),
    ):
        with pytest.raises(VersionError, match=word):
            store.announce(sources[0].name, json.dumps(text | changed).encode())


def test_missing_versions_are_unknown(store, sources):
    for asked in (label(sources[0]), "nonsense", "a:b:c"):
        with pytest.raises(UnknownVersion):
            store.find(asked)
    with pytest.raises(VersionError, match="weights_root"):
        Store(None, 2).find(label(sources[0]))


async def test_versions_are_kept_until_the_next_serves_and_a_refused_version_is_removed(store, sources):
    good = [await serve(store, directory) for directory in sources[1:]]
    refused = await send(store, write_version(sources[0].parent, model(9), 1, incarnation="set back"))
    assert {path.name for path in store.root.glob("v*")} == {good[0].name, good[1].name, refused.name}
    store.remove_refused(refused)
    assert {path.name for path in store.root.glob("v*")} == {good[0].name, good[1].name}
    assert newest_intact(store.root) == good[1]


async def test_versions_that_were_not_uploaded_are_never_removed(store, sources):
    shared = Store(sources[0].parent, keep=1)
    found = shared.find(label(sources[2]))
    shared.remove_old(found)
    shared.remove_refused(found)
    assert all((directory / "COMMITTED").is_file() for directory in sources)


async def test_a_wrong_digest_in_a_manifest_is_refused_and_the_good_version_stays(store, sources):
    good = await serve(store, sources[0])
    inconsistent = write_version(sources[0].parent, model(5), 4)
    text = json.loads((inconsistent / "manifest.json").read_text())
    text["version"]["digest"] = "f" * 32
    name = "v000004-" + "f" * 12
    wanted = store.announce(name, json.dumps(text).encode())
    for file in wanted.files:
        await store.receive(name, file, in_pieces((inconsistent / file).read_bytes()), None)
    with pytest.raises(VersionError, match="digest"):
        store.find(f"run:4:{'f' * 32}")
    assert newest_intact(store.root) == good
    assert [path.name for path in store.root.iterdir()] == [good.name]  # nothing is kept of the refused version


async def test_symbolic_links_at_written_paths_are_not_followed(store, sources, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    target.write_bytes(b"untouched")
    elsewhere.mkdir()
    hidden = store.root / f".incoming-{sources[0].name}"
    hidden.symlink_to(elsewhere)
    announce(store, sources[0])
    assert not hidden.is_symlink()
    assert list(elsewhere.iterdir()) == []
    name = "model.safetensors"
    for link in ("model.safetensors.part", "model.safetensors", "manifest.json"):
        (hidden / link).unlink(missing_ok=True)
        (hidden / link).symlink_to(sources[0] / name if link == name else target)
    assert name in announce(store, sources[0]).files  # a link to the right bytes is not accepted
    assert verify(await send(store, sources[0])).label == label(sources[0])
    assert target.read_bytes() == b"untouched"
    assert not any(path.is_symlink() for path in store.root.rglob("*"))


async def test_unfinished_uploads_are_removed_when_another_begins(store, sources):
    announce(store, sources[0])
    (store.root / ".incoming-file").write_text("x")
    announce(store, sources[1])
    assert [path.name for path in store.root.iterdir()] == [f".incoming-{sources[1].name}"]
