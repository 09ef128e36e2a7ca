"""Folders as every power meter's kernel driver shows them, with a known power curve played into them.

`tree.play(seconds)` puts the files into the state that the device has then; `with live(tree): ...` does it by the real clock in
a thread. A tree's `joules(begin, end)` is the analytic integral of what it plays.
"""

import math
import os
import shutil
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

_WIDTH = 32


@dataclass(frozen=True)
class Constant:
    """The same power all the time."""

    level: float

    def watts(self, t):
        return self.level

    def integral(self, t):
        return self.level * t


@dataclass(frozen=True)
class Steps:
    """Powers one after the other: ((seconds, watts), ...) from 0 on; the last one stays."""

    levels: tuple

    def watts(self, t):
        return [level for begin, level in self.levels if begin <= t or begin == 0][-1]

    def integral(self, t):
        ends = [begin for begin, _ in self.levels[1:]] + [math.inf]
        return sum(level * max(0.0, min(t, end) - begin) for (begin, level), end in zip(self.levels, ends, strict=True))


@dataclass(frozen=True)
class Sine:
    """mean + swing * sin(2 pi t / period)."""

    mean: float
    swing: float
    period: float

    def watts(self, t):
        return self.mean + self.swing * math.sin(2 * math.pi * t / self.period)

    def integral(self, t):
        w = 2 * math.pi / self.period
        return self.mean * t + self.swing / w * (1 - math.cos(w * t))


def write(path, value):
    """One kernel attribute, in one piece: a reader in another thread sees the old or the new one, never a part."""
    text = f"{value}\n"
    if len(text) <= _WIDTH:
        try:
            file = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            pass
        else:
            os.pwrite(file, text.rjust(_WIDTH).encode(), 0)
            os.close(file)
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text.rjust(_WIDTH))
    new.replace(path)


class Tree:
    """A device whose power follows a curve."""

    meter = ""
    wanted = ""
    """Option to open it with."""

    def __init__(self, root, curve):
        self.root, self.curve = Path(root), curve
        self.build()
        self.play(0.0)

    def build(self):
        """Files that do not change."""

    def play(self, t):
        """Files at a moment."""
        raise NotImplementedError

    def watts(self, t):
        """The power that is played."""
        return self.curve.watts(t)

    def joules(self, begin, end):
        """Its energy over a span."""
        return self.curve.integral(end) - self.curve.integral(begin)


class RaplTree(Tree):
    """Packages, parts of packages and psys; the curve is played into `plays` ("package-0"), the others get half of it.

    Args:
        packages: how many.
        psys: whether there is a psys domain.
        offset: joules on the counter at 0 s.
        wraps_at: joules at which it begins again.
    """

    meter = "rapl"
    unit = 2.0**-14

    def __init__(
        self, root, curve, *, packages=1, psys=False, plays="package-0", offset=1000.0, wraps_at=262143.328850, lag_s=0.001
    ):
        self.packages, self.psys, self.plays, self.lag_s = packages, psys, plays, lag_s
        self.offset, self.wraps_at = offset, wraps_at
        super().__init__(root, curve)

    def build(self):
        names = {f"intel-rapl:{n}": f"package-{n}" for n in range(self.packages)}
        names |= {f"intel-rapl:{n}:{k}": part for n in range(self.packages) for k, part in enumerate(("core", "dram"))}
        names |= {f"intel-rapl:{self.packages}": "psys"} if self.psys else {}
        self.domains = {}
        for folder, name in names.items():
            base = self.root / "sys/class/powercap" / folder
            write(base / "name", name)
            write(base / "max_energy_range_uj", round(self.wraps_at * 1e6))
            self.domains[f"package-{folder.split(':')[1]}/{name}" if folder.count(":") == 2 else name] = base
        (self.root / "sys/class/powercap/intel-rapl").mkdir()

    def play(self, t):
        t = math.floor(t / self.lag_s + 1e-6) * self.lag_s if self.lag_s else t
        for name, base in self.domains.items():
            joules = self.offset + self.curve.integral(t) * (1 if name == self.plays else 0.5)
            units = math.floor(joules / self.unit) % math.floor(self.wraps_at / self.unit)
            write(base / "energy_uj", round(units * self.unit * 1e6))


