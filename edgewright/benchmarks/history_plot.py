"""Draws the history of a model as one SVG: a figure over its measurements, with intervals as whiskers and regressions marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from edgewright.benchmarks.compare import FIGURES
from edgewright.benchmarks.compare_text import change_text, value_text
from edgewright.benchmarks.history_points import Point
from edgewright.report import Metric

__all__ = ["history_svg"]

_COLOURS = {
    "light": ("#f7f8f6", "#15191d", "#5a626a", "#dadedb", "#0072b2", "#b3261e"),
    "dark": ("#101316", "#e7e9e7", "#a4acb2", "#2d343a", "#5cb3ea", "#ff8d7e"),
}
"""Paper, ink, soft ink, hairlines, points, regressions."""

_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 28, 62, 58
_CAP = 4


def history_svg(points: Sequence[Point], metric: str = "p90") -> str:
    """A panel for each model, device, engine and thread count that has the figure; measurements stand at equal distances.

    Args:
        points: the oldest first.
        metric: a key of `FIGURES`.
    """
    panels: dict[tuple[str, str, str, int], list[tuple[Point, Metric]]] = {}
    for point in points:
        found = point.figures.get(metric)
        if found is not None and found.value is not None:
            panels.setdefault((point.model, point.device, point.engine, point.threads), []).append((point, found))
    parts: list[str] = []
    for place, (key, drawn) in enumerate(panels.items()):
        parts += _panel(key, drawn, metric, place * _HEIGHT)
    height = _HEIGHT * max(1, len(panels))
    if not panels:
        parts.append(_text(_WIDTH / 2, height / 2, f"no measurement has a figure called {metric}", "soft mid"))
    title = _clean(f"{FIGURES[metric].title} over time: {', '.join(dict.fromkeys(key[0] for key in panels)) or 'nothing'}")
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{title}</title>{_style()}'
    return f'{head}<rect class="paper" width="{_WIDTH}" height="{height}"/>\n' + "\n".join(parts) + "\n</svg>\n"


def _style() -> str:
    def rules(theme: str) -> str:
        paper, ink, soft, hair, mark, alarm = _COLOURS[theme]
        return (
            f".paper{{fill:{paper}}}text{{fill:{ink}}}.soft{{fill:{soft}}}.hair{{stroke:{hair}}}.join,.whisker{{stroke:{mark}}}"
            f".point{{fill:{mark};stroke:{mark}}}.same{{fill:{paper}}}.ring{{stroke:{alarm}}}text.alarm{{fill:{alarm}}}"
        )

    shapes = (
        "text{font:12px system-ui,'Segoe UI',Helvetica,Arial,sans-serif}.name{font-size:14px;font-weight:600}"
        ".end{text-anchor:end}.mid{text-anchor:middle}.alarm{font-weight:600}.hair,.join,.whisker,.ring{fill:none}"
        ".join{stroke-opacity:.45;stroke-width:1.5}.whisker{stroke-width:1.25}.point{stroke-width:1.5}.ring{stroke-width:2}"
    )
    return f"<style>{shapes}{rules('light')}@media (prefers-color-scheme:dark){{{rules('dark')}}}</style>"


def _panel(key: tuple[str, str, str, int], drawn: Sequence[tuple[Point, Metric]], metric: str, top: float) -> list[str]:
    """One series: title, scale, points with whiskers, times and digests below."""
    model, device, engine, threads = key
    scale = _Scale([found for _, found in drawn], top + _TOP, top + _HEIGHT - _BOTTOM)
    unit = drawn[0][1].unit
    count = f"{threads} thread{'' if threads == 1 else 's'}"
    parts = [
        _text(16, top + 26, f"{model} on {device}", "name", 70),
        _text(16, top + 44, f"{FIGURES[metric].title}, {engine}, {count}", "soft"),
        _text(_WIDTH - _RIGHT, top + 26, "whiskers: the report's interval", "soft end"),
        _text(
            _WIDTH - _RIGHT,
            top + 44,
            "filled: another file than before · ring: slower by more than 5 %, and no chance",
            "soft end",
        ),
    ]
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(f'<path class="hair" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 10, y + 4, _tick_text(value, unit), "soft end"))
    step = (_WIDTH - _LEFT - _RIGHT) / len(drawn)
    xs = [_LEFT + step * (place + 0.5) for place in range(len(drawn))]
    line = "L".join(f"{x:.1f} {scale.y(found.value or 0):.1f}" for x, (_, found) in zip(xs, drawn, strict=True))
    parts.append(f'<path class="join" d="M{line}"/>')
    every = max(1, math.ceil(118 / step))  # a time is about 110 wide
    for place, (x, (point, found)) in enumerate(zip(xs, drawn, strict=True)):
        changed = place == 0 or point.sha256 != drawn[place - 1][0].sha256
        parts += _mark(x, point, found, scale, changed)
        if place % every == 0:
            parts.append(_text(x, top + _HEIGHT - _BOTTOM + 20, point.time, "soft mid"))
            parts.append(_text(x, top + _HEIGHT - _BOTTOM + 36, point.sha256[:8], "soft mid"))
    return parts


def _tick_text(value: float, unit: str) -> str:
    """A round value without the zeros at its end."""
    number, space, name = value_text(value, unit).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{name}" if value else "0"


def _mark(x: float, point: Point, found: Metric, scale: _Scale, changed: bool) -> list[str]:
    """A point with its whisker, and a ring with the change where it is a regression."""
    value = found.value or 0.0
    y = scale.y(value)
    told = [point.time, f"sha256 {point.sha256[:8]}", point.library, f"{value_text(value, found.unit)}"]
    parts = []
    if found.low is not None and found.high is not None:
        told[-1] += f" ({value_text(found.low, found.unit)} to {value_text(found.high, found.unit)}, {found.interval})"
        low, high = scale.y(found.low), scale.y(found.high)
        path = f"M{x:.1f} {low:.1f}V{high:.1f}"
        for end, drawn in ((found.low, low), (found.high, high)):
            if scale.low <= end <= scale.high:  # an end that lies outside gets no cap
                path += f"M{x - _CAP:.1f} {drawn:.1f}H{x + _CAP:.1f}"
        parts.append(f'<path class="whisker" d="{path}"/>')
    told += [f"{change_text(point.change.change)} to the one before"] if point.change else []
    told += [point.note] if point.note else []
    title = f"<title>{_clean(' · '.join(filter(None, told)))}</title>"
    look = "point" if changed else "point same"
    parts.append(f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>')
    if point.regressed and point.change:
        parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8.5"/>')
        upper = y if found.high is None else min(y - 6, scale.y(found.high))
        parts.append(_text(x, upper - 8, change_text(point.change.change), "alarm mid"))
    return parts


class _Scale:
    """Values from the bottom up, around the figures; a whisker much longer than their span is cut off."""

    def __init__(self, metrics: Sequence[Metric], top: float, bottom: float) -> None:
        values = [metric.value or 0.0 for metric in metrics]
        low, high = min(values), max(values)
        spare = max(0.75 * (high - low), 0.03 * abs(high), 1e-12)
        ends = [(m.low, m.high) for m in metrics if m.low is not None and m.high is not None]
        self.low = max(low - spare, min([low, *(end[0] for end in ends)]))
        self.high = min(high + spare, max([high, *(end[1] for end in ends)]))
        margin = 0.08 * (self.high - self.low) or spare
        self.low, self.high = max(0.0, self.low - margin), self.high + margin
        self._top, self._bottom = top, bottom

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self._bottom - share * (self._bottom - self._top)

    def ticks(self) -> list[float]:
        """Up to 6 round values."""
        least = (self.high - self.low) / 5
        ten = 10.0 ** math.floor(math.log10(least))
        step = next(n * ten for n in (1, 2, 5, 10) if n * ten >= least * 0.999)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _clean(text: str, most: int = 1000) -> str:
    """Text as XML; what cannot be printed is replaced."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in shown), {'"': "&quot;"})


def _text(x: float, y: float, text: str, look: str, most: int = 1000) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{look}">{_clean(text, most)}</text>'
