"""What passes make of kernels while they train: masks, clusters, rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.optimizers.graph import Array, Kernel, channel_scales, rebuilt

__all__ = [
    "Clustering",
    "Shape",
    "bake",
    "channels_of",
    "clustering_of",
    "mask_by_magnitude",
    "mask_shape",
    "preserving",
    "rounding",
    "shaped",
    "stacked",
]

Function = Callable[[Any], Any]

SPARSE = 0.05
"""Share of zeros from which on they are no chance, and are kept."""


@dataclass(slots=True)
class Shape:
    """How one kernel is computed in training.

    Args:
        kernel: the kernel.
        functions: applied to its variable, in order.
        state: variables of these functions.
    """

    kernel: Kernel
    functions: list[Function]
    state: list[Any]

    def value(self) -> Array:
        """What the kernel is now."""
        import keras

        found = keras.ops.convert_to_tensor(self.kernel.variable)
        for function in self.functions:
            found = function(found)
        return np.asarray(found, np.float32)


def shaped(model: Any, shapes: list[Shape], after: Callable[[Any, Any], Any] | None = None) -> Any:
    """The model whose kernels are computed by shapes; layers without any are used as they are.

    Args:
        model: functional.
        shapes: per kernel.
        after: called with each layer and its output; gives what the next layers take.
    """
    from edgewright.keras_layers import Shaped

    by_layer: dict[int, list[Shape]] = {}
    for shape in shapes:
        by_layer.setdefault(id(shape.kernel.layer), []).append(shape)

    def layer_of(layer: Any) -> Any:
        own = by_layer.get(id(layer))
        if own is None:
            return layer
        return Shaped(layer, [(s.kernel.variable, s.functions) for s in own], [v for s in own for v in s.state])

    def call(layer: Any, replacement: Any, *args: Any, **kwargs: Any) -> Any:
        result = replacement(*args, **kwargs)
        return result if after is None else after(layer, result)

    return rebuilt(model, layer_of, call)


def bake(shapes: list[Shape]) -> None:
    """Write into every kernel what its shape makes of it."""
    for shape, value in [(shape, shape.value()) for shape in shapes]:
        shape.kernel.variable.assign(value)


# --- masks -----------------------------------------------------------------------------------------------------------


def mask_shape(kernel: Kernel, mask: Array) -> tuple[Function, Any]:
    """A function that keeps a kernel where a mask is 1, and the mask's variable."""
    import keras

    variable = keras.Variable(mask.astype(np.float32), trainable=False, name="mask")
    return lambda value: value * variable, variable


def mask_by_magnitude(
    values: Array,
    sparsity: float,
    *,
    inputs: tuple[int, ...],
    pattern: tuple[int, int] | None = None,
    block: tuple[int, int] = (1, 1),
) -> Array:
    """1 where a value is kept, 0 where it is pruned: the smallest absolute values go first.

    Args:
        values: the kernel.
        sparsity: share to prune, of all blocks; not used with a pattern.
        inputs: axes that one output value sums over.
        pattern: (n, m): of every m neighbours along the last input axis at most n are kept (2:4 keeps two of four); what is left
            over at its end is a group of its own.
        block: rows and columns of the blocks that are kept or pruned as one, in the matrix (inputs, output channels).
    """
    order = [*inputs, *(axis for axis in range(values.ndim) if axis not in inputs)]
    moved = np.abs(values).transpose(order)
    rows = int(np.prod(moved.shape[: len(inputs)])) if inputs else 1
    matrix = moved.reshape(rows, -1)
    last = moved.shape[len(inputs) - 1] if inputs else 1
    mask = _pattern_mask(matrix, last, *pattern) if pattern else _block_mask(matrix, sparsity, block)
    return np.asarray(mask.reshape(moved.shape).transpose(np.argsort(order)), np.float32)


def _pattern_mask(matrix: Array, last: int, keep: int, of: int) -> Array:
    """Keep the `keep` largest of every `of` neighbours among the `last` rows that one position of the kernel has."""
    columns = matrix.shape[1]
    spots = matrix.reshape(-1, last, columns)
    padded = np.concatenate([spots, np.full((len(spots), -last % of, columns), -1.0, matrix.dtype)], axis=1)
    groups = padded.reshape(-1, of, columns)
    ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((ranks < keep).reshape(padded.shape)[:, :last].reshape(matrix.shape))


