"""Weight clustering: every kernel is drawn from a few centroids, which are trained by gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.errors import UnsupportedError, UsageError
from edgewright.optimizers.graph import Array, Kernel, channel_scales, fold_batch_norm, kernels_of
from edgewright.optimizers.passes import PASSES, STRICT, KerasPass, Outcome, Task, literal
from edgewright.optimizers.shaping import Clustering, Shape, bake, channels_of, preserving, shaped, stacked
from edgewright.optimizers.training import FitOptions
from edgewright.step import Claim

__all__ = ["Cluster", "ClusterOptions", "kmeans"]

_MOST = 256
_SHOWN = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions(FitOptions):
    """How kernels are clustered.

    Args:
        clusters: different values per tensor, or per output channel.
        init: where centroids start: "kmeans++" (D. Arthur, S. Vassilvitskii, SODA 2007), "linear" from the smallest to the
            largest value, "density" at quantiles; then Lloyd's algorithm (S. Han, H. Mao, W. Dally, "Deep compression",
            ICLR 2016).
        per: "scaled" clusters a tensor's values in units of each channel's largest one: per-channel int8 keeps these clusters
            for the whole tensor. "tensor" clusters the values themselves, which int8 keeps per channel. "channel" gives every
            output channel centroids of its own.
        preserve_zeros: zeros of the model stay zeros, and count as one cluster; "auto" does so where a kernel has 5 % or more.
        include: patterns of the layers that are clustered.
        exclude: patterns of the layers that are not.
        smallest: kernels with fewer values than this are left as they are.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    clusters: int = 16
    init: Literal["kmeans++", "linear", "density"] = "kmeans++"
    per: Literal["scaled", "tensor", "channel"] = "scaled"
    preserve_zeros: Literal["auto", "yes", "no"] = "auto"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    smallest: int = 64


@PASSES.register("cluster")
class Cluster(KerasPass):
    """Clusters kernels after BatchNorm is folded into them, and trains centroids and what is drawn from them."""

    name: ClassVar[str] = "cluster"
    Options: ClassVar[type[ClusterOptions]] = ClusterOptions

    def __init__(self, options: ClusterOptions) -> None:
        super().__init__(options)
        if not 2 <= options.clusters <= _MOST:
            raise UsageError(f"option 'clusters' is {options.clusters}, it must be from 2 to {_MOST}")

    def transform(self, task: Task) -> Outcome:
        """The clustered model; see `KerasPass.transform`."""
        model, folded = fold_batch_norm(task.model)
        if folded:
            task.notes.append(f"{len(folded)} BatchNorms were folded before clustering: what is clustered is what the file holds")
        found = kernels_of(model, self.options.include, self.options.exclude)
        kernels = [kernel for kernel in found if np.prod(kernel.shape) >= self.options.smallest]
        if not kernels:
            raise UnsupportedError(
                f"no layer of '{model.name}' is to be clustered: include is {list(self.options.include)}, exclude is "
                f"{list(self.options.exclude)}, smallest is {self.options.smallest}",
                hint=f"layers with kernels: {', '.join(dict.fromkeys(k.layer.name for k in kernels_of(model))) or 'none'}",
            )
        rng = np.random.default_rng(task.seed)
        shapes = []
        for kernel in kernels:
            values = kernel.values()
            zero = self._keeps_zeros(values)
            clustering = self._clustering(kernel, values, zero, rng)
            function, centroids = clustering.shape(values, kernel.inputs, zero=zero)
            shapes.append(Shape(kernel, [function], [centroids]))
        chosen = {kernel.path for kernel in kernels}
        others = [preserving(kernel) for kernel in kernels_of(model) if kernel.path not in chosen]
        shapes += [shape for shape in others if shape is not None]
        if task.trainer is not None and task.trainer.options.epochs:
            task.trainer.fit(shaped(model, shapes), "clustering")
        bake(shapes)
        return Outcome(model, tuple(self._claim(kernel) for kernel in kernels if self.options.per == "tensor"))

    def _claim(self, kernel: Kernel) -> Claim:
        return Claim("unique", float(self.options.clusters), literal(kernel.path))

    def _keeps_zeros(self, values: Array) -> bool:
        if self.options.preserve_zeros == "auto":
            return bool(np.mean(values == 0.0) >= 0.05)
        return bool(self.options.preserve_zeros == "yes")

    def _clustering(self, kernel: Kernel, values: Array, zero: bool, rng: np.random.Generator) -> Clustering:
        count = self.options.clusters
        if self.options.per == "channel":
            return _per_channel(values, kernel.inputs, count, zero, self.options.init, rng)
        if self.options.per == "tensor":
            centroids = kmeans(values.ravel(), count, init=self.options.init, zero=zero, rng=rng)
            return Clustering(centroids, np.ones((1,) * values.ndim, np.float32))
        scales = _coarse(channel_scales(values, kernel.inputs))
        normal = values / scales
        normal = np.where(np.abs(values) == np.abs(values).max(axis=kernel.inputs, keepdims=True), np.sign(values), normal)
        centroids = kmeans(normal.ravel(), count, init=self.options.init, zero=zero, rng=rng, ends=True)
        return Clustering(centroids, scales)


