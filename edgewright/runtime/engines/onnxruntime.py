"""ONNX Runtime: runs .onnx files on the CPU."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import EngineError, needs
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.engines._onnxruntime_ops import WARMUP, FileNode, op_times, peak_bytes, place, trace
from edgewright.runtime.placed import OpTime, Placement
from edgewright.runtime.session import Array, Execution, Session, Shape

__all__ = ["OnnxRuntimeSession"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
}


def _import_onnxruntime() -> Any:
    """The onnxruntime package, with its telemetry off: from 1.32 on it writes to ~/.cache and sends from Linux too.

    Who has set ORT_DISABLE_TELEMETRY has decided for themselves.

    Raises:
        MissingPackageError: it is not installed.
    """
    asked = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with needs("onnx"):
        import onnxruntime
    if asked == "1" and hasattr(onnxruntime, "disable_telemetry_events"):
        # Read from the environment on import only; another module may have imported it before.
        onnxruntime.disable_telemetry_events()
    return onnxruntime


@ENGINES.register("onnxruntime")
class OnnxRuntimeSession(Session):
    """An .onnx file in ONNX Runtime's CPU execution provider.

    Inputs, and outputs of fixed shape, are bound once to memory that is reused by every run.
    """

    engine = "onnxruntime"
    formats = ("onnx",)
    profiler = "ONNX Runtime's profiler"

    @classmethod
    def version(cls) -> str | None:
        """Name and release of the package that is installed."""
        try:
            return f"onnxruntime {version('onnxruntime')}"
        except PackageNotFoundError:
            return None

    def _load(self) -> None:
        ort = _import_onnxruntime()
        self._session = self._open(self._options(ort))
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        self._names = [spec.name for spec in self.outputs]
        self._fixed = all(None not in spec.shape for spec in self.outputs)
        self.execution = _execution(self.path, {spec.dtype for spec in self.inputs + self.outputs})

    def _options(self, ort: Any) -> Any:
        """How models are opened."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        return options

    def _open(self, options: Any) -> Any:
        """ONNX Runtime's session of the file."""
        return _import_onnxruntime().InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def _bind(self, shapes: tuple[Shape, ...]) -> None:
        """Bind NumPy memory to inputs and outputs, unless an output's shape is free: see `_execute`."""
        if not self._fixed:
            return
        self._binding = self._session.io_binding()
        self._feeds = _memory(self.inputs, shapes)
        self._results = _memory(self.outputs, [spec.shape for spec in self.outputs])
        for name, array in self._feeds:
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in self._results:
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _execute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not self._fixed:
            # A shape that depends on the input cannot be allocated beforehand: ONNX Runtime returns new arrays here.
            found = self._session.run(self._names, {spec.name: feeds[spec.name] for spec in self.inputs})
            return dict(zip(self._names, found, strict=True))
        for name, array in self._feeds:
            array[...] = feeds[name]
        self._session.run_with_iobinding(self._binding)
        results = {}
        for name, array in self._results:
            results[name] = array.copy()
        return results

    def _reset(self) -> None:
        """Nothing: ONNX models take their state as inputs."""

    def _release(self) -> None:
        self._session = self._binding = None
        self._feeds = self._results = ()

    def _traced(self, feeds: Mapping[str, Array], runs: int, *, as_in_file: bool = False) -> list[list[dict[str, Any]]]:
        """Kernel events of some inferences of a session of its own, each run's; `as_in_file` leaves out optimizations."""
        ort = _import_onnxruntime()

        def opened(prefix: str) -> Any:
            options = self._options(ort)
            options.enable_profiling, options.profile_file_prefix = True, prefix
            if as_in_file:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                # Weights that a kernel has packed for itself are no operands any more, and have no shape.
                options.add_session_config_entry("session.disable_prepacking", "1")
            return self._open(options)

        return trace(opened, feeds, runs)

    def _some_feeds(self) -> dict[str, Array]:
        """Zeros for every input; a free size is 1."""
        return {spec.name: np.zeros([1 if size is None else size for size in spec.shape], spec.dtype) for spec in self.inputs}

    def _arena(self) -> tuple[int | None, str]:
        found = peak_bytes(self._traced(self._some_feeds(), 2)[-1])
        return found, "" if found is not None else "this release of ONNX Runtime does not tell how much of its arena is in use"

    def _placement(self) -> Placement:
        return place(self._traced(self._some_feeds(), 1, as_in_file=True)[0], self.inputs, self.outputs)

    def _profile(self, feeds: Mapping[str, Array], runs: int) -> tuple[OpTime, ...]:
        return op_times(self._traced(feeds, runs + WARMUP), _nodes(self.path))

    def _hint(self, text: str) -> str:
        if "not implemented" in text.lower() or "NOT_IMPLEMENTED" in text:
            return "ONNX Runtime's CPU provider has no kernel for this op: export the model with another opset or without the op"
        if "opset" in text.lower() or "IR version" in text:
            return "the file is newer than the runtime: pip install -U onnxruntime, or export with an older opset"
        return super()._hint(text)


