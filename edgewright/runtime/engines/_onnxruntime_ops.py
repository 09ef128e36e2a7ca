"""Times, placement and memory of an .onnx model's nodes, from the trace that ONNX Runtime's profiler writes."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.artifact import TensorSpec
from edgewright.errors import UnsupportedError
from edgewright.runtime.placed import OpTime, PlacedOp, Placement, per_sample

__all__ = ["WARMUP", "FileNode", "op_times", "peak_bytes", "place", "trace"]

_CPU = "CPUExecutionProvider"
_SUFFIX = "_kernel_time"
WARMUP = 10
"""Inferences whose times are not counted."""

_FILTER_AT = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Operand that holds a convolution's filters, (outputs, inputs, sizes)."""

_NOT_COUNTED = ("Einsum", "Attention", "DeformConv", "LinearAttention", "MultiHeadAttention", "If", "Loop", "Scan")


def trace(open_session: Callable[[str], Any], feeds: Mapping[str, Any], runs: int) -> list[list[dict[str, Any]]]:
    """Kernel events of some inferences, in order; those within a node that runs a graph of its own are part of that node.

    Args:
        open_session: opens ONNX Runtime's session with profiling on, given the prefix of the trace's file.
        feeds: one array per input.
        runs: inferences to record.

    Returns:
        one list per inference, of the profiler's events.

    Raises:
        UnsupportedError: the trace has other inferences than were made.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-profile-", ignore_cleanup_errors=True) as folder:
        session = open_session(str(Path(folder) / "trace"))
        for _ in range(runs):
            session.run(None, dict(feeds))
        written = Path(session.end_profiling())
        events = json.loads(written.read_text(encoding="utf-8"))
    spans = [(one["ts"], one["ts"] + one["dur"]) for one in events if one.get("name") == "model_run"]
    kernels = [one for one in events if one.get("cat") == "Node" and str(one.get("name", "")).endswith(_SUFFIX)]
    found = [_outermost([one for one in kernels if begin <= one["ts"] <= end]) for begin, end in spans]
    if len(found) != runs or not found[0]:
        raise UnsupportedError(f"ONNX Runtime's trace has {len(found)} inferences with kernels, {runs} were made")
    return found


def _outermost(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events in order of their start, without those within another: nodes of loop and branch bodies."""
    kept: list[dict[str, Any]] = []
    for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
        last = kept[-1] if kept else None
        inside = last is not None and event["ts"] + event["dur"] <= last["ts"] + last["dur"] and event["ts"] >= last["ts"]
        if last is not None and inside and last["args"].get("op_name") in ("If", "Loop", "Scan"):
            continue
        kept.append(event)
    return kept


@dataclass(frozen=True, slots=True)
class FileNode:
    """A node of the file: its name, its type, its first operand and its first output."""

    name: str
    op: str
    source: str
    output: str


def op_times(runs: Sequence[Sequence[Mapping[str, Any]]], nodes: Sequence[FileNode]) -> tuple[OpTime, ...]:
    """Times of all nodes that ran, after the optimizations of ONNX Runtime.

    Args:
        runs: of `trace`; the first 10 are not counted if there are more.
        nodes: of the file, for the names of those that ONNX Runtime has replaced.

    Raises:
        UnsupportedError: inferences ran other nodes than one another.
    """
    counted = runs[WARMUP:] if len(runs) > WARMUP else runs
    first = [_key(event) for event in counted[0]]
    if any([_key(event) for event in run] != first for run in counted):
        raise UnsupportedError("ONNX Runtime ran other nodes in one inference than in the next: no times per op")
    found = []
    for at, event in enumerate(counted[0]):
        times = tuple(int(run[at]["dur"]) * 1000 for run in counted)
        found.append(OpTime(_of_file(event, nodes), _op(event), _device(event), times, _provider(event)))
    return tuple(found)


