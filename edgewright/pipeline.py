"""Run recipes on a model: formats chain, every step is cached by the digest of what went in, every file has its receipt."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, TensorSpec, file_sha256, raw_bytes, sweep_leftovers
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.cache import Cache, Entry, code_digest
from edgewright.conversion import TRAINING_FORMATS, Data, Lowering, Progress, described, lower
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import versions
from edgewright.errors import EdgewrightError
from edgewright.evaluation import judge
from edgewright.planning import (
    BASELINE,
    Export,
    Opened,
    PlannedStep,
    Settings,
    Watch,
    lower_title,
    pass_title,
    run_title,
)
from edgewright.receipts import Claimed, receipt
from edgewright.recipe import LOWER
from edgewright.report import Receipt
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.machine import fingerprint
from edgewright.samples import is_function, open_samples
from edgewright.step import Claim, Step, StepContext
from edgewright.verification import VERIFY_SAMPLES, random_inputs, store_outputs
from edgewright.worker import Worker

__all__ = ["Made", "Pending", "Run", "make_file"]

_CODE = (
    "artifact",
    "benchmarks/accuracy",
    "benchmarks/bench",
    "benchmarks/bench_figures",
    "benchmarks/bench_report",
    "benchmarks/bench_warnings",
    "benchmarks/bootstrap",
    "benchmarks/conditions",
    "benchmarks/detection_accuracy",
    "benchmarks/detection_evaluation",
    "benchmarks/evaluation",
    "benchmarks/groups",
    "benchmarks/intervals",
    "benchmarks/latency",
    "benchmarks/memory",
    "benchmarks/outputs",
    "benchmarks/placement",
    "benchmarks/student",
    "benchmarks/weighted",
    "boxes",
    "coco",
    "conversion",
    "converters",
    "declared",
    "detection",
    "detection_heads",
    "evaluation",
    "keras_layers",
    "optimizers",
    "pass_job",
    "pipeline",
    "preprocess",
    "runtime",
    "sample_sources",
    "samples",
    "tasks",
    "verification",
)
"""The parts of Edgewright that results depend on; what only prints or plans is not among them."""

Make = Callable[[Path, Progress, list[str]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Made:
    """A file that a run has made.

    Args:
        export: what was asked for.
        artifact: the file, in the cache.
        float32: the uncompressed model that it was written from.
        receipts: one per step.
        warnings: what its user should know.
    """

    export: Export
    artifact: Artifact
    float32: Artifact
    receipts: tuple[Receipt, ...]
    warnings: tuple[str, ...]


class Pending(Exception):
    """A dry run has come to a step that is not in the cache."""


class Run:
    """One run of recipes over one model; use it as a context manager.

    Every method is a step that is looked up in the cache first, and made there if it is missing.

    Args:
        model: the model as the user gave it.
        settings: what to do.
        cache: where finished steps are kept.
        watch: follows the run.
        dry: do nothing that is not in the cache already, but raise `Pending`.
    """

    def __init__(self, model: Path, settings: Settings, cache: Cache, watch: Watch | None = None, *, dry: bool = False) -> None:
        self.model, self.settings, self.cache, self.watch = model, settings, cache, watch or Watch()
        self.dry = dry
        self.format = find_reader(model)
        self.sha256 = file_sha256(model)
        self.known = Artifact.load(model)
        self._custom = _source_digest(settings.trust.custom)
        sweep_leftovers(Path(tempfile.gettempdir()), "edgewright-")
        self._work = tempfile.TemporaryDirectory(prefix=f"edgewright-{os.getpid()}-")
        self._children: dict[str, Worker] = {}
        self._pool = ThreadPoolExecutor(1)
        self._hiring = threading.Lock()
        self._ended = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        # Cache and children first: what runs in a thread of the pool then ends, whatever it waits for.
        self.cache.close()
        self._ended = True
        self.rest()
        self._pool.shutdown()
        self._work.cleanup()

    def rest(self) -> None:
        """End all children; the next step that needs one starts it anew."""
        with self._hiring:
            for child in self._children.values():
                child.close()
            self._children.clear()

    @property
    def work(self) -> Path:
        """A folder for what is gone at the end."""
        return Path(self._work.name)

    @property
    def trains(self) -> bool:
        """Whether the model is in a training format, which is lowered to TFLite first."""
        return self.format in TRAINING_FORMATS

    @property
    def baseline_format(self) -> str:
        """Format of the uncompressed model that files are compared with."""
        return "tflite" if self.trains else self.format

    # ---- steps ----------------------------------------------------------------------------------------------------

    def lowered(self, model: Path, sha256: str | None, how: Lowering, *, batch: int | None, integer: bool) -> Artifact:
        """A Keras model or SavedModel as a float32 TFLite file.

        Args:
            model: the model, or what a pass made of it.
            sha256: its digest.
            how: the recipe's options.
            batch: fixed batch size, None keeps it free.
            integer: the file is to be quantized, for which recurrent layers must be unrolled.
        """
        if integer:  # without recurrent layers it is the same file
            plain = self.lowered(model, sha256, how, batch=batch, integer=False)
            if "recurrent" not in plain.meta.extra:
                return plain
        options = {"batch": batch, "unroll": how.unroll, "integer": integer, "select_tf": False}
        format = find_reader(model)

        def make(folder: Path, progress: Progress, notes: list[str]) -> dict[str, Any]:
            out, child = folder / f"{self.model.stem}_{BASELINE}.tflite", self._child("training")
            return _saved(lower(model, format, out, options, self.settings.trust, child, progress, notes))

        step = PlannedStep(lower_title(model, batch, integer), "lower", options, raw_bytes(model))
        name, known = self.model.stem, _sidecar(model)
        parts = self._parts(sha256, ("tensorflow", "keras"), options=options, name=name, sidecar=known)
        return _artifact(self._step(step, parts, make))

    def source(self) -> Artifact:
        """A model that is traced already (.tflite, .onnx), as it is."""
        found = described(self.model, self.settings.trust, self.settings.limits)
        return replace(found, path=self.model)

    def passed(self, step: Step, name: str, model: Artifact, samples: Opened | None) -> Entry:
        """The result of a pass: a Keras model."""
        options, kind = asdict(step.options), f"pass:{name}"
        parts = self._parts(
            model.sha256,
            ("tensorflow", "keras"),
            options=options,
            samples=samples.digest if samples else "",
            seed=self.settings.seed,
            original=self.sha256,
            name=self.model.stem,
            sidecar=_sidecar(model.path),
            files=_digests_of(options),
        )

        def make(folder: Path, progress: Progress, notes: list[str]) -> dict[str, Any]:
            scratch = self.cache.scratch(kind, parts)
            context = self._context(folder / f"{self.model.stem}.keras", "training", samples, progress, notes)
            value = _saved(step.apply(model, replace(context, scratch=scratch)))
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            return value

        return self._step(PlannedStep(pass_title(name, model.path), kind, options, raw_bytes(model.path)), parts, make)

    def exported(self, export: Export, source: Artifact, samples: Opened | None) -> Entry:
        """The file of one target."""
        calibrating = samples if export.writer.needs_samples() else None
        if samples:
            source = source.with_meta(preprocess={name: dict(value) for name, value in samples.spec.preprocess.items()})
        options = asdict(export.writer.options)

        def make(folder: Path, progress: Progress, notes: list[str]) -> dict[str, Any]:
            return _saved(
                export.writer.apply(source, self._context(folder / export.name, "writing", calibrating, progress, notes))
            )

        planned = PlannedStep(f"write {export.name}", f"export:{export.target}", options)
        parts = self._parts(
            source.sha256,
            ("ai-edge-quantizer", "ai-edge-litert", "openvino", "nncf"),
            options=options,
            name=export.name,
            samples=calibrating.digest if calibrating else "",
            meta=source.meta.to_json(),
            lineage=[record.to_json() for record in source.lineage],
        )
        return self._step(replace(planned, model_bytes=raw_bytes(source.path)), parts, make)

    def _context(self, out: Path, child: str, samples: Opened | None, progress: Progress, notes: list[str]) -> StepContext:
        return StepContext(
            out=out,
            samples=samples.spec if samples else None,
            worker=self._child(child),
            seed=self.settings.seed,
            original=self.model,
            trust=self.settings.trust.code,
            custom=self.settings.trust.custom,
            progress=progress,
            warnings=notes,
        )

    def inspected(self, path: Path, sha256: str) -> ModelInfo:
        """What a file's reader reads back from it."""
        child = "training" if find_reader(path) in TRAINING_FORMATS else "writing"
        entry = self._step(
            PlannedStep(f"read back {path.name}", "inspect", {}, raw_bytes(path)),
            self._parts(sha256, ("keras", "openvino", "onnx"), name=path.name),
            lambda folder, progress, notes: {
                "info": self._child(child).call(
                    "edgewright.converters.jobs:inspect_model",
                    what=f"reading {path.name}",
                    path=str(path),
                    trust=self.settings.trust.code,
                    custom=self.settings.trust.custom,
                )
            },
        )
        return ModelInfo.from_json(entry.value["info"])

    def outputs(self, path: Path, sha256: str, data: Opened, engine: str | None = None) -> Entry:
        """What a model computes on samples: `outputs.npz`, and how in the entry's value."""
        child = "training" if find_reader(path) in TRAINING_FORMATS else "running"
        engine_version = _engine_version(path, engine)
        return self._step(
            PlannedStep(run_title(path, engine), "outputs", {}, raw_bytes(path)),
            self._parts(sha256, ("tensorflow", "keras"), data=data.digest, engine=engine_version, exact=self.settings.exact),
            lambda folder, progress, notes: {
                "how": store_outputs(
                    self._child(child),
                    path,
                    folder / "outputs.npz",
                    data.spec,
                    engine=engine,
                    exact=self.settings.exact,
                    trust=self.settings.trust,
                    progress=progress,
                )
            },
        )

    def evaluated(self, title: str, data: Opened, sides: Sequence[Entry]) -> Mapping[str, Any]:
        """A file's outputs judged by the labels, beside the original's if there are two sides."""
        digests = [entry.files["outputs.npz"] for entry in sides]
        labels = self.known.meta.labels if self.known else ()
        entry = self._step(
            PlannedStep(title, "evaluate"),
            self._parts(
                digests[0],
                ("scikit-learn", "numpy"),
                against=digests[1:],
                data=data.digest,
                judging=self.settings.judging.to_json(),
                specs=[entry.value["how"]["outputs"] for entry in sides],
            ),
            lambda folder, progress, notes: judge(
                self._child("running"),
                data.spec,
                [(entry.folder / "outputs.npz", dict(entry.value["how"])) for entry in sides],
                self.settings.judging,
                labels,
            ),
        )
        return entry.value

    def benched(self, targets: Sequence[BenchTarget], digests: Sequence[str]) -> list[Mapping[str, Any]]:
        """Latency and memory of files here, measured in turns; a file more or less means measuring all of them again."""
        settings = self.settings
        parts = self._parts(
            digests[0],
            (),
            files=[
                [digest, _engine_version(Path(t.path), t.engine), list(t.threads), t.exact]
                for t, digest in zip(targets, digests, strict=True)
            ],
            machine=fingerprint(),
            seconds=settings.bench_s,
            repeats=settings.repeats,
        )
        step = PlannedStep(f"measure {len(targets)} files", "bench", {"files": len(targets)})
        if settings.fresh:
            self.cache.forget("bench", parts)
        entry = self._step(
            step,
            parts,
            lambda folder, progress, notes: {
                "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "reports": [
                    report.to_json()
                    for report in bench_many(
                        targets,
                        duration_s=settings.bench_s,
                        repeats=settings.repeats,
                        limits=settings.limits,
                        progress=progress,
                        worked=True,
                    )
                ],
            },
        )
        return [{**report, "measured_at": entry.value["measured_at"]} for report in entry.value["reports"]]

    # ---- data -----------------------------------------------------------------------------------------------------

    def data(self, data: Data, inputs: tuple[TensorSpec, ...]) -> Opened:
        """Samples for these inputs, with the preprocessing that the model was saved with unless they come with their own."""
        spec = (data.completed(self.known.meta) if self.known else data).spec(inputs, self.work)
        free = tuple(TensorSpec(s.name, (None, *s.shape[1:]), "float32" if s.quantized else s.dtype) for s in inputs)
        if is_function(spec.source):  # user code, and whatever that imports
            if self.dry:
                raise Pending(f"asking {spec.source} for its samples")
            found = self._child("running").call(
                "edgewright.samples:describe_samples",
                what=f"asking {spec.source} for its samples",
                samples=spec.to_json(),
                inputs=[one.to_json() for one in free],
            )
            return Opened(spec, found["digest"], found["text"], tuple(found["classes"]))
        opened = open_samples(spec, free)
        return Opened(spec, opened.digest(), opened.describe(), opened.class_names)

    def fidelity_data(self, inputs: tuple[TensorSpec, ...]) -> tuple[Opened, bool]:
        """What files are compared with the original on: evaluation data, else the samples, else random inputs (True)."""
        chosen = self.settings.evaluation or self.settings.samples
        if chosen is None:
            return self.data(Data(random_inputs(inputs)), inputs), True
        if self.settings.evaluation is None:
            return self.data(chosen, inputs).first(VERIFY_SAMPLES), False
        return self.data(chosen, inputs), False

    def alongside(self, call: Callable[[], Entry]) -> Future[Entry]:
        """Do a step in another thread."""
        return self._pool.submit(call)

    # ---- how a step is done ---------------------------------------------------------------------------------------

    def _parts(self, sha256: str | None, packages: tuple[str, ...], **more: Any) -> dict[str, Any] | None:
        """What a step's result depends on; None if some of it has no digest."""
        if sha256 is None or self._custom is None or any(more.get(name, "") is None for name in ("samples", "data", "files")):
            return None
        code = code_digest(*_CODE)
        return {"input": sha256, "custom": self._custom, "code": code, "versions": versions(*packages), **more}

    def _step(
        self, step: PlannedStep, parts: Mapping[str, Any] | None, make: Callable[[Path, Progress, list[str]], Any]
    ) -> Entry:
        if self.dry:
            found = self.cache.find(step.kind, parts)
            self.watch.end(replace(step, reused=found is not None), found.seconds if found else 0.0)
            if found is None:
                raise Pending(step.what)
            return found
        self.watch.begin(step)

        def work(folder: Path) -> dict[str, Any]:
            notes: list[str] = []
            value = make(folder, lambda share, text: self.watch.progress(step, share, text), notes)
            return {"model_bytes": step.model_bytes, **value, "notes": notes}

        entry = self.cache.step(step.kind, step.what, parts, work)
        self.watch.end(replace(step, reused=entry.reused), entry.seconds)
        return entry

    def _child(self, role: str) -> Worker:
        """The child for one sort of work; a new one if the last has ended."""
        with self._hiring:
            if self._ended:
                raise EdgewrightError("the run has ended")
            child = self._children.get(role)
            if child is None or not child.alive:
                if child is not None:
                    child.close()
                child = self._children[role] = Worker(self.settings.limits)
            return child


