"""What passes make of kernels while they train: masks, clusters, rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.optimizers.graph import Array, Kernel, channel_scales, rebuilt

__all__ = ["Clustering", "Shape", "bake", "clustering_of", "mask_by_magnitude", "mask_shape", "preserving", "rounding", "shaped"]

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
    """A kernel as centroids: values = scales * centroids[assignment].

    Args:
        centroids: shape (clusters,), ascending.
        assignment: int32, the kernel's shape.
        scales: what centroids are multiplied with, broadcast against the kernel; ones where they are absolute.
    """

    centroids: Array
    assignment: Array
    scales: Array

    def shape(self, *, zero: bool) -> tuple[Function, Any]:
        """A function that gives the kernel, whatever its variable holds, and the variable of the centroids.

        Args:
            zero: keep a centroid that is 0 at 0.
        """
        import keras

        variable = keras.Variable(self.centroids.astype(np.float32), name="centroids")
        fixed = np.abs(self.centroids) == 1.0 if self.scales.size > 1 else np.zeros(len(self.centroids), bool)
        if zero:
            fixed = fixed | (self.centroids == 0.0)
        held, moving = self.centroids * fixed, (~fixed).astype(np.float32)
        low, high = (-1.0, 1.0) if self.scales.size > 1 else (-np.inf, np.inf)

        def function(value: Any) -> Any:
            free = keras.ops.clip(variable, low, high) * moving + held.astype(np.float32)
            return keras.ops.take(free, self.assignment) * self.scales.astype(np.float32)

        return function, variable


def clustering_of(values: Array, inputs: tuple[int, ...], most: int = 256) -> Clustering | None:
    """The clusters that a kernel consists of, as they are or as multiples of each channel's largest value; None if of none.

    Args:
        values: the kernel.
        inputs: axes that one output value sums over.
        most: more different values than this are no clusters.
    """
    best = None
    for scales in (np.ones((1,) * values.ndim, np.float32), channel_scales(values, inputs)):
        found, assignment = np.unique(values / scales, return_inverse=True)
        # Dividing by a scale splits one cluster into values that differ in their last digits.
        group = np.concatenate([[0], np.cumsum(np.diff(found) > 1e-5)]) if scales.size > 1 else np.arange(len(found))
        first = np.flatnonzero(np.diff(group, prepend=-1))
        if len(first) <= most and _repeats(found[first], values) and (best is None or len(first) < len(best.centroids)):
            placed = group[assignment.reshape(values.shape)].astype(np.int32)
            best = Clustering(_at_ends(found[first]).astype(np.float32), placed, scales)
    return best


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
        function, centroids = clusters.shape(zero=bool(np.any(values == 0.0)))
        kernel.variable.trainable = False
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
