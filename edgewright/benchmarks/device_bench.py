"""Benchmark model files on a board: the same worker as on this machine, run there in fresh processes that take turns."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.artifact import files_of
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.energy import external_energy
from edgewright.benchmarks.power import METERS, Meter, open_meter
from edgewright.devices.device import Device, open_device
from edgewright.errors import DeviceError, MeterError, UsageError
from edgewright.report import Report

__all__ = ["bench_on"]

Progress = Callable[[float, str], None]

log = logging.getLogger("edgewright")

_GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"

_SET_GOVERNOR = """
import glob, json, sys
found = {}
for path in sorted(glob.glob(sys.argv[1])):
    found[path] = open(path).read().strip()
wanted = json.loads(sys.argv[2])
failed = ""
for path in found:
    value = wanted if isinstance(wanted, str) else wanted.get(path, found[path])
    if value != found[path]:
        try:
            open(path, "w").write(value)
        except OSError as error:
            failed = f"{path}: {error.strerror}"
print(json.dumps({"was": found, "failed": failed}))
"""
"""Sets clock governors and tells what they were, with the board's own Python."""


def bench_on(
    board: str,
    files: Sequence[BenchTarget],
    *,
    duration_s: float = 1.0,
    repeats: int = 3,
    wheels: Path | None = None,
    wait_s: float = 0.0,
    timeout_s: float = 600.0,
    idle_gaps: int = 20,
    gap_ms: float = 100.0,
    profile: bool = False,
    meter: str = "auto",
    energy_s: float = 10.0,
    baseline_s: float = 3.0,
    progress: Progress | None = None,
) -> list[Report]:
    """Measure files on a board, which nobody else uses meanwhile.

    The runtime is brought there if it is not there yet, the files go into a folder that is removed at the end. The board's
    clock governor is set to its profile's if that is allowed, and set back; if not, a warning says so.

    Args:
        board: a name that `edgewright devices` lists.
        files: what to measure; an engine of None is the one made for the file's format.
        duration_s: see `bench_many`.
        repeats: see `bench_many`.
        wheels: folder of wheels for a board without NumPy or engine.
        wait_s: seconds to wait for another run that holds the board.
        timeout_s: what one process there may take.
        idle_gaps: see `bench_many`.
        gap_ms: see `bench_many`.
        profile: see `bench_many`.
        meter: one that the board reads, "auto" (those of its profile first), "none", or an instrument beside it that this
            machine reads: `trace:FILE.csv`, `serial:PORT`; such a trace is aligned by markers in the load.
        energy_s: see `bench_many`.
        baseline_s: see `bench_many`.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        One report per file, in order; `settings["device"]` names the board, its profile, transport and address.

    Raises:
        DeviceBusyError: another run holds the board.
        DeviceError: the board cannot be reached, refuses, or went away.
        UsageError: there is no such board or meter.
    """
    external = _external(meter)
    tell = progress or (lambda share, text: None)
    names = ", ".join(dict.fromkeys(Path(target.path).name for target in files))
    with open_device(board, what=f"bench of {names}", wait_s=wait_s, on_wait=lambda text: tell(0.0, text)) as device:
        device.ensure_runtime(wheels, progress=tell)
        with _governor(device) as remark, device.temporary() as folder:
            places = [_pushed(device, Path(target.path), f"{folder}/{at}", tell) for at, target in enumerate(files)]
            there = {id(target): place for target, place in zip(files, places, strict=True)}
            words = ["--idle-gaps", idle_gaps, "--gap-ms", gap_ms, "--energy-seconds", energy_s, "--baseline-seconds", baseline_s]
            words += ["--profile"] if profile else []
            words += ["--meter", "marker" if external else _preferred(device, meter)]

            def measure(target: BenchTarget, settings: Mapping[str, Any]) -> dict[str, Any]:
                command = ["-m", "edgewright.benchmarks", "bench", there[id(target)], "--json"]
                command += ["--engine", target.engine] if target.engine else []
                command += ["--exact"] if target.exact else []
                flags = {"threads": "--threads", "duration_s": "--duration", "warmup_s": "--warmup", "max_runs": "--max-runs"}
                command += [str(word) for name, flag in flags.items() for word in (flag, settings[name])]
                with _beside(meter if external else None) as energy:
                    found = device.json([*command, *map(str, words)], timeout_s=timeout_s)
                    return {**found, "energy": energy(found["energy"])}

            reports = bench_many(files, duration_s=duration_s, repeats=repeats, measure=measure, progress=progress)
        about = {
            "name": device.board.name,
            "title": device.board.title,
            "transport": device.board.transport,
            "address": device.board.address,
            **device.runtime,
        }
    return [
        replace(
            report,
            settings={**report.settings, "device": about, "meter": meter},
            warnings=(*report.warnings, *([remark] if remark else [])),
        )
        for report in reports
    ]


