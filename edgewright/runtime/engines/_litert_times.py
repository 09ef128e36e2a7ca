"""Times of a .tflite file's ops: LiteRT's profiler in a child process, XNNPACK's operators matched with the file's ops."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError, WorkerError
from edgewright.runtime.engines._litert_ops import BUILT_IN, DELEGATED
from edgewright.runtime.engines._litert_profiler import SUBGRAPH_MAIN, TAKEN, library
from edgewright.runtime.engines._own_process import in_own_process
from edgewright.runtime.placed import OpTime, PlacedOp

__all__ = ["match", "op_times"]

_JOB = "edgewright.runtime.engines._litert_profiler:events_of"

_SAME = {
    "convolution": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "fullyconnected": ("FULLY_CONNECTED", "CONV_2D"),
    "deconvolution": ("TRANSPOSE_CONV",),
    "batchmatrixmultiply": ("BATCH_MATMUL", "FULLY_CONNECTED"),
    "multiply": ("MUL",),
    "subtract": ("SUB",),
    "divide": ("DIV",),
    "maxpooling": ("MAX_POOL_2D",),
    "averagepooling": ("AVERAGE_POOL_2D", "MEAN"),
    "globalaveragepooling": ("MEAN", "AVERAGE_POOL_2D"),
    "mean": ("MEAN", "AVERAGE_POOL_2D"),
    "reduce": ("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN"),
    "staticreshape": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "reshape": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "copy": ("CONCATENATION", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "constantpad": ("PAD",),
    "sigmoid": ("LOGISTIC",),
    "clamp": ("RELU", "RELU6", "RELU_N1_TO_1"),
    "bankersrounding": ("ROUND",),
    "negate": ("NEG",),
    "squareroot": ("SQRT",),
    "reciprocalsquareroot": ("RSQRT",),
    "slice": ("SLICE", "STRIDED_SLICE", "SPLIT"),
    "staticslice": ("SLICE", "STRIDED_SLICE", "SPLIT"),
    "evensplit": ("SPLIT",),
    "concatenate": ("CONCATENATION",),
    "convert": ("QUANTIZE", "DEQUANTIZE"),
    "sine": ("SIN",),
    "cosine": ("COS",),
    "exponential": ("EXP",),
    "argmax": ("ARG_MAX",),
}
"""What XNNPACK calls an operator, letters only, and which ops of a file it may stand for; equal names need no entry."""


def op_times(
    path: Path, feeds: Mapping[str, Any], threads: int, runs: int, ops: Sequence[PlacedOp], regions: Sequence[set[int]]
) -> tuple[OpTime, ...]:
    """Times of all ops, in the order in which they ran.

    The profiler is reached through C, where a mistake ends the process, so it has a process of its own.

    Args:
        path: the .tflite file.
        feeds: one array per input.
        threads: of XNNPACK.
        runs: inferences to time.
        ops: the placement of the same file.
        regions: indexes of the ops of each delegate, in order.

    Raises:
        UnsupportedError: the installed LiteRT has no profiler that is known, or it failed.
    """
    library()  # refuses before a process is started
    with tempfile.TemporaryDirectory(prefix="edgewright-profile-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "feeds.npz"
        with file.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **feeds)
        arguments = {"path": str(path.absolute()), "feeds": str(file), "threads": threads, "runs": runs}
        try:
            found = in_own_process(_JOB, f"profiling {path.name}", Path(folder) / "answer.json", arguments)
        except WorkerError as error:
            raise UnsupportedError(f"LiteRT's profiler failed: {error.message}", error.hint) from error
    events = [event for event in found["events"] if event["subgraph"] == SUBGRAPH_MAIN]
    return tuple(_timed(events, ops, regions))


def _timed(events: Sequence[Mapping[str, Any]], ops: Sequence[PlacedOp], regions: Sequence[set[int]]) -> list[OpTime]:
    """Events with the names of the file's ops."""
    names = _names(events, ops, regions)
    found = []
    for at, event in enumerate(events):
        times = tuple(int(value) * 1000 for value in event["us"])
        op = names.get(at)
        if event["kind"] != TAKEN and event["op"] < len(ops):
            placed = ops[event["op"]]
            found.append(OpTime(placed.name, placed.op, BUILT_IN, times, "built-in kernel"))
        elif op is None:
            device = DELEGATED if event["kind"] == TAKEN else BUILT_IN
            found.append(OpTime(event["tag"], event["tag"].partition(" (")[0], device, times, event["tag"]))
        else:
            found.append(OpTime(op.name, op.op, DELEGATED, times, event["tag"]))
    return found


def _names(events: Sequence[Mapping[str, Any]], ops: Sequence[PlacedOp], regions: Sequence[set[int]]) -> dict[int, PlacedOp]:
    """The file's op behind events within delegates, by position; operators that XNNPACK added by itself have none."""
    groups: list[list[int]] = []
    last = -1
    for at, event in enumerate(events):
        if event["kind"] != TAKEN:
            last = -1
            continue
        if last < 0 or event["op"] <= last:  # each delegate numbers its operators from 0
            groups.append([])
        groups[-1].append(at)
        last = event["op"]
    if len(groups) != len(regions):
        groups, regions = [[at for group in groups for at in group]], [{at for region in regions for at in region}]
    found: dict[int, PlacedOp] = {}
    for group, region in zip(groups, regions, strict=True):
        members = [ops[at] for at in sorted(region)]
        pairs = match([events[at]["tag"] for at in group], [op.op for op in members])
        found |= {group[at]: members[op] for at, op in pairs.items()}
    return found


def match(tags: Sequence[str], kinds: Sequence[str]) -> dict[int, int]:
    """Pair XNNPACK's operators with a file's ops so that order is kept and as much as possible fits.

    XNNPACK runs ops in the file's order, fuses some (an activation into the convolution before it), and adds operators of
    its own. The pairing is the longest common subsequence of the two lists (Wagner & Fischer, 1974, JACM 21, 168-173), in
    which convolutions and matrix products weigh most.

    Args:
        tags: XNNPACK's names in order, for example "Convolution (NHWC, QC8) DWConv".
        kinds: the file's op types in order.

    Returns:
        index of a kind by index of a tag.
    """
    worth = [[_likeness(tag, kind) for kind in kinds] for tag in tags]
    best = [[0] * (len(kinds) + 1) for _ in range(len(tags) + 1)]
    for i in range(len(tags) - 1, -1, -1):
        for j in range(len(kinds) - 1, -1, -1):
            paired = best[i + 1][j + 1] + worth[i][j] if worth[i][j] else 0
            best[i][j] = max(paired, best[i + 1][j], best[i][j + 1])
    pairs, i, j = {}, 0, 0
    while i < len(tags) and j < len(kinds):
        if worth[i][j] and best[i][j] == best[i + 1][j + 1] + worth[i][j]:
            pairs[i] = j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _likeness(tag: str, kind: str) -> int:
    """How well an operator of XNNPACK fits an op of the file; 0: not at all."""
    if "DWConv" in tag:
        return 10 if kind == "DEPTHWISE_CONV_2D" else 0
    word = "".join(letter for letter in tag.partition("(")[0].lower() if letter.isalpha())
    if kind in _SAME.get(word, ()):
        heavy = kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
        return (10 if heavy else 2) if kind == _SAME[word][0] or heavy else 1
    return 2 if word == "".join(letter for letter in kind.lower() if letter.isalpha()) else 0
