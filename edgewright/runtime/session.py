"""One model loaded by one engine: what every engine does alike."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from time import monotonic_ns
from types import TracebackType
from typing import Any, ClassVar, TypeAlias

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import EdgewrightError, EngineError, ShapeError, UnsupportedError, UsageError
from edgewright.runtime.placed import OpTime, Placement

__all__ = ["Array", "Execution", "Session", "Shape"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Shape: TypeAlias = tuple[int, ...]

_WHERE_NOT_WHAT = ("Exception from ", "Check '")
"""How OpenVINO begins the lines that name its source files; the reason stands below them."""

_NOBODY = 0
"""Thread identifier that no thread has."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How an engine really computes a model, which may differ from what the file stores.

    Args:
        precision: of the arithmetic: "float32", "bf16", "float16", "int8", "int16x8", "dynamic int8" (float activations
            quantized on the fly to meet integer weights), "mixed" (see `detail`), or "unknown" where the engine does
            not tell.
        detail: what `precision` was read from, with counts of ops where precisions are mixed.
        device: where it runs and through what, for example "CPU, XNNPACK delegate".
        kinds: every precision that some computing layer ran in, sorted; empty where the engine does not tell.
    """

    precision: str
    detail: str
    device: str
    kinds: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {"precision": self.precision, "detail": self.detail, "device": self.device, "kinds": list(self.kinds)}


class Session(ABC):
    """One model in one engine, for one thread.

    The thread that calls `run` first owns the session; other threads take a `clone`. An engine subclasses this,
    registers with `ENGINES` and writes the hooks whose names start with an underscore.

    Args:
        path: the model file.
        threads: threads that one call may compute with, at least 1.
        exact: compute float ops in float32 even where the engine would choose a lower precision by itself.
        batch: samples of every run, if that is known: engines that plan anew for each batch need not; None leaves it free.

    Raises:
        EngineError: the engine cannot load the file.
        MissingPackageError: the engine's package is not installed.
        UsageError: `threads` is less than 1.
    """

    engine: ClassVar[str]
    """The plug-in's name."""
    formats: ClassVar[tuple[str, ...]]
    """Formats that the engine loads, in the words of `artifact.looks_like`; it is the default for the first."""
    profiler: ClassVar[str] = "the engine's profiler"
    """What `profile` measures with, in words."""

    inputs: tuple[TensorSpec, ...]
    """In the model's order, with the file's own dtypes; a free size is None."""
    outputs: tuple[TensorSpec, ...]
    """In the model's order, with the file's own dtypes."""
    stateful: bool = False
    """Whether a run may depend on those before, so that one session must see one source's samples alone, in order."""
    ahead: int = 1
    """Batches that may be underway at once, from `start` to `finish`; more than 1 keeps an engine busy between two of them."""
    computed_ns: int = 0
    """Nanoseconds that the engine computed the batch that was finished last, without waiting for the one before."""
    execution: Execution
    """The precision and the device that the engine really uses."""
    arena_why_absent: str = ""
    """Why the last `arena_bytes` was None; empty if it was not."""

    def __init__(self, path: Path, *, threads: int = 1, exact: bool = False, batch: int | None = None) -> None:
        if threads < 1:
            raise UsageError(f"threads is {threads}, at least 1 is needed", hint="pass threads=1 or more")
        self.path = path
        self.threads = threads
        self.exact = exact
        self.batch = batch
        self._owner = _NOBODY
        self._owner_name = ""
        self._closed = False
        self._claiming = threading.Lock()
        self._underway = 0
        self._ended: dict[str, Array] = {}
        try:
            self._load()
        except EdgewrightError:
            raise
        except Exception as error:
            raise self._failed("load", error) from error
        self._dtypes = tuple(np.dtype(spec.dtype) for spec in self.inputs)
        self._expected: tuple[tuple[str, Shape, np.dtype[Any]], ...] = ()
        self._forget_shapes()

    # What an engine writes.

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Name and release of the engine's library, for example "ai-edge-litert 2.3.0"; None if it is not installed."""

    @abstractmethod
    def _load(self) -> None:
        """Load `self.path`; set `inputs`, `outputs`, `execution`. Any exception becomes an EngineError."""

    @abstractmethod
    def _bind(self, shapes: tuple[Shape, ...]) -> None:
        """Make ready for inputs of these shapes, one per input in order; called when they change and before the first run."""

    @abstractmethod
    def _execute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute feeds whose names, dtypes and shapes are checked and bound; returned arrays own their memory."""

    @abstractmethod
    def _reset(self) -> None:
        """Clear the state that the model keeps from one run to the next."""

    @abstractmethod
    def _release(self) -> None:
        """Drop everything that the library holds."""

    def _hint(self, text: str) -> str:
        """What to do about a failure of the library, from its message; overridden where messages are known."""
        return "check that the file is whole, or convert the model again"

    # What an engine may write besides.

    def _begin(self, feeds: Mapping[str, Array], more: bool) -> None:
        """Begin to compute feeds as `_execute` gets them; written together with `_end` by an engine whose `ahead` is above 1."""
        start = monotonic_ns()
        self._ended = self._execute(feeds)
        self.computed_ns = monotonic_ns() - start

    def _end(self) -> dict[str, Array]:
        """Outputs of what was begun first, waited for, as `_execute` returns them; sets `computed_ns`."""
        return self._ended

    def _arena(self) -> tuple[int | None, str]:
        """Bytes of the memory that holds activations, or None and the reason."""
        return None, f"{self.engine} does not tell how much memory it plans for activations"

    def _placement(self) -> Placement:
        """Where each op runs.

        Raises:
            UnsupportedError: the engine does not tell; the message says why.
        """
        raise UnsupportedError(f"{self.engine} does not tell which op runs where")

    def _profile(self, feeds: Mapping[str, Array], runs: int) -> tuple[OpTime, ...]:
        """Time the ops of checked and bound feeds.

        Raises:
            UnsupportedError: the engine does not tell; the message says why.
        """
        raise UnsupportedError(f"{self.engine} does not tell how long an op takes")

    # What callers use.

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute one batch.

        Args:
            feeds: one array per input name, of exactly the dtype in `inputs` and of a shape that fits; for quantized
                inputs the stored integers. The arrays are read and not kept.

        Returns:
            One new array per output name, in the order and with the dtypes of `outputs`.

        Raises:
            ShapeError: an input is missing, unknown, or has another shape or dtype.
            EngineError: the session is closed, belongs to another thread, has a batch underway, or the engine failed.
        """
        self._fit(feeds)
        self._at_most(0)
        try:
            return self._execute(feeds)
        except Exception as error:
            raise self._failed("run", error) from error

    def start(self, feeds: Mapping[str, Array], *, more: bool = True) -> None:
        """Begin to compute one batch; `finish` gives its outputs. At most `ahead` batches are underway at a time.

        An engine whose `ahead` is 1 computes here, others compute while the caller does something else.

        Args:
            feeds: as for `run`, which must not be called meanwhile.
            more: whether another batch is going to be started before this one is finished; if not, it may be computed here.

        Raises:
            ShapeError: as for `run`.
            EngineError: as for `run`, or `ahead` batches are underway.
        """
        self._fit(feeds)
        self._at_most(self.ahead - 1)
        try:
            self._begin(feeds, more)
        except Exception as error:
            raise self._failed("run", error) from error
        self._underway += 1

    def finish(self) -> dict[str, Array]:
        """Wait for the batch that was started first.

        Returns:
            As `run` does.

        Raises:
            EngineError: the engine failed, none is underway, or as for `run`.
        """
        self._mine()
        if not self._underway:
            raise EngineError(f"no batch is underway in the session of {self.path.name}", hint="start one first")
        self._underway -= 1
        try:
            return self._end()
        except Exception as error:
            raise self._failed("run", error) from error

    def _fit(self, feeds: Mapping[str, Array]) -> None:
        """Let feeds pass that are as the last ones were, and check others in full; refuse a closed session and other threads."""
        if get_ident() != self._owner:
            self._claim()
        try:
            fits = len(feeds) == self._count
            for name, shape, dtype in self._expected:
                value = feeds[name]
                if value.shape != shape or (value.dtype is not dtype and value.dtype != dtype):
                    fits = False
        except (LookupError, AttributeError, TypeError):
            fits = False
        if not fits:
            self._admit(feeds)

    def reset(self) -> None:
        """Clear the state that a recurrent or otherwise stateful model keeps; nothing for a model without state.

        Raises:
            EngineError: the session is closed, belongs to another thread, has a batch underway, or the engine failed.
        """
        if get_ident() != self._owner:
            self._claim()
        self._at_most(0)
        try:
            self._reset()
        except Exception as error:
            raise self._failed("reset", error) from error

    def arena_bytes(self) -> int | None:
        """Bytes that the engine plans for activations, its own copies of weights left out.

        May load the model once more: call it when times and memory have been taken.

        Returns:
            None where the engine does not tell; `arena_why_absent` then says why.

        Raises:
            EngineError: the session is closed, belongs to another thread, or the engine failed.
        """
        self._mine()
        try:
            found, self.arena_why_absent = self._arena()
        except EdgewrightError:
            raise
        except Exception as error:
            raise self._failed("plan the memory of", error) from error
        return found

    def placement(self) -> Placement:
        """Where each op of the file runs, its multiply-adds, and why no delegate took it.

        May load the model once more: call it when times and memory have been taken.

        Raises:
            UnsupportedError: the engine does not tell; the message says why.
            EngineError: the session is closed, belongs to another thread, or the engine failed.
        """
        self._mine()
        try:
            return self._placement()
        except EdgewrightError:
            raise
        except Exception as error:
            raise self._failed("place the ops of", error) from error

    def profile(self, feeds: Mapping[str, Array], runs: int) -> tuple[OpTime, ...]:
        """Time every op, in a copy of the model that is loaded for it with the engine's profiler on.

        This session's own times stay as they are. Profiling costs time itself: sums may exceed what `run` takes.

        Args:
            feeds: as for `run`.
            runs: inferences to time, at least 1; some come before them untimed.

        Returns:
            The ops in the order in which they ran.

        Raises:
            UnsupportedError: the engine does not tell; the message says why.
            ShapeError: as for `run`.
            UsageError: `runs` is less than 1.
            EngineError: the session is closed, belongs to another thread, or the engine failed.
        """
        if runs < 1:
            raise UsageError(f"runs is {runs}, at least 1 is needed", hint="profile 50 runs or more")
        self._mine()
        self._admit(feeds)
        try:
            return self._profile(feeds, runs)
        except EdgewrightError:
            raise
        except Exception as error:
            raise self._failed("profile", error) from error

    def clone(self) -> Session:
        """A new session of the same file and settings, independent of this one and owned by nobody yet.

        May be called from any thread.

        Raises:
            EngineError: this session is closed, or the file cannot be loaded any more.
        """
        if self._closed:
            raise self._is_closed()
        return type(self)(self.path, threads=self.threads, exact=self.exact, batch=self.batch)

    def close(self) -> None:
        """Free the model. Closing twice is allowed, closing while a run is underway in another thread is not."""
        if not self._closed:
            self._closed = True
            self._owner = _NOBODY
            self._release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<{type(self).__name__} {self.path.name} on {self.execution.device}, {self.execution.precision}{state}>"

    # The slow path: taken on the first run, on a change of shape and on every mistake.

    def _at_most(self, count: int) -> None:
        """Refuse what cannot be done while more batches than that are underway."""
        if self._underway > count:
            raise EngineError(
                f"{self._underway} batches are underway in the session of {self.path.name}, {count} may be here",
                hint="finish the one that was started first",
            )

    def _mine(self) -> None:
        """Refuse a closed session and every thread but the owner; the first caller becomes it."""
        if get_ident() != self._owner:
            self._claim()

    def _claim(self) -> None:
        """Make the calling thread the owner, or refuse it."""
        current = threading.current_thread()
        with self._claiming:
            if self._closed:
                raise self._is_closed()
            if self._owner != _NOBODY:
                raise EngineError(
                    f"the session of {self.path.name} belongs to thread '{self._owner_name}' ({self._owner}) "
                    f"and was called from thread '{current.name}' ({current.ident})",
                    hint="give each thread a session of its own with session.clone()",
                )
            self._owner, self._owner_name = get_ident(), current.name

    def _is_closed(self) -> EngineError:
        return EngineError(f"the session of {self.path.name} is closed", hint="open the model again with open_session")

    def _admit(self, feeds: Mapping[str, Array]) -> None:
        """Check feeds in full and bind their shapes."""
        if not isinstance(feeds, Mapping):
            raise ShapeError(
                f"run takes a mapping of input name to array, not {type(feeds).__name__}",
                hint=f"inputs: {self._listing()}",
            )
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        unknown = [name for name in feeds if name not in {spec.name for spec in self.inputs}]
        if missing or unknown:
            parts = [f"{word} {_quoted(names)}" for word, names in (("lack", missing), ("have unknown", unknown)) if names]
            names = _quoted([spec.name for spec in self.inputs])
            raise ShapeError(
                f"the feeds {' and '.join(parts)}; {self.path.name} has the inputs {names}",
                hint=f"feed exactly: {self._listing()}",
            )
        for spec, dtype in zip(self.inputs, self._dtypes, strict=True):
            _check(spec, dtype, feeds[spec.name])
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs)
        self._forget_shapes()
        try:
            self._bind(shapes)
        except Exception as error:
            raise self._failed(f"bind the shapes {', '.join(map(str, shapes))} of", error) from error
        self._expected = tuple(
            (spec.name, shape, dtype) for spec, shape, dtype in zip(self.inputs, shapes, self._dtypes, strict=True)
        )
        self._count = len(self.inputs)

    def _forget_shapes(self) -> None:
        """Send the next run through `_admit`."""
        self._expected = ()
        self._count = -1

    def _listing(self) -> str:
        return "; ".join(map(str, self.inputs)) or "none"

    def _failed(self, verb: str, error: Exception) -> EngineError:
        """The library's exception in one sentence: its type and the first line that is about the model."""
        text = str(error)
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
        said = next((line for line in lines if not line.startswith(_WHERE_NOT_WHAT) and line[-1] != ":"), lines[-1])
        if len(said) > 300:
            said = said[:297] + "..."
        return EngineError(f"{self.engine} cannot {verb} {self.path} ({type(error).__name__}: {said})", hint=self._hint(text))


