"""Which op ran where, its multiply-adds and the reason, per engine; memory that the engine plans."""

import functools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewright import testing
from edgewright.artifact import TensorSpec
from edgewright.errors import EngineError, UnsupportedError
from edgewright.runtime import open_session
from edgewright.runtime.engines import _litert_ops, _openvino_ops, litert
from edgewright.runtime.placed import NOT_TOLD, per_sample
from tests.runtime import placed_models


def by_name(placement: Any) -> dict[str, Any]:
    return {op.name: op for op in placement.ops}


class TestLiteRt:
    def test_all_in_the_delegate(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            placement = session.placement()
        assert [(op.index, op.name, op.op, op.delegate, op.reason) for op in placement.ops] == [
            (0, "heavy", "CONV_2D", True, ""),
            (1, "active", "RELU", True, ""),
            (2, "small", "CONV_2D", True, ""),
        ]
        assert {op.device for op in placement.ops} == {"CPU, XNNPACK delegate"}
        assert [op.macs for op in placement.ops] == [64 * 64 * 64 * 5 * 5 * 16, 0, 64 * 64 * 2 * 64]

    def test_dynamic_int8_depthwise_stays_outside(self, tmp_path: Path) -> None:
        with open_session(placed_models.dynamic(tmp_path / "m.tflite")) as session:
            ops = session.placement().ops
        assert [op.delegate for op in ops] == [True, False, True]
        assert ops[1].device == "CPU, built-in kernels"
        assert "dynamic int8" in ops[1].reason and "DEPTHWISE_CONV_2D" in ops[1].reason

    def test_an_op_between_two_regions(self, tmp_path: Path) -> None:
        with open_session(placed_models.islands(tmp_path / "m.tflite")) as session:
            ops = session.placement().ops
        assert [(op.name, op.delegate, op.reason) for op in ops] == [
            ("first", True, ""),
            ("sums", False, "XNNPACK has no CUMSUM"),
            ("second", True, ""),
        ]

    def test_int16_and_its_arena(self, tmp_path: Path) -> None:
        with open_session(placed_models.int16(tmp_path / "m.tflite")) as session:
            [op] = session.placement().ops
            arena = session.arena_bytes()
            session.run({"x": np.zeros((1, 8, 8, 4), np.int16)})  # no view of a tensor is left behind
            assert session.arena_bytes() == arena
        assert not op.delegate and "int16" in op.reason
        # Input, output and the kernel's patches (8 x 8 positions of 3 x 3 x 4 values) live at once, each of 2 bytes.
        live = 2 * (8 * 8 * 4 + 8 * 8 * 6 + 8 * 8 * 36)
        assert arena is not None and live <= arena <= live + 3 * 64

    def test_a_loop_counts_its_body_once(self, tmp_path: Path) -> None:
        with open_session(placed_models.loop(tmp_path / "m.tflite")) as session:
            placement = session.placement()
        while_op, dense = placement.ops
        assert (while_op.op, while_op.macs, while_op.delegate) == ("WHILE", 16 * 16, False)
        assert "graphs of its own" in while_op.reason
        assert (dense.macs, dense.delegate) == (4 * 16, True)
        assert "counted once" in placement.note

    def test_without_delegates(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interpreter that applies none: the session sees it, and tells the arena of the planner."""
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        made = functools.partial(interpreter.Interpreter, experimental_op_resolver_type=plain)
        monkeypatch.setattr(litert, "_interpreter_class", lambda: made)
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            ops = session.placement().ops
            arena = session.arena_bytes()
        assert not any(op.delegate for op in ops)
        assert {op.reason for op in ops} == {f"no delegate took any op of this model, {NOT_TOLD} why"}
        # The first convolution's patches, 64 x 64 positions of 5 x 5 x 16 floats, its input and its output live at once.
        least = 4 * 64 * 64 * (5 * 5 * 16 + 16 + 64)
        assert arena is not None and least <= arena < 1.1 * least

    def test_arena_of_a_delegate_is_not_told(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            assert session.arena_why_absent == ""
            assert session.arena_bytes() is None
            assert session.arena_why_absent.startswith("XNNPACK keeps the activations of 3 of 3 ops")

    def test_a_runtime_that_lists_other_ops(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            monkeypatch.setattr(litert, "_ops", lambda interpreter: None)
            with pytest.raises(UnsupportedError, match=r"lists 0 ops of m\.tflite, the file has 3"):
                session.placement()
            assert session.arena_bytes() is None and "does not list its ops" in session.arena_why_absent

    def test_regions_follow_tensors(self) -> None:
        """Two delegates that take turns with an op in the middle, constants and a skip connection over it."""
        ops = [
            {"op_name": "CONV_2D", "inputs": [0, 9, -1], "outputs": [1]},
            {"op_name": "CUMSUM", "inputs": [1, 8], "outputs": [2]},
            {"op_name": "ADD", "inputs": [1, 2], "outputs": [3]},
            {"op_name": "ABS", "inputs": [0], "outputs": [4]},
            {"op_name": "ASSIGN_VARIABLE", "inputs": [7, 5], "outputs": []},
            {"op_name": "MUL", "inputs": [3, 4], "outputs": [5]},
            {"op_name": "NEG", "inputs": [5], "outputs": [6]},
            {"op_name": "DELEGATE", "inputs": [0, 9], "outputs": [1, 4]},
            {"op_name": "DELEGATE", "inputs": [1, 2, 4, 7], "outputs": [6]},
        ]
        assert _litert_ops.regions(ops) == [{0, 3}, {2, 5, 6, 4}]


class TestMacs:
    """Against the converters' count, which reads files through the LiteRT schema and OpenVINO's own model."""

    @pytest.mark.parametrize("write", ["heavy", "dynamic", "int16", "islands", "loop", "every_counted_op"])
    def test_tflite(self, tmp_path: Path, write: str) -> None:
        from edgewright.converters.readers.tflite import TfliteReader

        path = getattr(placed_models, write)(tmp_path / "m.tflite")
        with open_session(path) as session:
            found = [op.macs for op in session.placement().ops]
        assert sum(value or 0 for value in found) == TfliteReader(path).info().macs

    def test_batch(self, tmp_path: Path) -> None:
        one, many = (
            open_session(placed_models.every_counted_op(tmp_path / f"{batch}.tflite", batch)).placement() for batch in (1, 4)
        )
        # The filters of the transposed convolution and so on do not grow with the batch, only the work does.
        assert [op.macs for op in one.ops] == [op.macs for op in many.ops]
        assert many.note == "the file is fixed to batch 4"

    @pytest.mark.parametrize("write", ["heavy", "islands", "loop", "every_counted_op"])
    def test_openvino(self, tmp_path: Path, write: str) -> None:
        from edgewright.converters.readers.openvino import OpenVinoReader
        from edgewright.runtime.engines.openvino import import_openvino

        source = getattr(placed_models, write)(tmp_path / "m.tflite")
        ov = import_openvino()
        ov.save_model(ov.Core().read_model(source), tmp_path / "m.xml", compress_to_fp16=False)
        with open_session(tmp_path / "m.xml") as session:
            found = [op.macs for op in session.placement().ops]
        assert sum(value or 0 for value in found) == OpenVinoReader(tmp_path / "m.xml").info().macs > 0

    def test_onnx(self, tmp_path: Path) -> None:
        from edgewright.converters.readers.onnx import OnnxReader

        path = placed_models.small_onnx(tmp_path / "m.onnx")
        with open_session(path) as session:
            ops = by_name(session.placement())
        assert ops["conv"].macs == 16 * 32 * 32 * 3 * 9 and ops["dense"].macs == 16 * 10
        assert sum(op.macs or 0 for op in ops.values()) == OnnxReader(path).info().macs

    def test_what_no_batch_divides(self) -> None:
        spec = TensorSpec("x", (4, 3), "float32")
        assert per_sample([8, None, 4], [spec], [spec]) == ([2, None, 1], "the file is fixed to batch 4")
        kept, note = per_sample([8, 6], [spec], [spec])
        assert kept == [8, 6] and "whole batch" in note
        assert per_sample([8], [spec, TensorSpec("n", (4,), "int32")], [spec]) == ([8], "")


class TestOthers:
    def test_openvino_names_ops_as_the_file_does(self, tmp_path: Path) -> None:
        path = testing.plus_one_openvino(tmp_path / "m.xml", batch=None)
        with open_session(path) as session:
            [op] = session.placement().ops
            assert session.arena_bytes() is None and "OpenVINO" in session.arena_why_absent
        assert f'name="{op.name}" type="Add"' in path.read_text()
        assert (op.op, op.device, op.delegate) == ("Add", "CPU", False)
        assert "CPU plug-in" in op.reason
        assert op.kind.endswith("f32")  # the kernel, from the execution graph

    def test_openvino_names_are_the_same_in_each_session(self, tmp_path: Path) -> None:
        path = placed_models.heavy(tmp_path / "m.tflite")
        first, second = (open_session(path, engine="openvino").placement() for _ in range(2))
        assert first == second
        assert all(op.kind for op in first.ops if op.op == "Convolution")

    def test_openvino_keeps_the_names_of_onnx_files(self, tmp_path: Path) -> None:
        with open_session(placed_models.small_onnx(tmp_path / "m.onnx"), engine="openvino") as session:
            ops = by_name(session.placement())
        assert ops["conv"].macs == 16 * 32 * 32 * 3 * 9 and ops["depthwise"].op == "GroupConvolution"
        assert {"relu", "pool"} <= set(ops)

    @pytest.mark.parametrize("device", ["AUTO:CPU", "HETERO:CPU"])
    def test_openvino_devices_that_choose(self, tmp_path: Path, device: str) -> None:
        from edgewright.runtime.engines.openvino import import_openvino

        core = import_openvino().Core()
        model = core.read_model(testing.plus_one_openvino(tmp_path / "m.xml"))
        spec = TensorSpec("x", (1, 4), "float32")
        [op] = _openvino_ops.place(model, core.compile_model(model, device), [spec], [spec]).ops
        assert (op.op, op.device, op.delegate) == ("Add", "CPU", False)

    def test_openvino_on_an_accelerator_and_on_two(self, tmp_path: Path) -> None:
        """The machine has none: what the compiled model would say, around a real one."""
        from edgewright.runtime.engines.openvino import import_openvino

        core = import_openvino().Core()
        model = core.read_model(testing.plus_one_openvino(tmp_path / "m.xml"))
        real = core.compile_model(model, "CPU")
        spec = TensorSpec("x", (1, 4), "float32")

        def placed(*devices: str) -> Any:
            told = SimpleNamespace(get_property=lambda name: list(devices), get_runtime_model=real.get_runtime_model)
            return _openvino_ops.place(model, told, [spec], [spec]).ops[0]

        one, two = placed("NPU"), placed("GPU.0", "CPU")
        assert (one.device, one.delegate, one.reason) == ("NPU", True, "")
        assert (two.device, two.delegate) == ("", False)
        assert two.reason == f"OpenVINO runs it on one of GPU.0, CPU, {NOT_TOLD} which"

    def test_onnxruntime(self, tmp_path: Path) -> None:
        with open_session(placed_models.small_onnx(tmp_path / "m.onnx")) as session:
            placement = session.placement()
            arena = session.arena_bytes()
        assert [op.name for op in placement.ops] == ["conv", "relu", "depthwise", "pool", "flat", "dense"]
        assert {op.device for op in placement.ops} == {"CPU, default kernels"}
        assert not any(op.delegate for op in placement.ops)
        # Two feature maps of 16 x 32 x 32 floats live at once, and little else.
        assert arena is not None and 2 * 65536 <= arena < 3 * 65536

    def test_closed_and_foreign_sessions(self, tmp_path: Path) -> None:
        session = open_session(placed_models.int16(tmp_path / "m.tflite"))
        session.placement()
        caught: list[Exception] = []

        def other() -> None:
            try:
                session.arena_bytes()
            except EngineError as error:
                caught.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "belongs to thread" in str(caught[0])
        session.close()
        with pytest.raises(EngineError, match="is closed"):
            session.placement()