class HwmonTree(Tree):
    """An INA226 on an I2C bus among other chips.

    Args:
        by: "power", "energy" or "product": what files the chip has.
        volts: of the supply, for "product".
    """

    meter = "hwmon"

    def __init__(self, root, curve, *, by="power", number=3, name="ina226", device="1-0040", volts=5.0, update_ms=2):
        self.by, self.number, self.name, self.device, self.volts, self.update_ms = by, number, name, device, volts, update_ms
        super().__init__(root, curve)

    def build(self):
        self.place(0, "cpu_thermal", "thermal_zone0", {"temp1_input": 48312})
        self.place(1, "nvme", "nvme0", {"temp1_input": 39850, "temp1_label": "Composite"})
        self.place(self.number, self.name, self.device, {"shunt_resistor": 10000, "update_interval": self.update_ms})

    def place(self, number, name, device, files):
        """A chip under a number."""
        folder = self.root / f"sys/class/hwmon/hwmon{number}"
        home = self.root / f"sys/devices/{device}"
        home.mkdir(parents=True, exist_ok=True)
        for file, value in {"name": name, **files}.items():
            write(folder / file, value)
        (folder / "device").symlink_to(os.path.relpath(home, folder))

    def folder(self):
        return self.root / f"sys/class/hwmon/hwmon{self.number}"

    def renumber(self, number, *, decoy=True):
        """The kernel numbers the chips anew; another chip of the same files takes the old number."""
        old, self.number = self.folder(), number
        shutil.move(old, self.folder())
        if decoy:
            old_number = int(old.name.removeprefix("hwmon"))
            wrong = {"power1_input": 99_000_000, "energy1_input": 99_000_000, "in1_input": 9000, "curr1_input": 9000}
            self.place(old_number, "ina226", "7-0055", wrong)

    def play(self, t):
        folder = self.folder()
        if self.by == "energy":
            write(folder / "energy1_input", round((77.0 + self.curve.integral(t)) * 1e6))
        elif self.by == "power":
            write(folder / "power1_input", round(self.watts(t) * 1e6 / 6250) * 6250)
        else:
            write(folder / "in0_input", 3)
            write(folder / "in1_input", round(self.volts * 1e3))
            write(folder / "curr1_input", round(self.watts(t) / self.volts * 1e3))


