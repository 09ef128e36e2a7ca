"""Samples that are arrays: in memory, of an .npz or an .npy file, whole or cut into windows; nothing is unpickled."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError
from edgewright.labels import encode_labels
from edgewright.sample_origin import Source

__all__ = ["read_npy", "read_npz", "source_of_arrays"]

Array = NDArray[Any]

LOG = logging.getLogger("edgewright")
NPZ_LIMIT_BYTES = 16 << 30


@dataclass(slots=True)
class _Arrays(Source):
    """Arrays whose first axis is the sample, or the row where windows are cut."""

    arrays: dict[str, Array] = field(default_factory=dict)
    starts: Array | None = None
    window: int = 0
    columns: tuple[str, ...] = ()  # names of the channels, where the arrays have them

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        for index in indices:
            start = index if self.starts is None else self.starts[index]
            where = index if self.starts is None else slice(start, start + self.window)
            yield {name: values[where] for name, values in self.arrays.items()}

    def digest(self) -> str | None:
        total = hashlib.sha256()
        for kind, arrays in (("input", self.arrays), ("y", self.labels), ("slice", self.slices)):
            for name, values in sorted(arrays.items()):
                total.update(f"{kind}:{name}:{values.dtype}:{values.shape}\n".encode())
                total.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        return total.hexdigest()

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        wanted = spec.shape[1:]
        channels = wanted[-1] if wanted else None
        given = len(self.columns)
        if channels is None or not given or given == channels or shape[-1:] != (given,):
            return Source.hint(self, spec, shape)  # no super(): slots make a new class
        if given == channels - 1 and "y" in self.labels:
            return "a column called y or label holds the labels: call an axis otherwise, for example ay"
        if given < channels:
            return Source.hint(self, spec, shape)
        cut = f", and add --window {wanted[0]}" if len(shape) == 1 and len(wanted) == 2 and wanted[0] is not None else ""
        return f"the columns are {', '.join(self.columns)}: remove those that are no input, it has {channels}{cut}"


def source_of_arrays(
    name: str,
    arrays: Mapping[str, Array],
    inputs: tuple[TensorSpec, ...],
    classes: tuple[str, ...],
    window: int | None,
    stride: int | None,
    columns: tuple[str, ...] = (),
) -> Source:
    """Samples of arrays by name: inputs, labels `y` or `y:<output>`, slices `slice:<name>`; cut into windows if asked.

    Args:
        name: what messages call the arrays.
        arrays: shape (samples, ...) each, or (rows, channels) with a window.
        inputs: what the model takes.
        classes: names of the classes, empty if they are not named.
        window: rows per window, or None.
        stride: rows from one window to the next, or None for the window.
        columns: names of the channels, for messages; empty if they have none.

    Raises:
        SamplesError: names or lengths do not go together.
    """
    names = [spec.name for spec in inputs]
    reserved = {key for key in arrays if key not in names and (key == "y" or key.startswith(("y:", "slice:")))}
    data = {key: values for key, values in arrays.items() if key not in reserved}
    if len(names) == 1 and len(data) == 1 and names[0] not in data:
        LOG.info("the array '%s' in %s is taken for the input '%s'", next(iter(data)), name, names[0])
        data = {names[0]: next(iter(data.values()))}
    if set(data) != set(names):
        raise SamplesError(
            f"{name} has the arrays {', '.join(sorted(data)) or 'none'}, the model has the inputs {', '.join(names)}",
            hint="name the arrays after the inputs; labels are y or y:<output>, slices slice:<name>",
        )
    lengths = {key: len(arrays[key]) if arrays[key].ndim else 0 for key in reserved}
    lengths = {**{key: len(values) if values.ndim else 0 for key, values in data.items()}, **lengths}
    count = lengths[names[0]]
    for key, length in lengths.items():
        if length != count:
            raise SamplesError(f"'{key}' in {name} has {length} entries, the input '{names[0]}' has {count} samples")
    labels: dict[str, Array] = {}
    for key in sorted(key for key in reserved if not key.startswith("slice:")):
        labels[key.removeprefix("y:")], classes = encode_labels(arrays[key], classes, f"'{key}' in {name}")
    slices = {key.removeprefix("slice:"): arrays[key] for key in sorted(reserved) if key.startswith("slice:")}
    if window is None or not count:
        return _Arrays(name, count, labels, slices, classes, data, columns=columns)
    starts = _starts(name, slices, count, window, stride or window)
    labels = {key: np.stack([_commonest(v[s : s + window]) for s in starts]) for key, v in labels.items()}
    slices = {key: values[starts] for key, values in slices.items()}
    return _Arrays(name, len(starts), labels, slices, classes, data, starts, window, columns)


def _starts(name: str, slices: Mapping[str, Array], count: int, window: int, stride: int) -> Array:
    """First rows of all windows, none of which spans a change in a slice."""
    changes = {0, count}.union(*(np.flatnonzero(values[1:] != values[:-1]) + 1 for values in slices.values()))
    edges = sorted(int(edge) for edge in changes)
    spans = list(itertools.pairwise(edges))
    starts = [start for low, high in spans for start in range(low, high - window + 1, stride)]
    if not starts:
        raise SamplesError(f"no window of {window} rows fits, the longest recording in {name} has {max(b - a for a, b in spans)}")
    return np.asarray(starts)


def _commonest(values: Array) -> Any:
    found, counts = np.unique(values, axis=0, return_counts=True)
    return found[counts.argmax()]


def read_npy(path: Path) -> Array:
    """The array of an .npy file, mapped into memory and read as it is needed.

    Raises:
        SamplesError: it is no such file, or holds objects.
        OSError: it cannot be read.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, SyntaxError) as error:
        raise SamplesError(f"{path} is no readable .npy file: {error}", hint="write it with numpy.save, no objects") from error


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name, in memory.

    Raises:
        SamplesError: it is no such file, holds something else, or unpacks to more than there is room for.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(member.file_size for member in archive.infolist())
        limit = min(NPZ_LIMIT_BYTES, _free_memory_bytes())
        if declared > limit:
            raise SamplesError(
                f"{path} unpacks to {declared / 2**30:.1f} GiB, {limit / 2**30:.1f} GiB is the limit here",
                hint="save the array as an .npy file, which is read piece by piece",
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, KeyError, SyntaxError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise SamplesError(f"{path} is no readable .npz file: {error}", hint="write it with numpy.savez, no objects") from error
    if odd := sorted(name for name, values in arrays.items() if not isinstance(values, np.ndarray)):
        raise SamplesError(f"{path} holds {', '.join(odd)}, which are no arrays", hint="write it with numpy.savez")
    return arrays


def _free_memory_bytes() -> int:
    """Memory that programs may still take, NPZ_LIMIT_BYTES where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else NPZ_LIMIT_BYTES
