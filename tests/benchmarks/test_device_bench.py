"""Benchmarks on boards that answer: the record, who holds the board, what breaks, clock governors, instruments beside it."""

import contextlib
import dataclasses
import getpass
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tty
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import file_sha256
from edgewright.benchmarks import device_bench as module
from edgewright.benchmarks.bench import BenchTarget
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.benchmarks.device_bench import bench_on, measure_again
from edgewright.benchmarks.energy import external_energy
from edgewright.benchmarks.rerun import rerun
from edgewright.devices.device import open_device
from edgewright.errors import DeviceBusyError, DeviceError, EdgewrightError, UsageError
from edgewright.report import find_metric
from edgewright.runtime import open_session
from edgewright.runtime.machine import fingerprint
from edgewright.testing_models import plus_one_openvino, plus_one_tflite, two_by_two_tflite
from edgewright.worker import Limits
from tests.runtime import placed_models

pytest_plugins = ("boards_here",)
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of asyncssh, as in tests/devices

QUICK = BenchSettings(duration_s=0.05, repeats=1, idle_gaps=1, gap_ms=1.0, meter="none")
LONG = dataclasses.replace(QUICK, idle_gaps=3, gap_ms=30_000.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("ai_edge_litert")
    return plus_one_tflite(tmp_path_factory.mktemp("model") / "plus_one.tflite")


@pytest.fixture(params=["local", "ssh", "adb"])
def board(request):
    return request.getfixturevalue(f"{request.param}_board")


@pytest.fixture
def pi(ssh_board):
    """The "Pi 4": the real sshd, whose Python is arm64's; and wheels for it."""
    from arm_root import ArmRootMissing, arm_root

    try:
        root = arm_root()
    except ArmRootMissing as error:
        pytest.skip(str(error))
    board = dataclasses.replace(ssh_board, name="pi4", architecture="aarch64", python=str(root.python), engines=("litert",))
    return board, root.wheels


def left_on(board):
    """What a bench left in the board's temporary folder."""
    with open_device(board, what="looking") as device:
        return list(Path(device.folder, "tmp").glob("*"))


def running(text):
    """Processes of this machine whose command line holds a text, by id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in words:
                found[int(entry.name)] = words
    return found


def wait_for(what, seconds=60):
    """The first answer that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come")


# ---- the report --------------------------------------------------------------------------------------------------------


def test_report_of_a_board(board, tmp_path):
    """The same worker on every transport: several thread counts, ops with their times and places, nothing left there."""
    path = placed_models.heavy(tmp_path / "heavy.tflite")
    told = []
    target = BenchTarget(path, threads=(1, 2))
    [report] = bench_on(
        board, [target], dataclasses.replace(QUICK, profile=True), progress=lambda share, text: told.append((share, text))
    )
    device = report.settings["device"]
    assert [device[key] for key in ("name", "title", "transport", "address")] == [
        *(board.name, board.title, board.transport, board.address)
    ]
    assert device["runtime"] and report.settings["meter"] == "none"
    assert report.model["sha256"] == file_sha256(path) and report.model["engine"] == "litert"
    assert report.settings["fingerprint"] == fingerprint()
    with open_session(path) as session:
        placed = session.placement().ops
    for count in (1, 2):
        p50 = find_metric(report.metrics, "latency_p50", f"threads={count}")
        assert p50.value > 0 and p50.samples >= 3
        details = report.details[f"threads={count}"]
        [process] = details["processes"]
        assert process["pid"] != os.getpid() and process["p90_ms"] >= process["p50_ms"] > 0
        assert [(op["name"], op["device"]) for op in details["placement"]["ops"]] == [(op.name, op.device) for op in placed]
        assert {op["op"] for op in details["profile"]["ops"]} == {op.op for op in placed if op.macs}
        assert set(details["conditions"][0]["before"]) >= {"governor", "frequency_hz", "temperature_c"}
    assert left_on(board) == []
    assert any("pushing heavy.tflite, 100%" in text for _, text in told)
    assert (0.5, "heavy.tflite, process 1 of 1") in told


def test_openvino_takes_its_weights_along(ssh_board, tmp_path):
    pytest.importorskip("openvino")
    path = plus_one_openvino(tmp_path / "plus.xml")
    [report] = bench_on(ssh_board, [BenchTarget(path)], QUICK)
    assert report.model["engine"] == "openvino" and report.model["library"].startswith("openvino")
    assert find_metric(report.metrics, "raw_bytes").value == sum(file.stat().st_size for file in tmp_path.glob("plus.*"))
    assert left_on(ssh_board) == []


def test_several_files_take_turns(local_board, model, tmp_path):
    other = tmp_path / "sub" / model.name  # of the same name
    other.parent.mkdir()
    plus_one_tflite(other)
    reports = bench_on(local_board, [BenchTarget(model), BenchTarget(other)], dataclasses.replace(QUICK, repeats=2))
    orders = [[process["order"] for process in report.details["processes"]] for report in reports]
    assert orders == [[0, 2], [1, 3]]
    assert [report.model["path"] for report in reports] == [str(model), str(other)]


@pytest.mark.slow
def test_report_of_an_arm64_board(pi, tmp_path):
    board, wheels = pi
    path = two_by_two_tflite(tmp_path / "two.tflite")
    with pytest.raises(DeviceError, match=r"pi4 has no NumPy"):
        bench_on(board, [BenchTarget(path)], QUICK)
    [report] = bench_on(board, [BenchTarget(path, threads=(1, 2))], dataclasses.replace(QUICK, profile=True), wheels=wheels)
    machine, device = report.settings["machine"], report.settings["device"]
    assert machine["architecture"] == "aarch64" and report.settings["fingerprint"] != fingerprint()
    assert (device["name"], device["transport"]) == ("pi4", "ssh") and device["packages"]
    assert report.settings["python"].startswith("3.11.")
    for count in (1, 2):
        assert find_metric(report.metrics, "latency_p50", f"threads={count}").value > 0
        details = report.details[f"threads={count}"]
        assert details["placement"]["count"] == len(details["placement"]["ops"]) > 0
        assert details["placement"]["delegate"]["macs_share"] == 1.0
        assert details["profile"]["ops"]
    assert left_on(board) == []


# ---- two at once -------------------------------------------------------------------------------------------------------


@pytest.fixture
def first(ssh_board, model):
    """A bench that has the board and goes on when it is let; what it gave or what went wrong comes out of `join`."""
    has_it, go_on, result = threading.Event(), threading.Event(), []

    def tell(share, text):
        if "process 1" in text:
            has_it.set()
            go_on.wait(120)

    def work():
        try:
            result.extend(bench_on(ssh_board, [BenchTarget(model)], QUICK, progress=tell))
        except BaseException as error:
            result.append(error)
        finally:
            has_it.set()

    def join():
        go_on.set()
        thread.join(120)
        return result[0]

    thread = threading.Thread(target=work)
    thread.start()
    assert has_it.wait(120) and not result
    yield go_on, join
    join()


def test_second_bench_is_refused_by_name(first, ssh_board, model):
    _, join = first
    with pytest.raises(DeviceBusyError) as caught:
        bench_on(ssh_board, [BenchTarget(model)], QUICK)
    for part in (ssh_board.name, getpass.getuser(), socket.gethostname(), f"process {os.getpid()}", "bench of plus_one.tflite"):
        assert part in caught.value.message
    assert "--wait" in caught.value.hint
    assert join().kind == "bench"


def test_second_bench_waits_for_the_first(first, ssh_board, model):
    go_on, join = first
    told = []

    def tell(share, text):
        told.append(text)
        if "bench of plus_one.tflite: waiting up to" in text:
            go_on.set()

    [second] = bench_on(ssh_board, [BenchTarget(model)], QUICK, wait_s=120, progress=tell)
    assert go_on.is_set() and "waiting up to 120 s" in told[0]
    assert second.kind == join().kind == "bench"


# ---- what breaks -------------------------------------------------------------------------------------------------------


def test_board_that_goes_away(new_sshd, tmp_path, model, tree):
    server = new_sshd()
    board = fast(server.board(str(tmp_path / "board")))
    mine = f"edgewright.benchmarks bench {tmp_path}"

    def cut():
        wait_for(lambda: running(mine))
        server.stop()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(DeviceError) as caught:
        bench_on(board, [BenchTarget(model)], dataclasses.replace(LONG, meter_root=tree))
    cutter.join()
    wait_for(lambda: governors(tree) == ["schedutil", "ondemand"], seconds=20)  # the board does it itself
    wait_for(lambda: not running(mine), seconds=20)
    assert board.name in caught.value.message and server.address in caught.value.message


def test_model_that_the_boards_engine_refuses(board, tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(plus_one_tflite(tmp_path / "m.tflite").read_bytes()[:200])
    with pytest.raises(EdgewrightError) as here:
        open_session(broken)
    with pytest.raises(DeviceError) as there:
        bench_on(board, [BenchTarget(broken)], QUICK)
    own = here.value.message.replace(str(broken), "")
    assert there.value.message.startswith(f"{board.name}: ")
    assert all(word in there.value.message for word in own.split())
    assert left_on(board) == []


def test_bench_that_takes_too_long_is_ended_there(board, model):
    with pytest.raises(DeviceError, match=rf"{board.name}.* 4 s") as caught:
        bench_on(board, [BenchTarget(model)], dataclasses.replace(LONG, limits=Limits(4)))
    assert caught.value.hint
    with open_device(board, what="looking") as device:
        folder = device.folder
    wait_for(lambda: not running(f"edgewright.benchmarks bench {folder}"))
    assert left_on(board) == []


def test_mistakes_show_before_the_board_is_reached(local_board, model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_device", None)
    with pytest.raises(UsageError, match="there is no meter 'nothing'") as caught:
        bench_on(local_board, [BenchTarget(model)], dataclasses.replace(QUICK, meter="nothing"))
    assert "rapl" in caught.value.hint
    with pytest.raises(UsageError, match="the meter trace needs a file"):
        bench_on(local_board, [BenchTarget(model)], dataclasses.replace(QUICK, meter="trace"))
    with pytest.raises(UsageError, match="no model file"):
        bench_on(local_board, [BenchTarget(tmp_path / "none.tflite")], QUICK)


# ---- the clock governor ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree():
    """The root of a recorded sysfs: two clock policies with governors of their own, in a folder that every user reaches."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        for number, was in ((0, "schedutil"), (4, "ondemand")):
            file = policy(root, number)
            file.parent.mkdir(parents=True)
            file.write_text(f"{was}\n")
        yield root


def policy(root, number):
    return Path(root, "sys/devices/system/cpu/cpufreq", f"policy{number}", "scaling_governor")


def governors(root):
    return [policy(root, number).read_text().strip() for number in (0, 4)]


def fast(board):
    """The board, with a profile that wants a governor."""
    return dataclasses.replace(board, governor="performance")


def test_governor_is_set_and_set_back(local_board, model, tree):
    seen = []
    quick = dataclasses.replace(QUICK, meter_root=tree)
    [report] = bench_on(fast(local_board), [BenchTarget(model)], quick, progress=lambda share, text: seen.append(governors(tree)))
    assert seen[-1] == ["performance", "performance"]
    assert governors(tree) == ["schedutil", "ondemand"]
    assert report.details["conditions"][0]["before"]["governor"] == dict.fromkeys(("policy0", "policy4"), "performance")
    assert not [text for text in report.warnings if "could not be set" in text]


def test_governor_is_set_back_when_the_bench_fails(local_board, model, tree):
    seen = []

    def fail(share, text):
        seen.append(governors(tree))
        if "process 1" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_on(fast(local_board), [BenchTarget(model)], dataclasses.replace(QUICK, meter_root=tree), progress=fail)
    assert seen[-1] == ["performance", "performance"]
    assert governors(tree) == ["schedutil", "ondemand"]


BENCH = """
import json, sys
from edgewright.benchmarks.bench import BenchTarget
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.benchmarks.device_bench import bench_on
from edgewright.devices.boards import Board
settings = BenchSettings(duration_s=0.05, repeats=1, idle_gaps=3, gap_ms=30_000.0, meter="none", meter_root=sys.argv[3])
bench_on(Board(**json.loads(sys.argv[1])), [BenchTarget(sys.argv[2])], settings)
"""


def test_board_sets_the_governor_back_and_ends_its_part_when_the_bench_is_killed(board, model, tree):
    with open_device(board, what="looking") as device:
        mine = f"edgewright.benchmarks bench {device.folder}"
    plain = json.dumps({**dataclasses.asdict(fast(board)), "file": None})
    with subprocess.Popen([sys.executable, "-c", BENCH, plain, str(model), tree]) as process:
        try:
            wait_for(lambda: running(mine) or process.poll() is not None)
            assert process.poll() is None and governors(tree) == ["performance", "performance"]
            process.kill()
            wait_for(lambda: governors(tree) == ["schedutil", "ondemand"], seconds=20)
            wait_for(lambda: not running(mine), seconds=20)  # it would take its time from the next run there
        finally:
            process.kill()
            for pid in running(mine):
                os.kill(pid, signal.SIGKILL)
    with open_device(board, what="looking", wait_s=30) as device:
        assert not Path(device.folder, "governors.json").exists()


def test_governor_that_one_may_not_set(local_board, tree):
    """The second is for another user only; the first one is set and set back all the same."""
    python, folder = sys.executable, Path(tree, "board")
    folder.mkdir()
    if os.getuid() == 0:
        python = f"setpriv --reuid 65534 --regid 65534 --clear-groups {python}"
        policy(tree, 0).chmod(0o666)
        folder.chmod(0o777)
    else:
        policy(tree, 4).chmod(0o444)
    board = dataclasses.replace(fast(local_board), python=python, folder=str(folder))
    with open_device(board, what="x") as device, device.governed(tree) as said:
        seen = governors(tree)
    assert seen == ["performance", "ondemand"]
    assert said == (
        f"the clock governor of {board.name} is ondemand, schedutil and not performance, and could not be set "
        f"({policy(tree, 4)}: Permission denied)"
    )
    assert governors(tree) == ["schedutil", "ondemand"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens for writing and refuses what is written")
def test_governor_that_the_driver_does_not_know_is_told(local_board, model, tree):
    """sysfs takes the name on closing the file: an error that only shows there must not be lost."""
    if os.getuid():
        pytest.skip("takes root to open such a file for writing")
    policy(tree, 4).unlink()
    policy(tree, 4).symlink_to("/proc/version")
    [report] = bench_on(fast(local_board), [BenchTarget(model)], dataclasses.replace(QUICK, meter_root=tree))
    assert [text for text in report.warnings if f"could not be set ({policy(tree, 4)}: " in text]


def test_board_without_governors(local_board, model, tmp_path):
    [report] = bench_on(fast(local_board), [BenchTarget(model)], dataclasses.replace(QUICK, meter_root=str(tmp_path)))
    told = f"could not be set to performance: the board has no cpufreq policy below {tmp_path}/sys"
    assert [text for text in report.warnings if told in text]


# ---- an instrument beside the board ------------------------------------------------------------------------------------

RECORDER = """
import os, sys, time
mine, out = sys.argv[1:]
def bench():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = open(f"/proc/{name}/cmdline").read().replace("\\0", " ")
                if "python" in words.split(" ")[0] and mine in words and int(name) != os.getpid():
                    return f"/proc/{name}/schedstat"
            except OSError:
                pass
def used_s():
    global task
    try:
        return int(open(task).read().split()[0]) / 1e9
    except (OSError, TypeError, IndexError):
        task = None
task, cpu, looked = None, None, 0.0
with open(out, "w") as file, open(out + ".truth", "w") as truth:
    file.write("t_s,watts\\n")
    joules, last = 0.0, time.monotonic()
    while True:
        file.flush()
        truth.flush()
        time.sleep(max(0.0, last + 0.01 - time.monotonic()))
        if task is None and last > looked + 0.1:
            task, looked = bench(), last
        now, then = time.monotonic(), used_s()
        spent = 0.0 if None in (then, cpu) else then - cpu
        watts = 2.0 + 3.0 * spent / (now - last)
        joules += watts * (now - last)
        file.write(f"{1000 + 1.0003 * (last + now) / 2:.9f},{watts:.9f}\\n")
        truth.write(f"{now:.9f} {joules:.9f}\\n")
        last, cpu = now, then
"""
"""An instrument of another process with a clock of its own: 2 W, and 3 W more per second of the bench's processor time; the
true energy until each moment of this machine's clock goes into a file beside."""


@pytest.fixture
def instrument(tmp_path):
    """Starts an instrument of a program's load, gives the file that it writes."""
    started = []

    def start(program, mine):
        out = tmp_path / "power.csv"
        started.append(subprocess.Popen([sys.executable, "-c", program, mine, str(out)]))
        wait_for(lambda: out.exists() and out.stat().st_size > 100)
        return out

    yield start
    for process in started:
        process.kill()
        process.wait(10)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count processor time in nanoseconds")
def test_energy_by_an_instrument_beside_the_board(ssh_board, instrument, tmp_path, monkeypatch):
    path, records = placed_models.heavy(tmp_path / "heavy.tflite"), []

    def spy(trace, record):
        records.append(record)
        return external_energy(trace, record)

    monkeypatch.setattr(module, "external_energy", spy)
    out = instrument(RECORDER, f"edgewright.benchmarks bench {ssh_board.folder}")
    quick = dataclasses.replace(QUICK, repeats=2, meter=f"trace:{out}?scope=supply", energy_s=3.0, baseline_s=1.0)
    [report] = bench_on(ssh_board, [BenchTarget(path)], quick)
    at, joules = np.loadtxt(f"{out}.truth", unpack=True)
    assert len(report.details["energy"]) == len(records) == 2
    for found, record in zip(report.details["energy"], records, strict=True):
        assert "why_absent" not in found, found
        spans = np.array([[begin, end] for begin, end, _ in record["windows"]]) / 1e9
        net = np.diff(np.interp(spans, at, joules), axis=1).sum() - 2.0 * np.diff(spans, axis=1).sum()
        known = 1e3 * net / sum(count for _, _, count in record["windows"])
        half = (found["high"] - found["low"]) / 2  # of 95 %: twice as wide it misses once in ten thousand
        assert abs(found["mj_per_inference"] - known) <= 2 * half
        assert found["mj_per_inference"] == pytest.approx(known, rel=0.1)
        assert found["alignment"]["method"] == "marker" and 0 < found["alignment_ms"] < 20
        assert (found["scope"], found["origin"]) == ("supply", "measured")
        assert found["baseline_watts"] == pytest.approx(2.0, rel=0.05)
    energy = find_metric(report.metrics, "energy_per_inference")
    assert energy.low < energy.value < energy.high and energy.origin == "measured"
    assert report.settings["meter"] == f"trace:{out}?scope=supply"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count processor time in nanoseconds")
@pytest.mark.slow
def test_energy_by_an_instrument_at_a_port(local_board, instrument, tmp_path, monkeypatch):
    """Each process opens the port anew; what came between two of them is not read."""
    pytest.importorskip("serial")
    path = placed_models.heavy(tmp_path / "heavy.tflite")
    out = instrument(RECORDER, f"edgewright.benchmarks bench {local_board.folder}")
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    stop = threading.Event()

    def forward():
        with out.open() as file:
            file.seek(0, os.SEEK_END)
            while not stop.wait(0.005):
                with contextlib.suppress(BlockingIOError):  # nobody reads
                    os.write(ours, file.read().encode())

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        meter = f"serial:{os.ttyname(theirs)}?columns=t_s,watts"
        quick = dataclasses.replace(QUICK, repeats=2, meter=meter, energy_s=2.0, baseline_s=1.0)
        [report] = bench_on(local_board, [BenchTarget(path)], quick)
    finally:
        stop.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
    for found in report.details["energy"]:
        assert "why_absent" not in found, found
        assert found["meter"] == "serial" and found["alignment"]["method"] == "marker"
        assert found["baseline_watts"] == pytest.approx(2.0, rel=0.05)
        assert found["mj_per_inference"] > 0


STEADY = """
import random, sys, time
with open(sys.argv[2], "w") as file:
    file.write("t_s,watts\\n")
    begin = time.monotonic()
    while True:
        file.write(f"{time.monotonic() - begin:.6f},{random.gauss(5.0, 0.05):.6f}\\n")
        file.flush()
        time.sleep(0.01)
"""
"""An instrument that measures something else."""


def test_instrument_that_does_not_see_the_board(local_board, model, instrument):
    out = instrument(STEADY, "")
    [report] = bench_on(
        local_board, [BenchTarget(model)], dataclasses.replace(QUICK, meter=f"trace:{out}", energy_s=0.5, baseline_s=0.5)
    )
    energy = find_metric(report.metrics, "energy_per_inference")
    assert energy.value is None and "the marker is not clear in the trace" in energy.why_absent
    assert "check that the meter measures this board" in report.details["energy"][0]["hint"]


def test_recording_that_has_ended_is_not_taken_for_this_one(local_board, model, tmp_path):
    """Not even where it holds a marker, as one of a run before does."""
    file = tmp_path / "old.csv"
    file.write_text("t_s,watts\n" + "".join(f"{0.01 * n:.2f},{2 + n % 7}\n" for n in range(5000)))
    [report] = bench_on(
        local_board, [BenchTarget(model)], dataclasses.replace(QUICK, meter=f"trace:{file}", energy_s=0.5, baseline_s=0.5)
    )
    assert "0 readings came while the model was measured" in find_metric(report.metrics, "energy_per_inference").why_absent


def test_instrument_that_is_not_there(local_board, model, tmp_path):
    [report] = bench_on(local_board, [BenchTarget(model)], dataclasses.replace(QUICK, meter=f"trace:{tmp_path}/none.csv"))
    assert f"{tmp_path}/none.csv is not there" in find_metric(report.metrics, "energy_per_inference").why_absent
    assert find_metric(report.metrics, "latency_p50").value > 0


def test_meters_of_the_boards_profile_are_looked_for_first(local_board, model):
    board = dataclasses.replace(local_board, meters=("rapl", "android"))
    [report] = bench_on(board, [BenchTarget(model)], dataclasses.replace(QUICK, meter="auto", energy_s=0.5, baseline_s=0.5))
    energy = report.details["energy"][0]
    if "why_absent" in energy:
        assert energy["why_absent"].index("rapl") < energy["why_absent"].index("android") < energy["why_absent"].index("hwmon")
    else:
        assert energy["meter"] == "rapl"
    assert report.settings["meter"] == "auto"


# ---- measured again ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(local_board, monkeypatch):
    """The board as one of the user's own, whose name is enough."""
    monkeypatch.setattr("edgewright.devices.device.find_board", lambda name: {local_board.name: local_board}[name])
    return local_board.name


def slowed(report):
    """The report as if its file had taken a thousand times as long."""
    data = json.loads(json.dumps(report.to_json()))
    for process in data["details"]["processes"]:
        process["p50_ms"] *= 1000
    return data


def test_reports_of_a_board_are_measured_again_there(own, model, tmp_path):
    from edgewright.benchmarks.gate import parse_limit

    a, b = bench_on(own, [BenchTarget(model), BenchTarget(model)], dataclasses.replace(QUICK, repeats=3))
    limits = {"p50": parse_limit("p50=1000%")}
    found = rerun(a, slowed(b), limits, allow=["throttled"], processes=3, measure=measure_again)
    assert found.verdict == "kept" and found.before.verdict == "regressed"
    assert [change.processes for change in found.changes if change.figure == "p50"] == [(3, 3)]
    again = measure_again([a.to_json(), b.to_json()], ["p50"], 1, None)
    assert [one.settings["device"]["name"] for one in again] == [own, own]
    assert again[0].settings["idle_gaps"] == 0 and again[0].settings["meter"] == "none"


def test_what_cannot_be_measured_again_on_a_board(own, tmp_path):
    path = plus_one_tflite(tmp_path / "m.tflite")
    [report] = bench_on(own, [BenchTarget(path)], QUICK)
    plain = report.to_json()
    here = json.loads(json.dumps(plain))
    del here["settings"]["device"]
    with pytest.raises(UsageError, match="were made on here and this machine, one board"):
        measure_again([plain, here], ["p50"], 1, None)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UsageError, match="has changed since its report"):
        measure_again([plain, plain], ["p50"], 1, None)
    path.unlink()
    with pytest.raises(UsageError, match="it cannot be read"):
        measure_again([plain, plain], ["p50"], 1, None)
