"""Figures as text: value with unit, interval, what a change means; the same words in every form of a report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from edgewright.report import FileReport, Metric

__all__ = [
    "base_of",
    "change_meaning",
    "change_of",
    "family_of",
    "human_bytes",
    "interval_in",
    "interval_text",
    "is_change",
    "lower_is_better",
    "number_in",
    "plain_number",
    "printable",
    "short_digest",
    "short_names",
    "title_of",
    "typeset",
    "unit_title",
    "value_in",
    "value_text",
]

_TITLES = {
    "arena_bytes": "Tensor arena",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "cosine": "Cosine similarity",
    "deflated_bytes": "Size, deflated",
    "deflated_smaller": "Times smaller, deflated",
    "energy_per_inference": "Energy per inference",
    "energy_per_inference_estimate": "Energy per inference, ESTIMATE",
    "energy_per_inference_gross": "Energy per inference, with idle power",
    "exact_match": "Exact match",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "first_inference": "First inference",
    "import": "Import of the engine",
    "inferences_per_second": "Inferences per second",
    "latency_after_idle": "Latency after idle",
    "latency_iqr": "Latency, middle half",
    "latency_jitter": "Jitter (p99 - p50)",
    "latency_mean": "Latency, mean",
    "load": "Load of the model",
    "macs": "Multiply-adds (MACs)",
    "map": "Mean average precision",
    "map_50": "Mean average precision at IoU 0.50",
    "map_75": "Mean average precision at IoU 0.75",
    "recall_100": "Recall with 100 boxes",
    "mae": "Mean absolute error",
    "max_abs_error": "Largest deviation of an output",
    "mean_abs_error": "Mean deviation of the outputs",
    "model_rss": "Memory of the model",
    "peak_rss": "Peak memory of the process",
    "power_active": "Power while it infers",
    "power_idle": "Power while idle",
    "precision_macro": "Precision, macro",
    "r2": "R²",
    "raw_bytes": "Size",
    "recall_macro": "Recall, macro",
    "rmse": "Root mean square error",
    "roc_auc": "ROC AUC",
    "smaller": "Times smaller",
    "sparsity": "Zeros among the weights",
    "speedup": "Speed-up",
    "sqnr": "SQNR",
    "top1_agreement": "Same top class",
}
_FAMILIES = {
    "Size": {"raw_bytes", "deflated_bytes", "smaller", "deflated_smaller", "parameters", "macs", "sparsity"},
    "Accuracy": {
        *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "exact_match"),
        *("roc_auc", "average_precision", "mae", "rmse", "r2"),
        *("map", "map_50", "map_75", "recall_100"),
    },
    "Fidelity": {"sqnr", "top1_agreement", "max_abs_error", "mean_abs_error", "cosine"},
    "Speed": {"load", "import", "first_inference", "inferences_per_second", "speedup"},
    "Memory": {"peak_rss", "model_rss", "arena_bytes"},
    "Energy": {
        *("energy_per_inference", "energy_per_inference_gross", "energy_per_inference_estimate"),
        *("power_active", "power_idle"),
    },
}
_ERRORS = {"mae", "rmse", "mse", "max_abs_error", "mean_abs_error"}
_COSTS = ("_bytes", "_rss", "_joules")
_TIMES = {"s", "ms", "us", "ns", "1/s"}
_COST_NAMES = {"load", "import", "first_inference", "parameters", "macs"}


def value_text(metric: Metric) -> str:
    """A metric's value with its unit; "-" where there is none (the reason is `metric.why_absent`)."""
    return "-" if metric.value is None else value_in(metric.value, metric.unit, signed=is_change(metric.name))


def value_in(value: float, unit: str, *, signed: bool = False) -> str:
    """A value with its unit: shares as per cent, bytes with separators, times with three digits.

    Args:
        value: in the unit.
        unit: as in `Metric`.
        signed: whether a plus is written before positive values; points always have their sign.
    """
    shown = {"bytes": "B", "share": "%", "1/s": "/s"}.get(unit, unit)
    return f"{number_in(value, unit, signed=signed)} {shown}".rstrip()


def number_in(value: float, unit: str, *, signed: bool = False) -> str:
    """The number of `value_in`, without the unit."""
    signed = signed or unit == "points"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "-∞" if value < 0 else "+∞" if signed else "∞"
    text = _digits(value, unit) if abs(value) < 1e15 else f"{value:.3e}"
    if text.lstrip("-").strip("0.,") == "":
        return text.lstrip("-")
    return f"+{text}" if signed and value > 0 else text


def _digits(value: float, unit: str) -> str:
    """As many digits as the unit makes sense of; a value that is not a round one is never rounded to it."""
    if unit == "share":
        return _not_rounded_to(100 * value, 2, {0.0, 100.0})
    if unit in {"points", "%"}:
        return _not_rounded_to(value, 2, {0.0, 100.0})
    if unit == "dB":
        return f"{value:,.1f}"
    if unit == "x":
        return (
            f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
            if abs(value) >= 0.1
            else _significant(value, 2)
        )
    if unit in _TIMES:
        return _significant(value, 3)
    if unit == "bytes" or (value == int(value) and abs(value) < 1e15):
        return f"{value:,.0f}"
    # 0.99997 is not 1.000; what differs only in the tenth digit is, to all who read it.
    digits = next((n for n in range(4, 10) if float(f"{value:.{n - 1}e}") not in {1.0, -1.0}), 4)
    return _significant(value, digits)


