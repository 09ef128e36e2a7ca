"""Times of single ops: names, order, kernels, and what happens where there is no profiler."""

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgewright
from edgewright import testing
from edgewright.errors import EngineError, ShapeError, UnsupportedError, UsageError
from edgewright.runtime import Session, open_session
from edgewright.runtime.engines import _litert_profiler, _litert_times, _openvino_ops
from edgewright.runtime.engines._onnxruntime_ops import FileNode, _of_file
from edgewright.runtime.placed import OpTime
from tests.runtime import placed_models

X = np.ones((1, 64, 64, 16), np.float32)


def medians(ops: Sequence[OpTime]) -> dict[str, float]:
    return {op.name: float(np.median(op.times_ns)) for op in ops}


class TestLiteRt:
    def test_a_heavy_op_is_on_top(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            ops = session.profile({"x": X}, 12)
        found = medians(ops)
        # The activation is computed within the convolution: it has no time of its own.
        assert [(op.name, op.op) for op in ops] == [("heavy", "CONV_2D"), ("small", "CONV_2D")]
        assert all(len(op.times_ns) == 12 and op.device == "CPU, XNNPACK delegate" for op in ops)
        assert "Convolution" in ops[0].kind
        assert found["heavy"] > 0.5 * sum(found.values())

    def test_ops_in_and_outside_of_delegates(self, tmp_path: Path) -> None:
        with open_session(placed_models.dynamic(tmp_path / "m.tflite")) as session:
            ops = session.profile({"x": np.ones((1, 32, 32, 8), np.float32)}, 6)
            placement = session.placement()
        assert [op.name for op in ops] == [op.name for op in placement.ops] == ["first", "depthwise", "pointwise"]
        assert [op.device for op in ops] == [op.device for op in placement.ops]
        assert [op.kind == "built-in kernel" for op in ops] == [False, True, False]

    def test_two_delegates(self, tmp_path: Path) -> None:
        with open_session(placed_models.islands(tmp_path / "m.tflite")) as session:
            ops = session.profile({"x": np.ones((1, 64), np.float32)}, 3)
        named = [op.name for op in ops if "Reshape" not in op.name]
        assert named == ["first", "sums", "second"]
        assert {op.op for op in ops if "Reshape" in op.name} <= {"Static Reshape"}  # XNNPACK's own

    def test_a_loop_is_one_op(self, tmp_path: Path) -> None:
        with open_session(placed_models.loop(tmp_path / "m.tflite")) as session:
            ops = session.profile({"x": np.ones((1, 16), np.float32)}, 3)
        assert [op.op for op in ops if "Reshape" not in op.name] == ["WHILE", "FULLY_CONNECTED"]

    @pytest.mark.parametrize("signatures", [(), ("serving_default",)])
    def test_without_signature_and_with_a_free_batch(self, tmp_path: Path, signatures: tuple[str, ...]) -> None:
        path = testing.plus_one_tflite(tmp_path / "m.tflite", batch=None, signatures=signatures)
        with open_session(path) as session:
            [op] = session.profile({"x": np.zeros((3, 4), np.float32)}, 2)
        assert (op.name, op.op) == ("y", "ADD")

    def test_the_sessions_own_results_stay(self, tmp_path: Path) -> None:
        feeds = {"zeta": np.ones((1, 4), np.float32), "alpha": np.ones((1, 3), np.float32)}
        with open_session(testing.two_by_two_tflite(tmp_path / "m.tflite")) as session:
            before = session.run(feeds)
            ops = session.profile(feeds, 2)
            after = session.run(feeds)
        assert {op.name for op in ops} >= {"dense", "sum", "product"}
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name])

    def test_other_releases_are_refused_before_anything_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_litert_profiler, "version", lambda package: "2.4.0")
        with open_session(placed_models.int16(tmp_path / "m.tflite")) as session:
            with pytest.raises(UnsupportedError, match=r"need ai-edge-litert 2\.3\.x .*here is 2\.4\.0") as caught:
                session.profile({"x": np.zeros((1, 8, 8, 4), np.int16)}, 2)
        assert caught.value.hint == "pip install 'ai-edge-litert==2.3.*'"

    def test_a_library_without_the_functions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ctypes.util

        monkeypatch.setattr(_litert_profiler, "library", lambda: ctypes.util.find_library("m"))
        with pytest.raises(UnsupportedError, match="lacks LiteRtCreateEnvironment, "):
            _litert_profiler._Model(Path("m.tflite"), {}, 1)

    @pytest.mark.parametrize("startable", [True, False], ids=["worker", "copy"])
    @pytest.mark.parametrize(
        ("job", "said"),
        [
            ("segfault", r"profiler failed: profiling m\.tflite crashed \(SIGSEGV"),
            ("abort", r"profiler failed: profiling m\.tflite crashed \(SIGABRT"),
            ("leave", r"profiler failed: profiling m\.tflite ended without an answer \(exit code 7"),
            ("fail", r"profiler failed: profiling m\.tflite failed: ValueError: what"),
            ("refuse", r"^no such thing$"),
        ],
    )
    def test_a_crash_ends_the_child_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, said: str, startable: bool
    ) -> None:
        """Once in a worker, once where Python cannot start itself, as under an emulator."""
        (tmp_path / "crash_jobs.py").write_text(
            "import ctypes, os\n"
            "from edgewright.errors import UnsupportedError\n"
            "def segfault(**arguments):\n    ctypes.string_at(0)\n"
            "def abort(**arguments):\n    os.abort()\n"
            "def leave(**arguments):\n    os._exit(7)\n"
            "def fail(**arguments):\n    raise ValueError('what')\n"
            "def refuse(**arguments):\n    raise UnsupportedError('no such thing')\n",
            encoding="utf-8",
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(_litert_times, "_JOB", f"crash_jobs:{job}")
        if not startable:
            monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
        feeds = {"x": np.zeros((1, 8, 8, 4), np.int16)}
        with open_session(placed_models.int16(tmp_path / "m.tflite")) as session:
            with pytest.raises(UnsupportedError) as caught:
                session.profile(feeds, 2)
            assert re.search(said, caught.value.message)
            session.run(feeds)

    def test_where_python_cannot_start_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
        with open_session(placed_models.dynamic(tmp_path / "m.tflite")) as session:
            ops = session.profile({"x": np.ones((1, 32, 32, 8), np.float32)}, 2)
            assert [op.name for op in ops] == ["first", "depthwise", "pointwise"]
            monkeypatch.setattr("edgewright.runtime.engines._own_process._TIMEOUT_S", 0.0)
            with pytest.raises(UnsupportedError, match="took longer than the limit"):
                session.profile({"x": np.ones((1, 32, 32, 8), np.float32)}, 100_000)
            monkeypatch.delattr("os.fork")
            with pytest.raises(UnsupportedError, match=r"needs a process of its own, and .*gone cannot be started"):
                session.profile({"x": np.ones((1, 32, 32, 8), np.float32)}, 2)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a text with an emulated arm64 Python that has LiteRT; gives what it printed, as JSON."""
    from tests.devices.arm_root import ArmRootMissing, arm_root

    try:
        root = arm_root()
    except ArmRootMissing as error:
        pytest.skip(f"no arm64 root: {error}")
    site = tmp_path_factory.mktemp("site")
    for wheel in root.wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    paths = os.pathsep.join((str(Path(edgewright.__file__).parents[1]), str(site)))

    def run(text: str, *arguments: str) -> Any:
        words = [str(root.python), "-c", text, *arguments]
        done = subprocess.run(
            words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_on_arm64(arm: Any, tmp_path: Path) -> None:
    """The library's structures are alike there, its processes can start no Python, and ops run where they run here."""
    path = placed_models.dynamic(tmp_path / "m.tflite")
    text = (
        "import json, sys, platform\nimport numpy as np\nfrom edgewright.runtime import open_session\n"
        "session = open_session(sys.argv[1])\n"
        "ops = session.profile({'x': np.ones((1, 32, 32, 8), np.float32)}, 2)\n"
        "placed = session.placement().to_json()['ops']\n"
        "print(json.dumps([platform.machine(), placed, [[op.name, op.op, op.device, len(op.times_ns)] for op in ops]]))"
    )
    machine, placed, ops = arm(text, str(path))
    assert machine == "aarch64"
    with open_session(path) as session:
        assert placed == session.placement().to_json()["ops"]
    assert ops == [[op["name"], op["op"], op["device"], 2] for op in placed]


class TestMatching:
    def test_fused_and_added_operators(self) -> None:
        tags = [
            "Copy (NC, X8)",
            "Convolution (NHWC, QC8) IGEMM",
            "Convolution (NHWC, QC8) DWConv",
            "Fully Connected (NC, QS8, QC8W) GEMM",
            "Add (ND)",
            "Mean (ND) Reduce",
            "Static Reshape (NC)",
            "Fully Connected (NC, QS8, QC8W) GEMM",
            "Softmax (NC, F32)",
        ]
        kinds = ["CONV_2D", "RELU", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
        assert _litert_times.match(tags, kinds) == {1: 0, 2: 2, 3: 3, 4: 4, 5: 5, 7: 6, 8: 7}

    def test_a_copy_may_be_a_concatenation(self) -> None:
        """A U-Net's, as XNNPACK ran it: deconvolution, copy, convolution."""
        tags = ["Deconvolution (NHWC, F32) IGEMM", "Copy (NC, X32)", "Convolution (NHWC, F32) IGEMM", "Sigmoid (ND)"]
        assert _litert_times.match(tags, ["TRANSPOSE_CONV", "CONCATENATION", "CONV_2D", "LOGISTIC"]) == {0: 0, 1: 1, 2: 2, 3: 3}

    def test_a_depthwise_convolution_is_no_other(self) -> None:
        assert _litert_times.match(["Convolution (NHWC, F32) DWConv"], ["CONV_2D", "DEPTHWISE_CONV_2D"]) == {0: 1}
        assert _litert_times.match(["Unknown (ND)"], ["ADD"]) == {}

    @given(st.lists(st.sampled_from(["ADD", "MUL", "CONV_2D", "RESHAPE"]), max_size=8), st.data())
    def test_order_is_kept_and_what_is_alike_is_paired(self, kinds: list[str], data: Any) -> None:
        words = {
            "ADD": "Add (ND)",
            "MUL": "Multiply (ND)",
            "CONV_2D": "Convolution (NHWC, F32)",
            "RESHAPE": "Static Reshape (NC)",
        }
        kept = [kind for kind in kinds if data.draw(st.booleans())]
        pairs = _litert_times.match([words[kind] for kind in kept], kinds)
        assert sorted(pairs) == list(range(len(kept)))  # all that was kept finds its like
        assert sorted(pairs.values()) == [pairs[at] for at in sorted(pairs)]
        assert all(kinds[op] == kept[at] for at, op in pairs.items())


class Counters:
    """OpenVINO's counters of one node, as the CPU plug-in tells them: a mean of all inferences so far, rounded down."""

    def __init__(self, times_us: list[float]) -> None:
        self.times_us, self.done = times_us, 0

    def infer(self) -> None:
        self.done += 1

    @property
    def profiling_info(self) -> list[Any]:
        mean = int(sum(self.times_us[: self.done]) / self.done)
        row = {"node_name": "n", "node_type": "T", "exec_type": "k", "status": "Status.EXECUTED"}
        return [SimpleNamespace(real_time=timedelta(microseconds=mean), **row)]


class TestOpenVino:
    def test_a_heavy_op_is_on_top(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite"), engine="openvino") as session:
            ops = session.profile({"x": X}, 40)
            names = {op.name for op in session.placement().ops}
        found = medians(ops)
        top = max(ops, key=lambda op: found[op.name])
        assert top.op == "Convolution" and top.name in names
        assert found[top.name] > 0.5 * sum(found.values())
        assert {len(op.times_ns) for op in ops} == {40}
        assert {op.device for op in ops} == {"CPU"}

    def test_ops_of_less_than_a_microsecond_are_there(self, tmp_path: Path) -> None:
        with open_session(testing.plus_one_openvino(tmp_path / "m.xml", batch=None)) as session:
            ops = session.profile({"x": np.zeros((2, 4), np.float32)}, 5)
        assert [op.op for op in ops] == ["Add"]

    @given(st.lists(st.floats(1, 1e4), min_size=3 + 22, max_size=3 + 22), st.integers(1, 50))
    def test_times_from_rounded_means(self, times_us: list[float], runs: int) -> None:
        """The n-th differs by n microseconds at most from the truth, and a new model's counters begin at 0."""
        made: list[Counters] = []

        def compiled() -> Any:
            made.append(Counters(times_us))
            return SimpleNamespace(
                get_property=lambda name: ["CPU"],
                create_infer_request=lambda: made[-1],
                get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=list),
            )

        model = SimpleNamespace(get_ordered_ops=list)
        [op] = _openvino_ops.op_times(model, compiled, lambda made: {}, runs)
        assert len(op.times_ns) == runs and sum(counters.done - 3 for counters in made) == runs
        truth = [times_us[3 + at % 22] for at in range(runs)]
        allowed = [4 + at % 22 for at in range(runs)]
        assert all(abs(found / 1000 - true) <= most for found, true, most in zip(op.times_ns, truth, allowed, strict=True))


class TestOnnxRuntime:
    def test_names_of_the_file(self, tmp_path: Path) -> None:
        with open_session(placed_models.small_onnx(tmp_path / "m.onnx")) as session:
            ops = session.profile({"x": np.ones((1, 3, 32, 32), np.float32)}, 9)
        names = [op.name for op in ops if not op.op.startswith("Reorder")]
        assert names == [name for name in ("conv", "relu", "depthwise", "pool", "flat", "dense") if name in names]
        assert {"conv", "depthwise", "pool", "dense"} <= set(names)
        assert {len(op.times_ns) for op in ops} == {9}
        assert {op.device for op in ops} == {"CPU, default kernels"}

    def test_nothing_is_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        path = testing.plus_one_onnx(tmp_path / "m.onnx")
        with open_session(path) as session:
            session.profile({"x": np.zeros((1, 4), np.float32)}, 2)
            session.placement()
            session.arena_bytes()
        assert list(tmp_path.iterdir()) == [path]

    def test_a_loop_holds_its_body(self, tmp_path: Path) -> None:
        """Nodes of a loop's body have events too, within the loop's own."""
        onnx = pytest.importorskip("onnx")
        from onnx import helper, numpy_helper

        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"], name="on"),
                helper.make_node("MatMul", ["s", "w"], ["t"], name="inner"),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
                helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [16, 16]),
            ],
            [
                helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [16, 16]),
            ],
            [numpy_helper.from_array(placed_models.floats(16, 16), "w")],
        )
        graph = helper.make_graph(
            [helper.make_node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
            "main",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [16, 16])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [16, 16])],
            [numpy_helper.from_array(np.array(3, np.int64), "n")],
        )
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
        with open_session(path) as session:
            assert [op.op for op in session.profile({"x": np.ones((16, 16), np.float32)}, 3)] == ["Loop"]
            [placed] = session.placement().ops
        assert placed.op == "Loop" and placed.macs is None

    def test_names_lead_back_through_fused_nodes(self) -> None:
        nodes = [FileNode("conv", "Conv", "x", "a"), FileNode("relu", "Relu", "a", "b"), FileNode("", "Add", "b", "c")]

        def name(event: str, op: str) -> str:
            return _of_file({"name": f"{event}_kernel_time", "args": {"op_name": op}}, nodes)

        assert name("conv", "Conv") == "conv"
        assert name("b_nchwc", "Conv") == name("fused b", "FusedConv") == "conv"
        assert name("b_nchwc", "Relu") == "relu"
        assert name("c", "Add") == "c"  # the file gives it no name
        assert name("ReorderOutput", "ReorderOutput") == "ReorderOutput"


