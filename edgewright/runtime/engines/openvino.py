"""OpenVINO: runs its own .xml/.bin files, and .tflite and .onnx files when asked to, on the CPU."""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec, looks_like
from edgewright.errors import EngineError, needs
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.engines._openvino_ops import name_anew, op_times, place
from edgewright.runtime.placed import OpTime, Placement
from edgewright.runtime.session import Array, Execution, Session, Shape

__all__ = ["OpenVinoSession", "import_openvino"]

_PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bf16", "i8": "int8", "u8": "int8", "f64": "float64", "i4": "int4"}
"""OpenVINO's runtimePrecision in the words of `Execution`; 8-bit unsigned activations are int8 arithmetic too."""

_MAC_LAYERS = {
    "Convolution",
    "Deconvolution",
    "FullyConnected",
    "MatMul",
    "RNNCell",
    "RNNSeq",
    "LSTMCell",
    "GRUCell",
    "BinaryConvolution",
    "ScaledDotProductAttention",
}
_NOT_COMPUTE = frozenset(
    (
        "Input Output Const MemoryInput MemoryOutput Reorder Convert FakeQuantize Reshape Transpose Concatenation Split "
        "ShapeOf Broadcast Tile Pad StridedSlice Gather GatherElements GatherND DepthToSpace SpaceToDepth BatchToSpace "
        "SpaceToBatch ShuffleChannels ReverseSequence Reverse Roll"
    ).split()
)
"""Layers that move, store or recode values: what type they do it in says nothing of the arithmetic."""


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep `import openvino` from loading its telemetry, which writes to the home folder and sends.

    OpenVINO falls back to a stub of its own where the package is missing; None in sys.modules makes it so. A process
    that has telemetry loaded already has decided for itself.
    """
    if "openvino_telemetry" in sys.modules:
        yield
        return
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]


def import_openvino() -> Any:
    """The openvino package, imported without its telemetry.

    Raises:
        MissingPackageError: it is not installed.
    """
    with needs("openvino"), _no_telemetry():
        import openvino
    return openvino


class _Request:
    """An infer request, and the arrays that it reads and writes.

    Args:
        of: OpenVINO's own.
    """

    def __init__(self, of: Any) -> None:
        self.of = of
        self.shapes: tuple[Shape, ...] | None = None
        self.began_ns = 0
        self._feeds: list[tuple[str, Array]] = []
        self._results: list[tuple[str, int, Array | None]] = []

    def bind(self, shapes: tuple[Shape, ...], inputs: Sequence[tuple[str, Any]], outputs: Sequence[tuple[str, Any]]) -> None:
        """Have it read and write these named tensors, in the model's order; outputs that are None are fetched."""
        self.shapes = None
        for index, (_, tensor) in enumerate(inputs):
            self.of.set_input_tensor(index, tensor)
        for index, (_, tensor) in enumerate(outputs):
            if tensor is not None:
                self.of.set_output_tensor(index, tensor)
        self._feeds = [(name, tensor.data) for name, tensor in inputs]
        self._results = [(name, index, None if tensor is None else tensor.data) for index, (name, tensor) in enumerate(outputs)]
        self.shapes = shapes

    def fill(self, feeds: Mapping[str, Array]) -> None:
        """Copy feeds into the inputs."""
        for name, array in self._feeds:
            array[...] = feeds[name]

    def results(self) -> dict[str, Array]:
        """Copies of the outputs."""
        return {
            name: (self.of.get_output_tensor(index).data if bound is None else bound).copy()
            for name, index, bound in self._results
        }


