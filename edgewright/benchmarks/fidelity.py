"""How close one model's outputs are to another's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgewright.errors import ShapeError
from edgewright.report import Metric

__all__ = ["compare_outputs", "cosine", "sqnr_db", "top1_agreement"]

Array = np.ndarray[Any, Any]


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Signal-to-quantization-noise ratio, 10 log10(sum r^2 / sum (r - c)^2), in dB.

    Infinite when the arrays are equal (silence included); minus infinity when the reference is all zero and the
    candidate is not.
    """
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    noise, signal = _length(r - c), _length(r)
    if noise == 0.0:
        return math.inf
    return 20.0 * (math.log10(signal) - math.log10(noise)) if signal > 0.0 else -math.inf


def cosine(reference: Array, candidate: Array) -> float:
    """Cosine of the angle between all values of two arrays; 1.0 if both are all zero, 0.0 if one is."""
    r, c = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    if not (r.any() and c.any()):
        return float(not r.any() and not c.any())
    r, c = r / np.abs(r).max(), c / np.abs(c).max()
    return float(np.clip(np.dot(r, c) / (np.linalg.norm(r) * np.linalg.norm(c)), -1.0, 1.0))


def _length(values: Array) -> float:
    """Euclidean length, of values whose squares may be too large or too small for float64."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.linalg.norm((values / largest).ravel())) if largest > 0.0 else 0.0


def top1_agreement(reference: Array, candidate: Array) -> float:
    """Share of rows (last axis) whose largest value stands at the same place, between 0 and 1.

    A row whose largest reference value occurs several times agrees if the candidate picks any of those.
    """
    r, c = reference.reshape(-1, reference.shape[-1]), candidate.reshape(-1, candidate.shape[-1])
    picked = np.take_along_axis(r, np.argmax(c, axis=1)[:, None], axis=1)[:, 0]
    return float(np.mean(picked == r.max(axis=1)))


def compare_outputs(name: str, reference: Array, candidate: Array, *, random_data: bool = False) -> list[Metric]:
    """All fidelity metrics of one output.

    Args:
        name: the output's name, the metrics' subject.
        reference: shape (samples, ...), real values.
        candidate: the same shape.
        random_data: the inputs were random, so decisions mean nothing and top-1 agreement is left out.

    Raises:
        ShapeError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ShapeError(f"output '{name}' has shape {candidate.shape}, the reference has {reference.shape}")
    count = len(reference)
    broken = int((~np.isfinite(candidate)).sum()), int((~np.isfinite(reference)).sum())
    if any(broken):
        why = f"{broken[0]} values of the candidate and {broken[1]} of the reference are not finite"
        return [Metric(metric, unit, None, name, count, why_absent=why) for metric, unit in _METRICS]
    error = np.abs(reference.astype(np.float64) - candidate.astype(np.float64))
    metrics = [
        Metric("max_abs_error", "", float(error.max(initial=0.0)), name, count),
        Metric("mean_abs_error", "", float(error.mean()) if error.size else 0.0, name, count),
        Metric("sqnr", "dB", sqnr_db(reference, candidate), name, count),
        Metric("cosine", "", cosine(reference, candidate), name, count),
    ]
    why = _no_agreement(reference, random_data)
    agreement = None if why else top1_agreement(reference, candidate)
    return [*metrics, Metric("top1_agreement", "", agreement, name, count, why_absent=why)]


_METRICS = (("max_abs_error", ""), ("mean_abs_error", ""), ("sqnr", "dB"), ("cosine", ""), ("top1_agreement", ""))


def _no_agreement(reference: Array, random_data: bool) -> str:
    if random_data:
        return "the inputs were random: decisions on them mean nothing"
    if reference.ndim < 2 or reference.shape[-1] < 2:
        return "the output has one value per sample, no classes"
    return ""