def make_file(run: Run, export: Export, samples: Callable[[tuple[TensorSpec, ...]], Opened | None]) -> Made:
    """One file of a run: the recipe's passes, lowering, export, and the receipt of each.

    Args:
        run: the run.
        export: what to make.
        samples: gives the samples for a model's inputs.

    Raises:
        EdgewrightError: what a step raises; what was finished before is kept.
    """
    path, sha256, warnings = run.model, run.sha256, list[str]()
    claims: list[Claimed] = []
    receipts: list[Receipt] = []
    heard = 0
    for name, step in export.passes:
        model = _artifact_at(run, path, sha256)
        entry = run.passed(step, name, model, samples(model.inputs) if step.needs_samples() else None)
        made = _artifact(entry)
        told = made.meta.extra.get("claims", ())
        claims += [Claimed(name, claim) for claim in (*step.claims(), *(Claim(**claim) for claim in told[heard:]))]
        heard = len(told)
        before, after = run.inspected(path, sha256), run.inspected(made.path, made.sha256)
        receipts.append(receipt(name, before, after, made, claims))
        warnings += entry.value["notes"]
        path, sha256 = made.path, made.sha256
    source = float32_of(run, export, path, sha256)
    before = run.inspected(path, sha256)
    if run.trains:
        receipts.append(receipt(LOWER, before, run.inspected(source.path, source.sha256), source, claims))
    entry = run.exported(export, source, samples(source.inputs))
    artifact = _artifact(entry)
    step_name = f"export:{export.target}"
    claims += [Claimed(step_name, claim) for claim in export.writer.claims()]
    receipts.append(receipt(step_name, before, run.inspected(artifact.path, artifact.sha256), artifact, claims))
    warnings += entry.value["notes"]
    return Made(export, artifact, source, tuple(receipts), tuple(dict.fromkeys(warnings)))