class Ina3221Tree(Tree):
    """A Jetson board: "orin_nx" and "agx_orin" with hwmon, "nano" with iio as in JetPack 4. The curve is on the primary rail."""

    meter = "ina3221"
    boards: ClassVar = {
        "orin_nx": {"1-0040": ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")},
        "agx_orin": {"1-0040": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "1-0041": ("NC", "VDDQ_VDD2_1V8AO", "NC")},
        "nano": {"6-0040": ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")},
    }

    def __init__(self, root, curve, *, board="orin_nx", number=4):
        self.board, self.number = board, number
        super().__init__(root, curve)

    def build(self):
        write(self.root / "sys/bus/i2c/devices/0-0050/name", "24c02")
        for k, (bus, labels) in enumerate(self.boards[self.board].items()):
            base = self.root / "sys/bus/i2c/devices" / bus
            write(base / "name", "ina3221x" if self.board == "nano" else "ina3221")
            for n, label in enumerate(labels):
                if self.board == "nano":
                    write(base / f"iio:device{k}/rail_name_{n}", label)
                else:
                    write(self.hwmon(base, k) / "name", "ina3221")
                    write(self.hwmon(base, k) / f"in{n + 1}_label", label)

    def hwmon(self, base, k):
        return base / f"hwmon/hwmon{self.number + k}"

    def renumber(self, number):
        base = self.root / "sys/bus/i2c/devices" / next(iter(self.boards[self.board]))
        old, self.number = self.hwmon(base, 0), number
        old.rename(self.hwmon(base, 0))

    def play(self, t):
        for k, (bus, labels) in enumerate(self.boards[self.board].items()):
            base = self.root / "sys/bus/i2c/devices" / bus
            for n, label in enumerate(labels):
                watts = self.watts(t) * (1.0 if (k, n) == (0, 0) else 0.3)
                if self.board == "nano":
                    write(base / f"iio:device{k}/in_power{n}_input", round(watts * 1e3))
                elif label != "NC":
                    write(self.hwmon(base, k) / f"in{n + 1}_input", 5000)
                    write(self.hwmon(base, k) / f"curr{n + 1}_input", round(watts / 5.0 * 1e3))


class Ina238Tree(Tree):
    """A Jetson Thor: an INA238 at the input and an INA3221 behind it."""

    meter = "ina238"

    def build(self):
        self.base = self.root / "sys/bus/i2c/devices/2-0044"
        write(self.base / "name", "ina238")
        write(self.base / "hwmon/hwmon5/name", "ina238")
        write(self.base / "hwmon/hwmon5/in1_input", 19000)
        self.rails = Ina3221Tree(self.root, self.curve, board="agx_orin")

    def play(self, t):
        self.rails.play(t)
        write(self.base / "hwmon/hwmon5/power1_input", round(self.watts(t) * 1e6 / 1000) * 1000)


class PmicTree(Tree):
    """A Raspberry Pi 5 whose vcgencmd is a script that prints a file; a Pi 4's prints voltages only."""

    meter = "pmic"
    rails = ("3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "VDD_CORE", "HDMI")
    volts = (3.7, 3.3, 1.8, 1.1, 0.85, 5.1)
    shares = (0.05, 0.2, 0.15, 0.1, 0.45, 0.05)

    def __init__(self, root, curve, *, currents=True, model="Raspberry Pi 5 Model B Rev 1.0"):
        self.currents, self.model = currents, model
        super().__init__(root, curve)

    def build(self):
        write(self.root / "proc/device-tree/model", f"{self.model}\0")
        self.answer = self.root / "answer"
        program = self.root / "usr/bin/vcgencmd"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\ntest "$1" = pmic_read_adc || exit 2\nexec cat "{self.answer}"\n')
        program.chmod(0o755)

    def play(self, t):
        lines = []
        for n, (rail, volts, share) in enumerate(zip(self.rails, self.volts, self.shares, strict=True)):
            if self.currents:
                lines.append(f"{rail + '_A':>16} current({n})={self.watts(t) * share / volts:.8f}A")
            lines.append(f"{rail + '_V':>16} volt({n + 8})={volts:.8f}V")
        lines += ["         EXT5V_V volt(24)=5.15488000V", "          BATT_V volt(25)=0.00000000V"]
        write(self.answer, "\n".join(lines))


class AndroidTree(Tree):
    """A phone on its battery.

    Args:
        unit: of current_now, "ua" or "ma".
        sign: of current_now while discharging.
        counter: whether charge_counter moves.
    """

    meter = "android"
    volts = 3.85

    def __init__(self, root, curve, *, unit="ua", sign=-1, counter=True, status="Discharging", usb_online=0):
        self.unit, self.sign, self.counter, self.status, self.usb_online = unit, sign, counter, status, usb_online
        super().__init__(root, curve)

    def build(self):
        base = self.root / "sys/class/power_supply"
        self.battery = base / "battery"
        write(self.battery / "type", "Battery")
        write(base / "usb/type", "USB")
        write(base / "bms/type", "Battery")
        write(base / "wireless/type", "Wireless")
        write(base / "wireless/online", 0)

    def play(self, t):
        amps = self.watts(t) / self.volts
        write(self.battery / "status", self.status)
        write(self.battery.parent / "usb/online", self.usb_online)
        write(self.battery / "voltage_now", round(self.volts * 1e6))
        write(self.battery / "current_now", round(self.sign * amps * (1e6 if self.unit == "ua" else 1e3)))
        if self.counter:
            write(self.battery / "charge_counter", round(3_200_000 - self.curve.integral(t) / self.volts / 3600e-6))


class CsvTree(Tree):
    """A file that an external meter writes, a row every 2 ms; `play` writes the rows up to a moment."""

    meter = "trace"
    period = 0.002

    def __init__(self, root, curve, *, header="t_s,watts", row="{t:.6f},{w:.6f}"):
        self.header, self.row, self.file, self.written = header, row, Path(root) / "power.csv", -1
        super().__init__(root, curve)

    @property
    def wanted(self):
        return f"{self.file}?clock=monotonic"

    def build(self):
        self.file.write_text(f"{self.header}\n")

    def play(self, t, start_s=5000.0):
        with self.file.open("a") as out:
            while (self.written + 1) * self.period <= t + 1e-9:
                self.written += 1
                at = self.written * self.period
                out.write(self.row.format(t=at + start_s, w=self.watts(at)) + "\n")


@contextmanager
def live(tree, step_s=0.002):
    """Play a tree by the real clock from now on, in a thread; gives the moment of its beginning, of `time.monotonic_ns`."""
    done, begin_ns = threading.Event(), time.monotonic_ns()

    def run():
        while not done.wait(step_s):
            tree.play((time.monotonic_ns() - begin_ns) / 1e9)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield begin_ns
    finally:
        done.set()
        thread.join()


def readable_by_root_only(path):
    """As the kernel sets it for the counters of energy."""
    path.chmod(stat.S_IRUSR)
