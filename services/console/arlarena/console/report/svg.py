"""Line charts and interval plots as inline SVG. Colours are CSS classes. The page defines these classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# Size of a chart and of its margins, in pixels.
WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
MAX_POINTS = 400  # approximate maximum number of drawn points of a curve
# Mean width of a letter in a label. Height of a row in `_interval_rows`. Both in pixels.
LETTER, ROW = 5.6, 38
# Window of the moving mean, as a share of the points. This width averages the noise of single steps.
SMOOTHING = 0.1
MIN_SMOOTHED = 12  # a curve with fewer points has no moving mean


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: a name and its (x, y) points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A horizontal reference line."""

    name: str
    y: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps data to pixels, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Convert `value` to pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round numbers between `low` and `high`.

    Raises:
        ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"low = {low} must be below high = {high}")
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = min((size * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda value: abs(value - raw))
    first = math.ceil(low / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, math.floor(high / step + 1e-9) + 1)]


def format_number(value: float) -> str:
    """Returns the text of a number for an axis, such as `0.25`, `1.2k` or `3e-05`."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2g}"
    if size >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"


def labels(values: Sequence[float]) -> list[str]:
    """Returns axis labels for evenly spaced values. The labels have enough digits to be different."""
    largest = max((abs(value) for value in values), default=0.0)
    if len(values) < 2 or largest >= 1000 or largest < 1e-3:
        return [format_number(value) for value in values]
    gap = values[1] - values[0]
    digits = next(n for n in range(12) if abs(round(gap, n) - gap) < 1e-6 * gap or n == 11)
    return [f"{value:.{digits}f}" for value in values]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points with smoothed y values: the mean of a window with the point in its centre."""
    half = max(1, round(len(points) * SMOOTHING / 2))
    smoothed = []
    for index, (x, _) in enumerate(points):
        window = points[max(0, index - half) : index + half + 1]
        smoothed.append((x, sum(y for _, y in window) / len(window)))
    return smoothed


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Reduce `points` to about `MAX_POINTS` points. Always keeps the last point."""
    if len(points) <= MAX_POINTS:
        return list(points)
    every = math.ceil(len(points) / MAX_POINTS)
    return [*points[:-1:every], points[-1]]


def _finite(line: Line) -> Line:
    return Line(line.name, tuple((x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)))


def _bounds(lines: Sequence[Line], marks: Sequence[Mark], within: tuple[float, float] | None) -> tuple[float, float]:
    values = [y for line in lines for _, y in line.points] + [mark.y for mark in marks]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = (low if low == 0 else low - pad), high + pad
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)


def _axes(x: Scale, y: Scale, x_ticks: Sequence[float], x_labels: Sequence[str]) -> list[str]:
    parts = []
    y_ticks = ticks(y.low, y.high)
    for value, label in zip(y_ticks, labels(y_ticks), strict=True):
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{label}</text>')
    for value, label in zip(x_ticks, x_labels, strict=True):
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>'
        )
    return parts


def _curve(line: Line, index: int, x: Scale, y: Scale) -> list[str]:
    points = thin(line.points)
    name = escape(f"{line.name}: {format_number(line.points[-1][1])} at {format_number(line.points[-1][0])}")
    if len(points) < 3:
        return [f'<circle class="dot c{index}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>' for a, b in points]
    if len(points) < MIN_SMOOTHED:
        path = _path(points, x, y)
        return [f'<polyline class="line c{index}" points="{path}"><title>{name}</title></polyline>']
    return [
        f'<polyline class="raw c{index}" points="{_path(points, x, y)}"/>',
        f'<polyline class="line c{index}" points="{_path(smooth(points), x, y)}"><title>{name}</title></polyline>',
    ]


def line_chart(
    title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), within: tuple[float, float] | None = None
) -> Markup | None:
    """Returns a small line chart, or None if there is no data. A bold line shows the moving mean of a curve.

    At most two marks are drawn. The label of the first mark is on the left, and the label of the second mark on the
    right. `within`: the largest permitted range of the y axis.
    """
    drawn = [line for line in map(_finite, lines) if line.points]
    if not drawn:
        return None
    steps = [a for line in drawn for a, _ in line.points]
    low, high = min(steps), max(steps)
    x = Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)
    y = Scale(*_bounds(drawn, marks, within), HEIGHT - BOTTOM, TOP)
    x_ticks = [value for value in ticks(x.low, x.high, 5) if value == int(value)]
    parts = _axes(x, y, x_ticks, [format_number(value) for value in x_ticks])
    for mark, (at_x, anchor) in zip(marks, ((LEFT + 4, "start"), (WIDTH - RIGHT, "end")), strict=False):
        at = y(mark.y)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{at_x}" y="{at - 4:.1f}" text-anchor="{anchor}">{escape(mark.name)}</text>'
        )
    for index, line in enumerate(drawn):
        parts += _curve(line, index, x, y)
    return _figure(title, [line.name for line in drawn], parts)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


def interval_chart(
    title: str, classes: Sequence[str], series: Sequence[tuple[str, Sequence[Estimate | None]]]
) -> Markup | None:
    """Returns a chart of estimates with their intervals, or None if there is no estimate. Values are in [0, 1].

    `classes`: names of the classes of tasks. `series`: pairs of a name and a list with one estimate per class.

    The chart has one column per class. If a name is wider than a column, the chart has one row per class instead.
    """
    if not classes or not any(estimate for _, estimates in series for estimate in estimates):
        return None
    if max(map(len, classes)) * LETTER > (WIDTH - LEFT - RIGHT) / len(classes):
        return _interval_rows(title, classes, series)
    x = Scale(-0.5, len(classes) - 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = _axes(x, y, range(len(classes)), classes)
    for index, (name, estimates) in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * 0.26
        for place, estimate in enumerate(estimates):
            if estimate is None:
                continue
            at = x(place + shift)
            tooltip = _tooltip(name, classes[place], estimate)
            low, value, high = y(estimate.low), y(estimate.value), y(estimate.high)
            parts += [
                f'<line class="whisker c{index}" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>',
                f'<circle class="dot c{index}" cx="{at:.1f}" cy="{value:.1f}" r="3.5">',
                f"<title>{escape(tooltip)}</title></circle>",
            ]
    return _figure(title, [name for name, _ in series], parts)


def _tooltip(name: str, group: str, estimate: Estimate) -> str:
    return f"{name}, {group}: {estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def _interval_rows(
    title: str, classes: Sequence[str], series: Sequence[tuple[str, Sequence[Estimate | None]]]
) -> Markup:
    """Returns a chart with one row per class. The name of the class is above its intervals."""
    bottom = TOP + ROW * len(classes)
    x = Scale(0.0, 1.0, RIGHT, WIDTH - 2 * RIGHT)
    parts = []
    for value in ticks(0.0, 1.0):
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{value:.0%}</text>')
    most = int((WIDTH - 2 * RIGHT) / LETTER)
    for place, group in enumerate(classes):
        top = TOP + ROW * place
        shown = group if len(group) <= most else group[: most - 1] + "…"
        parts.append(
            f'<text class="tick" x="{RIGHT}" y="{top + 9}">{escape(shown)}<title>{escape(group)}</title></text>'
        )
        for index, (name, estimates) in enumerate(series):
            if (estimate := estimates[place]) is None:
                continue
            at = top + 18 + 10 * index
            parts += [
                f'<line class="whisker c{index}" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}"',
                f' y1="{at}" y2="{at}"/><circle class="dot c{index}" cx="{x(estimate.value):.1f}" cy="{at}" r="3.5">',
                f"<title>{escape(_tooltip(name, group, estimate))}</title></circle>",
            ]
    return _figure(title, [name for name, _ in series], parts, bottom + BOTTOM)


def _figure(title: str, names: Sequence[str], parts: Sequence[str], height: int = HEIGHT) -> Markup:
    keys = "".join(f'<span class="key"><i class="c{i}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    legend = keys if len(names) > 1 else ""
    return Markup(
        f"<figure><figcaption>{escape(title)}{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )  # all texts in the figure are escaped
