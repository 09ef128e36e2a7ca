"""What converts to what, and how close it stays: every model of `models.py` in every precision and target.

Each cell converts the Keras model (or SavedModel) through the public API, checks names, order and shapes of inputs and
outputs in the written file, and verifies the file against the model on 100 samples. Finished cells are kept in the work
folder, so a run that was interrupted goes on where it stopped. Exit code 1 if a cell failed in another way than by a
reasoned refusal.

    .venv/bin/python perf/coverage.py [--only MODEL] [--to TARGET] [--precision P] [--jobs 2] [--out docs/reference/coverage.md]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from models import CASES, SAMPLES, Case

from edgewright.conversion import convert
from edgewright.converters.writers import PRECISIONS
from edgewright.errors import UnsupportedError
from edgewright.verification import verify
from edgewright.worker import Limits

TARGETS = {"tflite": "TFLite", "openvino": "OpenVINO"}
SUFFIXES = {"tflite": ".tflite", "openvino": ".xml"}
INTEGER = ("int8", "int16x8")
FLOAT32_FLOOR_DB = 80.0
"""A float32 file below this computes something else than the model: the cell fails."""
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "openvino", "nncf", "numpy")


@dataclass
class Cell:
    """What became of one model in one target and precision.

    Args:
        status: "ok", "refused" or "FAIL".
        sqnr_db: of the worst output; None if there is none.
        float_ops: number of ops left float by type.
        size_bytes: of the file, with OpenVINO's .bin.
        seconds: wall time of conversion and verification, other cells running beside it.
        message: why it was refused or failed.
        trace: Python's trace of a failure.
        warnings: what the conversion warned of.
    """

    status: str
    sqnr_db: float | None = None
    float_ops: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    seconds: float = 0.0
    message: str = ""
    trace: str = ""
    warnings: list[str] = field(default_factory=list)


def run_cell(case: Case, to: str, precision: str, models: Path, out: Path) -> Cell:
    """Convert, check and verify one model; never raises for what the product does."""
    begin = time.monotonic()
    try:
        cell = _attempt(case, to, precision, models, out)
    except UnsupportedError as error:
        cell = Cell("refused", message=str(error))
    except Exception as error:  # whatever it is, it belongs into the table
        cell = Cell("FAIL", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    cell.seconds = round(time.monotonic() - begin, 1)
    return cell


def _attempt(case: Case, to: str, precision: str, models: Path, out: Path) -> Cell:
    model, samples = case.path(models), models / f"{case.name}.npz"
    target = out / f"{case.name}_{precision}{SUFFIXES[to]}"
    limits = Limits(timeout_s=900)
    warnings: list[str] = []
    artifact = convert(model, target, to=to, precision=precision, samples=samples, limits=limits, warnings=warnings)
    batch = 1 if to == "tflite" or any("batch size is fixed" in warning for warning in warnings) else None
    problems = _wrong_interface(case, to, target, batch)
    report = verify(target, model, samples=samples, exact=True, limits=limits)
    values = [metric.value for metric in report.metrics if metric.name == "sqnr"]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        problems += [metric.why_absent for metric in report.metrics if metric.name == "sqnr" and metric.value is None]
    worst = min(known, default=None)
    if precision == "float32" and worst is not None and worst < FLOAT32_FLOOR_DB:
        problems.append(f"float32 reaches {worst:.1f} dB, {FLOAT32_FLOOR_DB:g} dB is the least")
    size = sum(file.stat().st_size for file in (target, target.with_suffix(".bin")) if file.is_file())
    return Cell(
        "FAIL" if problems else "ok",
        sqnr_db=worst,
        float_ops=dict(Counter(op for op, *_ in artifact.meta.extra.get("float_ops", ())).most_common()),
        size_bytes=size,
        message="; ".join(problems),
        warnings=warnings,
    )


def _wrong_interface(case: Case, to: str, file: Path, batch: int | None) -> list[str]:
    """How names, order or shapes in a file differ from the model's; read with the engine's own API."""
    found = _tflite_interface(file) if to == "tflite" else _openvino_interface(file)
    problems = []
    for what, shapes, got in (("inputs", case.inputs, found[0]), ("outputs", case.outputs, found[1])):
        expected = [(name, (batch, *shape)) for name, shape in shapes.items()]
        if got != expected:
            problems.append(f"{what} of the file are {got}, the model's are {expected}")
    return problems


Interface = list[tuple[str, tuple[int | None, ...]]]


def _tflite_interface(file: Path) -> tuple[Interface, Interface]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    found = [[(detail["name"], tuple(int(s) for s in detail["shape"])) for detail in details] for details in (inputs, outputs)]
    signatures = list(interpreter.get_signature_list().values())
    names = [{name for name, _ in side} for side in found]
    if len(signatures) != 1 or [set(signatures[0][key]) for key in ("inputs", "outputs")] != names:
        raise RuntimeError(f"the signatures {signatures} do not name the tensors {names}")
    return found[0], found[1]


def _openvino_interface(file: Path) -> tuple[Interface, Interface]:
    import openvino as ov

    model = ov.Core().read_model(str(file))
    found: list[Interface] = []
    for ports in (model.inputs, model.outputs):
        shapes = [tuple(None if d.is_dynamic else d.get_length() for d in port.partial_shape) for port in ports]
        found.append([(",".join(sorted(port.get_names())), shape) for port, shape in zip(ports, shapes, strict=True)])
    return found[0], found[1]


# ---- running ------------------------------------------------------------------------------------------------------------


def build_models(cases: Iterable[Case], folder: Path, jobs: int) -> None:
    """Write the models that are missing, each in its own process."""

    def build(case: Case) -> None:
        if (folder / f"{case.name}.npz").exists() and case.path(folder).exists():
            return
        script = Path(__file__).with_name("models.py")
        done = subprocess.run([sys.executable, str(script), case.name, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"building {case.name} failed:\n{done.stderr[-3000:]}")
        print(f"built {case.name}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(build, cases))


def run_all(cases: Sequence[Case], targets: Sequence[str], precisions: Sequence[str], work: Path, jobs: int, redo: str) -> None:
    """Run all cells that have no result in `work/cells` (or one whose status is in `redo`)."""
    keys = [(case, to, precision) for case in cases for to in targets for precision in precisions]
    todo = []
    for case, to, precision in keys:
        cell = load_cell(work, case.name, to, precision)
        if cell is None or cell.status in redo.split(","):
            todo.append((case, to, precision))
    done = len(keys) - len(todo)

    def work_on(key: tuple[Case, str, str]) -> None:
        nonlocal done
        case, to, precision = key
        with tempfile.TemporaryDirectory(prefix="coverage-", dir=work) as folder:
            cell = run_cell(case, to, precision, work / "models", Path(folder))
        _cell_file(work, case.name, to, precision).write_text(json.dumps(asdict(cell), indent=1), encoding="utf-8")
        done += 1
        result = f"{describe(cell, precision)} {cell.seconds:.0f} s {cell.message[:300]}"
        print(f"[{done}/{len(keys)}] {case.name} {to} {precision}: {result}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work_on, todo))


def _cell_file(work: Path, name: str, to: str, precision: str) -> Path:
    return work / "cells" / f"{name}.{to}.{precision}.json"


def load_cell(work: Path, name: str, to: str, precision: str) -> Cell | None:
    """The stored result of a cell, None if there is none."""
    file = _cell_file(work, name, to, precision)
    return Cell(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


# ---- the page -----------------------------------------------------------------------------------------------------------


def describe(cell: Cell, precision: str) -> str:
    """A cell's text without footnotes."""
    if cell.status != "ok":
        return cell.status
    if cell.sqnr_db is None:
        return "?"
    text = "exact" if math.isinf(cell.sqnr_db) and cell.sqnr_db > 0 else f"{cell.sqnr_db:.1f}"
    left = sum(cell.float_ops.values())
    return f"{text} ({left})" if precision in INTEGER and left else text


