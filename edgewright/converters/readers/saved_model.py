"""TensorFlow SavedModel folders, read through their serving signature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgewright.artifact import TensorSpec, deflated_bytes, looks_like, raw_bytes
from edgewright.converters.lowering import CODE_OPS, count_lowered, lower_function
from edgewright.converters.model_info import ModelInfo, describe_weight, reading
from edgewright.converters.readers import READERS, LowerOptions
from edgewright.converters.untrusted import corrupt
from edgewright.errors import EdgewrightError, ModelError, UnsupportedError, UntrustedCodeError, needs

SERVING = ("serving_default", "serve")
PLUMBING = frozenset({"Const", "Placeholder", "NoOp", "Identity", "ReadVariableOp", "StatefulPartitionedCall", "PartitionedCall"})


STATISTICS = (
    "moving_mean",
    "moving_variance",
    "seed_generator_state",
    "normalization/mean",
    "normalization/variance",
    "normalization/count",
)
"""Ends of variable paths that are state, not parameters: the file does not tell the layers' classes."""


@READERS.register("saved_model")
class SavedModelReader:
    """A SavedModel's serving signature. Needs TensorFlow: make it in a worker.

    Loading restores variables and runs initialisers but no Python code of the model; files with ops that call Python or
    touch other files are refused before they are loaded, unless trusted.
    """

    format: ClassVar[str] = "saved_model"
    consumes_code: ClassVar[bool] = True

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        with needs("convert"):
            import tensorflow as tf
        self.path = path
        try:
            saved = _parsed(path)
            found = sorted(_op_types(saved) & CODE_OPS)
            if found and not trust:
                raise UntrustedCodeError(
                    f"{path} has ops that run code or touch files: {', '.join(found)}",
                    hint="if you trust where it comes from, add --trust",
                )
            self.model = tf.saved_model.load(str(path), tags=["serve"] if len(saved.meta_graphs) > 1 else None)
            signatures = dict(self.model.signatures)
        except (EdgewrightError, MemoryError):
            raise
        except Exception as error:  # TensorFlow raises its own and built-in types on damaged folders
            raise corrupt(path, error) from error
        self.function = _serving(path, signatures)
        with reading(path):
            self.specs()

    @staticmethod
    def sniff(path: Path) -> bool:
        """A folder with saved_model.pb."""
        return looks_like(path) == "saved_model"

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of the signature. The file keeps them without order: sorted by name."""
        named = self.function.structured_input_signature[1]
        inputs = tuple(TensorSpec(name, _shape(named[name].shape), named[name].dtype.name) for name in sorted(named))
        results = self.function.structured_outputs
        taken = set(named)
        outputs = tuple(
            TensorSpec(f"{name}_output" if name in taken else name, _shape(results[name].shape), results[name].dtype.name)
            for name in sorted(results)
        )
        return inputs, outputs

    def reference(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs of the signature; arrays keep their leading batch axis."""
        inputs, outputs = self.specs()
        results = self._call(*(feeds[spec.name] for spec in inputs))
        return {spec.name: np.asarray(value) for spec, value in zip(outputs, results, strict=True)}

    def lower(self, out: Path, options: LowerOptions) -> None:
        """Write the signature as a float32 TFLite file; see `ReferenceReader.lower`. Loops stay loops."""
        inputs, outputs = self.specs()
        names = [spec.name for spec in outputs]
        lower_function(self._call, inputs, names, out, batch=options.batch, select_tf=options.select_tf)

    def recurrent_steps(self) -> dict[str, int | None]:
        """Loops of the graph by name: their length is unknown and they cannot be unrolled."""
        return {op.name: None for op in _operations(self.function) if op.type in {"While", "StatelessWhile"}}

    def layer_names(self) -> list[str]:
        """None: a SavedModel keeps ops, not layers."""
        return []

    def info(self) -> ModelInfo:
        """Graph ops, variables and sizes; multiply-adds are counted in the lowered graph."""
        with reading(self.path):
            return self._info()

    def _info(self) -> ModelInfo:
        inputs, outputs = self.specs()
        macs, note = count_lowered(self, LowerOptions())
        variables = list({variable.name: variable for variable in self.function.variables}.values())
        weights = [
            describe_weight(variable.name, values, channel_axis=values.ndim - 1 if values.ndim > 1 else None)
            for variable in variables
            if (values := variable.numpy()).size > 1 and values.dtype.kind in "fiu"
        ]
        return ModelInfo(
            format=self.format,
            inputs=inputs,
            outputs=outputs,
            ops=dict(Counter(op.type for op in _operations(self.function) if op.type not in PLUMBING).most_common()),
            weights=tuple(sorted(weights, key=lambda w: -int(np.prod(w.shape)))),
            parameters=sum(int(np.prod(v.shape)) for v in variables if not _is_statistic(v.name)),
            macs=macs,
            macs_note=note,
            raw_bytes=raw_bytes(self.path),
            deflated_bytes=deflated_bytes(self.path),
        )

    def _call(self, *tensors: Any) -> list[Any]:
        import tensorflow as tf

        inputs, _ = self.specs()
        feeds = {spec.name: tf.convert_to_tensor(t, spec.dtype) for spec, t in zip(inputs, tensors, strict=True)}
        results = self.function(**feeds)
        return [results[name] for name in sorted(results)]


def _parsed(path: Path) -> Any:
    """The SavedModel's protobuf, nothing of it loaded or run."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    if (path / "saved_model.pb").is_file():
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    else:
        text_format.Parse((path / "saved_model.pbtxt").read_text(encoding="utf-8"), saved)
    if not saved.meta_graphs:
        raise corrupt(path, "it holds no graph")
    return saved


def _op_types(saved: Any) -> set[str]:
    """Types of all ops in a SavedModel, those that run on loading included."""
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    bodies = [body for graph in graphs for body in graph.library.function]
    return {node.op for graph in graphs for node in graph.node} | {node.op for body in bodies for node in body.node_def}


def _serving(path: Path, signatures: dict[str, Any]) -> Any:
    if not signatures:
        raise ModelError(
            f"{path} has no signature to call",
            hint="export it with model.export(FOLDER), or tf.saved_model.save(..., signatures=...)",
        )
    for name in SERVING:
        if name in signatures and not set(signatures) - set(SERVING):
            return signatures[name]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise UnsupportedError(
        f"{path} has several signatures: {', '.join(sorted(signatures))}; one is expected",
        hint="save the model again with the one signature that the device needs",
    )


def _is_statistic(path: str) -> bool:
    """Whether the path of a variable is that of state (BatchNorm statistics, random seeds), not of a trained parameter."""
    return path.split(":")[0].endswith(STATISTICS)


def _operations(function: Any) -> list[Any]:
    """Ops of a function's graph and of all functions that it calls."""
    graph = function.graph.as_graph_def()
    return [*_named(graph.node), *(op for body in graph.library.function for op in _named(body.node_def))]


def _named(nodes: Any) -> list[Any]:
    return [_Op(node.name, node.op) for node in nodes]


class _Op:
    """Name and type of a graph node."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type: str) -> None:
        self.name = name
        self.type = type


def _shape(shape: Any) -> tuple[int | None, ...]:
    if shape.rank is None:
        raise UnsupportedError(
            "the signature has a tensor of unknown rank", hint="save it with an input_signature that gives shapes"
        )
    return tuple(None if size is None else int(size) for size in shape)
