"""Keras layers of ours, registered under "edgewright" so that models which hold them load again; needs Keras."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

__all__ = [
    "FakeQuant",
    "RangedAttention",
    "RangedGRUCell",
    "RangedLSTMCell",
    "RangedSeparableConv1D",
    "RangedSeparableConv2D",
    "RangedSimpleRNNCell",
    "Shaped",
]


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
        grow: widen at once to what a batch needs, and narrow by the moving average: for values of several time steps, whose
            ranges differ.
        frozen: keep the range as it is. `momentum_now` of 1 does so from within a training that runs.
    """

    def __init__(
        self,
        bits: int = 8,
        momentum: float = 0.95,
        percentile: float = 100.0,
        grow: bool = False,
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits, self.momentum, self.percentile, self.grow, self.frozen = bits, momentum, percentile, grow, frozen

    def build(self, input_shape: Any) -> None:
        """Make the range: two scalars that no optimizer touches."""
        self.low = self.add_weight(name="low", shape=(), initializer="zeros", trainable=False, aggregation="mean")
        self.high = self.add_weight(name="high", shape=(), initializer="zeros", trainable=False, aggregation="mean")
        start = keras.initializers.Constant(self.momentum)
        self.momentum_now = self.add_weight(name="momentum", shape=(), initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The rounded tensor, of the same shape; in training the range follows the data."""
        if training and not self.frozen:
            low, high = self._seen(inputs)
            unset = keras.ops.equal(self.low, self.high)
            keep = keras.ops.where(unset, 0.0, self.momentum_now)
            next_low, next_high = keep * self.low + (1.0 - keep) * low, keep * self.high + (1.0 - keep) * high
            if self.grow:  # but not when the range is frozen from without
                frozen = keras.ops.equal(self.momentum_now, 1.0)
                next_low = keras.ops.where(frozen, next_low, keras.ops.minimum(low, next_low))
                next_high = keras.ops.where(frozen, next_high, keras.ops.maximum(high, next_high))
            self.low.assign(next_low)
            self.high.assign(next_high)
        low, high = keras.ops.convert_to_tensor(self.low), keras.ops.convert_to_tensor(self.high)
        high = keras.ops.where(keras.ops.equal(low, high), low + 1.0, high)  # always 0: any scale holds it
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
        own = ("bits", "momentum", "percentile", "grow", "frozen")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


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
        with keras.StatelessScope(state_mapping=mapping) as scope:
            result = self.layer(*args, **kwargs)
        for variable in self.layer.non_trainable_variables:  # ranges, statistics, seeds: what the call changed
            value = scope.get_current_value(variable)
            if value is not None and all(variable is not shaped for shaped, _ in mapping):
                variable.assign(value)
        return result


class _Ranged:
    """What layers have in common that round values within themselves: a `FakeQuant` for each kind of value."""

    VALUES: ClassVar[tuple[str, ...]] = ()
    GROW: ClassVar[bool] = True

    def __init__(self, *args: Any, bits: int = 8, momentum: float = 0.95, percentile: float = 100.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._how = {"bits": bits, "momentum": momentum, "percentile": percentile}
        self.ranges = {name: FakeQuant(bits, momentum, percentile, self.GROW, name=f"{name}_range") for name in self.VALUES}

    def _build_ranges(self) -> None:
        for quant in self.ranges.values():
            quant.build(None)
            quant.built = True

    def get_config(self) -> dict[str, Any]:
        """What loading needs."""
        return {**super().get_config(), **self._how}  # type: ignore[misc]

    def _dropped(self, inputs: Any, state: Any, training: bool) -> tuple[Any, Any]:
        """Inputs and state of a cell after dropout."""
        own: Any = self
        if training and own.dropout > 0.0:
            mask = own.get_dropout_mask(inputs)
            inputs = inputs * (mask[0] if isinstance(mask, (list, tuple)) else mask)
        if training and own.recurrent_dropout > 0.0:
            mask = own.get_recurrent_dropout_mask(state)
            state = state * (mask[0] if isinstance(mask, (list, tuple)) else mask)
        return inputs, state


@keras.saving.register_keras_serializable(package="edgewright")
class RangedAttention(_Ranged, keras.layers.MultiHeadAttention):
    """Multi-head attention that rounds queries, keys, values, scores and their mixture as an integer file does."""

    VALUES = ("query", "key", "value", "scaled", "scores", "mixed")
    GROW = False

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Make the weights and the ranges."""
        super().build(query_shape, value_shape, key_shape)
        self._build_ranges()

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
    ) -> tuple[Any, Any]:
        ops, ranges = keras.ops, self.ranges
        query, key, value = ranges["query"](query), ranges["key"](key), ranges["value"](value)
        query = ranges["scaled"](query * self._inverse_sqrt_key_dim)
        scores = ranges["scores"](ops.einsum(self._dot_product_equation, key, query))
        shares = self._masked_softmax(scores, attention_mask)
        kept = self._dropout_layer(shares, training=training) if self._dropout > 0.0 else shares
        return ranges["mixed"](ops.einsum(self._combine_equation, kept, value)), shares


class _RangedSeparable(_Ranged):
    """A separable convolution that rounds what its depthwise half gives."""

    VALUES = ("depthwise",)
    GROW = False

    def build(self, input_shape: Any) -> None:
        """Make the weights and the ranges."""
        super().build(input_shape)  # type: ignore[misc]
        self._build_ranges()

    def call(self, inputs: Any) -> Any:
        """As the layer of Keras."""
        own: Any = self
        ops, how = keras.ops, {"data_format": own.data_format}
        causal = own.padding == "causal"
        if causal:
            inputs = ops.pad(inputs, own._compute_causal_padding())
        padding = "valid" if causal else own.padding
        strides = own.strides if own.rank == 2 else own.strides[0]
        dilation = own.dilation_rate if own.rank == 2 else own.dilation_rate[0]
        kernel, last = own.depthwise_kernel, own.pointwise_kernel
        middle = ops.depthwise_conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation, **how)
        result = ops.conv(self.ranges["depthwise"](middle), last, padding="valid", **how)
        if own.use_bias:
            shape = (1,) * (own.rank + 1) + (own.filters,)
            channels_first = (1, own.filters) + (1,) * own.rank
            result = ops.add(result, ops.reshape(own.bias, shape if own.data_format == "channels_last" else channels_first))
        return own.activation(result) if own.activation is not None else result