class TestRefusals:
    def test_feeds_and_runs(self, tmp_path: Path) -> None:
        with open_session(placed_models.int16(tmp_path / "m.tflite")) as session:
            with pytest.raises(ShapeError, match=r"dtype float32, the model takes int16"):
                session.profile({"x": np.zeros((1, 8, 8, 4), np.float32)}, 2)
            with pytest.raises(UsageError, match="runs is 0"):
                session.profile({"x": np.zeros((1, 8, 8, 4), np.int16)}, 0)
        with pytest.raises(EngineError, match="is closed"):
            session.profile({"x": np.zeros((1, 8, 8, 4), np.int16)}, 2)

    def test_engines_of_others_may_have_none(self, tmp_path: Path) -> None:
        class Plain(Session):
            engine = "plain"
            formats = ("tflite",)
            version = classmethod(lambda cls: None)

            def _load(self) -> None:
                self.inputs = self.outputs = ()

            def _bind(self, shapes: Any) -> None: ...

            def _execute(self, feeds: Any) -> Any:
                return {}

            def _reset(self) -> None: ...

            def _release(self) -> None: ...

        session = Plain(tmp_path)
        with pytest.raises(UnsupportedError, match="plain does not tell how long an op takes"):
            session.profile({}, 1)
        with pytest.raises(UnsupportedError, match="plain does not tell which op runs where"):
            session.placement()
        assert session.arena_bytes() is None and session.arena_why_absent.startswith("plain does not tell")


def test_placement_is_plain_json(tmp_path: Path) -> None:
    with open_session(placed_models.dynamic(tmp_path / "m.tflite")) as session:
        made = session.placement().to_json()
    assert json.loads(json.dumps(made)) == made
    assert made["ops"][1] | {"reason": ""} == {
        "index": 1,
        "name": "depthwise",
        "op": "DEPTHWISE_CONV_2D",
        "device": "CPU, built-in kernels",
        "delegate": False,
        "macs": 32 * 32 * 16 * 9,
        "reason": "",
        "kind": "",
    }
