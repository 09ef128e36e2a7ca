"""The measuring worker: on a clock of the test's own where time matters, on real engines where they do."""

import builtins
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import TensorSpec
from edgewright.benchmarks import latency, memory
from edgewright.benchmarks.__main__ import main
from edgewright.benchmarks.latency import measure
from edgewright.benchmarks.power import METERS
from edgewright.errors import EdgewrightError, EngineError, PluginError, UsageError
from edgewright.runtime import ENGINES
from edgewright.runtime.machine import fingerprint, machine
from edgewright.runtime.session import Execution, Session
from edgewright.testing_models import plus_one_onnx, plus_one_openvino, plus_one_tflite, two_by_two_tflite

ROOT = Path(__file__).parents[2]
MS = 1_000_000
QUICK = {"warmup_s": 0.0, "duration_s": 0.001, "min_runs": 10, "idle_gaps": 0, "meter": "none"}

WRITERS: dict[str, tuple[str, Callable[..., Path]]] = {
    "litert": ("ai_edge_litert", plus_one_tflite),
    "onnxruntime": ("onnx", plus_one_onnx),
    "openvino": ("openvino", plus_one_openvino),
}


class Clock:
    """Time that passes only when something advances it."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    process_time_ns = perf_counter_ns

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


class FakeSession(Session):
    """An engine whose every step takes the time that the test says; inputs are the test's too."""

    engine = "fake"
    formats = ("tflite",)
    specs: tuple[TensorSpec, ...] = (TensorSpec("x", (1, 4), "float32"),)
    on_load: Callable[[], object] = staticmethod(lambda: None)
    on_run: Callable[[int], object] = staticmethod(lambda number: None)
    fed: list[dict[str, np.ndarray[Any, Any]]]

    @classmethod
    def version(cls) -> str | None:
        return "fake 1.0"

    def _load(self) -> None:
        self.inputs = self.outputs = self.specs
        self.execution = Execution("float32", "no arithmetic at all", "CPU")
        type(self).fed = []
        type(self).on_load()

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> None: ...

    def _execute(self, feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
        self.fed.append(dict(feeds))
        type(self).on_run(len(self.fed))
        return dict(feeds)

    def _reset(self) -> None: ...

    def _release(self) -> None: ...


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeSession]]:
    class Own(FakeSession):
        pass

    monkeypatch.setitem(ENGINES._classes, "fake", Own)
    yield Own


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "time", made)
    monkeypatch.setattr(latency, "_clock_ns", lambda: 1)
    return made


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3")
    return str(path)


def advance(clock: Clock, ms: float) -> None:
    clock.now += round(ms * MS)


@pytest.mark.parametrize("engine", WRITERS)
def test_real_engines(engine: str, tmp_path: Path) -> None:
    package, write = WRITERS[engine]
    pytest.importorskip(package)
    pytest.importorskip("ai_edge_litert" if engine == "litert" else engine)
    path = write(tmp_path / {"litert": "m.tflite", "openvino": "m.xml", "onnxruntime": "m.onnx"}[engine], batch=None)
    found = measure(str(path), **QUICK)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["engine"] == engine
    assert found["library"] == ENGINES.get(engine).version()
    assert found["execution"]["precision"] == "float32"
    assert [(spec["shape"], spec["fed"]) for spec in found["inputs"]] == [([None, 4], [1, 4])]
    assert len(found["latencies_ns"]) >= 10
    assert min(found["latencies_ns"]) > 0
    assert found["first_ns"] > 0
    assert found["load_ns"] > 0
    assert found["import_ns"] >= 0
    assert found["pid"] == os.getpid()
    assert (found["machine"], found["fingerprint"]) == (machine(), fingerprint())


