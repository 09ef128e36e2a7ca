"""Contract suite for writers, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import Artifact, ModelMeta, StepRecord, TensorSpec, file_sha256, files_of
from edgewright.converters.readers import READERS
from edgewright.converters.writers import WRITERS, Writer
from edgewright.errors import EdgewrightError, SamplesError
from edgewright.samples import open_samples
from edgewright.step import StepContext
from edgewright.testing_child import InChild
from edgewright.testing_models import two_by_two_tflite
from edgewright.worker import Worker

__all__ = ["WriterCase", "WriterContract"]


@dataclass(frozen=True, slots=True)
class WriterCase:
    """One writer with one set of options.

    Args:
        writer: the writer's name.
        options: values of the fields of its Options that are not the default.
    """

    writer: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.writer, *map(str, self.options.values())])

    def make(self) -> Writer:
        """The writer."""
        cls = WRITERS.get(self.writer)
        return cls(cls.Options(**self.options))


class WriterContract(InChild):
    """What every writer that takes .tflite artifacts must do. Subclass it and give it a fixture `case`, a WriterCase."""

    @pytest.fixture
    def case(self) -> WriterCase:
        """The writer under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture
    def model(self, tmp_path: Path) -> Artifact:
        """A float32 model with two inputs and two outputs, and a past."""
        path = two_by_two_tflite(tmp_path / "model.tflite")
        inputs = TensorSpec("zeta", (1, 4), "float32"), TensorSpec("alpha", (1, 3), "float32")
        outputs = TensorSpec("sum", (1, 3), "float32"), TensorSpec("product", (1, 3), "float32")
        past = StepRecord("read:keras", {"batch": 1}, "0" * 64, {"keras": "3"})
        meta = ModelMeta(task="regression", extra={"layers": ["dense"]})
        return Artifact.of(path, "tflite", inputs, outputs, (past,), meta)

    def _context(self, model: Artifact, child: Worker, out: Path, work: Path, **changes: Any) -> StepContext:
        rng = np.random.default_rng(0)
        feeds = {spec.name: rng.normal(size=(16, *[n or 1 for n in spec.shape[1:]])).astype(np.float32) for spec in model.inputs}
        samples = open_samples(feeds, model.inputs).to_spec(work)
        return StepContext(**{"out": out, "samples": samples, "worker": child, **changes})

    def test_says_what_it_is(self, case: WriterCase) -> None:
        """The class names what it takes and gives, has options with defaults, and a job that warms it up."""
        cls = WRITERS.get(case.writer)
        assert "tflite" in cls.consumes and cls.produces and cls.suffix.startswith(".")
        assert is_dataclass(cls.Options) and cls(cls.Options()).needs_samples() in (True, False)
        module, _, function = cls.warm_up.partition(":")
        assert callable(getattr(importlib.import_module(module), function))

    def test_writes(self, case: WriterCase, model: Artifact, child: Worker, tmp_path: Path) -> None:
        """The file is where it was asked for; names, order and shapes are kept; the lineage grows by one record."""
        writer, out = case.make(), tmp_path / "new" / f"made{WRITERS.get(case.writer).suffix}"
        shares: list[float] = []
        context = self._context(model, child, out, tmp_path, progress=lambda share, _: shares.append(share))
        made = writer.apply(model, context)
        assert made.path == out and made.format == writer.produces and made.sha256 == file_sha256(out)
        assert [(s.name, s.shape) for s in made.inputs] == [(s.name, s.shape) for s in model.inputs]
        assert [(s.name, s.shape) for s in made.outputs] == [(s.name, s.shape) for s in model.outputs]
        assert made.lineage[:-1] == model.lineage
        assert made.lineage[-1].parent_sha256 == model.sha256 and made.lineage[-1].versions
        assert dict(case.options).items() <= made.lineage[-1].options.items()
        assert made.meta.task == "regression"
        assert all(0 <= share <= 1 for share in shares) and all(isinstance(note, str) for note in context.warnings)
        made.save()
        assert Artifact.load(out) == made
        assert {file.name for file in out.parent.iterdir()} == {made.sidecar.name, *(file.name for file in files_of(out))}
        if writer.produces in READERS.names():
            job = "edgewright.converters.jobs:model_specs"
            found = child.call(job, what="reading", path=str(out), trust=False, custom=None)
            assert tuple(TensorSpec.from_json(spec) for spec in found["inputs"]) == made.inputs
            assert tuple(TensorSpec.from_json(spec) for spec in found["outputs"]) == made.outputs

    def test_twice_the_same(self, case: WriterCase, model: Artifact, child: Worker, tmp_path: Path) -> None:
        """The same model and options give the same bytes."""
        outs = [tmp_path / str(n) / f"made{WRITERS.get(case.writer).suffix}" for n in range(2)]
        made = [case.make().apply(model, self._context(model, child, out, tmp_path)) for out in outs]
        assert made[0].sha256 == made[1].sha256 and made[0].lineage == made[1].lineage

    def test_demands_samples(self, case: WriterCase, model: Artifact, child: Worker, tmp_path: Path) -> None:
        """What needs samples says so when there are none, before it starts; what does not does without."""
        writer, out = case.make(), tmp_path / "new" / f"made{WRITERS.get(case.writer).suffix}"
        context = self._context(model, child, out, tmp_path, samples=None)
        if not writer.needs_samples():
            assert writer.apply(model, context).path.exists()
            return
        with pytest.raises(SamplesError, match="samples"):
            writer.apply(model, context)
        assert not out.exists()

    def test_leaves_nothing_half_written(self, case: WriterCase, model: Artifact, child: Worker, tmp_path: Path) -> None:
        """A job that fails leaves the folder as it was, with the file of the run before."""
        out = tmp_path / "new" / f"made{WRITERS.get(case.writer).suffix}"
        context = self._context(model, child, out, tmp_path)
        out.parent.mkdir()
        out.write_bytes(b"of the run before")
        model.path.write_bytes(model.path.read_bytes()[:200])
        with pytest.raises(EdgewrightError):
            case.make().apply(model, context)
        assert [file.name for file in out.parent.iterdir()] == [out.name] and out.read_bytes() == b"of the run before"
