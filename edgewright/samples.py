"""Samples: calibration, training and evaluation data as re-iterable, sized, seeded batches of {input: array}.

Sources: an `.npz` (arrays by input name, labels `y` or `y:<output>`, slices `slice:<name>`), an `.npy`, a folder of
images (by class, or flat), a `.csv` recording, `package.module:function`, or a mapping like an `.npz` in memory. A file
`labels.txt` beside the file, or in the folder of images, names the classes, one a line. Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import itertools
import json
import logging
import math
import re
import sys
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec, atomic_folder
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.preprocess import Preprocess, encode, read_image

__all__ = ["Samples", "SamplesSpec", "open_samples"]

Array = NDArray[Any]
Pick = tuple[int, int | None]

LOG = logging.getLogger("edgewright")
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
KINDS = "an .npz, .npy or .csv file, a folder of images, or package.module:function"
NPZ_LIMIT_BYTES = 16 << 30
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class SamplesSpec:
    """How to open the same samples again, in another process: plain values only.

    Args:
        source: a path or `package.module:function`.
        window: rows per window; None takes each row or array as one sample.
        stride: rows from one window's start to the next; None means the window's length.
        limit: how many samples to keep; None keeps all.
        seed: of the draw of `limit` samples; None takes the first ones.
        preprocess: declaration per input, as `Preprocess.to_json` writes it.
        earlier: (limit, seed) of selections made before that one, oldest first.
    """

    source: str
    window: int | None = None
    stride: int | None = None
    limit: int | None = None
    seed: int | None = None
    preprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    earlier: tuple[Pick, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "source": self.source,
            "window": self.window,
            "stride": self.stride,
            "limit": self.limit,
            "seed": self.seed,
            "preprocess": {name: dict(value) for name, value in self.preprocess.items()},
            "earlier": [list(pick) for pick in self.earlier],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SamplesSpec:
        """Inverse of `to_json`."""
        return cls(**{**data, "earlier": tuple((limit, seed) for limit, seed in data.get("earlier", ()))})

    def open(self, inputs: tuple[TensorSpec, ...]) -> Samples:
        """The samples; raises what `open_samples` raises."""
        samples = open_samples(self.source, inputs, window=self.window, stride=self.stride, preprocess=self.preprocess)
        for limit, seed in self.picks:
            samples = samples.take(limit) if seed is None else samples.draw(limit, seed)
        return samples

    @property
    def picks(self) -> tuple[Pick, ...]:
        """All selections, oldest first."""
        return self.earlier if self.limit is None else (*self.earlier, (self.limit, self.seed))

    def pick(self, limit: int, seed: int | None) -> SamplesSpec:
        """A copy with one more selection."""
        return replace(self, limit=limit, seed=seed, earlier=self.picks)


@dataclass(slots=True)
class _Source:
    """Raw samples of one origin, read by ascending index; labels and slices are small and in memory."""

    name: str
    count: int
    labels: dict[str, Array] = field(default_factory=dict)
    slices: dict[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        raise NotImplementedError

    def digest(self) -> str | None:
        raise NotImplementedError

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        """What to do about samples of a wrong shape."""
        wanted = spec.shape[1:]
        if len(wanted) == 2 and shape[-1:] == wanted[1:] and wanted[0] is not None and len(shape) <= 2:
            return f"pass windows of {wanted[0]} samples, or add --window {wanted[0]} to cut them from a recording"
        if [n for n in shape if n != 1] == [n for n in wanted if n != 1]:
            return "they differ in axes of size 1 only: reshape the array"
        return "reshape the arrays, or declare the preprocessing that leads from the raw samples to the input"


class Samples:
    """Sized samples for a model's inputs that can be iterated again and again; made by `open_samples`.

    Attributes:
        inputs: names of the model's inputs.
        labels: arrays whose first axis is the sample, by output name; "y" where the file names no output; empty if none.
        slices: arrays whose first axis is the sample, by slice name, for example the recording or the subject.
        class_names: names of the classes in index order; empty if not known.
        warnings: what was suspicious so far; also logged on "edgewright".
    """

    def __init__(
        self,
        source: _Source,
        specs: tuple[TensorSpec, ...],
        preprocess: Mapping[str, Preprocess],
        spec: SamplesSpec,
        memory: Mapping[str, Array] | None = None,
    ) -> None:
        self.inputs = tuple(spec.name for spec in specs)
        self.labels = dict(source.labels)
        self.slices = dict(source.slices)
        self.class_names = source.classes
        self.warnings: list[str] = []
        self._source, self._specs, self._preprocess, self._spec, self._memory = source, specs, dict(preprocess), spec, memory
        self._indices = np.arange(source.count)
        self._warned: set[str] = set()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._indices)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Single samples, each with a leading batch axis of 1; see `batches`."""
        return self.batches(1)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Model-ready arrays by input name, read and preprocessed as they are asked for.

        Args:
            size: samples per batch; the last batch may have fewer.

        Returns:
            dicts of arrays (batch, *input shape): float32, or the spec's own dtype for inputs that are integers without a
            scale, such as token ids.

        Raises:
            UsageError: the size is below 1.
            ShapeError: a sample's shape or dtype does not fit the input.
            SamplesError: a sample holds NaN, cannot be read, or the source gives fewer samples than it has said.
        """
        if size < 1:
            raise UsageError(f"batches of {size} samples were asked for, 1 is the least")
        return self._batches(size)

    def _batches(self, size: int) -> Iterator[dict[str, Array]]:
        first: dict[str, Array] = {}
        same = dict.fromkeys(self.inputs, True)
        pending: list[dict[str, Array]] = []
        for index, raw in zip(self._indices, self._source.read(self._indices), strict=True):
            ready = {spec.name: self._ready(spec, raw[spec.name], int(index)) for spec in self._specs}
            first = first or ready
            same = {name: equal and np.array_equal(first[name], ready[name]) for name, equal in same.items()}
            pending.append(ready)
            if len(pending) == size:
                yield _stacked(pending)
                pending = []
        if pending:
            yield _stacked(pending)
        for name in (name for name, equal in same.items() if equal and len(self) > 1):
            low, high = first[name].min(), first[name].max()
            what = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            self._warn(
                f"constant:{name}", f"all {len(self)} samples of input '{name}' from {self._source.name} are equal ({what})"
            )

    def check(self) -> list[str]:
        """Read every sample once, in small batches, and return the warnings; raises what `batches` raises."""
        for _ in self.batches(1):
            pass
        return self.warnings

    def require(self, minimum: int, purpose: str, *, recommended: int = 100) -> None:
        """Ask for enough samples: too few are an error, fewer than recommended a warning.

        Raises:
            SamplesError: there are fewer than `minimum`; the message has the purpose and both numbers.
        """
        name = ", ".join(f"'{name}'" for name in self.inputs)
        found = f"{purpose} has {len(self)} samples for input {name}"
        if len(self) < minimum:
            raise SamplesError(f"{found}, {minimum} or more are needed", hint=f"add samples to {self._source.name}")
        if len(self) < recommended:
            self._warn(f"few:{purpose}:{len(self)}", f"{found}, {recommended} or more are recommended")

    def take(self, n: int) -> Samples:
        """The first n samples, or all if there are fewer."""
        return self._subset(n, None)

    def draw(self, n: int, seed: int) -> Samples:
        """A random n of the samples, or all if there are fewer; the same ones for the same seed, in their own order."""
        return self._subset(n, seed)

    def _subset(self, n: int, seed: int | None) -> Samples:
        if n < 1:
            raise UsageError(f"{n} samples were asked for, 1 is the least")
        keep = np.arange(min(n, len(self)))
        if seed is not None and n < len(self):
            keep = np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False))
        subset = Samples(self._source, self._specs, self._preprocess, self._spec.pick(n, seed), self._memory)
        subset.labels = {name: values[keep] for name, values in self.labels.items()}
        subset.slices = {name: values[keep] for name, values in self.slices.items()}
        subset.warnings, subset._warned, subset._indices = self.warnings, self._warned, self._indices[keep]
        return subset

    def digest(self) -> str | None:
        """Sha256 over the content and every option; None for a function whose source code is not available."""
        content = self._source.digest()
        options = {**self._spec.to_json(), "source": content, "inputs": self.inputs, "classes": self.class_names}
        return None if content is None else hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """One line for people: how many, of what, from where."""
        shapes = ", ".join(f"{s.name} ({', '.join('?' if n is None else str(n) for n in s.shape[1:])})" for s in self._specs)
        parts = [f"{len(self)} samples from {self._source.name}: {shapes}"]
        if self.labels:
            parts.append(f"labels {', '.join(self.labels)}" + (f" ({len(self.class_names)} classes)" if self.class_names else ""))
        if self.slices:
            parts.append(f"slices {', '.join(self.slices)}")
        parts += [f"first {n}" if seed is None else f"{n} drawn with seed {seed}" for n, seed in self._spec.picks]
        return "; ".join(parts)

    def to_spec(self, folder: Path | None = None) -> SamplesSpec:
        """What another process needs to open the same samples.

        Args:
            folder: where arrays that are in memory only are written, as an .npz named after their digest.

        Raises:
            SamplesError: the samples are in memory only and no folder is given.
            ArtifactError: the folder cannot be written.
        """
        if self._memory is None:
            return self._spec
        if folder is None:
            raise SamplesError("samples that are in memory only cannot be opened in another process", hint="name a folder")
        name = f"samples-{(self._source.digest() or '')[:16]}.npz"
        with atomic_folder(folder) as temporary, zipfile.ZipFile(temporary / name, "w") as archive:
            for key, values in self._memory.items():  # np.savez cannot write an array called "file"
                with archive.open(f"{key}.npy", "w", force_zip64=True) as handle:
                    np.lib.format.write_array(handle, values, allow_pickle=False)
        return replace(self._spec, source=str((folder / name).resolve()))

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self.warnings.append(message)
            LOG.warning(message)

    def _ready(self, spec: TensorSpec, raw: Any, index: int) -> Array:
        """One sample of one input, preprocessed and checked, without batch axis."""
        value, declared = np.asarray(raw), self._preprocess.get(spec.name)
        if value.dtype.kind not in "fiub":
            raise ShapeError(f"samples for input '{spec.name}' have dtype {value.dtype}, the model takes {spec.dtype}")
        whole = not spec.quantized and spec.dtype.startswith(("int", "uint", "bool"))
        if declared is not None:
            try:
                value = declared.apply(value)
            except ShapeError as error:
                raise ShapeError(f"sample {index} for input '{spec.name}': {error.message}", hint=error.hint) from error
        elif value.dtype == np.uint8 and not whole and value.size and value.max() > max(20, _reach(spec)):
            self._warn(
                f"uint8:{spec.name}",
                f"samples for input '{spec.name}' are uint8 from {value.min()} to {value.max()} without preprocessing, "
                f"the model takes {spec.dtype}: declare the scale that it was trained with",
            )
        elif value.dtype.kind != "f" and not whole and f"note:{spec.name}" not in self._warned:
            self._warned.add(f"note:{spec.name}")
            LOG.info("samples for input '%s' are %s and are taken as float32", spec.name, value.dtype)
        expected = spec.shape[1:]
        if len(value.shape) != len(expected) or any(n not in (None, m) for n, m in zip(expected, value.shape, strict=True)):
            wanted = str(tuple("?" if n is None else n for n in expected)).replace("'", "")
            raise ShapeError(
                f"samples for input '{spec.name}' have shape {value.shape}, the model takes {wanted}",
                hint=self._source.hint(spec, value.shape),
            )
        if value.dtype.kind == "f" and not (finite := np.isfinite(value)).all():
            bad = f"{value.size - int(finite.sum())} NaN or infinite values of {value.size}"
            hint = f"remove or repair it in {self._source.name}"
            raise SamplesError(f"sample {index} for input '{spec.name}' holds {bad}", hint=hint)
        return encode(spec if whole else replace(spec, dtype="float32", scale=None, zero_point=None), value)


def open_samples(
    source: str | Path | Mapping[str, Any] | SamplesSpec | Samples,
    inputs: tuple[TensorSpec, ...],
    *,
    window: int | None = None,
    stride: int | None = None,
    preprocess: Preprocess | Mapping[str, Preprocess | Mapping[str, Any]] | None = None,
) -> Samples:
    """Samples for a model's inputs; the first one is read and checked, the others as they are streamed.

    Args:
        source: a path, `package.module:function`, arrays by name as in an .npz, a spec, or samples (returned as they are).
        inputs: what the model takes.
        window: cut recordings, arrays of (rows, channels), into windows of this many rows; .csv, .npy, .npz and mappings.
            None takes each row as a sample. A window never spans a change of a slice; its label is its most frequent one.
        stride: rows from one window's start to the next; default the window's length.
        preprocess: what leads from the raw samples to the input, by input name or for the only input.

    Raises:
        SamplesError: there are no samples, or they cannot be read, or their names are not the model's inputs.
        ShapeError: the first sample's shape or dtype does not fit.
        UsageError: options contradict each other or do not fit the source.
    """
    if isinstance(source, (Samples, SamplesSpec)):
        if window or stride or preprocess:
            raise UsageError("samples that are open already take no other window, stride or preprocessing")
        opened = source.open(inputs) if isinstance(source, SamplesSpec) else source
        if opened.inputs != tuple(spec.name for spec in inputs):
            raise SamplesError(f"samples are for the inputs {opened.inputs}, the model has {tuple(s.name for s in inputs)}")
        return opened
    if any(n is not None and n < 1 for n in (window, stride)) or (stride and not window):
        raise UsageError(f"window is {window} and stride is {stride}, both must be 1 or more and a stride needs a window")
    declared = _declared(preprocess, inputs)
    plain = {name: value.to_json() for name, value in declared.items()}
    memory = None
    if isinstance(source, Mapping):
        memory = {key: np.asarray(values) for key, values in source.items()}
        text = ""
        found: _Source = _of_arrays("the arrays in memory", memory, inputs, (), window, stride)
    else:
        text, found = _of_name(str(source), inputs, window, stride)
    if not found.count:
        raise SamplesError(f"{found.name} holds 0 samples, 1 is the least")
    samples = Samples(found, inputs, declared, SamplesSpec(text, window, stride, preprocess=plain), memory)
    next(iter(samples))
    return samples


def _of_name(text: str, inputs: tuple[TensorSpec, ...], window: int | None, stride: int | None) -> tuple[str, _Source]:
    """The source that a path or function name stands for, and the name under which another process finds it."""
    path = Path(text)
    if not path.exists() and FUNCTION.fullmatch(text):
        source: _Source = _of_function(text, inputs)
    elif path.is_dir():
        source = _of_folder(path, inputs)
    elif path.is_file() and path.suffix.lower() in {".npz", ".npy", ".csv"}:
        try:
            arrays = {".npz": _npz, ".npy": _npy, ".csv": _csv}[path.suffix.lower()](path, inputs)
        except OSError as error:
            raise SamplesError(f"{path} cannot be read: {error.strerror or error}") from error
        return str(path.resolve()), _of_arrays(str(path), arrays, inputs, _class_names(path.parent), window, stride)
    else:
        raise SamplesError(f"{text} {'is of no known kind' if path.exists() else 'does not exist'}", hint=f"samples are {KINDS}")
    if window:
        raise UsageError(
            f"a window of {window} was asked for, {text} holds no recordings", hint="windows are cut from .csv, .npy, .npz"
        )
    return text if isinstance(source, _Function) else str(path.resolve()), source


def _declared(
    preprocess: Preprocess | Mapping[str, Preprocess | Mapping[str, Any]] | None, inputs: tuple[TensorSpec, ...]
) -> dict[str, Preprocess]:
    names = [spec.name for spec in inputs]
    if isinstance(preprocess, Preprocess):
        if len(names) != 1:
            raise UsageError(
                f"one preprocessing is declared, the model has the inputs {', '.join(names)}", hint="declare it by name"
            )
        preprocess = {names[0]: preprocess}
    if unknown := sorted(set(preprocess or ()) - set(names)):
        raise UsageError(f"preprocessing is declared for {', '.join(unknown)}, the model has the inputs {', '.join(names)}")
    return {key: v if isinstance(v, Preprocess) else Preprocess.from_json(v) for key, v in (preprocess or {}).items()}


def _reach(spec: TensorSpec) -> float:
    """Largest real value that a quantized input can hold, 0 for a float one."""
    return 0.0 if spec.scale is None else spec.scale * (np.iinfo(spec.dtype).max - (spec.zero_point or 0))


def _stacked(samples: list[dict[str, Array]]) -> dict[str, Array]:
    batch = {}
    for name in samples[0]:
        shapes = {sample[name].shape for sample in samples}
        if len(shapes) > 1:
            raise ShapeError(
                f"samples for input '{name}' have different shapes in one batch: {sorted(shapes)}", hint="use batches of 1"
            )
        batch[name] = np.stack([sample[name] for sample in samples])
    return batch


def _only(inputs: tuple[TensorSpec, ...], what: str) -> str:
    if len(inputs) != 1:
        raise SamplesError(
            f"{what} feeds one input, the model has {', '.join(s.name for s in inputs)}", hint="use an .npz with a name each"
        )
    return inputs[0].name


def _class_names(folder: Path) -> tuple[str, ...]:
    """The lines of labels.txt in a folder, empty if there is none."""
    path = folder / "labels.txt"
    try:
        return tuple(filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines()))) if path.is_file() else ()
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError(f"{path} cannot be read: {error}") from error


# --- arrays: .npz, .npy, .csv and mappings ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Arrays(_Source):
    """Arrays whose first axis is the sample, or the row where windows are cut."""

    arrays: dict[str, Array] = field(default_factory=dict)
    starts: Array | None = None
    window: int = 0

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


def _of_arrays(
    name: str,
    arrays: Mapping[str, Array],
    inputs: tuple[TensorSpec, ...],
    classes: tuple[str, ...],
    window: int | None,
    stride: int | None,
) -> _Arrays:
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
        labels[key.removeprefix("y:")], classes = _labels(arrays[key], classes, f"'{key}' in {name}")
    slices = {key.removeprefix("slice:"): arrays[key] for key in sorted(reserved) if key.startswith("slice:")}
    if window is None or not count:
        return _Arrays(name, count, labels, slices, classes, data)
    starts = _starts(name, slices, count, window, stride or window)
    labels = {key: np.stack([_commonest(v[s : s + window]) for s in starts]) for key, v in labels.items()}
    slices = {key: values[starts] for key, values in slices.items()}
    return _Arrays(name, len(starts), labels, slices, classes, data, starts, window)


def _labels(values: Array, classes: tuple[str, ...], what: str) -> tuple[Array, tuple[str, ...]]:
    """Labels as numbers: texts become indices of the classes, which are the sorted texts if no others are given."""
    if values.dtype.kind == "U":
        classes = classes or tuple(sorted({str(value) for value in values.flat}))
        index = {name: at for at, name in enumerate(classes)}
        if unknown := sorted({str(value) for value in values.flat} - set(classes)):
            raise SamplesError(f"labels {what} hold {', '.join(unknown[:5])}, labels.txt has {', '.join(classes[:20])}")
        return np.asarray([index[str(value)] for value in values.flat], np.int64).reshape(values.shape), classes
    if values.dtype.kind not in "fiub" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise SamplesError(f"labels {what} have dtype {values.dtype} or hold NaN, they must be numbers or texts")
    return values, classes


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


def _npy(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    name = _only(inputs, f"the single array in {path}")
    try:
        return {name: np.lib.format.open_memmap(path, mode="r")}
    except (ValueError, EOFError, SyntaxError) as error:
        raise SamplesError(f"{path} is no readable .npy file: {error}", hint="write it with numpy.save, no objects") from error


def _npz(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
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


def _csv(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Numeric columns as one float32 array (rows, channels); label and slice columns as arrays of their own."""
    name = _only(inputs, f"the recording {path}")
    columns: list[str] = []
    values, texts = array("f"), {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            delimiter = max(",;\t", key=handle.readline().count)
            handle.seek(0)
            rows = csv.reader(handle, delimiter=delimiter)
            for row in filter(None, rows):
                if not columns:
                    columns, header = _columns(row)
                    keys = {at: "y" if column == "label" else column for at, column in enumerate(columns) if _is_label(column)}
                    if len(set(keys.values())) < len(keys):
                        raise SamplesError(f"{path} has more than one column for the same labels: {', '.join(keys.values())}")
                    texts = {at: list[str]() for at in keys}
                    channels = [at for at in range(len(columns)) if at not in keys]
                    if header:
                        continue
                if len(row) != len(columns):
                    raise SamplesError(f"{path}: row {rows.line_num} has {len(row)} columns, the first row has {len(columns)}")
                for at in channels:
                    values.append(_number(path, rows.line_num, columns[at], row[at]))
                for at, cells in texts.items():
                    cells.append(row[at].strip())
                    if not cells[-1]:
                        raise SamplesError(f"{path}: row {rows.line_num}, column {columns[at]} is empty, it must hold a label")
    except (csv.Error, UnicodeDecodeError) as error:
        raise SamplesError(f"{path} is no readable CSV file: {error}") from error
    if not columns:
        raise SamplesError(f"{path} is empty: it has 0 rows")
    if not channels:
        raise SamplesError(f"{path} has the columns {', '.join(columns)}, none of them is a channel")
    recording = np.asarray(values, np.float32).reshape(-1, len(channels))
    return {name: recording, **{keys[at]: _column(cells) for at, cells in texts.items()}}


def _is_label(column: str) -> bool:
    return column in {"y", "label"} or column.startswith(("y:", "slice:"))


def _columns(row: list[str]) -> tuple[list[str], bool]:
    """Column names, and whether the first row gives them: it does if it names a label column or holds no number at all."""
    cells = [cell.strip() for cell in row]
    words = [cell for cell in cells if not _is_number(cell)]
    if words and (len(words) == len(cells) or any(map(_is_label, words))):
        return cells, True
    return [str(at + 1) for at in range(len(cells))], False


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, row: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SamplesError(f"{path}: row {row}, column {column} holds '{cell}', it must be a finite number")
    return value


def _column(cells: list[str]) -> Array:
    """Label cells as int64, float64 or texts, whichever fits all of them first."""
    for kind in (int, float):
        try:
            return np.asarray([kind(cell) for cell in cells])
        except (ValueError, OverflowError):
            continue
    return np.asarray(cells)


# --- images ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Images(_Source):
    """Image files, decoded one by one."""

    input: str = ""
    files: list[Path] = field(default_factory=list)

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        for index in indices:
            yield {self.input: read_image(self.files[index])}

    def digest(self) -> str | None:
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.relative_to(self.name).as_posix()}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        return "declare the preprocessing of the images, for example size=224x224,color=rgb,scale=1/255"


