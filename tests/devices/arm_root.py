"""An arm64 Debian with Python, NumPy and LiteRT that runs under qemu-aarch64: a "Pi 4" without the hardware.

`arm_root()` builds it once into a cache folder ($EDGEWRIGHT_TEST_CACHE, default ~/.cache/edgewright-tests): packages of
Debian by apt with folders of its own and `dpkg -x` (no rights of root needed), wheels by `pip download`. Its `python`
is a script that calls qemu explicitly, for no kernel module is asked for.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PYTHON = "3.11"
WHEELS = ("numpy==2.4.6", "ai-edge-litert==2.3.0")
VERSION = "1"
"""Raise it when what is built changes, so that caches build anew."""

CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Hardware\t: BCM2835
Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


@dataclass(frozen=True)
class ArmRoot:
    """Where things are: the root file system, the command that is its Python, wheels for it."""

    root: Path
    python: Path
    wheels: Path


class ArmRootMissing(Exception):
    """The root cannot be built here; the text says why."""


def cache_folder():
    """Where built roots are kept from one run to the next."""
    chosen = os.environ.get("EDGEWRIGHT_TEST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "edgewright-tests"


def arm_root():
    """The arm64 root, built if it is not there.

    Raises:
        ArmRootMissing: a program is missing, or Debian or the packages cannot be fetched.
    """
    for program in ("qemu-aarch64", "apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise ArmRootMissing(f"{program} is not installed")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"arm64-{VERSION}"
    with (cache / "arm64.lock").open("w") as lock:  # two test runs must not build at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as folder:
                built = Path(folder) / "arm64"
                build(built)
                built.rename(home)
    return ArmRoot(home / "root", home / "python", home / "wheels")


def build(home):
    """Fill an empty folder with `root`, `wheels` and the script `python`."""
    root, wheels = home / "root", home / "wheels"
    root.mkdir(parents=True)
    wheels.mkdir()
    unpack_debian(root, home / "apt")
    shutil.rmtree(home / "apt")
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO)  # LiteRT reads it, and dies on one that is x86's
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 34)]
    flags = [f"--platform={one}" for one in platforms]
    run(
        *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:"),
        *("--python-version", PYTHON, *flags, "-d", wheels, *WHEELS),
    )
    script = home / "python"
    script.write_text(
        f'#!/bin/sh\nhome=$(dirname "$(readlink -f "$0")")\n'
        f'exec qemu-aarch64 -cpu cortex-a72 -L "$home/root" "$home/root/usr/bin/python{PYTHON}" "$@"\n'
    )
    script.chmod(0o755)
    found = run(script, "-c", "import platform, ssl, zlib, ctypes, hashlib; print(platform.machine())").strip()
    if found != "aarch64":
        raise ArmRootMissing(f"the emulated Python says that it runs on {found}")


def unpack_debian(root, apt):
    """Fetch Python and what it needs for arm64 and unpack it."""
    for folder in ("state/lists/partial", "cache/archives/partial", "log"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").write_text("")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Log": apt / "log",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *options, "-q", "update")
    wanted = (f"python{PYTHON}", "libstdc++6")
    run("apt-get", *options, "-q", "-y", "--no-install-recommends", "--download-only", "install", *wanted)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        run("dpkg-deb", "-x", package, root)


def run(*words):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise ArmRootMissing(f"{words[0]} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
