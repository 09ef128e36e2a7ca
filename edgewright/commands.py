"""The verbs: convert, verify, inspect, demo. They parse, call and print; the work is done elsewhere."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgewright.errors import UsageError
from edgewright.terminal import print_demo, print_info, print_report, progress_bar, say, show_artifact

if TYPE_CHECKING:
    from edgewright.pipeline import Data, Trust
    from edgewright.worker import Limits

__all__ = ["Invocation", "convert", "demo", "inspect", "verify"]


@dataclass(slots=True)
class Invocation:
    """What one run of the command line must remember until its end.

    Args:
        wants_json: standard output is to be one JSON document, whether the verb succeeds or fails.
        answered: that document is written.
        origins: the settings file that an option's value stands in, by verb and parameter name.
    """

    wants_json: bool = False
    answered: bool = False
    origins: dict[tuple[str, str], str] = field(default_factory=dict)

    def answer(self, data: Mapping[str, Any]) -> None:
        """Write the document."""
        sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")
        self.answered = True


class Target(str, Enum):
    """Formats to convert to."""

    tflite = "tflite"
    openvino = "openvino"


class Precision(str, Enum):
    """What the numbers of a file are stored and computed in."""

    float32 = "float32"
    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"
    int16x8 = "int16x8"


class Io(str, Enum):
    """Dtypes of inputs and outputs."""

    float32 = "float32"
    int8 = "int8"
    uint8 = "uint8"
    int16 = "int16"


class EngineName(str, Enum):
    """Inference engines."""

    litert = "litert"
    openvino = "openvino"
    onnxruntime = "onnxruntime"


def _remember_json(context: typer.Context, value: bool) -> bool:
    """Note early that errors, too, are to be JSON: the flag may come from a settings file."""
    _invocation(context).wants_json |= value
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", is_eager=True, callback=_remember_json)]
Samples = Annotated[
    str | None,
    typer.Option("--samples", "-s", help="Data: .npz, .npy, .csv, a folder of images by class, or package.module:function."),
]
Window = Annotated[int | None, typer.Option("--window", min=1, help="Cut recordings into windows of this many rows.")]
Stride = Annotated[int | None, typer.Option("--stride", min=1, help="Rows from one window to the next.  [default: the window]")]
Preprocess = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocess", help="What turns a raw sample into the input: [INPUT:]size=224x224,color=rgb,scale=1/127.5,offset=-1."
    ),
]
TrustCode = Annotated[bool, typer.Option("--trust", help="Run code that the model file carries. Only for files you trust.")]
Custom = Annotated[str | None, typer.Option("--custom", help="Module that registers custom Keras objects; needs --trust.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds that one child process may take.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory-limit", help="Memory that one child process may use, for example 4G.  [default: what is free]"),
]


def inspect(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model file or SavedModel folder.")],
    trust: TrustCode = False,
    custom: Custom = None,
    all_weights: Annotated[bool, typer.Option("--all", help="List every tensor, not only the 20 largest.")] = False,
    timeout: Timeout = 300,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Tell what is in a model file: inputs, outputs, ops, parameters, multiply-adds, sizes, sparsity, unique weights."""
    from edgewright.pipeline import inspect as inspect_model

    with progress_bar(f"reading {model.name}"):
        info = inspect_model(model, trust=_trust(trust, custom), limits=_limits(timeout, memory_limit))
    if as_json:
        _invocation(context).answer({"path": str(model), **info.to_json()})
    else:
        print_info(model, info, weights=None if all_weights else 20)


