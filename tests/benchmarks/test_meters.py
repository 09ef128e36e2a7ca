"""Every meter on a recorded tree with a known power curve: the energy comes back, and what cannot be measured is refused."""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tty
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meter_trees import (
    AndroidTree,
    Constant,
    CsvTree,
    HwmonTree,
    Ina238Tree,
    Ina3221Tree,
    PmicTree,
    RaplTree,
    Sine,
    Steps,
    live,
    readable_by_root_only,
    write,
)

from edgewright.benchmarks.meters._columns import column_of
from edgewright.benchmarks.power import METERS, find_meter, open_meter
from edgewright.benchmarks.sampling import Unwrapped
from edgewright.errors import MeterError, MissingPackageError, UsageError
from edgewright.testing_meters import MeterCase, MeterContract, PlayedClock

CURVES = {
    "constant": Constant(4.0),
    "steps": Steps(((0, 2.0), (1.0037, 7.5), (1.5101, 2.5), (2.0, 7.5), (3.3333, 2.0))),
    "sine": Sine(5.0, 2.5, 2.3),
}
SECONDS = 5.0

TREES = {
    "rapl": (RaplTree, {}, 0.02),
    "rapl-wrapping": (RaplTree, {"offset": 262143.328850 - 7.0}, 0.02),
    "rapl-psys": (RaplTree, {"psys": True, "plays": "psys"}, 0.02),
    "hwmon-power": (HwmonTree, {}, 0.04),
    "hwmon-energy": (HwmonTree, {"by": "energy"}, 0.001),
    "hwmon-product": (HwmonTree, {"by": "product"}, 0.03),
    "ina3221-orin-nx": (Ina3221Tree, {}, 0.02),
    "ina3221-agx-orin": (Ina3221Tree, {"board": "agx_orin"}, 0.02),
    "ina3221-nano-jetpack4": (Ina3221Tree, {"board": "nano"}, 0.005),
    "ina238-thor": (Ina238Tree, {}, 0.005),
    "pmic": (PmicTree, {}, 0.001),
    "android": (AndroidTree, {}, 0.005),
    "android-milliamperes": (AndroidTree, {"unit": "ma", "sign": 1}, 0.02),
    "android-without-counter": (AndroidTree, {"counter": False}, 0.005),
    "trace": (CsvTree, {}, 0.001),
}
"""Tree, its arguments, and what its files' rounding may put on 5 s, in joules."""
SLOPE, BEND = 2.5 * (2 * np.pi / 2.3), 2.5 * (2 * np.pi / 2.3) ** 2
"""Largest first and second derivative of the sine, in W/s and W/s^2: with h between readings, an edge of a span is known to
SLOPE h^2 / 8 and the trapezoids to BEND h^2 / 12 a second."""
EDGES = 4 * 5.5
"""Sum of the steps' heights: an edge between two readings is known to a period."""


def played(tree, *, seconds=SECONDS, option=None, lost=(), rate_hz=None, play=None):
    """A trace of the whole play, and its clock."""
    waits = tree.meter != "trace"
    clock = PlayedClock(play or tree.play, seconds, lost=lost, hold=waits)
    option = tree.wanted if option is None else option
    meter = open_meter(f"{tree.meter}:{option}", root=tree.root, clock=clock, rate_hz=rate_hz)
    meter.start()
    if waits:
        while not clock.finished.wait(0.01) and any(thread.name == f"meter {tree.meter}" for thread in threading.enumerate()):
            pass
    else:
        clock.run(0.01)
    return meter.stop(), clock


@pytest.fixture(params=list(TREES))
def kind(request):
    return request.param


class TestEveryMeter(MeterContract):
    @pytest.fixture
    def case(self, kind, tmp_path):
        cls, arguments, rounding = TREES[kind]
        tree = cls(tmp_path / "root" if cls is not CsvTree else tmp_path, CURVES["sine"], **arguments)
        rate_hz = METERS.get(cls.meter).default_hz if cls is not CsvTree else 500
        wrong = {"trace": ("?unknown=1",)}.get(cls.meter, ("no-such-thing",))
        return MeterCase(
            cls.meter,
            tree.root,
            tree.play,
            tree.joules,
            rounding + BEND * SECONDS / 12 / rate_hz**2 + SLOPE / 4 / rate_hz**2,
            option=tree.wanted,
            wrong_options=wrong,
            waits=cls is not CsvTree,
            name=kind,
        )


@pytest.mark.parametrize("curve", list(CURVES))
def test_energy_comes_back(kind, curve, tmp_path):
    cls, arguments, rounding = TREES[kind]
    (tmp_path / "root").mkdir()
    trace, clock = played(cls(tmp_path / "root", CURVES[curve], **arguments))
    begin, end = 0.6, 4.4
    found = trace.energy_joules(clock.at(begin), clock.at(end))
    tree_joules = CURVES[curve].integral(end) - CURVES[curve].integral(begin)
    period = 1 / trace.rate_hz
    allowed = rounding
    if trace.kind == "sample":
        allowed += {"constant": 0.0, "steps": EDGES * period / 2, "sine": BEND * SECONDS / 12 * period**2}[curve]
    assert found == pytest.approx(tree_joules, abs=allowed)
    assert trace.missed == 0 and trace.origin == "measured"
    if curve == "constant":
        np.testing.assert_allclose(trace.watts, 4.0, atol=0.02 if trace.kind == "sample" else 0.45)


