"""What a timeline keeps of a stream in bounded memory: decisions as spans, values as lines, ages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from edgewright.runtime.frames import Result

__all__ = ["Bars", "Cell", "Panel", "Span"]

_MOST = 2000
"""Bars of a panel, and points of a line; with more, neighbours are merged."""
_ROWS_KEPT, _ROWS_SHOWN, _LINES = 64, 24, 6
_GAP = 3.0
"""A pause of more than this many usual distances between results is a gap."""
_YEAR_NS = 366 * 86400 * 10**9
_BINS, _RATIO, _BUCKETS, _LEAST_MS = 128, 1.05, 400, 0.001


@dataclass(slots=True)
class Span:
    """From start to end; a score's mean over the time that it was held."""

    start: int
    end: int
    score: float

    @property
    def level(self) -> int:
        """The score in four steps, 0 to 3: spans of one step are merged."""
        return min(3, int(self.score * 4))


@dataclass(slots=True)
class _Row:
    text: str
    order: float
    spans: list[Span] = field(default_factory=list)
    held_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Decision:
    """What one result adds to a row."""

    key: str
    text: str
    order: float
    score: float = 1.0


class Bars:
    """Rows of spans; runs are merged, and spans closer than `near_ns` once there are too many."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self.others: set[str] = set()
        self.near_ns = 0
        self._count = 0

    def copy(self) -> Bars:
        """Another one with the same spans, to add to without changing this."""
        made = Bars()
        made.near_ns, made._count, made.others = self.near_ns, self._count, set(self.others)
        for key, row in self.rows.items():
            spans = [Span(span.start, span.end, span.score) for span in row.spans]
            made.rows[key] = _Row(row.text, row.order, spans, row.held_ns)
        return made

    def add(self, decisions: Iterable[_Decision], start: int, end: int) -> None:
        """Take what was decided from start to end, in nanoseconds."""
        open_ = set()
        for decision in decisions:
            open_.add(decision.key)
            row = self.rows.get(decision.key)
            if row is None:
                row = self.rows[decision.key] = _Row(decision.text, decision.order)
            self._count += self._append(row.spans, Span(start, end, decision.score))
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

    def _merged(self, spans: Iterable[Span]) -> list[Span]:
        found: list[Span] = []
        for span in spans:
            self._append(found, span)
        return found

    def _append(self, spans: list[Span], new: Span) -> int:
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
class Cell:
    """The least and largest value of a line from start to end."""

    start: int
    end: int
    low: float
    high: float
    joined: bool


class _Line:
    """Values over time; once there are too many, neighbours become one cell with the lowest and the highest of them."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.near_ns = 0
        self._joined = False

    def add(self, at: int, value: Any, joined: bool) -> None:
        value = _number(value, math.nan)
        if not math.isfinite(value):
            self._joined = False
            return
        self._append(self.cells, Cell(at, at, value, value, joined and self._joined))
        self._joined = True
        if len(self.cells) > _MOST:
            while len(self.cells) > _MOST // 2:
                self.near_ns = max(2 * self.near_ns, (at - self.cells[0].start) // _MOST, 1)
                cells, self.cells = self.cells, []
                for cell in cells:
                    self._append(self.cells, cell)

    def _append(self, cells: list[Cell], new: Cell) -> None:
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


class Panel:
    """What is kept of one source."""

    def __init__(self, name: str, zero_ns: int) -> None:
        self.name, self.jumps = name, 0
        self.counts = {"done": 0, "late": 0, "failed": 0}
        self.bars = {"decided": Bars(), "shaded": Bars(), "marks": Bars()}
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
        """Take one result; what the one before decided stands until this one."""
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

    def drawn(self, name: str) -> Bars:
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