def _block_mask(matrix: Array, sparsity: float, block: tuple[int, int]) -> Array:
    """Prune the blocks with the smallest mean; exactly round(sparsity * blocks) of them but never all, ties by place."""
    rows, columns = matrix.shape
    edges = ((0, -rows % block[0]), (0, -columns % block[1]))
    padded, present = np.pad(matrix.astype(np.float64), edges), np.pad(np.ones(matrix.shape), edges)
    tall, wide = padded.shape[0] // block[0], padded.shape[1] // block[1]
    sums = [part.reshape(tall, block[0], wide, block[1]).sum(axis=(1, 3)) for part in (padded, present)]
    strength = sums[0] / sums[1]
    kept = np.ones(strength.size, bool)
    kept[np.argsort(strength.ravel(), kind="stable")[: min(round(sparsity * strength.size), strength.size - 1)]] = False
    return np.asarray(np.kron(kept.reshape(strength.shape), np.ones(block, bool))[:rows, :columns])


# --- clusters --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clustering:
    """What a kernel's values are drawn from: each is the nearest of scales * centroids.

    Args:
        centroids: ascending; shape (clusters,), or (channels, clusters) if every output channel has its own.
        scales: what centroids are multiplied with, broadcast against the kernel; ones where they are absolute.
    """

    centroids: Array
    scales: Array

    def shape(self, values: Array, inputs: tuple[int, ...], *, zero: bool) -> tuple[Function, Any]:
        """A function that draws a kernel from centroids, and the variable of these.

        Gradients reach the centroids, and pass straight through to the kernel, so that a value can move to another centroid.
        In units of scales, each channel's largest value stays where it is: the scale of its int8 values depends on it.

        Args:
            values: the kernel as it is now.
            inputs: axes that one output value sums over.
            zero: what is 0 now stays 0, and nothing else becomes 0.
        """
        import keras
        import tensorflow as tf

        ops = keras.ops
        lists, scales = np.atleast_2d(self.centroids).astype(np.float32), self.scales.astype(np.float32)
        variable = keras.Variable(lists, name="centroids")
        scaled = scales.size > 1
        low, high = (-1.0, 1.0) if scaled else (-np.inf, np.inf)
        fixed = (np.abs(lists) == 1.0 if scaled else np.zeros(lists.shape, bool)) | (zero & (lists == 0.0))
        ends, moving = lists * fixed, (~fixed).astype(np.float32)
        # Zero is no centroid to move to: it is put where no value is nearest to it.
        hidden = np.where(zero & (lists == 0.0), np.float32(np.inf), np.float32(0.0))
        held = _largest(values, inputs, self.centroids) * scales if scaled else np.zeros_like(values)
        drawn = ((held == 0.0) & ~(zero & (values == 0.0))).astype(np.float32)
        order = list(range(values.ndim))
        if len(lists) > 1:  # a list for every output channel: channels first
            order = [*(axis for axis in order if axis not in inputs), *inputs]
        moved, back = [values.shape[axis] for axis in order], np.argsort(order).tolist()
        first = (np.arange(len(lists)) * lists.shape[1])[:, None]

        def function(value: Any) -> Any:
            free = ops.sort(ops.clip(variable, low, high) * moving + ends + hidden, axis=-1)
            rows = ops.reshape(ops.transpose(value / scales, order), (len(lists), -1))
            nearest = (
                tf.searchsorted((free[:, 1:] + free[:, :-1]) / 2, rows) if lists.shape[1] > 1 else ops.zeros_like(rows, "int32")
            )
            found = ops.take(ops.reshape(free, (-1,)), nearest + first)
            found = ops.transpose(ops.reshape(found, moved), back) * scales
            return ops.where(drawn, found + (value - ops.stop_gradient(value)), held)

        return function, variable


def _largest(values: Array, inputs: tuple[int, ...], centroids: Array) -> Array:
    """The sign of the first of each channel's largest values, where it is a centroid, and 0 elsewhere."""
    matrix = channels_of(values, inputs)
    places = np.arange(len(matrix)), np.abs(matrix).argmax(axis=1)
    signs = np.sign(matrix[places])
    result = np.zeros_like(matrix)
    result[places] = np.where(np.isin(signs, centroids), signs, 0.0)
    order = [*(axis for axis in range(values.ndim) if axis not in inputs), *inputs]
    return np.asarray(result.reshape([values.shape[axis] for axis in order]).transpose(np.argsort(order)))


