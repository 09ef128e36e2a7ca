"""Operators of a .tflite file and their multiply-adds, read from the file with NumPy alone: boards have no schema package."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileOp", "main_ops"]

_CONV_2D, _DEPTHWISE, _DENSE, _TRANSPOSED, _MATMUL = 3, 4, 9, 67, 126
_CONV_3D, _TRANSPOSED_3D, _SVDF = 132, 141, 27
_RECURRENT = (16, 24, 35, 44, 46, 52)
_WHILE, _IF, _CALL_ONCE = 119, 118, 129
_CUSTOM, _STABLEHLO_CONVOLUTION, _STABLEHLO_DOT, _STABLEHLO_COMPOSITE = 32, 171, 197, 206
_NOT_COUNTED = (_CUSTOM, _STABLEHLO_CONVOLUTION, _STABLEHLO_DOT, _STABLEHLO_COMPOSITE)
"""Numbers of BuiltinOperator in LiteRT's schema (schema.fbs)."""


@dataclass(frozen=True, slots=True)
class FileOp:
    """One operator of the main graph.

    Args:
        inputs: tensor indexes, -1 for an operand that is left out.
        outputs: tensor indexes.
        constant: whether each input's values stand in the file.
        macs: multiply-adds over the batch that the file is fixed to, those of called graphs included; None if not counted.
        calls: whether it calls graphs of the file: a loop or a branch.
        custom: whether it is a custom op.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: tuple[bool, ...]
    macs: int | None
    calls: bool
    custom: bool


def main_ops(path: Path) -> tuple[FileOp, ...]:
    """The operators of a file's first graph, in order.

    A file that LiteRT has loaded is known to be whole, so offsets are followed without checks.

    Raises:
        OSError: the file cannot be read.
        struct.error: it is no .tflite file.
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        root = struct.unpack_from("<I", data, 0)[0]
        file = _File(data, _Table(data, root))
        return file.graph(0)


@dataclass(frozen=True, slots=True)
class _Table:
    """A FlatBuffers table; fields have the numbers of the schema (https://flatbuffers.dev/internals)."""

    data: mmap.mmap
    at: int

    def field(self, number: int) -> int:
        """Where a field's value stands; 0 if the file leaves it out."""
        vtable = self.at - int(struct.unpack_from("<i", self.data, self.at)[0])
        size = struct.unpack_from("<H", self.data, vtable)[0]
        entry = 4 + 2 * number
        offset = int(struct.unpack_from("<H", self.data, vtable + entry)[0]) if entry < size else 0
        return self.at + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        """A number in struct's format; 0 if left out."""
        at = self.field(number)
        return int(struct.unpack_from(f"<{form}", self.data, at)[0]) if at else 0

    def _follow(self, at: int) -> int:
        return at + int(struct.unpack_from("<I", self.data, at)[0])

    def table(self, number: int) -> _Table | None:
        """A table within this one."""
        at = self.field(number)
        return _Table(self.data, self._follow(at)) if at else None

    def length(self, number: int) -> int:
        """How many entries a vector has."""
        at = self.field(number)
        return int(struct.unpack_from("<I", self.data, self._follow(at))[0]) if at else 0

    def ints(self, number: int) -> tuple[int, ...]:
        """A vector of int32."""
        count = self.length(number)
        return struct.unpack_from(f"<{count}i", self.data, self._follow(self.field(number)) + 4) if count else ()

    def entry(self, number: int, index: int) -> _Table:
        """One of a vector of tables."""
        return _Table(self.data, self._follow(self._follow(self.field(number)) + 4 + 4 * index))

    def entries(self, number: int) -> Iterator[_Table]:
        """All of a vector of tables."""
        return (self.entry(number, index) for index in range(self.length(number)))


@dataclass(frozen=True, slots=True)
class _File:
    """A Model table and what its graphs compute."""

    data: mmap.mmap
    model: _Table

    def graph(self, index: int, outer: frozenset[int] = frozenset()) -> tuple[FileOp, ...]:
        """The operators of one graph; `outer` holds the graphs that call it."""
        table = self.model.entry(2, index)
        # OperatorCode: old files have the code in a signed byte, new ones in builtin_code.
        codes = [max(code.number(0, "b"), code.number(3, "i")) for code in self.model.entries(1)]
        tensors = list(table.entries(0))
        shapes = [tensor.ints(0) for tensor in tensors]
        constant = [self._has_data(tensor.number(2, "I")) for tensor in tensors]
        ops = []
        for op in table.entries(3):
            code, inputs, outputs = codes[op.number(0, "I")], op.ints(1), op.ints(2)
            called = self._called(code, op)
            macs: int | None
            if called:
                macs = self._of_graphs(called, outer | {index})
            elif code in _NOT_COUNTED:
                macs = None
            else:
                operands = [shapes[at] if at >= 0 else () for at in inputs]
                stored = [at >= 0 and constant[at] for at in inputs]
                macs = _macs(code, op, operands, stored, shapes[outputs[0]] if outputs else ())
            fixed = tuple(at >= 0 and constant[at] for at in inputs)
            ops.append(FileOp(inputs, outputs, fixed, macs, bool(called), code == _CUSTOM))
        return tuple(ops)

    def _has_data(self, buffer: int) -> bool:
        """Whether a buffer holds values; buffer 0 never does."""
        table = self.model.entry(4, buffer)
        return buffer > 0 and (table.length(0) > 0 or table.number(1, "Q") > 1)

    def _called(self, code: int, op: _Table) -> tuple[int, ...]:
        """Graphs that an operator calls."""
        options = op.table(4)
        if options is None or code not in (_WHILE, _IF, _CALL_ONCE):
            return ()
        return (options.number(0, "i"),) if code == _CALL_ONCE else (options.number(0, "i"), options.number(1, "i"))

    def _of_graphs(self, called: tuple[int, ...], outer: frozenset[int]) -> int | None:
        """Multiply-adds of graphs that are called, once each; None if they call each other in a circle."""
        if outer & set(called):
            return None
        found = [op.macs or 0 for index in called for op in self.graph(index, outer)]
        return sum(found)


def _macs(code: int, op: _Table, shapes: list[tuple[int, ...]], stored: list[bool], output: tuple[int, ...]) -> int:
    """Multiply-adds of one operator, free sizes as 1; layouts are those of the TFLite op set (filters OHWI, DHWIO, dense OI).

    A convolution sums one filter per output element, a transposed one spreads each input element by one filter.
    """
    if code == _CONV_2D:
        return math.prod(output) * math.prod(shapes[1][1:])
    if code == _DEPTHWISE:
        return math.prod(output) * math.prod(shapes[1][1:3])
    if code == _CONV_3D:
        return math.prod(output) * math.prod(shapes[1][:4])
    if code == _TRANSPOSED:
        return math.prod(shapes[2]) * math.prod(shapes[1][:3])
    if code == _TRANSPOSED_3D:
        return math.prod(shapes[2]) * math.prod(shapes[1][:4])
    if code == _DENSE:
        return math.prod(output) * shapes[1][-1]
    if code == _MATMUL:
        options = op.table(4)
        adj_x = options is not None and options.number(0, "B") != 0
        return math.prod(output) * shapes[0][-2 if adj_x else -1]
    if code in _RECURRENT or code == _SVDF:
        matrices = [shape for shape, known in zip(shapes[1:], stored[1:], strict=True) if known and len(shape) == 2]
        return math.prod(shapes[0][:-1]) * sum(math.prod(shape) for shape in matrices)
    return 0
