"""LiteRT (formerly TensorFlow Lite): runs .tflite files, through ai-edge-litert or the older tflite-runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import EngineError, MissingPackageError, needs
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.engines._litert_ops import BUILT_IN, DELEGATED, arena, place, regions
from edgewright.runtime.engines._litert_times import op_times
from edgewright.runtime.engines._tflite_graph import main_ops
from edgewright.runtime.placed import OpTime, Placement
from edgewright.runtime.session import Array, Execution, Session, Shape

__all__ = ["LiteRtSession"]

_STATEFUL = ("VAR_HANDLE", "SVDF", "LSTM", "RNN", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
"""Ops whose tensors outlive a run."""

_HINTS = (
    ("Select TensorFlow op", "convert the model without select_tf: this runtime has only TensorFlow Lite's own ops"),
    ("FlexDelegate", "convert the model without select_tf: this runtime has only TensorFlow Lite's own ops"),
    ("custom op", "the model has an op that is no part of TensorFlow Lite: replace the layer that makes it"),
    ("Didn't find op for builtin opcode", "the runtime is older than the file: pip install -U ai-edge-litert, or convert for it"),
)

_NOT_COMPUTE = {
    "DELEGATE",
    "QUANTIZE",
    "DEQUANTIZE",
    "RESHAPE",
    "SHAPE",
    "STRIDED_SLICE",
    "PACK",
    "CAST",
    "EXPAND_DIMS",
    "SQUEEZE",
}
"""Ops that move or convert values: their types say nothing of the arithmetic."""


def _interpreter_class() -> Any:
    """The Interpreter of whichever of the two packages is installed, ai-edge-litert first.

    Raises:
        MissingPackageError: neither is.
        EngineError: only tflite-runtime is, and it cannot be imported.
    """
    try:
        with needs("litert"):
            from ai_edge_litert.interpreter import Interpreter
    except MissingPackageError:
        if find_spec("tflite_runtime") is None:
            raise
        try:
            from tflite_runtime.interpreter import Interpreter
        except (ImportError, AttributeError) as error:
            raise EngineError(
                f"tflite_runtime is installed but cannot be imported ({type(error).__name__}: {error})",
                hint="tflite-runtime needs numpy<2; on current systems install ai-edge-litert instead",
            ) from error
    return Interpreter


@ENGINES.register("litert")
class LiteRtSession(Session):
    """A .tflite file in LiteRT's interpreter, with the XNNPACK delegate that it applies by default.

    Names are those of the file's signature; a file without one has its tensors' names.
    """

    engine = "litert"
    formats = ("tflite",)
    profiler = "LiteRT's C profiler"

    @classmethod
    def version(cls) -> str | None:
        """Name and release of the package that is installed."""
        for package in ("ai-edge-litert", "tflite-runtime"):
            try:
                return f"{package} {version(package)}"
            except PackageNotFoundError:
                continue
        return None

    def _load(self) -> None:
        self._interpreter = _interpreter_class()(model_path=str(self.path), num_threads=self.threads)
        feeds, results = self._signature()
        self._interpreter.allocate_tensors()
        inputs = _named(feeds, self._interpreter.get_input_details())
        outputs = _named(results, self._interpreter.get_output_details())
        self.inputs = tuple(_spec(name, detail) for name, detail in inputs)
        self.outputs = tuple(_spec(name, detail) for name, detail in outputs)
        self._feeds = tuple((name, int(detail["index"])) for name, detail in inputs)
        self._results = tuple((name, int(detail["index"])) for name, detail in outputs)
        self._shapes = tuple(tuple(map(int, detail["shape"])) for _, detail in inputs)
        ops = _ops(self._interpreter)
        self._resources = ops is None or any(op["op_name"] == "VAR_HANDLE" for op in ops)
        self.stateful = ops is not None and any(op["op_name"] in _STATEFUL for op in ops)
        self.execution = _execution(ops, self._interpreter)

    def _signature(self) -> tuple[dict[str, int], dict[str, int]]:
        """Tensor indices by name, of inputs and of outputs; empty if the file has no signature.

        Raises:
            EngineError: there is more than one signature.
        """
        listed: dict[str, Any] = getattr(self._interpreter, "_get_full_signature_list", dict)() or {}
        if len(listed) > 1:
            raise EngineError(
                f"{self.path} has {len(listed)} signatures, one is expected: {', '.join(sorted(listed))}",
                hint="convert each signature to a file of its own",
            )
        for signature in listed.values():
            return dict(signature["inputs"]), dict(signature["outputs"])
        return {}, {}

    def _bind(self, shapes: tuple[Shape, ...]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = ()
        for (_, index), shape in zip(self._feeds, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _execute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        interpreter = self._interpreter
        for name, index in self._feeds:
            interpreter.set_tensor(index, feeds[name])
        interpreter.invoke()
        results = {}
        for name, index in self._results:
            results[name] = interpreter.get_tensor(index)
        return results

    def _reset(self) -> None:
        if self._resources:
            # reset_all_variables leaves resource variables as they are, which is what tf.Variable becomes: load again.
            self._load()
            self._forget_shapes()
        else:
            self._interpreter.reset_all_variables()

    def _release(self) -> None:
        self._interpreter = None

    def _arena(self) -> tuple[int | None, str]:
        return arena(self._interpreter, _ops(self._interpreter), main_ops(self.path))

    def _placement(self) -> Placement:
        return place(self._interpreter, _ops(self._interpreter), self.path, self.inputs, self.outputs)

    def _profile(self, feeds: Mapping[str, Array], runs: int) -> tuple[OpTime, ...]:
        placed = self._placement()
        return op_times(self.path, feeds, self.threads, runs, placed.ops, regions(_ops(self._interpreter) or ()))

    def _hint(self, text: str) -> str:
        return next((hint for sign, hint in _HINTS if sign in text), super()._hint(text))


def _named(by_name: Mapping[str, int], details: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Pairs of name and tensor detail in the model's order; a tensor that the signature does not name keeps its own name.

    One tensor may have several names: a model that returns the same tensor twice.
    """
    pairs: list[tuple[str, dict[str, Any]]] = []
    for detail in details:
        names = sorted(name for name, index in by_name.items() if index == detail["index"]) or [str(detail["name"])]
        pairs += [(name, detail) for name in names if name not in dict(pairs)]
    return pairs


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    """What LiteRT tells of a tensor, as a spec.

    Raises:
        EngineError: the tensor holds strings or resources.
    """
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiubc":
        raise EngineError(
            f"'{name}' is of type {dtype}, numbers are expected", hint="take such inputs and outputs out of the model"
        )
    signature = detail.get("shape_signature", detail["shape"])
    sizes = signature if len(signature) == len(detail["shape"]) else detail["shape"]
    shape = tuple(None if size < 0 else int(size) for size in sizes)
    quantization = detail.get("quantization_parameters", {})
    scales, zero_points = quantization.get("scales", ()), quantization.get("zero_points", ())
    if dtype.kind in "iu" and len(scales) == 1:
        return TensorSpec(name, shape, dtype.name, float(scales[0]), int(zero_points[0]) if len(zero_points) else 0)
    return TensorSpec(name, shape, dtype.name)


