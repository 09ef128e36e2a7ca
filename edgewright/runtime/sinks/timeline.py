"""What was decided over time as one SVG picture (`timeline:seen.svg?width=1200&every=5`), in bounded memory."""

from __future__ import annotations

import math
import os
import time
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from edgewright.artifact import write_atomic
from edgewright.errors import ArtifactError, SinkError
from edgewright.runtime.address import Address, positive, whole
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.sinks import SINKS

__all__ = ["TimelineSink"]

_MOST = 2000
"""Bars of a panel, and points of a line; with more, neighbours are merged."""
_ROWS_KEPT, _ROWS_SHOWN, _LINES = 64, 24, 6
_GAP = 3.0
"""A pause of more than this many usual distances between results is a gap."""
_YEAR_NS = 366 * 86400 * 10**9
_BINS, _RATIO, _BUCKETS, _LEAST_MS = 128, 1.05, 400, 0.001
_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_COLOURS = {
    "light": "#f7f8f6 #15191d #5a626a #dadedb #855600 #b3261e #0072b2 #bd4b00 #007a5a #a3417a #8a6400 #5a4fb0",
    "dark": "#101316 #e7e9e7 #a4acb2 #2d343a #e3b352 #ff8d7e #5cb3ea #f08b4c #35c096 #e095c1 #dfb23e #a79ff2",
}
"""Paper, ink, soft ink, hairlines, late, failed, and six that stay apart for colour-blind eyes (after Okabe and Ito)."""


@SINKS.register("timeline")
class TimelineSink(Sink):
    """A picture with a panel for each source: decisions as bars or lines over time, late and failed results, and ages.

    A decision stands from its own moment until the next result, over a gap for the usual time. Time is the recorded one where
    there is one. The file is replaced whole, with the first result, at most every few seconds and at the end; endless
    streams are thinned, so that single extremes stay and the picture says so.

    Args:
        path: the file.
        width: of the picture in pixels.
        every_s: seconds between two pictures, at least.

    Raises:
        SinkError: the file cannot be written there.
    """

    def __init__(self, path: Path, width: int = 1200, every_s: float = 5.0) -> None:
        if not path.parent.is_dir():
            raise SinkError(f"{path} cannot be written: the folder {path.parent} is not there", hint=f"mkdir -p {path.parent}")
        if not path.name or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise SinkError(f"{path} cannot be written", hint="check the folder's rights, or name another file")
        self._path, self._width, self._every_s = path, width, every_s
        self._panels: dict[str, _Panel] = {}
        self._zero_ns: int | None = None
        self._next, self._waiting, self._stale, self._closed = -math.inf, 0, False, False

    @classmethod
    def of(cls, address: Address) -> TimelineSink:
        """From `timeline:PATH?width=&every=`."""
        given = address.options(width=whole(400, 10000), every=positive)
        return cls(Path(address.target), given.get("width", 1200), given.get("every", 5.0))

    def write(self, result: Result) -> None:
        """Take one result, and draw if it is time; a result whose picture fails is in the next one that succeeds."""
        if self._closed:
            raise SinkError(f"{self._path} is closed, the result was not written")
        if self._zero_ns is None:
            self._zero_ns = result.captured_ns
        if result.source not in self._panels:
            self._panels[result.source] = _Panel(result.source, self._zero_ns)
        self._panels[result.source].add(result)
        self._stale = True
        if time.monotonic() >= self._next:
            self._draw()
        else:
            self._waiting += 1

    def close(self) -> int:
        """Draw what came since the last picture."""
        self._closed = True
        if self._stale:
            try:
                self._draw()
            except SinkError as error:
                self.tell(error.message)
        lost, self._waiting, self._stale = self._waiting, 0, False
        return lost

    def _draw(self) -> None:
        try:
            write_atomic(self._path, _picture(self._panels.values(), self._width).encode())
        except (ArtifactError, OSError) as error:
            raise SinkError(f"{self._path} cannot be written: {error}", hint="make room, or check the folder's rights") from error
        finally:
            self._next = time.monotonic() + self._every_s
        self._waiting, self._stale = 0, False


@dataclass(slots=True)
class _Span:
    """From start to end; a score's mean over the time that it was held."""

    start: int
    end: int
    score: float

    @property
    def level(self) -> int:
        return min(3, int(self.score * 4))


@dataclass(slots=True)
class _Row:
    text: str
    order: float
    spans: list[_Span] = field(default_factory=list)
    held_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Decision:
    """What one result adds to a row."""

    key: str
    text: str
    order: float
    score: float = 1.0


