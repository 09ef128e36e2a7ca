"""Keras layers of ours, registered under "edgewright" so that models which hold them load again; needs Keras."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["FakeQuant", "Shaped"]


@keras.saving.register_keras_serializable(package="edgewright")
class FakeQuant(keras.layers.Layer):
    """Rounds a float32 tensor to the values that an integer tensor of its range can hold, and learns that range.

    Per-tensor, as TFLite's specification has activations: scale = (high - low) / (2^bits - 1), the range widened to hold 0
    and shifted so that 0 is a value; with 16 bits it is symmetric. Gradients pass within the range (B. Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, 3.1).

    Args:
        bits: of the integers, 8 or 16.
        momentum: of the moving average of each batch's range; the first batch counts in full.
        percentile: what a batch's range is: from the (100 - percentile)-th to the percentile-th percentile of its values;
            100 is from the smallest to the largest.
        frozen: keep the range as it is. `momentum_now` of 1 does so from within a training that runs.
    """

    def __init__(
        self, bits: int = 8, momentum: float = 0.95, percentile: float = 100.0, frozen: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bits, self.momentum, self.percentile, self.frozen = bits, momentum, percentile, frozen

    def build(self, input_shape: Any) -> None:
        """Make the range: two scalars that no optimizer touches."""
        self.low = self.add_weight(name="low", shape=(), initializer="zeros", trainable=False)
        self.high = self.add_weight(name="high", shape=(), initializer="zeros", trainable=False)
        start = keras.initializers.Constant(self.momentum)
        self.momentum_now = self.add_weight(name="momentum", shape=(), initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The rounded tensor, of the same shape; in training the range follows the data."""
        if training and not self.frozen:
            low, high = self._seen(inputs)
            unset = keras.ops.equal(self.low, self.high)
            keep = keras.ops.where(unset, 0.0, self.momentum_now)
            self.low.assign(keep * self.low + (1.0 - keep) * low)
            self.high.assign(keep * self.high + (1.0 - keep) * high)
        low, high = keras.ops.convert_to_tensor(self.low), keras.ops.convert_to_tensor(self.high)
        high = keras.ops.maximum(high, low + 1e-6)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=self.bits)

    def _seen(self, inputs: Any) -> tuple[Any, Any]:
        """The range of a batch, widened to hold 0."""
        ops = keras.ops
        if self.percentile >= 100.0:
            low, high = ops.min(inputs), ops.max(inputs)
        else:
            share = self.percentile / 100.0
            low, high = ops.quantile(inputs, 1.0 - share), ops.quantile(inputs, share)
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        if self.bits == 16:
            high = ops.maximum(-low, high)
            low = -high
        return low, high

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What loading needs."""
        own = {"bits": self.bits, "momentum": self.momentum, "percentile": self.percentile, "frozen": self.frozen}
        return {**super().get_config(), **own}


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