def test_every_time_is_told_apart(
    file: str, fake: type[FakeSession], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Import 50 ms, and 20 ms of an import in it; load 30 ms; first run 7 ms; then runs of 1 and 3 ms by turns."""
    (tmp_path / "slow_outer_package.py").write_text("import slow_inner_package\nslow_inner_package.clock.now += 50_000_000\n")
    inner = SimpleNamespace(clock=clock)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_inner_package.py").write_text("import slow_clock\nclock = slow_clock.clock\nclock.now += 20_000_000\n")
    monkeypatch.setitem(sys.modules, "slow_clock", inner)

    def load() -> None:
        import slow_outer_package  # noqa: F401

        advance(clock, 30)

    fake.on_load = staticmethod(load)
    fake.on_run = staticmethod(lambda number: advance(clock, 7 if number == 1 else 1 + 2 * (number % 2)))
    try:
        found = measure(file, engine="fake", warmup_s=0.1, duration_s=1.0, idle_gaps=0, meter="none")
    finally:
        for name in ("slow_outer_package", "slow_inner_package"):
            sys.modules.pop(name, None)
    assert (found["import_ns"], found["load_ns"], found["first_ns"]) == (70 * MS, 30 * MS, 7 * MS)
    assert found["warmup_runs"] == 50
    assert found["latencies_ns"] == [MS, 3 * MS] * 250
    assert found["cpu_share"] == 1.0
    assert len(fake.fed) == 1 + 50 + 500


@pytest.mark.parametrize(
    ("run_ms", "options", "warmup", "timed"),
    [
        (1, {"warmup_s": 0, "duration_s": 0.01, "min_runs": 80}, 5, 80),  # least runs go beyond the duration
        (1, {"warmup_s": 0.02, "duration_s": 100, "max_runs": 30}, 20, 30),  # most runs end before it
        (1, {"warmup_s": 0.02, "duration_s": 0.2, "min_runs": 1}, 20, 200),
        (2000, {"duration_s": 1}, 5, 15),  # slow: 10 s of warm-up, 30 s of timed runs
        (60_000, {"duration_s": 1}, 1, 3),  # very slow: the least that there is
        (2000, {"duration_s": 60}, 5, 30),  # who asks for more than 30 s gets it, and no more for min_runs
    ],
)
def test_numbers_of_runs(
    file: str, fake: type[FakeSession], clock: Clock, run_ms: float, options: dict[str, Any], warmup: int, timed: int
) -> None:
    fake.on_run = staticmethod(lambda number: advance(clock, run_ms))
    found = measure(file, engine="fake", idle_gaps=0, meter="none", **options)
    assert (found["warmup_runs"], len(found["latencies_ns"])) == (warmup, timed)
    assert set(found["latencies_ns"]) == {round(run_ms * MS)}


def test_after_idle_gaps(file: str, fake: type[FakeSession], clock: Clock) -> None:
    """Runs take 2 ms, and 9 ms more when nothing ran for 50 ms: those after a gap are told apart from the steady ones."""
    last = [0]

    def run(number: int) -> None:
        slept = clock.now - last[0] >= 50 * MS
        advance(clock, 11 if slept and number > 1 else 2)
        last[0] = clock.now

    fake.on_run = staticmethod(run)
    found = measure(file, engine="fake", warmup_s=0, duration_s=0.1, idle_gaps=7, gap_ms=60, meter="none")
    assert found["after_idle_ns"] == {"gap_ms": 60, "latencies_ns": [11 * MS] * 7}
    assert set(found["latencies_ns"]) == {2 * MS}
    assert measure(file, engine="fake", **QUICK)["after_idle_ns"]["latencies_ns"] == []


def test_idle_gaps_of_a_slow_model_end(file: str, fake: type[FakeSession], clock: Clock) -> None:
    fake.on_run = staticmethod(lambda number: advance(clock, 9_900))
    found = measure(file, engine="fake", warmup_s=0, duration_s=1, idle_gaps=20, gap_ms=100, meter="none")
    assert len(found["after_idle_ns"]["latencies_ns"]) == 3


def test_feeds(file: str, fake: type[FakeSession]) -> None:
    """Values that each kind of input takes, made once and fed to every run."""
    fake.specs = (
        TensorSpec("real", (None, 50), "float32"),
        TensorSpec("half", (1, 50), "float16"),
        TensorSpec("stored", (1, 2000), "int8", 0.5, 3),
        TensorSpec("bytes", (1, 2000), "uint8", 0.5, 128),
        TensorSpec("tokens", (1, 50), "int32"),
        TensorSpec("mask", (1, 50), "bool"),
        TensorSpec("scalar", (), "float32"),
    )
    found = measure(file, engine="fake", **QUICK)
    first = fake.fed[0]
    assert {name: (value.shape, value.dtype.name) for name, value in first.items()} == {
        "real": ((1, 50), "float32"),
        "half": ((1, 50), "float16"),
        "stored": ((1, 2000), "int8"),
        "bytes": ((1, 2000), "uint8"),
        "tokens": ((1, 50), "int32"),
        "mask": ((1, 50), "bool"),
        "scalar": ((), "float32"),
    }
    assert (first["real"] < 0).any()
    assert 0.5 < first["real"].std() < 2
    assert (first["stored"].min(), first["stored"].max()) == (-128, 127)
    assert (first["bytes"].min(), first["bytes"].max()) == (0, 255)
    assert set(first["tokens"].ravel()) == {0, 1}
    assert all(all(later[name] is value for name, value in first.items()) for later in fake.fed)
    assert found["batch"] == 1, "the scalar has no batch"
    again = measure(file, engine="fake", **QUICK)
    assert again["inputs"] == found["inputs"]
    assert all((fake.fed[0][name] == value).all() for name, value in first.items())
    measure(file, engine="fake", **QUICK, seed=1)
    assert (fake.fed[0]["real"] != first["real"]).any()


def test_no_garbage_is_collected_meanwhile(file: str, fake: type[FakeSession]) -> None:
    seen = []
    fake.on_run = staticmethod(lambda number: seen.append(gc.isenabled()))
    measure(file, engine="fake", **QUICK)
    assert not any(seen)
    assert gc.isenabled()
    gc.disable()
    try:
        measure(file, engine="fake", **QUICK)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_memory(file: str, fake: type[FakeSession]) -> None:
    """What the load allocates and frees again is in the peak, what came before it is not."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux only")
    size = 96 << 20
    before = np.ones(size, np.uint8)
    del before
    fake.on_load = staticmethod(lambda: np.ones(size, np.uint8).sum())
    rss = measure(file, engine="fake", **QUICK)["rss"]
    assert rss["why_absent"] == ""
    assert rss["peak_bytes"] >= rss["loaded_bytes"] > 0
    assert rss["peak_bytes"] - rss["before_bytes"] >= 0.9 * size
    fake.on_load = staticmethod(lambda: None)
    rss = measure(file, engine="fake", **QUICK)["rss"]
    if rss["peak_since"] == "load":
        assert rss["peak_bytes"] - rss["before_bytes"] < 0.5 * size


