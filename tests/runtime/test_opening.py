"""Opening a stream: what is refused before anything is overwritten, and how it ends while a model is being loaded or is stuck."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_stream import Rows, adds_up, rows

from edgewright import testing
from edgewright.errors import MissingPackageError, UsageError
from edgewright.preprocess import Preprocess
from edgewright.runtime import Flow, Windowing, stream
from edgewright.runtime.engine_choice import engine_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model and a recording of 200 rows, which is the current one."""
    testing.plus_one_tflite(tmp_path / "m.tflite")
    table = np.column_stack([np.arange(200) / 100, rows(200)])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="t,a,b,c,d", comments="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words, before="", **more):
    """Exit code, standard output and standard error of `edgewright run`."""
    code = f"{before}\nimport sys\nfrom edgewright.cli import main\nsys.argv = ['edgewright', 'run', *sys.argv[1:]]\nmain()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, **more)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("sinks", "over"),
    [
        (["a.csv"], "a source"),
        (["csv:./a.csv"], "a source"),
        (["jsonl:m.tflite"], "the model"),
        (["link.jsonl"], "a source"),
        (["x.jsonl", "jsonl:x.jsonl?append=yes"], "another sink"),
    ],
)
def test_no_sink_writes_over_what_is_read_or_written(place, sinks, over):
    (place / "link.jsonl").symlink_to("a.csv")
    kept = {name: Path(name).read_bytes() for name in ("a.csv", "m.tflite")}
    with pytest.raises(UsageError, match=f"'{sinks[-1].replace('?', '.')}' would write over {over}"):
        stream("m.tflite", "csv:a.csv?time=t", sinks=sinks)
    assert kept == {name: Path(name).read_bytes() for name in kept} and not Path("x.jsonl").exists()


def test_devices_may_be_named_twice(place):
    assert len(list(stream("m.tflite", "csv:a.csv?time=t", sinks=["jsonl:/dev/null", "csv:/dev/null"]))) == 200


def test_a_path_is_an_address(place):
    np.savetxt("b.csv", rows(5), delimiter=",")
    assert len(list(stream("m.tflite", Path("b.csv")))) == 5


def test_standard_input_is_read_by_one(place):
    with pytest.raises(UsageError, match="2 sources read standard input"):
        stream("m.tflite", ["-", "stdin:?time=0"])


@pytest.mark.parametrize("wrong", [("--duration", "10x"), ("--metrics", "nonsense"), ("--dashboard", "1:2:3")])
def test_what_cannot_be_read_is_told_before_results_are_replaced(place, wrong):
    Path("out.jsonl").write_text("mine\n")
    code, _, told = command("m.tflite", "csv:a.csv?time=t", "-o", "out.jsonl", *wrong)
    assert code == 2 and wrong[1] in told and "captured" not in told
    assert Path("out.jsonl").read_text() == "mine\n"


def test_the_account_is_told_beside_an_error_and_beside_results(place):
    lines = Path("a.csv").read_text().splitlines()
    Path("a.csv").write_text("\n".join([*lines[:50], "1,2"]))
    code, out, told = command("m.tflite", "csv:a.csv?time=t", "--json")
    assert code == 1 and '"error"' in out and '"captured": 49' in told
    Path("a.csv").write_text("\n".join(lines))
    code, out, told = command("m.tflite", "csv:a.csv?time=t", "-o", "-", "--json")
    assert code == 0 and out.count("\n") == 200 and '"captured": 200' in told


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ["tflite", "openvino"])
def test_a_count_is_kept_to_the_result(models, tmp_path, workers, engine):
    out = tmp_path / "out.jsonl"
    running = stream(models[engine], [Rows(rows(300)), Rows(rows(300))], sinks=[str(out)], flow=Flow(workers=workers), count=7)
    assert len(list(running)) == 7 and out.read_text().count("\n") == 7
    account = running.summary()
    adds_up(account)
    assert sum(lane["done"] for lane in account["sources"].values()) == 7 and account["sinks"]["out.jsonl"]["written"] == 7
    with pytest.raises(UsageError, match="0 results are asked for"):
        stream(models[engine], Rows(rows(3)), count=0)


def test_a_slow_consumer_gets_all_that_were_counted(models):
    running = stream(models["tflite"], Rows(rows(300)), count=30)
    found = []
    for result in running:
        found.append(result.index)
        time.sleep(0.02)
    assert found == list(range(30))


@pytest.mark.parametrize("live", [True, False])
def test_a_time_limit_ends_a_stream_whose_model_is_stuck(models, monkeypatch, live):
    kind, release = engine_of(models["tflite"]), threading.Event()
    compute, calls = kind._execute, []

    def stuck(session, feeds):
        calls.append(1)
        if len(calls) == 5:
            release.wait(20)
        return compute(session, feeds)

    monkeypatch.setattr(kind, "_execute", stuck)
    running = stream(models["tflite"], Rows(rows(2000), live=live, rate=200))
    running.stop_after(0.3)
    start = time.monotonic()
    list(running)
    took = time.monotonic() - start
    account = running.summary()
    release.set()
    assert took < 2.5
    adds_up(account)


