"""Receipts: what a step promised, beside what is read back from the file that it gave."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
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
    promises = tuple(_checked(claimed, step, tensors, before, after, made) for claimed in claims)
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
    return weight.channel_axis is not None and math.prod(weight.shape) > weight.shape[weight.channel_axis]


def match_tensors(before: ModelInfo, after: ModelInfo) -> tuple[TensorReceipt, ...]:
    """Every tensor of two models, side by side.

    Formats name and lay out tensors differently, and folding a BatchNorm names the kernel after it. So tensors of the same
    sizes (ones left out, in any order) are one group; within a group those of the same name belong together, and of the
    others the n-th of one model is the n-th of the other: readers list tensors of a size in the order in which the model
    uses them. Kernels and other tensors are kept apart, but for tables that only one of the readers takes for a kernel.
    What is left are kernels whose axes a format joins, as those of attention: they belong together by their place in the
    model, or, where a format has no names, by their number of values.
    """
    partners: dict[int, WeightInfo] = {}
    free = list(after.weights)
    for key in (_named, _group, _table, _placed, _joined):
        waiting: dict[object, deque[WeightInfo]] = defaultdict(deque)
        for weight in free:
            waiting[key(weight)].append(weight)
        for index, old in enumerate(before.weights):
            if index not in partners and key(old) and waiting[key(old)]:
                partners[index] = waiting[key(old)].popleft()
        taken = {id(weight) for weight in partners.values()}
        free = [weight for weight in free if id(weight) not in taken]
    rows = [_row(old, partners.get(index)) for index, old in enumerate(before.weights)] + [_row(None, new) for new in free]
    return tuple(sorted(rows, key=lambda row: -math.prod(row.shape_now or row.shape)))


def _named(weight: WeightInfo) -> object:
    return (weight.name, *_group(weight))


def _group(weight: WeightInfo) -> tuple[bool, tuple[int, ...]]:
    return is_kernel(weight), _sizes(weight)


def _table(weight: WeightInfo) -> object:
    """Sizes of what may be a table; empty if it is none."""
    sizes = _sizes(weight)
    return sizes if len(sizes) > 1 else ()


def _placed(weight: WeightInfo) -> object:
    """A kernel's layer within another one, and its number of values; empty for what stands in no such place."""
    place = weight.name.split("/")[:-1][-2:]
    return (*place, _joined(weight)) if len(place) > 1 and is_kernel(weight) else ()


def _joined(weight: WeightInfo) -> object:
    return math.prod(weight.shape) if is_kernel(weight) else 0


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
    return weight.unique_per_channel if weight.bits <= 8 else weight.unique


def _checked(
    claimed: Claimed, step: str, tensors: Sequence[TensorReceipt], before: ModelInfo, after: ModelInfo, made: Artifact
) -> Promise:
    """One claim beside its fact."""
    claim = claimed.claim
    if claim.quantity == "bits":
        return _bits(claimed.step, float(claim.value), before, after, made)
    if claim.quantity == "io":
        return _io(claimed.step, str(claim.value), made)
    if claim.quantity == "float_ops":
        return _float_ops(claimed.step, float(claim.value), made)
    own = claimed.step == step  # names are those of the model that the claim's step gave: later ones may have renamed tensors
    names = [(row, row.name_now if own else row.name) for row in tensors]
    rows = [(name, row) for row, name in names if name and fnmatchcase(name, claim.tensors)]
    if not rows:
        what = _TITLES[claim.quantity]
        why = f"no tensor is called {claim.tensors}"
        return Promise(claimed.step, what, f"in tensors called {claim.tensors}", "no such tensor", False, why)
    return (_zeros if claim.quantity == "sparsity" else _unique)(claimed, float(claim.value), rows)


_TITLES = {"sparsity": "zeros in the weights", "unique": "different values of the weights"}


def _bits(step: str, bits: float, before: ModelInfo, after: ModelInfo, made: Artifact) -> Promise:
    kernels = [weight for weight in after.weights if is_kernel(weight)]
    kept = sum(item["how"] == "keep_float" and item["kernel"] for item in made.meta.extra.get("kept", ()))
    narrow = max(0, len(kernels) - kept)
    found = Counter(weight.bits for weight in kernels)
    text = ", ".join(f"{size} bits in {count} of {len(kernels)}" for size, count in sorted(found.items())) or "no kernels"
    wide = [weight.name for weight in kernels if weight.bits > bits]
    gone = not kernels and any(is_kernel(weight) for weight in before.weights)
    fine = len(wide) <= kept and not gone
    why = "" if fine else _some("wider", wide) or "the model before had kernels"
    promised = f"{bits:g} bits in {narrow} of {len(kernels)}" if kernels else f"{bits:g} bits"
    return Promise(step, "stored width of the kernels", promised, text, fine, why)


def _some(what: str, names: Sequence[str]) -> str:
    """The first three of some names; empty if there are none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


def _io(step: str, dtype: str, made: Artifact) -> Promise:
    """Inputs and outputs that were real numbers; token ids and the like keep their own dtype."""
    real = [spec for spec in (*made.inputs, *made.outputs) if spec.quantized or spec.dtype.startswith("float")]
    found = ", ".join(f"{spec.dtype} {spec.name}" for spec in real) or "no real numbers"
    return Promise(step, "inputs and outputs", dtype, found, all(spec.dtype == dtype for spec in real))


def _float_ops(step: str, most: float, made: Artifact) -> Promise:
    what, promised = "ops that compute in float", f"{most:g}"
    if "float_ops" not in made.meta.extra:
        return Promise(step, what, promised, "not known", False, "the step did not tell which ops compute in float")
    ops = list(made.meta.extra["float_ops"])
    names = Counter(f"{op} in '{layer or tensor}'" for op, tensor, layer in ops)
    found = f"{len(ops)}" + (f": {', '.join(list(names)[:3])}" + (" ..." if len(names) > 3 else "") if ops else "")
    return Promise(step, what, promised, found, len(ops) <= most)


def _zeros(claimed: Claimed, share: float, rows: Sequence[tuple[str, TensorReceipt]]) -> Promise:
    shares = [(name, row.sparsity_now or 0.0) for name, row in rows]
    below = [name for name, found in shares if found < share - 0.005]
    least, total = min(found for _, found in shares), len(rows)
    text = f"{total - len(below)} of {total} tensors, least {least:.1%}" if below else f"{least:.1%} or more in {total}"
    promised = f"{share:.1%} or more in {total} tensors"
    return Promise(claimed.step, _TITLES["sparsity"], promised, text, not below, _some("below", below))


def _unique(claimed: Claimed, most: float, rows: Sequence[tuple[str, TensorReceipt]]) -> Promise:
    counts = [(name, row.unique_per_channel_now if (row.bits_now or 0) <= 8 else row.unique_now) for name, row in rows]
    above = [name for name, found in counts if found is None or found > most]
    largest, total = max(found or 0 for _, found in counts), len(rows)
    text = f"{total - len(above)} of {total} tensors, most {largest}" if above else f"{largest} or fewer in {total}"
    promised = f"{most:g} or fewer in {total} tensors"
    return Promise(claimed.step, _TITLES["unique"], promised, text, not above, _some("above", above))
