"""Draws a timeline as one SVG."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from xml.sax.saxutils import escape

from edgewright.runtime.timespans import Bars, Cell, Panel, Span

__all__ = ["picture"]

_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_COLOURS = {
    "light": "#f7f8f6 #15191d #5a626a #dadedb #855600 #b3261e #0072b2 #bd4b00 #007a5a #a3417a #8a6400 #5a4fb0",
    "dark": "#101316 #e7e9e7 #a4acb2 #2d343a #e3b352 #ff8d7e #5cb3ea #f08b4c #35c096 #e095c1 #dfb23e #a79ff2",
}
"""Paper, ink, soft ink, hairlines, late, failed, and six that stay apart for colour-blind eyes (after Okabe and Ito)."""


class _Axis:
    """Time from left to right."""

    def __init__(self, panel: Panel, left: float, right: float) -> None:
        self.begin, self.left, self.right = panel.start, left, right
        self.end = max(panel.last + panel.usual_ns, panel.start + 10**6)
        since_epoch = panel.recorded and 1e8 < panel.start / 1e9 < 1e10
        relative = panel.recorded and (panel.start < 0 or panel.start / 1e9 > 1e8)
        self._zero = panel.start if relative else 0
        self.caption = "recorded time" if panel.recorded else "time since the start of the stream"
        if relative:
            moment = datetime.fromtimestamp(panel.start // 10**9, timezone.utc) if since_epoch else None
            self.caption = f"time since {moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "recorded time since the first result"

    def x(self, at: float) -> float:
        return self.left + (at - self.begin) / (self.end - self.begin) * (self.right - self.left)

    def ticks(self) -> list[tuple[int, str]]:
        """Moments and what they are called."""
        begin, end = (self.begin - self._zero) / 1e9, (self.end - self._zero) / 1e9
        step = _step(end - begin, max(2, int((self.right - self.left) / 90)), seconds=True)
        places = range(math.ceil(begin / step), math.floor(end / step) + 1)
        return [(round(place * step * 1e9) + self._zero, _moment_text(place * step, step, end)) for place in places]

    def text(self, at: int) -> str:
        return f"{(at - self._zero) / 1e9:.3f}".rstrip("0").rstrip(".")


def _step(reach: float, most: int, *, seconds: bool = False) -> float:
    """A round distance of ticks, so that about so many fit."""
    least = reach / most
    if seconds and 20 < least <= _STEPS_S[-1]:
        return next((step for step in _STEPS_S if step >= least), _STEPS_S[-1]) if least > 30 else 30
    unit, least = (86400.0, least / 86400) if seconds and least > 20 else (1.0, least)
    ten = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return unit * next((n * ten for n in (1, 2, 5) if n * ten >= least), 10 * ten)


def _moment_text(seconds: float, step: float, end: float) -> str:
    whole = round(seconds)
    if step < 1 or (end <= 300 and step < 60):
        return f"{round(seconds, 9):.10g} s"
    if step >= 86400:
        return f"{whole // 86400} d"
    if step >= 3600:
        return f"{whole // 3600} h"
    if step >= 60:
        return f"{whole // 60} min" if end <= 7200 else f"{whole // 3600}:{whole // 60 % 60:02} h"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if end >= 3600 else f"{minutes}:{whole % 60:02} min"


def _style() -> str:
    def rules(theme: str) -> str:
        paper, ink, soft, hair, late, failed, *six = _COLOURS[theme].split()
        plain = f".paper{{fill:{paper}}}text{{fill:{ink}}}.soft{{fill:{soft}}}.hair{{stroke:{hair}}}.limit{{stroke:{ink}}}"
        marks = f".late{{fill:{late}}}.failed,.anomaly{{fill:{failed}}}.learning{{fill:{soft}}}"
        return plain + marks + "".join(f".c{n}{{fill:{colour}}}.l{n}{{stroke:{colour}}}" for n, colour in enumerate(six))

    font = "text{font:12px system-ui,'Segoe UI',Helvetica,Arial,sans-serif}.name{font-size:14px;font-weight:600}"
    shapes = (
        ".line,.hair,.limit{fill:none;stroke-width:1.25}.hair{stroke-width:1}.limit{stroke-dasharray:6 4}.end{text-anchor:end}"
    )
    shapes += ".mid{text-anchor:middle}"
    return f"<style>{font}{shapes}{rules('light')}@media (prefers-color-scheme:dark){{{rules('dark')}}}</style>"


def _clean(text: str, most: float = math.inf) -> str:
    """Text as XML, of at most so many columns; what cannot be printed is replaced."""
    shown, columns = "", 0
    for letter in text:
        columns += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if columns > most:
            shown = shown[:-1] + "…"
            break
        shown += letter if letter.isprintable() else "\ufffd"
    return escape(shown, {'"': "&quot;"})


def picture(panels: Iterable[Panel], width: int) -> str:
    """The whole SVG."""
    paper, panels = _Paper(width), list(panels)
    for panel in panels:
        paper.panel(panel)
    height = math.ceil(paper.y + 4)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    title = _clean("Decisions over time: " + ", ".join(panel.name for panel in panels), 400)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{title}</title>{_style()}'
    return f'{head}<rect class="paper" width="{width}" height="{height}"/>\n' + "\n".join(paper.parts) + "\n</svg>\n"


class _Paper:
    """Draws panels below one another."""

    def __init__(self, width: int) -> None:
        self.parts: list[str] = []
        self.y = 10.0
        self._left, self._right = 24 + 7.0 * min(22, width // 24), width - 64.0

    def panel(self, panel: Panel) -> None:
        axis, bars = _Axis(panel, self._left, self._right), {name: panel.drawn(name) for name in panel.bars}
        counts = " · ".join(f"{count} {status}" for status, count in panel.counts.items())
        self.parts.append(f'<g class="panel"><title>{_clean(panel.name, 200)}</title>')
        self._text(16, self.y + 16, panel.name, "name", (axis.right - 280) / 8.5)
        self._text(axis.right + 48, self.y + 16, counts, "soft end")
        self.y += 28
        top, ticks = self.y, len(self.parts)
        self._rows(axis, bars["decided"], None)
        if panel.lines:
            self._plot(panel, axis, bars["shaded"])
        self._rows(axis, bars["marks"], "")
        for at, _ in axis.ticks():
            self.parts.insert(ticks, f'<path class="hair" d="M{axis.x(at):.2f} {top:.1f}V{self.y + 3:.1f}"/>')
        for at, text in axis.ticks():
            self._text(axis.x(at), self.y + 16, text, "soft mid")
        self.y += 34
        self._text(axis.left, self.y, " · ".join([axis.caption, *_notes(panel, bars)]), "soft", (axis.right - axis.left) / 6)
        self.y += 10
        self._age(panel, axis)
        self.parts.append("</g>")
        self.y += 18

    def _rows(self, axis: _Axis, bars: Bars, look: str | None) -> None:
        """A row for each key; with a look of "", the key is the class of its bars."""
        for place, (key, row) in enumerate(sorted(bars.rows.items(), key=lambda item: (item[1].order, item[0]))):
            self._text(axis.left - 10, self.y + 13, row.text, "end", (axis.left - 26) / 7)
            self._hair(axis, self.y + 9)
            self.parts.append(f'<g class="{f"c{place % 6}" if look is None else key}" data-row="{_clean(row.text, 60)}">')
            for span in row.spans:
                self._bar(axis, span, self.y + 2, 14, f", score {span.score:.2f}" if look is None and span.score < 1 else "")
            self.parts.append("</g>")
            self.y += 19

    def _bar(self, axis: _Axis, span: Span, top: float, height: float, more: str = "", opacity: float = 1.0) -> None:
        left, right = axis.x(span.start), axis.x(span.end)
        seen = opacity * (0.3 + 0.7 * span.score)
        title = f"<title>{axis.text(span.start)} to {axis.text(span.end)} s{more}</title>"
        place = f'x="{left:.3f}" y="{top:.1f}" width="{max(right - left, 1.2):.3f}" height="{height}"'
        self.parts.append(f'<rect {place} fill-opacity="{seen:.2f}">{title}</rect>')

    def _plot(self, panel: Panel, axis: _Axis, shaded: Bars) -> None:
        """Lines in one plot, with the threshold dashed and spans shaded."""
        height, top = 110.0, self.y + 6
        cells = [cell for line in panel.lines.values() for cell in line.cells]
        low, high = min((cell.low for cell in cells), default=0.0), max((cell.high for cell in cells), default=1.0)
        low = min(low, 0.0) if panel.lines.keys() & {"threshold", "boxes"} else low
        scale = _Scale(low, high, top, height)
        self._scale(axis, scale, scale.ticks(4))
        for key, row in shaded.rows.items():
            self.parts.append(f'<g class="{key}" data-row="{key}">')
            for span in row.spans:
                self._bar(axis, span, top, height, f", {key}", 0.3)
            self.parts.append("</g>")
        names = list(panel.lines)
        for place, (name, line) in enumerate(panel.lines.items()):
            limit = name == "threshold"
            self._line(axis, scale, line.cells, -1 if limit else place, step=name in ("boxes", "threshold"), until=axis.end)
            self._text(
                axis.left - 10, top + 24 + 15 * place, ("- - " if limit else "") + name, f"end{'' if limit else f' c{place}'}", 16
            )
        for place, key in enumerate(shaded.rows, len(names)):
            self._text(axis.left - 10, top + 24 + 15 * place, key, f"end {key}", 16)
        self.y = top + max(height, 24.0 + 15 * len(names)) + 8

    def _line(self, axis: _Axis, scale: _Scale, cells: list[Cell], place: int, *, step: bool, until: int) -> None:
        look = "limit" if place < 0 else f"line l{place}"
        for run in _runs(cells):
            points = [(axis.x((cell.start + cell.end) / 2), scale.y(cell.low), scale.y(cell.high)) for cell in run]
            if step and run[-1] is cells[-1]:
                points.append((axis.x(until), points[-1][1], points[-1][2]))
            if len(points) == 1:
                points = [(points[0][0] - 0.8, *points[0][1:]), (points[0][0] + 0.8, *points[0][1:])]
            if any(cell.low < cell.high for cell in run):
                path = "L".join(
                    f"{x:.2f} {y:.2f}" for x, y in [(x, h) for x, _, h in points] + [(x, w) for x, w, _ in points[::-1]]
                )
                fill = f'class="{look} c{place}" style="fill-opacity:.3"' if place >= 0 else f'class="{look}"'
                self.parts.append(f'<path {fill} d="M{path}Z"/>')
            else:
                first, *rest = points
                path = "".join(f"H{x:.2f}V{y:.2f}" if step else f"L{x:.2f} {y:.2f}" for x, y, _ in rest)
                self.parts.append(f'<path class="{look}" d="M{first[0]:.2f} {first[1]:.2f}{path}"/>')

    def _age(self, panel: Panel, axis: _Axis) -> None:
        """Bars up to the highest age of each bin, and a stroke at its p50."""
        bins = list(panel.ages.bins()) if panel.ages else []
        scale = _Scale(0.0, max((highest for *_, highest in bins), default=1.0), self.y + 6, 40.0)
        self._scale(axis, scale, (0.0, scale.high))
        self._text(axis.left - 10, self.y + 26, "age, ms", "end", 16)
        self._text(axis.left - 10, self.y + 41, "p50 dark, max light", "soft end", 22)
        self.parts.append('<g class="c0" data-row="age">')
        for start, end, half, highest in bins:
            left, right = axis.x(start), min(axis.x(end), axis.right)
            for value, seen in ((highest, 0.35), (half, 0.9)):
                place = f'x="{left:.2f}" y="{scale.y(value):.2f}" width="{max(right - left - 0.6, 1.2):.2f}"'
                self.parts.append(f'<rect {place} height="{max(scale.y(0) - scale.y(value), 0.8):.2f}" fill-opacity="{seen}"/>')
        self.parts.append("</g>")
        self.y += 54

    def _scale(self, axis: _Axis, scale: _Scale, values: Iterable[float]) -> None:
        for value in values:
            self._hair(axis, scale.y(value))
            self._text(axis.right + 6, scale.y(value) + 4, f"{value:.3g}", "soft")

    def _hair(self, axis: _Axis, y: float) -> None:
        self.parts.append(f'<path class="hair" d="M{axis.left:.1f} {y:.1f}H{axis.right:.1f}"/>')

    def _text(self, x: float, y: float, text: str, look: str = "", most: float = math.inf) -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{look}">{_clean(text, most)}</text>')


class _Scale:
    """Values from the bottom up."""

    def __init__(self, low: float, high: float, top: float, height: float) -> None:
        self.low, self.high = (low, high) if high > low else (low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2)
        self._top, self._height = top, height

    def y(self, value: float) -> float:
        return self._top + self._height * (1 - (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2))  # halves: no overflow

    def ticks(self, most: int) -> list[float]:
        step = max(2 * _step(self.high / 2 - self.low / 2, most), 1e-300)
        if not math.isfinite(step):
            return []
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)][: 2 * most]


def _runs(cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells between two gaps."""
    run: list[Cell] = []
    for cell in cells:
        if run and not cell.joined:
            yield run
            run = []
        run.append(cell)
    if run:
        yield run


def _notes(panel: Panel, bars: Mapping[str, Bars]) -> list[str]:
    """What the reader must know of what was left out."""
    found = []
    if near := max(one.near_ns for one in bars.values()):
        found.append(f"thinned: bars closer than {near / 1e9:.3g} s are drawn as one")
    if near := max((line.near_ns for line in panel.lines.values()), default=0):
        found.append(f"thinned: lines are bands from min to max of {near / 1e9:.3g} s")
    if panel.jumps:
        found.append(f"the clock jumped {panel.jumps} time{'s'[: panel.jumps > 1]}: read on from there")
    return found
