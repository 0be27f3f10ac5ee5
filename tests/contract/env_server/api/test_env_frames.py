"""Sokoban's pictures: what is drawn, and how it is served."""

import base64
import hashlib
import io

import aiohttp
import pytest
from PIL import Image
from support.environments.environment_support import environment_server

from arlarena.env_server.sessions.frames import FrameStore
from arlarena.environment.frames import Frame
from arlarena.environment.registry import load
from arlarena.environments.sokoban.frames import draw
from arlarena.environments.sokoban.sprites import SIZE, sprite
from arlarena.proto.env_api import Observation, ResetSpec


def cell(image, column, row):
    return image.crop((SIZE * column, SIZE * row, SIZE * (column + 1), SIZE * (row + 1)))


def share(image, chosen):
    """The share of pixels whose colour is `chosen`."""
    pixels = list(image.convert("RGB").get_flattened_data())
    return sum(chosen(*pixel) for pixel in pixels) / len(pixels)


def green(r, g, b):
    return g > 100 and g > 1.5 * r and g > 1.5 * b


def red(r, g, b):
    return r > 180 and g < 90 and b < 90


def yellow(r, g, b):
    return r > 200 and g > 160 and b < 120


def black(r, g, b):
    return max(r, g, b) < 10


def test_the_picture_shows_each_cell_where_the_grid_has_it():
    rows = ("#####", "#PXO#", "#√_S#", "#####")
    frame = draw(rows)
    image = Image.open(io.BytesIO(frame.png))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (5 * SIZE, 4 * SIZE))
    assert (frame.width, frame.height) == image.size
    for y, row in enumerate(rows):
        for x, glyph in enumerate(row):
            assert list(cell(image, x, y).get_flattened_data()) == list(sprite(glyph).get_flattened_data())
    pictures = {glyph: tuple(sprite(glyph).get_flattened_data()) for glyph in "#_OX√PS"}
    assert len(set(pictures.values())) == 7


@pytest.mark.parametrize(
    ("glyph", "has", "has_not"),
    [
        ("P", [(green, 0.15)], [yellow, red]),
        ("X", [(yellow, 0.2)], [green, red]),
        ("O", [(black, 0.1), (red, 0.1)], [green, yellow]),
        ("S", [(green, 0.15), (red, 0.05)], [yellow]),
        ("√", [(red, 0.05)], [green]),
        ("#", [], [green, red, yellow, black]),
        ("_", [], [green, red, yellow, black]),
    ],
)
def test_colours_are_those_of_the_paper(glyph, has, has_not):
    """Green alien, yellow crates, black targets with a red outline."""
    picture = sprite(glyph)
    for colour, least in has:
        assert share(picture, colour) >= least, (glyph, colour.__name__, share(picture, colour))
    assert all(share(picture, colour) == 0 for colour in has_not)


def test_an_image_observation_says_nothing_of_where_things_are():
    made = load("test", "sokoban", {"observation": "image", "history": 0})
    first, other = (made.start(made.task(ResetSpec(index=index))).observe() for index in (1, 2))
    assert first.observation.text == other.observation.text
    assert "Glyphs" not in first.observation.prompt
    (image,) = first.observation.images
    data = base64.b64decode(image.data)
    assert hashlib.sha256(data).hexdigest() == image.sha256
    assert Image.open(io.BytesIO(data)).size == (image.width, image.height)
    assert first.metadata.observation_key != other.metadata.observation_key
    assert load("test", "sokoban", {}).start(made.task(ResetSpec(index=1))).observe().observation.images == []


def test_the_store_keeps_the_latest_within_its_bytes():
    def seen(letter, size=100):
        return Observation("", "", 0, 1, images=[Frame(letter * size, 1, 1).inline()])

    store = FrameStore(250)
    urls = [store.by_url(seen(letter)).images[0] for letter in (b"a", b"b")]
    assert urls[0].data is None
    assert urls[0].url == f"/v1/frames/{urls[0].sha256}.png"
    assert store.get(urls[0].sha256) == b"a" * 100
    third = store.by_url(seen(b"c")).images[0]  # b was used longest ago
    assert store.get(urls[0].sha256) == b"a" * 100
    assert store.get(third.sha256) == b"c" * 100
    with pytest.raises(Exception, match="no frame"):
        store.get(urls[1].sha256)
    large = store.by_url(seen(b"d", 1000)).images[0]
    assert len(store.get(large.sha256)) == 1000


async def test_frames_are_served_by_their_hash(tmp_path):
    config = "[environment.options]\nframes = true\n"
    with environment_server(tmp_path, extra=config) as (address, _):
        async with aiohttp.ClientSession() as session:
            body = {"reset": [{"split": "train", "index": 4}]}
            async with session.post(address + "/v1/sessions", json=body) as reply:
                opened = (await reply.json())["sessions"][0]
            (image,) = opened["result"]["observation"]["images"]
            assert (image["mime"], image["data"]) == ("image/png", None)
            async with session.get(address + image["url"]) as reply:
                png = await reply.read()
                assert (reply.status, reply.content_type) == (200, "image/png")
                assert "immutable" in reply.headers["Cache-Control"]
                assert reply.headers["ETag"] == f'"{image["sha256"]}"'
            assert hashlib.sha256(png).hexdigest() == image["sha256"]
            assert Image.open(io.BytesIO(png)).size == (image["width"], image["height"])
            async with session.get(f"{address}/v1/frames/{'0' * 64}.png") as reply:
                assert (reply.status, (await reply.json())["code"]) == (404, "unknown_frame")
            async with session.delete(f"{address}/v1/sessions/{opened['session_id']}") as reply:
                assert reply.status == 204
