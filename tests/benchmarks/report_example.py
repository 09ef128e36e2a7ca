"""Reports made by hand that look like real ones: what the renderers are tested on and looked at with.

`python tests/benchmarks/report_example.py FOLDER` writes each as HTML, CSV and Markdown.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from edgewright.benchmarks.accuracy import wilson_interval
from edgewright.report import (
    CompressReport,
    FileReport,
    Flip,
    Flips,
    GroupChange,
    Histogram,
    Metric,
    Promise,
    Receipt,
    TensorReceipt,
)

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("jumping_jacks", "situps", "dumbbell_rows", "pushups", "squats", "lateral_raises", "lunges")
WINDOWS = 1491
PER_CLASS = (203, 241, 198, 224, 217, 189, 219)
ORIGINAL_RECALL = (0.961, 0.942, 0.826, 0.879, 0.922, 0.741, 0.858)
SUBJECTS = (("8", 498, 0.8734), ("9", 501, 0.9441), ("10", 492, 0.8139))
PAIRED = "95 % bootstrap, paired"
VERSIONS = {"tensorflow": "2.20.0", "ai-edge-quantizer": "0.10.1", "numpy": "2.1.3"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wave(seed: int) -> float:
    """A number between -1 and 1 that looks random and is the same everywhere."""
    return math.sin(seed * 12.9898) * 43758.5453 % 2 - 1


# --- one file -------------------------------------------------------------------------------------------------------


def size_metrics(raw: int, deflated: int, zeros: float) -> list[Metric]:
    return [
        Metric("raw_bytes", "bytes", raw),
        Metric("deflated_bytes", "bytes", deflated),
        Metric("parameters", "", 84103),
        Metric("macs", "", 1_204_736, origin="estimated"),
        Metric("sparsity", "share", zeros),
        Metric("smaller", "x", 343664 / raw),
        Metric("deflated_smaller", "x", 311517 / deflated),
    ]


def share(name: str, value: float, change: float | None, spread: float) -> list[Metric]:
    low, high = wilson_interval(value, WINDOWS)
    found = [Metric(name, "share", value, "exercise", WINDOWS, low=low, high=high, interval="95 % Wilson")]
    if change is not None:
        ends = (change - spread, change + 0.8 * spread)
        found.append(Metric(f"{name}_change", "points", change, "exercise", WINDOWS, low=ends[0], high=ends[1], interval=PAIRED))
    return found


def accuracy_metrics(change: float | None, spread: float) -> list[Metric]:
    drop = (change or 0) / 100
    found = share("accuracy", 0.8774 + drop, change, spread)
    found += share("top3_accuracy", 0.9812 + drop / 4, None if change is None else change / 4, spread / 2)
    for name, value in (
        ("balanced_accuracy", 0.8756),
        ("precision_macro", 0.8921),
        ("recall_macro", 0.8756),
        ("f1_macro", 0.8799),
    ):
        found.append(Metric(name, "share", value + 0.9 * drop, "exercise", WINDOWS))
        if change is not None:
            found.append(Metric(f"{name}_change", "points", 0.9 * change, "exercise", WINDOWS))
    found.append(Metric("roc_auc", "share", 0.98873 + drop / 10, "exercise", WINDOWS))
    found.append(Metric("average_precision", "", None, "exercise", why_absent="it is not computed for more than two classes"))
    return found


def fidelity_metrics(sqnr: float, agreement: float, error: float) -> list[Metric]:
    return [
        Metric("sqnr", "dB", sqnr, "exercise", 100),
        Metric("top1_agreement", "share", agreement, "exercise", 100),
        Metric("max_abs_error", "", error, "exercise", 100),
        Metric("mean_abs_error", "", error / 17, "exercise", 100),
        Metric("cosine", "", 1 - error**2 / 60, "exercise", 100),
    ]


def speed_metrics(p50: float, speedup: float | None, rss: int) -> list[Metric]:
    found = [
        Metric("load", "ms", 3.1 * p50 + 1.2, samples=10),
        Metric("import", "ms", 141.0, samples=1),
        Metric("first_inference", "ms", 2.4 * p50, samples=10),
        Metric("latency_p50", "ms", p50, samples=1000, low=0.985 * p50, high=1.022 * p50, interval="95 % order statistics"),
        Metric("latency_p90", "ms", 1.11 * p50, samples=1000, low=1.08 * p50, high=1.16 * p50, interval="95 % order statistics"),
        Metric("latency_p99", "ms", 1.52 * p50, samples=1000, low=1.38 * p50, high=1.81 * p50, interval="95 % order statistics"),
        Metric("latency_mean", "ms", 1.04 * p50, samples=1000),
        Metric("inferences_per_second", "1/s", 961 / p50, samples=1000),
        Metric("peak_rss", "bytes", rss, samples=1),
        Metric("model_rss", "bytes", rss // 31, samples=1),
    ]
    if speedup is not None:
        found.append(Metric("speedup", "x", speedup, samples=1000))
    return found


def no_speed(why: str) -> list[Metric]:
    names = ("latency_p50", "latency_p90", "latency_p99", "inferences_per_second", "peak_rss", "speedup")
    units = ("ms", "ms", "ms", "1/s", "bytes", "x")
    return [Metric(name, unit, None, why_absent=why) for name, unit in zip(names, units, strict=True)]


def latency(p50: float) -> Histogram:
    """A distribution with a long right tail, as latencies have."""
    edges = [0.93 * p50 + 0.02 * p50 * i for i in range(41)]
    counts = []
    for left in edges[:-1]:
        x = (left / p50 - 0.93) / 0.075
        counts.append(round(270 * x * x * math.exp(-x * 1.35) + 22 * math.exp(-(((left / p50 - 1.48) / 0.03) ** 2))))
    return Histogram("ms", tuple(edges), tuple(counts), below=0, above=4)


def groups(change: float, spread: float, seed: int) -> tuple[GroupChange, ...]:
    found = []
    for i, (name, samples, recall) in enumerate(zip(CLASSES, PER_CLASS, ORIGINAL_RECALL, strict=True)):
        delta = 0.0 if spread == 0 else 3.1 * change * (1 + wave(seed * 31 + i)) + 1.3 * wave(seed * 7 + i) * min(1, spread)
        if name == "lateral_raises":
            delta = delta - 5.2 * spread if spread > 0.5 else delta
        found.append(_group("class", "exercise", name, samples, "recall", recall, delta, spread * 2.6, seed + i))
    classes = sorted(found, key=lambda g: g.change or 0)
    slices = [
        _group("slice", "subject", who, n, "accuracy", value, change * (1 + 1.4 * wave(seed + n)), spread * 1.7, seed + n)
        for who, n, value in SUBJECTS
    ]
    tiny = GroupChange("slice", "hand", "left", 3, "accuracy", "share", None, None)
    return (*classes, *sorted(slices, key=lambda g: g.change or 0), tiny)


def _group(
    kind: str, group: str, value: str, samples: int, metric: str, original: float, change: float, spread: float, seed: int
) -> GroupChange:
    change = round(change * samples / 100) * 100 / samples
    fixed = 0 if spread == 0 else round(1 + abs(wave(seed)) * 2)
    broken = max(0, fixed - round(change * samples / 100))
    low, high = (0.0, 0.0) if spread == 0 else (change - spread, change + 0.9 * spread)
    now = original + change / 100
    return GroupChange(kind, group, value, samples, metric, "share", original, now, change, low, high, broken, fixed)  # type: ignore[arg-type]


def flips(broken: int, fixed: int, neither: int, seed: int, listed: int = 200) -> Flips:
    found = []
    for i in range(broken + fixed + neither):
        effect = "broken" if i < broken else "fixed" if i < broken + fixed else "neither"
        right = CLASSES[(i * 5 + seed) % 7]
        wrong, other = CLASSES[(i * 5 + seed + 1 + i % 3) % 7], CLASSES[(i * 5 + seed + 5) % 7]
        before, now = {"broken": (right, wrong), "fixed": (wrong, right), "neither": (wrong, other)}[effect]
        sure = 0.52 + 0.4 * abs(wave(seed + i)) * (1 - i / (broken + fixed + neither + 1))
        index = (i * 211 + seed * 17) % WINDOWS
        slices = {"subject": str(8 + i % 3), "hand": "left" if i % 97 == 0 else "right"}
        found.append(Flip("exercise", index, right, before, now, effect, sure, 0.5 + 0.3 * abs(wave(i)), slices))  # type: ignore[arg-type]
    return Flips(WINDOWS, broken, fixed, neither, tuple(found[:listed]))


TENSORS = (
    ("conv1d/kernel", (5, 6, 32)),
    ("conv1d/bias", (32,)),
    ("conv1d_1/kernel", (5, 32, 64)),
    ("conv1d_1/bias", (64,)),
    ("conv1d_2/kernel", (3, 64, 96)),
    ("conv1d_2/bias", (96,)),
    ("conv1d_3/kernel", (3, 96, 128)),
    ("conv1d_3/bias", (128,)),
    ("batch_normalization/gamma", (96,)),
    ("batch_normalization/beta", (96,)),
    ("batch_normalization_1/gamma", (128,)),
    ("batch_normalization_1/beta", (128,)),
    ("dense/kernel", (128, 64)),
    ("dense/bias", (64,)),
    ("dense_1/kernel", (64, 7)),
    ("dense_1/bias", (7,)),
)


def receipt(format: str, bits: int, broken: str = "") -> Receipt:
    tensors = []
    for name, shape in sorted(TENSORS, key=lambda t: -math.prod(t[1])):
        size = math.prod(shape)
        weight = name.endswith("kernel")
        now = bits if weight else 32
        unique = min(size, {8: 255, 16: 4096}.get(now, size))
        lost = broken if broken and name == "dense_1/kernel" else ""
        folded = name.startswith("batch_normalization/")
        tensors.append(
            TensorReceipt(
                name,
                "" if folded else name.replace("/", ";"),
                shape,
                () if folded else (shape[-1], *shape[:-1]) if weight else shape,
                32,
                None if folded else now,
                0.0,
                None if folded else 0.0034 if weight and bits == 8 else 0.0,
                size,
                None if folded else unique,
                size // shape[-1] if weight else size,
                None if folded else min(unique, size // shape[-1]) if weight else size,
                not lost,
                lost,
            )
        )
    step = f"export:{format}"
    kernels = sum(name.endswith("kernel") for name, _ in TENSORS)
    found = kernels - 1 if broken else kernels
    promises = (
        Promise(
            step,
            f"weights are stored in {bits} bits",
            f"{bits} bits in {kernels} of {kernels} tensors",
            f"{bits} bits in {found} of {kernels} tensors",
            not broken,
            broken,
        ),
        Promise(
            step, "inputs and outputs keep name, order, shape and type", "imu float32[1, 100, 6]", "imu float32[1, 100, 6]", True
        ),
        Promise(step, "biases are not touched", "8 float tensors", "8 float tensors", True),
    )
    return Receipt(step, promises, tuple(tensors), (Metric("sparsity", "share", 0.0021),))


def lineage(recipe: str, format: str, name: str) -> tuple[dict[str, object], ...]:
    return (
        {
            "step": "freeze",
            "options": {"batch": 1, "batch_norm": "fold"},
            "parent_sha256": digest("watch.keras"),
            "versions": {"tensorflow": "2.20.0"},
        },
        {
            "step": f"export:{format}",
            "options": {"precision": recipe, "io": "float32", "calibration": {"samples": 256, "method": "min_max"}},
            "parent_sha256": digest("frozen"),
            "versions": VERSIONS if format == "tflite" else {"openvino": "2026.0.0", "nncf": "3.4.0"},
        },
    )


def result(
    recipe: str,
    format: str,
    sizes: tuple[int, int, float],
    quality: tuple[float, float, float, float, float],
    speed: tuple[float, float, int],
    flipped: tuple[int, int, int],
) -> FileReport:
    change, spread, sqnr, agreement, error = quality
    name = f"watch_{recipe}.{'tflite' if format == 'tflite' else 'xml'}"
    seed = len(recipe) + 3 * len(format)
    computed = {"int8": "int8" if format == "tflite" else "mixed: int8, float32"}.get(recipe, "float32")
    bits = {"float16": 16}.get(recipe, 8)
    broken = (
        "the layer is the model's last and stays float: its output feeds softmax"
        if (recipe, format) == ("int8", "openvino")
        else ""
    )
    metrics = [*size_metrics(*sizes), *accuracy_metrics(change, spread), *fidelity_metrics(sqnr, agreement, error)]
    return FileReport(
        name,
        "file",
        f"out/{name}",
        format,
        digest(name),
        recipe,
        recipe,
        "LiteRT 2.3.0" if format == "tflite" else "OpenVINO 2026.0.0",
        computed,
        "CPU",
        (*metrics, *speed_metrics(*speed)),
        groups(change, spread, seed),
        flips(*flipped, seed),
        latency(speed[0]),
        (receipt(format, bits, broken),),
        lineage(recipe, format, name),
        ("OpenVINO computes the last layer, dense_1, and softmax in float32",) if broken else (),
    )


def original_file() -> FileReport:
    why = "no engine of the runtime runs a Keras file; the baseline is the same model"
    metrics = [m for m in size_metrics(416687, 321892, 0.0) if "smaller" not in m.name]
    metrics += [*accuracy_metrics(None, 0), *no_speed(why)]
    return FileReport(
        "watch.keras", "original", "edgewright/demo_data/watch.keras", "keras", digest("watch.keras"),
        engine="TensorFlow 2.20.0", computed_in="float32", device="CPU", metrics=tuple(metrics),
    )  # fmt: skip


def baseline_file(engine: str = "LiteRT 2.3.0", p50: float = 0.1874) -> FileReport:
    metrics = [*size_metrics(343664, 311517, 0.0), *accuracy_metrics(0.0, 0.0), *fidelity_metrics(136.6, 1.0, 3.4e-7)]
    metrics += [m for m in speed_metrics(p50, None, 24_117_248) if m.name != "speedup"]
    name = "watch_float32.tflite"
    return FileReport(
        name, "baseline", "", "tflite", digest(name), "", "float32", engine, "float32", "CPU",
        tuple(metrics), groups(0.0, 0.0, 1), Flips(WINDOWS), latency(p50), (), lineage("float32", "tflite", name)[:1],
    )  # fmt: skip


def example() -> CompressReport:
    """The wearable-IMU classifier in six files, within the limit, one promise broken."""
    openvino_int8 = result(
        "int8", "openvino", (160947, 91758, 0.0021), (-0.20, 0.55, 34.3, 0.99, 0.0713), (0.0713, 2.63, 71_303_168), (11, 8, 2)
    )
    files = (
        original_file(),
        baseline_file(),
        baseline_file("OpenVINO 2026.0.0", 0.1875),
        result(
            "float16", "tflite", (180000, 156678, 0.0), (0.0, 0.0, 72.1, 1.0, 0.00061), (0.1881, 0.9963, 24_182_784), (0, 0, 0)
        ),
        result(
            "dynamic", "tflite", (101232, 84410, 0.0), (0.07, 0.38, 41.9, 0.99, 0.0214), (0.1412, 1.327, 23_986_176), (5, 6, 1)
        ),
        result(
            "int8", "tflite", (112784, 90637, 0.0021), (-0.27, 0.76, 35.6, 0.99, 0.0598), (0.0876, 2.139, 23_724_032), (14, 10, 3)
        ),
        result(
            "float16", "openvino", (232518, 159934, 0.0), (0.0, 0.0, 71.8, 1.0, 0.00064), (0.0931, 2.013, 74_448_896), (0, 0, 0)
        ),
        result(
            "dynamic", "openvino", (147308, 86551, 0.0), (0.0, 0.31, 42.4, 1.0, 0.0207), (0.0952, 1.968, 73_400_320), (4, 4, 1)
        ),
        openvino_int8,
    )
    lost = tuple(f"{openvino_int8.name}: {text}" for text in openvino_int8.receipts[0].lost)
    return CompressReport(
        "watch.keras",
        "classification",
        "accuracy",
        files,
        recipes(),
        {
            "calibration": "watch_calib.npz: 256 windows of 100 samples and 6 channels, subjects 1 to 6",
            "evaluation": "watch_test.npz: 1,491 windows, subjects 8, 9 and 10, labels y:exercise, slices subject and hand",
        },
        settings(),
        environment(),
        max_drop=1.0,
        passed=True,
        lost=lost,
        warnings=(
            "the evaluation data has three subjects; intervals treat its windows as independent, which they are not",
            "the CPU's frequency was not fixed: p99 may hold the governor's steps",
        ),
    )


def recipes() -> dict[str, object]:
    texts = {
        "float16": "weights in float16, computed in float32",
        "dynamic": "weights in int8, activations quantized while running",
        "int8": "weights and activations in int8, calibrated",
    }
    return {
        name: {
            "name": name,
            "title": name,
            "about": about,
            "to": ["tflite", "openvino"],
            "source": f"{name}.toml",
            "steps": [
                {"step": "lower", "options": {}, "origins": {}},
                {
                    "step": "export",
                    "options": {"precision": name, "io": "float32", "per_channel": name == "int8"},
                    "origins": {"precision": f"{name}.toml", "per_channel": "-O export.per_channel"},
                },
            ],
        }
        for name, about in texts.items()
    }


def settings() -> dict[str, object]:
    return {
        "recipe": {"value": ["float16", "dynamic", "int8"], "from": "commandline"},
        "to": {"value": ["tflite", "openvino"], "from": "commandline"},
        "samples": {"value": "watch_calib.npz", "from": "commandline"},
        "eval": {"value": "watch_test.npz", "from": "commandline"},
        "max_drop": {"value": 1.0, "from": "edgewright.toml"},
        "seed": {"value": 0, "from": "default"},
        "bench": {"value": True, "from": "EDGEWRIGHT_BENCH"},
        "memory_limit": {"value": None, "from": "default"},
    }


def environment() -> dict[str, object]:
    return {
        "measured_at": "2026-09-14T10:22:31Z",
        "machine": {
            "system": "Linux",
            "release": "6.1.0-26-amd64",
            "architecture": "x86_64",
            "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cores": 2,
            "memory_bytes": 25276510208,
            "hostname": "bench-02",
        },
        "python": "3.11.2",
        "packages": {"edgewright": "0.1.0", "ai-edge-litert": "2.3.0", "openvino": "2026.0.0", "tensorflow": "2.20.0"},
    }


# --- variants -------------------------------------------------------------------------------------------------------


def disturbed(file: FileReport) -> FileReport:
    """A file that was measured while other work ran: a tail so long that its p99 lies outside the histogram."""
    edges = tuple(0.066 + 0.031 * i for i in range(41))
    counts = (611, 240, 60, 31, 12, 9, *(3 for _ in range(34)))
    metrics = tuple(replace(m, value=1.62, low=0.3, high=4.9) if m.name == "latency_p99" else m for m in file.metrics)
    return replace(file, latency=Histogram("ms", edges, counts, above=5), metrics=metrics)


def broken_budget() -> CompressReport:
    """The same run with a limit that two files break, long lists of flips, and a disturbed measurement."""
    report = example()
    files = list(report.files)
    files[5] = result(
        "int8", "tflite", (112784, 90637, 0.0021), (-2.41, 0.91, 21.4, 0.93, 0.31), (0.0876, 2.139, 23_724_032), (331, 71, 29)
    )
    files[8] = result(
        "int8", "openvino", (160947, 91758, 0.0021), (-1.34, 0.83, 24.0, 0.95, 0.24), (0.0713, 2.63, 71_303_168), (61, 41, 9)
    )
    files[8] = disturbed(files[8])
    failures = (
        "watch_int8.tflite: accuracy fell by 2.41 points (95 % interval 1.68 to 3.32), the limit is 1.00",
        "watch_int8.xml: accuracy fell by 1.34 points (95 % interval 0.68 to 2.17), the limit is 1.00",
    )
    return replace(
        report,
        files=tuple(files),
        passed=False,
        failures=failures,
        failed=("watch_int16x8.tflite: the op ERF has no int16 kernel",),
    )


def regression() -> CompressReport:
    """Two outputs, no flips, errors instead of accuracies; not benchmarked on a machine with an engine for OpenVINO."""

    def file(name: str, role: str, recipe: str, raw: int, factor: float | None) -> FileReport:
        metrics = [
            Metric("raw_bytes", "bytes", raw),
            Metric("deflated_bytes", "bytes", int(raw * 0.83)),
            Metric("smaller", "x", 88412 / raw),
        ]
        for output, mae in (("remaining_hours", 11.87), ("health", 0.03112)):
            now = mae * (1 + (factor or 0) / 100)
            metrics.append(
                Metric(
                    "mae",
                    "h" if output == "remaining_hours" else "",
                    now,
                    output,
                    620,
                    low=0.94 * now,
                    high=1.07 * now,
                    interval="95 % bootstrap",
                )
            )
            metrics.append(Metric("rmse", "h" if output == "remaining_hours" else "", 1.4 * now, output, 620))
            metrics.append(Metric("r2", "", 0.9312 - (factor or 0) / 1000, output, 620))
            if factor is not None:
                metrics.append(
                    Metric("mae_change", "%", -factor, output, 620, low=-factor - 0.9, high=-factor + 0.7, interval=PAIRED)
                )
                metrics.append(Metric("r2_change", "%", -factor / 11, output, 620))
                metrics.append(Metric("sqnr", "dB", 48.2 - 3 * factor, output, 100))
        metrics += no_speed("the run was asked not to measure speed (--no-bench)")
        return FileReport(
            name,
            role,
            "",
            name.rpartition(".")[2],
            digest(name),
            recipe,
            recipe,
            "LiteRT 2.3.0",
            "float32",
            "CPU",
            tuple(metrics),
        )  # type: ignore[arg-type]

    files = (
        file("bearing.onnx", "original", "", 88412, None),
        file("bearing_float32.tflite", "baseline", "", 87120, 0.0),
        file("bearing_float16.tflite", "file", "float16", 45980, 0.02),
        file("bearing_int8.tflite", "file", "int8", 28114, 1.84),
    )
    return CompressReport("bearing.onnx", "regression", "mae", files, max_drop=5.0, passed=True, environment=environment())


def bare() -> CompressReport:
    """No evaluation data, no benchmark, no limit: sizes only, and the reasons."""
    why_eval = "there is no evaluation data (--eval)"
    why_bench = "the run was asked not to measure speed (--no-bench)"

    def file(name: str, role: str, recipe: str, raw: int) -> FileReport:
        metrics = [
            Metric("raw_bytes", "bytes", raw),
            Metric("deflated_bytes", "bytes", int(raw * 0.9)),
            Metric("accuracy", "share", None, why_absent=why_eval),
            Metric("sqnr", "dB", math.inf if role == "baseline" else 41.3, "y", 100),
            Metric("cosine", "", None, "y", why_absent="an output is constant"),
            *no_speed(why_bench),
        ]
        return FileReport(
            name, role, "", name.rpartition(".")[2], digest(name), recipe, recipe, "", "unknown", "", tuple(metrics)
        )  # type: ignore[arg-type]

    files = (
        file("m.keras", "original", "", 90211),
        file("m_float32.tflite", "baseline", "", 80124),
        file("m_int8.tflite", "file", "int8", 22508),
    )
    return CompressReport("m.keras", "", "", files)


def hostile() -> CompressReport:
    """Every text that comes from outside is an attack or far too long; unknown metrics and formats."""
    report = example()
    long = "a_file_name_that_somebody_generated_from_all_hyper_parameters_" * 3 + "lr=0.001,wd=1e-4.tflite"
    evil = f"{HOSTILE}\"'><img src=x onerror=alert(2)>|`*_[x](javascript:alert(3))\u202e\udcff\n--></script>"
    int8 = report.files[5]
    bad = replace(
        int8,
        name=evil,
        recipe=HOSTILE,
        format="hostile",
        sha256=evil,
        engine=evil,
        computed_in=evil,
        groups=tuple(replace(g, value=f"{evil} {g.value}", group=evil if g.kind == "slice" else g.group) for g in int8.groups),
        flips=replace(
            int8.flips or Flips(),
            listed=tuple(
                replace(f, label=evil, original=evil, file=HOSTILE, slices={evil: evil}) for f in (int8.flips or Flips()).listed
            ),
        ),
        metrics=(
            *int8.metrics,
            Metric(f"strange_{HOSTILE}", evil, 1.5, evil, 3),
            Metric("energy_per_inference", "mJ", None, why_absent=evil),
            Metric("energy_per_frame", "mJ", 0.0004137, samples=12, origin="estimated"),
        ),
        receipts=tuple(
            replace(
                r,
                step=evil,
                promises=tuple(replace(p, what=evil, promised=evil, found=evil, kept=False, why=evil) for p in r.promises),
                tensors=tuple(replace(t, name=evil, lost=evil, kept=False) for t in r.tensors),
            )
            for r in int8.receipts
        ),
        lineage=({"step": evil, "options": {evil: evil}, "parent_sha256": evil, "versions": {evil: evil}},),
        warnings=(evil,),
    )
    return replace(
        report,
        title=evil,
        task=evil,
        files=(*report.files[:3], replace(report.files[3], name=long), bad, *report.files[6:]),
        recipes={evil: {evil: {"value": evil, "from": evil}}},
        data={evil: evil},
        settings={evil: {"value": [evil], "from": evil}},
        environment={evil: evil},
        failures=(evil,),
        failed=(evil,),
        lost=(evil,),
        warnings=(evil,),
        passed=False,
    )


REPORTS = {"example": example, "broken": broken_budget, "regression": regression, "bare": bare, "hostile": hostile}


def main() -> None:
    import sys
    from pathlib import Path

    from edgewright.benchmarks import report_html, report_text

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    bundle = report_html.javascript_bundle(folder)
    for name, make in REPORTS.items():
        report = make()
        (folder / f"{name}.html").write_text(report_html.render_html(report, bundle), encoding="utf-8")
        (folder / f"{name}.csv").write_text(report_text.render_csv(report), encoding="utf-8")
        (folder / f"{name}.md").write_text(report_text.render_markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
