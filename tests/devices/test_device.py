"""The board's lock, the runtime that is brought there as a wheel, and which wheels fit a board."""

import base64
import contextlib
import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging import tags

import edgewright
from edgewright.devices import device as device_module
from edgewright.devices import lock as lock_module
from edgewright.devices.device import open_device
from edgewright.devices.packages import choose_wheels, how_to_get, wheel_fits
from edgewright.devices.programs import packed
from edgewright.devices.wheel import build_wheel
from edgewright.errors import DeviceBusyError, DeviceError
from edgewright.testing_models import plus_one_tflite

HOLDER = """
import dataclasses, sys
from edgewright.devices.boards import find_board
from edgewright.devices.device import open_device
board = dataclasses.replace(find_board("local"), folder=sys.argv[1])
with open_device(board, what="the first run", wait_s=float(sys.argv[2])):
    print("have it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def board(local_board):
    return dataclasses.replace(local_board, name="local")


@pytest.fixture
def holder(board):
    """Starts processes that hold the board; all are ended at the end."""
    started = []

    def start(wait_s=0.0, ready=True):
        words = [sys.executable, "-c", HOLDER, board.folder, str(wait_s)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        if ready:
            assert process.stdout.readline() == "have it\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_second_run_is_refused_with_the_holders_name(board, holder):
    process = holder()
    with pytest.raises(DeviceBusyError) as caught, open_device(board, what="the second run"):
        pass
    for part in ("local", f"process {process.pid}", "the first run", os.uname().nodename):
        assert part in caught.value.message
    assert "--wait" in caught.value.hint


def test_second_run_waits_and_then_has_the_board(board, holder):
    process = holder()
    told = []

    def on_wait(text):
        told.append(text)
        process.communicate("", timeout=20)  # its input ends, and so does it

    with open_device(board, what="the second run", wait_s=30, on_wait=on_wait) as device:
        assert device.survey()["machine"] == os.uname().machine
    assert len(told) == 1
    assert f"process {process.pid}" in told[0]


def test_waiting_ends_with_the_holders_name(board, holder):
    holder()
    with pytest.raises(DeviceBusyError, match=r"the first run, still after 0\.5 s"), open_device(board, what="x", wait_s=0.5):
        pass


def test_killed_holder_lets_go(board, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with open_device(board, what="the second run", wait_s=20) as device:
        assert device.survey()["free_bytes"] > 0


def test_killed_while_waiting_leaves_no_lock_behind(board, holder):
    first = holder()
    second = holder(wait_s=60, ready=False)
    time.sleep(1)
    second.kill()
    second.wait(10)
    first.communicate("", timeout=20)
    with open_device(board, what="the third run", wait_s=20):
        pass


def test_lock_is_let_go_when_nothing_is_heard(tmp_path):
    words = [sys.executable, "-c", packed("hold"), str(tmp_path / "f"), "{}", "0", "0.3"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline()) == {"held": True}
        process.stdin.write(".")
        process.stdin.flush()
        assert "nothing was heard" in json.loads(process.stdout.readline())["lost"]
        assert process.wait(10) == 1


def test_lost_lock_ends_the_run(board, monkeypatch):
    monkeypatch.setattr(lock_module, "BEAT_S", 0.1)
    with open_device(board, what="x") as device:
        device.survey()
        [running] = list(device.transport._running)
        running.kill()
        until = time.monotonic() + 20
        with pytest.raises(DeviceError, match="the lock of local was lost"):
            while time.monotonic() < until:
                device.survey(anew=True)
                time.sleep(0.1)


def test_leftovers_of_a_killed_run_go(board):
    left = Path(board.folder, "tmp", "123-abc")
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"x")
    with open_device(board, what="x") as device:
        assert not left.exists()
        with device.temporary() as folder:
            assert Path(folder).is_dir()
        assert not Path(folder).exists()


def test_board_without_python_is_told_how(board):
    with pytest.raises(DeviceError, match="no-such-python") as caught:
        with open_device(dataclasses.replace(board, python="no-such-python"), what="x"):
            pass
    assert "Python 3.10 or newer" in caught.value.hint


def test_old_python_is_named(board, tmp_path):
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\ncode=$2; shift 2; exec {sys.executable} -c "import sys; sys.version_info=(3,8,1)\n$code" "$@"\n'
    )
    script.chmod(0o755)
    with open_device(dataclasses.replace(board, python=str(script)), what="x") as device:
        with pytest.raises(DeviceError, match=r"the Python of local is 3\.8\.1, 3\.10 is the oldest"):
            device.survey()


# The clock governor, which the process that keeps the lock sets and sets back.


@pytest.fixture
def clock(tmp_path):
    """The governor of one clock, in a recorded sysfs below `tmp_path`."""
    file = tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    file.parent.mkdir(parents=True)
    file.write_text("ondemand\n")
    return file


@contextlib.contextmanager
def governed(board, root):
    """The process that keeps the lock of a board whose clock is governed as its profile wants."""
    with open_device(dataclasses.replace(board, governor="performance"), what="x") as device, device.governed(str(root)) as said:
        assert said == ""
        [running] = list(device.transport._running)
        yield running


def governor_of(clock):
    return clock.read_text().strip()


def test_silence_sets_the_governor_back(tmp_path, clock):
    words = [sys.executable, "-c", packed("hold"), str(tmp_path / "f"), "{}", "0", "2"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline()) == {"held": True}
        process.stdin.write("\n\n" + json.dumps({"governor": "performance", "root": str(tmp_path)}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"was": {str(clock): "ondemand"}, "changed": True, "failed": ""}
        assert governor_of(clock) == "performance"
        assert "nothing was heard" in json.loads(process.stdout.readline())["lost"]
        assert process.wait(10) == 1
    assert governor_of(clock) == "ondemand"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_sets_the_governor_back(board, tmp_path, clock, number):
    with governed(board, tmp_path) as running:
        assert governor_of(clock) == "performance"
        os.kill(running.pid, number)
        running.wait(10)
        assert governor_of(clock) == "ondemand"


def test_next_run_sets_back_what_a_killed_lock_left(board, tmp_path, clock):
    with governed(board, tmp_path) as running:
        running.kill()
    assert governor_of(clock) == "performance"
    with open_device(board, what="the next run"):
        assert governor_of(clock) == "ondemand"
        assert not Path(board.folder, "governors.json").exists()


def test_governor_that_somebody_set_meanwhile_stays(board, tmp_path, clock):
    with governed(board, tmp_path):
        clock.write_text("powersave\n")
    assert governor_of(clock) == "powersave"


def test_governor_of_a_board_that_was_restarted_stays(board, tmp_path, clock):
    with governed(board, tmp_path) as running:
        running.kill()
    record = Path(board.folder, "governors.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "start": "another"}))
    with open_device(board, what="the next run"):
        assert governor_of(clock) == "performance"
        assert not record.exists()


def test_governor_that_cannot_be_set_back_is_told_until_it_can(board, tmp_path, clock, caplog):
    with governed(board, tmp_path) as running:
        running.kill()
    clock.unlink()
    clock.mkdir()
    caplog.clear()
    with open_device(board, what="the next run"):
        pass
    assert f"left the clock governor of local set, and it cannot be set back: {clock}: Is a directory" in caplog.text
    clock.rmdir()
    clock.write_text("performance\n")
    with open_device(board, what="the one after"):
        assert governor_of(clock) == "ondemand"


# The runtime.


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with NumPy and LiteRT and nothing else, and a command that is Python without any other package."""
    folder = tmp_path_factory.mktemp("bare")
    packages = folder / "packages"
    packages.mkdir()
    for name in ("numpy", "ai-edge-litert"):
        tops = {file.parts[0] for file in importlib.metadata.files(name) if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            where = Path(importlib.metadata.distribution(name).locate_file(top))
            (packages / top).symlink_to(where)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{packages}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


def test_probe_selftest_and_bench_run_with_numpy_and_an_engine_alone(board, bare, tmp_path):
    model = plus_one_tflite(tmp_path / "m.tflite")
    with open_device(dataclasses.replace(board, python=str(bare)), what="x") as device:
        site = device.ensure_runtime()
        where = device.python(["-c", "import edgewright; print(edgewright.__file__)"], timeout_s=60).stdout.strip()
        assert where == f"{site}/edgewright/__init__.py"
        assert device.python(["-c", "import typer"], timeout_s=60).code == 1
        assert device.engines() == ["litert"]
        probe = device.json(["-m", "edgewright.runtime", "probe", "--json"], timeout_s=60)
        assert probe["engines"]["litert"] == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
        assert probe["engines"]["openvino"] is None
        words = ["-m", "edgewright.benchmarks", "bench", str(model), "--duration", "0.05", "--json"]
        bench = device.json(words, timeout_s=120)
        assert bench["engine"] == "litert"
        assert len(bench["latencies_ns"]) >= 3
        with pytest.raises(DeviceError, match="there is no model at /nope"):
            device.json(["-m", "edgewright.runtime", "selftest", "/nope"], timeout_s=60)


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 11, 0)])
def test_folder_of_our_name_where_it_starts_is_not_taken_for_ours(board, bare, tmp_path, monkeypatch, version):
    (tmp_path / "edgewright").mkdir()
    (tmp_path / "edgewright" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with open_device(dataclasses.replace(board, python=str(bare)), what="x") as device:
        device.ensure_runtime()
        device.survey()["python"] = list(version)
        monkeypatch.setattr(device, "survey", lambda **_: {"python": list(version)})
        env = {"PYTHONSAFEPATH": ""} if version < (3, 11) else {}
        found = device.json(["-m", "edgewright.runtime", "probe", "--json"], timeout_s=60, env=env)
        assert found["engines"]["litert"]


def test_runtime_is_pushed_once(board, monkeypatch):
    with open_device(board, what="x") as device:
        first = device.ensure_runtime()
    with open_device(board, what="x") as device:
        monkeypatch.setattr(device.transport, "push", None)
        assert device.ensure_runtime() == first
        assert device.survey()["runtime"]["current"] == build_wheel().digest


def test_wheel_is_the_same_in_another_process_and_holds_what_a_board_needs():
    words = "from edgewright.devices.wheel import build_wheel; print(build_wheel().digest)"
    other = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    wheel = build_wheel()
    assert other == wheel.digest
    names = zipfile.ZipFile(io.BytesIO(wheel.data)).namelist()
    assert "edgewright/runtime/engines/litert.py" in names
    assert "edgewright/runtime/dashboard.html" in names
    assert "edgewright/py.typed" in names
    for unwanted in ("converters", "optimizers", "report_files", "devices", "cli.py", "pipeline.py"):
        assert not [name for name in names if unwanted in name.split("/")]


def test_a_stray_file_is_no_part_of_the_wheel():
    stray = Path(edgewright.__file__).with_name("stray.py.orig")
    stray.write_text("left by an editor")
    try:
        assert "edgewright/stray.py.orig" not in zipfile.ZipFile(io.BytesIO(build_wheel.__wrapped__().data)).namelist()
    finally:
        stray.unlink()


def test_record_of_the_wheel_is_right_and_pip_takes_it(tmp_path):
    wheel = build_wheel()
    archive = zipfile.ZipFile(io.BytesIO(wheel.data))
    record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
    rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    assert sorted(row[0] for row in rows) == sorted(archive.namelist())
    for name, digest, size in rows:
        if name != record:
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data))
    file = tmp_path / wheel.name
    file.write_bytes(wheel.data)
    words = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", file]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [found] = importlib.metadata.distributions(path=[str(tmp_path / "site")])
    assert (found.metadata["Name"], found.version) == ("edgewright", importlib.metadata.version("edgewright"))


