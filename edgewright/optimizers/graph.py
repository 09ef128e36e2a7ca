"""What passes do to a Keras model's graph: fold BatchNorm, find kernels, rebuild with other layers. Needs Keras, in a child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError

__all__ = [
    "Kernel",
    "channel_scales",
    "consumers",
    "fold_batch_norm",
    "kernels_of",
    "leaf_layers",
    "rebuilt",
    "require_functional",
]

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings")
"""Names of the variables that passes compress; biases, BatchNorm and other vectors are left as they are."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A variable that a pass compresses.

    Args:
        layer: the layer of the graph that it belongs to.
        variable: the variable.
        path: "layer/kernel", as `inspect` shows it.
        inputs: axes that one output value sums over; the others are output channels.
    """

    layer: Any
    variable: Any
    path: str
    inputs: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return tuple(int(size) for size in self.variable.shape)

    def values(self) -> Array:
        """What is in it, float32."""
        return np.asarray(self.variable, np.float32)


def require_functional(model: Any) -> None:
    """Refuse a model whose graph Keras does not know.

    Raises:
        UnsupportedError: the model is subclassed.
    """
    if not getattr(model, "inputs", None) or type(model).__name__ not in {"Functional", "Sequential", "Model"}:
        raise UnsupportedError(
            f"the model '{model.name}' is a {type(model).__name__}, whose graph only its code knows: passes cannot rebuild it",
            hint="build it as a functional or Sequential model",
        )


def leaf_layers(model: Any) -> list[Any]:
    """The layers of a model, those of models within it in their places; a shared layer once."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        for leaf in leaf_layers(layer) if hasattr(layer, "layers") and hasattr(layer, "inputs") else [layer]:
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def kernels_of(model: Any, include: tuple[str, ...] = ("*",), exclude: tuple[str, ...] = ()) -> list[Kernel]:
    """Kernels of the layers whose names match a pattern of `include` and none of `exclude`, in the model's order."""
    found = []
    for layer in leaf_layers(model):
        if not any(fnmatchcase(layer.name, p) for p in include) or any(fnmatchcase(layer.name, p) for p in exclude):
            continue
        for owner in _owners(layer):
            for variable in getattr(owner, "_trainable_variables", ()):
                name = str(variable.name)
                if name in KERNELS and len(variable.shape) > 1:
                    found.append(Kernel(layer, variable, str(variable.path), _input_axes(owner, name, len(variable.shape))))
    return found


def _owners(layer: Any) -> Iterator[Any]:
    """A layer and every layer within it, cells included."""
    yield layer
    yield from layer._flatten_layers(include_self=False, recursive=True)


def _input_axes(layer: Any, name: str, rank: int) -> tuple[int, ...]:
    """Axes of a kernel that one output value sums over."""
    kind = type(layer).__name__
    if name == "depthwise_kernel" or kind.startswith("DepthwiseConv"):
        return tuple(range(rank - 2))
    if "Transpose" in kind:
        return (*range(rank - 2), rank - 1)
    if name == "embeddings":
        return tuple(range(rank))
    if kind == "EinsumDense":
        taken, _, result = layer.equation.partition("->")
        first, _, kernel = taken.partition(",")
        return tuple(axis for axis, letter in enumerate(kernel) if letter not in result or letter in first.replace(".", ""))
    return tuple(range(rank - 1))


def channel_scales(values: Array, inputs: tuple[int, ...]) -> Array:
    """Largest absolute value of every output channel, with axes of size 1 where it was taken; 1 for channels of zeros."""
    largest = np.abs(values).max(axis=inputs, keepdims=True)
    return np.where(largest > 0, largest, 1.0).astype(np.float32)


def consumers(model: Any) -> dict[int, list[Any]]:
    """The operations that take each operation's output, by id; the model's outputs count as None."""
    found: dict[int, list[Any]] = {}
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for tensor in node.input_tensors:
                found.setdefault(id(tensor._keras_history.operation), []).append(node.operation)
    for tensor in model.outputs:
        found.setdefault(id(tensor._keras_history.operation), []).append(None)
    return found