@ENGINES.register("openvino")
class OpenVinoSession(Session):
    """A model in OpenVINO's CPU plug-in.

    Inputs, and outputs of fixed shape, are bound once to tensors that are reused by every run. Of two batches that are
    underway, OpenVINO begins with the second one as soon as the first is done, before anybody asks for its outputs; the second
    one takes memory for activations of its own. Scales of integer inputs and outputs are read from the model's rt_info at
    ("edgewright", "io"): JSON {name: {"scale": s, "zero_point": z}}; names of tensors that have several from
    ("edgewright", "names"): {"inputs": [..], "outputs": [..]}.
    """

    engine = "openvino"
    formats = ("openvino", "tflite", "onnx")
    profiler = "OpenVINO's performance counters"

    @classmethod
    def version(cls) -> str | None:
        """Name and release of the package that is installed."""
        try:
            return f"openvino {version('openvino')}"
        except PackageNotFoundError:
            return None

    def _load(self) -> None:
        _need_weights(self.path)
        self._ov = ov = import_openvino()
        core = ov.Core()
        model = self._read(core)
        names, scales = _note(model, "names"), _scales(_note(model, "io"))
        self.inputs = _specs(model.inputs, names.get("inputs"), scales)
        self.outputs = _specs(model.outputs, names.get("outputs"), scales)
        # An output that is an input's own tensor: OpenVINO never fills other memory that is bound to it.
        sources = (port.get_node().input_value(0).get_node().get_type_name() for port in model.outputs)
        self._passed = {index for index, kind in enumerate(sources) if kind == "Parameter"}
        self._compiled = core.compile_model(model, "CPU", self._config())
        first = self._compiled.create_infer_request()
        self._free, self._busy = [_Request(first)], deque[_Request | None]()
        self._shapes: tuple[Shape, ...] = ()
        self._ended_ns = 0
        self.stateful = bool(first.query_state())
        self.ahead = 1 if self.stateful else 2
        self.execution = _execution(self._compiled)

    def _read(self, core: Any) -> Any:
        """The file's model, its free batch fixed where that is known.

        A .tflite file's ops have no names, and would be numbered anew with every reading.
        """
        model = core.read_model(str(self.path))
        if looks_like(self.path) == "tflite":
            name_anew(model)
        shapes = [port.get_partial_shape() for port in model.inputs]
        if self.batch is not None and all(shape.rank.is_static and len(shape) and shape[0].is_dynamic for shape in shapes):
            for shape in shapes:
                shape[0] = self._ov.Dimension(self.batch)
            with suppress(RuntimeError):  # a graph that takes no such batch is left as it is, and says so when it runs
                model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        return model

    def _config(self) -> dict[str, Any]:
        """How models are compiled."""
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            # Pinned, every session would compute on the same first core: two clones ran no faster than one.
            "ENABLE_CPU_PINNING": False,
            "CACHE_DIR": "",
        }
        if self.exact:
            config |= {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
        return config

    def _bind(self, shapes: tuple[Shape, ...]) -> None:
        self._shapes = shapes
        if not self._busy:
            self._fitting(self._free[0])

    def _execute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        request = self._fitting(self._free[0])
        request.fill(feeds)
        request.of.infer()
        return request.results()

    def _begin(self, feeds: Mapping[str, Array], more: bool) -> None:
        if not more and not self._busy:  # another thread would only have to be woken, and to wake this one
            super()._begin(feeds, more)
            self._busy.append(None)
            return
        if not self._free:
            self._free.append(_Request(self._compiled.create_infer_request()))
        request = self._fitting(self._free[-1])
        request.fill(feeds)
        request.began_ns = monotonic_ns()
        request.of.start_async()
        self._busy.append(self._free.pop())

    def _end(self) -> dict[str, Array]:
        request = self._busy.popleft()
        if request is None:
            return super()._end()
        self._free.append(request)
        try:
            request.of.wait()
        except Exception:
            self._ended_ns = monotonic_ns()
            raise
        # OpenVINO's own latency is from its start, in milliseconds, with the time that it waited behind another one.
        ended_ns = request.began_ns + round(1e6 * request.of.latency)
        self.computed_ns = max(0, ended_ns - max(request.began_ns, self._ended_ns))
        self._ended_ns = ended_ns
        return request.results()

    def _fitting(self, request: _Request) -> _Request:
        """The request, bound to tensors of the inputs' shapes, and to such of computed outputs of fixed shape."""
        if request.shapes == self._shapes:
            return request
        compiled = self._compiled

        def tensor(port: Any, shape: Shape) -> Any:
            return self._ov.Tensor(port.get_element_type(), self._ov.Shape(shape))

        inputs = [
            (spec.name, tensor(port, shape)) for spec, port, shape in zip(self.inputs, compiled.inputs, self._shapes, strict=True)
        ]
        outputs = [
            (spec.name, None)
            if index in self._passed or None in spec.shape
            else (spec.name, tensor(compiled.outputs[index], tuple(size or 0 for size in spec.shape)))
            for index, spec in enumerate(self.outputs)
        ]
        request.bind(self._shapes, inputs, outputs)
        return request

    def _reset(self) -> None:
        self._free[0].of.reset_state()

    def _release(self) -> None:
        self._free, self._busy, self._compiled = [], deque(), None

    def _arena(self) -> tuple[int | None, str]:
        return None, "OpenVINO's CPU plug-in does not tell how much memory it plans for activations"

    def _placement(self) -> Placement:
        return place(self._read(self._ov.Core()), self._compiled, self.inputs, self.outputs)

    def _profile(self, feeds: Mapping[str, Array], runs: int) -> tuple[OpTime, ...]:
        core = self._ov.Core()
        model = self._read(core)

        def compiled() -> Any:
            return core.compile_model(model, "CPU", {**self._config(), "PERF_COUNT": True})

        def tensors(of: Any) -> dict[int, Any]:
            found = {}
            for at, spec in enumerate(self.inputs):
                found[at] = self._ov.Tensor(of.inputs[at].get_element_type(), self._ov.Shape(feeds[spec.name].shape))
                found[at].data[...] = feeds[spec.name]
            return found

        return op_times(model, compiled, tensors, runs)

    def _hint(self, text: str) -> str:
        if "not supported" in text or "no translator" in text.lower() or "Unsupported" in text or "not been converted" in text:
            return "OpenVINO has no such op: convert the model from its training format instead"
        if self.path.suffix == ".xml":
            return f"check that {self.path.name} and {self.path.with_suffix('.bin').name} are whole and belong together"
        return super()._hint(text)


def _need_weights(path: Path) -> None:
    """Refuse an .xml whose .bin was left behind: OpenVINO's own message does not say so.

    Raises:
        EngineError: the weights are not beside the graph.
    """
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        raise EngineError(
            f"{path} is an OpenVINO graph, its weights {weights.name} are not beside it",
            hint="copy the .xml and the .bin together",
        )


def _note(model: Any, key: str) -> dict[str, Any]:
    """A JSON object that the writer left in rt_info at ("edgewright", key); empty if there is none.

    Raises:
        EngineError: the note is there and is no JSON object.
    """
    if not model.has_rt_info(["edgewright", key]):
        return {}
    text = model.get_rt_info(["edgewright", key]).astype(str)
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise _unreadable(key, text, error) from error
    return found


def _unreadable(key: str, found: str, error: Exception) -> EngineError:
    return EngineError(
        f"the model's rt_info edgewright/{key} cannot be read ({type(error).__name__}: {error}; found {found[:80]!r})",
        hint="convert the model again",
    )


def _scales(note: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """Scale and zero point by name of input or output.

    Raises:
        EngineError: an entry lacks one of the two, or it is no number.
    """
    try:
        return {name: (float(value["scale"]), int(value["zero_point"])) for name, value in note.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable("io", str(note), error) from error


def _names(ports: Sequence[Any], chosen: Any) -> list[str]:
    """One name per port.

    A tensor may have several: the one that the writer noted in its place is taken, else the shortest and of these the
    first in the alphabet, else the node's own.

    Args:
        ports: the model's inputs or outputs.
        chosen: what the writer noted, one name per port; anything else counts as nothing.
    """
    wanted = chosen if isinstance(chosen, list) and len(chosen) == len(ports) else [None] * len(ports)
    found = []
    for port, name in zip(ports, wanted, strict=True):
        names = sorted(port.get_names(), key=lambda text: (len(text), text))
        own = names[0] if names else str(port.get_node().get_friendly_name())
        found.append(name if name in names else own)
    return found


def _specs(ports: Sequence[Any], chosen: Any, scales: Mapping[str, tuple[float, int]]) -> tuple[TensorSpec, ...]:
    """Specs of the model's inputs or outputs, in order."""
    return tuple(_spec(port, name, scales) for port, name in zip(ports, _names(ports, chosen), strict=True))


def _spec(port: Any, name: str, scales: Mapping[str, tuple[float, int]]) -> TensorSpec:
    """What OpenVINO tells of an input or output, as a spec; free sizes are None.

    Raises:
        EngineError: the number of axes is free, or NumPy has no such type.
    """
    partial = port.get_partial_shape()
    if partial.rank.is_dynamic:
        raise EngineError(f"'{name}' has any number of axes, a fixed one is expected", hint="fix the shape when converting")
    try:
        dtype = np.dtype(port.get_element_type().to_dtype()).name
    except (RuntimeError, TypeError) as error:
        raise EngineError(
            f"'{name}' is of type {port.get_element_type().get_type_name()}, which NumPy does not have",
            hint="convert the model with float32 or int8 inputs and outputs",
        ) from error
    shape = tuple(None if size.is_dynamic else int(size.get_length()) for size in partial)
    return TensorSpec(name, shape, dtype, *scales.get(name, ()))


def _execution(compiled: Any) -> Execution:
    """What the compiled nodes compute in, from the execution graph: the hint alone says what is allowed, not what is done.

    Layers with multiply-adds are counted apart, they are where the time and the rounding is; but one precision is named
    only if all layers that compute share it.
    """
    device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    products: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind, precision = (info[key].astype(str) if key in info else "" for key in ("layerType", "runtimePrecision"))
        if kind and kind not in _NOT_COMPUTE and precision in _PRECISIONS:
            (products if kind in _MAC_LAYERS else others)[_PRECISIONS[precision]] += 1
    kinds = tuple(sorted({*products, *others}))
    if not kinds:
        return Execution("unknown", f"no node of the execution graph tells; hint {hint}", device)
    counts = _counts(products or others)
    if products and others:
        counts += f"; others: {_counts(others)}"
    # Without the hint, so that a precision stands in the detail only if something ran in it.
    return Execution(kinds[0] if len(kinds) == 1 else "mixed", f"nodes of the execution graph: {counts}", device, kinds)


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in sorted(found.items()))