def kmeans(
    values: Array,
    count: int,
    *,
    init: str,
    zero: bool,
    rng: np.random.Generator,
    ends: bool = False,
    rounds: int = 50,
    starts: int = 10,
) -> Array:
    """Centroids of one-dimensional values, ascending, by Lloyd's algorithm on the sorted values.

    Args:
        values: shape (n,).
        count: how many centroids at most.
        init: "kmeans++", "linear" or "density".
        zero: one centroid is 0 and stays there.
        rng: for kmeans++.
        ends: one centroid each is -1 and 1 and stays there, if values reach these.
        rounds: of Lloyd's algorithm at most.
        starts: how often kmeans++ starts anew; the centroids nearest to the values are taken.
    """
    ordered = np.sort(values.astype(np.float64))
    if zero:
        ordered = ordered[ordered != 0.0]
    fixed = [*([0.0] if zero else []), *([end for end in (-1.0, 1.0) if np.any(np.abs(ordered - end) < 1e-6)] if ends else [])]
    different = np.unique(ordered)
    fixed = fixed if len(fixed) <= count else [0.0]  # too few for both ends beside it
    free = min(count - len(fixed), len(different))
    if free <= 0 or not len(ordered):
        return np.sort(np.asarray(fixed if fixed else [0.0], np.float32))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(ordered))])
    best, least = np.asarray(fixed, np.float64), np.inf
    for _ in range(starts if init == "kmeans++" else 1):
        start = _start(ordered, different, free, init, rng)
        for _ in range(rounds):
            centroids, moves = _together(start, fixed)
            low, high = _parts(ordered, centroids)
            sizes = high - low
            means = np.where(sizes > 0, (sums[high] - sums[low]) / np.maximum(sizes, 1), centroids)
            moved, idle = means[moves], np.flatnonzero(sizes[moves] == 0)
            if len(idle):  # one that no value belongs to starts anew, where the centroids are farthest from the values
                far = ordered[np.argmax(np.abs(ordered - np.repeat(centroids, sizes)))]
                moved = np.sort(np.append(np.delete(moved, idle[0]), far))
            if np.allclose(moved, start, rtol=0, atol=1e-9):
                break
            start = moved
        centroids, _ = _together(start, fixed)
        low, high = _parts(ordered, centroids)
        parts = squares[high] - squares[low] - 2 * centroids * (sums[high] - sums[low]) + (high - low) * np.square(centroids)
        if parts.sum() < least:
            best, least = centroids, parts.sum()
    return np.unique(best.astype(np.float32))


def _together(start: Array, fixed: list[float]) -> tuple[Array, Array]:
    """All centroids, ascending, and which of them move."""
    centroids = np.concatenate([start, fixed])
    order = np.argsort(centroids, kind="stable")
    return centroids[order], order < len(start)


def _parts(ordered: Array, centroids: Array) -> tuple[Array, Array]:
    """Where the values that belong to each centroid begin and end."""
    edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
    return np.concatenate([[0], edges]), np.concatenate([edges, [len(ordered)]])


def _start(ordered: Array, different: Array, count: int, init: str, rng: np.random.Generator) -> Array:
    if init == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if init == "density":
        return np.asarray(np.quantile(ordered, (np.arange(count) + 0.5) / count))
    if len(ordered) > _SHOWN:  # enough to choose from
        ordered = np.sort(rng.choice(ordered, _SHOWN, replace=False))
    chosen = [float(rng.choice(different))]
    distance = np.square(ordered - chosen[0])
    while len(chosen) < count and distance.sum() > 0:
        chosen.append(float(rng.choice(ordered, p=distance / distance.sum())))
        distance = np.minimum(distance, np.square(ordered - chosen[-1]))
    return np.sort(np.asarray(chosen))


def _coarse(scales: Array) -> Array:
    """Scales rounded up by at most 4.4 %, to 16 steps an octave: so few different ones deflate well in an int8 file."""
    return np.exp2(np.ceil(np.log2(scales) * 16.0 - 1e-4) / 16.0).astype(np.float32)


def _per_channel(
    values: Array, inputs: tuple[int, ...], count: int, zero: bool, init: str, rng: np.random.Generator
) -> Clustering:
    """Centroids of every output channel by itself."""
    own = [kmeans(channel, count, init=init, zero=zero, rng=rng) for channel in channels_of(values, inputs)]
    return Clustering(stacked(own), np.ones((1,) * values.ndim, np.float32))
