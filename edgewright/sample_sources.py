"""Where samples come from: a path or the name of a function leads to the source that reads it."""

from __future__ import annotations

from pathlib import Path

from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError, UsageError
from edgewright.labels import class_names_beside
from edgewright.sample_arrays import read_npy, read_npz, source_of_arrays
from edgewright.sample_functions import FUNCTION, source_of_function
from edgewright.sample_images import source_of_coco, source_of_folder
from edgewright.sample_origin import KINDS, Source, only_input
from edgewright.sample_tables import read_recording

__all__ = ["source_of_name"]


def source_of_name(text: str, inputs: tuple[TensorSpec, ...], window: int | None, stride: int | None) -> tuple[str, Source]:
    """The source that a path or function name stands for, and the name under which another process finds it.

    Args:
        text: a path, or `package.module:function`.
        inputs: what the model takes.
        window: see `source_of_arrays`.
        stride: see `source_of_arrays`.

    Raises:
        SamplesError: there is no such file or function, or it cannot be read.
        UsageError: windows are asked for and there are no recordings to cut them from.
    """
    path, name = Path(text), text
    if not path.exists() and FUNCTION.fullmatch(text):
        source = source_of_function(text, inputs)
    else:
        name = str(path.resolve())
        if path.is_dir():
            source = source_of_folder(path, inputs)
        elif path.is_file() and path.suffix.lower() == ".json":
            source = source_of_coco(path, inputs)
        elif path.is_file() and path.suffix.lower() in {".npz", ".npy", ".csv"}:
            return name, _of_arrays(path, inputs, window, stride)
        else:
            what = "is of no known kind" if path.exists() else "does not exist"
            raise SamplesError(f"{text} {what}", hint=f"samples are {KINDS}")
    if window:
        raise UsageError(
            f"a window of {window} was asked for, {text} holds no recordings", hint="windows are cut from .csv, .npy, .npz"
        )
    return name, source


def _of_arrays(path: Path, inputs: tuple[TensorSpec, ...], window: int | None, stride: int | None) -> Source:
    """The arrays of an .npz, .npy or .csv file."""
    kind = path.suffix.lower()
    columns: tuple[str, ...] = ()
    try:
        if kind == ".npz":
            arrays = read_npz(path)
        elif kind == ".npy":
            arrays = {only_input(inputs, f"the single array in {path}"): read_npy(path)}
        else:
            name, recording = only_input(inputs, f"the recording {path}"), read_recording(path)
            arrays, columns = {name: recording.values, **recording.labels}, recording.channels
    except OSError as error:
        raise SamplesError(f"{path} cannot be read: {error.strerror or error}") from error
    return source_of_arrays(str(path), arrays, inputs, class_names_beside(path.parent), window, stride, columns)