def test_old_runtimes_go_and_the_last_two_stay(board, monkeypatch):
    wheel = build_wheel()
    for number in range(4):
        renamed = dataclasses.replace(wheel, digest=f"{number:016d}")
        monkeypatch.setattr(device_module, "build_wheel", functools.partial(lambda one: one, renamed))
        with open_device(board, what="x") as device:
            device.ensure_runtime()
            time.sleep(0.05)
    assert sorted(path.name for path in Path(board.folder, "runtime").iterdir()) == [f"{2:016d}", f"{3:016d}", "current"]


def test_too_little_space_is_told_with_both_values(board):
    with open_device(dataclasses.replace(board, flash_bytes=100_000), what="x") as device:
        with pytest.raises(DeviceError, match=r"needs 1\.\d MiB on local, 0\.1 MiB are left of the 0\.1 MiB") as caught:
            device.ensure_runtime()
        assert "flash" in caught.value.hint
    assert not Path(board.folder, "runtime").exists()


def test_board_without_numpy_is_told_how_to_get_it(board, tmp_path):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    with open_device(dataclasses.replace(board, python=str(script)), what="x") as device:
        with pytest.raises(DeviceError, match="has no NumPy") as caught:
            device.ensure_runtime()
        assert "pip download" in caught.value.hint
        assert os.uname().machine in caught.value.hint


