"""The verb `bench`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright.benchmarks.bench_settings import DEFAULTS, BenchSettings
from edgewright.errors import UsageError
from edgewright.options import EngineName, Json, Memory, Timeout, invocation_of, limits_of, origins_of

__all__ = ["bench"]

log = logging.getLogger("edgewright")


def bench(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .tflite, .onnx or OpenVINO .xml file.")],
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="Measure on this board; repeat it for several.  [default: this machine]"),
    ] = None,
    engine: Annotated[EngineName | None, typer.Option("--engine", help="Engine to run it.  [default: its format's own]")] = None,
    threads: Annotated[str, typer.Option("--threads", help="Threads of one call; several counts as 1,2,4.")] = "1",
    duration: Annotated[float, typer.Option("--duration", min=0.001, help="Seconds of timed inferences in each process.")] = (
        DEFAULTS.duration_s
    ),
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Fresh processes for each thread count.")] = DEFAULTS.repeats,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Time every op too, in runs of their own.")] = DEFAULTS.profile,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", help="Fail (exit code 3) if less runs there, in multiply-adds: 'delegate>=95%', 'NPU>=90%'."),
    ] = None,
    idle_gaps: Annotated[int, typer.Option("--idle-gaps", min=0, help="Single inferences after pauses of 100 ms.")] = (
        DEFAULTS.idle_gaps
    ),
    meter: Annotated[
        str,
        typer.Option(
            "--meter",
            help="Power meter: auto, none, rapl, hwmon, ina3221, ina238, pmic, android; "
            "beside the board: trace:FILE.csv, serial:PORT.",
        ),
    ] = DEFAULTS.meter,
    energy_seconds: Annotated[
        float, typer.Option("--energy-seconds", min=0.1, help="Seconds under the meter.")
    ] = DEFAULTS.energy_s,
    estimate_energy: Annotated[
        bool, typer.Option("--estimate-energy", help="Add an estimate from published energies per operation.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report as HTML, JSON, CSV and Markdown.")
    ] = None,
    history: Annotated[bool, typer.Option("--history/--no-history", help="Add the report to the history.")] = True,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="Folder of wheels (NumPy, an engine) for a board that has none.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for another run that holds the board.")] = 0.0,
    timeout: Timeout = 600,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Measure a model file here or on boards: latency, memory, placement, energy, each with its interval or why it is missing."""
    from edgewright.benchmarks.bench import BenchTarget
    from edgewright.benchmarks.bench_run import measure, misplaced
    from edgewright.benchmarks.bench_text import print_bench, spinner
    from edgewright.benchmarks.history import note
    from edgewright.benchmarks.placement import parse_expectation

    expectations = [parse_expectation(text) for text in expect or ()]
    target = BenchTarget(file, engine.value if engine else None, thread_counts(threads), exact)
    settings = BenchSettings(
        duration_s=duration,
        repeats=repeats,
        idle_gaps=idle_gaps,
        profile=profile,
        meter=meter,
        energy_s=energy_seconds,
        limits=limits_of(timeout, memory_limit),
    )
    boards = list(dict.fromkeys(device or ()))
    with spinner(f"measuring {file.name}") as update:
        reports, failed = measure(
            target,
            settings,
            boards=boards,
            wheels=wheels,
            wait_s=wait,
            estimated=estimate_energy,
            progress=update,
            finished=note if history else None,
        )
    written: list[Path] = []
    if out is not None and reports:
        from edgewright.benchmarks.bench_save import save_bench

        written = save_bench(reports, out)
    if as_json and reports:
        plain = [report.to_json() for report in reports]
        document: dict[str, Any] = plain[0] if len(boards) <= 1 else {"reports": plain}
        lost = {name: {**error.to_json(), "exit_code": error.exit_code} for name, error in failed.items()}
        invocation_of(context).answer({**document, **({"failed": lost} if lost else {}), "options": origins_of(context)})
    elif not as_json:
        for report in reports:
            print_bench(report)
        if written:
            typer.echo("\n".join(map(str, written)))
    errors = [*failed.values(), *misplaced(reports, expectations)]
    for error in errors[1:]:
        log.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
    if errors:
        raise errors[0]


def thread_counts(text: str) -> tuple[int, ...]:
    """The numbers of `--threads`: "1" or "1,2,4".

    Raises:
        UsageError: one of them is no whole number from 1 to 1024.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise UsageError(f"--threads {text} is no list of whole numbers from 1 to 1024", hint="write for example 1 or 1,2,4")
    return tuple(dict.fromkeys(map(int, parts)))