@keras.saving.register_keras_serializable(package="edgewright")
class RangedSeparableConv1D(_RangedSeparable, keras.layers.SeparableConv1D):
    """A 1-D separable convolution that rounds what its depthwise half gives."""


@keras.saving.register_keras_serializable(package="edgewright")
class RangedSeparableConv2D(_RangedSeparable, keras.layers.SeparableConv2D):
    """A 2-D separable convolution that rounds what its depthwise half gives."""


@keras.saving.register_keras_serializable(package="edgewright")
class RangedLSTMCell(_Ranged, keras.layers.LSTMCell):
    """An LSTM's cell that rounds every value as the integer ops of its unrolled form do."""

    VALUES = ("input", "recurrent", "gates", "forgotten", "added", "carry", "hidden")

    def build(self, input_shape: Any) -> None:
        """Make the weights and the ranges."""
        super().build(input_shape)
        self._build_ranges()

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
        """One step: the output, shape (batch, units), and the new states."""
        ops, ranges = keras.ops, self.ranges
        carry = states[1]
        inputs, hidden = self._dropped(inputs, states[0], training)
        taken = ops.matmul(inputs, self.kernel)
        if self.use_bias:
            taken = ops.add(taken, self.bias)
        gates = ranges["gates"](ranges["input"](taken) + ranges["recurrent"](ops.matmul(hidden, self.recurrent_kernel)))
        enter, forget, fresh, leave = ops.split(gates, 4, axis=1)
        forgotten = ranges["forgotten"](self.recurrent_activation(forget) * carry)
        added = ranges["added"](self.recurrent_activation(enter) * self.activation(fresh))
        carry = ranges["carry"](forgotten + added)
        hidden = ranges["hidden"](self.recurrent_activation(leave) * self.activation(carry))
        return hidden, [hidden, carry]


@keras.saving.register_keras_serializable(package="edgewright")
class RangedGRUCell(_Ranged, keras.layers.GRUCell):
    """A GRU's cell that rounds every value as the integer ops of its unrolled form do."""

    VALUES = ("input", "recurrent", "update", "reset", "gated", "fresh", "old", "new", "hidden")

    def build(self, input_shape: Any) -> None:
        """Make the weights and the ranges."""
        super().build(input_shape)
        self._build_ranges()

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step: the output, shape (batch, units), and the new state."""
        ops, ranges, units = keras.ops, self.ranges, self.units
        nested = isinstance(states, (list, tuple))
        before = states[0] if nested else states
        inputs, hidden = self._dropped(inputs, before, training)
        bias, recurrent_bias = (self.bias[0], self.bias[1]) if self.reset_after and self.use_bias else (self.bias, None)
        taken = ops.matmul(inputs, self.kernel)
        if bias is not None:
            taken = ops.add(taken, bias)
        x_update, x_reset, x_fresh = ops.split(ranges["input"](taken), 3, axis=-1)
        kernel = self.recurrent_kernel if self.reset_after else self.recurrent_kernel[:, : 2 * units]
        known = ops.matmul(hidden, kernel)
        if recurrent_bias is not None:
            known = ops.add(known, recurrent_bias)
        known = ranges["recurrent"](known)
        update = self.recurrent_activation(ranges["update"](x_update + known[:, :units]))
        reset = self.recurrent_activation(ranges["reset"](x_reset + known[:, units : 2 * units]))
        if self.reset_after:
            gated = reset * known[:, 2 * units :]
        else:
            gated = ops.matmul(reset * hidden, self.recurrent_kernel[:, 2 * units :])
        fresh = self.activation(ranges["fresh"](x_fresh + ranges["gated"](gated)))
        result = ranges["hidden"](ranges["old"](update * before) + ranges["new"]((1.0 - update) * fresh))
        return result, [result] if nested else result


@keras.saving.register_keras_serializable(package="edgewright")
class RangedSimpleRNNCell(_Ranged, keras.layers.SimpleRNNCell):
    """A simple recurrent cell that rounds every value as the integer ops of its unrolled form do."""

    VALUES = ("input", "recurrent", "sum", "hidden")

    def build(self, input_shape: Any) -> None:
        """Make the weights and the ranges."""
        super().build(input_shape)
        self._build_ranges()

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step: the output, shape (batch, units), and the new state."""
        ops, ranges = keras.ops, self.ranges
        nested = isinstance(states, (list, tuple))
        inputs, hidden = self._dropped(sequence, states[0] if nested else states, training)
        taken = ops.matmul(inputs, self.kernel)
        if self.bias is not None:
            taken = ops.add(taken, self.bias)
        total = ranges["sum"](ranges["input"](taken) + ranges["recurrent"](ops.matmul(hidden, self.recurrent_kernel)))
        result = ranges["hidden"](self.activation(total)) if self.activation is not None else total
        return result, [result] if nested else result
