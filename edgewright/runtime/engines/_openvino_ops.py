"""Which node of a compiled OpenVINO model runs which op of the file, through what kernel, and how long each takes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgewright.artifact import TensorSpec
from edgewright.runtime.placed import NOT_TOLD, OpTime, PlacedOp, Placement, per_sample

__all__ = ["name_anew", "op_times", "place"]

_NO_OPS = ("Constant", "Parameter", "Result")

_MATRICES = {
    "LSTMSequence": (4, 5),
    "GRUSequence": (3, 4),
    "RNNSequence": (3, 4),
    "LSTMCell": (3, 4),
    "GRUCell": (2, 3),
    "RNNCell": (2, 3),
}
"""Operands that hold the input and recurrent matrices."""

_NOT_COUNTED = ("Einsum", "ScaledDotProductAttention", "DeformableConvolution", "BinaryConvolution")

_RENAMED = "/Dequantization"
"""What the low-precision pass puts behind the name of an op that it changes: "MatMul_7/DequantizationMultiply"."""

_WARMUP = 3
_PER_MODEL = 22
"""Inferences of one compiled model, after those of its warm-up."""

_COMPILING_S = 10.0
"""Seconds that compiling anew may take in all; a model that takes longer has more inferences on the same counters."""


def name_anew(model: Any) -> None:
    """Name ops that have no name of their own by type and position, so that two readings of a file name them alike.

    OpenVINO names such ops by type and a number that goes on counting from one file to the next.
    """
    for at, node in enumerate(model.get_ordered_ops()):
        kind, name = str(node.get_type_name()), str(node.get_friendly_name())
        if kind not in _NO_OPS and re.fullmatch(r"[A-Za-z]+_\d+", name):
            node.set_friendly_name(f"{kind}_{at}")


def place(model: Any, compiled: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Placement:
    """The placement of a compiled model.

    Args:
        model: as read from the file; free sizes count as 1.
        compiled: the same model, compiled.
        inputs: of the model.
        outputs: of the model.
    """
    devices = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    device = devices[0] if len(devices) == 1 else ""
    on_cpu = device.upper().startswith("CPU")
    if on_cpu:
        why = "OpenVINO's CPU plug-in runs the whole model: no accelerator was asked for"
    else:
        why = "" if device else f"OpenVINO runs it on one of {', '.join(devices)}, {NOT_TOLD} which"
    fixed = _with_fixed_sizes(model, inputs)
    nodes = list(_computing(fixed or model))
    counts = [_macs(node) if fixed is not None else None for node in nodes]
    macs, note = per_sample(counts, inputs, outputs)
    notes = [note] if note else []
    if any(value is None for value in macs):
        notes.append("multiply-adds of some ops cannot be counted from their shapes")
    if any(_bodies(node) for node in nodes):
        notes.append("loops and branches count as the op that calls them, with their graphs once")
    kernels = _kernels(compiled)
    placed = []
    for at, (node, value) in enumerate(zip(nodes, macs, strict=True)):
        name = str(node.get_friendly_name())
        kind = kernels.get(name, "")
        placed.append(PlacedOp(at, name, str(node.get_type_name()), device, bool(device) and not on_cpu, value, why, kind))
    return Placement(tuple(placed), "; ".join(notes))


def _with_fixed_sizes(model: Any, inputs: Sequence[TensorSpec]) -> Any | None:
    """The model with free sizes set to 1; None if it does not take that."""
    if all(None not in spec.shape for spec in inputs):
        return model
    copy = model.clone()
    try:
        copy.reshape({at: [1 if size is None else size for size in spec.shape] for at, spec in enumerate(inputs)})
    except RuntimeError:
        return None
    return copy


def _computing(model: Any) -> Iterator[Any]:
    """Ops that compute with data; what only decodes constants is done while compiling."""
    constant: set[str] = set()
    for node in model.get_ordered_ops():
        name = str(node.get_friendly_name())
        sources = [value.get_node() for value in node.input_values()]
        if node.get_type_name() == "Constant" or (sources and all(str(s.get_friendly_name()) in constant for s in sources)):
            constant.add(name)
        elif node.get_type_name() not in _NO_OPS:
            yield node


def _bodies(node: Any) -> list[Any]:
    """Graphs that a node calls."""
    kind = node.get_type_name()
    if kind in ("Loop", "TensorIterator"):
        return [node.get_function()]
    return [node.get_function(0), node.get_function(1)] if kind == "If" else []


def _macs(node: Any) -> int | None:
    """Multiply-adds of a node; None where they cannot be counted.

    A convolution sums one filter per output element, a transposed one spreads each input element by one filter, a
    recurrent layer multiplies its matrices with one vector per step. Filters are (outputs, inputs, sizes), transposed
    ones (inputs, outputs, sizes), both with the groups in front in the grouped ops.
    """
    kind = str(node.get_type_name())
    bodies = _bodies(node)
    if bodies:
        inner = [_macs(one) for body in bodies for one in body.get_ordered_ops()]
        return None if None in inner else sum(value or 0 for value in inner)
    if kind in _NOT_COUNTED:
        return None
    formulas = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
    if kind not in formulas and kind not in _MATRICES:
        return 0
    try:
        operands = [tuple(map(int, value.get_shape())) for value in node.input_values()]
        output = math.prod(map(int, node.get_output_shape(0)))
    except RuntimeError:  # a size is free
        return None
    if kind == "MatMul":
        transposed = bool(node.get_attributes().get("transpose_a")) and len(operands[0]) > 1
        return output * operands[0][-2 if transposed else -1]
    if kind in _MATRICES:
        return math.prod(operands[0][:-1]) * sum(math.prod(operands[at]) for at in _MATRICES[kind])
    filters = math.prod(operands[1][2 if kind.startswith("Group") else 1 :])
    return (math.prod(operands[0]) if "Backprop" in kind else output) * filters


def _kernels(compiled: Any) -> dict[str, str]:
    """What runs each op of the file, by its name: the kernel of the node that it became or was fused into."""
    found: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = info["primitiveType"].astype(str) if "primitiveType" in info else ""
        names = info["originalLayersNames"].astype(str).split(",") if "originalLayersNames" in info else []
        for name in filter(None, names):
            found.setdefault(name, kind)
            found.setdefault(name.partition(_RENAMED)[0], kind)
    return found


def _runs(node: Any) -> bool:
    """Whether a node of the execution graph computes."""
    info = node.get_rt_info()
    return "layerType" in info and info["layerType"].astype(str) not in ("Const", "Input", "Output")


def op_times(model: Any, compiled: Callable[[], Any], feeds: Callable[[Any], Mapping[int, Any]], runs: int) -> tuple[OpTime, ...]:
    """Times of all nodes that ran, in order.

    OpenVINO tells each node's mean over all inferences so far, rounded down to microseconds. The n-th time is what n times
    the n-th mean has more than n - 1 times the one before: right on average, and off by up to n microseconds. So counters
    begin anew after 25 inferences, in another compiled model; a single value may still be a little less than nothing.

    Args:
        model: as read from the file.
        compiled: compiles the same model with PERF_COUNT.
        feeds: gives input tensors by position for a compiled model.
        runs: inferences to time; 3 come before those of each compiled model.
    """
    kinds = {str(node.get_friendly_name()): str(node.get_type_name()) for node in model.get_ordered_ops()}
    times: list[list[int]] = []
    rows: list[Any] = []
    device, done, per_model = "", 0, _PER_MODEL
    while done < runs:
        begun = time.monotonic()
        made = compiled()
        compile_s = time.monotonic() - begun
        if not times:
            device = ", ".join(str(name) for name in made.get_property("EXECUTION_DEVICES"))
            per_model = max(per_model, math.ceil(runs / max(1, _COMPILING_S // compile_s)))
        count = min(runs - done, per_model)
        found, rows, running = _counted(made, feeds(made), count)
        times = [[*before, *new] for before, new in zip(times or [[]] * len(rows), found, strict=True)]
        done += count
    ops = []
    for row, taken in zip(rows, times, strict=True):
        name = str(row.node_name)
        if name not in running and not str(row.status).endswith(".EXECUTED"):
            continue
        name = name if name in kinds else name.partition(_RENAMED)[0]
        ops.append(OpTime(name, kinds.get(name, str(row.node_type)), device, tuple(taken), str(row.exec_type)))
    return tuple(ops)


def _counted(compiled: Any, feeds: Mapping[int, Any], runs: int) -> tuple[list[list[int]], list[Any], set[str]]:
    """Nanoseconds of every node in some inferences of a model that nobody has run yet; its counters; names of nodes that run."""
    # What took less than a microsecond is told as not run: the execution graph shows what does run.
    running = {str(node.get_friendly_name()) for node in compiled.get_runtime_model().get_ordered_ops() if _runs(node)}
    request = compiled.create_infer_request()
    for at, tensor in feeds.items():
        request.set_input_tensor(at, tensor)
    totals: list[list[int]] = []
    rows: list[Any] = []
    for done in range(1, _WARMUP + runs + 1):
        request.infer()
        if done >= _WARMUP:
            rows = list(request.profiling_info)
            totals.append([round(row.real_time.total_seconds() * 1e6) * 1000 * done for row in rows])
    steps = [[after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(totals)]
    return [list(column) for column in zip(*steps, strict=True)], rows, running