def _of_file(event: Mapping[str, Any], nodes: Sequence[FileNode]) -> str:
    """Name of the file's node behind one that ran.

    Optimizations name a node that they replace after its output ("y_nchwc", "fused y"); a convolution that took in its
    activation has the activation's output, so the way leads back to the node of the same type.
    """
    name, op = _name(event), _op(event)
    if any(node.name == name for node in nodes):
        return name
    by_output = {node.output: node for node in nodes}
    node = by_output.get(name.removesuffix("_nchwc").removeprefix("fused "))
    while node is not None and not op.endswith(node.op):
        node = by_output.get(node.source)
    return node.name or name if node is not None else name


def place(events: Sequence[Mapping[str, Any]], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Placement:
    """The placement of a model.

    Args:
        events: of one inference of `trace` with the optimizations switched off, so that the nodes are the file's.
        inputs: of the model.
        outputs: of the model.
    """
    macs, note = per_sample([_macs(event) for event in events], inputs, outputs)
    notes = [note] if note else []
    if any(value is None for value in macs):
        notes.append("multiply-adds of some ops are not counted")
    notes.append("before ONNX Runtime's optimizations, which may fuse ops")
    placed = []
    for at, (event, value) in enumerate(zip(events, macs, strict=True)):
        taken = _provider(event) != _CPU
        why = "" if taken else "ONNX Runtime has its CPU provider only: no accelerator was asked for"
        placed.append(PlacedOp(at, _name(event), _op(event), _device(event), taken, value, why, _provider(event)))
    return Placement(tuple(placed), "; ".join(notes))


def peak_bytes(events: Sequence[Mapping[str, Any]]) -> int | None:
    """Most bytes in use in the arena while one inference ran; None where this release does not write them."""
    found = [int(event["args"]["mem_in_use_peak"]) for event in events if "mem_in_use_peak" in event["args"]]
    return max(found, default=None)


def _key(event: Mapping[str, Any]) -> tuple[str, str]:
    return _name(event), _op(event)


def _name(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(_SUFFIX)


def _op(event: Mapping[str, Any]) -> str:
    return str(event["args"].get("op_name", ""))


def _provider(event: Mapping[str, Any]) -> str:
    return str(event["args"].get("provider", ""))


def _device(event: Mapping[str, Any]) -> str:
    """The CPU in the words of `Execution.device`, else the provider's name without its last words."""
    provider = _provider(event)
    return "CPU, default kernels" if provider == _CPU else provider.removesuffix("ExecutionProvider")


def _macs(event: Mapping[str, Any]) -> int | None:
    """Multiply-adds of a node from the shapes that it ran with; None where they are not counted.

    A convolution sums one filter per output element, a transposed one spreads each input element by one filter, a
    recurrent layer multiplies its two matrices with one vector per step.
    """
    op = _op(event)
    operands = _shapes(event, "input_type_shape")
    output = math.prod(_shapes(event, "output_type_shape")[0]) if _shapes(event, "output_type_shape") else 0
    try:
        if op == "ConvTranspose":
            return math.prod(operands[0]) * math.prod(operands[1][1:])
        if op in _FILTER_AT:
            return output * math.prod(operands[_FILTER_AT[op]][1:])
        if op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            return output * operands[0][-1]
        if op == "Gemm":  # (rows, inner) or its transpose, by an attribute that is not in the trace
            rows = _shapes(event, "output_type_shape")[0][0]
            return output * math.prod(operands[0]) // rows
        if op in ("LSTM", "GRU", "RNN"):
            return math.prod(operands[0][:2]) * (math.prod(operands[1]) + math.prod(operands[2]))
    except (IndexError, ZeroDivisionError):
        return None
    return None if op in _NOT_COUNTED else 0


def _shapes(event: Mapping[str, Any], key: str) -> list[tuple[int, ...]]:
    """Shapes of a node's inputs or outputs, in order."""
    return [tuple(shape) for entry in event["args"].get(key, ()) for shape in entry.values()]
