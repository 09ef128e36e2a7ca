"""Receipts: what a step promised, beside what is read back from the file that it gave."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgewright.artifact import Artifact
from edgewright.converters.model_info import ModelInfo, WeightInfo
from edgewright.report import Metric, Promise, Receipt, TensorReceipt
from edgewright.step import Claim

__all__ = ["Claimed", "is_kernel", "match_tensors", "receipt", "size_metrics"]

SPARSE = 0.05
"""Share of zeros from which on a tensor counts as sparse: below it, zeros are chance."""

CLUSTERED = 256
"""Most different values of a tensor that counts as clustered, if it also has four times as many values in all."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim and the step that made it.

    Args:
        step: in words, for example "export:tflite int8".
        claim: what was promised.
    """

    step: str
    claim: Claim


def receipt(step: str, before: ModelInfo, after: ModelInfo, made: Artifact, claims: Iterable[Claimed]) -> Receipt:
    """What is read back from a file, beside the model that the step took and beside all that was promised so far.

    Args:
        step: in words.
        before: the model that the step took.
        after: the file, as its reader sees it.
        made: the file's artifact.
        claims: of this step and of those before it.
    """
    tensors = match_tensors(before, after)
    kernels = [weight for weight in after.weights if is_kernel(weight)]
    promises = tuple(_checked(claimed, tensors, kernels, made) for claimed in claims)
    return Receipt(step, promises, tensors, size_metrics(after))


def size_metrics(info: ModelInfo) -> tuple[Metric, ...]:
    """Sizes of a model, its parameters, multiply-adds and share of zeros, each as it stands in the file."""
    kernels = [weight for weight in info.weights if is_kernel(weight)]
    values = sum(math.prod(weight.shape) for weight in kernels)
    zeros = sum(weight.sparsity * math.prod(weight.shape) for weight in kernels)
    return (
        Metric("raw_bytes", "bytes", float(info.raw_bytes)),
        Metric("deflated_bytes", "bytes", float(info.deflated_bytes)),
        Metric("parameters", "", float(info.parameters)),
        Metric("macs", "", None, why_absent=info.macs_note or "not countable")
        if info.macs is None
        else Metric("macs", "", float(info.macs)),
        Metric("sparsity", "share", zeros / values)
        if values
        else Metric("sparsity", "share", None, why_absent="the model has no kernels"),
    )


def is_kernel(weight: WeightInfo) -> bool:
    """Whether a tensor is the kernel of a convolution or dense layer: it has output channels of several values each."""
    return weight.channel_axis is not None and len(_sizes(weight)) > 1


def match_tensors(before: ModelInfo, after: ModelInfo) -> tuple[TensorReceipt, ...]:
    """Every tensor of two models, side by side.

    Formats name and lay out tensors differently, and folding a BatchNorm names the kernel after it. So tensors of the same
    sizes (ones left out, in any order) are one group, and within a group the n-th of one model is the n-th of the other:
    readers list tensors of a size in the order in which the model uses them. Kernels and other tensors are kept apart.
    """
    groups: dict[tuple[bool, tuple[int, ...]], list[WeightInfo]] = defaultdict(list)
    for weight in after.weights:
        groups[_group(weight)].append(weight)
    rows = []
    for old in before.weights:
        group = groups[_group(old)]
        same = next((weight for weight in group if weight.name == old.name), group[0] if group else None)
        if same is not None:
            group.remove(same)
        rows.append(_row(old, same))
    rows += [_row(None, new) for group in groups.values() for new in group]
    return tuple(sorted(rows, key=lambda row: -math.prod(row.shape_now or row.shape)))


def _group(weight: WeightInfo) -> tuple[bool, tuple[int, ...]]:
    return is_kernel(weight), _sizes(weight)


def _sizes(weight: WeightInfo) -> tuple[int, ...]:
    return tuple(sorted(size for size in weight.shape if size != 1))


def _row(old: WeightInfo | None, new: WeightInfo | None) -> TensorReceipt:
    lost = _lost(old, new) if old is not None else ""
    return TensorReceipt(
        name=old.name if old else "",
        name_now=new.name if new else "",
        shape=old.shape if old else (),
        shape_now=new.shape if new else (),
        bits=old.bits if old else None,
        bits_now=new.bits if new else None,
        sparsity=old.sparsity if old else None,
        sparsity_now=new.sparsity if new else None,
        unique=old.unique if old else None,
        unique_now=new.unique if new else None,
        unique_per_channel=old.unique_per_channel if old else None,
        unique_per_channel_now=new.unique_per_channel if new else None,
        kept=not lost,
        lost=lost,
    )


def _lost(old: WeightInfo, new: WeightInfo | None) -> str:
    """What a kernel had that the file does not have any more, in words; zeros and clusters that are no chance."""
    if not is_kernel(old):
        return ""
    sparse = old.sparsity >= SPARSE
    clustered = old.unique <= CLUSTERED and 4 * old.unique <= math.prod(old.shape)
    if new is None:
        return "it is not in the file, where its zeros and clusters could be checked" if sparse or clustered else ""
    parts = []
    if sparse and new.sparsity < old.sparsity - 0.005:
        parts.append(f"{old.sparsity:.1%} zeros before, {new.sparsity:.1%} in the file")
    if clustered and (found := _clusters(new)) > old.unique:
        parts.append(f"{old.unique} different values before, {found} in the file")
    return "; ".join(parts)


def _clusters(weight: WeightInfo) -> int:
    """Different values as clusters count: of one output channel where each channel has a scale of its own."""
    return weight.unique_per_channel if weight.bits <= 8 and weight.channel_axis is not None else weight.unique


def _checked(claimed: Claimed, tensors: Sequence[TensorReceipt], kernels: Sequence[WeightInfo], made: Artifact) -> Promise:
    """One claim beside its fact."""
    claim = claimed.claim
    if claim.quantity == "bits":
        return _bits(claimed.step, float(claim.value), kernels)
    if claim.quantity == "io":
        return _io(claimed.step, str(claim.value), made)
    if claim.quantity == "float_ops":
        return _float_ops(claimed.step, float(claim.value), made)
    named = [row for row in tensors if row.bits is not None and fnmatchcase(row.name, claim.tensors)]
    return (_zeros if claim.quantity == "sparsity" else _unique)(claimed, float(claim.value), named, kernels)


def _bits(step: str, bits: float, kernels: Sequence[WeightInfo]) -> Promise:
    found = Counter(weight.bits for weight in kernels)
    text = ", ".join(f"{size} bits in {count} of {len(kernels)}" for size, count in sorted(found.items())) or "no kernels"
    wide = [weight.name for weight in kernels if weight.bits > bits]
    why = f"wider: {', '.join(wide[:3])}" + (f" and {len(wide) - 3} more" if len(wide) > 3 else "") if wide else ""
    return Promise(step, "stored width of the kernels", f"{bits:g} bits in {len(kernels)} of {len(kernels)}", text, not wide, why)


def _io(step: str, dtype: str, made: Artifact) -> Promise:
    """Inputs and outputs that were real numbers; token ids and the like keep their own dtype."""
    real = [spec for spec in (*made.inputs, *made.outputs) if spec.quantized or spec.dtype.startswith("float")]
    found = ", ".join(f"{dtype} {name}" for name, dtype in ((spec.name, spec.dtype) for spec in real)) or "no real numbers"
    return Promise(step, "inputs and outputs", dtype, found, all(spec.dtype == dtype for spec in real))


def _float_ops(step: str, most: float, made: Artifact) -> Promise:
    ops = list(made.meta.extra.get("float_ops", ()))
    names = Counter(f"{op} in '{layer or tensor}'" for op, tensor, layer in ops)
    found = f"{len(ops)}" + (f": {', '.join(list(names)[:3])}" + (" ..." if len(names) > 3 else "") if ops else "")
    return Promise(step, "ops that compute in float", f"{most:g}", found, len(ops) <= most)


def _zeros(claimed: Claimed, share: float, rows: Sequence[TensorReceipt], _: Sequence[WeightInfo]) -> Promise:
    below = [row for row in rows if row.sparsity_now is None or row.sparsity_now < share - 0.005]
    least = min((row.sparsity_now or 0.0 for row in rows), default=0.0)
    found = (
        f"{least:.1%} or more in {len(rows)}"
        if not below
        else f"{len(rows) - len(below)} of {len(rows)} tensors, least {least:.1%}"
    )
    why = f"below: {', '.join(row.name for row in below[:3])}" if below else ""
    promised = f"{share:.1%} or more in {len(rows)} tensors"
    return Promise(claimed.step, "zeros in the weights", promised, found, bool(rows) and not below, why)


def _unique(claimed: Claimed, most: float, rows: Sequence[TensorReceipt], kernels: Sequence[WeightInfo]) -> Promise:
    now = {weight.name: _clusters(weight) for weight in kernels}
    counts = {row.name: now.get(row.name_now) for row in rows}
    above = [name for name, count in counts.items() if count is None or count > most]
    largest = max((count or 0 for count in counts.values()), default=0)
    found = (
        f"{largest} or fewer in {len(rows)}" if not above else f"{len(rows) - len(above)} of {len(rows)} tensors, most {largest}"
    )
    why = f"above: {', '.join(above[:3])}" if above else ""
    promised = f"{most:g} or fewer in {len(rows)} tensors"
    return Promise(claimed.step, "different values of the weights", promised, found, bool(rows) and not above, why)