class _Bars:
    """Rows of spans; runs are merged, and spans closer than `near_ns` once there are too many."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self.others: set[str] = set()
        self.near_ns = 0
        self._count = 0

    def copy(self) -> _Bars:
        made = _Bars()
        made.near_ns, made._count, made.others = self.near_ns, self._count, set(self.others)
        for key, row in self.rows.items():
            spans = [_Span(span.start, span.end, span.score) for span in row.spans]
            made.rows[key] = _Row(row.text, row.order, spans, row.held_ns)
        return made

    def add(self, decisions: Iterable[_Decision], start: int, end: int) -> None:
        open_ = set()
        for decision in decisions:
            open_.add(decision.key)
            row = self.rows.get(decision.key)
            if row is None:
                row = self.rows[decision.key] = _Row(decision.text, decision.order)
            self._count += self._append(row.spans, _Span(start, end, decision.score))
            row.held_ns += end - start
        if len(self.rows) > _ROWS_KEPT:
            self.fold(_ROWS_KEPT * 3 // 4, open_)  # some more than needed, so that this is rare
        if self._count > _MOST:
            while self._count > _MOST // 2:
                self._thin()

    def fold(self, most: int, keep: Iterable[str] = ()) -> None:
        """Put the rows that were held shortest into one, until there are so many; those to keep go last."""
        keep = set(keep)
        shortest = sorted((key for key in self.rows if key), key=lambda key: (key in keep, self.rows[key].held_ns))
        folded = shortest[: max(0, len(shortest) + 1 - most)]
        other = self.rows.pop("", _Row("", math.inf))
        spans = list(other.spans)
        for key in folded:
            row = self.rows.pop(key)
            spans += row.spans
            if len(self.others) < _MOST:
                self.others.add(key)
        other.spans = self._merged(sorted(spans, key=lambda span: span.start))
        more = "+" if len(self.others) == _MOST else ""
        other.text = f"{len(self.others)}{more} others"
        self.rows[""] = other
        self._count = sum(len(row.spans) for row in self.rows.values())

    def _thin(self) -> None:
        rows = self.rows.values()
        reach = max(row.spans[-1].end for row in rows) - min(row.spans[0].start for row in rows)
        self.near_ns = max(2 * self.near_ns, reach // _MOST, 1)
        for row in rows:
            row.spans = self._merged(row.spans)
        self._count = sum(len(row.spans) for row in rows)

    def _merged(self, spans: Iterable[_Span]) -> list[_Span]:
        found: list[_Span] = []
        for span in spans:
            self._append(found, span)
        return found

    def _append(self, spans: list[_Span], new: _Span) -> int:
        """Add a span behind the others, or to the last one; how many there are more."""
        if spans:
            last, gap = spans[-1], new.start - spans[-1].end
            short = min(last.end - last.start, new.end - new.start) < self.near_ns
            if (gap <= 0 and last.level == new.level) or (gap < self.near_ns and (short or last.level == new.level)):
                held, more = last.end - last.start, new.end - new.start
                last.score = (last.score * held + new.score * more) / (held + more) if held + more else new.score
                last.end = max(last.end, new.end)
                return 0
        spans.append(new)
        return 1


@dataclass(slots=True)
class _Cell:
    start: int
    end: int
    low: float
    high: float
    joined: bool


class _Line:
    """Values over time; once there are too many, neighbours become one cell with the lowest and the highest of them."""

    def __init__(self) -> None:
        self.cells: list[_Cell] = []
        self.near_ns = 0
        self._joined = False

    def add(self, at: int, value: Any, joined: bool) -> None:
        value = _number(value, math.nan)
        if not math.isfinite(value):
            self._joined = False
            return
        self._append(self.cells, _Cell(at, at, value, value, joined and self._joined))
        self._joined = True
        if len(self.cells) > _MOST:
            while len(self.cells) > _MOST // 2:
                self.near_ns = max(2 * self.near_ns, (at - self.cells[0].start) // _MOST, 1)
                cells, self.cells = self.cells, []
                for cell in cells:
                    self._append(self.cells, cell)

    def _append(self, cells: list[_Cell], new: _Cell) -> None:
        if cells and new.end - cells[-1].start < self.near_ns:
            last = cells[-1]
            last.end, last.low, last.high = new.end, min(last.low, new.low), max(last.high, new.high)
        else:
            cells.append(new)


class _Ages:
    """Ages in bins of time: histograms with buckets of 5 %, and the highest; bins double when time outgrows them."""

    def __init__(self, start: int) -> None:
        self._start, self._bin_ns = start, 10**6
        self._counts = np.zeros((_BINS, _BUCKETS), np.uint32)
        self._highest = np.zeros(_BINS)

    def add(self, at: int, age_ms: float) -> None:
        while (place := (at - self._start) // self._bin_ns) >= _BINS:
            self._bin_ns *= 2
            self._counts = np.concatenate([self._counts[::2] + self._counts[1::2], np.zeros_like(self._counts[::2])])
            self._highest = np.concatenate([np.maximum(self._highest[::2], self._highest[1::2]), np.zeros(_BINS // 2)])
        bucket = int(math.log(max(age_ms, _LEAST_MS) / _LEAST_MS, _RATIO))
        self._counts[place, min(bucket, _BUCKETS - 1)] += 1
        self._highest[place] = max(self._highest[place], age_ms)

    def bins(self) -> Iterator[tuple[int, int, float, float]]:
        """Start, end, p50 and highest age of every bin that has one."""
        for place in np.flatnonzero(self._counts.any(axis=1)):
            sums, start = np.cumsum(self._counts[place]), self._start + int(place) * self._bin_ns
            half = _LEAST_MS * _RATIO ** (float(np.searchsorted(sums, (sums[-1] + 1) // 2)) + 0.5)
            highest = float(self._highest[place])
            yield start, start + self._bin_ns, min(half, highest), highest


class _Panel:
    """What is kept of one source."""

    def __init__(self, name: str, zero_ns: int) -> None:
        self.name, self.jumps = name, 0
        self.counts = {"done": 0, "late": 0, "failed": 0}
        self.bars = {"decided": _Bars(), "shaded": _Bars(), "marks": _Bars()}
        self.lines: dict[str, _Line] = {}
        self.start = self.last = self._captured = 0
        self.recorded = False
        self.ages: _Ages | None = None
        self._zero_ns, self._offset = zero_ns, 0
        self._steps: deque[int] = deque(maxlen=31)
        self._pending: dict[str, list[_Decision]] = {}

    @property
    def usual_ns(self) -> int:
        """The usual distance between two results; 0 before there are two."""
        return int(median(self._steps)) if self._steps else 0

    def add(self, result: Result) -> None:
        at, joined = self._moment(result), True
        if self.ages is None:
            self.start, self.ages = at, _Ages(at)
        else:
            step, usual = at - self.last, self.usual_ns
            joined = not usual or step <= _GAP * usual
            for name, decisions in self._pending.items():
                self.bars[name].add(decisions, self.last, at if joined else self.last + usual)
            if step > 0:
                self._steps.append(step)
        self.last, self._captured = at, result.captured_ns
        self.counts[result.status] += 1
        self.ages.add(at, result.age_ms)
        self._pending = dict(_decisions(result))
        values = {} if result.status == "failed" else _values(result.answer)
        for name in [*self.lines, *(name for name in values if name not in self.lines)]:
            if name in self.lines or len(self.lines) < _LINES:
                self.lines.setdefault(name, _Line()).add(at, values.get(name, math.nan), joined)

    def drawn(self, name: str) -> _Bars:
        """A copy that also has what stands now, for the usual time, and no more rows than are shown."""
        found = self.bars[name].copy()
        found.add(self._pending.get(name, ()), self.last, self.last + self.usual_ns)
        if len(found.rows) > _ROWS_SHOWN:
            found.fold(_ROWS_SHOWN)
        return found

    def _moment(self, result: Result) -> int:
        """The result's time, which never goes back: a clock that jumps is read on from where it was."""
        if self.ages is None:
            self.recorded = result.recorded_ns is not None
        if self.recorded and result.recorded_ns is not None:
            at = result.recorded_ns + self._offset
        elif self.recorded:
            at = self.last + result.captured_ns - self._captured
        else:
            at = result.captured_ns - self._zero_ns
        step = at - self.last
        if self.ages is None or 0 <= step < _YEAR_NS:
            return at
        if -2 * self.usual_ns < step < 0:
            return self.last
        self.jumps += 1
        self._offset += self.usual_ns - step if self.recorded else 0
        return self.last + self.usual_ns