def _of_folder(folder: Path, inputs: tuple[TensorSpec, ...]) -> _Images:
    """Images of one folder per class, or of a flat folder without labels."""
    name = _only(inputs, f"the folder of images {folder}")
    classes = _class_names(folder)
    folders = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))
    if not folders:
        files = _images_in(folder)
        if not files:
            raise SamplesError(
                f"the folder {folder} holds 0 images, 1 is the least", hint=f"known: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return _Images(str(folder), len(files), classes=classes, input=name, files=files)
    known = classes or tuple(child.name for child in folders)
    if unknown := [child.name for child in folders if child.name not in known]:
        raise SamplesError(f"{folder} has the class folders {', '.join(unknown)}, labels.txt has {', '.join(known)}")
    found = [(file, known.index(child.name)) for child in folders for file in _images_in(child)]
    if not found:
        raise SamplesError(f"the class folders in {folder} hold 0 images, 1 is the least")
    labels = {"y": np.asarray([label for _, label in found], np.int64)}
    return _Images(str(folder), len(found), labels, classes=known, input=name, files=[file for file, _ in found])


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))


# --- functions -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Function(_Source):
    """What a user's function gives, called anew for each pass."""

    function: Callable[[], Iterable[Any]] = tuple
    inputs: tuple[TensorSpec, ...] = ()

    def items(self) -> Iterator[tuple[dict[str, Array], Any]]:
        """(arrays without batch axis, label or None) of each item; the user's exceptions become SamplesError."""
        names = {spec.name for spec in self.inputs}
        iterator = None
        while True:
            try:
                iterator = iter(self.function()) if iterator is None else iterator
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise SamplesError(f"{self.name} failed: {type(error).__name__}: {error}") from error
            data, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            data = data if isinstance(data, Mapping) else {_only(self.inputs, f"an array of {self.name}"): data}
            if set(data) != names:
                given, wanted = ", ".join(sorted(map(str, data))), ", ".join(sorted(names))
                raise SamplesError(f"{self.name} gives the arrays {given}, the model has the inputs {wanted}")
            arrays = {spec.name: np.asarray(data[spec.name]) for spec in self.inputs}
            batched = {s.name for s in self.inputs if arrays[s.name].ndim == len(s.shape) > 0 and arrays[s.name].shape[0] == 1}
            yield {key: values[0] if key in batched else values for key, values in arrays.items()}, label

    def measure(self) -> None:
        """Count the items and keep their labels in one pass, or ask for the length where there is one and no labels."""
        labels: list[Mapping[str, Any]] = []
        for _, label in self.items():
            self.count += 1
            if label is None and self.count == 1 and (length := self.length()) is not None:
                self.count = length
                return
            if label is not None:
                labels.append(label if isinstance(label, Mapping) else {"y": label})
        if labels and (len(labels) != self.count or any(set(label) != set(labels[0]) for label in labels)):
            raise SamplesError(
                f"{self.name} gives {self.count} samples, {len(labels)} of them with a label, or labels of different outputs"
            )
        try:
            arrays = {key: np.asarray([label[key] for label in labels]) for key in (labels[0] if labels else ())}
        except ValueError as error:
            raise SamplesError(f"{self.name} gives labels of different shapes: {error}") from error
        for key, values in arrays.items():
            self.labels[key], self.classes = _labels(values, self.classes, f"of {self.name}")

    def length(self) -> int | None:
        try:
            return len(self.function())  # type: ignore[arg-type]
        except TypeError:
            return None

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        wanted, at = iter(indices), -1
        items = self.items()
        for index in wanted:
            while at < index:
                data, _ = next(items, ({}, None))
                at += 1
                if not data:
                    raise SamplesError(
                        f"{self.name} gave {at} samples, it had {self.count} before", hint="give the same ones each time"
                    )
            yield data

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        return f"change what {self.name} gives, or declare the preprocessing that leads to the input"

    def digest(self) -> str | None:
        try:
            return hashlib.sha256(inspect.getsource(sys.modules[self.function.__module__]).encode()).hexdigest()
        except (OSError, TypeError, KeyError, AttributeError):
            return None


def _of_function(text: str, inputs: tuple[TensorSpec, ...]) -> _Function:
    module, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # and stays: the function may import its neighbours when it is called
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SamplesError(
            f"the function {text} cannot be loaded: {type(error).__name__}: {error}", hint=f"samples are {KINDS}"
        ) from error
    if not callable(function):
        raise SamplesError(f"{text} is a {type(function).__name__}, it must be a function")
    source = _Function(text, 0, function=function, inputs=inputs)
    source.measure()
    return source
