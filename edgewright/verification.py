"""Verify that one model file computes what another does, each run in a child process of its own."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Artifact, ModelMeta, TensorSpec, file_sha256, sidecar_of
from edgewright.benchmarks.fidelity import compare_outputs
from edgewright.conversion import TRAINING_FORMATS, Progress, Trust, convert, described, silent
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import WRITERS
from edgewright.data import Data
from edgewright.errors import ShapeError, UsageError, VerificationError
from edgewright.report import Metric, Report
from edgewright.samples import SamplesSpec
from edgewright.worker import Limits, Worker

__all__ = [
    "VERIFY_SAMPLES",
    "ModelOutputs",
    "check",
    "convert_and_verify",
    "one_preprocessing",
    "outputs_of",
    "pair_outputs",
    "random_inputs",
    "require",
    "store_outputs",
    "stored_outputs",
    "tells",
    "verify",
]

VERIFY_SAMPLES = 100
"""How many samples verification uses."""

RANDOM_SAMPLES = 16
"""How many random inputs it makes where there are no samples."""


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """What a model computed on samples: real numbers, and how they were computed.

    Args:
        path: the model.
        format: reader's name.
        inputs: the file's inputs.
        outputs: the file's outputs.
        arrays: one per output, shape (samples, ...).
        how: engine, execution precision, samples, warnings.
    """

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arrays: tuple[np.ndarray[Any, Any], ...]
    how: dict[str, Any]


def verify(
    candidate: str | Path,
    against: str | Path,
    *,
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    exact: bool = False,
    engine: str | None = None,
    trust: Trust = Trust(),
    limits: Limits = Limits(),
    progress: Progress | None = None,
    reference: ModelOutputs | None = None,
) -> Report:
    """Compare what two models compute on the same samples, each in its own child process.

    Args:
        candidate: the file to be trusted.
        against: the model that is right by definition; any readable format.
        samples: the first 100 are used; None takes 16 random ones, which show errors but no agreement.
        min_sqnr_db: smallest signal-to-quantization-noise ratio of any output, in dB; see `check`.
        min_agreement: smallest share of samples with the same top class, between 0 and 1.
        exact: make engines compute float ops in float32.
        engine: engine for the candidate; None takes its format's own.
        trust: what the model files may do on loading.
        limits: time and memory of each child process.
        progress: called with a share between 0 and 1 and a text.
        reference: what `against` computed on the first 100 of these samples, if that is known already.

    Returns:
        A report of kind "verify" whose metrics have the outputs' names as subjects; `settings["passed"]` is None if no
        limit was set.

    Raises:
        ShapeError: the models have other inputs or outputs.
        UsageError: a limit is NaN.
        EdgewrightError: a model cannot be opened or run.
    """
    if any(limit is not None and math.isnan(limit) for limit in (min_sqnr_db, min_agreement)):
        raise UsageError("a limit is NaN, which nothing can keep", hint="give a number, for example 30 dB or 0.99")
    report = progress or silent
    paths = Path(candidate), Path(against)
    for path in paths:
        find_reader(path)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        work = Path(folder)
        spec, warnings = _verification_samples(samples, paths, trust, limits, work)
        if reference is None:
            sides = _both(paths, spec, engine, exact, trust, limits, report)
        else:
            own = outputs_of(paths[0], spec, engine=engine, exact=exact, trust=trust, limits=limits, progress=report)
            sides = own, reference
    pairs, matched = pair_outputs(*sides)
    metrics = [m for name, r, c in pairs for m in compare_outputs(name, r, c, random_data=samples is None)]
    passed, reasons = check(metrics, min_sqnr_db, min_agreement)
    warnings.extend(w for w in _warnings_of(sides, exact) if w not in warnings)
    return Report(
        "verify",
        {"candidate": _identity(sides[0]), "reference": _identity(sides[1])},
        {
            "samples": f"{RANDOM_SAMPLES} random inputs" if samples is None else sides[0].how.get("samples", ""),
            "random_data": samples is None,
            "exact": exact,
            "min_sqnr_db": min_sqnr_db,
            "min_agreement": min_agreement,
            "passed": passed,
            "failures": reasons,
        },
        tuple(metrics),
        tuple(warnings + matched),
    )


def convert_and_verify(
    model: str | Path,
    out: str | Path | None = None,
    *,
    samples: Data | str | Path | Mapping[str, Any] | None,
    trust: Trust = Trust(),
    limits: Limits = Limits(),
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Artifact, Report]:
    """Convert a model and compare the file with it; a Keras model computes its outputs while the file is being written.

    Args:
        model: see `conversion.convert`, as for all arguments not named here.
        out: the file to write.
        samples: what to calibrate with; the first 100 are compared too. None compares on random inputs.
        trust: what the model file may do on loading.
        limits: time and memory of each child process.
        progress: called with a share between 0 and 1 and a text.
        options: further arguments of `conversion.convert`.

    Raises:
        EdgewrightError: see `conversion.convert` and `verify`.
    """
    data = samples if samples is None or isinstance(samples, Data) else Data(samples)
    report = progress or silent
    known: list[Future[ModelOutputs]] = []
    with ThreadPoolExecutor(1) as pool:

        def alongside(child: Worker, spec: SamplesSpec) -> Callable[[], object]:
            first = spec.pick(VERIFY_SAMPLES, None)
            known.append(pool.submit(_outputs_in, child, Path(model), first, None, False, trust, silent))
            return known[0].result

        artifact = convert(
            model,
            out,
            samples=data,
            trust=trust,
            limits=limits,
            progress=lambda share, text: report(0.8 * share, text),
            alongside=alongside,
            **options,
        )
    reference = known[0].result() if known else None
    found = verify(
        artifact.path,
        model,
        samples=data,
        trust=trust,
        limits=limits,
        progress=lambda share, text: report(0.8 + 0.2 * share, text),
        reference=reference,
    )
    return artifact, found


def check(metrics: list[Metric], min_sqnr_db: float | None, min_agreement: float | None) -> tuple[bool | None, list[str]]:
    """Whether all outputs keep the limits, and the reason for each that does not; None if there are no limits.

    A metric that could not be computed breaks its limit, unless no output of the model can have it.
    """
    reasons = []
    for name, limit, unit in (("sqnr", min_sqnr_db, " dB"), ("top1_agreement", min_agreement, "")):
        if limit is None:
            continue
        found = [m for m in metrics if m.name == name]
        for metric in found:
            if metric.value is not None and not metric.value >= limit:
                reasons.append(
                    f"{name} of output '{metric.subject}' is {metric.value:.4g}{unit}, at least {limit:g}{unit} is required"
                )
        absent = [m for m in found if m.value is None]
        if absent and (name == "sqnr" or len(absent) == len(found)):
            reasons.append(f"{name} of output '{absent[0].subject}' could not be computed: {absent[0].why_absent}")
    if min_sqnr_db is None and min_agreement is None:
        return None, []
    return not reasons, reasons


def _warnings_of(sides: tuple[ModelOutputs, ModelOutputs], exact: bool) -> list[str]:
    """What both computations warned of, and engines that computed in less than float32."""
    found: list[str] = []
    for side in sides:
        found.extend(w for w in side.how.get("warnings", ()) if w not in found)
        execution = side.how.get("execution", {})
        lower = [kind for kind in execution.get("kinds", ()) if kind in {"bf16", "float16"}]
        if lower and not exact:
            told = f"{side.path.name} was computed in {lower[0]} where it could be in float32 ({execution['detail']})"
            found.append(f"{told}; --exact forces float32")
    return found


def require(report: Report) -> None:
    """Raise if a verification report broke its limits.

    Raises:
        VerificationError: with every broken limit.
    """
    if report.settings["passed"] is False:
        raise VerificationError(
            "; ".join(report.settings["failures"]),
            hint="convert with more or better samples, or with a finer precision (int16x8, float16)",
        )


def _identity(side: ModelOutputs) -> dict[str, Any]:
    return {
        "path": str(side.path),
        "format": side.format,
        "sha256": file_sha256(side.path),
        "computed_by": {key: side.how[key] for key in ("engine", "execution") if key in side.how} or {"engine": "tensorflow"},
    }


def _verification_samples(
    samples: Any, paths: tuple[Path, Path], trust: Trust, limits: Limits, work: Path
) -> tuple[SamplesSpec, list[str]]:
    """The first 100 samples, or random ones, as both sides open them."""
    if samples is None:
        inputs = described(paths[0], trust, limits).inputs
        return Data(random_inputs(inputs)).spec(inputs, work), [
            "no samples were given: random inputs were used, which say little about accuracy"
        ]
    data = samples if isinstance(samples, Data) else Data(samples)
    known = [described(path, trust, limits) for path in paths if tells(path)]
    if not data.preprocess:
        data = data.completed(one_preprocessing(known))
    if data.preprocess or isinstance(data.source, Mapping):
        inputs = (known[0] if known else described(paths[0], trust, limits)).inputs
    else:
        inputs = ()
    inputs = tuple(TensorSpec(s.name, (None, *s.shape[1:]), "float32" if s.quantized else s.dtype) for s in inputs)
    return data.spec(inputs, work).pick(VERIFY_SAMPLES, None), []


def tells(path: Path) -> bool:
    """Whether a file may hold a preprocessing: it has a sidecar, or is of a format that we write it into."""
    return sidecar_of(path).is_file() or find_reader(path) in WRITERS.names()


def one_preprocessing(known: list[Artifact]) -> ModelMeta:
    """The candidate's preprocessing, or the reference's if only that has one.

    Raises:
        UsageError: both have one, and they differ.
    """
    having = [artifact for artifact in known if artifact.meta.preprocess]
    if not having:
        return ModelMeta()
    if any(artifact.meta.preprocess != having[0].meta.preprocess for artifact in having):
        one, other = (f"{a.path.name} ({json.dumps(dict(a.meta.preprocess))})" for a in having)
        raise UsageError(f"{one} and {other} were saved with different preprocessing", hint="say which with --preprocess")
    return having[0].meta


def random_inputs(inputs: tuple[TensorSpec, ...], count: int = RANDOM_SAMPLES) -> dict[str, np.ndarray[Any, Any]]:
    """Seeded random inputs: normal values for real ones, 0 and 1 for integer ones (valid for most embeddings)."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for spec in inputs:
        shape = (count, *(1 if size is None else size for size in spec.shape[1:]))
        real = spec.quantized or spec.dtype.startswith("float")
        arrays[spec.name] = (
            rng.standard_normal(shape).astype(np.float32) if real else rng.integers(0, 2, shape).astype(spec.dtype)
        )
    return arrays


