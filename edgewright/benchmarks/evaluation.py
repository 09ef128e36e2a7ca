"""How good a file's outputs are on labelled data, beside the original's on the same data; a job for a child process."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.benchmarks.accuracy import PRIMARY, metric_names, task_metrics
from edgewright.benchmarks.groups import Pair, class_groups, find_flips, slice_groups
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.samples import Samples, SamplesSpec, open_samples
from edgewright.tasks import (
    Scored,
    check_task,
    infer_task,
    labels_of,
    reconstruction_scores,
    require_finite,
    scores_of,
)
from edgewright.worker import progress

__all__ = ["ENOUGH", "ENOUGH_PER_CLASS", "evaluate_outputs", "load_outputs", "matched_outputs"]

Array = np.ndarray[Any, Any]

ENOUGH = 100
"""With fewer evaluation samples, figures carry a warning."""

ENOUGH_PER_CLASS = 20
"""With fewer samples of a class, its figures carry a warning."""

_BATCH = 32  # samples that are compared at a time with their reconstructions

_LABELS = (
    "labels are 'y' or 'y:<output>' in an .npz, a column 'y' or 'label' in a .csv, class folders of images, or the second "
    "item that a function gives"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Output:
    """One output that there are labels for: raw values of both models, shape (samples, ...), and raw labels."""

    name: str
    task: str
    labels: Array
    file: Array
    original: Array | None


@dataclass(frozen=True, slots=True)
class _Remarks:
    """What is said beside the figures."""

    warnings: list[str]
    notes: list[str]


def evaluate_outputs(
    candidate: str,
    reference: str | None,
    samples: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    reference_outputs: Sequence[Mapping[str, Any]] | None = None,
    *,
    task: str | None = None,
    metric: str | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Figures, groups and flips of a file's outputs on labelled samples.

    Args:
        candidate: the file's outputs as `engine_outputs` writes them: an .npz with the arrays "0", "1", ... of real numbers in
            the outputs' order, whose first axis is all samples in their own order.
        reference: the original's outputs on the same samples, likewise; None leaves changes and flips out.
        samples: JSON of a `SamplesSpec` whose samples have labels.
        inputs: JSON of the file's `TensorSpec`s.
        outputs: JSON of the file's output `TensorSpec`s.
        reference_outputs: JSON of the original's, matched by name, or by position if the names differ.
        task: one of `edgewright.tasks.TASKS` for every output with labels; None infers it per output.
        metric: name of the primary figure; None takes the task's own.
        top_k: the k of top-k accuracy; see `metric_names`.
        threshold: scores above it decide for 1, for one score per sample, multilabel and anomalies; None takes 0.5 or 0
            (`default_threshold`), or `youden_threshold` for anomalies, from the original's scores if there is an original.
        seed: of the bootstrap.
        class_names: names of the model's classes in output order; None if not known.

    Returns:
        JSON: task (of the primary output), primary {name, subject}, metrics (`Metric.to_json`, subject is the output), groups
        (`GroupChange`: classes of all outputs, then slices of the primary figure), flips (`Flips`, or None), thresholds (by
        output), warnings, notes, samples (in words), count.

    Raises:
        SamplesError: there are no labels, or they do not fit; ShapeError where it is their shape.
        EdgewrightError: an output holds NaN or infinite values.
        UsageError: the task, metric or top_k is unknown or does not apply.
        MissingPackageError: scikit-learn is not installed.
    """
    specs = tuple(_free_batch(TensorSpec.from_json(spec)) for spec in inputs)
    opened = open_samples(SamplesSpec.from_json(samples), specs)
    names, names_before = ([spec["name"] for spec in given or ()] for given in (outputs, reference_outputs))
    file = load_outputs(candidate, names, len(opened))
    before = (
        None
        if reference is None
        else matched_outputs(names, file, names_before, load_outputs(reference, names_before, len(opened)))
    )
    remarks = _Remarks([], [])
    labelled = _labelled(opened, names, file, before, task, Path(candidate).name, remarks)
    pairs = _pairs(labelled, opened, threshold, tuple(class_names or ()), remarks)
    figures = {pair.output: metric_names(pair.file, top_k) for pair in pairs}
    primary, name = _primary(pairs, figures, metric)
    _warn_of_few(pairs, remarks)
    metrics = []
    for at, pair in enumerate(pairs):
        progress(at / len(pairs), f"figures of output '{pair.output}' over {len(opened)} samples")
        metrics += task_metrics(pair.file, pair.original, subject=pair.output, names=figures[pair.output], seed=seed)
    groups, left_out = slice_groups(primary, opened.slices, name, seed=seed)
    remarks.warnings.extend(left_out)
    flips = find_flips(pairs, opened.slices)
    plain = None if flips is None else asdict(flips)
    return {
        "task": primary.file.task,
        "primary": {"name": name, "subject": primary.output},
        "metrics": [found.to_json() for found in metrics],
        "groups": [asdict(group) for group in [*class_groups(pairs, seed=seed), *groups]],
        "flips": plain and {**plain, "listed": list(plain["listed"])},
        "thresholds": {pair.output: pair.file.threshold for pair in pairs if pair.file.threshold is not None},
        "warnings": remarks.warnings,
        "notes": remarks.notes,
        "samples": opened.describe(),
        "count": len(opened),
    }


