"""Figures and where they come from: a metric is a value or the reason why there is none; reports are made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgewright.errors import needs

__all__ = [
    "CompressReport",
    "FileReport",
    "Flip",
    "Flips",
    "GroupChange",
    "Histogram",
    "Metric",
    "Promise",
    "Receipt",
    "Report",
    "TensorReceipt",
    "find_metric",
    "report_schema",
]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Args:
        name: in the field's words, with its subject: "sqnr".
        unit: "dB", "bytes", "ms", "share" (between 0 and 1, shown in per cent), "points" (100 times a difference of shares),
            "%" (a relative change), "" for plain numbers.
        value: the figure; None if there is none, and then `why_absent` says why.
        subject: what it was measured on, for example an output's name.
        samples: number of samples behind the figure.
        origin: "measured" or "estimated".
        why_absent: the reason for a missing value; empty if there is a value.
        low: lower end of the interval; None if there is none.
        high: upper end of the interval; None if there is none.
        interval: level and method of the interval, for example "95 % Wilson"; empty if there is none.

    Raises:
        ValueError: there are both a value and a reason, or neither; or only one end of an interval.
    """

    name: str
    unit: str
    value: float | None
    subject: str = ""
    samples: int = 0
    origin: Literal["measured", "estimated"] = "measured"
    why_absent: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.why_absent):
            raise ValueError(f"metric '{self.name}' needs a value or a reason for its absence, not both or neither")
        if (self.low is None) != (self.high is None) or (self.low is None) == bool(self.interval):
            raise ValueError(f"metric '{self.name}' needs both ends of its interval and the interval's name, or none of them")

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; infinities become strings, which JSON can hold."""
        return {
            "name": self.name,
            "subject": self.subject,
            "unit": self.unit,
            "value": _finite(self.value),
            "samples": self.samples,
            "origin": self.origin,
            "why_absent": self.why_absent,
            "low": _finite(self.low),
            "high": _finite(self.high),
            "interval": self.interval,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """Inverse of `to_json`."""
        numbers = {key: None if data.get(key) is None else float(data[key]) for key in ("value", "low", "high")}
        return cls(**{**data, **numbers})


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def find_metric(metrics: Iterable[Metric], name: str, subject: str = "") -> Metric | None:
    """The first metric of a name, and of a subject if one is given; None if there is none."""
    return next((m for m in metrics if m.name == name and subject in {"", m.subject}), None)


@dataclass(frozen=True, slots=True)
class GroupChange:
    """How one class or one slice of the data fares in a file, beside the original.

    Args:
        kind: "class" or "slice".
        group: the output's name for classes, the slice's name for slices.
        value: the class's name, or the slice's value.
        samples: how many samples there are of it.
        metric: what is compared, for example "recall" of a class, or the primary metric of a slice.
        unit: of `original` and `file`, as in `Metric`.
        original: the figure of the original; None if there is no original.
        file: the figure of the file; None if it cannot be computed (too few samples).
        change: in points (shares) or per cent (others); negative is worse; None if one of the two is missing.
        low: lower end of the 95 % interval of the change, paired over samples; None without a change.
        high: upper end of it.
        broken: samples that the original had right and the file has wrong.
        fixed: samples that the original had wrong and the file has right.
    """

    kind: Literal["class", "slice"]
    group: str
    value: str
    samples: int
    metric: str
    unit: str
    original: float | None
    file: float | None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    broken: int = 0
    fixed: int = 0


@dataclass(frozen=True, slots=True)
class Flip:
    """One sample on which a file decides otherwise than the original.

    Args:
        output: the output's name.
        index: the sample's number in the evaluation data, from 0.
        label: the right decision, as text.
        original: the original's decision.
        file: the file's decision.
        effect: "broken" (was right), "fixed" (is right now), "neither".
        original_score: what the original gave its own decision.
        file_score: what the file gave its own decision.
        slices: the sample's slices.
    """

    output: str
    index: int
    label: str
    original: str
    file: str
    effect: Literal["broken", "fixed", "neither"]
    original_score: float
    file_score: float
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flips:
    """All samples on which the decision flipped, the worst first; counts are of all, `listed` may be cut.

    Args:
        samples: how many decisions were compared.
        broken: how many became wrong.
        fixed: how many became right.
        neither: how many changed from one wrong decision to another.
        listed: the flips, broken ones first, the surest first.
    """

    samples: int = 0
    broken: int = 0
    fixed: int = 0
    neither: int = 0
    listed: tuple[Flip, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution.

    Args:
        unit: of the edges, for example "ms".
        edges: ascending; one more than there are counts.
        counts: how many values lie in each bin.
        below: how many lie below the first edge.
        above: how many lie above the last edge.
    """

    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0


