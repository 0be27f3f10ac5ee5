"""Versions that are sent: what is wanted, what is refused, what stays."""

import json

import pytest
from support.inference.inference_support import label, model, write_version

from arlarena.inference.weights.store import Store, UnknownVersion, newest_whole
from arlarena.inference.weights.versions import VersionError, verify
from arlarena.proto.versions.delta import write_delta


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


async def serve(store, directory):
    """Send it, and let it be served."""
    found = await send(store, directory)
    store.accepted(found)
    return found


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
        await serve(store, directory)
    assert {path.name for path in store.root.glob("v*")} == {theirs[1].name, theirs[2].name}
    again = write_version(theirs[0].parent, model(9), 2, incarnation="resumed")
    await serve(store, again)
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


async def test_nothing_goes_before_a_version_serves_and_a_refused_one_goes_itself(store, theirs):
    good = [await serve(store, directory) for directory in theirs[1:]]
    refused = await send(store, write_version(theirs[0].parent, model(9), 1, incarnation="set back"))
    assert {path.name for path in store.root.glob("v*")} == {good[0].name, good[1].name, refused.name}
    store.refused(refused)
    assert {path.name for path in store.root.glob("v*")} == {good[0].name, good[1].name}
    assert newest_whole(store.root) == good[1]


async def test_what_was_not_sent_here_is_neither_pruned_nor_removed(store, theirs):
    shared = Store(theirs[0].parent, keep=1)
    found = shared.find(label(theirs[2]))
    shared.accepted(found)
    shared.refused(found)
    assert all((directory / "COMMITTED").is_file() for directory in theirs)


async def test_a_manifest_whose_digest_is_another_is_refused_and_the_good_version_stays(store, theirs):
    good = await serve(store, theirs[0])
    liar = write_version(theirs[0].parent, model(5), 4)
    text = json.loads((liar / "manifest.json").read_text())
    text["version"]["digest"] = "f" * 32
    name = "v000004-" + "f" * 12
    wanted = store.announce(name, json.dumps(text).encode())
    for file in wanted.files:
        await store.receive(name, file, in_pieces((liar / file).read_bytes()), None)
    with pytest.raises(VersionError, match="digest"):
        store.find(f"run:4:{'f' * 32}")
    assert newest_whole(store.root) == good
    assert [path.name for path in store.root.iterdir()] == [good.name]  # of the other nothing is kept


async def test_links_in_the_place_of_what_is_written_are_not_followed(store, theirs, tmp_path):
    aim, elsewhere = tmp_path / "aim", tmp_path / "elsewhere"
    aim.write_bytes(b"untouched")
    elsewhere.mkdir()
    hidden = store.root / f".incoming-{theirs[0].name}"
    hidden.symlink_to(elsewhere)
    announce(store, theirs[0])
    assert not hidden.is_symlink()
    assert list(elsewhere.iterdir()) == []
    name = "model.safetensors"
    for link in ("model.safetensors.part", "model.safetensors", "manifest.json"):
        (hidden / link).unlink(missing_ok=True)
        (hidden / link).symlink_to(theirs[0] / name if link == name else aim)
    assert name in announce(store, theirs[0]).files  # a link to the right bytes is not the file
    assert verify(await send(store, theirs[0])).label == label(theirs[0])
    assert aim.read_bytes() == b"untouched"
    assert not any(path.is_symlink() for path in store.root.rglob("*"))


async def test_uploads_that_never_ended_go_when_another_begins(store, theirs):
    announce(store, theirs[0])
    (store.root / ".incoming-file").write_text("x")
    announce(store, theirs[1])
    assert [path.name for path in store.root.iterdir()] == [f".incoming-{theirs[1].name}"]
