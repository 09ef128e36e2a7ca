"""Samples: calibration, training and evaluation data as re-iterable, sized, seeded batches of {input: array}.

Sources: an `.npz` (arrays by input name, labels `y` or `y:<output>`, slices `slice:<name>`), an `.npy`, a folder of
images (by class, or flat), a `.csv` recording, `package.module:function`, or a mapping like an `.npz` in memory. A file
`labels.txt` beside the file, or in the folder of images, names the classes, one a line. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec, atomic_folder
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.preprocess import Preprocess, encode
from edgewright.sample_arrays import source_of_arrays
from edgewright.sample_functions import FUNCTION
from edgewright.sample_origin import Source
from edgewright.sample_sources import source_of_name

__all__ = ["Samples", "SamplesSpec", "describe_samples", "is_function", "open_samples"]

Array = NDArray[Any]
Pick = tuple[int, int | None]

LOG = logging.getLogger("edgewright")


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
        source: Source,
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
        spec = self._spec.pick(n, seed) if n < len(self) else self._spec
        subset = Samples(self._source, self._specs, self._preprocess, spec, self._memory)
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
        found = source_of_arrays("the arrays in memory", memory, inputs, (), window, stride)
    else:
        text, found = source_of_name(str(source), inputs, window, stride)
    if not found.count:
        raise SamplesError(f"{found.name} holds 0 samples, 1 is the least")
    samples = Samples(found, inputs, declared, SamplesSpec(text, window, stride, preprocess=plain), memory)
    next(iter(samples))
    return samples


def is_function(source: str) -> bool:
    """Whether a source is the name of a function, whose code runs when it is opened."""
    return not Path(source).exists() and FUNCTION.fullmatch(source) is not None


def describe_samples(samples: Mapping[str, Any], inputs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Digest, description and class names of samples; a job for a child process, JSON in and out."""
    opened = open_samples(SamplesSpec.from_json(samples), tuple(TensorSpec.from_json(spec) for spec in inputs))
    return {"digest": opened.digest(), "text": opened.describe(), "classes": list(opened.class_names)}


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
