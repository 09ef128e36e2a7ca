"""Benchmark model files on a board: the same worker as on this machine, run there in fresh processes that take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.artifact import files_of
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import DEFAULTS, BenchSettings
from edgewright.benchmarks.comparable import device_of
from edgewright.benchmarks.energy import EXTERNAL, external_energy
from edgewright.benchmarks.power import METERS, Meter, last_reading, newer_than, open_meter
from edgewright.benchmarks.rerun import settings_again, targets_again
from edgewright.devices.boards import Board
from edgewright.devices.device import Device, open_device
from edgewright.errors import DeviceError, MeterError, PluginError, UsageError
from edgewright.report import Report

__all__ = ["bench_on", "is_beside", "measure_again"]

Progress = Callable[[float, str], None]

_FLAGS = {
    **{"threads": "--threads", "warmup_s": "--warmup", "duration_s": "--duration", "max_runs": "--max-runs"},
    **{"idle_gaps": "--idle-gaps", "gap_ms": "--gap-ms", "energy_s": "--energy-seconds", "baseline_s": "--baseline-seconds"},
    "meter_root": "--meter-root",
}
"""Options of `python -m edgewright.benchmarks bench` by argument of `latency.measure`."""


def bench_on(
    board: str | Board,
    files: Sequence[BenchTarget],
    settings: BenchSettings = DEFAULTS,
    *,
    wheels: Path | None = None,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> list[Report]:
    """Measure files on a board, which nobody else uses meanwhile.

    The runtime is brought there if it is not there yet, the files go into a folder that is removed at the end. The board's
    clock governor is set to its profile's if that is allowed, and set back, by the board itself if this run is killed; if it is
    not allowed, a warning says so.

    Args:
        board: a name that `edgewright devices` lists, or a profile.
        files: what to measure; an engine of None is the one made for the file's format.
        settings: what is measured, and how often; with the meter "auto" those of the board's profile are tried first, and the
            trace of an instrument beside it is aligned by markers in the load.
        wheels: folder of wheels for a board without NumPy or engine.
        wait_s: seconds to wait for another run that holds the board.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        One report per file, in order; `settings["device"]` names the board, its profile, transport and address.

    Raises:
        DeviceBusyError: another run holds the board.
        DeviceError: the board cannot be reached, refuses, or went away.
        UsageError: there is no such file, board or meter, or memory is limited; before anything is pushed.
    """
    if settings.limits.memory_bytes is not None:
        raise UsageError("--memory-limit is for processes here, not those on a board", hint="leave it out, or leave out --device")
    meter = settings.meter
    external = is_beside(meter)
    lacking = _lacking(meter) if external else {}
    for target in files:
        if not Path(target.path).is_file():
            raise UsageError(f"there is no model file {target.path}", hint="pass a .tflite, .onnx or OpenVINO .xml file")
    tell = progress or (lambda share, text: None)
    names = ", ".join(dict.fromkeys(Path(target.path).name for target in files))
    with open_device(board, what=f"bench of {names}", wait_s=wait_s, on_wait=lambda text: tell(0.0, text)) as device:
        device.ensure_runtime(wheels, progress=tell)
        with device.governed(settings.meter_root) as remark, device.temporary() as folder:
            places = [_pushed(device, Path(target.path), f"{folder}/{at}", tell) for at, target in enumerate(files)]
            there = {id(target): place for target, place in zip(files, places, strict=True)}
            # One that runs on after this run was killed would take the board's time from the next.
            heard = "stdin" in device.transport.caps
            read_there = "none" if lacking else "marker" if external else _preferred(device, meter)

            def measure(target: BenchTarget, how: Mapping[str, Any]) -> dict[str, Any]:
                command = ["-m", "edgewright.benchmarks", "bench", there[id(target)], "--json", "--meter", read_there]
                command += ["--engine", target.engine] if target.engine else []
                command += ["--exact"] if target.exact else []
                command += ["--profile"] if how["profile"] else []
                command += ["--while-heard"] if heard else []
                command += [str(word) for name, flag in _FLAGS.items() for word in (flag, how[name])]
                beside = meter if external and not lacking else None
                with _in_our_words(target.path, there[id(target)]), _beside(beside) as energy:
                    found = device.json(command, timeout_s=settings.limits.timeout_s, heard=heard)
                    asked = {"settings": {**found["settings"], "meter": meter}}  # not what stood for it on the board
                    return {**found, **asked, "energy": _named(lacking or energy(found["energy"]), device.board.name)}

            reports = bench_many(files, settings, measure=measure, progress=progress)
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
            settings={**report.settings, "device": about},
            warnings=(*report.warnings, *([remark] if remark else [])),
        )
        for report in reports
    ]


@contextmanager
def _in_our_words(path: str | Path, there: str) -> Iterator[None]:
    """Have the board's errors name the file by its path here, and what is to be installed as to be installed there."""
    try:
        yield
    except DeviceError as error:
        hint = f"on the board, or bring it there with --wheels: {error.hint}" if "pip install" in error.hint else error.hint
        raise type(error)(error.message.replace(there, str(path)), hint) from error


