"""How good a detector's boxes are on images with true boxes, beside the original's on the same images; a job for a child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.benchmarks.detection_accuracy import FIGURES, Matched, detection_groups, detection_metrics, match
from edgewright.benchmarks.evaluation import ENOUGH, load_outputs, matched_outputs
from edgewright.detection import Detection
from edgewright.errors import SamplesError, UsageError
from edgewright.preprocess import Preprocess
from edgewright.samples import Samples, SamplesSpec, open_samples
from edgewright.worker import progress

__all__ = ["evaluate_detections"]

Array = np.ndarray[Any, Any]

SUBJECT = "boxes"

_TRUTH = (
    "pass a COCO .json with its images, or an .npz with y:boxes (images, most, 5: left, top, right, bottom, class; NaN behind "
    "the last one) and y:size (images, 2: height, width)"
)


def evaluate_detections(
    candidate: str,
    reference: str | None,
    samples: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    reference_outputs: Sequence[Mapping[str, Any]] | None = None,
    *,
    detection: Mapping[str, Any],
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    metric: str | None = None,
    task: str | None = "detection",
    top_k: int | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Figures and classes of a file's boxes; both models are read by the same declaration.

    Boxes are those of `Detection.boxes`, which a stream gives too: with its `score_threshold`, below which no box counts for
    recall either.

    Args:
        candidate: see `evaluation.evaluate_outputs`, as for all that is not told here.
        reference: see there.
        samples: of images with the labels `boxes` and `size`.
        inputs: one input.
        outputs: see there.
        reference_outputs: see there.
        detection: JSON of a `Detection`.
        seed: of the bootstrap.
        class_names: names of the model's classes.
        metric: one of `detection_accuracy.FIGURES`; None takes "map".
        task: "detection".
        top_k: has no meaning here.
        threshold: has no meaning here: it stands in the declaration.

    Raises:
        SamplesError: there are no true boxes, or they do not fit the images.
        UsageError: the metric is unknown, or an argument is given that has no meaning here.
        ShapeError: the outputs do not have the form that is declared.
    """
    if top_k is not None or threshold is not None:
        raise UsageError("--top-k and --threshold are not for boxes", hint="write --detection ...,score_threshold=0.3")
    if metric is not None and metric not in FIGURES:
        raise UsageError(f"the metric '{metric}' is none of detection", hint=f"there are {', '.join(FIGURES)}")
    specs = tuple(TensorSpec.from_json(spec) for spec in inputs)
    opened = open_samples(SamplesSpec.from_json(samples), tuple(replace(spec, shape=(None, *spec.shape[1:])) for spec in specs))
    truth, sizes = _truth(opened)
    names, names_before = ([spec["name"] for spec in given or ()] for given in (outputs, reference_outputs))
    file = load_outputs(candidate, names, len(opened))
    sides = [file]
    if reference is not None:
        sides.append(matched_outputs(names, file, names_before, load_outputs(reference, names_before, len(opened))))
    declared = Detection.from_json(detection)
    spec = SamplesSpec.from_json(samples)
    preprocess = Preprocess.from_json(spec.preprocess[specs[0].name]) if specs[0].name in spec.preprocess else Preprocess()
    truth, classes, notes = _classes(truth, opened.class_names, tuple(class_names or ()))
    found: list[Matched] = []
    for at, arrays in enumerate(sides):
        progress(at / len(sides), f"matching boxes in {len(opened)} images")
        boxes = [
            declared.boxes(
                {name: values[place] for name, values in zip(names, arrays, strict=True)},
                _input_size(specs[0], preprocess),
                (int(sizes[place, 0]), int(sizes[place, 1])),
                preprocess,
            )
            for place in range(len(opened))
        ]
        found.append(match(boxes, truth, len(classes)))
    original = found[1] if len(found) > 1 else None
    metrics, changes = detection_metrics(found[0], original, SUBJECT, seed=seed)
    return {
        "task": "detection",
        "primary": {"name": metric or "map", "subject": SUBJECT},
        "metrics": [one.to_json() for one in metrics],
        "groups": [asdict(group) for group in detection_groups(found[0], original, classes, SUBJECT, changes)],
        "flips": None,
        "thresholds": {},
        "warnings": _warnings(found, [Path(candidate).stem, "the original"], len(opened)),
        "notes": notes,
        "samples": opened.describe(),
        "count": len(opened),
    }


def _truth(opened: Samples) -> tuple[Array, Array]:
    """True boxes (images, most, 5 or 6) and sizes (images, 2)."""
    boxes, sizes = opened.labels.get("boxes"), opened.labels.get("size")
    if boxes is None or sizes is None:
        known = ", ".join(opened.labels) or "none"
        raise SamplesError(f"boxes and size are needed as labels, {opened.describe()} has {known}", hint=_TRUTH)
    if boxes.ndim != 3 or boxes.shape[2] not in (5, 6) or sizes.shape != (len(opened), 2):
        raise SamplesError(f"boxes have shape {boxes.shape} and size {sizes.shape} for {len(opened)} images", hint=_TRUTH)
    if not np.isfinite(boxes[..., :5]).all(axis=2).any():
        raise SamplesError(f"there is not one true box in {opened.describe()}", hint=_TRUTH)
    return boxes.astype(np.float64), sizes


def _classes(truth: Array, of_samples: tuple[str, ...], of_model: tuple[str, ...]) -> tuple[Array, tuple[str, ...], list[str]]:
    """True boxes with the model's class numbers, the classes' names, and what was done; names decide where both have them."""
    highest = int(np.nanmax(truth[..., 4]))
    if of_model and of_samples and of_samples != of_model and set(of_samples) <= set(of_model):
        numbers = np.asarray([of_model.index(name) for name in of_samples], np.float64)
        known = np.isfinite(truth[..., 4])
        renumbered = truth.copy()
        renumbered[..., 4][known] = numbers[truth[..., 4][known].astype(np.int64)]
        return renumbered, of_model, ["true boxes are matched to the model's classes by name, their orders differ"]
    names = of_model if len(of_model) > highest else of_samples if len(of_samples) > highest else ()
    return truth, names or tuple(map(str, range(highest + 1))), []


def _input_size(spec: TensorSpec, preprocess: Preprocess) -> tuple[int, int]:
    """Height and width of the model's input."""
    place = 2 if preprocess.layout == "chw" else 1
    height, width = spec.shape[place : place + 2]
    if height is None or width is None:
        size = preprocess.size
        if size is None:
            raise UsageError("the model takes images of any size", hint="declare one: --preprocess size=HEIGHTxWIDTH,...")
        return size
    return height, width


def _warnings(found: Sequence[Matched], names: Sequence[str], images: int) -> list[str]:
    warnings = [f"there are {images} evaluation images, {ENOUGH} or more are recommended"] if images < ENOUGH else []
    for one, name in zip(found, names, strict=False):
        if one.invalid:
            warnings.append(f"{one.invalid} boxes of {name} were NaN or infinite and are left out")
    return warnings