def _external(meter: str) -> bool:
    """Whether a meter is an instrument beside the board, which this machine reads.

    Raises:
        PluginError: there is no such meter.
    """
    name = meter.partition(":")[0]
    return name not in ("auto", "none", "external", "marker") and METERS.get(name).external


def _preferred(device: Device, meter: str) -> str:
    """The board's own meters are tried first."""
    return f"auto:{','.join(device.board.meters)}" if meter == "auto" and device.board.meters else meter


def _pushed(device: Device, path: Path, folder: str, progress: Progress) -> str:
    """A model's files on the board; the path of the model there.

    Raises:
        UsageError: there is no such file.
        DeviceError: it cannot be pushed.
    """
    if not path.is_file():
        raise UsageError(f"there is no model file {path}", hint="pass a .tflite, .onnx or OpenVINO .xml file")
    for file in files_of(path):
        inner = file.relative_to(path.parent).as_posix()

        def told(share: float, name: str = file.name) -> None:
            progress(0.0, f"pushing {name}, {share:.0%}")

        device.transport.push(file, f"{folder}/{inner}", progress=told)
    return f"{folder}/{path.name}"


@contextmanager
def _governor(device: Device) -> Iterator[str]:
    """Have the board's clocks governed as its profile says while the block runs; a remark if that is refused, or empty."""
    wanted = device.board.governor
    if not wanted:
        yield ""
        return
    done = device.json(["-c", _SET_GOVERNOR, _GOVERNORS, json.dumps(wanted)], timeout_s=60)
    remark = ""
    if done["failed"]:
        was = ", ".join(sorted(set(done["was"].values())))
        remark = f"the clock governor of {device.board.name} is {was} and not {wanted}, and could not be set ({done['failed']})"
    try:
        yield remark
    finally:
        if done["was"] and not done["failed"]:
            try:
                device.json(["-c", _SET_GOVERNOR, _GOVERNORS, json.dumps(done["was"])], timeout_s=60)
            except DeviceError as error:
                log.warning("the clock governor of %s was not set back: %s", device.board.name, error.message)


@contextmanager
def _beside(meter: str | None) -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """Read an instrument beside the board while the block runs; what the block is given turns the board's record into energy."""
    if meter is None:
        yield dict
        return
    opened: Meter | None = None
    why = ""
    wall = (time.monotonic_ns(), time.time_ns())
    try:
        opened = open_meter(meter)
        opened.start()
    except MeterError as error:
        opened, why = None, error.message

    def energy(record: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal opened
        if opened is None:
            return {"why_absent": why}
        reading, opened = opened, None
        try:
            trace = reading.stop()
        except MeterError as error:
            return {"why_absent": error.message, "hint": error.hint}
        return external_energy(trace, record, trace_wall_ns_at=wall if trace.clock == "monotonic" else None)

    try:
        yield energy
    finally:
        if opened is not None:
            with suppress(MeterError):
                opened.stop()