# Wheels that fit.

PI = {"python": [3, 11, 2], "machine": "aarch64", "libc": ["glibc", "2.36"]}


@pytest.mark.parametrize("libc", [("glibc", (2, 36)), ("glibc", (2, 17)), ("musl", (1, 2))])
@pytest.mark.parametrize("python", [(3, 10), (3, 13)])
def test_fitting_wheels_are_those_of_packaging(libc, python):
    kind, (major, minor) = libc
    linux = f"{'manylinux' if kind == 'glibc' else 'musllinux'}_{major}_"
    platforms = [f"{linux}{n}_aarch64" for n in range(minor, -1, -1)]
    if kind == "glibc":
        old = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}
        platforms += [f"{name}_aarch64" for name, needs in old.items() if needs <= (major, minor)]
    platforms.append("linux_aarch64")
    wanted = {str(tag) for tag in tags.cpython_tags(python, platforms=platforms)}
    wanted |= {str(tag) for tag in tags.compatible_tags(python, f"cp{python[0]}{python[1]}", platforms)}
    board = {"python": [*python, 0], "machine": "aarch64", "libc": [kind, f"{major}.{minor}"]}
    pythons = [*(f"cp3{n}" for n in range(8, 15)), "cp39", "cp27", "py2", "py3", "py310", "py311", "pp310"]
    abis = ["none", "abi3", *(f"cp3{n}" for n in range(8, 15)), "cp313t"]
    every = ["any", "win_arm64", "linux_x86_64", "linux_aarch64", "manylinux2014_aarch64", "manylinux1_aarch64"]
    every += [
        f"{name}_{n}_{arch}"
        for name in ("manylinux_2", "musllinux_1")
        for n in (1, 2, 17, 27, 37)
        for arch in ("aarch64", "x86_64")
    ]
    checked = 0
    for one in pythons:
        for abi in abis:
            for platform in every:
                tag = f"{one}-{abi}-{platform}"
                assert wheel_fits(f"x-1.0-{tag}.whl", board) == (tag in wanted), tag
                checked += 1
    assert checked > 500


