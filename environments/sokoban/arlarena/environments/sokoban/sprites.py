"""Images of Sokoban's cells, 32 x 32 pixels.

Floor and walls are grey. Targets are black with a red outline. Boxes are yellow crates, or orange-brown crates on a
target. The player is a green alien.
"""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

from arlarena.environments.sokoban.room import (
    BOX,
    BOX_ON_TARGET,
    PLAYER,
    PLAYER_ON_TARGET,
    TARGET,
    WALL,
)

SIZE = 32

_FLOOR, _FLOOR_SPECK = (58, 60, 66), (66, 68, 75)
_BRICK, _BRICK_LIGHT, _MORTAR = (132, 122, 116), (152, 142, 134), (84, 78, 74)
_TARGET, _TARGET_EDGE = (0, 0, 0), (226, 44, 44)
_CRATE, _CRATE_DARK, _CRATE_LIGHT = (236, 190, 52), (158, 116, 20), (250, 220, 110)
_DONE, _DONE_DARK, _DONE_LIGHT = (214, 128, 40), (132, 68, 14), (240, 166, 84)
_ALIEN, _ALIEN_DARK, _EYE, _PUPIL = (92, 204, 74), (44, 124, 40), (250, 250, 250), (16, 30, 16)


def _floor(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, SIZE, SIZE), fill=_FLOOR)
    for x, y in ((5, 7), (19, 4), (26, 17), (11, 22), (22, 28), (3, 29)):
        draw.rectangle((x, y, x + 1, y + 1), fill=_FLOOR_SPECK)


def _wall(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, SIZE, SIZE), fill=_MORTAR)
    for row, top in enumerate(range(0, SIZE, 8)):
        for left in range(-8 if row % 2 else 0, SIZE, 16):
            draw.rectangle((left + 1, top + 1, left + 14, top + 6), fill=_BRICK)
            draw.line((left + 1, top + 1, left + 14, top + 1), fill=_BRICK_LIGHT)


def _target(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((7, 7, 24, 24), fill=_TARGET, outline=_TARGET_EDGE, width=3)


def _crate(draw: ImageDraw.ImageDraw, face: tuple[int, ...], dark: tuple[int, ...], light: tuple[int, ...]) -> None:
    draw.rectangle((3, 3, 28, 28), fill=face, outline=dark, width=2)
    draw.line((8, 8, 23, 23), fill=dark, width=3)
    draw.line((23, 8, 8, 23), fill=dark, width=3)
    draw.rectangle((6, 6, 25, 25), outline=dark)
    draw.line((5, 5, 26, 5), fill=light)


def _alien(draw: ImageDraw.ImageDraw) -> None:
    for x in (11, 20):  # feelers
        draw.line((x, 7, x + (-2 if x < 16 else 2), 2), fill=_ALIEN_DARK, width=2)
        draw.ellipse((x - 4 if x < 16 else x, 0, x if x < 16 else x + 4, 4), fill=_ALIEN)
    draw.ellipse((6, 5, 25, 20), fill=_ALIEN, outline=_ALIEN_DARK)  # head
    draw.rounded_rectangle((10, 18, 21, 28), 4, fill=_ALIEN, outline=_ALIEN_DARK)  # body
    draw.line((9, 20, 5, 25), fill=_ALIEN_DARK, width=3)
    draw.line((22, 20, 26, 25), fill=_ALIEN_DARK, width=3)
    draw.rectangle((11, 27, 14, 30), fill=_ALIEN_DARK)
    draw.rectangle((17, 27, 20, 30), fill=_ALIEN_DARK)
    for x in (10, 17):  # eyes
        draw.ellipse((x, 9, x + 5, 15), fill=_EYE)
        draw.ellipse((x + 2, 11, x + 4, 14), fill=_PUPIL)


@cache
def sprite(glyph: str) -> Image.Image:
    """Return the image of a cell."""
    image = Image.new("RGB", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    if glyph == WALL:
        _wall(draw)
        return image
    _floor(draw)
    if glyph in (TARGET, PLAYER_ON_TARGET):
        _target(draw)
    if glyph == BOX:
        _crate(draw, _CRATE, _CRATE_DARK, _CRATE_LIGHT)
    if glyph == BOX_ON_TARGET:
        _target(draw)
        _crate(draw, _DONE, _DONE_DARK, _DONE_LIGHT)
    if glyph in (PLAYER, PLAYER_ON_TARGET):
        _alien(draw)
    if glyph in (BOX_ON_TARGET, PLAYER_ON_TARGET):  # the box or the player hides the target, so outline the cell
        draw.rectangle((0, 0, SIZE - 1, SIZE - 1), outline=_TARGET_EDGE)
    return image