def _decisions(result: Result) -> Iterator[tuple[str, list[_Decision]]]:
    """Rows that a result adds to, by where they are drawn."""
    if result.status != "done":
        yield "marks", [_Decision(result.status, result.status, ("late", "failed").index(result.status))]
    answer, found = result.answer, []
    if result.status == "failed":
        return
    if "anomaly" in answer:
        kind = {True: "anomaly", None: "learning"}.get(answer["anomaly"])
        yield "shaded", [_Decision(kind, kind, 0)] if kind else []
    elif "label" in answer:
        found = [_decision(answer, _sure(result))]
    elif isinstance(answer.get("labels"), (list, tuple)):
        numbers = answer.get("classes") or range(len(answer["labels"]))
        found = [_decision({"class": number, "label": label}) for number, label in zip(numbers, answer["labels"], strict=False)]
    for box in answer.get("boxes") or ():
        if (track := box.get("track")) is not None:
            found.append(
                _Decision(f"track {track}", f"{box.get('label', '')} #{track}", _number(track), _number(box.get("score"), 1))
            )
    yield "decided", found


def _decision(answer: Mapping[str, Any], score: float = 1.0) -> _Decision:
    text = str(answer.get("label", ""))[:200]
    return _Decision(f"{answer.get('class', '')} {text}", text, _number(answer.get("class")), score)


