"""Images of rooms: PNG, RGB, 32 pixels per cell."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

from arlarena.environment.frames import Frame
from arlarena.environments.sokoban.sprites import SIZE, sprite


@lru_cache(maxsize=4096)
def draw(rows: tuple[str, ...]) -> Frame:
    """Return the image of a grid. `rows`: the glyphs, one string per row. Equal grids give equal bytes."""
    width, height = SIZE * len(rows[0]), SIZE * len(rows)
    image = Image.new("RGB", (width, height))
    for y, row in enumerate(rows):
        for x, glyph in enumerate(row):
            image.paste(sprite(glyph), (SIZE * x, SIZE * y))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6)
    return Frame(file.getvalue(), width, height)
