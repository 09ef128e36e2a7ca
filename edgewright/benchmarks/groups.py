"""Where a file differs from the original: per class, per slice of the data, and sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgewright.benchmarks.accuracy import figures_of, is_error, task_metrics, unit_of
from edgewright.benchmarks.intervals import RESAMPLES, share_change_interval
from edgewright.report import Flip, Flips, GroupChange
from edgewright.tasks import Scored

__all__ = ["LISTED", "MAX_VALUES", "Pair", "class_groups", "find_flips", "slice_groups", "texts_of"]

Array = np.ndarray[Any, Any]

MAX_VALUES = 50
"""A slice with more different values than this is no grouping."""

LISTED = 200
"""How many flips are listed at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One output of a file beside the same output of the original.

    Args:
        output: its name.
        file: the file's scores.
        original: the original's on the same samples, with the same threshold; None if there is no original.
        classes: names of the classes in index order, as many as there are classes.
    """

    output: str
    file: Scored
    original: Scored | None
    classes: tuple[str, ...]


def class_groups(pairs: Sequence[Pair], *, count: int = RESAMPLES, seed: int = 0) -> list[GroupChange]:
    """Share of each class's samples that are decided right, its recall; none for regression.

    For multilabel, a class's samples are those that have it, and right means that the file says so. For anomalies the
    classes are "normal" and "anomaly".

    Args:
        pairs: the outputs.
        count: resamples of the paired bootstrap of each change, drawn within the class.
        seed: of the bootstrap.

    Returns:
        one group per class, the worst change first; without an original the lowest share first. Classes without samples
        come last and have no figures.
    """
    groups = []
    for pair in pairs:
        for at in range(pair.file.classes):
            members, right = _of_class(pair.file, at)
            before = None if pair.original is None else _of_class(pair.original, at)[1][members]
            groups.append(_share_group(pair.output, pair.classes[at], right[members], before, count, seed))
    return _worst_first(groups, "recall")


def _of_class(scored: Scored, at: int) -> tuple[Array, Array]:
    """Which samples are of a class, and which are decided right in view of it: bool (samples,) each."""
    decisions = np.asarray(scored.decisions)
    if scored.labels.ndim == 2:
        return scored.labels[:, at] == 1, decisions[:, at] == scored.labels[:, at]
    return scored.labels == at, decisions == scored.labels


def _share_group(output: str, name: str, right: Array, before: Array | None, count: int, seed: int) -> GroupChange:
    samples = len(right)
    if not samples:
        return GroupChange("class", output, name, 0, "recall", "share", None, None)
    share = float(right.mean())
    if before is None:
        return GroupChange("class", output, name, samples, "recall", "share", None, share)
    broken, fixed = int((before & ~right).sum()), int((~before & right).sum())
    low, high = share_change_interval(fixed, broken, samples, count=count, seed=seed)
    change = 100.0 * (fixed - broken) / samples
    return GroupChange(
        "class", output, name, samples, "recall", "share", float(before.mean()), share, change, low, high, broken, fixed
    )


def slice_groups(
    pair: Pair, slices: Mapping[str, Array], metric: str, *, count: int = RESAMPLES, seed: int = 0
) -> tuple[list[GroupChange], list[str]]:
    """A figure within each value of each slice.

    Args:
        pair: the output.
        slices: by name, shape (samples,), texts or numbers.
        metric: the figure's name.
        count: resamples of the paired bootstrap of each change, drawn within the value.
        seed: of the bootstrap.

    Returns:
        groups, the worst change first (without an original the worst figure first), and warnings about slices that were
        left out.
    """
    groups, warnings = [], []
    for name, values in slices.items():
        texts = texts_of(values)
        if texts.ndim != 1:
            warnings.append(f"slice '{name}' has shape {texts.shape}, it must have one value per sample: left out")
            continue
        found, places = np.unique(texts, return_inverse=True)
        if len(found) > MAX_VALUES:
            warnings.append(f"slice '{name}' has {len(found)} different values, more than {MAX_VALUES}: left out")
            continue
        for at, value in enumerate(found):
            groups.append(_slice_group(pair, name, str(value), places == at, metric, count, seed))
    return _worst_first(groups, metric), warnings


def texts_of(values: Array) -> Array:
    """Values of a slice as texts."""
    return np.asarray(np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values.astype(str))


def _slice_group(pair: Pair, name: str, value: str, members: Array, metric: str, count: int, seed: int) -> GroupChange:
    file, samples, unit = pair.file.subset(members), int(members.sum()), unit_of(metric)
    if pair.original is None:
        figure = figures_of(file, [metric])[metric]
        return GroupChange("slice", name, value, samples, metric, unit, None, None if isinstance(figure, str) else figure)
    before = pair.original.subset(members)
    after, change = task_metrics(file, before, names=[metric], count=count, seed=seed)
    original = figures_of(before, [metric])[metric]
    broken, fixed = int((before.right & ~file.right).sum()), int((~before.right & file.right).sum())
    return GroupChange(
        "slice",
        name,
        value,
        samples,
        metric,
        unit,
        None if isinstance(original, str) else original,
        after.value,
        change.value,
        change.low,
        change.high,
        broken,
        fixed,
    )


def _worst_first(groups: Sequence[GroupChange], metric: str) -> list[GroupChange]:
    """The worst change first, without changes the worst figure first, groups without a figure last."""
    sign = -1.0 if is_error(metric) else 1.0

    def key(group: GroupChange) -> tuple[bool, float, bool, float]:
        figure = (group.file is None, sign * (group.file or 0.0))
        return group.change is None, group.change or 0.0, *figure

    return sorted(groups, key=key)


# --- flips ------------------------------------------------------------------------------------------------------------


def find_flips(pairs: Sequence[Pair], slices: Mapping[str, Array], *, listed: int = LISTED) -> Flips | None:
    """All samples on which a file decides otherwise than the original.

    Args:
        pairs: the outputs; those of regression decide nothing.
        slices: by name, shape (samples,), texts or numbers.
        listed: how many to list: broken ones first, then fixed ones, then changes from one wrong decision to another; in
            each, those first of which the file is surest.

    Returns:
        None if there is no original or nothing is decided. For multilabel a decision is the set of all classes of a sample.
    """
    decided = [pair for pair in pairs if pair.original is not None and pair.file.decisions is not None]
    if not decided:
        return None
    texts = {name: texts_of(values) for name, values in slices.items()}
    totals = np.zeros(3, np.int64)
    found: list[tuple[int, float, int, Pair]] = []
    for pair in decided:
        effect, sure = _effects(pair), _certainty(pair.file)
        for kind in range(3):
            places = np.flatnonzero(effect == kind)
            totals[kind] += len(places)
            places = places[np.argsort(-sure[places], kind="stable")][:listed]
            found += [(kind, -float(sure[at]), int(at), pair) for at in places]
    found.sort(key=lambda item: item[:2])
    return Flips(
        samples=sum(len(pair.file) for pair in decided),
        broken=int(totals[0]),
        fixed=int(totals[1]),
        neither=int(totals[2]),
        listed=tuple(_flip(pair, kind, at, texts) for kind, _, at, pair in found[:listed]),
    )


_EFFECTS: tuple[Literal["broken", "fixed", "neither"], ...] = ("broken", "fixed", "neither")


def _effects(pair: Pair) -> Array:
    """0 broken, 1 fixed, 2 neither, -1 no flip: int (samples,)."""
    file, original = pair.file, pair.original
    if original is None:
        return np.full(len(file), -1)
    differs = np.asarray(file.decisions != original.decisions)
    flipped = differs if differs.ndim == 1 else differs.any(axis=1)
    effect = np.where(original.right, 0, np.where(file.right, 1, 2))
    return np.where(flipped, effect, -1)


def _certainty(scored: Scored) -> Array:
    """How sure a decision is, float (samples,): its score, or the distance from the threshold (the least of all classes)."""
    if scored.threshold is None:
        return np.asarray(scored.scores.max(axis=1), np.float64)
    distance = np.abs(scored.scores.astype(np.float64) - scored.threshold)
    return distance if distance.ndim == 1 else np.asarray(distance.min(axis=1))


def _own_score(scored: Scored, at: int) -> float:
    """What a sample's decision was given.

    The score of its class; of one score per sample the score itself for 1, and for 0 the rest to 1 of probabilities and
    the negative of logits; the anomaly score; for multilabel that of the least sure class.
    """
    if scored.threshold is None:
        return float(scored.scores[at].max())
    row = np.atleast_1d(scored.scores[at])
    place = int(np.argmin(np.abs(row.astype(np.float64) - scored.threshold)))
    score = float(row[place])
    if scored.task == "anomaly" or np.atleast_1d(np.asarray(scored.decisions)[at])[place]:
        return score
    probabilities = scored.scores.min() >= 0.0 and scored.scores.max() <= 1.0
    return 1.0 - score if probabilities else -score


def _flip(pair: Pair, kind: int, at: int, slices: Mapping[str, Array]) -> Flip:
    file, original = pair.file, pair.original or pair.file
    return Flip(
        pair.output,
        at,
        _text(pair, file.labels[at]),
        _text(pair, np.asarray(original.decisions)[at]),
        _text(pair, np.asarray(file.decisions)[at]),
        _EFFECTS[kind],
        _own_score(original, at),
        _own_score(file, at),
        {name: str(values[at]) for name, values in slices.items() if values.ndim == 1},
    )


def _text(pair: Pair, decision: Array) -> str:
    """A decision in words."""
    if np.ndim(decision) == 0:
        return pair.classes[int(decision)]
    return ", ".join(pair.classes[int(at)] for at in np.flatnonzero(decision)) or "none"