def _quoted(names: list[Any]) -> str:
    return ", ".join(repr(name) for name in names) or "(none)"


def _check(spec: TensorSpec, dtype: np.dtype[Any], value: Array) -> None:
    """Refuse an array that an input does not take.

    Raises:
        ShapeError: type, dtype or shape is another; the message names the input, what was found and what is taken.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        raise ShapeError(
            f"input '{spec.name}' is a {type(value).__name__}, the model takes a NumPy array ({spec})",
            hint=f"wrap it: np.asarray(value, np.{spec.dtype})",
        )
    if value.dtype != dtype:
        quantized = f": real = {spec.scale:g} * (stored - {spec.zero_point})" if spec.scale is not None else ""
        raise ShapeError(
            f"input '{spec.name}' has dtype {value.dtype}, the model takes {spec.dtype}",
            hint=f"quantize the values first{quantized}" if quantized else f"convert it with .astype(np.{spec.dtype})",
        )
    expected = (
        "(" + ", ".join("any" if size is None else str(size) for size in spec.shape) + ("," if len(spec.shape) == 1 else "") + ")"
    )
    fits = len(value.shape) == len(spec.shape) and all(
        want in (None, have) for want, have in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        more_axes = len(spec.shape) == len(value.shape) + 1
        raise ShapeError(
            f"input '{spec.name}' has shape {value.shape}, the model takes {expected}",
            hint="add the batch axis: array[np.newaxis]" if more_axes else "resize or batch the data to what the model takes",
        )
    if 0 in value.shape:
        raise ShapeError(f"input '{spec.name}' has shape {value.shape} and so no values", hint="pass at least one sample")
