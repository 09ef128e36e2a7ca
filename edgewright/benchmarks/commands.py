"""The verb `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewright.errors import UsageError
from edgewright.options import EngineName, Json, Memory, Timeout, invocation_of, limits_of, origins_of

__all__ = ["bench"]


def bench(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .tflite, .onnx or OpenVINO .xml file.")],
    engine: Annotated[EngineName | None, typer.Option("--engine", help="Engine to run it.  [default: its format's own]")] = None,
    threads: Annotated[str, typer.Option("--threads", help="Threads of one call; several counts as 1,2,4.")] = "1",
    duration: Annotated[float, typer.Option("--duration", min=0.001, help="Seconds of timed inferences in each process.")] = 1.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Fresh processes for each thread count.")] = 3,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    timeout: Timeout = 600,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Measure a model file on this machine: latency, load time, memory, size, each with its interval."""
    from edgewright.benchmarks import bench as benchmarks
    from edgewright.benchmarks.bench_text import print_bench, spinner

    counts = thread_counts(threads)
    with spinner(f"measuring {file.name}") as update:
        report = benchmarks.bench(
            file,
            engine=engine.value if engine else None,
            threads=counts,
            exact=exact,
            duration_s=duration,
            repeats=repeats,
            limits=limits_of(timeout, memory_limit),
            progress=update,
        )
    if as_json:
        invocation_of(context).answer({**report.to_json(), "options": origins_of(context)})
    else:
        print_bench(report)


def thread_counts(text: str) -> tuple[int, ...]:
    """The numbers of `--threads`: "1" or "1,2,4".

    Raises:
        UsageError: one of them is no whole number from 1 to 1024.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise UsageError(f"--threads {text} is no list of whole numbers from 1 to 1024", hint="write for example 1 or 1,2,4")
    return tuple(dict.fromkeys(map(int, parts)))
