"""Files of the kernel's hwmon class: reading numbers, finding a chip by its name again and again, its power."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "Chip",
    "Watt",
    "channels",
    "chips",
    "device",
    "i2c",
    "i2c_hwmon",
    "natural",
    "number",
    "shown",
    "text",
    "unreadable",
    "way_out",
]


_MOVED = {errno.ENOENT, errno.ENODEV, errno.ENXIO}


def text(path: Path) -> str:
    """What a file says, without white space around it; empty if there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float:
    """The number in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else; the message names the file.
    """
    found = path.read_bytes()
    try:
        return float(int(found))
    except ValueError:
        words = found[:40].decode("ascii", "replace").strip()
        raise ValueError(f"{path} holds '{words}', a whole number is expected") from None


def shown(path: Path, root: Path) -> str:
    """A path as the board itself knows it."""
    return f"/{path.relative_to(root)}"


def unreadable(path: Path, root: Path) -> str:
    """Why a number cannot be read from a file; empty if it can."""
    try:
        number(path)
    except PermissionError:
        by_root = path.stat().st_uid == 0 and not path.stat().st_mode & 0o044
        return f"{shown(path, root)} is readable by {'root only' if by_root else 'others only'}"
    except OSError as error:
        return f"{shown(path, root)}: {os.strerror(error.errno) if error.errno else error}"
    except ValueError as error:
        return str(error).replace(str(path), shown(path, root), 1)
    return ""


def way_out(path: Path, root: Path, reason: str) -> str:
    """What to do about a file that is `unreadable` for a reason."""
    if "is readable by" in reason:
        return f"sudo chmod a+r {shown(path, root)}, or run as root"
    return "the driver cannot read the chip; dmesg says why"


def natural(path: Path) -> list[int | str]:
    """Sort key that puts hwmon10 behind hwmon9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def chips(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders of hwmon chips with name and device, for example "ina226" and "1-0040"; the folders' numbers mean nothing."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=natural):
        if name := text(folder / "name"):
            yield folder, name, device(folder)


def device(folder: Path) -> str:
    """What a hwmon chip is attached to, by the kernel's name for it; empty if it does not say."""
    try:
        return (folder / "device").readlink().name
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Watt:
    """Files of one channel of a chip that give its power.

    Attributes:
        channel: the number in the files' names.
        by: "energy" for microjoules of a counter, "power" for microwatts, "product" for millivolts times milliamperes.
        label: the channel's name, empty if it has none.
    """

    channel: int
    by: Literal["energy", "power", "product"]
    label: str = ""

    def files(self, folder: Path) -> tuple[Path, ...]:
        """The files in a chip's folder."""
        n = self.channel
        if self.by == "product":
            return folder / f"in{n}_input", folder / f"curr{n}_input"
        return (folder / f"{self.by}{n}_input",)

    def read(self, folder: Path) -> float:
        """Watts, or joules for "energy".

        Raises:
            OSError, ValueError: a file cannot be read or holds no number.
        """
        values = [number(file) for file in self.files(folder)]
        return values[0] * values[1] * 1e-6 if self.by == "product" else values[0] * 1e-6


def channels(folder: Path) -> list[Watt]:
    """Channels of a chip whose power can be read, each in the best way: counter, power, product."""
    found = []
    numbers = {
        int(match[1]) for file in folder.iterdir() if (match := re.fullmatch(r"(?:energy|power|curr)(\d+)_input", file.name))
    }
    for n in sorted(numbers):
        label = text(folder / f"power{n}_label") or text(folder / f"in{n}_label") or text(folder / f"curr{n}_label")
        for by in ("energy", "power", "product"):
            watt = Watt(n, by, label)
            if all(file.exists() for file in watt.files(folder)):
                found.append(watt)
                break
    return found


class Chip:
    """A chip that is found by what it is, before the first reading and whenever it has moved.

    Args:
        find: looks for it and gives its folder, None if it is not there.
        same: whether what is at a folder now is still the chip; the kernel gives numbers away again.
    """

    def __init__(self, find: Callable[[], Path | None], same: Callable[[Path], bool]) -> None:
        self._find, self._same = find, same
        self._folder = find()
        self.moves = 0

    def read(self, watt: Watt) -> float:
        """Power (or energy) of a channel.

        Raises:
            OSError, ValueError: the chip is gone, or a file cannot be read.
        """
        for _ in range(2):
            if self._folder is not None:
                try:
                    value = watt.read(self._folder)
                    if self._same(self._folder):  # asked after reading: what was read is of this chip
                        return value
                except OSError as error:
                    if error.errno not in _MOVED:
                        raise
            before, self._folder = self._folder, self._find()
            self.moves += self._folder is not None and before != self._folder
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(self._folder or "the chip"))


def i2c(root: Path, name: str) -> list[Path]:
    """Folders of the I2C devices of a name, by their place on the bus, which stays."""
    folders = sorted((root / "sys/bus/i2c/devices").glob("*"), key=natural)
    return [folder for folder in folders if text(folder / "name") == name]


def i2c_hwmon(bus: Path) -> list[Path]:
    """The hwmon folders of an I2C device, under whatever number they are now."""
    return sorted((folder for folder in bus.glob("hwmon/hwmon*") if (folder / "name").exists()), key=natural)
