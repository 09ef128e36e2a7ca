"""What a model's outputs mean, as plain JSON values: the declared task, by the code that evaluation uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgewright.artifact import ModelMeta
from edgewright.detection import Detection
from edgewright.errors import UsageError
from edgewright.preprocess import Preprocess
from edgewright.runtime.decisions import AnomalyThreshold, Decider, Smoothing
from edgewright.runtime.frames import Array
from edgewright.runtime.tracking import Tracker
from edgewright.tasks import TASKS, decide, default_threshold, reconstruction_scores, scores_of

__all__ = ["Answerer", "Meaning"]

_TAKEN_BY = {
    "threshold": ("classification", "multilabel", "anomaly"),
    "learn": ("anomaly",),
    "smoothing": ("classification", "anomaly"),
    "detection": ("detection",),
    "track": ("detection",),
}
"""The tasks that a field of `Meaning` has a sense for."""

_SHOWN = 16
"""Values of an output that are shown where no task is declared."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What was declared of a model's outputs; from its artifact, and from the user, who has the last word.

    Args:
        task: one of `TASKS` or "detection"; None shows outputs as they are, or takes what labels speak for.
        labels: class names in output order.
        threshold: of one score per sample, of multilabel and of anomalies.
        learn: windows of normal data that an anomaly threshold is learned from; 0 if it is declared.
        smoothing: of decisions over time.
        detection: how boxes are read; for the task "detection".
        track: give boxes the number of their track.

    Raises:
        UsageError: there is no such task, or it lacks what it needs.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    threshold: float | None = None
    learn: int = 0
    smoothing: Smoothing | None = None
    detection: Detection | None = None
    track: bool = False

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in (*TASKS, "detection"):
            raise UsageError(f"task '{self.task}' is unknown", hint=f"known are {', '.join((*TASKS, 'detection'))}")
        if self.task == "detection" and self.detection is None:
            raise UsageError("detection needs to be told how boxes are read", hint="declare it: --detection head=ssd,...")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"the threshold is {self.threshold}, it must be a finite number")
        if self.task == "anomaly" and self.threshold is None and not self.learn:
            raise UsageError("an anomaly needs a threshold", hint="pass --threshold, or --learn N for the first N normal windows")
        if self.task == "anomaly" and self.threshold is not None and self.learn:
            raise UsageError(
                f"the threshold of an anomaly is {self.threshold:g}, and is to be learned from {self.learn} windows",
                hint="leave either --threshold or --learn out",
            )

    @classmethod
    def of(cls, meta: ModelMeta, **given: Any) -> Meaning:
        """What an artifact declares, with the user's values in place of its own where they are not None.

        Raises:
            UsageError: as `Meaning`, or a value is given that the task has no use for.
        """
        extra = meta.extra
        declared: dict[str, Any] = {"task": meta.task, "labels": meta.labels, "threshold": extra.get("threshold")}
        if "detection" in extra:
            declared |= {"detection": Detection.from_json(extra["detection"]), "task": "detection"}
        if "smoothing" in extra:
            declared["smoothing"] = Smoothing.from_json(extra["smoothing"])
        values = declared | {name: value for name, value in given.items() if value is not None}
        if values.get("detection") is not None and given.get("task") is None:
            values["task"] = "detection"
        if values.get("task") == "anomaly" and given.get("learn") and given.get("threshold") is None:
            values["threshold"] = None  # the one that the artifact has is learned anew
        task = values.get("task") or ("classification" if values.get("labels") else None)
        for name, tasks in _TAKEN_BY.items():
            if given.get(name) and task not in tasks:
                raise UsageError(
                    f"{name} is given, which {f'the task {task}' if task else 'a model without a task'} has no use for",
                    hint=f"leave --{name} out, or say --task {' or '.join(tasks)}",
                )
        return cls(**values)