def float32_of(run: Run, export: Export, path: Path, sha256: str) -> Artifact:
    """What a writer takes: the model lowered to float32 TFLite, or itself if it is traced already."""
    if not run.trains:
        return run.source()
    batch = 1 if export.lowering.batch is None and export.target == "tflite" else export.lowering.batch
    return run.lowered(path, sha256, export.lowering, batch=batch, integer=export.writer.needs_samples())


def _artifact_at(run: Run, path: Path, sha256: str) -> Artifact:
    """The model that a pass takes: one that a pass made, or the user's, whose inputs its float32 form tells."""
    known = Artifact.load(path)
    if known:
        return known
    plain = run.lowered(path, sha256, Lowering(), batch=1, integer=False)
    return Artifact(path, run.format, plain.inputs, plain.outputs, sha256)


def _saved(artifact: Artifact) -> dict[str, Any]:
    artifact.save()
    return {"file": artifact.path.name}


def _artifact(entry: Entry) -> Artifact:
    """The artifact in an entry.

    Raises:
        EdgewrightError: it is not there.
    """
    found = Artifact.load(entry.folder / entry.value["file"])
    if found is None:
        raise EdgewrightError(f"the step '{entry.what}' left no artifact", hint="edgewright cache clear")
    return found


def _sidecar(model: Path) -> str:
    """What the sidecar adds to a model: it goes into the file's lineage and meta."""
    known = Artifact.load(model)
    return json.dumps(known.to_json(), sort_keys=True) if known else ""


def _digests_of(options: Mapping[str, Any]) -> list[str] | None:
    """Digests of the files and functions that options name; None if one cannot be known."""
    found: list[str | None] = []
    for value in options.values():
        if isinstance(value, str) and Path(value).is_file():
            found.append(file_sha256(Path(value)))
        elif isinstance(value, str) and is_function(value):
            found.append(_source_digest(value.partition(":")[0]))
    return None if None in found else [digest for digest in found if digest is not None]


def _engine_version(path: Path, engine: str | None) -> str:
    """Name and release of the engine that runs a file; of TensorFlow's formats, nothing."""
    format = find_reader(path)
    for name in [engine] if engine else ENGINES.names():
        cls = ENGINES.get(name)
        if engine or cls.formats[0] == format:
            return f"{name} {cls.version()}"
    return ""


def _source_digest(module: str | None) -> str | None:
    """Digest of a user's module, "" if there is none, None if it cannot be known."""
    if module is None:
        return ""
    import sys
    from importlib.util import find_spec

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        spec = find_spec(module)
        return file_sha256(Path(spec.origin)) if spec and spec.origin else None
    except (ImportError, ValueError, OSError, EdgewrightError):
        return None
