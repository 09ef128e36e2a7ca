"""What spans the stages: inspect a model, and convert it by chaining a reader, the lowering and a writer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from edgewright.artifact import Artifact, ModelMeta, StepRecord, TensorSpec, file_sha256, files_of
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import STRICT, WRITERS, Writer, versions
from edgewright.data import Data, declare
from edgewright.errors import SamplesError, UnsupportedError, UsageError
from edgewright.samples import SamplesSpec
from edgewright.step import StepContext
from edgewright.worker import Limits, Worker, run

__all__ = [
    "MODEL_SUFFIXES",
    "TRAINING_FORMATS",
    "Data",
    "Lowering",
    "Progress",
    "Trust",
    "check_batch",
    "check_options",
    "check_route",
    "convert",
    "declare",
    "described",
    "inspect",
    "lower",
    "make_writer",
    "silent",
]

Progress = Callable[[float, str], None]
Alongside = Callable[[Worker, SamplesSpec], Callable[[], object]]

MODEL_SUFFIXES = frozenset({".keras", ".h5", ".onnx", ".tflite", ".xml"})
"""Endings that name a model format."""

TRAINING_FORMATS = ("keras", "saved_model")
"""Formats that are lowered to TFLite first and that compute their own reference outputs."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a model file may do on loading.

    Args:
        code: run code that the file carries (Lambda layers, custom objects).
        custom: dotted name of a module that registers custom objects; needs `code`.
    """

    code: bool = False
    custom: str | None = None


@dataclass(frozen=True, slots=True)
class Lowering:
    """How a Keras model or SavedModel becomes a float32 TFLite file.

    Args:
        batch: fixed batch size; None makes a free one 1 in TFLite and keeps it free in OpenVINO.
        unroll: longest sequence that recurrent layers are unrolled for; None means 128.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    batch: int | None = None
    unroll: int | None = None


def convert(
    model: str | Path,
    out: str | Path | None = None,
    *,
    to: str = "tflite",
    precision: str = "float32",
    io: str = "float32",
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    batch: int | None = None,
    unroll: int | None = None,
    select_tf: bool = False,
    min_runtime: str | None = None,
    trust: Trust = Trust(),
    limits: Limits = Limits(),
    progress: Progress | None = None,
    warnings: list[str] | None = None,
    alongside: Alongside | None = None,
) -> Artifact:
    """Convert a trained model to the file that a device runs.

    Args:
        model: `.keras`, `.h5`, SavedModel folder, `.tflite` (float32) or `.onnx`.
        out: file to write, or an existing folder for a file named after model and precision; None puts that beside the model.
        to: "tflite" or "openvino".
        precision: "float32", "float16", "dynamic", "int8" or "int16x8" (TFLite only).
        io: dtype of inputs and outputs: "float32"; "int8", "uint8" with int8; "int16" with int16x8.
        samples: what to calibrate with; needed for int8 and int16x8.
        batch: fixed batch size; None makes a free one 1 in TFLite and keeps it free in OpenVINO.
        unroll: longest sequence that recurrent layers are unrolled for (default 128).
        select_tf: allow TensorFlow ops that TFLite does not have; the device then needs the Flex delegate.
        min_runtime: "tflite-2.14" writes what that release loads.
        trust: what the model file may do on loading.
        limits: time and memory of each child process.
        progress: called with a share between 0 and 1 and a text.
        warnings: what the caller should know is appended here.
        alongside: called once a Keras model or SavedModel is lowered, with the child that holds it and the samples: what
            uses the original while the file is being written. What it returns is called at the end.

    Returns:
        The file's artifact; its sidecar is written beside it.

    Raises:
        UsageError: options contradict each other or the model, or `out` is the model itself.
        UnsupportedError: the model cannot be expressed in the target; op and layer are named.
        SamplesError: calibration needs samples, or they do not fit the model.
        ConversionError: a converter failed.
        WorkerError: a converter crashed, ran out of memory or time.
    """
    path = Path(model)
    reader = find_reader(path)
    writer = make_writer(to, precision=precision, io=io, batch=batch, min_runtime=min_runtime)
    check_route(reader, to, writer, path)
    check_options(reader, to, path, batch=batch, unroll=unroll, select_tf=select_tf)
    data = samples if isinstance(samples, Data) or samples is None else Data(samples)
    if data is None and writer.needs_samples():
        raise SamplesError(
            f"--precision {precision} needs samples to calibrate with, none were given",
            hint="add --samples FILE (100 or more typical inputs), or use --precision float16 or dynamic",
        )
    target = _target(path, out, f"_{precision}", writer.suffix)
    report = _Phases(progress or silent)
    notes = warnings if warnings is not None else []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewright-")))
        child = stack.enter_context(Worker(limits))
        original: Worker | None = None
        finish: Callable[[], object] | None = None
        child.submit(writer.warm_up, what=f"loading what writes {to}")
        if reader in TRAINING_FORMATS:
            options = {
                "batch": 1 if to == "tflite" and batch is None else batch,
                "unroll": unroll,
                "integer": writer.needs_samples(),
                "select_tf": select_tf,
            }
            original = stack.enter_context(Worker(limits))
            source = lower(path, reader, work / "float32.tflite", options, trust, original, report.part(0.0, 0.6), notes)
            start = 0.6
        else:
            source = described(path, child=child)
            check_batch(source, batch, to)
            start = 0.05
        spec = None
        if data is not None:
            spec = data.completed(source.meta).spec(source.inputs, work)
            source = source.with_meta(preprocess={name: dict(value) for name, value in spec.preprocess.items()})
        if original is not None:
            if alongside is not None and spec is not None:
                finish = alongside(original, spec)
            else:
                original.close()
        context = StepContext(
            out=target,
            samples=spec,
            worker=child,
            progress=report.part(start, 0.99 - start),
            warnings=notes,
        )
        artifact = writer.apply(source, context)
        artifact.save()
        if finish is not None:
            finish()
    report.part(1.0, 0.0)(1.0, f"{target.name} written")
    return artifact


