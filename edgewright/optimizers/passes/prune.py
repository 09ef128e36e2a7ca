"""Magnitude pruning: unstructured, N:M or in blocks, per layer or over the whole model, with fine-tuning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.errors import UnsupportedError, UsageError
from edgewright.optimizers.graph import Array, Kernel, kernels_of
from edgewright.optimizers.passes import PASSES, STRICT, KerasPass, Outcome, Task, literal
from edgewright.optimizers.shaping import Shape, bake, mask_by_magnitude, mask_shape, preserving, shaped
from edgewright.optimizers.training import FitOptions
from edgewright.step import Claim

__all__ = ["Prune", "PruneOptions", "sparsity_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions(FitOptions):
    """How a model is pruned.

    Args:
        sparsity: share of zeros at the end, per kernel or over all of them.
        start: share of zeros when pruning begins.
        curve: how the share grows: "constant" prunes at once; "polynomial" by `power`; "cubic" is power 3 (M. Zhu, S.
            Gupta, "To prune, or not to prune", 2017).
        power: of the polynomial.
        begin: share of the training after which pruning begins.
        end: share of the training after which the sparsity is reached; the rest is recovery.
        every: steps from one choice of what is pruned to the next.
        pattern: "unstructured"; "2:4", "1:4" and the like keep at most n of every m neighbours along the input channels;
            "block:4x1" prunes blocks of rows (inputs) and columns (output channels).
        scope: "layer" gives every kernel the same share; "global" compares all of them, each kernel's values in units of
            its own spread.
        layers: shares of single layers, by pattern of their names: { "dense*" = 0.9 }.
        include: patterns of the layers that are pruned.
        exclude: patterns of the layers that are not.
        depthwise: prune depthwise kernels too: they are small, and suffer.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    sparsity: float = 0.8
    start: float = 0.0
    curve: Literal["constant", "polynomial", "cubic"] = "cubic"
    power: float = 3.0
    begin: float = 0.0
    end: float = 0.7
    every: int = 10
    pattern: str = "unstructured"
    scope: Literal["layer", "global"] = "layer"
    layers: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    depthwise: bool = False


