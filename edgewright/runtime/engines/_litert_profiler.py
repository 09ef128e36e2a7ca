"""LiteRT's own profiler, which only its C library has: times of every op, those inside of XNNPACK too.

`libLiteRt.so` comes with ai-edge-litert, its headers do not: signatures and structures are those of release 2.3, and a call
with others ends the process. So this runs in a child process of its own, for that release only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError

__all__ = ["KNOWN", "SUBGRAPH_MAIN", "TAKEN", "events_of", "library"]

KNOWN = "2.3."
"""Releases of ai-edge-litert whose C interface is the one written down here."""

OWN, TAKEN = 2, 8
"""Kinds of events: an op that a built-in kernel computes, an op within a delegate."""

SUBGRAPH_MAIN = 0

_NEEDED = (
    "LiteRtCreateEnvironment LiteRtCreateModelFromFile LiteRtCreateOptions LiteRtSetOptionsHardwareAccelerators "
    "LiteRtCreateOpaqueOptions LiteRtAddOpaqueOptions LiteRtCreateCompiledModel LiteRtGetModelSignature "
    "LiteRtGetNumSignatureInputs LiteRtGetNumSignatureOutputs LiteRtGetSignatureInputName LiteRtGetRankedTensorType "
    "LiteRtGetSignatureInputTensorByIndex LiteRtGetSignatureOutputTensorByIndex LiteRtCompiledModelResizeInputTensor "
    "LiteRtGetCompiledModelInputBufferRequirements LiteRtGetCompiledModelOutputBufferRequirements "
    "LiteRtGetCompiledModelOutputTensorLayouts LiteRtCreateManagedTensorBufferFromRequirements "
    "LiteRtGetTensorBufferPackedSize LiteRtLockTensorBuffer LiteRtUnlockTensorBuffer LiteRtRunCompiledModel "
    "LiteRtCompiledModelGetProfiler LiteRtStartProfiler LiteRtStopProfiler LiteRtResetProfiler "
    "LiteRtGetNumProfilerEvents LiteRtGetProfilerEvents"
).split()

_CPU, _WRITE = 1, 2
_EVENT = struct.Struct("<QiiQQ6qQQii")
"""ProfiledEventData: tag, kind, start and time in microseconds, memory before and after, op, subgraph, source."""

_WARMUP = 10

_Pointer, _Size = ctypes.c_void_p, ctypes.c_size_t


class _Layout(ctypes.Structure):
    """LiteRtLayout: seven bits of rank and one that says whether strides are given."""

    _fields_ = (
        ("rank", ctypes.c_uint32, 7),
        ("strided", ctypes.c_uint32, 1),
        ("sizes", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


def library() -> Path:
    """The C library of the installed ai-edge-litert.

    Raises:
        UnsupportedError: there is none, or it is of a release whose interface is not known.
    """
    wanted = f"per-op times of LiteRT need ai-edge-litert {KNOWN}x on a 64-bit system"
    hint = f"pip install 'ai-edge-litert=={KNOWN}*'"
    try:
        found = version("ai-edge-litert")
    except PackageNotFoundError as error:
        raise UnsupportedError(f"{wanted}, it is not installed", hint) from error
    if not found.startswith(KNOWN) or ctypes.sizeof(_Pointer) != 8:
        raise UnsupportedError(f"{wanted}, here is {found} on {8 * ctypes.sizeof(_Pointer)} bits", hint)
    names = ("libLiteRt.so", "libLiteRt.dylib", "libLiteRt.dll")
    paths = [Path(str(entry.locate())) for entry in files("ai-edge-litert") or () if entry.name in names]
    if not paths or not paths[0].is_file():
        raise UnsupportedError(f"{wanted}, its package has no {names[0]}", hint)
    return paths[0]


def events_of(path: str, feeds: str, threads: int, runs: int) -> dict[str, Any]:
    """Run a model under the profiler; a job for `worker.run`.

    Args:
        path: the .tflite file.
        feeds: an .npz file with one array per input.
        threads: of XNNPACK.
        runs: inferences to profile, after 10 untimed ones.

    Returns:
        `events`: for every op event of an inference, in order, `kind` (OWN or TAKEN), `op` (its number: in the file, or
        within the delegate), `subgraph`, `tag` and `us` (microseconds, one per inference). `wall_us` of each inference.

    Raises:
        UnsupportedError: the library is missing or of another release, refuses a call, or runs differ in their events.
    """
    with np.load(feeds, allow_pickle=False) as arrays:
        model = _Model(Path(path), {name: arrays[name] for name in arrays.files}, threads)
    for _ in range(_WARMUP):
        model.run()
    found: list[list[tuple[int, int, int, str, int]]] = []
    walls = []
    for _ in range(runs):
        model.start()
        begun = time.perf_counter_ns()
        model.run()
        walls.append((time.perf_counter_ns() - begun) // 1000)
        found.append(model.stop())
    first = [event[:4] for event in found[0]]
    if not first or any([event[:4] for event in one] != first for one in found):
        raise UnsupportedError(f"LiteRT's profiler told of no ops of {path}, or of others in each run")
    events = [
        {"kind": kind, "op": op, "subgraph": subgraph, "tag": tag, "us": [one[at][4] for one in found]}
        for at, (kind, op, subgraph, tag) in enumerate(first)
    ]
    return {"events": events, "wall_us": walls}


class _Model:
    """A compiled model with its profiler; lives as long as the process."""

    def __init__(self, path: Path, feeds: Mapping[str, Any], threads: int) -> None:
        self._library = ctypes.CDLL(str(library()), mode=getattr(os, "RTLD_LOCAL", 0))
        missing = [name for name in _NEEDED if not hasattr(self._library, name)]
        if missing:
            raise UnsupportedError(f"LiteRT's C library lacks {', '.join(missing)}: its profiler cannot be used")
        self._libc = ctypes.CDLL(None)
        environment = self._make("CreateEnvironment", 0, None)
        model = self._make("CreateModelFromFile", environment, os.fsencode(path))
        options = self._make("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, _CPU)
        self._option(options, b"runtime_options_string", b"enable_profiling = true\n")
        self._option(options, b"xnnpack", f"num_threads = {threads}\n".encode())
        self._model = self._make("CreateCompiledModel", environment, model, options)
        self._signature = self._make("GetModelSignature", model, _Size(0))
        self._inputs = self._fill(environment, feeds)
        self._outputs = self._results(environment)
        self._profiler = self._make("CompiledModelGetProfiler", self._model)

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library.

        Raises:
            UnsupportedError: its status is not 0.
        """
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise UnsupportedError(f"LiteRT's C library refused LiteRt{name} with status {status}: no per-op times")

    def _make(self, name: str, *arguments: Any) -> Any:
        """A handle that a function returns through its last argument."""
        handle = _Pointer()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _number(self, name: str, *arguments: Any) -> int:
        """A size that a function returns through its last argument."""
        number = _Size()
        self._call(name, *arguments, ctypes.byref(number))
        return int(number.value)

    def _option(self, options: Any, name: bytes, toml: bytes) -> None:
        """Add an option; the library frees the text, so it must come from the C library."""
        self._libc.strdup.restype = _Pointer
        text = _Pointer(self._libc.strdup(toml))
        self._call("AddOpaqueOptions", options, self._make("CreateOpaqueOptions", name, text, self._libc.free))

    def _fill(self, environment: Any, feeds: Mapping[str, Any]) -> Any:
        """Buffers of all inputs, holding the feeds."""
        count = self._number("GetNumSignatureInputs", self._signature)
        names = []
        for at in range(count):
            text = ctypes.c_char_p()
            self._call("GetSignatureInputName", self._signature, _Size(at), ctypes.byref(text))
            names.append((text.value or b"").decode())
        if not set(names) <= set(feeds):
            raise UnsupportedError(f"LiteRT's C library names the inputs {', '.join(names)}, the session {', '.join(feeds)}")
        kinds = [self._type("Input", at) for at in range(count)]
        for at, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            shape = feeds[name].shape
            if tuple(kind.layout.sizes[: kind.layout.rank]) != shape:
                sizes = (ctypes.c_int * len(shape))(*shape)
                self._call("CompiledModelResizeInputTensor", self._model, _Size(0), _Size(at), sizes, _Size(len(shape)))
                kind.layout.sizes[: len(shape)] = shape
        buffers = (_Pointer * count)()
        for at, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            buffers[at] = buffer = self._buffer(environment, "Input", at, kind)
            data = np.ascontiguousarray(feeds[name])
            room = self._number("GetTensorBufferPackedSize", _Pointer(buffer))
            if room != data.nbytes:
                raise UnsupportedError(f"LiteRT's C library takes {room} bytes for input '{name}', its data has {data.nbytes}")
            memory = _Pointer()
            self._call("LockTensorBuffer", _Pointer(buffer), ctypes.byref(memory), _WRITE)
            ctypes.memmove(memory, data.ctypes.data, data.nbytes)
            self._call("UnlockTensorBuffer", _Pointer(buffer))
        return buffers

    def _results(self, environment: Any) -> Any:
        """Buffers of all outputs, whose sizes may follow from the inputs'."""
        count = self._number("GetNumSignatureOutputs", self._signature)
        layouts = (_Layout * count)()
        self._call("GetCompiledModelOutputTensorLayouts", self._model, _Size(0), _Size(count), layouts, ctypes.c_bool(True))
        buffers = (_Pointer * count)()
        for at in range(count):
            kind = self._type("Output", at)
            if any(size < 0 for size in kind.layout.sizes[: kind.layout.rank]):
                kind.layout.sizes[: kind.layout.rank] = layouts[at].sizes[: kind.layout.rank]
            buffers[at] = self._buffer(environment, "Output", at, kind)
        return buffers

    def _type(self, direction: str, at: int) -> _TensorType:
        """Element type and shape of an input or output in the file."""
        tensor = self._make(f"GetSignature{direction}TensorByIndex", self._signature, _Size(at))
        kind = _TensorType()
        self._call("GetRankedTensorType", tensor, ctypes.byref(kind))
        return kind

    def _buffer(self, environment: Any, direction: str, at: int, kind: _TensorType) -> int | None:
        """Memory for an input or output, as the compiled model wants it."""
        wanted = self._make(f"GetCompiledModel{direction}BufferRequirements", self._model, _Size(0), _Size(at))
        buffer = self._make("CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(kind), wanted)
        address: int | None = buffer.value
        return address

    def run(self) -> None:
        """One inference."""
        inputs, outputs = self._inputs, self._outputs
        self._call("RunCompiledModel", self._model, _Size(0), _Size(len(inputs)), inputs, _Size(len(outputs)), outputs)

    def start(self) -> None:
        """Forget old events and record new ones."""
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)

    def stop(self) -> list[tuple[int, int, int, str, int]]:
        """Op events since `start`, in order: kind, op, subgraph, tag, microseconds."""
        self._call("StopProfiler", self._profiler)
        number = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(number))
        raw = ctypes.create_string_buffer(max(1, number.value) * _EVENT.size)
        self._call("GetProfilerEvents", self._profiler, number, raw)
        found = []
        for event in _EVENT.iter_unpack(raw.raw[: number.value * _EVENT.size]):
            if event[1] in (OWN, TAKEN):
                tag = ctypes.string_at(event[0]).decode(errors="replace")
                found.append((event[1], event[11], event[12], tag, event[4]))
        return found