def rebuilt(
    model: Any, layer_of: Callable[[Any], Any], call: Callable[..., Any], entry: Callable[[Any], Any] = lambda tensor: tensor
) -> Any:
    """A functional model of the same graph, nested models flattened into it, inputs and outputs as they were.

    Args:
        model: functional or Sequential.
        layer_of: what stands in a layer's place; called once per layer, shared ones included.
        call: applies what stands in a layer's place: (layer, replacement, *args, **kwargs) -> outputs.
        entry: what the graph takes for each input.
    """
    import keras

    places: dict[int, Any] = {}

    def apply(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            kwargs.pop("training", None)
            kwargs.pop("mask", None)
            return _functional(layer)._run_through_graph(*args, operation_fn=lambda op: lambda *a, **k: apply(op, *a, **k))
        if id(layer) not in places:
            places[id(layer)] = layer_of(layer)
        return call(layer, places[id(layer)], *args, **kwargs)

    source = _functional(model)
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t._keras_history.operation.name), source._inputs_struct
    )
    entries = keras.tree.map_structure(entry, inputs)
    outputs = source._run_through_graph(entries, operation_fn=lambda op: lambda *a, **k: apply(op, *a, **k))
    return keras.Model(inputs, outputs, name=model.name)


def _functional(model: Any) -> Any:
    """The functional model within a Sequential one."""
    return getattr(model, "_functional", None) or model


def fold_batch_norm(model: Any) -> tuple[Any, list[str]]:
    """The model with every BatchNorm that follows a convolution or dense layer folded into its kernel and bias.

    w' = w * gamma / sqrt(variance + epsilon); b' = (b - mean) * gamma / sqrt(variance + epsilon) + beta (B. Jacob et al.,
    CVPR 2018, 3.2). A BatchNorm elsewhere, or one whose layer has other consumers or an activation, stays.

    Returns:
        The new model, and the names of the BatchNorms that were folded.
    """
    folded: dict[int, Any] = {}
    for graph in _graphs(model):
        takers = consumers(graph)
        uses = Counter(id(node.operation) for nodes in graph._nodes_by_depth.values() for node in nodes)
        for operation in graph.operations:
            after = takers.get(id(operation), [])
            if (
                _foldable(operation)
                and len(after) == 1
                and type(after[0]).__name__ == "BatchNormalization"
                and uses[id(operation)] == uses[id(after[0])] == 1
                and after[0].axis in (-1, len(operation.output.shape) - 1)
            ):
                folded[id(operation)] = after[0]
    norms = {id(norm) for norm in folded.values()}

    def layer_of(layer: Any) -> Any:
        if id(layer) not in folded:
            return layer
        return type(layer).from_config({**layer.get_config(), "use_bias": True})

    def call(layer: Any, replacement: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) in norms:
            return args[0]
        fresh = replacement is not layer and not replacement.built
        result = replacement(*args, **kwargs)
        if fresh:
            _fold(layer, folded[id(layer)], replacement)
        return result

    return rebuilt(model, layer_of, call), [norm.name for norm in folded.values()]


def _graphs(model: Any) -> Iterator[Any]:
    """A model's graph and those of the models within it."""
    graph = _functional(model)
    yield graph
    for layer in graph.layers:
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            yield from _graphs(layer)


def _foldable(layer: Any) -> bool:
    kinds = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense")
    transposed = ("Conv1DTranspose", "Conv2DTranspose")
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return type(layer).__name__ in (*kinds, *transposed) and activation == "linear"


def _fold(layer: Any, norm: Any, folded: Any) -> None:
    """Set the weights of a folded layer."""
    variance = np.asarray(norm.moving_variance, np.float64)
    gain = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        gain = gain * np.asarray(norm.gamma, np.float64)
    bias = np.asarray(layer.bias, np.float64) if getattr(layer, "use_bias", False) else 0.0
    bias = (bias - np.asarray(norm.moving_mean, np.float64)) * gain
    if norm.center:
        bias = bias + np.asarray(norm.beta, np.float64)
    kind = type(layer).__name__
    for variable in folded.weights:
        name = str(variable.name)
        if name == "bias":
            variable.assign(bias.astype(np.float32))
            continue
        values = np.asarray(getattr(layer, name if hasattr(layer, name) else "kernel"), np.float64)
        last = name == "pointwise_kernel" or (name == "kernel" and not kind.startswith(("Depthwise", "Separable")))
        if "Transpose" in kind:
            values = values * gain[:, None]
        elif kind.startswith("Depthwise"):
            values = values * gain.reshape(values.shape[-2:])
        elif last:
            values = values * gain
        variable.assign(values.astype(np.float32))