def convert(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help=".keras, .h5, SavedModel folder, float .tflite or .onnx.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.  [default: MODEL_PRECISION beside the model]")
    ] = None,
    to: Annotated[Target, typer.Option("--to", help="Format to write.")] = Target.tflite,
    precision: Annotated[
        Precision, typer.Option("--precision", "-p", help="Precision of weights and computation.")
    ] = Precision.float32,
    io: Annotated[Io, typer.Option("--io", help="Dtype of inputs and outputs.")] = Io.float32,
    samples: Samples = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: Preprocess = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Calibrate with this many samples, drawn with --seed.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Fix the batch size.")] = None,
    unroll: Annotated[
        int | None,
        typer.Option("--unroll", min=0, help="Longest sequence that recurrent layers are unrolled for.  [default: 128]"),
    ] = None,
    select_tf: Annotated[bool, typer.Option("--select-tf", help="Allow TensorFlow ops that need the Flex delegate.")] = False,
    min_runtime: Annotated[
        str | None, typer.Option("--min-runtime", help="Oldest runtime that must load the file: tflite-2.14.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the comparison with the original.")] = False,
    trust: TrustCode = False,
    custom: Custom = None,
    timeout: Timeout = 1800,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Convert a trained model to the file for the device, and compare the two on the samples."""
    from edgewright import pipeline, verification

    notes: list[str] = []
    options: dict[str, Any] = {
        "to": to.value,
        "precision": precision.value,
        "io": io.value,
        "batch": batch,
        "unroll": unroll,
        "select_tf": select_tf,
        "min_runtime": min_runtime,
        "trust": _trust(trust, custom),
        "limits": _limits(timeout, memory_limit),
        "warnings": notes,
    }
    data = _data(samples, window, stride, preprocess, limit, seed)
    report = None
    with progress_bar(f"converting {model.name}") as update:
        if no_verify or select_tf:
            artifact = pipeline.convert(model, out, samples=data, progress=update, **options)
            if not no_verify:
                notes.append("not compared with the original: the engines here have no Flex delegate to run the file with")
        else:
            artifact, report = verification.convert_and_verify(model, out, samples=data, progress=update, **options)
    if as_json:
        _invocation(context).answer(
            {
                "artifact": artifact.to_json(),
                "path": str(artifact.path),
                "warnings": notes,
                "settings": _origins(context),
                "verify": report.to_json() if report else None,
            }
        )
        return
    show_artifact(artifact, model)
    if report:
        print_report(report)
    for note in notes:
        if report is None or note not in report.warnings:
            say("warning", note)


def verify(
    context: typer.Context,
    candidate: Annotated[Path, typer.Argument(help="The file that is to be trusted.")],
    against: Annotated[Path, typer.Option("--against", "-a", help="The model that is right by definition.")],
    samples: Samples = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: Preprocess = None,
    min_sqnr: Annotated[float | None, typer.Option("--min-sqnr", help="Fail (exit code 4) below this SQNR in dB.")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option("--min-agreement", min=0, max=1, help="Fail (exit code 4) below this share of equal top classes."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="Engine for the candidate.  [default: its format's own]")
    ] = None,
    trust: TrustCode = False,
    custom: Custom = None,
    timeout: Timeout = 1800,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Compare what two models compute on the same samples, output by output."""
    from edgewright import verification

    with progress_bar(f"comparing {candidate.name} with {against.name}") as update:
        report = verification.verify(
            candidate,
            against,
            samples=_data(samples, window, stride, preprocess, None, 0),
            min_sqnr_db=min_sqnr,
            min_agreement=min_agreement,
            exact=exact,
            engine=engine.value if engine else None,
            trust=_trust(trust, custom),
            limits=_limits(timeout, memory_limit),
            progress=update,
        )
    if as_json:
        _invocation(context).answer({**report.to_json(), "options": _origins(context)})
    else:
        print_report(report)
    verification.require(report)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the converted files.")] = Path("out/demo"),
    as_json: Json = False,
) -> None:
    """Convert the shipped wearable-IMU classifier four ways, verify each file, test it on people it has never seen."""
    from edgewright.demo import run_demo

    notes: list[str] = []
    with progress_bar("demo") as update:
        rows = run_demo(out, progress=update, warn=notes.append)
    if as_json:
        _invocation(context).answer({"out": str(out), "rows": [row.to_json() for row in rows], "warnings": notes})
    else:
        print_demo(rows, out, notes)


def _data(
    samples: str | None, window: int | None, stride: int | None, preprocess: list[str] | None, limit: int | None, seed: int
) -> Data | None:
    from edgewright.pipeline import Data
    from edgewright.preprocess import Preprocess

    if samples is None:
        if window or stride or preprocess or limit:
            raise UsageError(
                "--window, --stride, --preprocess and --limit say how samples are read, but there are none", hint="add --samples"
            )
        return None
    declared: dict[str, Preprocess] = {}
    for text in preprocess or ():
        name = text.partition("=")[0].rpartition(":")[0]
        if name in declared:
            of = f"input '{name}'" if name else "the only input"
            raise UsageError(f"--preprocess declares {of} twice", hint="give all its keys in one --preprocess KEY=VALUE,...")
        declared[name] = Preprocess.parse(text[len(name) + 1 :] if name else text)
    return Data(samples, window, stride, declared, limit, seed)


def _trust(trust: bool, custom: str | None) -> Trust:
    from edgewright.pipeline import Trust

    return Trust(trust, custom)


def _limits(timeout: float, memory: str | None) -> Limits:
    from edgewright.worker import Limits

    if memory is None:
        return Limits(timeout)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:I?B)?", memory.strip().upper(), re.ASCII)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise UsageError(f"--memory-limit {memory} is no size", hint="write for example 500M or 4G")
    return Limits(timeout, size)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _origins(context: typer.Context) -> dict[str, dict[str, Any]]:
    """Every option's value and where it came from: commandline, environment, a settings file's path, or default."""
    found = {}
    for param in context.command.params:
        name = str(param.name)
        if name not in context.params:
            continue
        value, source = context.params[name], context.get_parameter_source(name)
        origin = source.name.lower() if source else "default"
        if origin == "default_map":
            origin = _invocation(context).origins.get((str(context.info_name), name), "settings file")
        plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
        key = max(param.opts, key=len).lstrip("-").replace("-", "_")
        found[key] = {"value": plain, "from": origin}
    return found


def _invocation(context: typer.Context) -> Invocation:
    return context.ensure_object(Invocation)


def _finite(value: Any) -> Any:
    """A JSON value whose infinities and NaNs, which JSON cannot hold, are strings."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
