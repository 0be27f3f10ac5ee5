"""Versions that are sent: what is wanted, what is refused, what stays."""

import json

import pytest
from inference_support import label, model, write_version

from arlarena.inference.store import Store, UnknownVersion, newest_whole
from arlarena.inference.versions import VersionError, verify
from arlarena.proto.delta import write_delta


@pytest.fixture
def theirs(tmp_path):
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


async def test_what_was_sent_is_committed_when_it_is_asked_for(store, theirs):
    first = theirs[0]
    assert set(announce(store, first).files) == set(json.loads((first / "manifest.json").read_text())["files"])
    with pytest.raises(VersionError, match="not whole"):
        store.find(label(first))
    found = await send(store, first)
    assert verify(found).label == label(first)
    assert announce(store, first).files == []


async def test_only_what_is_new_is_wanted_and_a_delta_does(store, theirs, tmp_path):
    await send(store, theirs[0])
    wanted = announce(store, theirs[1])
    assert wanted.files == ["model.safetensors"]
    assert wanted.base == theirs[0].name
    with (tmp_path / "delta").open("wb") as out:
        write_delta(theirs[0] / "model.safetensors", theirs[1] / "model.safetensors", out)
    body = in_pieces((tmp_path / "delta").read_bytes())
    await store.receive(theirs[1].name, "model.safetensors", body, wanted.base)
    assert verify(store.find(label(theirs[1]))).label == label(theirs[1])


async def test_an_interrupted_upload_goes_on_where_it_was(store, theirs):
    names = announce(store, theirs[0]).files
    await store.receive(theirs[0].name, names[0], in_pieces((theirs[0] / names[0]).read_bytes()), None)
    assert set(announce(store, theirs[0]).files) == set(names) - {names[0]}


async def test_old_versions_go_and_so_do_later_ones_of_a_run_that_was_set_back(store, theirs):
    for directory in theirs:
        await send(store, directory)
    assert [path.name for path in store.root.glob("v*")] != []
    assert {path.name for path in store.root.glob("v*")} == {theirs[1].name, theirs[2].name}
    again = write_version(theirs[0].parent, model(9), 2, incarnation="resumed")
    await send(store, again)
    assert theirs[2].name not in {path.name for path in store.root.glob("v*")}
    assert newest_whole(store.root) == store.root / again.name


async def test_the_same_weights_of_another_incarnation_cost_nothing(store, theirs):
    await send(store, theirs[0])
    again = write_version(theirs[0].parent, model(1), 1, incarnation="resumed")
    assert announce(store, again).files == []
    assert verify(store.find(label(again))).label == label(again)


async def test_damage_is_refused_by_name_and_nothing_is_kept_of_it(store, theirs):
    name = "model.safetensors"
    announce(store, theirs[0])
    data = (theirs[0] / name).read_bytes()
    for bad, word in (
        (data[:-1], "damaged"), (data[:-1] + bytes([data[-1] ^ 1]), "damaged"), (data + b"more", "larger")
    ):  # fmt: skip
        with pytest.raises(VersionError, match=f"{name}.*{word}"):
            await store.receive(theirs[0].name, name, in_pieces(bad), None)
        assert name in announce(store, theirs[0]).files
    with pytest.raises(VersionError, match="delta"):
        await store.receive(theirs[0].name, name, in_pieces(data), "v000007-nothing")


@pytest.mark.parametrize("name", ["../../etc/passwd", "other.txt", "manifest.json", "COMMITTED"])
async def test_files_that_were_not_announced_are_refused(store, theirs, name):
    announce(store, theirs[0])
    with pytest.raises(VersionError):
        await store.receive(theirs[0].name, name, in_pieces(b"x"), None)
    with pytest.raises(VersionError, match="not announced"):
        await store.receive("../elsewhere", "model.safetensors", in_pieces(b"x"), None)


def test_manifests_that_lie_are_refused(store, theirs):
    text = json.loads((theirs[0] / "manifest.json").read_text())
    for changed, word in (
        ({"files": {"../x": {"blake3": "0", "bytes": 1}}}, "plain file name"),
        ({"version": {**text["version"], "step": 7}}, "v000007"),
        ({"schema": 1}, "schema 1"),
        ({"files": 3}, "cannot be read"),
    ):
        with pytest.raises(VersionError, match=word):
            store.announce(theirs[0].name, json.dumps(text | changed).encode())


def test_versions_that_are_not_here_are_unknown(store, theirs):
    for asked in (label(theirs[0]), "nonsense", "a:b:c"):
        with pytest.raises(UnknownVersion):
            store.find(asked)
    with pytest.raises(VersionError, match="weights_root"):
        Store(None, 2).find(label(theirs[0]))