def page(cases: Sequence[Case], work: Path, command: str) -> str:
    """The whole reference page as Markdown."""
    notes: dict[str, int] = {}
    parts = [_INTRODUCTION.format(samples=SAMPLES, command=command, versions=_versions(), floor=FLOAT32_FLOOR_DB)]
    for to, title in TARGETS.items():
        parts.append(f"## {title}\n\n" + _table(cases, to, work, notes))
    if notes:
        parts.append("## Refusals and failures\n\n" + "\n".join(f"{number}. {text}" for text, number in notes.items()))
    parts.append("## Ops left in float32\n\n" + _left_float(cases, work))
    return "\n\n".join(part.strip() for part in parts) + "\n"


_INTRODUCTION = """\
# What converts, and how close it stays

Generated by `perf/coverage.py`; do not edit. A cell is the signal-to-quantization-noise ratio in dB of the written file
against the Keras model over {samples} samples, of the worst output; higher is better, "exact" means no difference at all.
The number in parentheses counts the ops that an int8 or int16x8 file still computes in float32 (named at the end).
"refused" is an error message before anything is written, with its reason below. "FAIL" is a defect: an exception, wrong
names or shapes in the file, or a float32 file below {floor:g} dB.

Every file was made from the Keras model (or SavedModel) itself, calibrated and verified on the same {samples} samples. Names,
order and shapes of inputs and outputs were compared with the model's in every file. Engines computed float ops in float32
(`--exact`). The weights are random with a fixed seed, the BatchNorm statistics were fitted to the samples by 12 passes in
training mode, and the classifier was scaled so that its logits have a standard deviation of 2: the figures show the
arithmetic, not what a trained network loses in accuracy. Images are random structure, sequences are standard normal.

Command: `{command}`

Versions: {versions}"""