@dataclass(frozen=True, slots=True)
class Promise:
    """What a step said that it would do, beside what the file shows.

    Args:
        step: the step that promised.
        what: in words: "weights are stored in 8 bits".
        promised: the promise as text: "8 bits in 8 of 8 tensors".
        found: the fact, read back from the file.
        kept: whether the fact keeps the promise.
        why: what is known of the reason where it does not.
    """

    step: str
    what: str
    promised: str
    found: str
    kept: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class TensorReceipt:
    """One weight tensor, in the model that a step took and in the file that it gave.

    A tensor that is only in the model before (a BatchNorm statistic that was folded into the weights, say) has no values
    of now; one that is only in the file (the bias that came of it) has none of before.

    Args:
        name: in the model before; empty if it was not found there.
        name_now: in the file; empty if it was not found there.
        shape: in the model before.
        shape_now: in the file.
        bits: per stored value, before; None if the tensor is only in the file.
        bits_now: in the file; None if the tensor was not found there.
        sparsity: share of exact zeros before, between 0 and 1.
        sparsity_now: in the file.
        unique: number of different values before.
        unique_now: in the file.
        unique_per_channel: the largest number of different values in one output channel before.
        unique_per_channel_now: in the file.
        kept: whether zeros and clusters that were there before are still there.
        lost: what was lost, in words; empty if nothing was.
    """

    name: str
    name_now: str
    shape: tuple[int, ...]
    shape_now: tuple[int, ...]
    bits: int | None
    bits_now: int | None
    sparsity: float | None
    sparsity_now: float | None
    unique: int | None
    unique_now: int | None
    unique_per_channel: int | None
    unique_per_channel_now: int | None
    kept: bool = True
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is read back from a file after a step: promise beside fact.

    Args:
        step: for example "export:tflite".
        promises: each beside its fact.
        tensors: every weight tensor, largest first.
        metrics: raw_bytes, deflated_bytes, parameters, macs, sparsity, of the file.
    """

    step: str
    promises: tuple[Promise, ...] = ()
    tensors: tuple[TensorReceipt, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @property
    def lost(self) -> list[str]:
        """Every promise that was broken and every tensor that lost something, in words."""
        broken = [f"{p.what}: promised {p.promised}, found {p.found}" for p in self.promises if not p.kept]
        return broken + [f"{t.name}: {t.lost}" for t in self.tensors if not t.kept]


@dataclass(frozen=True, slots=True)
class FileReport:
    """All that is known of one model file of a run.

    Args:
        name: the file's name.
        role: "original" (as the user gave it), "baseline" (the same as float32 TFLite, uncompressed), "file" (a result).
        path: where it is; empty for the baseline, which lies in the cache only.
        format: reader's name.
        sha256: digest of the file.
        recipe: name of the recipe that made it.
        precision: what was asked for.
        engine: the engine that ran it; its release stands in the report's environment.
        computed_in: the precision that the engine really computed in; "unknown" where it does not tell.
        device: where the engine ran it.
        metrics: sizes, accuracy with its change, fidelity, latency, memory.
        groups: per class and per slice, the worst change first.
        flips: samples whose decision flipped.
        latency: distribution of the latency of one inference; None if it was not measured.
        receipts: one per step that led to the file, the export last.
        lineage: how the file was made, oldest step first (`StepRecord.to_json`).
        warnings: what a reader must know of this file.
    """

    name: str
    role: Literal["original", "baseline", "file"]
    path: str
    format: str
    sha256: str
    recipe: str = ""
    precision: str = ""
    engine: str = ""
    computed_in: str = ""
    device: str = ""
    metrics: tuple[Metric, ...] = ()
    groups: tuple[GroupChange, ...] = ()
    flips: Flips | None = None
    latency: Histogram | None = None
    receipts: tuple[Receipt, ...] = ()
    lineage: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def metric(self, name: str, subject: str = "") -> Metric | None:
        """The metric of a name; None if there is none."""
        return find_metric(self.metrics, name, subject)


@dataclass(frozen=True, slots=True)
class CompressReport:
    """What a compress run made and measured: the document behind the terminal table, JSON, CSV, Markdown and HTML.

    Args:
        title: the model's name.
        task: what the evaluation took the model for: "classification", ...; empty without evaluation data.
        primary: name of the metric that `--max-drop` looks at; empty without evaluation data.
        files: the original first, then the baseline, then the results.
        recipes: the recipes that were run, with all their options, by name.
        data: what the samples and the evaluation data were, in words, by use.
        settings: every option's value and where it came from.
        environment: machine, packages, date of the measurement.
        max_drop: the limit that was set, in points (regression: per cent); None if none was.
        passed: whether all limits were kept; None if there was none.
        failures: every broken limit, in words.
        lost: what the receipts found lost, in words.
        failed: files that could not be made, each with the reason.
        warnings: what a reader must know of the whole run.
        schema: version of this form.
        kind: "compress".
    """

    title: str
    task: str
    primary: str
    files: tuple[FileReport, ...]
    recipes: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    max_drop: float | None = None
    passed: bool | None = None
    failures: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA
    kind: Literal["compress"] = "compress"

    @property
    def original(self) -> FileReport:
        """The model as the user gave it."""
        return self.files[0]

    @property
    def results(self) -> tuple[FileReport, ...]:
        """The files that the run made."""
        return tuple(file for file in self.files if file.role == "file")

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; its schema is docs/reference/report.schema.json."""
        return {"schema": self.schema, "kind": self.kind, **{k: _plain(v) for k, v in asdict(self).items()}}