def _ops(interpreter: Any) -> list[dict[str, Any]] | None:
    """The ops of the main graph after delegation; None where the runtime does not list them, which is no stable interface."""
    try:
        return list(interpreter._get_ops_details())
    except Exception:
        return None


def _execution(ops: list[dict[str, Any]] | None, interpreter: Any) -> Execution:
    """What the ops compute in, from their tensors' types; "unknown" where the runtime does not list its ops."""
    if ops is None:
        return Execution("unknown", "this runtime does not list its ops", "CPU")
    dtypes = {int(detail["index"]): np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    delegated = any(op["op_name"] == "DELEGATE" for op in ops)
    kinds = Counter(_arithmetic(op, dtypes) for op in ops if op["op_name"] not in _NOT_COMPUTE)
    del kinds[""]
    device = DELEGATED if delegated else BUILT_IN
    if not kinds:
        return Execution("unknown", "no op of the file computes with real numbers", device)
    detail = "ops by type in the file: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return Execution(next(iter(kinds)) if len(kinds) == 1 else "mixed", detail, device)


def _arithmetic(op: Mapping[str, Any], dtypes: Mapping[int, str]) -> str:
    """The precision of one op: of its first output, or "dynamic int8" where float values meet integer weights; "" if none."""
    outputs = [dtypes.get(int(index), "") for index in op["outputs"]]
    inputs = [dtypes.get(int(index), "") for index in op["inputs"]]
    found = outputs[0] if outputs else ""
    if found == "float32" and any(name in ("int8", "uint8", "int4") for name in inputs[1:2]):
        return "dynamic int8"
    if found == "int16":
        # Ops without weights too: int16 activations exist in this scheme only.
        return "int16x8"
    return found if found in ("float32", "float16", "int8", "uint8") else ""