def _named(energy: dict[str, Any], board: str) -> dict[str, Any]:
    """A reason in which "this machine" is the board's name: a reader takes it for the one that the report is read on."""
    if "why_absent" not in energy:
        return energy
    return {**energy, "why_absent": energy["why_absent"].replace("on this machine", f"on {board}")}


def is_beside(meter: str) -> bool:
    """Whether a meter is an instrument beside the board, which this machine reads.

    Raises:
        UsageError: there is no such meter, or its option means nothing to it.
    """
    name = meter.strip().partition(":")[0]
    if name in ("auto", "none", *EXTERNAL):
        return False
    if "," in name or "+" in name:
        open_meter(meter)  # says why several are none
    try:
        external = METERS.get(name).external
    except PluginError as error:
        raise UsageError(error.message, error.hint) from error
    if external:
        _lacking(meter)
    return external


def _lacking(meter: str) -> dict[str, Any]:
    """Why an instrument beside the board cannot be read, for the report; empty if it can.

    Raises:
        UsageError: its option means nothing to it.
    """
    try:
        open_meter(meter)
    except MeterError as error:
        return {"why_absent": error.message, "hint": error.hint}
    return {}


def _preferred(device: Device, meter: str) -> str:
    """The board's own meters are tried first."""
    return f"auto:{','.join(device.board.meters)}" if meter == "auto" and device.board.meters else meter


def _pushed(device: Device, path: Path, folder: str, progress: Progress) -> str:
    """A model's files on the board; the path of the model there.

    Raises:
        DeviceError: one cannot be pushed.
    """
    for file in files_of(path):
        inner = file.relative_to(path.parent).as_posix()

        def told(share: float, name: str = file.name) -> None:
            progress(0.0, f"pushing {name}, {share:.0%}")

        device.transport.push(file, f"{folder}/{inner}", progress=told)
    return f"{folder}/{path.name}"


@contextmanager
def _beside(meter: str | None) -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """Read an instrument beside the board while the block runs; what the block is given turns the board's record into energy."""
    if meter is None:
        yield dict
        return
    opened: Meter | None = None
    why: dict[str, Any] = {}
    since = None
    try:
        opened = open_meter(meter)
        since = last_reading(opened)
        opened.start()
    except MeterError as error:
        opened, why = None, {"why_absent": error.message, "hint": error.hint}

    def energy(record: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal opened
        if opened is None or "why_absent" in record:
            return why or dict(record)
        reading, opened = opened, None
        try:
            return external_energy(newer_than(reading.stop(), since), record)
        except MeterError as error:
            return {"why_absent": error.message, "hint": error.hint}

    try:
        yield energy
    finally:
        if opened is not None:
            with suppress(MeterError):
                opened.stop()


def measure_again(
    reports: Sequence[Mapping[str, Any]],
    figures: Sequence[str],
    processes: int,
    progress: Progress | None,
    *,
    wait_s: float = 0.0,
) -> list[Report]:
    """Measure the files of reports again on the board that they were made on, in turns; a `rerun.MeasureAgain`.

    Args:
        reports: of kind "bench", all made on one board.
        figures: those that are wanted; energy and latency after idle gaps are measured only if they are among them.
        processes: how many of each file and thread count.
        progress: called with a share between 0 and 1 and a text.
        wait_s: see `bench_on`.

    Returns:
        One report per report, in order.

    Raises:
        UsageError: they are of several boards, or of none, or a file is gone or has changed.
        DeviceError: what `bench_on` raises.
    """
    how = "measure both anew with 'edgewright bench', one after the other"
    boards = list(dict.fromkeys(device_of(report) or "" for report in reports))
    if len(boards) > 1 or not boards[0]:
        told = " and ".join(name or "this machine" for name in boards)
        raise UsageError(f"the reports were made on {told}, one board is needed to measure again", hint=how)
    settings = settings_again(reports[0], figures, processes)
    return bench_on(boards[0], targets_again(reports, how), settings, progress=progress, wait_s=wait_s)