def _free_batch(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(None, *spec.shape[1:]))


# --- arrays -----------------------------------------------------------------------------------------------------------


def load_outputs(path: str, names: Sequence[str], samples: int) -> list[Array]:
    """A model's outputs from an .npz, in order."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for at, name in enumerate(names) if str(at) not in archive.files]
            arrays = [] if missing else [archive[str(at)] for at in range(len(names))]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SamplesError(f"{path} holds no readable outputs: {error}") from error
    if missing:
        raise SamplesError(f"{path} holds no array for the output {', '.join(missing)}")
    for name, values in zip(names, arrays, strict=True):
        if not values.ndim or len(values) != samples:
            raise ShapeError(f"output '{name}' in {path} has shape {values.shape}, there are {samples} samples")
    return arrays


def matched_outputs(
    names: Sequence[str], file: Sequence[Array], names_before: Sequence[str], before: Sequence[Array]
) -> list[Array]:
    """The original's outputs in the file's order, matched by name, or by position if the names differ."""
    if len(names) != len(names_before):
        raise ShapeError(f"the file has the outputs {', '.join(names)}, the original has {', '.join(names_before)}")
    by_name = set(names) == set(names_before)
    found = [before[names_before.index(name) if by_name else at] for at, name in enumerate(names)]
    for name, ours, theirs in zip(names, file, found, strict=True):
        if _bare_shape(ours) != _bare_shape(theirs):
            raise ShapeError(f"output '{name}' has shape {ours.shape}, the original's has {theirs.shape}")
    return found


def _bare_shape(values: Array) -> tuple[int, ...]:
    return (len(values), *(size for size in values.shape[1:] if size != 1))


# --- labels -----------------------------------------------------------------------------------------------------------


def _labelled(
    opened: Samples,
    names: Sequence[str],
    file: Sequence[Array],
    before: Sequence[Array] | None,
    task: str | None,
    whose: str,
    remarks: _Remarks,
) -> list[_Output]:
    """The outputs that there are labels for, in the model's order, with their tasks."""
    shape = next(iter(opened))[opened.inputs[0]].shape[1:] if len(opened.inputs) == 1 else None
    labels = _by_output(opened, names, file, task, shape)
    skipped = [name for name in names if name not in labels]
    if skipped:
        remarks.warnings.append(f"there are no labels for the output {', '.join(skipped)}: it is not evaluated")
    found = []
    for at, name in enumerate(names):
        if name in labels:
            require_finite(file[at], name, whose)
            original = None if before is None else before[at]
            if original is not None:
                require_finite(original, name, "the original")
            found.append(_Output(name, _task_of(task, labels[name], file[at], shape, name), labels[name], file[at], original))
    return found


