"""Charts of the report: ticks, frames and labels."""

import itertools
import math
from html.parser import HTMLParser

import pytest

from arlarena.console.report.svg import Estimate, Line, format_number, interval_chart, line_chart, ticks


@pytest.mark.parametrize("low_high", [(0, 1), (-3.2, 17), (1e-7, 3e-7), (0.98, 0.99), (0, 12345)])
def test_ticks_are_round_inside_and_evenly_spaced(low_high: tuple[float, float]) -> None:
    low, high = low_high
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))
    assert len({format_number(value) for value in found}) == len(found)


@pytest.mark.parametrize(
    "points",
    [
        ((0.0, 1.0),),
        ((0.0, 1.0), (1.0, 1.0)),
        tuple((float(x), 0.0) for x in range(5)),
        ((0.0, math.nan), (1.0, 2.0), (2.0, math.inf)),
        tuple((float(x), math.sin(x)) for x in range(5000)),
    ],
)
def test_a_chart_of_any_data_stays_in_its_frame(points: tuple[tuple[float, float], ...]) -> None:
    chart = line_chart("x", [Line("y", points)])
    assert chart is not None
    assert "nan" not in chart
    assert "inf" not in chart
    assert len(chart) < 40_000


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("x", [Line("y", ())]) is None
    assert line_chart("x", [Line("y", ((0.0, math.nan),))]) is None
    assert interval_chart("x", [], []) is None
    assert interval_chart("x", ["1"], [("a", [None])]) is None


class Texts(HTMLParser):
    """The tick labels of a chart: text, x, baseline and anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, float, float, str]] = []
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = dict(attrs) if tag == "text" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            x, y = float(self._open["x"] or 0), float(self._open["y"] or 0)
            self.found.append((data, x, y, self._open.get("text-anchor") or "start"))
            self._open = None


def boxes(chart: str) -> list[tuple[str, float, float, float, float]]:
    """Every label with its left, right, top and bottom: letters of 10.5 px are at most 6.3 px wide on average."""
    texts = Texts()
    texts.feed(chart)
    found = []
    for text, x, y, anchor in texts.found:
        width = 6.3 * len(text)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        found.append((text, left, left + width, y - 8, y + 2))
    return found


ALFWORLD_KINDS = (
    "look at obj in light", "pick and place simple", "pick clean then place in recep", "pick cool then place in recep",
    "pick heat then place in recep", "pick two obj and place",
)  # fmt: skip


@pytest.mark.parametrize(
    "classes",
    [
        ALFWORLD_KINDS,
        ("4", "5", "6", "7", "8"),
        tuple(str(number) for number in range(4, 40)),
        ("easy", "hard"),
        ("level 1", "level 2", "level 3", "level 4", "level 5"),
        ("x" * 300,),
    ],
)
def test_labels_of_classes_do_not_overlap_and_stay_inside(classes: tuple[str, ...]) -> None:
    estimates = [Estimate(0.5, 0.4, 0.6)] * len(classes)
    chart = interval_chart("t", classes, [("before", estimates), ("after", estimates)])
    assert chart is not None
    width, height = map(float, chart.split('viewBox="0 0 ')[1].split('"')[0].split())
    found = boxes(chart)
    for text, left, right, top, bottom in found:
        assert left >= 0, text
        assert right <= width * 1.12, text  # 6.3 is a letter's width at its most
        assert top >= 0, text
        assert bottom <= height, text
    for one, other in itertools.combinations(found, 2):
        assert one[2] <= other[1] or other[2] <= one[1] or one[4] <= other[3] or other[4] <= one[3], (one, other)
    assert chart.count("<circle") == 2 * len(classes)
