"""Rounding within layers: activations that no kernel computes, separable convolutions, attention, cells. Needs Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgewright.optimizers.graph import rebuilt

__all__ = ["fused_by", "with_inner_ranges"]

FUSED = frozenset(("relu", "relu6", "relu_n1_to_1"))
"""Activations that the kernels compute on the accumulator: nothing is rounded before them."""

FUSED_TRANSPOSED = frozenset({"relu"})
"""The ones among them that a transposed convolution's kernel computes."""

UNROLLED = 128
"""Longest sequence that is unrolled, as in the export."""

_CELLS = {"LSTM": "RangedLSTMCell", "GRU": "RangedGRUCell", "SimpleRNN": "RangedSimpleRNNCell"}


def with_inner_ranges(model: Any, how: Mapping[str, Any], skip: set[str], notes: list[str]) -> Any:
    """The model with layers that round what an integer file rounds within them.

    An activation that the kernel before it cannot compute becomes a layer of its own (but at the model's outputs, whose names
    it would change); multi-head attention and recurrent layers become layers of ours, with the same weights and names, the
    recurrent ones unrolled.

    Args:
        model: functional, flat; its layers are changed.
        how: `momentum` and `percentile` of the ranges.
        skip: names of the layers that are left as they are.
        notes: what cannot be done is named here.
    """
    import keras

    last = {id(tensor._keras_history.operation) for tensor in model.outputs}
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if node.input_tensors]
    lengths = {id(node.operation): (*node.input_tensors[0].shape, None)[1] for node in nodes}
    activations: dict[int, Any] = {}
    for layer in model.layers:
        name = getattr(getattr(layer, "activation", None), "__name__", "linear")
        kernel = hasattr(layer, "kernel") or hasattr(layer, "pointwise_kernel")
        if kernel and name not in {"linear", *fused_by(layer)} and id(layer) not in last and layer.name not in skip:
            activations[id(layer)] = keras.layers.Activation(layer.activation, name=f"{layer.name}_{name}")
            layer.activation = keras.activations.linear

    def layer_of(layer: Any) -> Any:
        return layer if layer.name in skip else _ranged(layer, lengths.get(id(layer)), how, notes)

    def call(layer: Any, replacement: Any, *args: Any, **kwargs: Any) -> Any:
        fresh = replacement is not layer and not replacement.built
        result = replacement(*args, **kwargs)
        if fresh:
            _copy_weights(layer, replacement)
        return activations[id(layer)](result) if id(layer) in activations else result

    return rebuilt(model, layer_of, call)


def fused_by(operation: Any) -> frozenset[str]:
    """Activations that the kernel of an operation computes, by name."""
    return FUSED_TRANSPOSED if "Transpose" in type(operation).__name__ else FUSED


def _ranged(layer: Any, steps: int | None, how: Mapping[str, Any], notes: list[str]) -> Any:
    """What stands in a layer's place: one that rounds within, or the layer; `steps` is the length of what it is given."""
    import keras

    from edgewright import keras_layers

    kind = type(layer).__name__
    if kind == "MultiHeadAttention":
        config = {
            name: value for name, value in layer.get_config().items() if name not in {"query_shape", "key_shape", "value_shape"}
        }
        return keras_layers.RangedAttention.from_config({**config, **how})
    if kind in {"SeparableConv1D", "SeparableConv2D"}:
        separable: Any = getattr(keras_layers, f"Ranged{kind}")
        return separable.from_config({**layer.get_config(), **how})
    if kind in _CELLS:
        return _unrolled(layer, steps, how, notes) or layer
    if kind == "Bidirectional" and type(layer.forward_layer).__name__ in _CELLS:
        sides = [_unrolled(one, steps, how, notes) for one in (layer.forward_layer, layer.backward_layer)]
        if all(sides):
            forward, backward = sides
            return keras.layers.Bidirectional(forward, backward_layer=backward, merge_mode=layer.merge_mode, name=layer.name)
    return layer


def _unrolled(layer: Any, steps: int | None, how: Mapping[str, Any], notes: list[str]) -> Any:
    """A recurrent layer, unrolled, with a cell of ours; None if its sequence is too long or free, which is noted."""
    import keras

    from edgewright import keras_layers

    if steps is None or steps > UNROLLED:
        length = "a free length" if steps is None else f"{steps} steps"
        notes.append(f"the recurrent layer '{layer.name}' has {length}: values within it are not rounded in training")
        return None
    cell: Callable[..., Any] = getattr(keras_layers, _CELLS[type(layer).__name__])
    config = {**layer.cell.get_config(), **how}
    more = {name: getattr(layer, name) for name in ("return_sequences", "return_state", "go_backwards", "stateful")}
    masked = {"zero_output_for_mask": getattr(layer, "zero_output_for_mask", False)}
    return keras.layers.RNN(cell.from_config(config), unroll=True, name=layer.name, **more, **masked)  # type: ignore[attr-defined]


def _copy_weights(old: Any, new: Any) -> None:
    """Give a layer the weights of the one whose place it takes; ranges it has besides."""
    own = [variable for variable in new.weights if not str(variable.path).split("/")[-2].endswith("_range")]
    for target, source in zip(own, old.weights, strict=True):
        target.assign(source)
