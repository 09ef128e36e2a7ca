"""From scores to a decision that does not flutter: smoothing, hysteresis, and thresholds learned from normal data."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from edgewright.declared import from_fields, is_number, read_number, read_settings
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.runtime.frames import Array

__all__ = ["AnomalyThreshold", "Decider", "Decision", "Smoothing", "learn_threshold", "threshold_interval"]

_METHODS = ("none", "mean", "ema", "vote")
_KEYS = ("enter", "leave", "hold")
_PROBABILITY = 0.5
"""Where a single score decides if no threshold is declared, see `edgewright.tasks.default_threshold`."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How scores of consecutive windows become one decision.

    Args:
        method: "none"; "mean" of the last `size` score vectors; "ema", s = alpha * new + (1 - alpha) * s, which starts at the
            first vector; "vote", the classes' shares of the last `size` windows' decisions.
        size: windows, for mean and vote; before there are as many, those that there are.
        alpha: above 0, at most 1, for ema.
        enter: another class is decided for if its smoothed score is at least this.
        leave: it is also decided for if the present one's smoothed score is below this. Without both, the best class is.
        hold: windows that a decision stays at least.

    With one score per window, class 1 is entered at `enter` (0.5 if not declared) or above and left below `leave` (`enter` if
    not declared). "vote" does that with each window's own score, then votes.

    Raises:
        UsageError: a field has a value that it cannot have.
    """

    method: Literal["none", "mean", "ema", "vote"] = "none"
    size: int = 1
    alpha: float = 1.0
    enter: float | None = None
    leave: float | None = None
    hold: int = 0

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise UsageError(f"smoothing is '{self.method}', it must be one of {', '.join(_METHODS)}")
        for name, count, least in (("size", self.size, 1), ("hold", self.hold, 0)):
            if type(count) is not int or not least <= count < 1 << 31:
                raise UsageError(f"smoothing {name} is {count}, it must be a whole number of windows, {least} or more")
        if not (is_number(self.alpha) and 0 < self.alpha <= 1):
            raise UsageError(f"smoothing alpha is {self.alpha}, it must be above 0 and at most 1")
        for name, limit in (("enter", self.enter), ("leave", self.leave)):
            if limit is not None and not is_number(limit):
                raise UsageError(f"smoothing {name} is {limit}, it must be a finite number")
        if self.enter is not None and self.leave is not None and self.leave > self.enter:
            raise UsageError(
                f"smoothing leaves a class below {self.leave} and enters one at {self.enter}: leave must not be above enter"
            )

    @classmethod
    def parse(cls, text: str) -> Smoothing:
        """A declaration from text such as `mean:5,enter=0.7,leave=0.4,hold=3`.

        The method comes first: none, mean:N, ema:ALPHA or vote:N.

        Raises:
            UsageError: a method, key or value is unknown, given twice, or no number; the message names the known ones.
        """
        first, _, rest = text.partition(",")
        method, colon, number = (piece.strip() for piece in first.partition(":"))
        if method not in _METHODS or bool(colon) == (method == "none"):
            raise UsageError(f"smoothing '{first}' is unknown", hint="known: none, mean:N, ema:ALPHA, vote:N")
        values: dict[str, Any] = {}
        if method == "ema":
            values["alpha"] = read_number(number, "smoothing alpha", float)
        elif method != "none":
            values["size"] = read_number(number, f"smoothing {method}", int)
        for key, value in read_settings(rest, "smoothing", _KEYS).items():
            values[key] = read_number(value, f"smoothing {key}", int if key == "hold" else float)
        return cls(**{"method": method, **values})

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Smoothing:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is unknown or has an impossible value.
        """
        return from_fields(cls, "smoothing", data)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided after a window.

    Args:
        class_index: the class; with one score per window, 1 above the threshold.
        score: its smoothed score, for "vote" its share of the votes; with one score per window and another method, that score.
        changed: whether it is another one than after the window before; True for the first.
    """

    class_index: int
    score: float
    changed: bool


class Decider:
    """Smooths scores and decides with hysteresis, in constant memory.

    Args:
        smoothing: the declaration.
    """

    def __init__(self, smoothing: Smoothing) -> None:
        self.smoothing = smoothing
        self.reset()

    def reset(self) -> None:
        """Forget all windows: after a gap, or for another stream."""
        self._shape: tuple[int, ...] | None = None
        self._ring: Array = np.empty((0, 0))
        self._seen = 0
        self._votes: deque[int] = deque(maxlen=self.smoothing.size)
        self._level = 0  # class of the newest single score
        self._present: int | None = None
        self._stayed = 0

    def update(self, scores: Array) -> Decision:
        """Decide after one more window.

        Args:
            scores: real, shape (classes,), or (1,) for one score per window.

        Raises:
            ShapeError: another shape than before, or no vector.
            SamplesError: NaN or infinite scores; nothing is changed then.
        """
        values = self._checked(scores)
        smoothed = self._smoothed(values)
        single, votes = len(values) == 1, self.smoothing.method == "vote"
        wanted = self._entered(float(smoothed[0])) if single else int(np.argmax(smoothed))
        if votes:
            smoothed = self._shares(wanted, max(2, len(values)))
            wanted = self._majority()
        changed = self._changes(wanted, None if single else smoothed)
        if changed:
            self._present, self._stayed = wanted, 0
        self._stayed += 1
        present = self._present or 0
        return Decision(present, float(smoothed[0 if single and not votes else present]), changed)

    def begin_with(self, enter: float) -> None:
        """Decide with this threshold from now on: smoothing goes on, decisions and votes start anew."""
        self.smoothing = replace(self.smoothing, enter=enter)
        self._votes.clear()
        self._level, self._present, self._stayed = 0, None, 0

    def _checked(self, scores: Array) -> Array:
        values = np.asarray(scores)
        if values.ndim != 1 or not values.size or values.dtype.kind not in "fiub":
            raise ShapeError(
                f"scores have shape {values.shape} and dtype {values.dtype}, expected are numbers of shape (classes,)"
            )
        if self._shape not in {None, values.shape}:
            raise ShapeError(f"scores have shape {values.shape}, those before have {self._shape}")
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise SamplesError(
                f"scores hold {int((~np.isfinite(values)).sum())} NaN or infinite values of {values.size}, they decide nothing",
                hint="drop windows with NaN, or look at the model with 'edgewright verify'",
            )
        self._shape = values.shape
        return values

    def _smoothed(self, values: Array) -> Array:
        """Scores after mean or ema, float64 (classes,); as they are for none and vote."""
        method, size = self.smoothing.method, self.smoothing.size
        if method not in {"mean", "ema"}:
            return values
        if not self._seen:
            self._ring = np.empty((size if method == "mean" else 1, len(values)))
            self._ring[0] = values
        elif method == "ema":
            self._ring[0] += self.smoothing.alpha * (values - self._ring[0])
        else:
            self._ring[self._seen % size] = values
        self._seen += 1
        smoothed: Array = self._ring[: min(self._seen, len(self._ring))].mean(axis=0)
        return smoothed

    def _entered(self, score: float) -> int:
        """The class of a single score, with its own hysteresis."""
        enter = _PROBABILITY if self.smoothing.enter is None else self.smoothing.enter
        leave = enter if self.smoothing.leave is None else self.smoothing.leave
        self._level = int(score >= (leave if self._level else enter))
        return self._level

    def _shares(self, vote: int, classes: int) -> Array:
        """Shares of the votes with this new one: float64 (classes,)."""
        self._votes.append(vote)
        return np.bincount(self._votes, minlength=classes) / len(self._votes)

    def _majority(self) -> int:
        """The class with most votes, of equal ones the one that was voted for last."""
        counts = Counter(self._votes)
        most = max(counts.values())
        return next(vote for vote in reversed(self._votes) if counts[vote] == most)

    def _changes(self, wanted: int, smoothed: Array | None) -> bool:
        """Whether the decision becomes another one; `smoothed` is None where thresholds are passed already."""
        if self._present is None:
            return True
        if wanted == self._present or self._stayed < self.smoothing.hold:
            return False
        enter, leave = self.smoothing.enter, self.smoothing.leave
        if smoothed is None or (enter is None and leave is None):
            return True
        enters = enter is not None and bool(smoothed[wanted] >= enter)
        return enters or (leave is not None and bool(smoothed[self._present] < leave))


# --- thresholds from normal data --------------------------------------------------------------------------------------


def learn_threshold(scores: Array, share: float = 0.01) -> float:
    """A threshold that new normal data is above with a probability of `share` at most.

    It is the k-th smallest of n scores, k = ceil((n + 1) * (1 - share)): a new score of the same continuous distribution is
    above it with probability (n + 1 - k) / (n + 1), whatever the distribution is (S. S. Wilks, 1941, Annals of Mathematical
    Statistics 12, 91-96). It holds for independent scores; windows that overlap make it less sure, not higher or lower.

    Args:
        scores: of normal data, (samples,), larger for anomalies; what is above the threshold is one.
        share: false alarms among normal windows, above 0 and below 1.

    Raises:
        SamplesError: fewer than 1 / share scores, or NaN or infinite ones.
        ShapeError: scores are no vector of numbers.
        UsageError: the share is not between 0 and 1.
    """
    ordered = _ordered(scores, share)
    place = min(len(ordered), math.ceil((len(ordered) + 1) * (1.0 - share) - 1e-9))
    return float(ordered[place - 1])


def threshold_interval(scores: Array, share: float = 0.01, confidence: float = 0.95) -> tuple[float, float]:
    """Between which limits the threshold with exactly `share` false alarms lies, whatever the distribution is.

    The number of n scores above that threshold is binomial (n, share), so that order statistics around it hold it with at
    least the confidence (H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1).

    Args:
        scores: as for `learn_threshold`.
        share: as for `learn_threshold`.
        confidence: above 0 and below 1; each side misses with half of what it leaves.

    Returns:
        low and high; infinite where the scores are too few to bound it.

    Raises:
        SamplesError: fewer than 1 / share scores, or NaN or infinite ones.
        ShapeError: scores are no vector of numbers.
        UsageError: share or confidence are not between 0 and 1.
    """
    ordered = _ordered(scores, share)
    if not 0 < confidence < 1:
        raise UsageError(f"the confidence is {confidence}, it must be above 0 and below 1")
    few, many = _binomial_limits(len(ordered), share, (1.0 - confidence) / 2)
    low = -math.inf if many >= len(ordered) else float(ordered[len(ordered) - 1 - many])
    high = math.inf if few == 0 else float(ordered[len(ordered) - few])
    return low, high


def _binomial_limits(count: int, share: float, tail: float) -> tuple[int, int]:
    """The largest a with P(X < a) <= tail and the smallest b with P(X > b) <= tail, X binomial (count, share)."""
    few, below, at = 0, 0.0, 0
    while True:  # below is P(X < at)
        if below <= tail:
            few = at
        log = math.lgamma(count + 1) - math.lgamma(at + 1) - math.lgamma(count - at + 1)
        below += math.exp(log + at * math.log(share) + (count - at) * math.log1p(-share))
        if 1.0 - below <= tail or at == count:
            return few, at
        at += 1


def _ordered(scores: Array, share: float) -> Array:
    values = np.asarray(scores)
    if not (is_number(share) and 0 < share < 1):
        raise UsageError(f"the share of false alarms is {share}, it must be above 0 and below 1")
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise ShapeError(f"scores have shape {values.shape} and dtype {values.dtype}, expected are numbers of shape (samples,)")
    if len(values) < (least := _least(share)):
        raise SamplesError(
            f"a threshold with {share:.3%} false alarms needs {least} scores of normal data or more, there are {len(values)}",
            hint="record more normal data, or allow a larger share",
        )
    if not np.isfinite(values).all():
        raise SamplesError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are NaN or infinite")
    return np.sort(values.astype(np.float64))


def _least(share: float) -> int:
    return math.ceil(1.0 / share - 1e-9)


class AnomalyThreshold:
    """Learns a threshold from the first windows of a stream, which must be normal, then decides on the following ones.

    The threshold is learned from smoothed scores (from the windows' own ones for "vote"), as these are compared with it.

    Args:
        windows: how many to learn from.
        share: false alarms among normal windows, see `learn_threshold`.
        smoothing: how scores are smoothed and a decision held; `enter` is what is learned, so neither it nor `leave` is given.

    Raises:
        UsageError: fewer windows than 1 / share, or thresholds are declared.
    """

    def __init__(self, windows: int, share: float = 0.01, smoothing: Smoothing | None = None) -> None:
        if not (is_number(share) and 0 < share < 1):
            raise UsageError(f"the share of false alarms is {share}, it must be above 0 and below 1")
        if type(windows) is not int or windows < _least(share):
            raise UsageError(
                f"the threshold is learned from {windows} windows, {share:.3%} false alarms need {_least(share)} or more",
                hint="learn from more windows, or allow a larger share",
            )
        self.smoothing = smoothing or Smoothing()
        if self.smoothing.enter is not None or self.smoothing.leave is not None:
            raise UsageError("the threshold is learned, but the smoothing declares enter or leave", hint="leave them out")
        self.windows, self.share = windows, share
        self.threshold: float | None = None
        self.interval: tuple[float, float] | None = None
        self._scores: list[float] = []
        self._decider = Decider(self.smoothing)

    def reset(self) -> None:
        """Forget what is smoothed and decided, after a gap; what was learned, also a part of it, stays."""
        self._decider.reset()

    def update(self, score: float) -> Decision | None:
        """Take one more window's score.

        Args:
            score: larger for anomalies, for example of `edgewright.tasks.reconstruction_scores`.

        Returns:
            the decision, class 1 for an anomaly; None while it learns.

        Raises:
            SamplesError: the score is NaN or infinite; nothing is changed then.
        """
        decision = self._decider.update(np.array([score], np.float64))
        if self.threshold is not None:
            return decision
        self._scores.append(float(score) if self.smoothing.method == "vote" else decision.score)
        if len(self._scores) == self.windows:
            learned = np.array(self._scores)
            self.threshold = learn_threshold(learned, self.share)
            self.interval = threshold_interval(learned, self.share)
            self._scores = []
            self._decider.begin_with(math.nextafter(self.threshold, math.inf))
        return None
