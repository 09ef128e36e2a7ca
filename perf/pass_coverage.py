"""Which pass works on which model, beside TensorFlow Model Optimization (TFMOT): every model of `models.py`, each pass alone.

A pass trains one epoch on the 100 samples without labels, and the result is written as int8 files. Of ours, one run gives the
TFLite and the OpenVINO cell, and the files must hold what the pass promises; TFMOT runs by `tfmot.py` in a process of its own.
Finished cells and trained models are kept in the work folder, so a run that was interrupted goes on where it stopped. Exit code
1 if one of our cells failed in another way than by a reasoned refusal.

    .venv/bin/python perf/pass_coverage.py [--only MODEL] [--passes prune qat] [--side ours] [--redo FAIL] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import coverage
from models import CASES, SAMPLES, Case

import edgewright
from edgewright.artifact import Artifact
from edgewright.converters.tflite_file import float_ops
from edgewright.errors import UnsupportedError
from edgewright.optimizers.graph import KERNELS
from edgewright.optimizers.passes.cluster import ClusterOptions
from edgewright.planning import Settings
from edgewright.recipe import parse_recipe
from edgewright.report import CompressReport, FileReport

EPOCHS, BATCH, SPARSITY, CLUSTERS = 1, 25, 0.5, 16
PASSES = {"prune": f"sparsity = {SPARSITY}\n", "cluster": f"clusters = {CLUSTERS}\n", "qat": ""}
"""The passes and the options that are their own."""

OURS = coverage.TARGETS
COLUMNS = {**OURS, "tfmot": "TFMOT"}
SIDES = {"ours": tuple(OURS), "tfmot": ("tfmot",)}
TOLERANCE = 0.005  # of the share of zeros, as receipts have it
MINUTES = 15  # for one cell of TFMOT
PACKAGES = (*coverage.PACKAGES, "tf_keras", "tensorflow-model-optimization")


@dataclass
class Cell:
    """What became of one model, one pass and one file.

    Args:
        status: "ok", "refused", "timeout" (of TFMOT only) or "FAIL".
        figure: what proves that the file holds the pass's result, with its unit.
        float_ops: number of ops that the file computes in float.
        seconds: wall time of the run that made it; both of our files come from one run.
        message: why it was refused or failed.
        trace: Python's trace or the process' last words, of a failure.
    """

    status: str
    figure: str = ""
    float_ops: int = 0
    seconds: float = 0.0
    message: str = ""
    trace: str = ""


# ---- ours ---------------------------------------------------------------------------------------------------------------


def recipe_file(work: Path, name: str) -> Path:
    """The recipe of one pass, written to the work folder, where a failure can be repeated with it."""
    options = f'[[steps]]\nstep = "{name}"\nepochs = {EPOCHS}\nbatch = {BATCH}\n{PASSES[name]}'
    file = work / "recipes" / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(options + '\n[[steps]]\nstep = "export"\nprecision = "int8"\n', encoding="utf-8")
    return file


def run_ours(case: Case, name: str, work: Path, targets: Sequence[str] = tuple(OURS)) -> dict[str, Cell]:
    """The cells of one pass by target. A target that gave no file is asked for alone, so that its own error is known."""
    cells: dict[str, Cell] = {}
    found = ""
    try:
        with tempfile.TemporaryDirectory(prefix="pass-coverage-", dir=work) as out:
            report = _compress(case, name, work, targets, Path(out))
            cells = {file.format: judged(file, name) for file in report.results}
            found = "; ".join(report.failed)
    except Exception as error:  # whatever it is, it belongs into the table
        if len(targets) == 1:
            status = "refused" if isinstance(error, UnsupportedError) else "FAIL"
            if isinstance(error, edgewright.EdgewrightError):  # its trace says nothing: what failed, failed in a child
                return {targets[0]: Cell(status, message=str(error))}
            return {targets[0]: Cell(status, message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())}
        found = str(error)
    missing = [target for target in targets if target not in cells]
    alone = {target: cell for each in missing for target, cell in run_ours(case, name, work, (each,)).items()}
    if found and alone and all(cell.status == "ok" for cell in alone.values()):
        text = f"fails in one run with the other target, not alone: {found}"
        alone = {target: Cell("FAIL", message=text) for target in alone}
    return cells | alone


def _compress(case: Case, name: str, work: Path, targets: Sequence[str], out: Path) -> CompressReport:
    file = recipe_file(work, name)
    return edgewright.compress(
        case.path(work / "models"),
        out,
        recipe=parse_recipe(name, file.read_text(encoding="utf-8"), str(file)),
        to=list(targets),
        samples=work / "models" / f"{case.name}.npz",
        settings=Settings(bench=False, exact=True),
        cache=work / "cache",
    )


def judged(file: FileReport, name: str) -> Cell:
    """The cell of a file that was written: its figure, and what it lost."""
    made = Artifact.load(Path(file.path))
    extra: Mapping[str, Any] = made.meta.extra if made else {}
    figure, problems = {"prune": _zeros, "cluster": _clusters, "qat": _sqnr}[name](file, extra)
    # Ops that stay float are broken promises too, of the export; the table counts them.
    problems += [text for text in file.receipts[-1].lost if not text.startswith("ops that compute in float")]
    status = "FAIL" if problems else "ok"
    return Cell(status, figure, len(extra.get("float_ops", ())), message="; ".join(dict.fromkeys(problems)))


def _zeros(file: FileReport, extra: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The least share of zeros of the kernels that the pass says it has pruned."""
    patterns = [claim["tensors"] for claim in extra.get("claims", ()) if claim["quantity"] == "sparsity"]
    rows = [row for row in file.receipts[-1].tensors if any(fnmatchcase(row.name, pattern) for pattern in patterns)]
    problems = [f"{row.name} is not in the file" for row in rows if row.sparsity_now is None]
    shares = {row.name: row.sparsity_now for row in rows if row.sparsity_now is not None}
    if len(rows) < max(1, len(patterns)):
        problems.append(f"the pass has pruned {len(patterns)} kernels, {len(rows)} of them are known of the file")
    problems += [f"{kernel} has {share:.1%} zeros" for kernel, share in shares.items() if share < SPARSITY - TOLERANCE]
    return (f"{100 * min(shares.values()):.1f} %" if shares else ""), problems


