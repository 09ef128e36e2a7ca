"""What verbs share: their common options, what those options stand for, and what one run of the command line remembers."""

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

if TYPE_CHECKING:
    from edgewright.preprocess import Preprocess
    from edgewright.worker import Limits

__all__ = [
    "EngineName",
    "Invocation",
    "Json",
    "Limit",
    "Memory",
    "PreprocessOption",
    "SamplesOption",
    "Seed",
    "Stride",
    "Timeout",
    "Window",
    "invocation_of",
    "limits_of",
    "origins_of",
    "preprocess_of",
]


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


class EngineName(str, Enum):
    """Inference engines."""

    litert = "litert"
    openvino = "openvino"
    onnxruntime = "onnxruntime"


def _remember_json(context: typer.Context, value: bool) -> bool:
    """Note early that errors, too, are to be JSON: the flag may come from a settings file."""
    invocation_of(context).wants_json |= value
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", is_eager=True, callback=_remember_json)]
SamplesOption = Annotated[
    str | None,
    typer.Option("--samples", "-s", help="Data: .npz, .npy, .csv, a folder of images by class, or package.module:function."),
]
Window = Annotated[int | None, typer.Option("--window", min=1, help="Cut recordings into windows of this many rows.")]
Stride = Annotated[int | None, typer.Option("--stride", min=1, help="Rows from one window to the next.  [default: the window]")]
PreprocessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocess", help="What turns a raw sample into the input: [INPUT:]size=224x224,color=rgb,scale=1/127.5,offset=-1."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Calibrate with this many samples, drawn with --seed.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds that one child process may take.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory-limit", help="Memory that one child process may use, for example 4G.  [default: what is free]"),
]


def invocation_of(context: typer.Context) -> Invocation:
    """The run of the command line that a verb belongs to."""
    return context.ensure_object(Invocation)


def preprocess_of(texts: list[str] | None) -> dict[str, Preprocess]:
    """The declarations of `--preprocess` by input name; the key "" stands for the only input.

    Raises:
        UsageError: a declaration cannot be read, or an input has two.
    """
    from edgewright.preprocess import Preprocess

    declared: dict[str, Preprocess] = {}
    for text in texts or ():
        name = text.partition("=")[0].rpartition(":")[0]
        if name in declared:
            of = f"input '{name}'" if name else "the only input"
            raise UsageError(f"--preprocess declares {of} twice", hint="give all its keys in one --preprocess KEY=VALUE,...")
        declared[name] = Preprocess.parse(text[len(name) + 1 :] if name else text)
    return declared


def limits_of(timeout: float, memory: str | None) -> Limits:
    """Time and memory of each child process.

    Raises:
        UsageError: the memory limit is no size.
    """
    from edgewright.worker import Limits

    if memory is None:
        return Limits(timeout)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:I?B)?", memory.strip().upper(), re.ASCII)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise UsageError(f"--memory-limit {memory} is no size", hint="write for example 500M or 4G")
    return Limits(timeout, size)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def origins_of(context: typer.Context) -> dict[str, dict[str, Any]]:
    """Every option's value and where it came from: commandline, environment, a settings file's path, or default."""
    found = {}
    for param in context.command.params:
        name = str(param.name)
        if name not in context.params:
            continue
        value, source = context.params[name], context.get_parameter_source(name)
        origin = source.name.lower() if source else "default"
        if origin == "default_map":
            origin = invocation_of(context).origins.get((str(context.info_name), name), "settings file")
        plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
        key = max(param.opts, key=len).lstrip("-").replace("-", "_")
        found[key] = {"value": plain, "from": origin}
    return found


def _finite(value: Any) -> Any:
    """A JSON value whose infinities and NaNs, which JSON cannot hold, are strings."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