def _sure(result: Result) -> float:
    """The chosen class' score from 0 to 1; a model with one output tells that of class 1."""
    score = min(1.0, max(0.0, _number(result.answer.get("score"), 1.0)))
    single = sum(output.size for output in result.outputs.values()) == 1
    return 1.0 - score if single and result.answer.get("class") == 0 else score


def _number(value: Any, otherwise: float = 0.0) -> float:
    """A finite number as it is, something else in place of all others."""
    try:
        number = float(value) if isinstance(value, (int, float, np.number)) else math.nan
    except OverflowError:
        return otherwise
    return number if math.isfinite(number) else otherwise


def _values(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are drawn as lines, by name."""
    if "anomaly" in answer:
        return {"score": answer.get("score"), "threshold": answer.get("threshold")}
    if "boxes" in answer:
        return {"boxes": len(answer["boxes"])}
    if "values" in answer:
        return {f"value {place}": value for place, value in enumerate(answer["values"][:_LINES])}
    outputs = {name: value for name, value in (answer.get("outputs") or {}).items() if isinstance(value, (list, tuple))}
    every = [(f"{str(name)[:40]} {place}", v) for name, value in outputs.items() for place, v in enumerate(value[:_LINES])]
    return dict(every[:_LINES])


class _Axis:
    """Time from left to right."""

    def __init__(self, panel: _Panel, left: float, right: float) -> None:
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


def _picture(panels: Iterable[_Panel], width: int) -> str:
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

    def panel(self, panel: _Panel) -> None:
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

    def _rows(self, axis: _Axis, bars: _Bars, look: str | None) -> None:
        """A row for each key; with a look of "", the key is the class of its bars."""
        for place, (key, row) in enumerate(sorted(bars.rows.items(), key=lambda item: (item[1].order, item[0]))):
            self._text(axis.left - 10, self.y + 13, row.text, "end", (axis.left - 26) / 7)
            self._hair(axis, self.y + 9)
            self.parts.append(f'<g class="{f"c{place % 6}" if look is None else key}" data-row="{_clean(row.text, 60)}">')
            for span in row.spans:
                self._bar(axis, span, self.y + 2, 14, f", score {span.score:.2f}" if look is None and span.score < 1 else "")
            self.parts.append("</g>")
            self.y += 19

    def _bar(self, axis: _Axis, span: _Span, top: float, height: float, more: str = "", opacity: float = 1.0) -> None:
        left, right = axis.x(span.start), axis.x(span.end)
        seen = opacity * (0.3 + 0.7 * span.score)
        title = f"<title>{axis.text(span.start)} to {axis.text(span.end)} s{more}</title>"
        place = f'x="{left:.3f}" y="{top:.1f}" width="{max(right - left, 1.2):.3f}" height="{height}"'
        self.parts.append(f'<rect {place} fill-opacity="{seen:.2f}">{title}</rect>')

    def _plot(self, panel: _Panel, axis: _Axis, shaded: _Bars) -> None:
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

    def _line(self, axis: _Axis, scale: _Scale, cells: list[_Cell], place: int, *, step: bool, until: int) -> None:
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

    def _age(self, panel: _Panel, axis: _Axis) -> None:
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


def _runs(cells: list[_Cell]) -> Iterator[list[_Cell]]:
    """Cells between two gaps."""
    run: list[_Cell] = []
    for cell in cells:
        if run and not cell.joined:
            yield run
            run = []
        run.append(cell)
    if run:
        yield run


def _notes(panel: _Panel, bars: Mapping[str, _Bars]) -> list[str]:
    """What the reader must know of what was left out."""
    found = []
    if near := max(one.near_ns for one in bars.values()):
        found.append(f"thinned: bars closer than {near / 1e9:.3g} s are drawn as one")
    if near := max((line.near_ns for line in panel.lines.values()), default=0):
        found.append(f"thinned: lines are bands from min to max of {near / 1e9:.3g} s")
    if panel.jumps:
        found.append(f"the clock jumped {panel.jumps} time{'s'[: panel.jumps > 1]}: read on from there")
    return found
