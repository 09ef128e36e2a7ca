"""The steps of a run over one model: each is looked up by the digest of what goes in, and done where it is not in the cache."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, TensorSpec, file_sha256, raw_bytes, sweep_leftovers
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.cache import Cache, Entry
from edgewright.cache_keys import digests_of, engine_version, key_parts, module_digest, sidecar_text
from edgewright.conversion import TRAINING_FORMATS, Lowering, Progress, described, lower
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.readers import find_reader
from edgewright.data import Data
from edgewright.errors import EdgewrightError
from edgewright.evaluation import judge
from edgewright.planning import BASELINE, Export, Opened, PlannedStep, Settings, Watch, lower_title, pass_title, run_title
from edgewright.runtime.machine import fingerprint
from edgewright.samples import is_function, open_samples
from edgewright.step import Step, StepContext
from edgewright.verification import VERIFY_SAMPLES, random_inputs, store_outputs
from edgewright.worker import Worker

__all__ = ["Pending", "Run", "artifact_in"]

Make = Callable[[Path, Progress, list[str]], dict[str, Any]]


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
        self._custom = module_digest(settings.trust.custom)
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
        name, known = self.model.stem, sidecar_text(model)
        parts = self._parts(sha256, ("tensorflow", "keras"), options=options, name=name, sidecar=known)
        return artifact_in(self._step(step, parts, make))

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
            sidecar=sidecar_text(model.path),
            files=digests_of(options),
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
        release = engine_version(path, engine)
        return self._step(
            PlannedStep(run_title(path, engine), "outputs", {}, raw_bytes(path)),
            self._parts(sha256, ("tensorflow", "keras"), data=data.digest, engine=release, exact=self.settings.exact),
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
                [digest, engine_version(Path(t.path), t.engine), list(t.threads), t.exact]
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
                        BenchSettings(
                            duration_s=settings.bench_s,
                            repeats=settings.repeats,
                            idle_gaps=0,
                            meter="none",
                            limits=settings.limits,
                        ),
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
        return key_parts(sha256, self._custom, packages, more)

    def _step(self, step: PlannedStep, parts: Mapping[str, Any] | None, make: Make) -> Entry:
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


def _saved(artifact: Artifact) -> dict[str, Any]:
    artifact.save()
    return {"file": artifact.path.name}


def artifact_in(entry: Entry) -> Artifact:
    """The artifact in an entry.

    Raises:
        EdgewrightError: it is not there.
    """
    found = Artifact.load(entry.folder / entry.value["file"])
    if found is None:
        raise EdgewrightError(f"the step '{entry.what}' left no artifact", hint="edgewright cache clear")
    return found