def _task_of(task: str | None, labels: Array, outputs: Array, shape: tuple[int, ...] | None, name: str) -> str:
    if task is None:
        return infer_task(labels, outputs, shape, output=name)
    check_task(task, labels, outputs, shape, output=name)
    return task


def _by_output(
    opened: Samples, names: Sequence[str], file: Sequence[Array], task: str | None, shape: tuple[int, ...] | None
) -> dict[str, Array]:
    """Labels by output; those that name no output go to the only one that they fit."""
    if not opened.labels:
        raise SamplesError(f"there are no labels in {opened.describe()}", hint=_LABELS)
    labels = {name: values for name, values in opened.labels.items() if name in names}
    unknown = [name for name in opened.labels if name not in labels and name != "y"]
    if unknown:
        raise SamplesError(
            f"there are labels for {', '.join(unknown)}, the model has the outputs {', '.join(names)}", hint=_LABELS
        )
    if "y" not in opened.labels or "y" in labels:
        return labels
    free = [name for name in names if name not in labels]
    if len(free) > 1:
        free = [name for name in free if _fits(task, opened.labels["y"], file[names.index(name)], shape, name)]
    if len(free) != 1:
        raise SamplesError(
            f"the labels 'y' of shape {opened.labels['y'].shape} fit {', '.join(free) or 'none'} of the outputs "
            + ", ".join(f"{name} {values.shape}" for name, values in zip(names, file, strict=True)),
            hint="name them after their output: y:<output>",
        )
    return {**labels, free[0]: opened.labels["y"]}


def _fits(task: str | None, labels: Array, outputs: Array, shape: tuple[int, ...] | None, name: str) -> bool:
    try:
        _task_of(task, labels, outputs, shape, name)
    except SamplesError:
        return False
    return True


# --- scores -----------------------------------------------------------------------------------------------------------


def _pairs(
    labelled: Sequence[_Output], opened: Samples, threshold: float | None, class_names: tuple[str, ...], remarks: _Remarks
) -> list[Pair]:
    """Both models' scores, decided with the same threshold, which the original's scores set if there is an original."""
    rebuilt = _reconstructions([output for output in labelled if output.task == "anomaly"], opened)
    sizes = {output.name: _classes(output) for output in labelled if output.task in {"classification", "multilabel"}}
    pairs = []
    for output in labelled:
        if output.task == "anomaly":
            file, before = rebuilt[output.name]
        else:
            file = scores_of(output.task, output.file)
            before = None if output.original is None else scores_of(output.task, output.original)
        labels = labels_of(output.task, output.labels)
        known: tuple[str, ...] = ("normal", "anomaly") if output.task == "anomaly" else ()
        if classes := sizes.get(output.name, 0):
            # Of several outputs, names belong to those that have as many classes, or to all if none has.
            given, own = (
                n if len(n) == classes or len(n) not in sizes.values() else () for n in (opened.class_names, class_names)
            )
            labels, known = _named(labels, classes, given, own, output.name, remarks)
        original = None if before is None else Scored.of(output.task, labels, before, threshold)
        scored = Scored.of(output.task, labels, file, threshold if original is None else original.threshold)
        pairs.append(Pair(output.name, scored, original, known))
        _note_threshold(pairs[-1], threshold is not None, remarks)
    if threshold is not None and all(pair.file.threshold is None for pair in pairs):
        kinds = "one score per sample, multilabel and anomalies"
        remarks.warnings.append(f"the threshold of {threshold:g} is not used: it is for {kinds}")
    return pairs


def _classes(output: _Output) -> int:
    scores = scores_of(output.task, output.file)
    return scores.shape[1] if scores.ndim == 2 else 2


def _reconstructions(labelled: Sequence[_Output], opened: Samples) -> dict[str, tuple[Array, Array | None]]:
    """Anomaly scores of both models by output; the inputs are read once, a few at a time."""
    parts: dict[str, list[list[Array]]] = {output.name: [[], []] for output in labelled}
    start = 0
    for batch in opened.batches(_BATCH) if labelled else ():
        given = batch[opened.inputs[0]]
        places = slice(start, start + len(given))
        for output in labelled:
            for values, results in zip((output.file, output.original), parts[output.name], strict=True):
                if values is not None:
                    results.append(reconstruction_scores(given, values[places]))
        start += len(given)
    return {
        name: (np.concatenate(file), np.concatenate(original) if original else None) for name, (file, original) in parts.items()
    }


