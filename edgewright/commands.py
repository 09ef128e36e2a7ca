"""The verbs inspect, convert and verify. They parse, call and print; the work is done elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgewright.errors import UsageError
from edgewright.options import (
    EngineName,
    Json,
    Limit,
    Memory,
    PreprocessOption,
    SamplesOption,
    Seed,
    Stride,
    Timeout,
    Window,
    invocation_of,
    limits_of,
    origins_of,
    preprocess_of,
)
from edgewright.terminal import print_info, print_report, progress_bar, say, show_artifact

if TYPE_CHECKING:
    from edgewright.conversion import Trust
    from edgewright.data import Data

__all__ = ["Custom", "TrustCode", "convert", "data_of", "inspect", "trust_of", "verify"]


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


TrustCode = Annotated[bool, typer.Option("--trust", help="Run code that the model file carries. Only for files you trust.")]
Custom = Annotated[str | None, typer.Option("--custom", help="Module that registers custom Keras objects; needs --trust.")]


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
    from edgewright.conversion import inspect as inspect_model

    with progress_bar(f"reading {model.name}"):
        info = inspect_model(model, trust=trust_of(trust, custom), limits=limits_of(timeout, memory_limit))
    if as_json:
        invocation_of(context).answer({"path": str(model), **info.to_json()})
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
    samples: SamplesOption = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: PreprocessOption = None,
    limit: Limit = None,
    seed: Seed = 0,
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
    from edgewright import conversion, verification

    notes: list[str] = []
    options: dict[str, Any] = {
        "to": to.value,
        "precision": precision.value,
        "io": io.value,
        "batch": batch,
        "unroll": unroll,
        "select_tf": select_tf,
        "min_runtime": min_runtime,
        "trust": trust_of(trust, custom),
        "limits": limits_of(timeout, memory_limit),
        "warnings": notes,
    }
    data = data_of(samples, window, stride, preprocess, limit, seed)
    report = None
    with progress_bar(f"converting {model.name}") as update:
        if no_verify or select_tf:
            artifact = conversion.convert(model, out, samples=data, progress=update, **options)
            if not no_verify:
                notes.append("not compared with the original: the engines here have no Flex delegate to run the file with")
        else:
            artifact, report = verification.convert_and_verify(model, out, samples=data, progress=update, **options)
    if as_json:
        invocation_of(context).answer(
            {
                "artifact": artifact.to_json(),
                "path": str(artifact.path),
                "warnings": notes,
                "settings": origins_of(context),
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
    samples: SamplesOption = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: PreprocessOption = None,
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
            samples=data_of(samples, window, stride, preprocess, None, 0),
            min_sqnr_db=min_sqnr,
            min_agreement=min_agreement,
            exact=exact,
            engine=engine.value if engine else None,
            trust=trust_of(trust, custom),
            limits=limits_of(timeout, memory_limit),
            progress=update,
        )
    if as_json:
        invocation_of(context).answer({**report.to_json(), "options": origins_of(context)})
    else:
        print_report(report)
    verification.require(report)


def data_of(
    source: str | None,
    window: int | None,
    stride: int | None,
    preprocess: list[str] | None,
    limit: int | None,
    seed: int,
    also: str | None = None,
) -> Data | None:
    """Data as the options name them, None if they name none; `also` names others that share the options on reading."""
    from edgewright.data import Data

    if source is None:
        if limit or (also is None and (window or stride or preprocess)):
            raise UsageError(
                "--window, --stride, --preprocess and --limit say how samples are read, but there are none", hint="add --samples"
            )
        return None
    return Data(source, window, stride, preprocess_of(preprocess), limit, seed)


def trust_of(trust: bool, custom: str | None) -> Trust:
    """What `--trust` and `--custom` allow."""
    from edgewright.conversion import Trust

    return Trust(trust, custom)