SLOW = """
import os, signal, threading, time
from edgewright.runtime.engines.litert import LiteRtSession
def load(self):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.{name})).start()
    time.sleep(8)
LiteRtSession._load = load
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_a_model_is_loaded_ends_at_once(place, name, code):
    start = time.monotonic()
    ended, out, told = command("m.tflite", "csv:a.csv?time=t", before=SLOW.format(name=name))
    assert (ended, out) == (code, "") and "defect" not in told and "Traceback" not in told
    assert time.monotonic() - start < 6


def test_a_model_that_nobody_waits_for_is_freed_when_it_is_there(models, monkeypatch):
    kind, closed = engine_of(models["tflite"]), []
    load, close = kind._load, kind.close
    monkeypatch.setattr(kind, "_load", lambda session: (time.sleep(1.0), load(session)))
    monkeypatch.setattr(kind, "close", lambda session: (close(session), closed.append(session)))
    start = time.monotonic()
    with pytest.raises(UsageError, match="there is no source"):
        stream(models["tflite"], [])
    assert time.monotonic() - start < 0.9 and not closed
    time.sleep(max(0.0, start + 1.5 - time.monotonic()))
    assert len(closed) == 1


def test_time_that_begins_anew_does_not_end_a_rate(models):
    source = Rows(rows(300))
    times = [*range(100), *range(100), 10**6, *range(99)]
    read = source.read

    def shifted(into=None):
        frame = read(into)
        return None if frame is None else type(frame)(frame.data, frame.index, frame.captured_ns, times[frame.index] * 10_000_000)

    source.read = shifted
    running = stream(models["tflite"], source, flow=Flow(rate_hz=25))
    found = [one.index for one in running]
    assert found == [*range(0, 100, 4), *range(100, 200, 4), 200, *range(201, 300, 4)]
    adds_up(running.summary())


@pytest.mark.parametrize("rate", [float("inf"), float("nan"), 1e10, 1e-300, 0])
def test_rates_that_no_clock_keeps_are_refused(rate):
    with pytest.raises(UsageError, match="rate is"):
        Flow(rate_hz=rate)


def test_images_without_opencv_are_refused_at_once(tmp_path, monkeypatch):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(12, 10, 3))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match="cv2"):
        stream(model, "synthetic:image?count=3&width=10&height=12", preprocess=Preprocess(size=(12, 10), color="rgb"))


def test_the_module_says_what_is_wrong_with_its_streams(place):
    words = [sys.executable, "-m", "edgewright.runtime"]
    if Path("/dev/full").is_char_device():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*words, "probe"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 1 and done.stderr.startswith("error: cannot write the output: No space left on device")
    closed = subprocess.run(
        [*words, "run", "m.tflite", "-"], stderr=subprocess.PIPE, text=True, timeout=60, preexec_fn=lambda: os.close(0)
    )
    assert closed.returncode == 1 and "standard input is closed" in closed.stderr
    with subprocess.Popen([*words, "probe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader_gone:
        reader_gone.stdout.close()
        told = reader_gone.stderr.read()
    assert reader_gone.returncode == 1 and not told


def test_names_of_any_length_leave_the_numbers_of_the_account_whole(place):
    name = "n" * 70 + ".csv"
    Path("a.csv").rename(name)
    out = command("m.tflite", name + "?time=t", env={**os.environ, "COLUMNS": "80"})[1]
    table = out.splitlines()[1:]
    assert table[0].split() == "source captured done late failed dropped alike age p50 p90 p99".split()
    assert table[1].split()[1:7] == ["200", "200", "0", "0", "0", "0"] and len(table[1].split()) == 10
    assert "…" not in out and all(len(line) <= 80 for line in table if line.startswith("n"))


@pytest.mark.parametrize("window", [None, Windowing(length=1, stride=1)])
def test_anomalies_are_judged_on_what_was_not_yet_clipped(tmp_path, window):
    """As evaluation does: an int8 input holds up to 12.7 here, a reconstruction of 12.7 is no good one of 100."""
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    x = ops.parameter([1, 4] if window is None else [1, 1, 4], np.int8, name="x")
    y = ops.multiply(ops.convert(x, "f32"), np.float32(0.1))
    model = openvino.Model([ops.result(y)], [x], "clips")
    model.set_rt_info('{"x": {"scale": 0.1, "zero_point": 0}}', ["edgewright", "io"])
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    data = np.array([[1, 2, 3, 4], [100, 0, 0, 0]], np.float32)
    found = list(stream(tmp_path / "m.xml", Rows(data), task="anomaly", threshold=1.0, window=window))
    assert [one.answer["anomaly"] for one in found] == [False, True]
    assert found[1].answer["score"] == pytest.approx((100 - 12.7) ** 2 / 4)


def test_what_fusion_held_or_left_out_is_in_the_account(place):
    for name, count in (("one", 400), ("two", 100)):
        table = np.column_stack([np.arange(count) / 100, rows(count)[:, :2]])
        np.savetxt(f"{name}.csv", table, delimiter=",", header="t,a,b", comments="")
    for silent, word in (("hold", "fused with held values"), ("drop", "fused times left out")):
        running = stream("m.tflite", ["csv:one.csv?time=t", "csv:two.csv?time=t"], fuse=f"rate=25,skew=0.2,silent={silent}")
        count = len(list(running))
        (lane,) = running.summary()["sources"].values()
        assert 60 < lane["samples"][word] <= 75 and (count == 100 if silent == "hold" else count == 100 - lane["samples"][word])
