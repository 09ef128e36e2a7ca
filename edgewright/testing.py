"""What plug-in authors test engines, readers and writers with: the contract suites that we run; needs pytest."""

from __future__ import annotations

from edgewright.testing_engines import EngineCase, EngineContract
from edgewright.testing_models import plus_one_onnx, plus_one_openvino, plus_one_tflite, two_by_two_tflite
from edgewright.testing_readers import ReaderCase, ReaderContract
from edgewright.testing_writers import WriterCase, WriterContract

__all__ = [
    "EngineCase",
    "EngineContract",
    "ReaderCase",
    "ReaderContract",
    "WriterCase",
    "WriterContract",
    "plus_one_onnx",
    "plus_one_openvino",
    "plus_one_tflite",
    "two_by_two_tflite",
]
