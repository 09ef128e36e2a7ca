"""Which ops of a .tflite file a LiteRT delegate took, why not the others, and the memory that the interpreter plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import UnsupportedError
from edgewright.runtime.engines._tflite_graph import FileOp, main_ops
from edgewright.runtime.placed import NOT_TOLD, PlacedOp, Placement, per_sample

__all__ = ["BUILT_IN", "DELEGATED", "arena", "place", "regions"]

DELEGATED = "CPU, XNNPACK delegate"
BUILT_IN = "CPU, built-in kernels"
"""Where an op runs, in words."""

_LACKS = frozenset(
    (
        "ARG_MAX BATCH_TO_SPACE_ND CAST CONV_3D CUMSUM EMBEDDING_LOOKUP EQUAL FLOOR_DIV FLOOR_MOD GATHER GATHER_ND "
        "L2_NORMALIZATION L2_POOL_2D LESS LOCAL_RESPONSE_NORMALIZATION LOG_SOFTMAX MIRROR_PAD PACK PADV2 POW REDUCE_PROD "
        "RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT_V2 SHAPE SIGN SPACE_TO_BATCH_ND SPLIT_V SVDF TILE TOPK_V2 UNPACK"
    ).split()
)
"""Ops that XNNPACK left alone although all was float32 and fixed: tried one by one in ai-edge-litert 2.3."""

_FLOAT_ONLY = ("HARD_SWISH", "SOFTMAX")
"""Ops that XNNPACK took in float32 and left alone in int8, tried likewise."""

_SIZES_AT = {"RESHAPE": 1, "RESIZE_BILINEAR": 1, "PAD": 1, "SLICE": 1, "STRIDED_SLICE": 1, "TRANSPOSE_CONV": 0, "MEAN": 1}
"""Operand that sizes are computed from."""


def regions(ops: Sequence[Mapping[str, Any]]) -> list[set[int]]:
    """Indexes of the ops that each DELEGATE node stands for, in the order in which the delegates run.

    The interpreter keeps the ops that a delegate replaced and appends nodes called DELEGATE whose inputs are all tensors
    that cross the region's border, constants included. So a region is what lies between a node's outputs and its inputs.

    Args:
        ops: the interpreter's list, as `_get_ops_details` gives it.
    """
    maker = {int(tensor): at for at, op in enumerate(ops) if op["op_name"] != "DELEGATE" for tensor in op["outputs"]}
    found = []
    for node in (op for op in ops if op["op_name"] == "DELEGATE"):
        border = {int(tensor) for tensor in node["inputs"]}
        region: set[int] = set()
        wanted = [int(tensor) for tensor in node["outputs"]]
        while wanted:
            tensor = wanted.pop()
            at = maker.get(tensor)
            if at is None or at in region or tensor in border:
                continue
            region.add(at)
            wanted += [int(operand) for operand in ops[at]["inputs"]]
        # Ops without outputs (ASSIGN_VARIABLE) are inside if they read what only the region has.
        inner = {int(t) for at in region for t in ops[at]["outputs"]} - {int(t) for t in node["outputs"]}
        region |= {at for at, op in enumerate(ops) if not len(op["outputs"]) and inner & {int(t) for t in op["inputs"]}}
        found.append(region)
    return found


def place(
    interpreter: Any,
    ops: Sequence[Mapping[str, Any]] | None,
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Placement:
    """The placement of a loaded model.

    Args:
        interpreter: LiteRT's.
        ops: its list of ops; None where the runtime does not give one.
        path: the file.
        inputs: of the model.
        outputs: of the model.

    Raises:
        UnsupportedError: the runtime's list of ops is missing, or is not the file's.
    """
    stored = main_ops(path)
    listed = [op for op in ops or () if op["op_name"] != "DELEGATE"]
    if ops is None or len(listed) != len(stored) or any(op["op_name"] == "DELEGATE" for op in ops[: len(stored)]):
        raise UnsupportedError(
            f"this release of LiteRT lists {len(listed)} ops of {path.name}, the file has {len(stored)}: "
            "where they run cannot be told",
            hint="install ai-edge-litert 2.3",
        )
    macs, note = per_sample([op.macs for op in stored], inputs, outputs)
    inside = {at for region in regions(ops) for at in region}
    details = {int(detail["index"]): detail for detail in interpreter.get_tensor_details()}
    notes = [note] if note else []
    if any(op.calls for op in stored):
        notes.append("loops and branches run their own graphs, which are counted once and as the op that calls them")
    if any(value is None for value in macs):
        notes.append("custom and StableHLO ops have no count of multiply-adds")
    placed = []
    for at, (op, file, value) in enumerate(zip(listed, stored, macs, strict=True)):
        made = details.get(int(op["outputs"][0])) if len(op["outputs"]) else None
        name = str(made["name"]) if made else f"{op['op_name']} {at}"
        taken = at in inside
        why = "" if taken else _why_outside(op, file, details, delegated=bool(inside))
        placed.append(PlacedOp(at, name, str(op["op_name"]), DELEGATED if taken else BUILT_IN, taken, value, why))
    return Placement(tuple(placed), "; ".join(notes))


def _why_outside(op: Mapping[str, Any], file: FileOp, details: Mapping[int, Mapping[str, Any]], *, delegated: bool) -> str:
    """Why XNNPACK did not take an op, as far as the op itself shows it."""
    name = str(op["op_name"])
    if file.custom:
        return "a custom op: XNNPACK takes built-in ones"
    if file.calls:
        return "it runs graphs of its own: what XNNPACK takes within them is not told"

    def dtype(tensor: int) -> str:
        return np.dtype(details[tensor]["dtype"]).name if tensor in details else ""

    values = {dtype(at) for at, fixed in zip(file.inputs, file.constant, strict=True) if at >= 0 and not fixed}
    values |= {dtype(at) for at in file.outputs}
    weights = dtype(file.inputs[1]) if len(file.inputs) > 1 and file.constant[1] else ""
    if "int16" in values:
        return "int16 activations: XNNPACK has no kernels for them"
    if name in _LACKS:
        return f"XNNPACK has no {name}"
    if values <= {"int8", "uint8"} and name in _FLOAT_ONLY:
        return f"XNNPACK has no 8-bit {name}"
    if values == {"float32"} and weights in ("int8", "uint8", "int4"):
        return f"dynamic int8 (float32 activations, {weights} weights): XNNPACK does not do that in {name}"
    at = _SIZES_AT.get(name, -1)
    if 0 <= at < len(file.inputs) and file.inputs[at] >= 0 and not file.constant[at]:
        return "its sizes are computed while the model runs: XNNPACK needs them before"
    odd = sorted(values - {"float32", "int8", "uint8", "float16", ""})
    if odd:
        return f"{' and '.join(odd)} values: XNNPACK computes with float32 and 8-bit integers"
    return NOT_TOLD if delegated else f"no delegate took any op of this model, {NOT_TOLD} why"


def arena(interpreter: Any, ops: Sequence[Mapping[str, Any]] | None, stored: Sequence[FileOp]) -> tuple[int | None, str]:
    """Bytes from the first to the last activation in the interpreter's arena, or None and why they cannot be told.

    The interpreter lays all tensors that are no constants into one block, scratch memory of kernels included, and shows
    each one's address. A delegate keeps the tensors of its region elsewhere.

    Args:
        interpreter: LiteRT's, with tensors allocated.
        ops: its list of ops; None where the runtime does not give one.
        stored: the file's ops.
    """
    if ops is None:
        return None, "this release of LiteRT does not list its ops"
    taken = sum(len(region) for region in regions(ops))
    if taken:
        return (
            None,
            f"XNNPACK keeps the activations of {taken} of {len(stored)} ops in memory of its own and does not tell how much",
        )
    constants = {at for op in stored for at, fixed in zip(op.inputs, op.constant, strict=True) if fixed}
    spans = []
    for detail in interpreter.get_tensor_details():
        if int(detail["index"]) in constants or np.dtype(detail["dtype"]).kind not in "fiubc" or not math.prod(detail["shape"]):
            continue
        try:
            view = interpreter.tensor(int(detail["index"]))()
        except ValueError:
            return None, "a tensor gets its memory only while the model runs"
        spans.append((int(view.__array_interface__["data"][0]), int(view.nbytes)))
        del view  # the interpreter refuses to run while a view of a tensor is alive
    if not spans:
        return None, "the interpreter shows no activations"
    size = max(begin + count for begin, count in spans) - min(begin for begin, _ in spans)
    if size > sum(-(-count // 64) * 64 for _, count in spans):
        return None, "the interpreter keeps its activations in more than one block of memory"
    return size, ""