def test_no_proc(file: str, fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where only the peak is told, and as on Windows, where nothing is."""

    def gone(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(memory, "Path", lambda _: SimpleNamespace(read_text=gone, write_text=gone))
    rss = measure(file, engine="fake", **QUICK)["rss"]
    assert rss["peak_bytes"] > 1 << 20
    assert rss["peak_since"] == "start"
    assert (rss["before_bytes"], rss["loaded_bytes"]) == (None, None)
    assert "resident memory" in rss["why_absent"]
    monkeypatch.setitem(sys.modules, "resource", None)
    rss = measure(file, engine="fake", **QUICK)["rss"]
    assert rss["peak_bytes"] is None
    assert "resident memory" in rss["why_absent"]


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (3, 3), (None, 1)])
def test_batch(batch: int | None, expected: int, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    assert measure(str(plus_one_tflite(tmp_path / "m.tflite", batch=batch)), **QUICK)["batch"] == expected


def test_no_batch_axis(file: str, fake: type[FakeSession], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    assert measure(str(two_by_two_tflite(tmp_path / "m.tflite")), **QUICK)["batch"] == 1
    fake.specs = (TensorSpec("window", (100, 6), "float32"), TensorSpec("state", (8,), "float32"))
    assert measure(file, engine="fake", **QUICK)["batch"] == 1


def test_a_refused_file_is_one_error(file: str, fake: type[FakeSession], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(EngineError, match="litert cannot load"):
        measure(file, **QUICK)
    with pytest.raises(EngineError, match="there is no model"):
        measure(str(tmp_path / "gone.tflite"), **QUICK)
    with pytest.raises(PluginError, match="there is no engine 'tpu'"):
        measure(file, engine="tpu", **QUICK)

    def fail(number: int) -> None:
        raise ValueError("out of paper")

    fake.on_run = staticmethod(fail)
    plain = builtins.__import__
    with pytest.raises(EngineError, match="out of paper"):
        measure(file, engine="fake", **QUICK)
    assert builtins.__import__ is plain
    assert gc.isenabled()


@pytest.mark.parametrize(
    "options",
    [
        {"duration_s": 0},
        {"duration_s": float("nan")},
        {"duration_s": float("inf")},
        {"warmup_s": -1},
        {"min_runs": 0},
        {"max_runs": 2},
        {"threads": 0},
        {"idle_gaps": -1},
        {"gap_ms": float("nan")},
        {"energy_s": 0},
        {"baseline_s": -1},
    ],
)
def test_settings_that_measure_nothing(options: dict[str, Any], file: str, fake: type[FakeSession]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        measure(file, engine="fake", **options)
    assert caught.value.hint


def test_clock() -> None:
    assert 0 < latency._clock_ns() <= 10**6


def test_clocks_and_heat(file: str, fake: type[FakeSession], tmp_path: Path) -> None:
    """Read below the root that is given, before the warm-up and right after the timed inferences."""
    zone, policy = tmp_path / "sys/class/thermal/thermal_zone0", tmp_path / "sys/devices/system/cpu/cpufreq/policy0"
    count = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    for path, text in (
        (zone / "type", "soc"),
        (zone / "temp", "40000"),
        (policy / "scaling_governor", "performance"),
        (count, "4"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fake.on_run = staticmethod(
        lambda number: ((zone / "temp").write_text("71000"), count.write_text("6")) if number == 8 else None
    )
    found = measure(file, engine="fake", **QUICK, meter_root=str(tmp_path))["conditions"]
    assert found["before"]["temperature_c"] == {"thermal_zone0 soc": 40.0}
    assert found["after"]["temperature_c"] == {"thermal_zone0 soc": 71.0}
    assert found["after"]["governor"] == {"policy0": "performance"}
    assert (found["throttled"], found["why"]) == (True, "2 throttle events of a core")


def test_placement_profile_and_arena(tmp_path: Path) -> None:
    """What the engine tells of itself is in the record, and only the reason where it does not."""
    pytest.importorskip("openvino")
    path = plus_one_openvino(tmp_path / "m.xml")
    found = measure(str(path), **QUICK, profile=True)
    assert found["placement"]["count"] >= 1
    assert found["profile"]["runs"] >= 10
    assert "Add" in {op["op"] for op in found["profile"]["ops"]}
    assert (found["arena_bytes"] is None) == bool(found["arena_why_absent"])
    plain = measure(str(path), **QUICK)
    assert plain["profile"] == {"why_absent": "no profile was asked for (--profile)"}


def test_an_engine_that_tells_nothing(file: str, fake: type[FakeSession]) -> None:
    found = measure(file, engine="fake", **QUICK, profile=True)
    assert found["arena_bytes"] is None
    assert found["arena_why_absent"]
    assert list(found["placement"]) == list(found["profile"]) == ["why_absent"]


def test_energy(file: str, fake: type[FakeSession], tmp_path: Path) -> None:
    """No meter: the reason. A meter that somebody else reads: when what ran."""
    fake.on_run = staticmethod(lambda number: time.sleep(0.001))
    options = {**QUICK, "meter_root": str(tmp_path), "energy_s": 0.1, "baseline_s": 0.1}
    absent = measure(file, engine="fake", **{**options, "meter": "auto"})["energy"]
    assert "no power meter" in absent["why_absent"]
    assert "rapl" in absent["why_absent"]
    found = measure(file, engine="fake", **{**options, "meter": "external"})["energy"]
    assert [len(found["windows"]), len(found["baselines"]), found["marker"]] == [5, 2, None]
    assert all(20 * MS * 0.9 <= end - begin and count >= 3 for begin, end, count in found["windows"])
    with pytest.raises(PluginError, match="there is no meter 'watt'"):
        measure(file, engine="fake", **{**options, "meter": "watt"})


# ---- python -m edgewright.benchmarks -----------------------------------------------------------------------------------

BLOCKED = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
allowed = set(sys.stdlib_module_names) | {"numpy", "ai_edge_litert", "edgewright", "__mp_main__"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Block())
sys.argv = ["bench", "bench", sys.argv[2], "--threads", "2", "--duration", "0.01", "--exact", "--json",
            "--idle-gaps", "4", "--gap-ms", "1", "--profile",
            "--meter-root", sys.argv[3], "--max-runs", "300", "--warmup", "0", "--seed", "5"]
try:
    runpy.run_module("edgewright.benchmarks", run_name="__main__")
except SystemExit as ending:
    code = ending.code
heavy = set("tensorflow keras tf_keras torch onnx nncf openvino onnxruntime typer rich pydantic scipy sklearn".split())
sys.stderr.write(f"loaded {sorted(heavy & {name.partition('.')[0] for name in sys.modules})}, code {code}")
"""


def test_numpy_and_one_engine_are_enough(tmp_path: Path) -> None:
    """What a board does: everything else is blocked in this process."""
    pytest.importorskip("ai_edge_litert")
    path = plus_one_tflite(tmp_path / "m.tflite")
    argv = [sys.executable, "-c", BLOCKED, str(ROOT), str(path), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.endswith("loaded [], code 0"), done.stderr
    found = json.loads(done.stdout)
    assert found["engine"] == "litert"
    assert (found["threads"], found["exact"], found["settings"]["duration_s"]) == (2, True, 0.01)
    assert found["import_ns"] > 0, "this process had not imported the engine before"
    assert 50 <= len(found["latencies_ns"]) <= 300
    assert (found["settings"]["seed"], found["settings"]["warmup_s"], found["warmup_runs"]) == (5, 0.0, 5)
    assert found["after_idle_ns"]["gap_ms"] == 1
    assert len(found["after_idle_ns"]["latencies_ns"]) == 4
    assert found["energy"]["why_absent"].startswith("no power meter on this machine (looked for ")
    assert found["placement"]["count"] >= 1
    assert "ops" in found["profile"] or "LiteRT" in found["profile"]["why_absent"]
    assert found["rss"]["peak_bytes"] is None or found["rss"]["peak_bytes"] >= found["rss"]["loaded_bytes"]


def test_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ai_edge_litert")
    path = plus_one_tflite(tmp_path / "m.tflite")
    argv = [
        "bench",
        str(path),
        "--duration",
        "0.01",
        "--engine",
        "litert",
        "--meter",
        "none",
        "--idle-gaps",
        "2",
        "--gap-ms",
        "1",
    ]
    assert main(argv) == 0
    lines = [line.partition(": ") for line in capsys.readouterr().out.splitlines()]
    names = ["engine", "import", "load", "first inference", "latency", "after idle", "peak memory", "arena", "energy"]
    assert [name for name, _, _ in lines] == names
    assert lines[-1][2] == "not measured: no meter was asked for (--meter none)"


def test_energy_of_a_counter_that_runs(file: str, fake: type[FakeSession], tmp_path: Path) -> None:
    """2 W always and 4 mJ more for each inference, counted in a RAPL zone: that is what the record gives back."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("262143328850")
    runs, done = [0], threading.Event()

    def run(number: int) -> None:
        time.sleep(0.001)
        runs[0] += 1

    def count() -> None:
        started = time.monotonic()
        while True:
            (tmp_path / "next").write_text(str(int(2e6 * (time.monotonic() - started)) + 4000 * runs[0]))
            (tmp_path / "next").replace(zone / "energy_uj")
            if done.wait(0.0005):
                return

    counter = threading.Thread(target=count)
    counter.start()
    fake.on_run = staticmethod(run)
    try:
        while not (zone / "energy_uj").exists():
            time.sleep(0.001)
        options = {**QUICK, "meter": "rapl", "meter_root": str(tmp_path), "energy_s": 1.0, "baseline_s": 0.5}
        found = measure(file, engine="fake", **options)["energy"]
    finally:
        done.set()
        counter.join()
    assert "why_absent" not in found, found
    assert (found["meter"], found["scope"], found["origin"]) == ("rapl", "package-0", "measured")
    assert found["baseline_watts"] == pytest.approx(2, rel=0.1)
    assert found["mj_per_inference"] == pytest.approx(4, rel=0.1)
    assert found["low"] < found["mj_per_inference"] < found["high"]


def test_meters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every meter is listed, with the reason where it cannot be read; a recorded RAPL zone can."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    assert main(["meters", "--json", "--meter-root", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    meters = {meter["name"]: meter for meter in found["meters"]}
    assert list(meters) == METERS.names()
    assert meters["rapl"] == {"name": "rapl", "available": True, "why": "", "external": False}
    assert not meters["ina3221"]["available"]
    assert "ina3221" in meters["ina3221"]["why"]
    assert meters["trace"]["external"]
    assert main(["meters", "--meter-root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rapl: can be read" in lines
    assert "trace: can be read when its file or port is named" in lines


def test_errors_have_a_hint_and_no_traceback(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "edgewright.benchmarks", "bench", str(tmp_path / "gone.tflite"), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (EdgewrightError.exit_code, "")
    assert done.stderr.splitlines() == [f"error: there is no model at {tmp_path / 'gone.tflite'}", "hint: check the path"]
