"""Reads .onnx files through their protobuf and ONNX's own shape inference: nothing is executed, no ONNX Runtime."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from edgewright.artifact import TensorSpec, deflated_bytes, looks_like, raw_bytes
from edgewright.converters.macs import MacCount
from edgewright.converters.model_info import ModelInfo, corrupt, reading
from edgewright.converters.onnx_graph import constants_of, graph_macs, graphs_of, weights_of
from edgewright.converters.readers import READERS
from edgewright.errors import ModelError, needs

__all__ = ["OnnxReader"]

_STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"}
_SMALL = 1024  # values: constants up to this size may be shapes, which shape inference needs


@READERS.register("onnx")
class OnnxReader:
    """A .onnx file, with weights inside or in files beside it.

    Args:
        path: the file.
        trust: ignored, the format carries no code.
        custom: ignored.

    Raises:
        ModelError: the file is corrupt, truncated, not ONNX, or a file with its weights is missing or too short.
    """

    format: ClassVar[str] = "onnx"
    consumes_code: ClassVar[bool] = False

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        with needs("convert"):
            import onnx
        self.path = path
        with reading(path):
            self._model = onnx.load(path, load_external_data=False)
            if not self._model.HasField("graph"):
                raise corrupt(path, "it has no graph")
            self._external = tuple(self._check_external())
            self._check()
            self.specs()

    @staticmethod
    def sniff(path: Path) -> bool:
        """Whether the file starts like an ONNX ModelProto."""
        return looks_like(path) == "onnx"

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in the graph's order; inputs that have an initializer are constants and left out."""
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        scales = _input_scales(graph)
        inputs = tuple(_spec(value, *scales.get(value.name, ())) for value in graph.input if value.name not in constants)
        return inputs, tuple(_spec(value) for value in graph.output)

    def info(self) -> ModelInfo:
        """All that `inspect` shows; ops of loop bodies are counted once."""
        with reading(self.path):
            inputs, outputs = self.specs()
            weights, parameters = weights_of(self._model, self.path.parent)
            count = MacCount()
            inferred = self._inferred(count)
            if inferred is not None:
                graph_macs(inferred.graph, count, {})
            macs, macs_note = count.result(inputs, outputs)
            ops = Counter(node.op_type for graph in graphs_of(self._model.graph) for node in graph.node)
            return ModelInfo(
                format=self.format,
                inputs=inputs,
                outputs=outputs,
                ops=dict(sorted(ops.items())),
                weights=weights,
                parameters=parameters,
                macs=macs,
                macs_note=macs_note,
                raw_bytes=raw_bytes(self.path, *self._external),
                deflated_bytes=deflated_bytes(self.path, *self._external),
                notes=tuple(self._notes()),
            )

    def _notes(self) -> Iterator[str]:
        nodes = [node for graph in graphs_of(self._model.graph) for node in graph.node]
        local = {(function.domain, function.name) for function in self._model.functions}
        if local:
            yield f"functions of the model's own: {', '.join(sorted(name for _, name in local))}; their ops are not counted"
        foreign = sorted(
            {
                f"{node.domain}.{node.op_type}"
                for node in nodes
                if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op_type) not in local
            }
        )
        if foreign:
            yield f"ops outside of the ONNX standard: {', '.join(foreign)}"
        if self._external:
            yield f"weights in other files: {', '.join(file.name for file in self._external)}"

    def _check_external(self) -> Iterator[Path]:
        """The files that hold weights, each once, after checking that they are beside the model and long enough."""
        folder = self.path.parent.resolve()
        seen = set()
        for tensor in (t for graph in graphs_of(self._model.graph) for t in constants_of(graph).values()):
            if tensor.data_location != tensor.EXTERNAL:
                continue
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            file = (folder / location).resolve()
            if not location or not file.is_relative_to(folder):
                raise corrupt(self.path, f"the weights of '{tensor.name}' are in '{location}', outside of the model's folder")
            if not file.is_file():
                raise ModelError(
                    f"{self.path} keeps its weights in {location}, which is not beside it",
                    hint=f"copy {location} into {folder}",
                )
            size, start = file.stat().st_size, int(entries.get("offset", 0))
            end = start + int(entries.get("length", max(size - start, 0)))
            if not 0 <= start <= end <= size:
                raise corrupt(file, f"it has {size} bytes, {self.path.name} expects '{tensor.name}' up to byte {end}")
            if file not in seen:
                seen.add(file)
                yield file

    def _skeleton(self, *, free: int | None) -> Any:
        """A copy without large constants, which become inputs, so that checking and inferring shapes cost little.

        Args:
            free: what free sizes of inputs become; None leaves them free.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(_without_values(self._model))
        known = {value.name for value in model.graph.input}
        for tensor in self._model.graph.initializer:
            if math.prod(tensor.dims) <= _SMALL and tensor.data_location == tensor.EXTERNAL:
                values = onnx.numpy_helper.to_array(tensor, str(self.path.parent))
                model.graph.initializer.append(onnx.numpy_helper.from_array(values, tensor.name))
            elif math.prod(tensor.dims) <= _SMALL:
                model.graph.initializer.add().CopyFrom(tensor)
            elif tensor.name not in known:
                model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        if free is not None:
            for value in model.graph.input:
                for dim in value.type.tensor_type.shape.dim:
                    if not dim.HasField("dim_value"):
                        dim.dim_value = free
            del model.graph.value_info[:]
            for value in model.graph.output:
                value.type.tensor_type.ClearField("shape")
        return model

    def _check(self) -> None:
        import onnx

        try:
            onnx.checker.check_model(self._skeleton(free=None))
        except onnx.checker.ValidationError as error:
            raise corrupt(self.path, str(error).strip().splitlines()[0][:300]) from error

    def _inferred(self, count: MacCount) -> Any:
        """The model with the shapes of all tensors, free sizes as 1; None if ONNX cannot infer them."""
        import onnx

        try:
            return onnx.shape_inference.infer_shapes(self._skeleton(free=1), data_prop=True)
        except Exception as error:
            count.fail(f"shapes cannot be inferred: {str(error).strip().splitlines()[0][:200]}")
            return None


def _without_values(model: Any) -> Any:
    """A shallow stand-in: the model's fields except for the main graph's initializers."""
    import onnx

    bare = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            for part, content in value.ListFields():
                if part.name != "initializer":
                    _assign(bare.graph, part, content)
        else:
            _assign(bare, field, value)
    bare.graph.SetInParent()
    return bare


def _assign(target: Any, field: Any, value: Any) -> None:
    if hasattr(value, "extend") or hasattr(value, "append"):
        getattr(target, field.name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, field.name).CopyFrom(value)
    else:
        setattr(target, field.name, value)


def _input_scales(graph: Any) -> dict[str, tuple[float, int]]:
    """Scale and zero point of inputs that go straight into a DequantizeLinear with constant parameters."""
    import onnx

    constants = constants_of(graph)
    found = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        scale = onnx.numpy_helper.to_array(constants[node.input[1]])
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale.size == 1:
            zero_point = 0 if zero is None else int(onnx.numpy_helper.to_array(zero).reshape(-1)[0])
            found[node.input[0]] = (float(scale.reshape(-1)[0]), zero_point)
    return found


def _spec(value: Any, scale: float | None = None, zero_point: int | None = None) -> TensorSpec:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"'{value.name}' is of ONNX type {kind or 'unknown'}, only tensors are supported",
            hint="export the model with plain tensors as inputs and outputs",
        )
    tensor = value.type.tensor_type
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    return TensorSpec(value.name, shape, dtype, scale, zero_point)
