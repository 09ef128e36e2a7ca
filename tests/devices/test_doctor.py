"""The doctor: every check on this machine, on recorded files, with old and broken Pythons, over SSH, on boards that go away."""

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from arm_root import ArmRootMissing, arm_root
from ssh_server import free_port

from edgewright.devices import checks, doctor
from edgewright.devices.boards import Board, find_board, read_board
from edgewright.devices.device import open_device
from edgewright.devices.doctor import CHECKS, NEEDED, examine, is_ready, probe
from edgewright.devices.transport import TRANSPORTS
from edgewright.devices.transports.local import LocalTransport
from edgewright.errors import DeviceError, UsageError

VITALS = Path(doctor.__file__).with_name("vitals.py")
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
PI5 = replace(read_board("raspberry_pi_5"), name="pi5", address="pi@h")


@pytest.fixture
def home(place, monkeypatch):
    """A home of the test's own, which is the local board's too."""
    found = place / "home"
    found.mkdir()
    monkeypatch.setenv("HOME", str(found))
    return found


@pytest.fixture
def board(home):
    """This machine as a board of the user's own."""
    return replace(find_board("local"), name="here", file=Path("here.toml"))


def by_name(found):
    assert [check.name for check in found] == list(CHECKS)
    assert [check.name for check in found if check.needed] == [name for name in CHECKS if name in NEEDED]
    return {check.name: check for check in found}


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# --- this machine ------------------------------------------------------------------------------------------------------


def test_this_machine_has_what_it_has(board, home):
    found = by_name(examine(board))
    assert is_ready(tuple(found.values()))
    assert found["python"].reason == f"{platform.python_version()}, {sys.executable}"
    assert found["architecture"].reason == platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["memory"].reason.startswith(checks.size_text(memory))
    assert found["numpy"].reason == f"NumPy {importlib.metadata.version('numpy')}"
    for engine, package in (("litert", "ai-edge-litert"), ("openvino", "openvino"), ("onnxruntime", "onnxruntime")):
        assert f"{engine} ({package} {importlib.metadata.version(package)})" in found["engines"].reason
    free = shutil.disk_usage(home).free
    assert found["space"].state == "ok" and found["space"].reason.partition(" free for ")[2].startswith(str(home))
    assert abs(float(found["space"].reason.split()[0]) * 2**30 - free) < 0.05 * free + 2**30
    assert found["clock"] == checks.Check("clock", "ok", "no difference that can be seen")
    zones = list(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    assert (found["temperature"].state == "not checked") == (not zones and not shutil.which("vcgencmd"))
    assert (found["governor"].state == "not checked") == (not list(Path("/sys/devices/system/cpu/cpufreq").glob("policy*")))


def test_it_leaves_nothing_but_its_lock(board, home):
    examine(board)
    assert [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()] == [".edgewright/lock"]


def test_a_board_in_use_is_not_disturbed_and_can_be_waited_for(board):
    began, waited = threading.Event(), []

    def hold():
        with open_device(board, what="bench of a colleague"):
            began.set()
            time.sleep(2)

    other = threading.Thread(target=hold)
    other.start()
    assert began.wait(20)
    found = by_name(examine(board))
    assert found["lock"].state == "missing" and "bench of a colleague" in found["lock"].reason and "--wait" in found["lock"].todo
    for name in ("numpy", "engines", "meters"):
        assert found[name].state == "not checked" and "must not be disturbed" in found[name].reason
    assert found["python"].state == found["architecture"].state == "ok"
    assert not is_ready(tuple(found.values()))
    assert is_ready(examine(board, wait_s=20, on_wait=waited.append))
    other.join()
    assert "bench of a colleague" in waited[0]


# --- Pythons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.6.15", "3.7.16", "3.9.18"])
def test_an_old_python_is_told_by_its_version_and_what_it_knows_is_told_too(board, version):
    python = PYENV / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    found = by_name(examine(replace(board, python=str(python))))
    assert found["python"].state == "missing"
    assert found["python"].reason == f"{python} is Python {version}, 3.10 is the oldest that runs Edgewright"
    assert "edgewright devices edit here --set python=" in found["python"].todo
    assert found["memory"].state == found["space"].state == "ok"
    assert {found[name].state for name in ("lock", "numpy", "engines", "meters")} == {"not checked"}


def test_an_ancient_python(board):
    python = PYENV / "2.7.18" / "bin" / "python"
    if not python.exists():
        pytest.skip("no Python 2.7 here")
    found = by_name(examine(replace(board, python=str(python))))
    assert found["python"].reason == f"{python} is Python 2.7.18, 3.10 is the oldest that runs Edgewright"
    assert found["architecture"].reason == platform.machine(), "uname tells it too"


def test_no_python_at_all(board, home):
    found = by_name(examine(replace(board, python="no-such-python")))
    assert found["python"].state == "missing" and "no-such-python" in found["python"].reason
    assert "sudo apt install python3" in found["python"].todo
    assert found["space"].state == "not checked" and f"free in {home}" in found["space"].reason
    assert not is_ready(tuple(found.values()))
    phone = by_name(examine(replace(board, python="no-such-python", transport="local", name="phone")))
    assert phone["python"].todo
    assert "Android" in checks.no_python(replace(board, transport="adb"), "").todo


def test_a_python_without_numpy_and_engines(board):
    found = by_name(examine(replace(board, python=f"{sys.executable} -S", engines=("litert", "onnxruntime"))))
    assert found["numpy"].state == found["engines"].state == "missing"
    assert found["engines"].reason == "not there: litert, onnxruntime"
    for name in ("numpy", "engines"):
        todo = found[name].todo
        assert "pip download" in todo and f"--python-version {sys.version_info[0]}.{sys.version_info[1]}" in todo
        assert f"_{platform.machine()}" in todo and "edgewright devices probe here --wheels DIR" in todo
    assert found["meters"].state == "not checked" and "our runtime is not on the board yet" in found["meters"].reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('built for another Python')", "RuntimeError: built for another Python"),
        ("import os; os.kill(os.getpid(), 4)", "an illegal instruction: its processor is older than the wheel was made for"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, perhaps for memory"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import no_such_part", "No module named 'no_such_part'"),
        ("__version__ = '1.21.0'", "NumPy 1.21.0, 1.24 is the oldest"),
    ],
)
def test_a_numpy_that_is_there_but_broken(board, place, body, reason):
    (place / "lib").mkdir()
    (place / "lib" / "numpy.py").write_text(body)
    found = by_name(examine(replace(board, python=f"env PYTHONPATH={place / 'lib'} {sys.executable}")))
    assert found["numpy"].state == "missing" and reason in found["numpy"].reason
    assert found["lock"].state == "ok"