def clustering_of(values: Array, inputs: tuple[int, ...], most: int = 256) -> Clustering | None:
    """The clusters that a kernel consists of, as they are or as multiples of each channel's largest value; None if of none.

    Args:
        values: the kernel.
        inputs: axes that one output value sums over.
        most: more different values than this are no clusters.
    """
    best = None
    for scales in (np.ones((1,) * values.ndim, np.float32), channel_scales(values, inputs)):
        found = _different(values / scales, 1e-5 if scales.size > 1 else 0.0)
        if len(found) <= most and _repeats(found, values) and (best is None or len(found) < len(best.centroids)):
            best = Clustering(_at_ends(found).astype(np.float32), scales)
    if best is None:
        return None
    own = [_different(channel) for channel in channels_of(values, inputs)]
    inner = [_inner(_different(channel, 1e-5)) for channel in channels_of(values / best.scales, inputs)]
    if len(own) > 1 and sum(inner) == _inner(best.centroids):  # no two channels share any
        return Clustering(stacked(own), np.ones((1,) * values.ndim, np.float32))
    return best


def channels_of(values: Array, inputs: tuple[int, ...]) -> Array:
    """A kernel as a matrix with a row for each output channel."""
    return np.moveaxis(values, inputs, range(-len(inputs), 0)).reshape(-1, int(np.prod([values.shape[axis] for axis in inputs])))


def stacked(lists: list[Array]) -> Array:
    """Lists of centroids as a matrix; shorter ones repeat their last."""
    most = max(map(len, lists))
    return np.stack([np.pad(one, (0, most - len(one)), mode="edge") for one in lists]).astype(np.float32)


def _different(values: Array, apart: float = 0.0) -> Array:
    """The different values, ascending; those less than `apart` from one are the same but for the division by a scale."""
    found = np.unique(values)
    return found[np.diff(found, prepend=-np.inf) > apart]


def _inner(centroids: Array) -> int:
    """How many centroids are neither zero nor an end of a channel."""
    return int(np.count_nonzero(~np.isin(_at_ends(centroids), (-1.0, 0.0, 1.0))))


def _repeats(different: Array, values: Array) -> bool:
    """Whether values repeat so often that it is no chance; that many of them are 0 is none."""
    nonzero = int(np.count_nonzero(values))
    return bool(4 * len(different) <= values.size or 4 * np.count_nonzero(different) <= 3 * nonzero)


def _at_ends(centroids: Array) -> Array:
    """Centroids with those next to -1, 0 and 1 at these values, which are kept fixed."""
    result = centroids.astype(np.float64)
    for end in (-1.0, 0.0, 1.0):
        result[np.abs(result - end) < 1e-5] = end
    return result


def preserving(kernel: Kernel) -> Shape | None:
    """How a kernel keeps the clusters or the zeros that it has while it trains; None if it has none of either."""
    values = kernel.values()
    clusters = clustering_of(values, kernel.inputs)
    if clusters is not None:
        function, centroids = clusters.shape(values, kernel.inputs, zero=bool(np.any(values == 0.0)))
        return Shape(kernel, [function], [centroids])
    if np.mean(values == 0.0) >= SPARSE:
        function, mask = mask_shape(kernel, values != 0.0)
        return Shape(kernel, [function], [mask])
    return None


# --- rounding --------------------------------------------------------------------------------------------------------


def rounding(kernel: Kernel, per_channel: bool = True, levels: int = 127) -> Function:
    """A function that rounds a kernel to signed integers of a scale, gradients passing straight through.

    scale = largest absolute value / 127, per output channel or for the tensor: TFLite's int8 specification for weights.

    Args:
        kernel: the kernel.
        per_channel: a scale for each output channel.
        levels: largest integer.
    """
    import keras

    ops = keras.ops
    axes = kernel.inputs if per_channel else tuple(range(len(kernel.shape)))

    def function(value: Any) -> Any:
        scale = ops.maximum(ops.max(ops.abs(value), axis=axes, keepdims=True), 1e-12) / float(levels)
        rounded = ops.clip(ops.round(value / scale), -levels, levels) * scale
        return value + ops.stop_gradient(rounded - value)

    return function