def test_energy_of_a_tree_that_runs_by_the_real_clock(tmp_path):
    tree = RaplTree(tmp_path, Constant(12.0), lag_s=0)
    with live(tree):
        meter = open_meter("rapl", root=tmp_path)
        meter.start()
        begin = meter.clock.now_ns()
        stop = threading.Event()
        meter.clock.wait(begin + 300_000_000, stop)
        end = meter.clock.now_ns()
        trace = meter.stop()
    assert trace.t_ns[0] <= begin and trace.t_ns[-1] >= end
    assert any("of one processor core" in note for note in trace.notes)


# --- RAPL


def test_rapl_wraps_several_times(tmp_path):
    tree = RaplTree(tmp_path, Constant(800.0), offset=990.0, wraps_at=1000.0)
    trace, clock = played(tree)
    assert trace.energy_joules(clock.at(0.1), clock.at(4.9)) == pytest.approx(800 * 4.8, abs=1.7)
    assert trace.watts.min() > 700


def test_rapl_reads_one_domain_and_says_which(tmp_path):
    tree = RaplTree(tmp_path, Constant(10.0), packages=2, plays="package-1")
    for option, scope, watts in (
        ("", "package-0", 5),
        ("package-1", "package-1", 10),
        ("package-0/dram", "package-0/dram", 5),
        ("intel-rapl:1:1", "package-1/dram", 5),
    ):
        trace, clock = played(tree, option=option, seconds=1.5)
        assert (trace.scope, trace.kind) == (scope, "mean")
        assert trace.mean_watts(clock.at(0.5), clock.at(1.5)) == pytest.approx(watts, rel=0.01)
        assert ("one of 2 packages" in str(trace.notes)) == (scope in ("package-0", "package-1"))
        assert 61e-6 <= trace.step_joules <= 0.012
    with pytest.raises(UsageError, match=r"2 domains 'dram': package-0/dram, package-1/dram"):
        open_meter("rapl:dram", root=tmp_path)
    with pytest.raises(UsageError, match="contain each other"):
        open_meter("rapl:all", root=tmp_path)
    with pytest.raises(MeterError, match="no domain 'package-7'"):
        open_meter("rapl:package-7", root=tmp_path)


def test_rapl_prefers_psys_unless_it_stands_at_0(tmp_path):
    tree = RaplTree(tmp_path, Constant(10.0), psys=True)
    assert open_meter("rapl", root=tmp_path).scope == "psys"
    write(tree.domains["psys"] / "energy_uj", 0)
    assert open_meter("rapl", root=tmp_path).scope == "package-0"


@pytest.mark.parametrize(("to", "words"), [(0.0, "no wrap at 262143 J"), (999.5, "no wrap at 262143 J")])
def test_rapl_counter_that_is_reset_is_no_wrap(tmp_path, to, words):
    tree = RaplTree(tmp_path, Constant(10.0))

    def play(t):
        tree.offset = 1000.0 if t < 2 else to - 20.0
        tree.play(t)

    clock = PlayedClock(play, SECONDS)
    meter = open_meter("rapl", root=tmp_path, clock=clock)
    meter.start()
    while not clock.finished.wait(0.01) and any(thread.name == "meter rapl" for thread in threading.enumerate()):
        pass
    with pytest.raises(MeterError, match=words) as caught:
        meter.stop()
    assert "back to" in caught.value.message and "after 200 readings in 1.99 s" in caught.value.message
    kept = meter.so_far()
    assert kept.energy_joules(clock.at(0), clock.at(1.9)) == pytest.approx(19, abs=0.02)


def test_rapl_that_was_not_read_for_longer_than_a_wrap(tmp_path):
    tree = RaplTree(tmp_path, Constant(10.0), wraps_at=1000.0)
    with pytest.raises(MeterError, match=r"was not read for 2 s and begins again every 1000 J"):
        played(tree, lost=[(1.0, 3.0)])


def test_missed_readings_are_counted_and_counters_bridge_them(tmp_path):
    tree = RaplTree(tmp_path, CURVES["steps"])
    trace, clock = played(tree, lost=[(1.2, 1.9)])
    assert trace.missed == 69
    assert trace.longest_gap_ns(clock.at(1), clock.at(2)) == 710_000_000
    assert trace.energy_joules(clock.at(0.5), clock.at(4.5)) == pytest.approx(tree.joules(0.5, 4.5), abs=0.02)


def test_missed_readings_of_a_converter_are_not_bridged_for_long(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["sine"])
    trace, clock = played(tree, lost=[(1.2, 1.26), (3.0, 3.9)])
    assert trace.missed == 2 + 44
    assert trace.energy_joules(clock.at(0.5), clock.at(2.9)) == pytest.approx(tree.joules(0.5, 2.9), abs=0.03)
    with pytest.raises(MeterError, match=r"no readings for 920\.0 ms"):
        trace.energy_joules(clock.at(0.5), clock.at(4.5))