class Answerer:
    """Answers of one source, in order: decisions and tracks go on from one frame to the next.

    Args:
        meaning: what was declared.
        outputs: names of the model's outputs in order.
        preprocess: of the input, which boxes are mapped back through.
    """

    def __init__(self, meaning: Meaning, outputs: Sequence[str], preprocess: Preprocess | None) -> None:
        self._meaning, self._names = meaning, list(outputs)
        self._preprocess = preprocess or Preprocess()
        self._tracker = Tracker() if meaning.track else None
        self._logits = False
        anomaly, smoothing = meaning.task == "anomaly", meaning.smoothing
        learns = anomaly and meaning.threshold is None
        self._limit = AnomalyThreshold(meaning.learn, smoothing=smoothing) if learns else None
        if anomaly and not learns and smoothing is not None and smoothing.enter is None:
            smoothing = replace(smoothing, enter=math.nextafter(meaning.threshold or 0.0, math.inf))
        self._decider = Decider(smoothing) if smoothing is not None and not learns else None

    def reset(self) -> None:
        """Forget what came before: a gap, another scene."""
        if self._decider is not None:
            self._decider.reset()
        if self._limit is not None:
            self._limit.reset()
        if self._tracker is not None:
            self._tracker = Tracker()

    def __call__(self, outputs: Mapping[str, Array], fed: Array, raw_size: tuple[int, int] | None) -> dict[str, Any]:
        """The answer.

        Args:
            outputs: real numbers by name, without batch axis.
            fed: what the model was given, real, without batch axis.
            raw_size: height and width of the raw image in pixels; None for sensors.

        Returns:
            classification: "class", "label", "score" (and "changed" with smoothing); multilabel: "classes", "labels";
            regression: "values"; anomaly: "anomaly", "score", "threshold"; detection: "boxes", a list of "box" (left, top,
            right, bottom in pixels), "class", "label", "score", "track", "points"; no task: "outputs".
        """
        task = self._meaning.task or self._guess(outputs)
        if task == "detection":
            return self._boxes(outputs, fed, raw_size)
        values = outputs[self._names[0]]
        if task == "anomaly":
            return self._anomaly(float(reconstruction_scores(fed[np.newaxis], values[np.newaxis])[0]))
        if task == "regression":
            return {"values": [float(v) for v in values.ravel()]}
        if task in ("classification", "multilabel"):
            scores = scores_of(task, values[np.newaxis])
            return self._class(scores) if task == "classification" else self._several(scores)
        return {"outputs": {name: _shown(value) for name, value in outputs.items()}}

    def _guess(self, outputs: Mapping[str, Array]) -> str:
        """Classification where there is a label for every value of the only output."""
        first = outputs[self._names[0]]
        return "classification" if len(outputs) == 1 and len(self._meaning.labels) == first.size > 1 else ""

    def _class(self, scores: Array) -> dict[str, Any]:
        if scores.ndim == 1:
            return self._yes_or_no(scores)
        if self._decider is not None:
            decision = self._decider.update(scores[0])
            return self._named(decision.class_index) | {"score": float(decision.score), "changed": decision.changed}
        chosen = int(np.argmax(scores[0]))
        return self._named(chosen) | {"score": float(scores[0, chosen])}

    def _yes_or_no(self, scores: Array) -> dict[str, Any]:
        """What a single score decides: class 1 above the threshold."""
        limit = self._meaning.threshold
        if self._decider is None:
            decided = decide("classification", scores, self._default(scores) if limit is None else limit)
            return self._named(int(decided[0]) if decided is not None else 0) | {"score": float(scores[0])}
        if limit is not None and self._decider.smoothing.enter is None:
            self._decider.begin_with(math.nextafter(limit, math.inf))
        decision = self._decider.update(scores)
        return self._named(decision.class_index) | {"score": decision.score, "changed": decision.changed}

    def _several(self, scores: Array) -> dict[str, Any]:
        limit = self._meaning.threshold if self._meaning.threshold is not None else self._default(scores)
        decided = decide("multilabel", scores, limit)
        found = [] if decided is None else [int(place) for place in np.flatnonzero(decided[0])]
        return {"classes": found, "labels": [self._label(place) for place in found]}

    def _default(self, scores: Array) -> float:
        """The threshold if none is declared: that of logits from the first score on that is no probability."""
        limit = default_threshold(scores)
        self._logits = self._logits or limit == 0.0
        return 0.0 if self._logits else limit

    def _anomaly(self, score: float) -> dict[str, Any]:
        if self._limit is None:
            threshold = self._meaning.threshold
            if self._decider is None:
                return {"anomaly": bool(threshold is not None and score > threshold), "score": score, "threshold": threshold}
            decision = self._decider.update(np.asarray([score]))
            return {"anomaly": bool(decision.class_index), "score": decision.score, "threshold": threshold}
        learned = self._limit.update(score)
        if learned is None:
            return {"anomaly": None, "score": score, "learning": True}
        return {"anomaly": bool(learned.class_index), "score": learned.score, "threshold": self._limit.threshold}

    def _boxes(self, outputs: Mapping[str, Array], fed: Array, raw_size: tuple[int, int] | None) -> dict[str, Any]:
        detection = self._meaning.detection
        if detection is None:
            return {"boxes": []}
        height, width = fed.shape[1:3] if self._preprocess.layout == "chw" else fed.shape[:2]
        found = detection.boxes(outputs, (height, width), raw_size or (height, width), self._preprocess)
        tracks = self._tracker.update(found) if self._tracker is not None else [None] * len(found.boxes)
        boxes = []
        for place, (box, track) in enumerate(zip(found.boxes, tracks, strict=True)):
            one = {"box": [round(float(edge), 1) for edge in box], "score": round(float(found.scores[place]), 4)}
            one |= self._named(int(found.classes[place])) | ({"track": track} if track is not None else {})
            if found.points is not None:
                one["points"] = [[round(float(x), 1), round(float(y), 1)] for x, y in found.points[place]]
            boxes.append(one)
        return {"boxes": boxes}

    def _named(self, chosen: int) -> dict[str, Any]:
        return {"class": chosen, "label": self._label(chosen)}

    def _label(self, chosen: int) -> str:
        return self._meaning.labels[chosen] if chosen < len(self._meaning.labels) else str(chosen)


def _shown(value: Array) -> Any:
    return [float(v) for v in value.ravel()] if value.size <= _SHOWN else {"shape": list(value.shape)}