def _not_rounded_to(value: float, decimals: int, ends: set[float]) -> str:
    """Fixed decimals; more of them where fewer would show an end (0 or 100 per cent) that the value does not have."""
    while decimals < 8 and value not in ends and round(value, decimals) in ends:
        decimals += 1
    return f"{value:,.{decimals}f}"


def _significant(value: float, digits: int) -> str:
    """Three or four significant digits without exponent; whole numbers keep all of theirs."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    magnitude = math.floor(math.log10(abs(rounded)))
    if not -5 <= magnitude < 15:
        return f"{value:.{digits - 1}e}"  # not 0.0000001230: the zeros cannot be counted
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def interval_in(low: float, high: float, unit: str, *, signed: bool = False) -> str:
    """Both ends of an interval and their unit: "85.97 to 89.32 %"."""
    return f"{number_in(low, unit, signed=signed)} to {value_in(high, unit, signed=signed)}"


def interval_text(metric: Metric, *, method: bool = True) -> str:
    """A metric's interval: "85.97 to 89.32 % (95 % Wilson)"; empty if it has none.

    Args:
        metric: the figure.
        method: whether level and method are named.
    """
    if metric.low is None or metric.high is None:
        return ""
    ends = interval_in(metric.low, metric.high, metric.unit, signed=is_change(metric.name))
    return f"{ends} ({metric.interval})" if method and metric.interval else ends


def change_meaning(value: float | None, low: float | None, high: float | None) -> str:
    """What the interval of a change says, in words; empty where there is no interval.

    Changes are given so that negative is worse, whatever the metric.
    """
    if value is None or low is None or high is None:
        return ""
    if value == low == high == 0:
        return "no change"
    if low <= 0 <= high:
        return "not significant"
    return "significantly worse" if high < 0 else "significantly better"


def change_of(file: FileReport, name: str, subject: str = "") -> Metric | None:
    """The change of a metric against the original; None if there is no such metric."""
    return file.metric(f"{name}_change", subject)


def human_bytes(value: float) -> str:
    """A size in binary units with three digits: "110 KiB"."""
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 999.5 or unit == "GiB":
            break
    return f"{_significant(value, 3)} {unit}"


def base_of(name: str) -> str:
    """The metric that a change is the change of; the name itself if it is no change."""
    return name.removesuffix("_change")


def is_change(name: str) -> bool:
    """Whether a metric of this name compares with the original, so that its sign matters."""
    return name.endswith("_change")


def family_of(name: str) -> str:
    """Which part of a data sheet a metric belongs to: Size, Accuracy, Fidelity, Speed, Memory, Energy or Other."""
    name = base_of(name)
    for family, names in _FAMILIES.items():
        if name in names:
            return family
    if re.fullmatch(r"top\d+_accuracy", name):
        return "Accuracy"
    if name.startswith("latency_"):
        return "Speed"
    return "Memory" if name.endswith("_rss") else "Other"


def lower_is_better(name: str) -> bool:
    """Whether smaller values of a metric are better: errors, sizes, times."""
    return not is_change(name) and (
        name in _ERRORS | _COST_NAMES or name.endswith((*_COSTS, "_error")) or name.startswith(("latency_", "energy_", "power_"))
    )


def title_of(name: str) -> str:
    """A metric's name in words; names that are not known here have their underscores replaced."""
    if is_change(name):
        return f"{title_of(base_of(name))}, change"
    if name in _TITLES:
        return _TITLES[name]
    if found := re.fullmatch(r"top(\d+)_accuracy", name):
        return f"Top-{found[1]} accuracy"
    if found := re.fullmatch(r"latency_(p\d+)", name):
        return f"Latency {found[1]}"
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def typeset(text: str) -> str:
    """A figure as it is printed: with a true minus sign, and a multiplication sign for "x"."""
    return re.sub(r"(?<=\d) x\b", "×", re.sub(r"(?<![\w.])-(?=[\d∞])", "−", text))


def unit_title(unit: str) -> str:
    """A unit as it stands behind a figure or an axis title; empty for plain numbers."""
    return {"share": "%", "bytes": "B", "1/s": "/s", "points": "points"}.get(unit, unit)


def short_digest(sha256: str) -> str:
    """The first twelve digits of a digest."""
    return sha256[:12]


def short_names(files: Iterable[FileReport]) -> tuple[str, ...]:
    """A short name per file, for labels and table heads: recipe and format, or role; the engine too where needed."""
    files = tuple(files)
    short = [_short_name(file) for file in files]
    if len(set(short)) < len(short):
        engines = [file.engine.partition(" ")[0] for file in files]
        short = [
            f"{name} {engine}" if short.count(name) > 1 and engine else name for name, engine in zip(short, engines, strict=True)
        ]
    return tuple(name if short.count(name) == 1 else file.name for name, file in zip(short, files, strict=True))


def _short_name(file: FileReport) -> str:
    if file.role == "file":
        return f"{file.recipe} {file.format}" if file.recipe else file.name
    return file.role


def printable(text: str) -> str:
    """A text that can be encoded and shows what it holds.

    Names of files and classes come from outside: lone surrogates, control characters and those that turn the direction of
    writing (which make one name look like another) are written as escapes.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_number(value: float) -> str:
    """A number of a setting or a count, as it was given: no rounding, no separators."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)
