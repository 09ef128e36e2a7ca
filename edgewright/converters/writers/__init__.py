"""Export targets: one writer a file, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal, Protocol, get_args

from edgewright.artifact import Artifact, StepRecord, TensorSpec, atomic_folder
from edgewright.errors import SamplesError, UnsupportedError, UsageError
from edgewright.registry import Kind
from edgewright.step import Claim, Step, StepContext

__all__ = ["PRECISIONS", "STRICT", "WRITERS", "Precision", "Writer", "check_mixed", "export", "precision_claims", "versions"]

Precision = Literal["float32", "float16", "dynamic", "int8", "int16x8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

STRICT: Mapping[str, Any] = {"extra": "forbid", "strict": True}
"""How the host checks options that come from a recipe or the command line."""

MIXED = ("keep_float", "int16")
"""Options that name layers which an integer file treats in another way; passes may name some too."""

_BITS = {"float32": 32, "float16": 16, "dynamic": 8, "int8": 8, "int16x8": 8}


class Writer(Step, Protocol):
    """A step that writes a model format."""

    suffix: ClassVar[str]
    """Ending of the file that it writes."""
    warm_up: ClassVar[str]
    """A job that imports what writing needs, `package.module:function`."""


WRITERS: Kind[Writer] = Kind("writer", "edgewright.converters.writers")


def export(writer: Writer, options: Any, job: str, packages: Iterable[str], model: Artifact, ctx: StepContext) -> Artifact:
    """Run a writer's job in the step's child and describe the file that it wrote.

    Args:
        writer: whose job it is.
        options: the writer's options, a dataclass; its fields become arguments of the job.
        job: `package.module:function`, see `quantize.quantize_tflite` for arguments and result.
        packages: the libraries that do the work, for the lineage.
        model: a float artifact of a format that the writer consumes.
        ctx: where to write and what may be used.

    Raises:
        SamplesError: the options need calibration and there are no samples.
        EdgewrightError: what the job raises; nothing half-written is left.
    """
    calibrating = writer.needs_samples()
    mixed = {name: (*getattr(options, name, ()), *model.meta.extra.get(name, ())) for name in MIXED if calibrating}
    if mixed.get("int16") and not hasattr(options, "int16"):
        raise UnsupportedError(
            f"layers with 16-bit activations ({', '.join(mixed['int16'])}) cannot be written for {writer.produces}",
            hint="write them for TFLite, or keep them in float: keep_float",
        )
    if calibrating and ctx.samples is None:
        raise SamplesError(
            f"--precision {options.precision} needs samples to calibrate with, none were given",
            hint="add --samples FILE (100 or more typical inputs), or use --precision float16 or dynamic",
        )
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
    with atomic_folder(ctx.out.parent) as folder:
        result = ctx.child().call(
            job,
            what=f"writing {ctx.out.name}",
            on_progress=ctx.progress,
            source=str(model.path),
            out=str(folder / ctx.out.name),
            samples=ctx.samples.to_json() if ctx.samples and calibrating else None,
            metadata={"parent": model.sha256, "preprocess": {name: dict(value) for name, value in model.meta.preprocess.items()}},
            layers=list(model.meta.extra.get("layers", ())),
            **{**plain, **{name: list(patterns) for name, patterns in mixed.items() if hasattr(options, name)}},
        )
    ctx.warnings.extend(result["warnings"])
    ctx.warnings.extend(_describe_kept(result["kept"]))
    ctx.warnings.extend(_describe_float_ops(result["float_ops"], options.precision))
    record = StepRecord(f"write:{writer.produces}", {**plain, "samples": result["samples"]}, model.sha256, versions(*packages))
    return Artifact.of(
        ctx.out,
        writer.produces,
        tuple(TensorSpec.from_json(spec) for spec in result["inputs"]),
        tuple(TensorSpec.from_json(spec) for spec in result["outputs"]),
        (*model.lineage, record),
        replace(model.meta, extra={**model.meta.extra, "float_ops": result["float_ops"], "kept": result["kept"]}),
    )


def check_mixed(options: Any) -> None:
    """Refuse patterns of layers where the precision leaves nothing to choose.

    Raises:
        UsageError: `keep_float` without an integer precision, or `int16` without int8.
    """
    allowed = {"keep_float": ("int8", "int16x8"), "int16": ("int8",)}
    for name, precisions in allowed.items():
        if getattr(options, name, ()) and options.precision not in precisions:
            raise UsageError(
                f"{name} does not go with precision {options.precision}", hint=f"it goes with {' and '.join(precisions)}"
            )


def precision_claims(options: Any) -> tuple[Claim, ...]:
    """What a writer with fields `precision` and `io` promises: stored bits of the kernels, dtype of inputs and outputs."""
    return Claim("bits", _BITS[options.precision]), Claim("io", options.io)


def versions(*packages: str) -> dict[str, str]:
    """Releases of the libraries that did the work, those that are installed."""
    return {package: release for package in packages if (release := _release(package))}


@cache
def _release(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _describe_kept(kept: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each way in which layers differ from the rest of an integer file, as was asked for."""
    titles = {"keep_float": "computed in float", "int16": "computed on 16-bit activations"}
    found: dict[str, list[str]] = {}
    for item in kept:
        found.setdefault(item["how"], []).append(item["layer"])
    return [f"as asked for, {titles[how]}: {', '.join(dict.fromkeys(layers))}" for how, layers in found.items()]


def _describe_float_ops(found: Iterable[list[str]], precision: str) -> list[str]:
    """A line for every layer with ops that stay float in a file that was to be all integer."""
    grouped: dict[tuple[str, str], int] = {}
    for op, tensor, layer in found:
        key = (op, layer or tensor)
        grouped[key] = grouped.get(key, 0) + 1
    return [
        f"{op} in layer '{place}' stays float32 in the {precision} file" + (f" ({count} ops)" if count > 1 else "")
        for (op, place), count in grouped.items()
    ]
