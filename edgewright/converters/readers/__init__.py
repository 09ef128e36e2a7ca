"""Model formats that can be read: the interface of a reader, and which reader takes a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.converters.model_info import ModelInfo
from edgewright.errors import ModelError
from edgewright.registry import Kind

__all__ = ["READERS", "LowerOptions", "Reader", "ReferenceReader", "find_reader"]


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """How a Keras model or SavedModel becomes a float32 TFLite file.

    Args:
        batch: the fixed batch size; None keeps a free batch size free.
        unroll: longest sequence up to which recurrent layers are rebuilt unrolled; 0 never unrolls.
        select_tf: allow TensorFlow ops that TFLite does not have (needs a runtime with the Flex delegate).
    """

    batch: int | None = 1
    unroll: int = 0
    select_tf: bool = False


class Reader(Protocol):
    """A model format that can be read. Instances live in a child process: opening may crash the library underneath.

    A reader is made with the path, and with `trust` and `custom` for formats that can carry code.
    """

    format: ClassVar[str]
    consumes_code: ClassVar[bool]
    """Whether the format can carry code that runs on loading."""

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        """Open a model.

        Args:
            path: file or folder.
            trust: run the code that the model carries.
            custom: dotted name of a module that registers the model's custom objects; needs trust.

        Raises:
            ModelError: the file is corrupt, truncated or of another format.
            UntrustedCodeError: the model carries code and `trust` is False.
        """

    @staticmethod
    def sniff(path: Path) -> bool:
        """Whether the content looks like this format; reads little, parses nothing, imports nothing heavy."""

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in the model's order."""

    def info(self) -> ModelInfo:
        """All that `inspect` shows."""


class ReferenceReader(Reader, Protocol):
    """A reader of a training format, which can compute reference outputs and be lowered to TFLite."""

    def reference(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs of the model itself, in inference mode; arrays have a leading batch axis of any size."""

    def lower(self, out: Path, options: LowerOptions) -> None:
        """Write the model as a float32 TFLite file with one signature whose names are those of `specs`.

        Raises:
            UnsupportedError: an op cannot be expressed in TFLite; op and layer are named.
            ConversionError: the converter failed otherwise.
        """

    def recurrent_steps(self) -> dict[str, int | None]:
        """Sequence length of every recurrent layer or loop, by name; None where it is free or unknown."""

    def layer_names(self) -> list[str]:
        """Names of the model's layers, as messages should call them; empty if the format has none."""


READERS: Kind[Reader] = Kind("reader", "edgewright.converters.readers")


def find_reader(path: Path) -> str:
    """Name of the reader that takes a file, by its content.

    Raises:
        ModelError: there is no file, or no reader recognises it.
    """
    for name in READERS.names():
        if READERS.get(name).sniff(path):
            return name
    kind = "folder" if path.is_dir() else "file"
    raise ModelError(
        f"{path} is of no known model format" + (" (the file is empty)" if path.is_file() and not path.stat().st_size else ""),
        hint=f"a {kind} of one of these formats is expected: {', '.join(READERS.names())}",
    )
