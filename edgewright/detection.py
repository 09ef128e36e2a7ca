"""Detection: from a detector's raw outputs to boxes, declared once and the same code in evaluation and runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from edgewright.boxes import soften, suppress
from edgewright.declared import from_fields, read_settings
from edgewright.detection_heads import Candidates, read_head
from edgewright.errors import ShapeError, UsageError
from edgewright.preprocess import Preprocess

__all__ = ["Boxes", "Detection"]

Array = np.ndarray[Any, Any]

_CHOICES: dict[str, tuple[str, ...]] = {
    "head": ("ssd", "grid", "boxes"),
    "box_order": ("xywh", "yxhw", "ltrb", "tlbr"),
    "box_units": ("pixels", "relative"),
    "activation": ("sigmoid", "softmax", "none"),
    "nms": ("class", "agnostic", "soft", "none"),
}
_DEFAULTS = {
    "ssd": {"box_order": "xywh", "box_units": "relative", "activation": "sigmoid", "nms": "class"},
    "grid": {"box_order": "xywh", "box_units": "pixels", "activation": "none", "nms": "class"},
    "boxes": {"box_order": "tlbr", "box_units": "relative", "activation": "none", "nms": "none"},
}
_ANCHORS = ("strides", "anchor_scales", "anchor_aspects", "anchor_between", "anchor_offset", "anchor_reduced")
_FOREIGN = {
    "ssd": ("objectness", "transposed"),
    "grid": (*_ANCHORS, "box_scales", "box_exp", "background"),
    "boxes": (*_ANCHORS, "box_scales", "box_exp", "background", "objectness", "transposed", "points", "multi_label"),
}
"""Settings that a head has not."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """What was found in one image, best first.

    Args:
        boxes: float32 (n, 4): left, top, right, bottom in pixels of the raw image, edges and not pixel centres: the whole
            image is 0, 0, width, height.
        scores: float32 (n,).
        classes: int64 (n,).
        points: float32 (n, points, 2): x, y of each keypoint in pixels of the raw image, not clipped to it; None if the
            detector has none.
        invalid: how many candidates were dropped for NaN or infinite values.
    """

    boxes: Array
    scores: Array
    classes: Array
    points: Array | None = None
    invalid: int = 0

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class Detection:
    """How a detector's outputs are read.

    Heads:

    - "ssd": boxes (anchors, 4 + keypoints) and scores (anchors, classes), relative to anchors. If there are several of each,
      all of the boxes come first, then all of the scores; they are joined in this order.
    - "grid": one tensor (cells, 4 + classes) as YOLOv8 and its kin give it, or transposed; with `objectness`
      (cells, 5 + classes) as of YOLOv5. Keypoints are the last columns.
    - "boxes": decoded already: boxes (n, 4), classes (n,), scores (n,) and, if there is one, their count, the order of
      TFLite_Detection_PostProcess; or one tensor (n, 6) with score and class behind the box.

    Anchors: see `edgewright.boxes.ssd_anchors`.

    Args:
        head: "ssd", "grid" or "boxes".
        outputs: names of the outputs, or their places from 0, in the head's order; empty takes the model's order.
        strides: pixels of the input per cell, one per layer.
        anchor_scales: smallest and largest anchor, relative to the input; empty makes every anchor as large as the input.
        anchor_aspects: width / height, one anchor for each.
        anchor_between: aspect of one more anchor of a size between this layer and the next; 0 adds none.
        anchor_offset: where in a cell its anchors have their centre.
        anchor_reduced: the first layer has three anchors only.
        box_order: "xywh" or "yxhw" from the centre, "ltrb" or "tlbr" for edges; a head has its own if none is declared.
        box_units: "pixels" of the input or "relative" to it.
        box_scales: what x, y, width and height of an SSD box are divided by; one value stands for all.
        box_exp: whether width and height of an SSD box are logarithms.
        points: keypoints per box.
        point_values: values per keypoint, x and y first.
        activation: "sigmoid", "softmax" or "none", what makes scores of the output.
        clip: scores are held between -clip and clip before the activation.
        background: the first class is the background; the others count from 0.
        objectness: a score of its own stands between box and classes and is multiplied with theirs.
        transposed: whether the cells are the last axis; None takes the longer axis for them.
        multi_label: a place can give a box for each class above the threshold, not only for its best.
        score_threshold: the least score of a box.
        iou_threshold: boxes that overlap a better one by more are dropped.
        max_boxes: the most that are given.
        nms: "class" drops overlapping boxes of the same class, "agnostic" of any; "soft" lowers their scores instead, per
            class, by exp(-iou**2 / sigma) (N. Bodla et al., "Soft-NMS", 2017); "none" drops none.
        sigma: for "soft".

    Raises:
        UsageError: a setting has a value that it cannot have, or that its head has not.
    """

    head: str
    outputs: tuple[str, ...] = ()
    strides: tuple[int, ...] = ()
    anchor_scales: tuple[float, ...] = ()
    anchor_aspects: tuple[float, ...] = (1.0,)
    anchor_between: float = 1.0
    anchor_offset: float = 0.5
    anchor_reduced: bool = False
    box_order: str = ""
    box_units: str = ""
    box_scales: tuple[float, ...] = (1.0,)
    box_exp: bool = False
    points: int = 0
    point_values: int = 2
    activation: str = ""
    clip: float | None = None
    background: bool = False
    objectness: bool = False
    transposed: bool | None = None
    multi_label: bool = False
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_boxes: int = 100
    nms: str = ""
    sigma: float = 0.5

    def __post_init__(self) -> None:
        for name in _CHOICES:
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"detection {name} is {getattr(self, name)!r}, it must be a word")
        for name, default in _DEFAULTS.get(self.head, {}).items():
            object.__setattr__(self, name, getattr(self, name) or default)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"detection {name} is '{getattr(self, name)}'", hint=f"known: {', '.join(known)}")
        for field in fields(self):
            if field.name in _FOREIGN[self.head] and getattr(self, field.name) != field.default:
                raise UsageError(f"detection sets {field.name}, the head '{self.head}' has no such setting")
        wrong = next((text for right, text in _checks(self) if not right), "")
        if wrong:
            raise UsageError(f"detection {wrong}")

    @classmethod
    def parse(cls, text: str) -> Detection:
        """A declaration from text such as `head=ssd,strides=8:16:16:16,box_scales=128,points=6`.

        Several numbers are separated by ":", names of outputs by ";". Numbers may be fractions, switches are yes or no.

        Raises:
            UsageError: a setting is unknown, given twice, or cannot be read; the message names the known ones.
        """
        given = read_settings(text, "detection", [field.name for field in fields(cls)])
        return cls.from_json({key: _read(key, value) for key, value in given.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Detection:
        """Inverse of `to_json`.

        Raises:
            UsageError: a setting is unknown (leaving it out would change the boxes) or has an impossible value.
        """
        if "head" not in data:
            raise UsageError("detection declares no head", hint=f"write head= and one of {', '.join(_CHOICES['head'])}")
        return from_fields(cls, "detection", data)

    def boxes(
        self, outputs: Mapping[str, Array], input_size: tuple[int, int], raw_size: tuple[int, int], preprocess: Preprocess
    ) -> Boxes:
        """Boxes in a raw image.

        Boxes that lie outside of the image, for example in a letterbox's bars, are left out.

        Args:
            outputs: real numbers by output name in the model's order, without batch axis.
            input_size: (height, width) of the model's input in pixels.
            raw_size: (height, width) of the raw image in pixels.
            preprocess: a `Preprocess`: how the image became the input.

        Raises:
            ShapeError: an output is missing or has another shape than the head, or the preprocessing another size.
        """
        if (prepared := preprocess.size or raw_size) != input_size:
            raise ShapeError(
                f"preprocessing gives images of (height, width) {prepared}, the model takes {input_size}",
                hint="set size= in the preprocess declaration",
            )
        with np.errstate(all="ignore"):  # NaN and overflow are looked for below
            found = read_head(self, outputs, input_size)
            best = found.scores[:, 0] if found.scores.shape[1] == 1 else found.scores.max(axis=1)
            valid = np.isfinite(best)
            for values in (found.values, found.points):
                if values is not None and not np.isfinite(values.sum()):  # row by row takes ten times as long
                    valid &= np.isfinite(values).all(axis=1)
            rows, scores, classes = self._chosen(found, best, valid)
            corners, points = self._decoded(found, rows, input_size)
        place = preprocess.placement(*raw_size)
        factor = np.array([raw_size[1] / place.width, raw_size[0] / place.height] * 2)
        origin = np.array([place.left, place.top] * 2, np.float64)
        corners = (corners - origin) * factor
        points = None if points is None else ((points - origin[:2]) * factor[:2]).astype(np.float32)
        clipped = np.minimum(np.maximum(corners, 0.0), np.array(raw_size[::-1] * 2, np.float64))
        finite = np.isfinite(corners).all(axis=1)
        inside = np.flatnonzero(finite & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))
        kept, lowered = self._without_overlaps(corners[inside], scores[inside], classes[inside])
        kept = inside[kept]
        return Boxes(
            clipped[kept].astype(np.float32),
            lowered.astype(np.float32),
            classes[kept],
            None if points is None else points[kept],
            len(valid) - int(valid.sum()) + len(set(rows[~finite].tolist())),
        )

    def _chosen(self, found: Candidates, best: Array, valid: Array) -> tuple[Array, Array, Array]:
        """Rows, scores and classes above the threshold."""
        rows = np.flatnonzero(valid & (best >= self.score_threshold))
        if found.classes is not None:
            return rows, best[rows], found.classes[rows].astype(np.int64)
        if not self.multi_label:
            return rows, best[rows], found.scores[rows].argmax(axis=1).astype(np.int64)
        within, classes = np.nonzero(found.scores[rows] >= self.score_threshold)
        rows = rows[within]
        return rows, found.scores[rows, classes], classes.astype(np.int64)

    def _decoded(self, found: Candidates, rows: Array, input_size: tuple[int, int]) -> tuple[Array, Array | None]:
        """Corners (rows, 4) and keypoints (rows, points, 2) in pixels of the input, float64."""
        values = found.values[rows].astype(np.float64)
        points = None
        if found.points is not None:
            points = found.points[rows].astype(np.float64).reshape(len(rows), self.points, self.point_values)[:, :, :2]
        if self.box_order in {"yxhw", "tlbr"}:
            values = values[:, [1, 0, 3, 2]]
            points = points if points is None or self.head != "ssd" else points[:, :, ::-1]
        if found.anchors is not None:
            anchors = found.anchors[rows]
            scales = np.array(self.box_scales * (4 // len(self.box_scales)), np.float64)
            values = values / scales
            sizes = np.exp(values[:, 2:]) if self.box_exp else values[:, 2:]
            values = np.hstack([values[:, :2] * anchors[:, 2:] + anchors[:, :2], sizes * anchors[:, 2:]])
            if points is not None:
                points = points / scales[:2] * anchors[:, None, 2:] + anchors[:, None, :2]
        if self.box_order in {"xywh", "yxhw"}:
            centres, halves = values[:, :2], values[:, 2:] / 2
            values = np.hstack([centres - halves, centres + halves])
        if self.box_units == "relative":
            size = np.array(input_size[::-1] * 2, np.float64)
            values = values * size
            points = None if points is None else points * size[:2]
        return values, points

    def _without_overlaps(self, corners: Array, scores: Array, classes: Array) -> tuple[Array, Array]:
        """Places of the boxes that stay, best first, and their scores."""
        if self.nms == "soft":
            return soften(corners, scores, classes, self.sigma, self.score_threshold, self.max_boxes)
        if self.nms == "none":
            kept = np.argsort(-scores, kind="stable")[: self.max_boxes]
        else:
            groups = classes if self.nms == "class" else np.zeros_like(classes)
            kept = suppress(corners, scores, groups, self.iou_threshold, self.max_boxes)
        return kept, scores[kept]


# --- the declaration's values -----------------------------------------------------------------------------------------


def _checks(declared: Detection) -> list[tuple[bool, str]]:
    """What must hold of a declaration, each with what is wrong if it does not."""
    d = declared
    numbers = ("anchor_scales", "anchor_aspects", "box_scales")
    switches = ("anchor_reduced", "box_exp", "background", "objectness", "multi_label")
    return [
        *((_all(getattr(d, name), float), f"{name} is {getattr(d, name)}, it must be numbers above 0") for name in numbers),
        *((type(getattr(d, name)) is bool, f"{name} is {getattr(d, name)}, it must be true or false") for name in switches),
        (type(d.transposed) in {bool, type(None)}, f"transposed is {d.transposed}, it must be true, false or null"),
        (_all(d.outputs, str), f"outputs is {d.outputs}, it must be names"),
        (_all(d.strides, int) and (d.head != "ssd" or bool(d.strides)), f"strides is {d.strides}, head 'ssd' needs pixels each"),
        (np.size(d.anchor_scales) in {0, 2}, f"anchor_scales is {d.anchor_scales}, it must be a smallest and a largest"),
        (bool(d.anchor_aspects) or _within(d.anchor_between, 1e-9), "anchor_aspects is empty, it must have an aspect at least"),
        (np.size(d.box_scales) in {1, 4}, f"box_scales is {d.box_scales}, it must be one number or four: x, y, width, height"),
        (d.head != "ssd" or d.box_order in {"xywh", "yxhw"}, f"box_order is {d.box_order}, head 'ssd' takes xywh or yxhw"),
        (d.head != "ssd" or d.box_units == "relative", f"box_units is {d.box_units}, head 'ssd' takes relative"),
        (d.head != "boxes" or d.activation != "softmax", "activation is softmax, head 'boxes' has one score per box"),
        (_within(d.anchor_between, 0.0), f"anchor_between is {d.anchor_between}, it must be 0 or an aspect"),
        (_within(d.anchor_offset, 0.0, 1.0), f"anchor_offset is {d.anchor_offset}, it must be from 0 to 1"),
        (type(d.points) is int and d.points >= 0, f"points is {d.points}, it must be a whole number"),
        (type(d.point_values) is int and d.point_values >= 2, f"point_values is {d.point_values}, it must be 2 or more"),
        (d.clip is None or _all((d.clip,), float), f"clip is {d.clip}, it must be a number above 0"),
        (_within(d.score_threshold, 0.0), f"score_threshold is {d.score_threshold}, it must be 0 or more"),
        (_within(d.iou_threshold, 0.0, 1.0), f"iou_threshold is {d.iou_threshold}, it must be from 0 to 1"),
        (type(d.max_boxes) is int and d.max_boxes > 0, f"max_boxes is {d.max_boxes}, it must be 1 or more"),
        (_all((d.sigma,), float), f"sigma is {d.sigma}, it must be a number above 0"),
    ]


def _within(value: Any, least: float, most: float = 1e9) -> bool:
    return type(value) in {int, float} and least <= value <= most


def _all(values: Any, kind: type) -> bool:
    """Whether these are names, whole numbers above 0, or numbers above 0."""
    if not isinstance(values, tuple):
        return False
    if kind is str:
        return all(isinstance(value, str) for value in values)
    kinds = {int} if kind is int else {int, float}
    return all(type(value) in kinds and 0 < value <= 1e9 for value in values)


def _read(key: str, text: str) -> Any:
    """One setting from text."""
    default = {field.name: field.default for field in fields(Detection)}[key]
    if key == "outputs":
        return tuple(name.strip() for name in text.split(";"))
    if isinstance(default, bool) or key == "transposed":
        if text not in {"yes", "no", "true", "false"}:
            raise UsageError(f"detection {key} is '{text}', it must be yes or no")
        return text in {"yes", "true"}
    if key == "head" or isinstance(default, str):
        return text
    values: list[int | float] = []
    for part in text.split(":"):
        top, _, bottom = part.partition("/")
        try:
            value = Fraction(top.strip()) / Fraction(bottom.strip() or 1)
            values.append(int(value) if value.denominator == 1 else float(value))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise UsageError(f"detection {key} has '{part}', it must be a number or a fraction") from error
    return tuple(values) if isinstance(default, tuple) else values[0] if len(values) == 1 else tuple(values)
