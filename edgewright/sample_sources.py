"""Where samples come from: arrays, .npz, .npy, .csv, folders of images, functions; read lazily, nothing unpickled."""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import itertools
import logging
import math
import re
import sys
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.coco import read_coco
from edgewright.declared import says_number
from edgewright.errors import SamplesError, UsageError
from edgewright.preprocess import read_image

__all__ = ["FUNCTION", "Source", "source_of_arrays", "source_of_name"]

Array = NDArray[Any]

LOG = logging.getLogger("edgewright")
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
KINDS = "an .npz, .npy or .csv file, a folder of images, a COCO .json, or package.module:function"
NPZ_LIMIT_BYTES = 16 << 30
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(slots=True)
class Source:
    """Raw samples of one origin, read by ascending index; labels and slices are small and in memory."""

    name: str
    count: int
    labels: dict[str, Array] = field(default_factory=dict)
    slices: dict[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        """Raw samples at ascending indices, one mapping from input name to array each."""
        raise NotImplementedError

    def digest(self) -> str | None:
        """Sha256 of the content, None if it cannot be known."""
        raise NotImplementedError

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        """What to do about samples of a wrong shape."""
        wanted = spec.shape[1:]
        rows = wanted[0] if len(wanted) == 2 and shape[-1:] == wanted[1:] else None
        if rows is not None and len(shape) == 1:
            return f"pass windows of {rows} samples, or add --window {rows} to cut them from a recording"
        if rows is not None and len(shape) == 2:
            return f"cut windows of {rows} rows, these have {shape[0]}"
        if [n for n in shape if n != 1] == [n for n in wanted if n != 1]:
            return "they differ in axes of size 1 only: reshape the array"
        return "reshape the arrays, or declare the preprocessing that leads from the raw samples to the input"


def source_of_name(text: str, inputs: tuple[TensorSpec, ...], window: int | None, stride: int | None) -> tuple[str, Source]:
    """The source that a path or function name stands for, and the name under which another process finds it."""
    path = Path(text)
    if not path.exists() and FUNCTION.fullmatch(text):
        source: Source = _of_function(text, inputs)
    elif path.is_dir():
        source = _of_folder(path, inputs)
    elif path.is_file() and path.suffix.lower() == ".json":
        source = _of_coco(path, inputs)
    elif path.is_file() and path.suffix.lower() in {".npz", ".npy", ".csv"}:
        try:
            arrays, columns = {".npz": _npz, ".npy": _npy, ".csv": _csv}[path.suffix.lower()](path, inputs)
        except OSError as error:
            raise SamplesError(f"{path} cannot be read: {error.strerror or error}") from error
        found = source_of_arrays(str(path), arrays, inputs, _class_names(path.parent), window, stride)
        found.columns = columns
        return str(path.resolve()), found
    else:
        raise SamplesError(f"{text} {'is of no known kind' if path.exists() else 'does not exist'}", hint=f"samples are {KINDS}")
    if window:
        raise UsageError(
            f"a window of {window} was asked for, {text} holds no recordings", hint="windows are cut from .csv, .npy, .npz"
        )
    return text if isinstance(source, _Function) else str(path.resolve()), source


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
class _Arrays(Source):
    """Arrays whose first axis is the sample, or the row where windows are cut."""

    arrays: dict[str, Array] = field(default_factory=dict)
    starts: Array | None = None
    window: int = 0
    columns: tuple[str, ...] = ()  # names of a CSV's channels

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
        if channels is None or len(self.columns) <= channels or shape[-1:] != (len(self.columns),):
            return Source.hint(self, spec, shape)  # no super(): slots make a new class
        cut = f", and add --window {wanted[0]}" if len(shape) == 1 and len(wanted) == 2 and wanted[0] is not None else ""
        return f"the columns are {', '.join(self.columns)}: remove those that are no input, it has {channels}{cut}"


def source_of_arrays(
    name: str,
    arrays: Mapping[str, Array],
    inputs: tuple[TensorSpec, ...],
    classes: tuple[str, ...],
    window: int | None,
    stride: int | None,
) -> _Arrays:
    """Samples of arrays by name: inputs, labels `y` or `y:<output>`, slices `slice:<name>`; cut into windows if asked.

    Args:
        name: what messages call the arrays.
        arrays: shape (samples, ...) each, or (rows, channels) with a window.
        inputs: what the model takes.
        classes: names of the classes, empty if they are not named.
        window: rows per window, or None.
        stride: rows from one window to the next, or None for the window.

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


def _npy(path: Path, inputs: tuple[TensorSpec, ...]) -> tuple[dict[str, Array], tuple[str, ...]]:
    name = _only(inputs, f"the single array in {path}")
    try:
        return {name: np.lib.format.open_memmap(path, mode="r")}, ()
    except (ValueError, EOFError, SyntaxError) as error:
        raise SamplesError(f"{path} is no readable .npy file: {error}", hint="write it with numpy.save, no objects") from error


def _npz(path: Path, inputs: tuple[TensorSpec, ...]) -> tuple[dict[str, Array], tuple[str, ...]]:
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
    return arrays, ()


def _free_memory_bytes() -> int:
    """Memory that programs may still take, NPZ_LIMIT_BYTES where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else NPZ_LIMIT_BYTES


def _csv(path: Path, inputs: tuple[TensorSpec, ...]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Numeric columns as one float32 array (rows, channels), label and slice columns as their own; names of the former."""
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
    arrays = {name: recording, **{keys[at]: _column(cells) for at, cells in texts.items()}}
    return arrays, tuple(columns[at] for at in channels)


def _is_label(column: str) -> bool:
    return column in {"y", "label"} or column.startswith(("y:", "slice:"))


def _columns(row: list[str]) -> tuple[list[str], bool]:
    """Column names, and whether the first row gives them: it does if it names a label column or holds no number at all."""
    cells = [cell.strip() for cell in row]
    words = [cell for cell in cells if not says_number(cell)]
    if words and (len(words) == len(cells) or any(map(_is_label, words))):
        return cells, True
    return [str(at + 1) for at in range(len(cells))], False


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
class _Images(Source):
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


@dataclass(slots=True)
class _Annotated(_Images):
    """Image files that a COCO file lists, with the boxes in them."""

    def digest(self) -> str | None:
        total = hashlib.sha256(Path(self.name).read_bytes())
        for file in self.files:
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()


def _of_coco(path: Path, inputs: tuple[TensorSpec, ...]) -> _Annotated:
    """Images with the labels `boxes` and `size`; see `edgewright.coco`."""
    found = read_coco(path)
    labels = {"boxes": found.boxes, "size": found.sizes}
    name = _only(inputs, f"the images of {path}")
    return _Annotated(str(path), len(found.files), labels, classes=found.classes, input=name, files=found.files)


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))


# --- functions -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Function(Source):
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
