"""The shipped example: a wearable-IMU classifier, converted four ways, each verified and evaluated on held-out people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.accuracy import accuracy, wilson_interval
from edgewright.benchmarks.fidelity import compare_outputs
from edgewright.converters.model_info import deflated_bytes, raw_bytes
from edgewright.pipeline import Data, Progress, convert, silent
from edgewright.verification import VERIFY_SAMPLES, ModelOutputs, outputs_of

__all__ = ["FILES", "VARIANTS", "DemoRow", "run_demo"]

FILES = Path(__file__).with_name("demo_data")

VARIANTS = (("tflite", "float32"), ("tflite", "float16"), ("tflite", "int8"), ("openvino", "int8"))


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One model of the demo's table.

    Args:
        name: file name.
        target: "keras", "tflite" or "openvino".
        precision: what was asked for.
        computed_in: the precision that the engine really used.
        raw_bytes: size.
        deflated_bytes: size after zlib level 9.
        sqnr_db: against the Keras model, dB, over the first 100 samples; None for the Keras model itself.
        agreement: share of those samples with the same top class; None for the Keras model itself.
        accuracy: share of all held-out windows that are classified right.
        low: lower end of the 95 % interval of that share.
        high: upper end.
        samples: number of held-out windows.
    """

    name: str
    target: str
    precision: str
    computed_in: str
    raw_bytes: int
    deflated_bytes: int
    sqnr_db: float | None
    agreement: float | None
    accuracy: float
    low: float
    high: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def run_demo(out: Path, *, progress: Progress = silent, warn: Callable[[str], None] = lambda _: None) -> list[DemoRow]:
    """Convert the shipped model to TFLite float32, float16, int8 and OpenVINO int8; verify and evaluate each.

    Args:
        out: folder for the files.
        progress: called with a share between 0 and 1 and a text.
        warn: called with each thing that the user should know.
    """
    model, calibration = FILES / "watch.keras", FILES / "watch_calib.npz"
    with np.load(FILES / "watch_test.npz", allow_pickle=False) as stored:
        labels = np.asarray(stored["y"])
    spec = Data(FILES / "watch_test.npz").spec((), out)
    steps = 2 * len(VARIANTS) + 1
    progress(0.0, "running the Keras model on the held-out subjects")
    reference = outputs_of(model, spec)
    rows = [_row(reference, None, "float32", labels)]
    for index, (target, precision) in enumerate(VARIANTS):
        done = 2 * index + 1
        progress(done / steps, f"converting to {target} {precision}")
        notes: list[str] = []
        artifact = convert(
            model,
            out / f"watch_{precision}",
            to=target,
            precision=precision,
            samples=calibration if precision == "int8" else None,
            warnings=notes,
        )
        for note in notes:
            warn(f"{artifact.path.name}: {note}")
        progress((done + 1) / steps, f"running {artifact.path.name} on the held-out subjects")
        rows.append(_row(outputs_of(artifact.path, spec), reference, precision, labels))
    progress(1.0, "done")
    return rows


def _row(found: ModelOutputs, reference: ModelOutputs | None, precision: str, labels: np.ndarray[Any, Any]) -> DemoRow:
    share = accuracy(found.arrays[0], labels)
    metrics = {}
    if reference is not None:
        first = slice(0, VERIFY_SAMPLES)
        metrics = {
            m.name: m.value for m in compare_outputs(found.outputs[0].name, reference.arrays[0][first], found.arrays[0][first])
        }
    low, high = wilson_interval(share, len(labels))
    return DemoRow(
        name=found.path.name,
        target=found.format,
        precision=precision,
        computed_in=found.how.get("execution", {}).get("precision", "float32"),
        raw_bytes=raw_bytes(found.path),
        deflated_bytes=deflated_bytes(found.path),
        sqnr_db=metrics.get("sqnr"),
        agreement=metrics.get("top1_agreement"),
        accuracy=share,
        low=low,
        high=high,
        samples=len(labels),
    )
