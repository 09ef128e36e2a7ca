"""The heads of detectors: which columns of which output are boxes, scores, classes and keypoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgewright.boxes import ssd_anchors
from edgewright.errors import ShapeError

if TYPE_CHECKING:
    from edgewright.detection import Detection

__all__ = ["Candidates", "read_head"]

Array = np.ndarray[Any, Any]


class Candidates(NamedTuple):
    """A head's tensors in one form, nothing decoded yet."""

    values: Array  # (n, 4)
    scores: Array  # (n, classes), activated
    points: Array | None = None  # (n, points * point_values)
    classes: Array | None = None  # (n,), for one column of scores
    anchors: Array | None = None  # (n, 4): centre x, centre y, width, height, relative


def read_head(declared: Detection, outputs: Mapping[str, Array], input_size: tuple[int, int]) -> Candidates:
    """All candidates of a detector, nothing dropped yet.

    Args:
        declared: how the outputs are read.
        outputs: real numbers by output name in the model's order, without batch axis.
        input_size: (height, width) of the model's input in pixels.

    Raises:
        ShapeError: an output is missing or has another shape than the head.
    """
    return _READERS[declared.head](declared, _taken(declared, outputs), input_size)


def _taken(declared: Detection, outputs: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """The outputs in the head's order, with their names."""
    names = list(outputs)
    taken = []
    for wanted in declared.outputs or names:
        name = names[int(wanted)] if wanted.isdecimal() and wanted not in outputs and int(wanted) < len(names) else wanted
        if name not in outputs:
            raise ShapeError(f"detection reads the output '{wanted}', the model gives {', '.join(names) or 'none'}")
        taken.append((name, np.asarray(outputs[name])))
    return taken


def _ssd(declared: Detection, taken: list[tuple[str, Array]], input_size: tuple[int, int]) -> Candidates:
    if not taken or len(taken) % 2:
        raise _misfit("head 'ssd' takes boxes and scores, as many of each", taken)
    anchors = ssd_anchors(
        input_size,
        declared.strides,
        declared.anchor_scales,
        declared.anchor_aspects,
        declared.anchor_between,
        declared.anchor_offset,
        declared.anchor_reduced,
    )
    count, columns = len(anchors), 4 + declared.points * declared.point_values
    boxes, scores = taken[: len(taken) // 2], taken[len(taken) // 2 :]
    if sum(values.size for _, values in boxes) != count * columns or any(values.size % columns for _, values in boxes):
        raise _misfit(f"boxes for {count} anchors are ({count}, {columns})", taken)
    classes, rest = divmod(sum(values.size for _, values in scores), count)
    if rest or classes <= declared.background or any(values.size % classes for _, values in scores):
        raise _misfit(f"scores for {count} anchors are ({count}, classes)", taken)
    joined = np.concatenate([values.reshape(-1, columns) for _, values in boxes])
    activated = _activated(declared, np.concatenate([values.reshape(-1, classes) for _, values in scores]))
    return Candidates(
        joined[:, :4], activated[:, int(declared.background) :], joined[:, 4:] if declared.points else None, None, anchors
    )


def _grid(declared: Detection, taken: list[tuple[str, Array]], input_size: tuple[int, int]) -> Candidates:
    del input_size
    before, behind = 5 if declared.objectness else 4, declared.points * declared.point_values
    if len(taken) != 1 or (table := _bare(taken[0][1], 2)).ndim != 2:
        raise _misfit("head 'grid' takes one output (cells, values)", taken)
    transposed = declared.transposed if declared.transposed is not None else table.shape[0] < table.shape[1]
    table = table.T if transposed else table
    end = table.shape[1] - behind
    if end <= before:
        raise _misfit(f"head 'grid' takes more than {before + behind} values per cell, found {table.shape[1]}", taken)
    scores = _activated(declared, table[:, before:end])
    if declared.objectness:
        scores = scores * _activated(declared, table[:, 4:5])
    return Candidates(table[:, :4], scores, table[:, end:] if behind else None)


def _boxes(declared: Detection, taken: list[tuple[str, Array]], input_size: tuple[int, int]) -> Candidates:
    del input_size
    wanted = "head 'boxes' takes boxes (n, 4), classes (n,), scores (n,) and perhaps their count, or one (n, 6)"
    if len(taken) == 1 and (table := _bare(taken[0][1], 2)).ndim == 2 and table.shape[1] == 6:
        boxes, scores, classes = table[:, :4], table[:, 4], table[:, 5]
    elif len(taken) in {3, 4}:
        boxes, classes, scores = _bare(taken[0][1], 2), _bare(taken[1][1], 1), _bare(taken[2][1], 1)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not classes.shape == scores.shape == boxes.shape[:1]:
            raise _misfit(wanted, taken)
        if len(taken) == 4:
            count = np.nan_to_num(taken[3][1].astype(np.float64)).reshape(-1)
            if count.size != 1:
                raise _misfit(wanted, taken)
            number = int(np.clip(count[0], 0, len(boxes)))
            boxes, classes, scores = boxes[:number], classes[:number], scores[:number]
    else:
        raise _misfit(wanted, taken)
    activated = _activated(declared, scores[:, None])
    return Candidates(boxes, np.where(np.isfinite(classes)[:, None], activated, np.nan), None, classes)


def _activated(declared: Detection, scores: Array) -> Array:
    """Scores (n, classes) after clipping and activation, floating."""
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float32)
    if declared.clip is not None:
        scores = np.clip(scores, -declared.clip, declared.clip)
    if declared.activation == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-scores)))
    if declared.activation == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return scores


def _bare(values: Array, axes: int) -> Array:
    """Without the axes of size 1 that stand before the last `axes` ones."""
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    return values


def _misfit(wanted: str, taken: list[tuple[str, Array]]) -> ShapeError:
    found = ", ".join(f"'{name}' {values.shape}" for name, values in taken) or "no outputs"
    return ShapeError(f"{wanted}; found {found}", hint="declare the outputs in the head's order, for example outputs=1;0")


_READERS: dict[str, Callable[[Detection, list[tuple[str, Array]], tuple[int, int]], Candidates]] = {
    "ssd": _ssd,
    "grid": _grid,
    "boxes": _boxes,
}