def _clusters(file: FileReport, _: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The most different values in a channel of the kernels that the pass is to cluster."""
    rows = [row for row in file.receipts[-1].tensors if row.name.rpartition("/")[2] in KERNELS]
    rows = [row for row in rows if math.prod(row.shape) >= ClusterOptions().smallest]
    problems = [f"{row.name} is not in the file" for row in rows if row.unique_per_channel_now is None]
    counts = {row.name: row.unique_per_channel_now for row in rows if row.unique_per_channel_now is not None}
    problems += [f"{kernel} has {count} values in a channel" for kernel, count in counts.items() if count > CLUSTERS]
    return (str(max(counts.values())) if counts else ""), problems if rows else ["no kernel is clustered"]


def _sqnr(file: FileReport, _: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The ratio of signal to noise of the worst output, against the original model."""
    metrics = [metric for metric in file.metrics if metric.name == "sqnr"]
    values = [metric.value for metric in metrics if metric.value is not None]
    problems = [f"output '{metric.subject}': {metric.why_absent}" for metric in metrics if metric.value is None]
    return (f"{min(values):.1f} dB" if values else ""), problems


# ---- TFMOT --------------------------------------------------------------------------------------------------------------


def run_tfmot(case: Case, name: str, work: Path) -> Cell:
    """TFMOT's cell."""
    models, script = work / "models", Path(__file__).with_name("tfmot.py")
    with tempfile.TemporaryDirectory(prefix="pass-coverage-", dir=work) as folder:
        out = Path(folder) / f"{case.name}.tflite"
        command = [sys.executable, str(script), str(case.path(models)), "--steps", name, "--out", str(out)]
        command += ["--train", str(models / f"{case.name}.npz"), "--epochs", f"{name}={EPOCHS}", "--batch", str(BATCH)]
        command += ["--sparsity", str(SPARSITY), "--clusters", str(CLUSTERS)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
        except subprocess.TimeoutExpired:
            return Cell("timeout", message=f"TFMOT had no file after {MINUTES} minutes on this machine")
        try:
            result = json.loads(done.stdout.splitlines()[-1])
            if result["status"] == "refused":
                return Cell("refused", message=f"TFMOT, {result['stage']}: {result['reason']}")
            return Cell("ok", float_ops=len(float_ops(out)))
        except Exception as error:
            message = f"perf/tfmot.py ended with {done.returncode} and gave no result ({type(error).__name__}: {error})"
            return Cell("FAIL", message=message, trace=done.stderr[-3000:])


# ---- running ------------------------------------------------------------------------------------------------------------


def run_all(
    cases: Sequence[Case], passes: Sequence[str], sides: Sequence[str], work: Path, jobs: int, redo: Sequence[str]
) -> None:
    """Run what has no result in `work/pass_cells` (or one whose status is in `redo`)."""
    units = [(case, name, side) for case in cases for name in passes for side in sides]

    def is_due(case: Case, name: str, side: str) -> bool:
        cells = [load_cell(work, case.name, name, column) for column in SIDES[side]]
        return any(cell is None or cell.status in redo for cell in cells)

    todo = [unit for unit in units if is_due(*unit)]
    done = len(units) - len(todo)

    def work_on(unit: tuple[Case, str, str]) -> None:
        nonlocal done
        case, name, side = unit
        begin = time.monotonic()
        cells = run_ours(case, name, work) if side == "ours" else {"tfmot": run_tfmot(case, name, work)}
        seconds = round(time.monotonic() - begin, 1)
        for column, cell in cells.items():
            text = json.dumps(asdict(replace(cell, seconds=seconds)), indent=1)
            part = cell_file(work, case.name, name, column).with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(part.with_suffix(".json"))
        done += 1
        results = "; ".join(f"{COLUMNS[to]} {describe(cell)} {cell.message[:200]}".strip() for to, cell in cells.items())
        print(f"[{done}/{len(units)}] {case.name} {name}: {results}, {seconds:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work_on, todo))


def cell_file(work: Path, model: str, name: str, column: str) -> Path:
    """Where the result of a cell is kept."""
    return work / "pass_cells" / f"{model}.{name}.{column}.json"


def load_cell(work: Path, model: str, name: str, column: str) -> Cell | None:
    """The stored result of a cell, None if there is none."""
    file = cell_file(work, model, name, column)
    return Cell(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


# ---- the page -----------------------------------------------------------------------------------------------------------


def describe(cell: Cell) -> str:
    """A cell's text without its footnote."""
    if cell.status == "timeout":
        return f"over {MINUTES} min"
    if cell.status != "ok":
        return cell.status
    return " ".join(filter(None, ["ok", cell.figure, f"({cell.float_ops})" if cell.float_ops else ""]))


def page(cases: Sequence[Case], passes: Sequence[str], work: Path, command: str) -> str:
    """The whole reference page as Markdown."""
    notes: dict[str, int] = {}
    columns = [(name, column) for name in passes for column in COLUMNS]
    titles = " | ".join(f"{name}, {COLUMNS[column]}" for name, column in columns)
    lines = [f"| model | {titles} |", "|---|" + "---|" * len(columns)]
    for case in cases:
        texts = []
        for name, column in columns:
            cell = load_cell(work, case.name, name, column)
            text = "-" if cell is None else describe(cell)
            if cell is not None and cell.message:
                text += f" [{notes.setdefault(coverage._plain(cell.message), len(notes) + 1)}]"
            texts.append(text)
        lines.append(f"| {case.title} | " + " | ".join(texts) + " |")
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    introduction = _INTRODUCTION.format(
        samples=SAMPLES,
        batch=BATCH,
        steps=-(-SAMPLES // BATCH),
        sparsity=SPARSITY,
        clusters=CLUSTERS,
        minutes=MINUTES,
        command=command,
        versions=f"{versions}, Python {platform.python_version()}, {platform.machine()}",
    )
    reasons = [f"{number}. {text}" for text, number in notes.items()]
    parts = [introduction, "\n".join(lines), *(["## Refusals and failures", "\n".join(reasons)] if reasons else [])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_INTRODUCTION = """\
# Which pass works on which model

Generated by `perf/pass_coverage.py`; do not edit. Every model went through each pass alone, by Edgewright and by TensorFlow
Model Optimization (TFMOT): `prune` to {sparsity:.0%} zeros, `cluster` to {clusters} values, `qat`. A pass trained one epoch on
{samples} samples without labels, {steps} steps of {batch}, to give the original's own outputs; then int8 files were written. The
models are those of [what converts](coverage.md), with random weights: the table shows what a tool can do with an architecture,
and not how good the result is, for which {steps} steps are too few; `perf/compression.py` measures that on trained models.

"ok" of TFLite and OpenVINO, Edgewright's files, has a figure that was read back from the file or measured on it:

- prune: share of zeros of the pruned kernel that has the fewest. Depthwise kernels are not pruned.
- cluster: different values in one output channel of the kernel that has the most. Kernels of fewer than 64 values are left out.
- qat: signal-to-quantization-noise ratio over the {samples} samples against the original model, of the worst output.

TFMOT works on tf_keras and writes no OpenVINO files. `perf/tfmot.py` rebuilds the model there with the same weights, and
TFLiteConverter writes the file. "ok" says that there is one, what it holds is not checked here; a cell has {minutes} minutes.

The number in parentheses counts the ops that a file still computes in float32. "refused" is an error message in the place of a
file, with its reason below. "FAIL" is a defect: an exception, or a file without what the pass promises. "-" was not run.

Command: `{command}`

Versions: {versions}"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(CASES), action="append", metavar="MODEL", help="only this model; repeatable")
    parser.add_argument("--passes", choices=list(PASSES), nargs="+", default=list(PASSES), help="only these passes")
    parser.add_argument("--side", choices=list(SIDES), action="append", help="only this side")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-pass-coverage", help="results")
    parser.add_argument("--redo", default="", metavar="STATUS", help="run these again: FAIL, refused, timeout, ok; with commas")
    parser.add_argument("--fresh", action="store_true", help="forget all results and trained models first")
    parser.add_argument("--out", type=Path, help="write the page here; without it, it is printed")
    return parser


def main() -> int:
    """Run what is missing and write the page; 1 if one of our cells failed."""
    args = _parser().parse_args()
    cases, work = [CASES[name] for name in args.only] if args.only else list(CASES.values()), args.work.resolve()
    for name in ("pass_cells", "cache") if args.fresh else ():
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "pass_cells").mkdir(parents=True, exist_ok=True)
    coverage.build_models(cases, work / "models", args.jobs)
    run_all(cases, args.passes, args.side or list(SIDES), work, args.jobs, args.redo.split(","))
    text = page(cases, args.passes, work, ".venv/bin/python perf/pass_coverage.py --out docs/reference/pass_coverage.md")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    failed = False
    for case, name, column in [(case, name, column) for case in cases for name in args.passes for column in COLUMNS]:
        cell = load_cell(work, case.name, name, column)
        if cell is None or cell.status != "FAIL":
            continue
        print(f"FAIL {case.name} {name} {COLUMNS[column]}: {cell.message}\n{cell.trace}", file=sys.stderr)
        if column in OURS:
            failed, stem = True, work / "models" / case.name
            files = f"{case.path(stem.parent)} -r {recipe_file(work, name)} -s {stem}.npz"
            print(f".venv/bin/edgewright -v compress {files} --to {column} --exact --no-bench -o out\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