def empty_wheels(folder, *names):
    for name in names:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("x.py", "")
    return folder


def test_newest_fitting_release_of_each_project_is_chosen(tmp_path):
    empty_wheels(
        tmp_path,
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "numpy-2.10.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "numpy-2.11.0-cp312-cp312-manylinux_2_28_aarch64.whl",
        "numpy-2.10.0rc1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "Ai_Edge.litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64.whl",
        "edgewright-9.9-py3-none-any.whl",
    )
    chosen = choose_wheels(tmp_path, PI)
    assert [(one.project, one.version) for one in chosen] == [("ai-edge-litert", "2.3.0"), ("numpy", "2.10.0")]


def test_what_does_not_fit_and_what_does_are_named(tmp_path):
    wrong = "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_x86_64.whl"
    right = "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl"
    empty_wheels(tmp_path, wrong, right)
    with pytest.raises(DeviceError) as caught:
        choose_wheels(tmp_path, PI)
    for part in (wrong, right, "Python 3.11 on aarch64 with glibc 2.36"):
        assert part in caught.value.message
    assert "--python-version 3.11" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_folder_without_wheels_and_broken_wheel(tmp_path, content):
    if content is not None:
        (tmp_path / "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl").write_bytes(content)
    with pytest.raises(DeviceError, match="no wheels lie in" if content is None else "is no whole wheel"):
        choose_wheels(tmp_path, PI)


def test_wheels_are_unpacked_with_their_data_folders(board, tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("thing/__init__.py", "from thing_more import answer")
        archive.writestr("thing-1.0.data/purelib/thing_more.py", "answer = 42")
    with open_device(board, what="x") as device:
        device.ensure_runtime(folder)
        assert device.python(["-c", "import thing; print(thing.answer)"], timeout_s=60).stdout == "42\n"
    with open_device(board, what="x") as device:
        device.ensure_runtime()  # goes on with what was pushed before
        assert device.python(["-c", "import thing; print(thing.answer)"], timeout_s=60).stdout == "42\n"


@pytest.mark.parametrize(("engine", "package"), [("litert", "ai-edge-litert"), ("openvino", "openvino")])
def test_command_that_fetches_wheels_names_the_engine_that_is_missing(engine, package):
    assert how_to_get(PI, engine).endswith(f"-d DIR numpy {package}")
