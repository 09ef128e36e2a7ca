"""Keras layers of ours, registered under "edgewright" so that models which hold them load again; needs Keras."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["FakeQuant", "Shaped"]


@keras.saving.register_keras_serializable(package="edgewright")
class FakeQuant(keras.layers.Layer):
    """Rounds a float32 tensor to the values that an integer tensor of its range can hold, and learns that range.

    Per-tensor and asymmetric, as TFLite's int8 specification has activations: scale = (high - low) / (2^bits - 1), the
    range widened to hold 0 and shifted so that 0 is a value. Gradients pass within the range (B. Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, 3.1).

    Args:
        bits: of the integers, 8 or 16.
        momentum: of the moving average of each batch's smallest and largest value; the first batch counts in full.
        frozen: keep the range as it is. `momentum_now` of 1 does so from within a training that runs.
    """

    def __init__(self, bits: int = 8, momentum: float = 0.95, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits, self.momentum, self.frozen = bits, momentum, frozen

    def build(self, input_shape: Any) -> None:
        """Make the range: two scalars that no optimizer touches."""
        self.low = self.add_weight(name="low", shape=(), initializer="zeros", trainable=False)
        self.high = self.add_weight(name="high", shape=(), initializer="zeros", trainable=False)
        start = keras.initializers.Constant(self.momentum)
        self.momentum_now = self.add_weight(name="momentum", shape=(), initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The rounded tensor, of the same shape; in training the range follows the data."""
        if training and not self.frozen:
            low = keras.ops.minimum(keras.ops.min(inputs), 0.0)
            high = keras.ops.maximum(keras.ops.max(inputs), 0.0)
            unset = keras.ops.equal(self.low, self.high)
            keep = keras.ops.where(unset, 0.0, self.momentum_now)
            self.low.assign(keep * self.low + (1.0 - keep) * low)
            self.high.assign(keep * self.high + (1.0 - keep) * high)
        low, high = keras.ops.convert_to_tensor(self.low), keras.ops.convert_to_tensor(self.high)
        high = keras.ops.maximum(high, low + 1e-6)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=self.bits)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What loading needs."""
        return {**super().get_config(), "bits": self.bits, "momentum": self.momentum, "frozen": self.frozen}


class Shaped(keras.layers.Layer):
    """A layer whose kernels are computed anew in every call: masked, drawn from centroids, rounded. For training only.

    The layer reads its variables as always; within the call they stand for what the transforms make of them, so any
    layer of Keras can be wrapped, attention and recurrent ones included.

    Args:
        layer: a built layer.
        shapes: for each variable, the functions that are applied to it, in order.
        state: variables of these functions, for Keras to train and to save.
    """

    def __init__(self, layer: Any, shapes: list[tuple[Any, list[Any]]], state: list[Any]) -> None:
        super().__init__(name=f"{layer.name}_shaped")
        self.layer, self.state = layer, state
        self._shapes = [(variable, tuple(functions)) for variable, functions in shapes]
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives for its shaped kernels."""
        mapping = []
        for variable, functions in self._shapes:
            value = keras.ops.convert_to_tensor(variable)
            for function in functions:
                value = function(value)
            mapping.append((variable, value))
        with keras.StatelessScope(state_mapping=mapping):
            return self.layer(*args, **kwargs)