def _target(path: Path, out: str | Path | None, ending: str, suffix: str) -> Path:
    """The file to write: as named, in the folder that is named, or beside the model.

    Raises:
        UsageError: writing it would destroy the model that is converted, or it is named as another format.
    """
    place = path if path.name else path.resolve()
    default = (place.name if path.is_dir() else place.stem) + ending + suffix
    if out is None:
        target = place.with_name(default)
    elif Path(out).is_dir() or str(out).endswith(("/", os.sep)):
        target = Path(out) / default
    elif Path(out).suffix in MODEL_SUFFIXES - {suffix}:
        raise UsageError(
            f"{out} is named as a {Path(out).suffix} file, the format to write ends in {suffix}",
            hint=f"choose the format with --to, or name it {Path(out).with_suffix(suffix)}",
        )
    else:
        target = Path(out) if Path(out).suffix == suffix else Path(f"{out}{suffix}")
    written = [target, target.with_suffix(".bin")] if suffix == ".xml" else [target]
    for file in written:
        if file.exists() and any(file.samefile(own) for own in (path, *files_of(path))):
            raise UsageError(f"{file} is the model that is converted", hint="name another file with -o")
    return target


def make_writer(to: str, **options: Any) -> Writer:
    """A writer with those of the options that it has; the ones it lacks must be unset, but for the batch (see `lower_model`).

    Raises:
        PluginError: there is no such writer.
        UsageError: an option does not go with it.
    """
    cls = WRITERS.get(to)
    known = set(cls.Options.__dataclass_fields__)
    for name, value in options.items():
        if name not in known and value is not None and name != "batch":
            raise UsageError(f"--{name.replace('_', '-')} {value} does not go with --to {to}", hint="leave it out")
    return cls(cls.Options(**{name: value for name, value in options.items() if name in known}))