def _both(
    paths: tuple[Path, Path],
    spec: SamplesSpec,
    engine: str | None,
    exact: bool,
    trust: Trust,
    limits: Limits,
    progress: Progress,
) -> tuple[ModelOutputs, ModelOutputs]:
    """Outputs of both models, computed at the same time in two children; `engine` is the candidate's."""
    shares = [0.0, 0.0]

    def follow(index: int) -> Progress:
        def update(share: float, text: str) -> None:
            shares[index] = share
            progress(sum(shares) / 2, text)

        return update

    # The children are closed before the pool waits for its threads: a failure or Ctrl-C on one side ends the other's work.
    with ThreadPoolExecutor(2) as pool, Worker(limits) as first, Worker(limits) as second:
        jobs = (
            pool.submit(_outputs_in, first, paths[0], spec, engine, exact, trust, follow(0)),
            pool.submit(_outputs_in, second, paths[1], spec, None, exact, trust, follow(1)),
        )
        for job in as_completed(jobs):
            job.result()
        return jobs[0].result(), jobs[1].result()


def outputs_of(
    path: Path,
    spec: SamplesSpec,
    *,
    engine: str | None = None,
    exact: bool = False,
    trust: Trust = Trust(),
    limits: Limits = Limits(),
    progress: Progress = silent,
) -> ModelOutputs:
    """Run any readable model over samples in a child process: Keras and SavedModel by TensorFlow, others by an engine.

    Args:
        path: the model.
        spec: the samples.
        engine: name of the engine; None takes the format's own.
        exact: compute float ops in float32 even where the engine prefers less.
        trust: what the file may do on loading.
        limits: time and memory of the child.
        progress: called with a share between 0 and 1 and a text.

    Raises:
        EdgewrightError: the model cannot be opened or run, or the samples do not fit it.
    """
    with Worker(limits) as child:
        return _outputs_in(child, path, spec, engine, exact, trust, progress)


