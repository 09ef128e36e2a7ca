"""The verbs compress, evaluate, recipes, cache and demo. They parse, call and print; the work is done elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright.commands import Custom, TrustCode, data_of, trust_of
from edgewright.errors import UsageError
from edgewright.options import (
    EngineName,
    Json,
    Limit,
    Memory,
    PreprocessOption,
    SamplesOption,
    Seed,
    Stride,
    Timeout,
    Window,
    invocation_of,
    limits_of,
    origins_of,
    preprocess_of,
)
from edgewright.terminal import progress_bar

__all__ = ["cache", "compress", "demo", "evaluate", "recipes"]


class Task(str, Enum):
    """What a model does."""

    classification = "classification"
    multilabel = "multilabel"
    regression = "regression"
    anomaly = "anomaly"
    detection = "detection"


MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", min=0, help="Fail (exit code 3) below the original by more points (regression: per cent)."),
]
TaskOption = Annotated[
    Task | None, typer.Option("--task", help="What the model does.  [default: found out from labels and outputs]")
]
MetricOption = Annotated[
    str | None, typer.Option("--metric", help="Primary metric, for example f1_macro.  [default: the task's]")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="k of the top-k accuracy.  [default: 3 or 5 by the classes]")]
Threshold = Annotated[float | None, typer.Option("--threshold", help="Score above which a binary decision is positive.")]


DetectionOption = Annotated[
    str | None,
    typer.Option("--detection", help="How boxes are read, if the artifact does not say: head=ssd,...; data: a COCO .json."),
]
CacheFolder = Annotated[Path | None, typer.Option("--cache", help="Folder of finished steps.  [default: ~/.cache/edgewright]")]


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for files and report.")] = Path("out/demo"),
    as_json: Json = False,
) -> None:
    """Compress the shipped wearable-IMU classifier four ways and test each file on people it has never seen."""
    from edgewright.demo import run_demo
    from edgewright.terminal_compress import print_compress, step_bars

    with step_bars() as watch:
        report, written = run_demo(out, watch=watch)
    if as_json:
        invocation_of(context).answer({**report.to_json(), "written": [str(path) for path in written]})
    else:
        print_compress(report, written)


def evaluate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A model file; .tflite, .onnx and .xml run in an engine.")],
    data: Annotated[str, typer.Option("--eval", "-e", help="Labelled data, never trained or calibrated on; as --samples.")],
    against: Annotated[Path | None, typer.Option("--against", "-a", help="The original, to compare with.")] = None,
    max_drop: MaxDrop = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    top_k: TopK = None,
    threshold: Threshold = None,
    detection: DetectionOption = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: PreprocessOption = None,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="Engine for the file.  [default: its format's own]")
    ] = None,
    seed: Seed = 0,
    trust: TrustCode = False,
    custom: Custom = None,
    timeout: Timeout = 1800,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Tell how good a model file is on labelled data, and whom it harms beside the original."""
    from edgewright import evaluation
    from edgewright.data import Data
    from edgewright.detection import Detection
    from edgewright.terminal_compress import print_evaluation

    boxes = Detection.parse(detection) if detection else None

    with progress_bar(f"evaluating {file.name}") as update:
        report = evaluation.evaluate(
            file,
            Data(data, window, stride, preprocess_of(preprocess)),
            against=against,
            judging=evaluation.Judging(task.value if task else None, metric, top_k, threshold, seed, boxes),
            max_drop=max_drop,
            engine=engine.value if engine else None,
            exact=exact,
            trust=trust_of(trust, custom),
            limits=limits_of(timeout, memory_limit),
            progress=update,
        )
    if as_json:
        invocation_of(context).answer({**report.to_json(), "options": origins_of(context)})
    else:
        print_evaluation(report)
    evaluation.require_budget(report.settings["failures"])


