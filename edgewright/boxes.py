"""Arithmetic of boxes that detection and tracking share: overlap, non-maximum suppression, anchors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["iou", "soften", "ssd_anchors", "suppress"]

Array = np.ndarray[Any, Any]


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of each box with each: (n, 4) and (m, 4) as left, top, right, bottom give (n, m)."""
    inner = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2])
    inner = np.maximum(inner, 0.0)
    shared = inner[..., 0] * inner[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    return np.asarray(shared / np.where(union > 0.0, union, 1.0))


def suppress(boxes: Array, scores: Array, classes: Array, threshold: float, limit: int) -> Array:
    """Greedy non-maximum suppression within classes.

    Args:
        boxes: (n, 4) as left, top, right, bottom.
        scores: (n,); of equal ones the first wins.
        classes: (n,).
        threshold: a box that overlaps a better one of its class by more is dropped.
        limit: the most that are kept.

    Returns:
        int64 (kept,): places of those that stay, best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while left.size and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[(iou(boxes[best : best + 1], boxes[left])[0] <= threshold) | (classes[left] != classes[best])]
    return np.asarray(kept, np.int64)


def soften(boxes: Array, scores: Array, classes: Array, sigma: float, least: float, limit: int) -> tuple[Array, Array]:
    """Gaussian soft-NMS within classes: scores sink by exp(-iou**2 / sigma) (N. Bodla et al., "Soft-NMS", 2017).

    Args:
        boxes: (n, 4) as left, top, right, bottom.
        scores: (n,).
        classes: (n,).
        sigma: the larger, the less scores sink.
        least: boxes are dropped when their score sinks below.
        limit: the most that are kept.

    Returns:
        int64 (kept,): places of those that stay, and their scores (kept,), best first.
    """
    lowered, left = scores.astype(np.float64), np.arange(len(scores))
    kept: list[int] = []
    while left.size and len(kept) < limit:
        best = left[np.argmax(lowered[left])]
        kept.append(int(best))
        left = left[left != best]
        overlap = iou(boxes[best : best + 1], boxes[left])[0] * (classes[left] == classes[best])
        lowered[left] *= np.exp(-(overlap**2) / sigma)
        left = left[lowered[left] >= least]
    places = np.asarray(kept, np.int64)
    return places, lowered[places]


@lru_cache(maxsize=16)
def ssd_anchors(
    input_size: tuple[int, int],
    strides: tuple[int, ...],
    scales: tuple[float, ...] = (),
    aspects: tuple[float, ...] = (1.0,),
    between: float = 1.0,
    offset: float = 0.5,
    reduced: bool = False,
) -> Array:
    """Anchors as MediaPipe's SsdAnchorsCalculator lays them out (after W. Liu et al., "SSD", 2016, section 2.2).

    A cell has an anchor per aspect and one of a size between this layer's and the next's. Layers of equal stride share
    their cells. The result is kept: it must not be written to.

    Args:
        input_size: (height, width) in pixels.
        strides: pixels per cell, one per layer.
        scales: smallest and largest size relative to the input, layers lie evenly between; empty makes all anchors 1 x 1.
        aspects: width / height.
        between: aspect of the anchor between layers; 0 leaves it out.
        offset: of the centre within a cell, in cells.
        reduced: the first layer has three anchors only, one of them of size 0.1.

    Returns:
        float64 (anchors, 4): centre x, centre y, width, height relative to the input; layer by layer, row by row.
    """
    layers = len(strides)
    smallest, largest = scales or (1.0, 1.0)
    sizes = [(smallest + largest) / 2] if layers == 1 else [float(size) for size in np.linspace(smallest, largest, layers)]
    parts: list[Array] = []
    first = 0
    while first < layers:
        last = first
        shapes: list[tuple[float, float]] = []  # (size, aspect) of the anchors in one cell
        while last < layers and strides[last] == strides[first]:
            if last == 0 and reduced:
                shapes += [(0.1, 1.0), (sizes[0], 2.0), (sizes[0], 0.5)]
            else:
                shapes += [(sizes[last], aspect) for aspect in aspects]
                if between > 0.0:
                    following = 1.0 if last == layers - 1 else sizes[last + 1]
                    shapes.append(((sizes[last] * following) ** 0.5, between))
            last += 1
        rows, columns = (-(-size // strides[first]) for size in input_size)
        grid = np.empty((rows, columns, len(shapes), 4))
        grid[..., 0] = ((np.arange(columns) + offset) / columns)[None, :, None]
        grid[..., 1] = ((np.arange(rows) + offset) / rows)[:, None, None]
        grid[..., 2:] = [(size * aspect**0.5, size / aspect**0.5) if scales else (1.0, 1.0) for size, aspect in shapes]
        parts.append(grid.reshape(-1, 4))
        first = last
    anchors = np.concatenate(parts)
    anchors.setflags(write=False)
    return anchors