def _memory(specs: Sequence[TensorSpec], shapes: Sequence[tuple[int | None, ...]]) -> tuple[tuple[str, Array], ...]:
    """Pairs of name and zeroed array, of each spec's dtype and of a shape without free sizes."""
    return tuple((spec.name, np.zeros([n or 0 for n in shape], spec.dtype)) for spec, shape in zip(specs, shapes, strict=True))


def _spec(node: Any) -> TensorSpec:
    """What ONNX Runtime tells of an input or output, as a spec; symbolic sizes become None.

    Raises:
        EngineError: it is no tensor of numbers that NumPy has.
    """
    if node.type not in _DTYPES:
        raise EngineError(
            f"'{node.name}' is of type {node.type}, a tensor of numbers is expected",
            hint="take such inputs and outputs out of the model before exporting it",
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape)
    return TensorSpec(node.name, shape, _DTYPES[node.type])


def _execution(path: Path, io_dtypes: set[str]) -> Execution:
    """float32 where nothing in the file can be anything else, "unknown" in every other case.

    ONNX Runtime does not tell what it computes in. What it does by itself is to fuse quantized ops and to compute
    float16 ones in float32 where it has no kernel, so only files without either are certain.

    Args:
        path: a file that ONNX Runtime has loaded.
        io_dtypes: dtypes of the model's inputs and outputs.
    """
    device = "CPU, default kernels"
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            doubts = sorted(_doubts(mapped))
    except (OSError, ValueError, IndexError) as error:
        return Execution("unknown", f"ONNX Runtime does not tell, and the file cannot be read again: {error}", device)
    doubts += sorted(io_dtypes & {"float16", "float64"})
    if doubts:
        return Execution("unknown", f"ONNX Runtime does not tell, and the file has {', '.join(doubts)}", device)
    return Execution("float32", "no op, constant, input or output of the file has another real type", device)


def _doubts(data: mmap.mmap) -> Iterator[str]:
    """What in a ModelProto may compute in something else than float32: op types and constants' types, each once.

    Field numbers are those of onnx.proto: ModelProto.graph 7, functions 25; GraphProto.node 1, initializer 5;
    NodeProto.op_type 4, attribute 5, domain 7; AttributeProto.i 3; TensorProto.data_type 2.
    """
    seen: set[str] = set()
    for number, begin, end in _fields(data, 0, len(data)):
        if number == 25:
            seen.add("functions")
        if number != 7:
            continue
        for kind, first, last in _fields(data, begin, end):
            if kind == 1:
                seen.add(_node_doubt(data, first, last))
            elif kind == 5:
                seen |= {_ELEMENT_TYPES.get(value, "") for field, value, _ in _fields(data, first, last) if field == 2}
    yield from seen - {""}


def _nodes(path: Path) -> list[FileNode]:
    """The nodes of the main graph; NodeProto.input 1, output 2, name 3, op_type 4."""
    found = []
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for graph, begin, end in _fields(data, 0, len(data)):
            for kind, first, last in _fields(data, begin, end) if graph == 7 else ():
                if kind != 1:
                    continue
                texts = {1: "", 2: "", 3: "", 4: ""}
                for number, a, b in _fields(data, first, last):
                    if number in texts and not texts[number]:
                        texts[number] = data[a:b].decode()
                found.append(FileNode(texts[3], texts[4], texts[1], texts[2]))
    return found


_ELEMENT_TYPES = {10: "float16 constants", 11: "float64 constants", 16: "bfloat16 constants"}


def _node_doubt(data: mmap.mmap, begin: int, end: int) -> str:
    """Why a node may compute in something else than float32; "" if it cannot."""
    op, domain, attributes = "", "", []
    for number, first, last in _fields(data, begin, end):
        if number == 4:
            op = data[first:last].decode()
        elif number == 7:
            domain = data[first:last].decode()
        elif number == 5:
            attributes.append((first, last))
    if op in ("If", "Loop", "Scan") or op.startswith("QLinear") or op.endswith(("Integer", "QuantizeLinear", "DequantizeLinear")):
        return op
    if domain not in ("", "ai.onnx", "ai.onnx.ml"):
        return f"{domain}.{op}"
    if op == "Cast" and any(number == 3 and value in (10, 11, 16) for a in attributes for number, value, _ in _fields(data, *a)):
        return "Cast to another real type"
    return ""


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Fields of a protobuf message: number, then begin and end of the content; of a varint its value and 0."""
    at = begin
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value, 0
            continue
        size = 8 if wire == 1 else 4
        if wire == 2:
            size, at = _varint(data, at)
        yield key >> 3, at, at + size
        at += size


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A protobuf varint and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
