"""The verbs `compare` and `history`."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewright.errors import DeviceError, RegressionError, UsageError
from edgewright.options import Json, invocation_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from edgewright.benchmarks.compare import Comparison
    from edgewright.benchmarks.gate import Limit
    from edgewright.benchmarks.rerun import MeasureAgain

__all__ = ["compare", "history"]

log = logging.getLogger("edgewright")


def compare(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="The earlier report: what 'edgewright bench MODEL --json' printed.")],
    b: Annotated[Path, typer.Argument(help="The later one.")],
    max_regression: Annotated[
        list[str] | None,
        typer.Option(
            "--max-regression", help="How much worse a figure may be: p90=5%. Repeat it for more; p90 alone allows 5 %."
        ),
    ] = None,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun/--no-rerun",
            help="Where a figure is not clearly within its limit, measure both files again, in turns, if they are there: that "
            "decides. Or judge by the two reports alone.",
        ),
    ] = True,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, help="Seconds to wait for another run that holds the board, where it is measured again."),
    ] = 0.0,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="What may differ beside the model in spite of limits: machine, engine, library, ..., all."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail too where a limit is undecided.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two benchmark reports; with limits, fail (exit code 5) when a figure became worse by more than it may."""
    from edgewright.benchmarks.compare import compare as compared
    from edgewright.benchmarks.compare import read_report
    from edgewright.benchmarks.compare_text import alarm_text, print_comparison, undecided_text

    limits = limits_of_texts(max_regression or ())
    allowed = [name.strip() for text in allow or () for name in text.split(",")]
    reports = (read_report(a), read_report(b))
    found = compared(*reports, limits, allow=allowed)
    if rerun and found.doubtful:
        found = _again(reports, limits, allowed, found, wait)
    if as_json:
        invocation_of(context).answer(found.to_json())
    else:
        print_comparison(found)
    undecided = [undecided_text(change) for change in found.changes if change.verdict == "undecided"]
    if found.verdict == "regressed":
        hint = "" if rerun else "without --no-rerun both files are measured again before an alarm is raised"
        raise RegressionError(alarm_text(found.regressed), hint=hint)
    if undecided and strict:
        raise RegressionError(f"undecided: {'; '.join(undecided)}", hint="measure with more processes, or leave out --strict")
    for text in undecided:
        log.warning("undecided: %s", text)


def limits_of_texts(texts: Sequence[str]) -> dict[str, Limit]:
    """The limits of `--max-regression`, by figure; a text may hold several, with commas between.

    Raises:
        UsageError: one cannot be read, or a figure has two.
    """
    from edgewright.benchmarks.gate import parse_limit

    limits: dict[str, Limit] = {}
    for part in ",".join(texts).split(",") if texts else ():
        limit = parse_limit(part)
        if limit.figure in limits:
            raise UsageError(f"--max-regression has two limits of {limit.figure}", hint="keep one of them")
        limits[limit.figure] = limit
    return limits


def _again(
    reports: tuple[Mapping[str, Any], Mapping[str, Any]],
    limits: Mapping[str, Limit],
    allowed: Sequence[str],
    first: Comparison,
    wait_s: float,
) -> Comparison:
    """The comparison after both files were measured again; the first one, with a warning, where they cannot be."""
    from edgewright.benchmarks.bench_text import spinner
    from edgewright.benchmarks.comparable import device_of
    from edgewright.benchmarks.rerun import rerun

    measure: MeasureAgain | None = None
    if device_of(reports[0]):
        from edgewright.benchmarks.device_bench import measure_again

        measure = partial(measure_again, wait_s=wait_s)
    try:
        with spinner("measuring both files again") as update:
            return rerun(*reports, limits, allow=allowed, measure=measure, progress=update)
    except (UsageError, DeviceError) as error:
        log.warning("not measured again: %s", error.message)
        return first


def history(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="File name, or the start of its sha256.  [default: list what there is]")
    ] = None,
    device: Annotated[str | None, typer.Argument(help="Where it was measured: local, or a board's name.  [default: all]")] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Figure whose change is shown: p50, p90, p99, mean, load, energy, ...")
    ] = "p90",
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the metric over time into this SVG file.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Only so many measurements, the latest.")] = 50,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Rename the history, so that a new one begins; nothing is deleted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how a model's figures changed from benchmark to benchmark: a table, a line of blocks, a plot."""
    from edgewright.artifact import write_atomic
    from edgewright.benchmarks import history as store
    from edgewright.benchmarks.compare_text import print_history, print_series
    from edgewright.benchmarks.history_plot import history_svg
    from edgewright.benchmarks.history_points import points_of

    invocation = invocation_of(context)
    file = store.history_file()
    if set_aside:
        moved = store.set_aside(file)
        if as_json:
            invocation.answer({"file": str(file), "set_aside": str(moved)})
        else:
            sys.stdout.write(f"{file} is now {moved.name}\n")
        return
    if not file.is_file():
        raise UsageError(f"there is no history yet ({file})", hint="every 'edgewright bench' adds its report")
    if plot is not None and model is None:
        raise UsageError("--plot needs a model", hint="'edgewright history' lists what there is")
    with store.History(file) as kept:
        if model is None:
            series = kept.series()
            if as_json:
                keys = ("model", "device", "engine", "count", "last")
                invocation.answer({"file": str(file), "series": [{key: getattr(one, key) for key in keys} for one in series]})
            else:
                print_series(series)
            return
        points = points_of(kept.query(model, device), metric)[-limit:]
    if plot is not None:
        write_atomic(plot, history_svg(points, metric).encode())
        log.warning("the plot is in %s", plot)
    if as_json:
        invocation.answer({"file": str(file), "metric": metric, "points": [point.to_json() for point in points]})
    else:
        print_history(points, metric)