def check_options(reader: str, to: str, path: Path, *, batch: int | None, unroll: int | None, select_tf: bool) -> None:
    """Refuse what would be ignored.

    Raises:
        UsageError: with the option and what to do.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch} is no batch size", hint="1 is the least")
    if unroll is not None and unroll < 0:
        raise UsageError(f"--unroll {unroll} is no number of steps", hint="0 never unrolls")
    if reader not in TRAINING_FORMATS and (select_tf or unroll is not None):
        option = "--select-tf" if select_tf else "--unroll"
        raise UsageError(
            f"{option} says how a Keras model or SavedModel is traced, {path} is {reader} already",
            hint="leave it out, or convert from the model that the file was made of",
        )


def check_batch(source: Artifact, batch: int | None, to: str) -> None:
    """Refuse a batch size that a file which is traced already cannot be given."""
    for spec in source.inputs if batch is not None else ():
        size = spec.shape[0] if spec.shape else None
        if size != batch and (size is not None or to == "tflite"):
            raise UsageError(
                f"--batch {batch} cannot be set: {source.path} takes {spec}",
                hint="convert from the Keras model or SavedModel that it was made of",
            )


def check_route(reader: str, to: str, writer: Writer, path: Path) -> None:
    """Refuse to convert a format to one that it cannot become.

    Raises:
        UnsupportedError: with the reason.
    """
    if reader in TRAINING_FORMATS or reader in writer.consumes:
        return
    reason = {
        "onnx": "ONNX models are laid out NCHW and TFLite computes NHWC: the layout would change under your input",
        "openvino": "an IR is a finished export and cannot be converted further",
    }.get(reader, "there is no route")
    hint = (
        "convert to openvino, or export the original as SavedModel"
        if reader == "onnx"
        else "convert from the model it was made of"
    )
    raise UnsupportedError(f"{path} is {reader}, which cannot be converted to {to}: {reason}", hint=hint)


def lower(
    path: Path,
    reader: str,
    out: Path,
    options: Mapping[str, Any],
    trust: Trust,
    child: Worker,
    progress: Progress,
    notes: list[str],
) -> Artifact:
    """A training-format model as a float32 TFLite artifact.

    Args:
        path: the model.
        reader: name of its reader.
        out: the .tflite file to write; its folder exists.
        options: batch, unroll, integer, select_tf: see `converters.jobs.lower_model`.
        trust: what the model file may do on loading.
        child: the process that loads the model and keeps it.
        progress: called with a share between 0 and 1 and a text.
        notes: what the caller should know is appended here.

    Raises:
        EdgewrightError: see `convert`.
    """
    progress(0.05, "starting TensorFlow")
    result = child.call(
        "edgewright.converters.jobs:lower_model",
        what=f"converting {path.name} to float32 TFLite",
        on_progress=progress,
        path=str(path),
        out=str(out),
        trust=trust.code,
        custom=trust.custom,
        **options,
    )
    notes.extend(result["warnings"])
    record = StepRecord(f"read:{reader}", dict(options), file_sha256(path), versions("tensorflow", "keras"))
    known = Artifact.load(path)
    meta = known.meta if known else ModelMeta()
    return Artifact.of(
        out,
        "tflite",
        tuple(TensorSpec.from_json(spec) for spec in result["inputs"]),
        tuple(TensorSpec.from_json(spec) for spec in result["outputs"]),
        (*(known.lineage if known else ()), record),
        replace(meta, extra={**meta.extra, "layers": result["layers"], **({"recurrent": True} if result["recurrent"] else {})}),
    )


def described(path: Path, trust: Trust = Trust(), limits: Limits = Limits(), child: Worker | None = None) -> Artifact:
    """What is known of a model file: by the sidecar beside it, or else by the file itself, read in a child.

    Args:
        path: the model.
        trust: what the file may do on loading.
        limits: time and memory of a child of its own.
        child: a child that runs already and is used instead.

    Raises:
        ArtifactError: the sidecar is unreadable or of another file.
        ModelError: the file cannot be read.
    """
    known = Artifact.load(path)
    if known:
        return known
    format = find_reader(path)
    with ExitStack() as stack:
        worker = child or stack.enter_context(Worker(limits))
        found = worker.call(
            "edgewright.converters.jobs:model_specs",
            what=f"reading {path.name}",
            path=str(path),
            trust=trust.code,
            custom=trust.custom,
        )
    return Artifact.of(
        path,
        format,
        tuple(TensorSpec.from_json(spec) for spec in found["inputs"]),
        tuple(TensorSpec.from_json(spec) for spec in found["outputs"]),
        meta=ModelMeta(preprocess=found["preprocess"]),
    )


def inspect(model: str | Path, *, trust: Trust = Trust(), limits: Limits = Limits(timeout_s=300)) -> ModelInfo:
    """Everything that a model file tells about itself; the file is opened in a child process.

    Raises:
        ModelError: the file is truncated, corrupt or of no known format.
        UntrustedCodeError: it carries code and is not trusted.
        WorkerError: the library that reads it crashed, or ran out of memory or time.
    """
    path = Path(model)
    find_reader(path)
    found = run(
        "edgewright.converters.jobs:inspect_model",
        what=f"reading {path.name}",
        limits=limits,
        path=str(path),
        trust=trust.code,
        custom=trust.custom,
    )
    return ModelInfo.from_json(found)


def silent(share: float, text: str) -> None:
    """Report nothing."""


class _Phases:
    """Maps each phase's own share to its part of the whole, which never goes back."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reached = 0.0

    def part(self, start: float, width: float) -> Progress:
        """What a phase reports to that begins at `start` and is worth `width`."""

        def report(share: float, text: str) -> None:
            self._reached = max(self._reached, start + width * min(max(share, 0.0), 1.0))
            self._progress(self._reached, text)

        return report