def _named(
    labels: Array, classes: int, of_samples: tuple[str, ...], of_model: tuple[str, ...], output: str, remarks: _Remarks
) -> tuple[Array, tuple[str, ...]]:
    """Labels as indexes of the model's classes, and a name for each class.

    Folders of images number their classes in alphabetical order, which need not be the model's: where both name theirs,
    the names decide.
    """
    if of_model and len(of_model) != classes:
        remarks.warnings.append(f"output '{output}' has {classes} classes, the model names {len(of_model)}: names are left out")
        of_model = ()
    if of_model and of_samples and of_samples != of_model:
        if labels.ndim == 1 and labels.max() < len(of_samples) and set(of_samples) <= set(of_model):
            remarks.notes.append(f"labels for output '{output}' are matched to the model's classes by name, their orders differ")
            return np.asarray([of_model.index(name) for name in of_samples])[labels], of_model
        remarks.warnings.append(
            f"the samples name the classes {_few(of_samples)}, the model {_few(of_model)}: their numbers are taken as they are"
        )
    names = of_model or of_samples
    if len(names) != classes:
        if names:
            remarks.warnings.append(
                f"output '{output}' has {classes} classes, the samples name {len(names)}: make sure that labels are the model's "
                "class numbers"
            )
        names = tuple(map(str, range(classes)))
    return labels, names


def _note_threshold(pair: Pair, given: bool, remarks: _Remarks) -> None:
    limit = pair.file.threshold
    if limit is None:
        return
    whose = "file" if pair.original is None else "original"
    if pair.file.task == "anomaly":
        why = "as asked for" if given else f"which maximises sensitivity + specificity on the {whose}'s scores"
        remarks.notes.append(
            f"a sample is an anomaly for output '{pair.output}' above a mean squared reconstruction error of {limit:.6g}, {why}"
        )
        return
    kind = "probabilities" if limit == 0.5 else "logits"
    why = "as asked for" if given else f"the {whose}'s scores are {kind}"
    remarks.notes.append(f"output '{pair.output}' decides for 1 above {limit:g}: {why}")


# --- figures and remarks ----------------------------------------------------------------------------------------------


def _primary(pairs: Sequence[Pair], figures: Mapping[str, Sequence[str]], metric: str | None) -> tuple[Pair, str]:
    """The output and the name of the figure that stands for the model: the first output's, or that has the asked figure."""
    if metric is None:
        return pairs[0], PRIMARY[pairs[0].file.task]
    for pair in pairs:
        if metric in figures[pair.output]:
            return pair, metric
    known = dict.fromkeys(name for pair in pairs for name in figures[pair.output])
    tasks = ", ".join(dict.fromkeys(pair.file.task for pair in pairs))
    raise UsageError(f"the metric '{metric}' is none of {tasks}", hint=f"there are {', '.join(known)}")


def _warn_of_few(pairs: Sequence[Pair], remarks: _Remarks) -> None:
    count = len(pairs[0].file)
    if count < ENOUGH:
        remarks.warnings.append(f"there are {count} evaluation samples, {ENOUGH} or more are recommended")
    for pair in pairs:
        if pair.file.decisions is None:
            continue
        labels = pair.file.labels
        counts = labels.sum(axis=0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=pair.file.classes)
        absent = [name for name, samples in zip(pair.classes, counts, strict=True) if samples == 0]
        if absent:
            remarks.warnings.append(f"no sample has the label {_few(absent)} of output '{pair.output}'")
        scarce = [f"{n} ({c})" for n, c in zip(pair.classes, counts, strict=True) if 0 < c < ENOUGH_PER_CLASS]
        if scarce:
            remarks.warnings.append(
                f"classes of output '{pair.output}' with fewer than {ENOUGH_PER_CLASS} samples: {_few(scarce)}; "
                "their figures are rough"
            )


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