def _plain(value: Any) -> Any:
    """A value with tuples as lists and infinities as strings."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def report_schema() -> dict[str, Any]:
    """The JSON Schema of `CompressReport.to_json`, whose infinities are texts.

    Raises:
        MissingPackageError: pydantic is not installed.
    """
    with needs("convert"):
        from pydantic import TypeAdapter
    schema = TypeAdapter(CompressReport).json_schema()

    def widened(node: Any) -> Any:
        if isinstance(node, dict):
            if node.get("type") == "number":
                others = {key: value for key, value in node.items() if key != "type"}
                return {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}], **others}
            return {key: widened(value) for key, value in node.items()}
        return [widened(item) for item in node] if isinstance(node, list) else node

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **widened(schema)}


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured on a model, with what settings.

    Args:
        kind: what was done: "verify", "evaluate", "bench".
        model: the file, its digest, format.
        settings: all that the figures depend on.
        metrics: the figures.
        warnings: what a reader must know.
        details: what is no single figure: groups, flips, distributions, as plain values.
    """

    kind: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...] = field(default=())
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON, with the version of the schema."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "metrics": [metric.to_json() for metric in self.metrics],
            "warnings": list(self.warnings),
            "details": _plain(self.details),
        }

    def value(self, name: str, subject: str = "") -> float | None:
        """The value of a metric; of the first of that name if no subject is given.

        Raises:
            KeyError: there is no such metric.
        """
        found = find_metric(self.metrics, name, subject)
        if found is None:
            raise KeyError(f"no metric '{name}' {subject}".strip())
        return found.value