@PASSES.register("prune")
class Prune(KerasPass):
    """Prunes kernels by magnitude; what is pruned stays exactly zero."""

    name: ClassVar[str] = "prune"
    Options: ClassVar[type[PruneOptions]] = PruneOptions

    def __init__(self, options: PruneOptions) -> None:
        super().__init__(options)
        shares = {"sparsity": options.sparsity, "start": options.start, **{f"layers.{k}": v for k, v in options.layers.items()}}
        for name, share in shares.items():
            if not 0.0 <= share < 1.0:
                raise UsageError(f"option '{name}' is {share}, it must be from 0 to below 1")
        if not 0.0 <= options.begin <= options.end <= 1.0:
            raise UsageError(f"begin is {options.begin} and end is {options.end}, 0 <= begin <= end <= 1 is expected")
        if options.every < 1:
            raise UsageError(f"option 'every' is {options.every}, it must be 1 or more")
        self.nm, self.block = parse_pattern(options.pattern)

    def transform(self, task: Task) -> Outcome:
        """The pruned model; see `KerasPass.transform`."""
        import keras

        kernels = self._kernels(task)
        shares = {kernel.path: self._share(kernel) for kernel in kernels}
        shapes, masks = [], []
        for kernel in kernels:
            function, mask = mask_shape(kernel, np.ones(kernel.shape, np.float32))
            shapes.append(Shape(kernel, [function], [mask]))
            masks.append(mask)
        steps = max(1, task.trainer.steps) if task.trainer else 1
        ended = keras.Variable(0.0, trainable=False, name="ended")  # kept with the masks when training is resumed
        shapes[0].state.append(ended)

        def choose(step: int) -> None:
            done = step >= round(self.options.end * steps)
            if (not done and step % self.options.every) or float(ended.numpy()):
                return
            ended.assign(float(done))
            found = self._masks(kernels, shares, 1.0 if done else sparsity_at(step / steps, self.options))
            for mask, values in zip(masks, found, strict=True):
                mask.assign(values)

        if task.trainer is not None and task.trainer.options.epochs:
            chosen = {kernel.path for kernel in kernels}
            others = [preserving(kernel) for kernel in kernels_of(task.model) if kernel.path not in chosen]
            kept = [shape for shape in others if shape is not None]
            model = shaped(task.model, [*shapes, *kept])
            if self.options.patience and math.ceil(self.options.end * self.options.epochs) >= self.options.epochs:
                task.notes.append(f"patience changes nothing: pruning ends with the last of {self.options.epochs} epochs")
            task.trainer.fit(model, "pruning", choose, judged_from=self.options.end)
            bake(kept)
        choose(steps)
        bake(shapes)
        claims = [Claim("sparsity", float(np.mean(kernel.values() == 0.0)), literal(kernel.path)) for kernel in kernels]
        return Outcome(task.model, tuple(claim for claim in claims if float(claim.value) > 0))

    def _kernels(self, task: Task) -> list[Kernel]:
        found = kernels_of(task.model, self.options.include, self.options.exclude)
        chosen = [k for k in found if self.options.depthwise or not _is_depthwise(k)]
        if not chosen:
            raise UnsupportedError(
                f"no layer of '{task.model.name}' is to be pruned: include is {list(self.options.include)}, "
                f"exclude is {list(self.options.exclude)}",
                hint=f"layers with kernels: {', '.join(dict.fromkeys(k.layer.name for k in kernels_of(task.model))) or 'none'}",
            )
        return chosen

    def _share(self, kernel: Kernel) -> float:
        own = [share for pattern, share in self.options.layers.items() if fnmatchcase(kernel.layer.name, pattern)]
        return own[-1] if own else float(self.options.sparsity)

    def _masks(self, kernels: list[Kernel], shares: Mapping[str, float], part: float) -> list[Array]:
        """The masks of all kernels when `part` (0 to 1) of the final sparsity is reached."""
        values = [kernel.values() for kernel in kernels]
        own = {kernel.path: self.options.start + part * (shares[kernel.path] - self.options.start) for kernel in kernels}
        if self.options.scope == "global" and self.nm is None:
            own = _global_shares(kernels, values, self.options.start + part * (self.options.sparsity - self.options.start))
        if self.nm is not None and part < 1.0:  # a pattern cannot be half reached: it is taken at the end of the curve
            return [np.ones(kernel.shape, np.float32) for kernel in kernels]
        return [
            mask_by_magnitude(v, own[kernel.path], inputs=kernel.inputs, pattern=self.nm, block=self.block)
            for kernel, v in zip(kernels, values, strict=True)
        ]


def sparsity_at(done: float, options: PruneOptions) -> float:
    """Share of the final sparsity that is reached, from 0 to 1.

    1 - (1 - (t - begin) / (end - begin))^power (M. Zhu, S. Gupta, 2017).

    Args:
        done: share of the training that is over.
        options: of the pass.
    """
    if done >= options.end or options.curve == "constant":
        return 1.0 if done >= options.begin else 0.0
    if done < options.begin:
        return 0.0
    power = 3.0 if options.curve == "cubic" else options.power
    return float(1.0 - (1.0 - (done - options.begin) / (options.end - options.begin)) ** power)


def parse_pattern(text: str) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """N:M as (n, m) or None, and the block's rows and columns.

    Raises:
        UsageError: the text is no pattern.
    """
    if text == "unstructured":
        return None, (1, 1)
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        keep, of = int(found[1]), int(found[2])
        if 0 < keep < of:
            return (keep, of), (1, 1)
    if found := re.fullmatch(r"block:(\d+)x(\d+)", text):
        block = int(found[1]), int(found[2])
        if min(block) > 0:
            return None, block
    raise UsageError(f"option 'pattern' is '{text}'", hint="write unstructured, 2:4 (n of m, n < m) or block:4x1")


def _global_shares(kernels: list[Kernel], values: list[Array], share: float) -> dict[str, float]:
    """What share of each kernel is pruned if all values of all kernels are compared, in units of their kernel's spread."""
    spread = [np.abs(v) / max(float(np.sqrt(np.mean(np.square(v)))), 1e-12) for v in values]
    flat = np.sort(np.concatenate([s.ravel() for s in spread]))
    limit = flat[min(len(flat) - 1, round(share * len(flat)))]
    return {kernel.path: min(0.99, float(np.mean(s < limit))) for kernel, s in zip(kernels, spread, strict=True)}


def _is_depthwise(kernel: Kernel) -> bool:
    return "depthwise" in kernel.path.rpartition("/")[2] or type(kernel.layer).__name__.startswith("DepthwiseConv")
