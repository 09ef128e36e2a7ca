"""Compress the three example models and hold every figure against scikit-learn's on the raw outputs of the engines."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

import edgewright
from edgewright.report import CompressReport

Array = npt.NDArray[Any]

HERE = Path(__file__).resolve().parent
RECIPES = ("float16", "dynamic", "int8", "int16x8")


@dataclass(frozen=True)
class Example:
    """One model: the script that trains it, its files, and what scikit-learn says of raw outputs."""

    script: str
    folder: str
    name: str
    figures: Callable[[Array, Array, Array], dict[str, float]]


def classification(x: Array, y: Array, found: Array) -> dict[str, float]:
    """Figures of a classifier: scores of shape (samples, classes)."""
    top, kinds = found.argmax(axis=1), np.eye(found.shape[1])
    return {
        "accuracy": sk.accuracy_score(y, top),
        "f1_macro": sk.f1_score(y, top, average="macro"),
        "roc_auc": sk.roc_auc_score(kinds[y], found, average="macro"),
    }


def regression(x: Array, y: Array, found: Array) -> dict[str, float]:
    """Figures of a regression: values of shape (samples, 1)."""
    found = found.reshape(y.shape)
    return {
        "rmse": sk.root_mean_squared_error(y, found),
        "mae": sk.mean_absolute_error(y, found),
        "r2": sk.r2_score(y, found),
    }


def anomaly(x: Array, y: Array, found: Array) -> dict[str, float]:
    """Figures of a reconstruction: the score is the mean squared error of a sample."""
    errors = np.square(x.astype(np.float64) - found).reshape(len(y), -1).mean(axis=1)
    return {"roc_auc": sk.roc_auc_score(y, errors), "average_precision": sk.average_precision_score(y, errors)}


EXAMPLES = (
    Example("train_mnist.py", "mnist", "mnist", classification),
    Example("train_regression.py", "regression", "intensity", regression),
    Example("train_anomaly.py", "anomaly", "motion", anomaly),
)


def raw_outputs(path: Path, x: Array) -> Array:
    """What a file computes, one sample at a time, by the engines' own interfaces."""
    if path.suffix == ".xml":
        import openvino as ov

        compiled = ov.Core().compile_model(str(path), "CPU")
        return np.concatenate([compiled([row[None]])[0].copy() for row in x])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for row in x:
        interpreter.set_tensor(taken["index"], row[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(given["index"]).copy())
    return np.concatenate(results)


def train(example: Example, out: Path) -> Path:
    """The example's folder, trained now if it is not there."""
    folder = out / example.folder
    if not (folder / f"{example.name}.keras").is_file():
        subprocess.run([sys.executable, str(HERE / example.script), "--out", str(folder)], check=True)
    return folder


def compress(example: Example, folder: Path) -> tuple[CompressReport, float, float]:
    """The report, the seconds that the run took, and those of the same run again."""
    arguments: dict[str, Any] = {
        "recipe": RECIPES,
        "samples": folder / f"{example.name}_calib.npz",
        "evaluation": folder / f"{example.name}_test.npz",
    }
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        report = edgewright.compress(folder / f"{example.name}.keras", folder / "compressed", **arguments)
        seconds.append(time.monotonic() - started)
    edgewright.save_report(report, folder / "compressed")
    return report, seconds[0], seconds[1]


def rows(example: Example, folder: Path, report: CompressReport) -> list[str]:
    """One row per file and figure, and the largest difference from scikit-learn."""
    with np.load(folder / f"{example.name}_test.npz") as data:
        x, y = data[next(key for key in data if ":" not in key and key != "y")], data["y"]
    lines = []
    for file in report.results:
        for name, value in example.figures(x, y, raw_outputs(folder / "compressed" / file.name, x)).items():
            own, change = file.metric(name), file.metric(f"{name}_change")
            if own is None or own.value is None or change is None:
                raise SystemExit(f"{file.name} has no {name}")
            interval = f"{own.low:.4f} to {own.high:.4f}"
            figures = f"{own.value:.6f} | {value:.6f} | {abs(own.value - value):.1e}"
            lines.append(f"| {file.name} | {name} | {figures} | {interval} | {change.value:+.2f} {change.unit} |")
    return lines


def main() -> None:
    """Train what is missing, compress each model twice, print the table; exit code 1 if a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "out", help="where models are (default: %(default)s)")
    out = parser.parse_args().out
    lines, times = [], []
    for example in EXAMPLES:
        folder = train(example, out)
        report, first, again = compress(example, folder)
        lines += rows(example, folder, report)
        times.append(f"| {example.name} | {len(report.results)} | {first:.1f} | {again:.2f} |")
    print("| file | figure | edgewright | scikit-learn | difference | 95 % interval | change |")
    print("|---|---|---:|---:|---:|---|---:|")
    print("\n".join(lines))
    print("\n| model | files | first run, s | again, s |\n|---|---:|---:|---:|")
    print("\n".join(times))
    worst = max(float(line.split("|")[5]) for line in lines)
    print(f"\nlargest difference from scikit-learn: {worst:.1e}")
    sys.exit(int(worst > 1e-6))


if __name__ == "__main__":
    main()