def _versions() -> str:
    found = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"{found}, Python {platform.python_version()}, {platform.machine()}"


def _table(cases: Sequence[Case], to: str, work: Path, notes: dict[str, int]) -> str:
    lines = ["| model | " + " | ".join(PRECISIONS) + " |", "|---|" + "---|" * len(PRECISIONS)]
    for case in cases:
        cells = []
        for precision in PRECISIONS:
            cell = load_cell(work, case.name, to, precision)
            text = "-" if cell is None else describe(cell, precision)
            if cell is not None and cell.message:
                number = notes.setdefault(_plain(cell.message), len(notes) + 1)
                text += f" [{number}]"
            cells.append(text)
        lines.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(message: str) -> str:
    """A message without folders and newlines."""
    return re.sub(r"/\S*/(?=[\w.-]+)", "", " ".join(message.split()))


def _left_float(cases: Sequence[Case], work: Path) -> str:
    lines = ["| model | file | ops |", "|---|---|---|"]
    for case in cases:
        for to, title in TARGETS.items():
            for precision in INTEGER:
                cell = load_cell(work, case.name, to, precision)
                if cell is not None and cell.float_ops:
                    ops = ", ".join(f"{count} {op}" for op, count in cell.float_ops.items())
                    lines.append(f"| {case.title} | {title} {precision} | {ops} |")
    return "\n".join(lines) if len(lines) > 2 else "None."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(CASES), action="append", metavar="MODEL", help="only this model; repeatable")
    parser.add_argument("--to", choices=sorted(TARGETS), action="append", help="only this target; repeatable")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="only this precision; repeatable")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (default 2)")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-coverage", help="where results are kept"
    )
    parser.add_argument(
        "--redo", default="", metavar="STATUS", help="run cells of this status again: FAIL, refused, ok; comma-separated"
    )
    parser.add_argument("--fresh", action="store_true", help="forget all results first")
    parser.add_argument("--out", type=Path, default=None, help="write the page here; without it, it is printed")
    return parser


def main() -> int:
    """Run what is missing and write the page; 1 if a cell failed."""
    args = _parser().parse_args()
    cases = [CASES[name] for name in args.only] if args.only else list(CASES.values())
    if args.fresh:
        shutil.rmtree(args.work / "cells", ignore_errors=True)
    (args.work / "cells").mkdir(parents=True, exist_ok=True)
    build_models(cases, args.work / "models", args.jobs)
    targets, precisions = args.to or list(TARGETS), args.precision or list(PRECISIONS)
    run_all(cases, targets, precisions, args.work, args.jobs, args.redo)
    text = page(cases, args.work, ".venv/bin/python perf/coverage.py --out docs/reference/coverage.md")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    cells = [_cell_file(args.work, case.name, to, precision) for case in cases for to in targets for precision in precisions]
    failed = [file.stem for file in cells if json.loads(file.read_text(encoding="utf-8"))["status"] == "FAIL"]
    for name in failed:
        print(f"FAIL {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
