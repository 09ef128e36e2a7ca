"""What Session.run adds to an engine's own API on a null model (y = x + 1 on 1x4 floats), one thread.

Each round times the raw API, Session.run and the raw API again; a figure is the median over all rounds. Both sides copy
the input in and the output out; Session.run also checks thread, names, dtypes and shapes. Prints a Markdown table.

    .venv/bin/python perf/overhead.py [--rounds 300] [--calls 200] [--check]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgewright import testing
from edgewright.runtime import open_session
from edgewright.runtime.engines.openvino import import_openvino

X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
Call = Callable[[], Any]


def raw_litert(path: Path) -> dict[str, Call]:
    """The interpreter's three calls, tensor indices looked up once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    feed, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> Any:
        interpreter.set_tensor(feed, X)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return {"set_tensor, invoke, get_tensor": call}


def raw_openvino(path: Path) -> dict[str, Call]:
    """Tensors bound once, the cheapest that its Python API has, and the documented call."""
    ov = import_openvino()
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()
    feed, result = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)
    request.set_input_tensor(0, ov.Tensor(feed, shared_memory=True))
    request.set_output_tensor(0, ov.Tensor(result, shared_memory=True))

    def bound() -> Any:
        np.copyto(feed, X)
        request.infer()
        return result.copy()

    return {"tensors bound once, infer": bound, "compiled_model(x)": lambda: compiled(X)[0]}


def raw_onnxruntime(path: Path) -> dict[str, Call]:
    """Memory bound once, the cheapest that its Python API has, and the documented call."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed, result = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, feed.shape, feed.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)

    def bound() -> Any:
        np.copyto(feed, X)
        session.run_with_iobinding(binding)
        return result.copy()

    return {"memory bound once, run_with_iobinding": bound, "session.run": lambda: session.run(None, {"x": X})[0]}


ENGINES = {
    # engine: (package that writes the model, file, writer, raw calls, limit in us)
    "litert": ("ai_edge_litert", "null.tflite", testing.plus_one_tflite, raw_litert, 3.0),
    "openvino": ("openvino", "null.xml", testing.plus_one_openvino, raw_openvino, 9.0),
    "onnxruntime": ("onnx", "null.onnx", testing.plus_one_onnx, raw_onnxruntime, 5.0),
}


def time_us(call: Call, calls: int) -> float:
    """Mean time of one call over a short burst, in microseconds."""
    times = repeat(None, calls)
    begin = time.perf_counter_ns()
    for _ in times:
        call()
    return (time.perf_counter_ns() - begin) / calls / 1e3


def compare(raw: Call, ours: Call, rounds: int, calls: int) -> tuple[float, float]:
    """Medians of the raw call and of ours, in microseconds, measured raw, ours, raw in every round."""
    for call in (raw, ours):
        np.testing.assert_array_equal(call(), X + 1)
        time_us(call, calls * 5)
    a, b = [], []
    for _ in range(rounds):
        before = time_us(raw, calls)
        b.append(time_us(ours, calls))
        a.append((before + time_us(raw, calls)) / 2)
    return statistics.median(a), statistics.median(b)


def measure(engine: str, folder: Path, rounds: int, calls: int) -> list[tuple[str, str, float, float, float]]:
    """One row per raw API of an engine: engine, API, raw us, ours us, limit us."""
    _, file, write, raws, limit = ENGINES[engine]
    path = write(folder / file)
    with open_session(path, engine=engine, threads=1) as session:
        feeds = {"x": X}
        rows = []
        for name, raw in raws(path).items():
            a, b = compare(raw, lambda: session.run(feeds)["y"], rounds, calls)
            rows.append((engine, name, a, b, limit))
        return rows


def main() -> int:
    """Measure, print the table; with --check exit 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="rounds of raw, ours, raw (default 300)")
    parser.add_argument("--calls", type=int, default=200, help="calls per burst (default 200)")
    parser.add_argument("--engine", choices=sorted(ENGINES), action="append", help="only this engine; may be given again")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is passed")
    args = parser.parse_args()
    over = False
    print("| engine | raw API | raw, us | Session.run, us | difference, us | limit, us | within |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for engine in args.engine or ENGINES:
            if importlib.util.find_spec(ENGINES[engine][0]) is None:
                print(f"| {engine} | - | not measured: {ENGINES[engine][0]} is not installed | - | - | - | - |")
                continue
            for name, api, raw, ours, limit in measure(engine, Path(folder), args.rounds, args.calls):
                over |= ours > limit
                within = "yes" if ours <= limit else "NO"
                print(f"| {name} | {api} | {raw:.2f} | {ours:.2f} | {ours - raw:+.2f} | {limit:g} | {within} |")
    return 1 if over and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