def compress(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help=".keras, .h5, SavedModel folder, float .tflite or .onnx.")],
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Recipes, shipped or .toml files; several: int8,float16.  [default: int8]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the files.  [default: MODEL_compressed here]")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Formats to write: tflite,openvino.  [default: the recipe's, else both]")
    ] = None,
    samples: SamplesOption = None,
    data: Annotated[
        str | None, typer.Option("--eval", "-e", help="Labelled data, never trained or calibrated on; as --samples.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="Set an option of a step: -O export.io=int8; several times.")
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", help="Train by your own function in the passes' place, module:function.")
    ] = None,
    max_drop: MaxDrop = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (exit code 4) if a file has lost what a step promised or had achieved.")
    ] = False,
    task: TaskOption = None,
    metric: MetricOption = None,
    top_k: TopK = None,
    threshold: Threshold = None,
    detection: DetectionOption = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: PreprocessOption = None,
    limit: Limit = None,
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Do not measure latency and memory.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what this machine has measured before.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the measured engines.")] = 1,
    duration: Annotated[float, typer.Option("--duration", min=0.001, help="Seconds measured in each process.")] = 1.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Fresh processes per file.")] = 3,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the steps and what they will cost; do nothing.")] = False,
    cache: CacheFolder = None,
    seed: Seed = 0,
    trust: TrustCode = False,
    custom: Custom = None,
    timeout: Timeout = 3600,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Compress a model by recipes: the files, what they are worth on held-out data, how fast they run here, a report."""
    from edgewright import compression, preview, summary
    from edgewright.detection import Detection
    from edgewright.evaluation import Judging, with_boxes
    from edgewright.planning import Settings
    from edgewright.recipe import parse_overrides
    from edgewright.terminal_compress import print_compress, print_plan, step_bars

    boxes = Detection.parse(detection) if detection else None
    settings = Settings(
        judging=with_boxes(Judging(task.value if task else None, metric, top_k, threshold, seed, boxes), None),
        bench=not no_bench,
        bench_s=duration,
        repeats=repeats,
        threads=threads,
        exact=exact,
        fresh=fresh,
        train=train,
        seed=seed,
        trust=trust_of(trust, custom),
        limits=limits_of(timeout, memory_limit),
    )
    if data is None and (task or metric or top_k or threshold is not None or detection):
        raise UsageError(
            "--task, --metric, --top-k, --threshold and --detection say how labelled data are used, but there are none",
            hint="add --eval",
        )
    asked: dict[str, Any] = {
        "recipe": [name.strip() for text in recipe or ["int8"] for name in text.split(",") if name.strip()],
        "to": [name.strip() for name in to.split(",") if name.strip()] if to is not None else None,
        "samples": data_of(samples, window, stride, preprocess, limit, seed, also=data),
        "evaluation": data_of(data, window, stride, preprocess, None, 0, also=samples),
        "overrides": parse_overrides(options or ()),
        "settings": settings,
        "cache": cache,
    }
    folder = out or Path(f"{model.resolve().stem}_compressed")
    if dry_run:
        steps = preview.estimated(model, folder, **asked)
        if as_json:
            invocation_of(context).answer({"steps": steps, "options": origins_of(context)})
        else:
            print_plan(steps)
        return
    with step_bars() as watch:
        report = compression.compress(model, folder, max_drop=max_drop, watch=watch, origins=origins_of(context), **asked)
        written = summary.save_report(report, folder, cache)
    if as_json:
        invocation_of(context).answer({**report.to_json(), "written": [str(path) for path in written]})
    else:
        print_compress(report, written)
    compression.require_success(report, strict=strict)


def recipes(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A recipe to show; none lists all.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: Json = False,
) -> None:
    """List the recipes, or show one."""
    from edgewright.planning import recipe_schema
    from edgewright.recipe import find_recipe, recipe_names
    from edgewright.terminal_compress import print_recipe, print_recipes

    if schema:
        invocation_of(context).answer(recipe_schema())
    elif name is not None:
        found = find_recipe(name)
        invocation_of(context).answer(found.to_json()) if as_json else print_recipe(found)
    else:
        all_of_them = [find_recipe(one) for one in recipe_names()]
        if as_json:
            invocation_of(context).answer({"recipes": [one.to_json() for one in all_of_them]})
        else:
            print_recipes(all_of_them)


class CacheAction(str, Enum):
    """What to do with the cache."""

    list = "list"
    clear = "clear"
    size = "size"


def cache(
    context: typer.Context,
    action: Annotated[CacheAction, typer.Argument(help="list, clear or size.")],
    folder: Annotated[
        Path | None, typer.Option("--cache", help="Folder of finished steps.  [default: ~/.cache/edgewright]")
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Clear only what was not used for so many days.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """List, clear or measure the cache of finished steps."""
    from edgewright.cache import Cache
    from edgewright.terminal_compress import print_cache

    with Cache(folder) as store:
        root = str(store.root)
        if action is CacheAction.clear:
            count, size = store.clear(older_than * 86400)
            found: dict[str, Any] = {"cache": root, "removed": count, "removed_bytes": size}
        elif action is CacheAction.size:
            found = {"cache": root, "entries": len(store.entries()), "bytes": store.size_bytes()}
        else:
            found = {"cache": root, "entries": [entry.to_json() for entry in store.entries()]}
    if as_json:
        invocation_of(context).answer(found)
    else:
        print_cache(found)
