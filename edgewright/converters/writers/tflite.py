"""TFLite files: float32, float16, dynamic range, int8 and int16x8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgewright.artifact import Artifact
from edgewright.converters.writers import PRECISIONS, STRICT, WRITERS, Precision, check_mixed, export, precision_claims
from edgewright.errors import UsageError
from edgewright.step import Claim, StepContext


@dataclass(frozen=True, slots=True)
class TfliteOptions:
    """How a TFLite file is written.

    Args:
        precision: float32, float16, dynamic, int8 or int16x8.
        io: dtype of inputs and outputs; int8 and uint8 go with precision int8, int16 with int16x8.
        min_runtime: "tflite-2.14" keeps the file loadable by that release (per-tensor scales in fully connected layers).
        keep_float: patterns of the layers that compute in float in an integer file.
        int16: patterns of the layers whose activations have 16 bits in an int8 file.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    precision: Precision = "float32"
    io: Literal["float32", "int8", "uint8", "int16"] = "float32"
    min_runtime: Literal["tflite-2.14"] | None = None
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()


@WRITERS.register("tflite")
class TfliteWriter:
    """Writes a .tflite file from a float32 .tflite artifact, without TensorFlow."""

    consumes: ClassVar[tuple[str, ...]] = ("tflite",)
    produces: ClassVar[str] = "tflite"
    suffix: ClassVar[str] = ".tflite"
    warm_up: ClassVar[str] = "edgewright.converters.quantize:warm_up"
    Options: ClassVar[type[TfliteOptions]] = TfliteOptions

    def __init__(self, options: TfliteOptions) -> None:
        allowed = {"int8": ("float32", "int8", "uint8"), "int16x8": ("float32", "int16")}.get(options.precision, ("float32",))
        if options.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{options.precision}'", hint=f"one of: {', '.join(PRECISIONS)}")
        if options.io not in allowed:
            raise UsageError(
                f"--io {options.io} does not go with --precision {options.precision} in a TFLite file",
                hint=f"use --io {' or '.join(allowed)}" + (", or --precision int8" if options.io in {"int8", "uint8"} else ""),
            )
        if options.min_runtime not in {None, "tflite-2.14"}:
            raise UsageError(f"unknown runtime '{options.min_runtime}'", hint="known: tflite-2.14")
        check_mixed(options)
        self.options = options

    def needs_samples(self) -> bool:
        """Integer activations need calibration."""
        return self.options.precision in {"int8", "int16x8"}

    def claims(self) -> tuple[Claim, ...]:
        """Stored bits of the kernels, dtype of inputs and outputs, and no float op in an integer file."""
        integer = self.options.precision in {"int8", "int16x8"}
        return (*precision_claims(self.options), *((Claim("float_ops", 0),) if integer else ()))

    def apply(self, model: Artifact, ctx: StepContext) -> Artifact:
        """Write `ctx.out`; see `Step.apply`."""
        return export(
            self,
            self.options,
            "edgewright.converters.quantize:quantize_tflite",
            ("ai-edge-quantizer", "ai-edge-litert"),
            model,
            ctx,
        )