def _outputs_in(
    child: Worker, path: Path, spec: SamplesSpec, engine: str | None, exact: bool, trust: Trust, progress: Progress
) -> ModelOutputs:
    """`outputs_of` in a child that runs already."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        out = Path(folder) / "outputs.npz"
        how = store_outputs(child, path, out, spec, engine=engine, exact=exact, trust=trust, progress=progress)
        return stored_outputs(path, out, how)


def store_outputs(
    child: Worker,
    path: Path,
    out: Path,
    spec: SamplesSpec,
    *,
    engine: str | None = None,
    exact: bool = False,
    trust: Trust = Trust(),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run any readable model over samples in a child that runs already, and store what comes out.

    Args:
        child: the process.
        path: the model.
        out: the .npz to write: arrays "0", "1", ... of real numbers, one per output in the model's order.
        spec: the samples.
        engine: see `outputs_of`, as for the arguments that follow.
        exact: compute float ops in float32.
        trust: what the file may do on loading.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        How they were computed: inputs and outputs (JSON of `TensorSpec`), engine, execution, samples, warnings.
    """
    common: dict[str, Any] = {"path": str(path), "out": str(out), "samples": spec.to_json()}
    if find_reader(path) in TRAINING_FORMATS:
        job = "edgewright.converters.jobs:reference_outputs"
        common |= {"trust": trust.code, "custom": trust.custom}
    else:
        job = "edgewright.benchmarks.outputs:engine_outputs"
        common |= {"engine": engine, "exact": exact, "threads": os.cpu_count() or 1}
    return dict(child.call(job, what=f"running {path.name}", on_progress=progress, **common))


