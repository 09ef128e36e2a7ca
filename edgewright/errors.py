"""One exception tree: every error a user can cause has a message, a hint and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "EXTRAS",
    "ArtifactError",
    "BudgetError",
    "ConversionError",
    "DeviceBusyError",
    "DeviceError",
    "EdgewrightError",
    "EngineError",
    "MeterError",
    "MissingPackageError",
    "ModelError",
    "PlacementError",
    "PluginError",
    "RegressionError",
    "SamplesError",
    "ShapeError",
    "SinkError",
    "SourceError",
    "UnsupportedError",
    "UntrustedCodeError",
    "UsageError",
    "VerificationError",
    "WorkerCrashError",
    "WorkerError",
    "WorkerMemoryError",
    "WorkerTimeoutError",
    "error_from_json",
    "needs",
]

EXTRAS: dict[str, tuple[str, ...]] = {
    "litert": ("ai_edge_litert", "tflite_runtime"),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime",),
    "video": ("cv2",),
    "mqtt": ("paho",),
    "serial": ("serial",),
    "kafka": ("confluent_kafka",),
    "monitor": ("prometheus_client",),
    "ssh": ("asyncssh",),
    "metrics": ("sklearn",),
    "report": ("jinja2", "vl_convert"),
    "tensorboard": ("tensorboard",),
    "convert": (
        "ai_edge_litert",
        "ai_edge_quantizer",
        "cv2",
        "flatbuffers",
        "h5py",
        "keras",
        "nncf",
        "onnx",
        "openvino",
        "pydantic",
        "tensorflow",
        "tf_keras",
    ),
}
"""Which importable packages each installation extra brings."""


class EdgewrightError(Exception):
    """Base of every error that Edgewright raises on purpose.

    Args:
        message: one sentence of what is wrong, with the expected and the found value.
        hint: one sentence of what to do about it; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_json(self) -> dict[str, str]:
        """Plain form that crosses process borders; `error_from_json` reads it back."""
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}


class UsageError(EdgewrightError):
    """The command line or a call asks for something that cannot be asked for."""

    exit_code = 2


class ModelError(EdgewrightError):
    """A model file is missing, of no known format, truncated or corrupt."""


class UntrustedCodeError(ModelError):
    """A model carries code that would run on loading and `--trust` was not given."""


class UnsupportedError(EdgewrightError):
    """A model or option that is valid but cannot be expressed in the target."""


class ConversionError(EdgewrightError):
    """A converter refused or failed."""


class SamplesError(EdgewrightError):
    """Samples are missing, too few, malformed, or hold values that no model can use."""


class ShapeError(SamplesError):
    """An array's shape or dtype is not the one that the model takes."""


class ArtifactError(EdgewrightError):
    """An artifact's sidecar is unreadable or does not describe the file beside it."""


class EngineError(EdgewrightError):
    """An inference engine cannot load or run a model."""


class SourceError(EdgewrightError):
    """A source of frames or sensor samples cannot be opened, broke off for good, or gives what no stream can use."""


class SinkError(EdgewrightError):
    """Results cannot be written where they were to go."""


class DeviceError(EdgewrightError):
    """A board cannot be reached, refuses a command, lacks what is needed, or went away."""


class DeviceBusyError(DeviceError):
    """Another run holds the board."""


class MeterError(EdgewrightError):
    """A power meter is missing, cannot be read, or gave a trace that no figure can be taken from."""


class PluginError(EdgewrightError):
    """A plug-in is unknown, or was written for another version of its interface."""


class MissingPackageError(EdgewrightError):
    """A package of an extra is not installed."""


class BudgetError(EdgewrightError):
    """An accuracy, size or latency budget is broken."""

    exit_code = 3


class PlacementError(BudgetError):
    """Less of a model runs where it was expected to run than `--expect` asks for."""


class RegressionError(EdgewrightError):
    """A figure is worse than in the report that it is compared with, by more than was allowed."""

    exit_code = 5


class VerificationError(EdgewrightError):
    """A candidate does not compute what its reference computes, within the limits given."""

    exit_code = 4


class WorkerError(EdgewrightError):
    """A child process failed in a way that is not an Edgewright error of its own."""


class WorkerCrashError(WorkerError):
    """A child process was ended by a signal or exited without an answer."""


class WorkerMemoryError(WorkerError):
    """A child process passed its memory limit or was killed for memory."""


class WorkerTimeoutError(WorkerError):
    """A child process passed its time limit."""


def _subclasses(cls: type[EdgewrightError]) -> Iterator[type[EdgewrightError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _subclasses(sub)


def error_from_json(data: dict[str, str]) -> EdgewrightError:
    """The error that `EdgewrightError.to_json` described; an unknown type becomes the base class."""
    by_name = {cls.__name__: cls for cls in _subclasses(EdgewrightError)}
    cls = by_name.get(data.get("type", ""), EdgewrightError)
    return cls(data.get("message", "unknown error"), data.get("hint", ""))


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing package of an extra into one line that says how to install it.

    Only an ImportError that names a package of this extra is translated: a package that is
    there but broken keeps its own message.

    Args:
        extra: a key of `EXTRAS`.

    Raises:
        MissingPackageError: one of the extra's packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").partition(".")[0]
        if top not in EXTRAS[extra] or "." in (error.name or ""):
            raise
        raise MissingPackageError(
            f"the package '{top}' is not installed",
            hint=f"pip install 'edgewright[{extra}]'",
        ) from error