def test_an_import_that_hangs_is_given_up_and_the_rest_goes_on(board, place, monkeypatch):
    (place / "lib").mkdir()
    (place / "lib" / "numpy.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(doctor, "IMPORT_S", 3)
    found = by_name(
        examine(replace(board, python=f"env PYTHONPATH={place / 'lib'} {sys.executable} -S", engines=("onnxruntime",)))
    )
    assert found["numpy"].state == "missing" and "3 s" in found["numpy"].reason
    assert found["engines"].reason == "not there: onnxruntime", "the engine's own import was still tried"
    assert found["space"].state == "ok"


def test_an_engine_that_is_broken_beside_one_that_is_not(board, place):
    (place / "lib").mkdir()
    (place / "lib" / "onnxruntime.py").write_text("raise ImportError('libonnx.so: undefined symbol: x')")
    (place / "lib" / "ai_edge_litert.py").write_text("__version__ = '2.3.0'")
    python = f"env PYTHONPATH={place / 'lib'} {sys.executable} -S"
    found = by_name(examine(replace(board, python=python, engines=("onnxruntime", "litert"))))
    assert found["engines"].state == "warning"
    broken = "onnxruntime is there but cannot be imported: ImportError: libonnx.so: undefined symbol: x"
    assert found["engines"].reason == f"litert (ai_edge_litert 2.3.0); {broken}"
    # With our runtime there the same is told, for its probe only says that the engine does not work.
    python = f"env PYTHONPATH={place / 'lib'} {sys.executable}"
    (place / "lib" / "ai_edge_litert.py").unlink()
    found = by_name(examine(replace(board, python=python, engines=("onnxruntime", "litert"))))
    release = importlib.metadata.version("ai-edge-litert")
    assert found["engines"].reason == f"litert (ai-edge-litert {release}); {broken}"


# --- what the board tells ----------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """Recorded files of a Raspberry Pi 5: one cpufreq policy, one zone, a fan, a cooling device that slows down."""
    files = {
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_available_governors": "conservative ondemand performance",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1500000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2400000",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "51550",
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": "3",
        "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "sys/class/thermal/cooling_device1/cur_state": "0",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/meminfo": "MemTotal:        8244960 kB\nMemFree: 1 kB\nMemAvailable:    7000000 kB",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


def vitals(root, folder="/tmp", python=sys.executable, **env):
    request = json.dumps({"folder": str(folder), "root": str(root)})
    done = subprocess.run([python, VITALS, request], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vitals_of_recorded_files(tree):
    facts = vitals(tree)
    assert facts["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["temperature_c"] == {"thermal_zone0 cpu-thermal": 51.55}
    policy = facts["cpufreq"]["policy0"]
    assert policy["frequency_hz"] == {"min": 1_500_000_000, "cur": 1_800_000_000, "max": 2_400_000_000}
    assert (facts["memory_bytes"], facts["available_bytes"]) == (8244960 * 1024, 7000000 * 1024)
    assert facts["throttling"] == {"now": [], "since_start": [], "asked": ["cpufreq-cpu0"]}, "a fan slows nothing down"
    governor = checks.governor(PI5, facts)
    assert (governor.state, governor.reason) == ("warning", "ondemand; its profile wants performance: latencies will vary")
    assert "echo performance | sudo tee" in governor.todo
    assert checks.governor(replace(PI5, governor="ondemand"), facts).state == "ok"
    assert checks.governor(replace(PI5, governor=""), facts) == checks.Check("governor", "ok", "ondemand")
    assert "which its kernel does not have" in checks.governor(replace(PI5, governor="schedutil"), facts).reason
    assert checks.temperature(facts) == checks.Check(
        "temperature", "ok", "52 degrees Celsius (thermal_zone0 cpu-thermal); nothing slows it down (asked: cpufreq-cpu0)"
    )


def test_heat_and_slowing_down_are_told(tree):
    (tree / "sys/class/thermal/thermal_zone0/temp").write_text("79000")
    assert checks.temperature(vitals(tree)).state == "warning"
    (tree / "sys/class/thermal/cooling_device1/cur_state").write_text("2")
    found = checks.temperature(vitals(tree))
    assert found.state == "warning" and "slowed down now: cpufreq-cpu0 in state 2" in found.reason
    counts = tree / "sys/devices/system/cpu/cpu0/thermal_throttle"
    counts.mkdir(parents=True)
    (counts / "core_throttle_count").write_text("7")
    (tree / "sys/class/thermal/thermal_zone0/temp").write_text("40000")
    (tree / "sys/class/thermal/cooling_device1/cur_state").write_text("0")
    found = checks.temperature(vitals(tree))
    assert found.state == "warning" and "up to 7 throttle events" in found.reason


def test_zones_in_whole_degrees_and_zones_that_are_switched_off(tree):
    (tree / "sys/class/thermal/thermal_zone0/temp").write_text("51")
    other = tree / "sys/class/thermal/thermal_zone10"
    other.mkdir()
    (other / "temp").mkdir()  # reading fails, as that of a sensor without power does
    assert vitals(tree)["temperature_c"] == {"thermal_zone0 cpu-thermal": 51.0}


@pytest.mark.parametrize(
    ("bits", "now", "since"),
    [
        ("0x0", [], []),
        ("0x50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("0xe0008", ["at the soft temperature limit"], ["frequency capped", "throttled", "at the soft temperature limit"]),
    ],
)
def test_the_firmware_of_a_raspberry_pi_is_asked(place, bits, now, since):
    script(place / "vcgencmd", f'test "$1" = get_throttled && echo throttled={bits}')
    found = vitals("/", PATH=f"{place}:{os.environ['PATH']}")["throttling"]
    assert [word for word in found["now"] if " in state " not in word] == now
    assert [word for word in found["since_start"] if "events" not in word] == since
    assert "Raspberry Pi firmware" in found["asked"]
    facts = {"temperature_c": {}, "throttling": found}
    assert (checks.temperature(facts).state == "ok") == (bits == "0x0")
    if "under-voltage" in now:
        assert "power supply" in checks.temperature(facts).todo


@pytest.mark.parametrize("version", ["3.6.15", "3.8.18", "3.13.0"])
def test_vitals_run_on_old_and_new_pythons(tree, version):
    python = PYENV / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    facts = vitals(tree, python=str(python), PYTHONPATH="")
    assert facts["python"] == version and facts["temperature_c"] == {"thermal_zone0 cpu-thermal": 51.55}


def test_a_folder_that_cannot_be_used(board, place):
    (place / "file").write_text("")
    found = by_name(examine(replace(board, folder=f"{place}/file/edge")))
    assert found["space"].state == "missing" and f"{place}/file is no folder" in found["space"].reason
    assert "--set folder=/PATH" in found["space"].todo
    assert found["numpy"].state == "not checked" and found["clock"].state == "ok"
    assert not is_ready(tuple(found.values()))


def test_the_space_that_the_folder_may_take(board):
    small = by_name(examine(replace(board, flash_bytes=1000)))["space"]
    assert small.state == "missing" and "may take 1000 bytes; a deploy needs" in small.reason and "limits.flash" in small.todo
    free = shutil.disk_usage(Path.home()).free
    large = by_name(examine(replace(board, flash_bytes=3 * free)))["space"]
    assert large.state == "warning" and "more than there is" in large.reason
    facts = {"folder": {"folder": "/x", "looked_at": "/", "is_folder": True, "writable": True, "read_only": False}}
    facts["folder"]["free_bytes"] = 100 << 20
    assert checks.space(board, facts, 0, 90 << 20).state == "missing", "16 MiB stay free"
    assert checks.space(board, facts, 0, 80 << 20).state == "ok"
    facts["folder"]["read_only"] = True
    assert "is read-only" in checks.space(board, facts, 0, 0).reason


@pytest.mark.parametrize(
    ("profile", "machine", "bits", "state", "reason"),
    [
        ("aarch64", "aarch64", 64, "ok", "aarch64"),
        ("aarch64", "arm64", None, "ok", "aarch64"),
        ("", "riscv64", 64, "ok", "riscv64"),
        ("x86_64", "aarch64", 64, "warning", "the board is aarch64, its profile says x86_64"),
        ("aarch64", "aarch64", 32, "warning", "a 32-bit system on a 64-bit processor"),
        ("armv7l", "aarch64", 32, "ok", "armv7l"),
        ("aarch64", "armv7l", 32, "warning", "the board is armv7l, its profile says aarch64"),
    ],
)
def test_architectures(profile, machine, bits, state, reason):
    found = checks.architecture(replace(PI5, architecture=profile), machine, bits)
    assert found.state == state and found.reason.startswith(reason)


def test_an_architecture_that_the_profile_does_not_name(board):
    found = by_name(examine(replace(board, architecture="armv6l")))["architecture"]
    assert found.state == "warning" and found.todo.endswith(
        f"edgewright devices edit here --set architecture={platform.machine()}"
    )


def test_memory_is_less_than_the_profile_says():
    facts = {"memory_bytes": 3 << 30, "available_bytes": 1 << 30}
    found = checks.memory(replace(PI5, ram_bytes=4 << 30), facts)
    assert (found.state, found.reason) == ("warning", "3 GiB, 1 GiB of it available; its profile says 4 GiB")
    assert checks.memory(replace(PI5, ram_bytes=3_500_000_000), facts).state == "ok", "the system keeps a part"
    assert checks.memory(PI5, {"memory_bytes": None, "available_bytes": None}).state == "not checked"


def test_a_clock_that_is_wrong(board, place):
    (place / "lib").mkdir()
    (place / "lib" / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() - 3600\n")
    found = by_name(examine(replace(board, python=f"env PYTHONPATH={place / 'lib'} {sys.executable}")))["clock"]
    assert found.state == "warning" and found.reason.startswith("3.6e+03 s behind") and "timedatectl" in found.todo
    assert checks.clock(PI5, 3.0, 1.5).state == "ok" and checks.clock(PI5, -3.0, 0.5).state == "warning"


def test_meters_are_told_in_the_order_of_the_profile():
    listed = [
        {"name": "hwmon", "available": True, "why": "", "external": False},
        {"name": "pmic", "available": True, "why": "", "external": False},
        {"name": "rapl", "available": False, "why": "no powercap", "external": False},
        {"name": "serial", "available": True, "why": "", "external": True},
    ]
    assert checks.meters(PI5, listed, "") == checks.Check("meters", "ok", "pmic, hwmon can be read")
    none = [{**one, "available": one["external"], "why": f"no {one['name']}"} for one in listed]
    found = checks.meters(PI5, none, "")
    assert (found.state, found.reason) == ("warning", "no power meter: pmic: no pmic; hwmon: no hwmon")
    unasked = checks.meters(PI5, None, "our runtime is not on the board yet")
    assert unasked.state == "not checked" and "its profile names pmic, hwmon" in unasked.reason


def test_commands_that_are_named_can_be_run(board):
    facts = {"memory_bytes": 1200 << 30, "available_bytes": None}
    larger = {"ram_bytes": 4000 << 30}
    assert checks.memory(replace(board, **larger), facts).todo.endswith(
        "edgewright devices edit here --set 'limits.ram=1200 GiB'"
    )
    copy = "edgewright devices add MY_BOARD --profile local --set 'limits.ram=1200 GiB'"
    assert checks.memory(replace(board, name="local", **larger), facts).todo.endswith(copy)
    shipped = checks.memory(replace(board, name="generic_android", **larger), facts)
    assert "add MY_BOARD --profile generic_android" in shipped.todo, "a shipped profile cannot be edited"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1 MiB"), (1536 << 20, "1.5 GiB"), (500 << 20, "500 MiB")]
)
def test_sizes_in_words(size, text):
    assert checks.size_text(size) == text


# --- boards that are not reached, and boards that go away ---------------------------------------------------------------


class Frail(LocalTransport):
    """This machine, whose connection is lost for good after so many commands."""

    left = 0
    begun = 0

    def _start(self, argv, env, sink):
        type(self).begun += 1
        if type(self).begun > type(self).left:
            raise DeviceError(f"the connection to {self.where} was lost", hint="see that it is on")
        return super()._start(argv, env, sink)


class Refusing(LocalTransport):
    """A board that nobody gets into."""

    def _open(self):
        raise DeviceError(f"{self.where} refuses the key", hint="run: ssh-copy-id pi@h")


@pytest.fixture(autouse=True)
def stand_ins():
    TRANSPORTS.register("frail")(Frail)
    TRANSPORTS.register("refusing")(Refusing)
    yield
    for name in ("frail", "refusing"):
        del TRANSPORTS._classes[name]


def test_a_board_that_is_not_reached(board):
    found = by_name(examine(replace(board, transport="refusing", address="pi@h")))
    assert (found["reachable"].state, found["reachable"].reason) == ("missing", "board 'here' (pi@h) refuses the key")
    assert found["reachable"].todo == "run: ssh-copy-id pi@h"
    rest = [check for name, check in found.items() if name != "reachable"]
    assert {check.state for check in rest} == {"not checked"} and {check.reason for check in rest} == {
        "the board was not reached"
    }


def test_a_board_that_goes_away_at_any_moment(board):
    frail = replace(board, transport="frail")
    Frail.left, Frail.begun = 10**6, 0
    assert is_ready(examine(frail))
    commands, order = Frail.begun, []
    assert commands >= 5
    for left in range(commands):
        Frail.left, Frail.begun = left, 0
        order.clear()
        found = by_name(examine(frail, on_check=order.append))
        if found["reachable"].state == "ok":  # only what comes after the last answer was lost: letting go of the lock
            assert left == commands - 1 and is_ready(tuple(found.values()))
            continue
        assert "the board went away" in found["reachable"].reason and "lost" in found["reachable"].reason
        assert found["reachable"].todo == "see that it is on"
        assert not is_ready(tuple(found.values()))
        assert found[order[-1]].state != "missing" or order[-1] == "reachable", "what was lost is not told as missing there"
        assert found["meters"].state == "not checked" and found["meters"].reason == "the board went away"


def test_a_package_that_the_way_there_needs(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    found = by_name(examine(replace(PI5, address="pi@127.0.0.1")))
    assert found["reachable"].reason == "the package 'asyncssh' is not installed"
    assert found["reachable"].todo == "pip install 'edgewright[ssh]'"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("pi@127.0.0.1:{port}", "refuses SSH connections"),
        ("pi@nowhere.invalid", "host name"),
        ("a b c", "no SSH address"),
    ],
)
def test_ssh_says_why_it_does_not_get_there(home, address, words):
    found = by_name(examine(replace(PI5, address=address.format(port=free_port()))))
    assert found["reachable"].state == "missing" and words in found["reachable"].reason and found["reachable"].todo


def ssh_board_of(server):
    options = {"identity_file": str(server.key), "known_hosts": str(server.known_hosts)}
    return Board("lab", "A board", "", "ssh", server.address, sys.executable, options=options)


def test_a_board_over_ssh(home, new_sshd):
    server = new_sshd()
    board = ssh_board_of(server)
    found = by_name(examine(board))
    assert is_ready(tuple(found.values())), found
    assert found["reachable"].reason.startswith(f"ssh to {server.address}, in ")
    assert found["space"].reason.partition(" free for ")[2].startswith(f"{server.home}/.edgewright")
    server.known_hosts.write_text("")
    unknown = by_name(examine(board))["reachable"]
    assert unknown.state == "missing" and "host key" in unknown.reason and unknown.todo
    server.remember()
    (server.folder / "authorized_keys").write_text("")
    refused = by_name(examine(board))["reachable"]
    assert refused.state == "missing" and "key" in refused.reason and "ssh-copy-id" in refused.todo


@pytest.mark.slow
def test_an_arm_board_over_ssh_before_and_after_it_is_given_what_it_lacks(home, new_sshd):
    try:
        arm = arm_root()
    except ArmRootMissing as error:
        pytest.skip(str(error))
    board = replace(ssh_board_of(new_sshd()), python=str(arm.python), engines=("litert",), architecture="armv7l")
    found = by_name(examine(board))
    assert found["architecture"].reason == "the board is aarch64, its profile says armv7l"
    assert found["numpy"].state == found["engines"].state == "missing"
    assert "--platform manylinux_2_27_aarch64" in found["numpy"].todo
    with open_device(board, what="test") as device:
        told = probe(device, arm.wheels, lambda share, text: None)
    assert told["machine"]["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert told["engines"] == {"litert": "ai-edge-litert 2.3.0", "onnxruntime": None, "openvino": None}
    found = by_name(examine(replace(board, architecture="aarch64")))
    assert is_ready(tuple(found.values())), found
    assert found["engines"].reason == "litert (ai-edge-litert 2.3.0)" and found["numpy"].state == "ok"
    assert found["meters"].state in ("ok", "warning") and found["architecture"].state == "ok"


def test_a_phone(home, new_adb):
    board = new_adb().board()
    assert is_ready(examine(board))
    found = by_name(examine(replace(board, python="no-such-python")))
    assert "Python for Android" in found["python"].todo and found["architecture"].reason == platform.machine()
    locked = by_name(examine(new_adb("unauthorized").board()))["reachable"]
    assert locked.state == "missing" and "unlock it" in locked.todo


def test_a_way_that_cannot_hold_a_lock(board, monkeypatch):
    Frail.left, Frail.begun = 10**6, 0
    monkeypatch.setattr(Frail, "caps", frozenset({"kill"}))
    found = by_name(examine(replace(board, transport="frail")))
    assert found["lock"].state == "warning" and is_ready(tuple(found.values()))


def test_unknown_boards_are_usage_errors(place):
    with pytest.raises(UsageError):
        find_board("nobody")


def test_the_interpreter_may_be_several_words(board, home):
    found = by_name(examine(replace(board, python=f"env -u X {shlex.quote(sys.executable)} -B")))
    assert found["python"].state == "ok"
    (home / "bin").mkdir()
    script(home / "bin" / "python", f'exec {sys.executable} "$@"')
    assert by_name(examine(replace(board, python="~/bin/python")))["python"].state == "ok"
