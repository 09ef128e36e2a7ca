"""What a run will do and cost, found out without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgewright.artifact import raw_bytes
from edgewright.cache import Cache
from edgewright.compression import data_of, find_all, own_engine, takers
from edgewright.data import Data
from edgewright.estimates import estimate
from edgewright.pipeline import Pending, Run
from edgewright.planning import (
    BASELINE,
    Export,
    PlannedStep,
    Settings,
    Watch,
    evaluate_title,
    lower_title,
    make_exports,
    pass_title,
    run_title,
)
from edgewright.recipe import Recipe

__all__ = ["estimated", "plan"]


def estimated(
    model: str | Path,
    out: str | Path,
    *,
    recipe: str | Recipe | Sequence[str | Recipe] = "int8",
    to: Sequence[str] | None = None,
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    evaluation: Data | str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Settings | None = None,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """The steps of a run and what they will cost, without doing any of them; TensorFlow is not loaded.

    Arguments and errors are those of `compress`.

    Returns:
        For each step: what, kind, options, whether it is in the cache, and estimates of seconds and memory_bytes with
        their origin.
    """
    path = Path(model)
    chosen = replace(settings or Settings(), samples=data_of(samples), evaluation=data_of(evaluation))
    exports, _ = make_exports(path, Path(out), recipe, to, overrides or {}, chosen)
    with Cache(cache) as store, Run(path, chosen, store, dry=True) as run:
        earlier = store.entries()
        steps = [(step, estimate(step, earlier, chosen)) for step in plan(run, exports)]
    return [
        {
            "what": step.what,
            "kind": step.kind,
            "options": dict(step.options),
            "cached": bool(step.reused),
            "seconds": cost.seconds,
            "memory_bytes": cost.memory_bytes,
            "origin": "estimated",
            "from": cost.origin,
        }
        for step, cost in steps
    ]


def plan(run: Run, exports: Sequence[Export]) -> list[PlannedStep]:
    """Every step of a run, in order, and whether its result is in the cache; nothing is done.

    Args:
        run: a dry run.
        exports: what is to be made.
    """
    seen: dict[str, PlannedStep] = {}

    class Look(Watch):
        def end(self, step: PlannedStep, seconds: float) -> None:
            seen.setdefault(step.what, step)

    run.watch = Look()
    with suppress(Pending):
        find_all(run, exports, Path(), ())
    return [
        replace(seen.get(step.what, step), reused=step.what in seen and seen[step.what].reused) for step in _steps(run, exports)
    ]


def _steps(run: Run, exports: Sequence[Export]) -> list[PlannedStep]:
    """Every step of a run by name, as `_find` does them."""
    model, steps = run.model, list[PlannedStep]()
    size = raw_bytes(model)
    if run.trains:
        how = exports[0].lowering
        steps.append(PlannedStep(lower_title(model, how.batch or 1, False), "lower", {}, size))
    for export in exports:
        source = model
        for name, step in export.passes:
            steps.append(PlannedStep(pass_title(name, source), f"pass:{name}", asdict(step.options), size))
            source = Path(f"{model.stem}.keras")
        if run.trains:
            batch = 1 if export.lowering.batch is None and export.target == "tflite" else export.lowering.batch
            steps.append(PlannedStep(lower_title(source, batch, False), "lower", asdict(export.lowering), size))
        options = asdict(export.writer.options)
        steps.append(PlannedStep(f"write {export.name}", f"export:{export.target}", options, size))
    baseline = Path(f"{model.stem}_{BASELINE}.tflite") if run.trains else model
    engines = [own_engine(export.writer.produces) for export in exports]
    sides = [
        *((baseline, None if name == own_engine(run.baseline_format) else name) for name in takers(run.baseline_format, engines)),
        *((Path(export.name), None) for export in exports),
    ]
    runs = dict.fromkeys([(model, None), *sides])
    steps += [PlannedStep(run_title(path, engine), "outputs", {}, size) for path, engine in runs]
    if run.settings.evaluation is not None:
        steps += [PlannedStep(evaluate_title(path, engine), "evaluate") for path, engine in runs]
    if run.settings.bench:
        steps.append(PlannedStep(f"measure {len(sides)} files", "bench", {"files": len(sides)}))
    return list({step.what: step for step in steps}.values())