def in_child_as_nobody(root, code):
    """What a process without rights prints; the tests may run as root, for whom every file is readable."""
    drop = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" if os.getuid() == 0 else ""
    program = "import sys; from pathlib import Path\nfrom edgewright.benchmarks.power import METERS, find_meter, open_meter\n"
    program += "from edgewright.errors import MeterError\nfor name in METERS.names(): METERS.get(name)\n" + drop + code
    done = subprocess.run([sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def open_root():
    """A folder that other users may look into, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="files of root need root")
def test_what_only_root_may_read_is_named(open_root):
    tree = RaplTree(open_root, Constant(10.0))
    readable_by_root_only(tree.domains["package-0"] / "energy_uj")
    reason = in_child_as_nobody(open_root, "print(METERS.get('rapl').available(Path(sys.argv[1])))")
    assert reason == "/sys/class/powercap/intel-rapl:0/energy_uj is readable by root only"
    code = (
        "try: open_meter('rapl', root=Path(sys.argv[1]))\nexcept MeterError as error: print(error.message, error.hint, sep='|')"
    )
    assert (
        in_child_as_nobody(open_root, code)
        == f"rapl: {reason}|sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj, or run as root"
    )


# --- hwmon


@pytest.mark.parametrize("by", ["power", "energy", "product"])
@pytest.mark.parametrize("decoy", [True, False])
def test_hwmon_is_found_again_under_another_number(tmp_path, by, decoy):
    tree = HwmonTree(tmp_path, CURVES["constant"], by=by)

    def play(t):
        if t > 2 and tree.number == 3:
            tree.renumber(11, decoy=decoy)
        tree.play(t)

    trace, clock = played(tree, play=play)
    assert trace.energy_joules(clock.at(0.5), clock.at(4.5)) == pytest.approx(16.0, abs=0.03)
    assert trace.watts.max() < 4.1 and trace.missed == 0
    assert any("under another number" in note for note in trace.notes)


def test_hwmon_that_is_away_for_a_moment_is_missed_and_for_longer_is_an_error(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["constant"])
    away = tmp_path / "away"

    def play_until(back):
        def play(t):
            if 2 <= t < back:
                if tree.folder().exists():
                    tree.folder().rename(away)
            else:
                if away.exists():
                    away.rename(tree.folder())
                tree.play(t)

        return play

    trace, clock = played(tree, play=play_until(2.15))
    assert trace.missed == 8
    assert trace.energy_joules(clock.at(0.5), clock.at(4.5)) == pytest.approx(16.0, abs=0.03)
    with pytest.raises(MeterError, match=r"can no longer be read: .*No such device.*\(after 100 readings in 1.98 s\)"):
        played(tree, play=play_until(4.0))


def test_hwmon_tells_chips_apart_by_their_place(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["constant"])
    tree.place(9, "ina226", "1-0041", {"power1_input": 1_000_000})
    with pytest.raises(MeterError, match=r"2 power monitors.*ina226@1-0040, ina226@1-0041") as caught:
        open_meter("hwmon", root=tmp_path)
    assert "hwmon:ina226@1-0040" in caught.value.hint
    assert METERS.get("hwmon").available(tmp_path).startswith("2 power monitors")
    trace, _ = played(tree, option="ina226@1-0041", seconds=1)
    assert trace.scope == "ina226@1-0041 channel 1" and trace.watts.max() == 1.0


def test_hwmon_channels(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["constant"])
    for file, value in {
        "in1_input": 5000,
        "curr1_input": 300,
        "curr2_input": 100,
        "in2_input": 3300,
        "in2_label": "VDD_ARM",
    }.items():
        write(tree.folder() / file, value)
    for option, watts, scope in (
        ("", 4.0, "channel 1"),
        ("in1", 1.5, "channel 1"),
        ("ina226/power1", 4.0, "channel 1"),
        ("ina226@1-0040/2", 0.33, "VDD_ARM"),
    ):
        trace, _ = played(tree, option=option, seconds=0.5)
        assert trace.watts.max() == pytest.approx(watts) and trace.scope == f"ina226@1-0040 {scope}"
    for option, words in (("ina226/power2", "no channel 'power2'"), ("ina219", "no ina219"), ("nvme", "no nvme")):
        with pytest.raises(MeterError, match=words):
            open_meter(f"hwmon:{option}", root=tmp_path)
    with pytest.raises(UsageError, match="'fan1' is no channel"):
        open_meter("hwmon:ina226/fan1", root=tmp_path)


def test_steps_of_converters(tmp_path):
    """25 * 2.5 uV over 10 mOhm are 6.25 mW, also where the power does not change; 1 mA at 5 V are 5 mW."""
    for n, (by, step) in enumerate((("power", 6.25e-3), ("product", 5e-3))):
        for curve in ("constant", "sine"):
            trace, _ = played(HwmonTree(tmp_path / f"{n}{curve}", CURVES[curve], by=by), seconds=2)
            assert trace.step_watts == pytest.approx(step)
    rails = PmicTree(tmp_path / "pi", Sine(5.0, 2.0, 2**0.5))

    def play(t):
        """Currents in steps of 1 mA on each rail."""
        rails.play(t)
        text = re.sub(r"=(\d+\.\d{3})\d+A", r"=\g<1>00000A", rails.answer.read_text())
        rails.answer.write_text(text)

    trace, _ = played(rails, play=play, seconds=20)
    # At least one step on each rail, and not much more where 200 readings show the neighbours of most levels.
    assert 1e-3 * np.linalg.norm(rails.volts) <= trace.step_watts * 1.001 <= 3e-3 * np.linalg.norm(rails.volts)


def test_hwmon_reads_no_more_often_than_the_chip_converts(tmp_path):
    slow = HwmonTree(tmp_path, CURVES["constant"], update_ms=140)
    trace, _ = played(slow)
    assert trace.rate_hz == pytest.approx(1e3 / 140, rel=0.05)
    assert "the chip converts every 140 ms" in trace.notes
    assert played(slow, rate_hz=100)[0].rate_hz == pytest.approx(100, rel=0.05)


def test_a_file_that_holds_no_number(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["constant"])
    write(tree.folder() / "power1_input", "n/a")
    with pytest.raises(MeterError, match=r"hwmon: /sys/class/hwmon/hwmon3/power1_input holds 'n/a', a whole number is expected"):
        open_meter("hwmon", root=tmp_path)


def test_a_value_that_is_renewed_slowly_is_noted(tmp_path):
    tree = HwmonTree(tmp_path, Sine(5.0, 2.0, 3.7))
    trace, _ = played(tree, play=lambda t: tree.play(t // 0.5 * 0.5))
    assert "the value changed 10 times in 251 readings, about every 500 ms" in trace.notes


# --- Jetson


def test_jetson_rails(tmp_path):
    tree = Ina3221Tree(tmp_path, CURVES["constant"])
    assert open_meter("ina3221", root=tmp_path).scope == "board input VDD_IN"
    trace, clock = played(tree, option="VDD_SOC")
    assert trace.scope == "rail VDD_SOC" and trace.mean_watts(clock.at(1), clock.at(2)) == pytest.approx(1.2, abs=0.005)
    assert any("part of the board" in note and "VDD_IN" in note for note in trace.notes)
    with pytest.raises(MeterError, match="no rail 'VDD_GPU'") as caught:
        open_meter("ina3221:VDD_GPU", root=tmp_path)
    assert "VDD_IN, VDD_CPU_GPU_CV, VDD_SOC" in caught.value.hint


def test_jetson_without_a_rail_for_the_input(tmp_path):
    trace, _ = played(Ina3221Tree(tmp_path, CURVES["constant"], board="agx_orin"))
    assert trace.scope == "rail VDD_GPU_SOC" and any("VIN_SYS_5V0" in note for note in trace.notes)


def test_jetson_whose_rails_are_unknown_asks_for_one(tmp_path):
    tree = Ina3221Tree(tmp_path, CURVES["constant"])
    for n, label in enumerate(("A", "B", "C"), 1):
        write(tmp_path / f"sys/bus/i2c/devices/1-0040/hwmon/hwmon{tree.number}/in{n}_label", label)
    with pytest.raises(MeterError, match=r"none of the rails \(A, B, C\)"):
        open_meter("ina3221", root=tmp_path)
    assert "A, B, C" in METERS.get("ina3221").available(tmp_path)
    assert open_meter("ina3221:B", root=tmp_path).scope == "rail B"


def test_jetson_changes_its_numbers(tmp_path):
    tree = Ina3221Tree(tmp_path, CURVES["constant"])

    def play(t):
        if t > 2 and tree.number == 4:
            tree.renumber(8)
        tree.play(t)

    trace, clock = played(tree, play=play)
    assert trace.energy_joules(clock.at(0.5), clock.at(4.5)) == pytest.approx(16.0, abs=0.01) and trace.missed == 0


def test_thor_measures_its_input_before_its_rails(tmp_path):
    Ina238Tree(tmp_path, CURVES["constant"])
    assert find_meter(tmp_path) == "ina238"
    assert find_meter(tmp_path, ["hwmon", "ina3221"]) == "ina3221"
    assert open_meter("auto", root=tmp_path).scope == "board input VIN"


def test_a_jetson_whose_driver_is_not_loaded(tmp_path):
    for bus, name in (("1-0040", "ina3221"), ("2-0044", "ina238")):
        write(tmp_path / f"sys/bus/i2c/devices/{bus}/name", name)
        assert "driver is not loaded" in METERS.get(name).available(tmp_path)


# --- Raspberry Pi


def test_pmic_sum_rail_and_input(tmp_path):
    tree = PmicTree(tmp_path, CURVES["constant"])
    for option, scope, watts, origin in (
        ("", "sum of the PMIC's rails", 4.0, "measured"),
        ("VDD_CORE", "rail VDD_CORE", 4 * 0.45, "measured"),
        ("input", "board input by a fit", 1.145 * 4 + 0.588, "estimated"),
    ):
        trace, clock = played(tree, option=option, seconds=2)
        assert (trace.scope, trace.origin) == (scope, origin)
        assert trace.mean_watts(clock.at(0.5), clock.at(1.5)) == pytest.approx(watts, abs=1e-4)
    assert any("below the board's input power" in note for note in played(tree, seconds=1)[0].notes)
    assert any("published fit" in note for note in played(tree, option="input", seconds=1)[0].notes)


def test_pi_4_has_voltages_only(tmp_path):
    PmicTree(tmp_path, CURVES["constant"], currents=False, model="Raspberry Pi 4 Model B Rev 1.5")
    reason = METERS.get("pmic").available(tmp_path)
    assert reason == "the chip of Raspberry Pi 4 Model B Rev 1.5 gives 8 voltages and no currents, so there is no power"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Can'\"'\"'t open device file: /dev/vcio' >&2; exit 255", "code 255: Can't open device file: /dev/vcio"),
        ("echo 'error=1 error_msg=\"Command not registered\"'", "Command not registered"),
        ("exit 0", "printed no rails: nothing"),
    ],
)
def test_pmic_says_what_vcgencmd_says(tmp_path, script, words):
    tree = PmicTree(tmp_path, CURVES["constant"])
    (tmp_path / "usr/bin/vcgencmd").write_text(f"#!/bin/sh\n{script}\n")
    assert words in METERS.get("pmic").available(tmp_path)
    assert tree.meter in find_meter_words(tmp_path)


def find_meter_words(root):
    with pytest.raises(MeterError) as caught:
        find_meter(root)
    return caught.value.message


def test_pmic_call_that_fails_once_is_missed(tmp_path):
    tree = PmicTree(tmp_path, CURVES["constant"])

    def play(t):
        if 1.0 <= t < 1.25:
            tree.answer.unlink(missing_ok=True)
        else:
            tree.play(t)

    trace, _ = played(tree, play=play, seconds=3)
    assert trace.missed == 3


# --- Android


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"status": "Charging"}, "status is Charging"),
        ({"status": "Full"}, "status is Full"),
        ({"status": "Not charging"}, "status is Not charging"),
        ({"usb_online": 1}, "charger /sys/class/power_supply/usb is online"),
    ],
)
def test_charging_phone_is_refused(tmp_path, arguments, words):
    AndroidTree(tmp_path, CURVES["constant"], **arguments)
    with pytest.raises(MeterError, match=words) as caught:
        open_meter("android", root=tmp_path)
    assert "Wi-Fi" in caught.value.hint
    assert words in find_meter_words(tmp_path)


@pytest.mark.parametrize("change", [{"status": "Charging"}, {"usb_online": 1}])
def test_phone_that_is_plugged_in_meanwhile_is_refused(tmp_path, change):
    tree = AndroidTree(tmp_path, CURVES["constant"])

    def play(t):
        if t > 2:
            for name, value in change.items():
                setattr(tree, name, value)
        tree.play(t)

    with pytest.raises(MeterError, match=r"(Discharging|online) \(after 1[01] readings in 2.00 s\)"):
        played(tree, play=play)


def test_phone_whose_current_turns_round_is_refused(tmp_path):
    tree = AndroidTree(tmp_path, CURVES["constant"], counter=False)

    def play(t):
        tree.sign = 1 if t > 3 else -1
        tree.play(t)

    with pytest.raises(MeterError, match="both signs"):
        played(tree, play=play)


def test_phone_whose_counter_contradicts_is_refused_unless_the_unit_is_named(tmp_path):
    tree = AndroidTree(tmp_path, CURVES["constant"])

    def play(t):
        tree.play(t)
        write(tree.battery / "charge_counter", round(3_200_000 - t * 3_000))

    with pytest.raises(MeterError, match=r"charge_counter lost 54 C, but current_now adds up to 5.19 C as microamperes"):
        played(tree, play=play)
    trace, clock = played(tree, play=play, option="ua")
    assert trace.mean_watts(clock.at(1), clock.at(4)) == pytest.approx(4.0, abs=0.001)


def test_phone_that_draws_little_gets_its_unit_from_the_counter(tmp_path):
    trace, clock = played(AndroidTree(tmp_path, Constant(0.06)), seconds=20)
    assert trace.mean_watts(clock.at(1), clock.at(19)) == pytest.approx(0.06, rel=0.01)
    assert any("microamperes: charge_counter lost" in note for note in trace.notes)


def test_phone_without_a_counter_says_how_the_unit_is_known(tmp_path):
    trace, _ = played(AndroidTree(tmp_path, CURVES["constant"], counter=False))
    assert any("taken as microamperes: its largest value is 1038961" in note for note in trace.notes)


def test_battery_without_current(tmp_path):
    tree = AndroidTree(tmp_path, CURVES["constant"])
    (tree.battery / "current_now").unlink()
    reason = METERS.get("android").available(tmp_path)
    assert reason.startswith("no current_now and voltage_now in") and "/sys/class/power_supply/battery" in reason


# --- CSV files

FORMS = {
    "seconds": ("t_s,watts", "{t:.6f},{w:.6f}", ""),
    "milliseconds": ("Timestamp(ms),Power [mW]", "{ms:.3f},{mw:.3f}", ""),
    "microseconds-volts-amps": ("t_us;volts;amps", "{us:.0f};{v};{a:.7f}", ""),
    "nanoseconds": ("t_ns\tmw", "{ns:.0f}\t{mw:.3f}", ""),
    "ppk2": ("Timestamp(ms),Current(uA),D0-D7", "{ms:.3f},{ua:.3f},00000000", "volts=5.0"),
    "joulescope": ("#time (s),current (A),voltage (V)", "{t:.6f},{a:.7f},{v}", ""),
    "monsoon": ("Time (s),Main Avg Current(mA),Main Avg Voltage(V)", "{t:.6f},{ma:.5f},{v}", ""),
    "decimal-comma": ("Zeit (s);Leistung (W)", "{comma}", ""),
    "quoted": ('"time","note","power"', '"{t:.6f}","x","{w:.6f}"', ""),
    "no-header": (None, "{t:.6f} {w:.6f}", "columns=t_s,watts"),
    "comments": ("# made by a meter\n# range, 1 A\nt_s,watts", "{t:.6f},{w:.6f}", ""),
    "chosen": ("time,a_watts,b_watts", "{t:.6f},99,{w:.6f}", "power=b_watts"),
    "dates": ("time,watts", "{iso},{w:.6f}", ""),
    "since-1970": ("t_s,watts", "{epoch},{w:.6f}", "clock=wall"),
}


def csv_text(form, curve, times):
    header, row, _ = FORMS[form]
    lines = [] if header is None else [header]
    for t in times:
        w, us = curve.watts(t), round(t * 1e6)
        lines.append(
            row.format(
                t=t,
                w=w,
                ms=t * 1e3,
                mw=w * 1e3,
                us=us,
                ns=us * 1000,
                v=5.0,
                a=w / 5,
                ma=w / 5 * 1e3,
                ua=w / 5 * 1e6,
                comma=f"{t:.6f};{w:.6f}".replace(".", ","),
                iso=f"2026-01-31T12:00:{us // 10**6:02}.{us % 10**6:06}Z",
                epoch=f"{1_767_225_600 + us // 10**6}.{us % 10**6:06}",
            )
        )
    return "\n".join(lines) + "\n"


def read_trace(file, settings=""):
    meter = open_meter(f"trace:{file}{'?' + settings if settings else ''}")
    meter.start()
    return meter.stop()


@pytest.mark.parametrize("form", list(FORMS))
def test_trace_forms(tmp_path, form):
    curve, times = CURVES["sine"], np.arange(0, 5, 0.002)
    file = tmp_path / "power.csv"
    file.write_text(csv_text(form, curve, times))
    trace = read_trace(file, FORMS[form][2])
    assert len(trace.t_ns) == len(times) and trace.rate_hz == pytest.approx(500)
    assert trace.clock == ("wall" if form == "since-1970" else "own")
    begin = int(trace.t_ns[0])
    if form in ("dates", "since-1970"):
        assert begin == 1_767_225_600_000_000_000 + (30 * 86400 + 43200) * 10**9 * (form == "dates")
    found = trace.energy_joules(begin + 600_000_000, begin + 4_400_000_000)
    assert found == pytest.approx(curve.integral(4.4) - curve.integral(0.6), abs=0.001)
    assert (trace.missed, trace.meter, trace.kind) == (0, "trace", "sample")


def test_trace_that_lacks_readings(tmp_path):
    curve, times = CURVES["sine"], np.delete(np.arange(0, 5, 0.002), [300, 301, 302, 1000])
    lines = csv_text("seconds", curve, times).splitlines()
    lines[11], lines[12] = lines[11].split(",")[0] + ",nan", lines[12].split(",")[0] + ","
    file = tmp_path / "power.csv"
    file.write_text("\n".join(lines) + "\n4.999,3")
    trace = read_trace(file)
    assert trace.missed == 6
    assert "2 readings were empty or NaN" in trace.notes and "the last line has no end and was left out" in trace.notes
    assert trace.energy_joules(600_000_000, 4_400_000_000) == pytest.approx(curve.integral(4.4) - curve.integral(0.6), abs=0.001)


def test_trace_with_a_hole_is_not_bridged(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text(csv_text("seconds", Constant(3.0), [t for t in np.arange(0, 5, 0.002) if not 2 <= t < 3]))
    trace = read_trace(file)
    assert trace.missed == 500
    assert trace.energy_joules(0, 1_900_000_000) == pytest.approx(5.7)
    with pytest.raises(MeterError, match=r"no readings for 1002\.0 ms"):
        trace.energy_joules(0, 4_000_000_000)


def test_trace_at_no_steady_pace_is_joined(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text("t_s,watts\n0,1\n0.1,1\n5,3\n5.2,3\n17,3\n")
    trace = read_trace(file)
    assert (trace.missed, trace.gap_ns) == (0, 0)
    assert trace.energy_joules(0, 17 * 10**9) == pytest.approx(0.1 + 4.9 * 2 + 12 * 3)


def test_trace_whose_pace_wanders_lacks_nothing(tmp_path):
    file = tmp_path / "power.csv"
    steps = np.random.default_rng(0).uniform(0.55, 1.45, 500)
    file.write_text("t_s,watts\n" + "".join(f"{t:.6f},2\n" for t in np.cumsum(steps)))
    assert (read_trace(file).missed, read_trace(file).gap_ns) == (0, 0)


def test_trace_whose_times_repeat_takes_their_mean(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text("t_ms,watts\n" + "".join(f"{n // 4},{n % 4}\n" for n in range(400)))
    trace = read_trace(file)
    assert set(trace.watts) == {1.5} and len(trace.t_ns) == 100
    assert "300 readings had the time of the one before; their mean was taken" in trace.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t_s,watts\n0,1\n1,2\n0.5,3\n", "row 4: the time goes back from 1.000000 s to 0.500000 s"),
        ("t_s,watts\n0,1\n1,two\n", "row 3: column 'watts' is 'two', expected is a number; 1 readings came before"),
        ("t_s,watts\n0,1\n1,2,3\n", "row 3: 3 columns found, expected are 2"),
        ("t_s,watts\n0,1\nsoon,2\n", "row 3: the time is 'soon'"),
        ("t_s,watts\n0,1\n1e99,2\n", "row 3: the time is '1e99'"),
        ("t_s,watts\n0,1\n", "has 1 reading, 2 are needed"),
        ("", "no header and no readings"),
        ("0,1\n1,2\n", "row 1: no column of the time found"),
        ("t_s,volts\n0,1\n1,2\n", "row 1: no power found"),
        ("t_s,amps\n0,1\n1,2\n", r"no voltage: add volts=3.3"),
        ("t_s,watts,mw\n0,1,2\n", "2 columns could be the watts: watts, mw; choose one with power="),
    ],
)
def test_trace_that_makes_no_sense(tmp_path, text, words):
    file = tmp_path / "power.csv"
    file.write_text(text)
    with pytest.raises(MeterError, match=words) as caught:
        read_trace(file)
    assert str(file) in caught.value.message


def test_trace_options(tmp_path):
    with pytest.raises(MeterError, match="is not there"):
        open_meter(f"trace:{tmp_path}/none.csv")
    with pytest.raises(UsageError, match="needs a file"):
        open_meter("trace")
    file = tmp_path / "power.csv"
    file.write_text("t_s,watts\n0,1\n1,2\n")
    with pytest.raises(MeterError, match="is not one since 1970"):
        read_trace(file, "clock=wall")
    with pytest.raises((MeterError, UsageError), match="no column 'amperes'"):
        read_trace(file, "amps=amperes")
    assert read_trace(file, "scope=USB input").scope == "USB input"


def test_trace_of_dates(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text("time,watts\n2026-01-31T13:00:00.5+01:00,1\n2026-01-31T13:00:01.123456789+01:00,1\n")
    assert list(read_trace(file, "clock=wall").t_ns) == [1_769_860_800_500_000_000, 1_769_860_801_123_456_000]
    file.write_text("time,watts\n2026-01-31 12:00:00,1\n2026-01-31 12:00:01.25,3\n")
    assert read_trace(file).energy_joules(*map(int, read_trace(file).t_ns)) == pytest.approx(2.5)
    file.write_text("time,watts\n2026-01-31 12:00:00,1\n31.1.2026,3\n")
    with pytest.raises(MeterError, match=r"row 3: the time is '31\.1\.2026'"):
        read_trace(file)


def test_trace_waits_for_a_file_that_grows_and_refuses_one_that_shrinks(tmp_path):
    tree = CsvTree(tmp_path, CURVES["constant"])
    late = []

    def play(t):
        """Blocks of half a second, as a program with a buffer writes them; a last one after the meter is stopped."""
        if t - (tree.written * tree.period) >= 0.5:
            tree.play(t)

    clock = PlayedClock(play, 3.2, hold=False)
    meter = open_meter(f"trace:{tree.wanted}", clock=clock)
    meter.start()
    clock.run(0.01)
    assert meter.so_far().t_ns[-1] < clock.at(3.15)

    class Later(PlayedClock):
        def wait(self, until_ns, stop):
            late.append(until_ns)
            if len(late) == 7:
                tree.play(3.5)
            super().wait(until_ns, stop)

    clock.__class__ = Later
    trace = meter.stop()
    assert len(late) == 7 and trace.t_ns[-1] >= clock.at(3.2)
    assert trace.energy_joules(clock.at(0.1), clock.at(3.2)) == pytest.approx(4 * 3.1, abs=0.001)

    again = open_meter(f"trace:{tree.wanted}")
    again.start()
    tree.file.write_text("t_s,watts\n")
    with pytest.raises(MeterError, match="bytes at the start and has 10 now"):
        again.stop()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("t_s", ("time", 0)),
        ("Timestamp (ms)", ("time", -3)),
        ("time[µs]", ("time", -6)),
        ("t_ns", ("time", -9)),
        ("Current(uA)", ("amps", -6)),
        ("main current mA", ("amps", -3)),
        ("Voltage", ("volts", 0)),
        ("mW", ("watts", -3)),
        ("power", ("watts", 0)),
        ("D0-D7", None),
        ("temperature (C)", None),
        ("", None),
    ],
)
def test_column_names(name, meaning):
    assert column_of(name) == meaning


# --- serial ports


class Port:
    """A port whose other end the test holds."""

    def __init__(self):
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.ours)
        tty.setraw(self.theirs)
        self.name = os.ttyname(self.theirs)

    def send(self, text):
        os.write(self.ours, text.encode())

    def close(self):
        for end in (self.ours, self.theirs):
            if end >= 0:
                os.close(end)
        self.ours = self.theirs = -1


@pytest.fixture
def port():
    pytest.importorskip("serial")
    port = Port()
    yield port
    port.close()


def with_serial(port, lines, settings="", before=1):
    """A trace of lines that a device sends, the first of them while the meter starts."""
    meter = open_meter(f"serial:{port.name}{'?' + settings if settings else ''}")
    header = lines[0] if "volts" in lines[0] else "the rest of a line"
    first = threading.Timer(0.2, port.send, [f"{header}\n" + "".join(f"{line}\n" for line in lines[:before])])
    first.start()
    try:
        meter.start()
        for k in range(before, len(lines), 10):  # a pty holds 4 kB
            port.send("".join(f"{line}\n" for line in lines[k : k + 10]))
            wait_until(lambda k=k: len(meter._lines.watts) + meter._lines.bad >= min(k + 10, len(lines)) - 3)
    finally:
        first.join()
    return meter.stop()


def wait_until(condition):
    deadline, pause = 20.0, threading.Event()
    while not condition() and deadline > 0:
        pause.wait(0.01)
        deadline -= 0.01
    assert condition()


@pytest.mark.parametrize("curve", list(CURVES))
def test_serial_energy_by_the_devices_own_clock(port, curve):
    times = np.arange(0, 5, 0.01)
    lines = [f"{t * 1e3:.3f},5000,{CURVES[curve].watts(t) / 5 * 1e3:.4f}" for t in times]
    trace = with_serial(port, lines, "columns=t_ms,mv,ma&clock=own")
    assert (trace.clock, len(trace.t_ns)) == ("own", len(times))
    expected = CURVES[curve].integral(4.4) - CURVES[curve].integral(0.6)
    allowed = {"constant": 1e-5, "steps": EDGES * 0.01 / 2, "sine": 0.01}[curve]
    assert trace.energy_joules(600_000_000, 4_400_000_000) == pytest.approx(expected, abs=allowed)


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (["4.0"] * 60, ""),
        (["4000 mW"] * 60, ""),
        (["P=4.0W"] * 60, ""),
        (["5.0 0.8"] * 60, "columns=volts,amps"),
        (["volts;amps", *["5.0;0.8"] * 59], ""),
        (["0.8"] * 60, "columns=amps&volts=5.0"),
        (["ack", *["8000-04"] * 59], "form=lpm01a&volts=5.0"),
    ],
)
def test_serial_forms_by_arrival(port, lines, settings):
    trace = with_serial(port, lines, settings, before=3)
    assert trace.clock == "monotonic" and np.all(np.diff(trace.t_ns) > 0) and len(trace.t_ns) >= 57
    assert trace.mean_watts(int(trace.t_ns[0]), int(trace.t_ns[-1])) == pytest.approx(4.0)
    assert any("arrival" in note for note in trace.notes)


def test_serial_tells_the_lpm01a_what_to_do(port):
    with_serial(port, ["8000-04"] * 10, "form=lpm01a&volts=3.3&rate=200")
    told = ""
    while "stop\n" not in told:
        told += os.read(port.ours, 4096).decode()
    assert told.split("\n") == ["htc", "format ascii_dec", "volt 3300m", "freq 200", "acqtime inf", "start", "stop", ""]


def test_serial_counts_bad_lines_and_refuses_many(port):
    trace = with_serial(port, ["4.0"] * 30 + ["overload"] + ["4.0"] * 29)
    assert trace.missed == 1 and "1 line that held no reading left out" in trace.notes
    with pytest.raises(MeterError, match=r"20 of 40 lines .* were no readings; the last one was 'overload'"):
        with_serial(port, ["4.0", "overload"] * 20, before=2)


def test_serial_that_says_nothing_or_nonsense(port):
    meter = open_meter(f"serial:{port.name}?wait=0.1")
    with pytest.raises(MeterError, match=r"gave no reading in 0\.1 s \(check"):
        meter.start()
    meter = open_meter(f"serial:{port.name}?wait=0.5")
    threading.Timer(0.2, port.send, ["1,2,3\n4,5,6\n"]).start()
    with pytest.raises(MeterError, match="the columns have no names: add columns="):
        meter.start()


@pytest.mark.timeout(60)
def test_serial_that_never_pauses_can_be_stopped(port):
    meter, over = open_meter(f"serial:{port.name}"), threading.Event()

    def chatter():
        while not over.wait(0.002):
            port.send("4.0\n")

    talking = threading.Thread(target=chatter)
    talking.start()
    try:
        meter.start()
        wait_until(lambda: len(meter._lines.watts) >= 20)
        assert set(meter.stop().watts) == {4.0}
    finally:
        over.set()
        os.set_blocking(port.ours, False)
        talking.join()


def test_serial_that_goes_away(port):
    meter = open_meter(f"serial:{port.name}")
    threading.Timer(0.2, port.send, ["0\n4.0\n4.0\n4.0\n"]).start()
    meter.start()
    wait_until(lambda: len(meter._lines.watts) >= 3)
    os.close(port.ours)
    port.ours = -1
    meter._thread.join(20)
    with pytest.raises(MeterError, match=r"is gone after 3 readings") as caught:
        meter.stop()
    assert caught.value.hint
    assert len(meter.so_far().t_ns) == 3


def test_serial_times_that_go_back(port):
    with pytest.raises(MeterError, match=r"go back from 0.020000 s to 0.010000 s"):
        with_serial(port, ["0,4", "10,4", "20,4", "10,4"], "columns=t_ms,w&clock=own", before=4)


def test_serial_options(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="needs a port"):
        open_meter("serial")
    with pytest.raises(UsageError, match="needs the volts"):
        open_meter("serial:/dev/null?form=lpm01a")
    with pytest.raises(UsageError, match="'parity'"):
        open_meter("serial:/dev/null?parity=odd")
    meter = open_meter(f"serial:{tmp_path}/none")
    with pytest.raises(MeterError, match=r"none cannot be opened: No such file or directory"):
        meter.start()
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(MissingPackageError, match="'serial' is not installed"):
        open_meter("serial:/dev/null")


# --- the schedule and the counter alone


def test_a_reading_that_was_interrupted_is_taken_again(tmp_path):
    tree = HwmonTree(tmp_path, CURVES["constant"])

    class Interrupted(PlayedClock):
        """A look at the clock takes 10 us, or 12 ms when the thread loses its turn before it."""

        loses_its_turn = False

        def now_ns(self):
            self._now_ns += 12_000_000 if self.loses_its_turn else 10_000
            self.loses_its_turn = False
            return self._now_ns

    clock = Interrupted(tree.play, 2.0)
    meter = open_meter("hwmon", root=tmp_path, clock=clock)
    reads, ask = [], meter.read

    def read():
        reads.append(clock._now_ns)
        clock.loses_its_turn = len(reads) in (10, 11, 50, 80)
        return ask()

    meter.read = read
    meter.start()
    assert clock.finished.wait(60)
    trace = meter.stop()
    assert len(reads) == len(trace.t_ns) + 4
    assert np.abs(trace.t_ns[:, None] - np.array(reads)[None]).min(axis=1).max() <= 10_000, "a time is not that of a reading"


def test_a_phone_whose_files_are_closed_to_us(open_root):
    tree = AndroidTree(open_root, CURVES["constant"])
    if os.getuid() != 0:
        pytest.skip("files of root need root")
    tree.battery.parent.chmod(0o700)
    reason = in_child_as_nobody(open_root, "print(METERS.get('android').available(Path(sys.argv[1])))")
    assert reason == "/sys/class/power_supply may not be read by this user"


def test_auto_tries_the_boards_own_meters_first(tmp_path):
    Ina238Tree(tmp_path, CURVES["constant"])
    assert open_meter("auto:hwmon,ina3221", root=tmp_path).name == "ina3221"


@given(st.lists(st.floats(0, 400), min_size=1, max_size=60), st.floats(0, 0.999), st.floats(500, 300_000))
def test_counter_is_the_running_sum_however_often_it_wraps(steps, start, wraps_at):
    counter, at, total = Unwrapped("the counter", wraps_at), start * wraps_at, 0.0
    assert counter.add(0, at) == 0
    for n, step in enumerate(steps, 1):
        at, total = (at + step) % wraps_at, total + step
        assert counter.add(n * 240_000_000, at) == pytest.approx(total, abs=1e-6)


def test_counter_by_hand():
    counter = Unwrapped("the counter", 100.0)
    readings = [(0, 90.0), (10**9, 99.0), (2 * 10**9, 4.0), (3 * 10**9, 4.0), (4 * 10**9, 30.0)]
    assert [counter.add(t % 10**12 // 100, joules) for t, joules in readings] == pytest.approx([0, 9, 14, 14, 40])
    with pytest.raises(MeterError, match="and it has no wrap"):
        endless = Unwrapped("the counter", None)
        endless.add(0, 5.0)
        endless.add(10**9, 4.0)