def stored_outputs(path: Path, out: Path, how: dict[str, Any]) -> ModelOutputs:
    """What `store_outputs` wrote to `out`, as it returned `how`."""
    with np.load(out, allow_pickle=False) as stored:
        arrays = tuple(stored[str(i)] for i in range(len(how["outputs"])))
    specs = [tuple(TensorSpec.from_json(s) for s in how[key]) for key in ("inputs", "outputs")]
    return ModelOutputs(path, find_reader(path), specs[0], specs[1], arrays, how)


def pair_outputs(candidate: ModelOutputs, reference: ModelOutputs) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """Outputs of both that belong together: by name, or by position if the names differ and the shapes agree."""
    own = [spec.name for spec in candidate.outputs]
    theirs = [spec.name for spec in reference.outputs]
    if len(own) != len(theirs):
        raise ShapeError(
            f"{candidate.path.name} has {len(own)} outputs ({', '.join(own)}), "
            f"{reference.path.name} has {len(theirs)} ({', '.join(theirs)})"
        )
    if set(own) == set(theirs):
        arrays = dict(zip(own, candidate.arrays, strict=True))
        return [(name, r, arrays[name]) for name, r in zip(theirs, reference.arrays, strict=True)], []
    note = f"output names differ ({', '.join(own)} and {', '.join(theirs)}): compared by position"
    return [(name, r, c) for name, r, c in zip(own, reference.arrays, candidate.arrays, strict=True)], [note]
