"""Contract suites for plug-ins, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import importlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import Artifact, ModelMeta, StepRecord, TensorSpec, file_sha256, files_of
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.readers import READERS, find_reader
from edgewright.converters.writers import WRITERS, Writer
from edgewright.errors import EdgewrightError, EngineError, ModelError, SamplesError, ShapeError, UnsupportedError
from edgewright.runtime import Session, open_session
from edgewright.samples import open_samples
from edgewright.step import StepContext
from edgewright.testing_models import plus_one_onnx, plus_one_openvino, plus_one_tflite, two_by_two_tflite
from edgewright.worker import Worker

__all__ = [
    "EngineCase",
    "EngineContract",
    "ReaderCase",
    "ReaderContract",
    "WriterCase",
    "WriterContract",
    "plus_one_onnx",
    "plus_one_openvino",
    "plus_one_tflite",
    "two_by_two_tflite",
]

_SNIFF = """
import sys
from pathlib import Path
from edgewright.converters.readers import READERS

before = set(sys.modules)
print([READERS.get(sys.argv[1]).sniff(Path(path)) for path in sys.argv[2:]])
heavy = {"tensorflow", "keras", "tf_keras", "torch", "onnx", "openvino", "nncf", "ai_edge_litert"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""

_LOAD_EACH = """
import sys
import numpy as np
from edgewright.errors import EngineError
from edgewright.runtime import open_session

for path in sys.argv[2:]:
    try:
        with open_session(path, engine=sys.argv[1]) as session:
            session.run({spec.name: np.zeros([n or 1 for n in spec.shape], spec.dtype) for spec in session.inputs})
        print("fine")
    except EngineError as error:
        print("EngineError" if error.hint else "EngineError without a hint")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True, slots=True)
class EngineCase:
    """One engine and what to test it with: files that compute y = x + 1 on float32 of shape (batch, 4).

    Args:
        engine: the engine's name.
        model: a file of batch 1.
        free: the same with a free batch size; None if the engine's format has none.
    """

    engine: str
    model: Path
    free: Path | None = None

    def __str__(self) -> str:
        return f"{self.engine}-{self.model.suffix[1:]}"


class EngineContract:
    """What every engine must do. Subclass it in a test module and give it a fixture `case` that returns an EngineCase.

    Example:
        class TestMyEngine(EngineContract):
            @pytest.fixture
            def case(self, tmp_path):
                return EngineCase("mine", write_plus_one(tmp_path / "model.mine"))
    """

    x = np.array([[1.0, -2.0, 0.5, 1e6]], np.float32)

    @pytest.fixture
    def case(self) -> EngineCase:
        """The engine under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture
    def session(self, case: EngineCase) -> Session:
        """A session of the fixed model."""
        return open_session(case.model, engine=case.engine)

    def test_tells_what_it_is(self, case: EngineCase, session: Session) -> None:
        """Specs in the file's own names, and an execution that is filled in."""
        assert session.inputs == (TensorSpec("x", (1, 4), "float32"),)
        assert session.outputs == (TensorSpec("y", (1, 4), "float32"),)
        assert session.engine == case.engine
        assert session.version()
        assert session.execution.precision and session.execution.detail and session.execution.device

    def test_equals_numpy(self, session: Session) -> None:
        """The results are those of NumPy, exactly: one float32 addition has one right answer."""
        results = session.run({"x": self.x})
        assert list(results) == ["y"]
        assert results["y"].dtype == np.float32
        np.testing.assert_array_equal(results["y"], self.x + np.float32(1))

    def test_takes_arrays_in_any_layout(self, session: Session) -> None:
        """Views with strides, read-only arrays and fields give the same result as a plain array."""
        for view in (np.repeat(self.x, 2, axis=1)[:, ::2], np.asfortranarray(self.x), self.x[:, ::-1][:, ::-1]):
            np.testing.assert_array_equal(session.run({"x": view})["y"], self.x + np.float32(1))
        frozen = self.x.copy()
        frozen.flags.writeable = False
        np.testing.assert_array_equal(session.run({"x": frozen})["y"], self.x + np.float32(1))

    def test_results_are_copies(self, session: Session) -> None:
        """A result changes neither by a later run nor by writing into another result, nor with its input."""
        feed = self.x.copy()
        first = session.run({"x": feed})["y"]
        feed[...] = 9
        np.testing.assert_array_equal(first, self.x + np.float32(1))
        first[...] = 7
        second = session.run({"x": self.x})["y"]
        np.testing.assert_array_equal(second, self.x + np.float32(1))
        np.testing.assert_array_equal(first, np.full((1, 4), 7, np.float32))
        session.run({"x": self.x * 0})
        np.testing.assert_array_equal(second, self.x + np.float32(1))
        assert second.flags.writeable

    @pytest.mark.parametrize(
        ("feeds", "words"),
        [
            ({"x": np.zeros((1, 5), np.float32)}, ("'x'", "(1, 5)", "(1, 4)")),
            ({"x": np.zeros(4, np.float32)}, ("'x'", "(4,)", "(1, 4)", "batch axis")),
            ({"x": np.zeros((1, 4), np.float64)}, ("'x'", "float64", "float32")),
            ({"x": np.zeros((1, 4), ">f4")}, ("'x'", "float32")),
            ({"x": [[0.0, 0.0, 0.0, 0.0]]}, ("'x'", "list", "array")),
            ({"x": None}, ("'x'", "NoneType", "array")),
            ({}, ("lack 'x'",)),
            ({"z": np.zeros((1, 4), np.float32)}, ("lack 'x'", "unknown 'z'")),
            ({"x": np.zeros((1, 4), np.float32), "z": np.zeros(1)}, ("unknown 'z'", "'x'")),
            (np.zeros((1, 4), np.float32), ("mapping", "ndarray")),
        ],
    )
    @pytest.mark.parametrize("warm", [False, True])
    def test_refuses_wrong_feeds(self, session: Session, feeds: Any, words: tuple[str, ...], warm: bool) -> None:
        """A wrong feed is refused by name with both values, on the first run and later, and harms no later run."""
        if warm:
            session.run({"x": self.x})
        with pytest.raises(ShapeError) as caught:
            session.run(feeds)
        for word in words:
            assert word in str(caught.value)
        np.testing.assert_array_equal(session.run({"x": self.x})["y"], self.x + np.float32(1))

    def test_free_batch(self, case: EngineCase) -> None:
        """A free size is None in the specs and takes any batch, in any order; no samples are refused."""
        if case.free is None:
            pytest.skip(f"no file with a free batch for {case.engine}")
        with open_session(case.free, engine=case.engine) as session:
            assert session.inputs == (TensorSpec("x", (None, 4), "float32"),)
            assert session.outputs == (TensorSpec("y", (None, 4), "float32"),)
            for batch in (1, 3, 3, 1, 17, 2):
                x = np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)
                np.testing.assert_array_equal(session.run({"x": x})["y"], x + np.float32(1))
            first = session.run({"x": x})["y"]
            session.run({"x": x * 0})
            np.testing.assert_array_equal(first, x + np.float32(1))
            with pytest.raises(ShapeError, match=r"\(any, 4\)"):
                session.run({"x": np.zeros((2, 5), np.float32)})
            with pytest.raises(ShapeError, match="no values"):
                session.run({"x": np.zeros((0, 4), np.float32)})
            np.testing.assert_array_equal(session.run({"x": x})["y"], x + np.float32(1))

    def test_reset(self, session: Session) -> None:
        """Resetting a model without state changes nothing, before the first run and after."""
        session.reset()
        session.run({"x": self.x})
        session.reset()
        np.testing.assert_array_equal(session.run({"x": self.x})["y"], self.x + np.float32(1))

    def test_closed(self, case: EngineCase, session: Session) -> None:
        """A closed session says so, whatever is asked of it; closing twice is allowed."""
        session.run({"x": self.x})
        session.close()
        session.close()
        for call in (lambda: session.run({"x": self.x}), session.reset, session.clone):
            with pytest.raises(EngineError, match="closed"):
                call()
        with open_session(case.model, engine=case.engine) as other:
            other.run({"x": self.x})
        with pytest.raises(EngineError, match="closed"):
            other.run({"x": self.x})

    def test_belongs_to_one_thread(self, session: Session) -> None:
        """Another thread is refused with both names; the owner goes on."""
        session.run({"x": self.x})
        for call in (lambda: session.run({"x": self.x}), session.reset):
            error = _in_thread(call, "intruder")
            assert isinstance(error, EngineError)
            assert "intruder" in str(error) and threading.current_thread().name in str(error) and "clone" in error.hint
        np.testing.assert_array_equal(session.run({"x": self.x})["y"], self.x + np.float32(1))

    def test_opened_here_run_there(self, session: Session) -> None:
        """The thread of the first run owns the session, not the one that opened it."""
        assert not isinstance(_in_thread(lambda: session.run({"x": self.x}), "owner"), Exception)
        with pytest.raises(EngineError, match="owner"):
            session.run({"x": self.x})

    def test_clones_are_independent(self, session: Session) -> None:
        """Clones run at the same time in other threads and outlive the session that they came from."""
        session.run({"x": self.x})
        clones = [session.clone() for _ in range(2)]
        wrong: list[int] = []

        def work(clone: Session, seed: int) -> None:
            for step in range(300):
                x = np.full((1, 4), seed * 1000 + step, np.float32)
                if not np.array_equal(clone.run({"x": x})["y"], x + 1):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(clone, seed)) for seed, clone in enumerate(clones)]
        for thread in threads:
            thread.start()
        session.close()
        for thread in threads:
            thread.join()
        assert not wrong
        again = clones[0].clone()
        np.testing.assert_array_equal(again.run({"x": self.x})["y"], self.x + np.float32(1))

    def test_missing_file(self, case: EngineCase, tmp_path: Path) -> None:
        """A path without a file is one named error."""
        with pytest.raises(EngineError, match="no model"):
            open_session(tmp_path / case.model.name, engine=case.engine)

    def test_corrupt_files(self, case: EngineCase, tmp_path: Path) -> None:
        """A truncated, emptied or overwritten file is an EngineError with a hint, never a crash or another exception.

        In a child process: a library may bring its process down. A file with a few changed bytes may still be valid.
        """
        whole = case.model.read_bytes()
        rng = random.Random(0)
        broken = {f"cut{n}": whole[: len(whole) * n // 8] for n in (0, 1, 4, 7)} | {"text": b"not a model at all\n" * 20}
        for seed in range(12):
            flipped = bytearray(whole)
            for _ in range(1 + seed):
                flipped[rng.randrange(8, len(whole))] = rng.randrange(256)
            broken[f"flip{seed}"] = bytes(flipped)
        paths = [tmp_path / f"{name}{case.model.suffix}" for name in broken]
        for path, data in zip(paths, broken.values(), strict=True):
            path.write_bytes(data)
            if (weights := case.model.with_suffix(".bin")).is_file():
                path.with_suffix(".bin").write_bytes(weights.read_bytes())
        child = [sys.executable, "-c", _LOAD_EACH, case.engine, *map(str, paths)]
        done = subprocess.run(child, capture_output=True, text=True, check=False, timeout=120)
        found = dict(zip(broken, done.stdout.splitlines(), strict=False))
        assert done.returncode == 0, f"died at {list(broken)[len(found) :][:1]}: {done.stderr[-500:]}"
        assert {name: outcome for name, outcome in found.items() if outcome not in ("EngineError", "fine")} == {}
        assert [name for name, outcome in found.items() if outcome == "fine" and not name.startswith("flip")] == []


@dataclass(frozen=True, slots=True)
class ReaderCase:
    """One reader and a model of its format.

    Args:
        reader: the reader's name.
        model: file or folder.
        inputs: what `specs` must say.
        outputs: as well.
        parameters: how many trained values the model has.
        others: files and folders of other formats, and files of none.
    """

    reader: str
    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    others: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return self.reader


class ReaderContract:
    """What every reader must do. Subclass it in a test module and give it a fixture `case` that returns a ReaderCase."""

    @pytest.fixture
    def case(self) -> ReaderCase:
        """The reader under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture(scope="class")
    @classmethod
    def child(cls) -> Iterator[Worker]:
        """The child process that all models are opened in."""
        with Worker() as worker:
            yield worker

    def _ask(self, child: Worker, job: str, path: Path) -> Any:
        return child.call(f"edgewright.converters.jobs:{job}", what=f"reading {path}", path=str(path), trust=False, custom=None)

    def test_says_what_it_is(self, case: ReaderCase) -> None:
        """The class names its format and whether that can carry code, and is found by content."""
        reader = READERS.get(case.reader)
        assert reader.format == case.reader
        assert isinstance(reader.consumes_code, bool)
        assert find_reader(case.model) == case.reader

    def test_sniffs_its_own_only(self, case: ReaderCase) -> None:
        """Its own model is recognised under any name, other files are not, and nothing heavy is imported for it."""
        paths = [case.model, *case.others]
        child = [sys.executable, "-c", _SNIFF, case.reader, *map(str, paths)]
        done = subprocess.run(child, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.splitlines() == [str([True, *[False] * len(case.others)]), "[]"], done.stderr[-500:]

    def test_specs(self, case: ReaderCase, child: Worker) -> None:
        """Inputs and outputs have the model's names, order, shapes and dtypes."""
        found = self._ask(child, "model_specs", case.model)
        assert tuple(TensorSpec.from_json(spec) for spec in found["inputs"]) == case.inputs
        assert tuple(TensorSpec.from_json(spec) for spec in found["outputs"]) == case.outputs

    def test_info_adds_up(self, case: ReaderCase, child: Worker) -> None:
        """Figures of `info` agree with the file and with each other, and survive JSON."""
        info = ModelInfo.from_json(self._ask(child, "inspect_model", case.model))
        assert ModelInfo.from_json(info.to_json()) == info
        assert (info.format, info.inputs, info.outputs) == (case.reader, case.inputs, case.outputs)
        assert info.parameters == case.parameters
        assert sum(int(np.prod(weight.shape)) for weight in info.weights) <= info.parameters
        assert info.raw_bytes == sum(file.stat().st_size for file in files_of(case.model))
        assert 0 < info.deflated_bytes
        assert info.ops and all(count > 0 for count in info.ops.values())
        assert (info.macs is None) <= bool(info.macs_note)
        for weight in info.weights:
            assert 0 <= weight.sparsity <= 1 and 1 <= weight.unique_per_channel <= weight.unique

    def test_missing(self, case: ReaderCase, child: Worker, tmp_path: Path) -> None:
        """A path without a model is a ModelError that names it."""
        with pytest.raises(ModelError, match="absent"):
            self._ask(child, "inspect_model", tmp_path / f"absent{case.model.suffix}")

    def test_corrupt(self, case: ReaderCase, child: Worker, tmp_path: Path) -> None:
        """A truncated or overwritten model is refused by name, never a crash or another exception."""
        main = case.model / "saved_model.pb" if case.model.is_dir() else case.model
        whole = main.read_bytes()
        for name, content in {
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "start": whole[:64],
            "middle": whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * len(whole) // 3 :],
        }.items():
            broken = tmp_path / f"{name}{case.model.suffix}"
            if case.model.is_dir():
                broken.mkdir()
                (broken / main.name).write_bytes(content)
            else:
                broken.write_bytes(content)
            with pytest.raises((ModelError, UnsupportedError), match=name):
                self._ask(child, "inspect_model", broken)


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


class WriterContract:
    """What every writer that takes .tflite artifacts must do. Subclass it and give it a fixture `case`, a WriterCase."""

    @pytest.fixture
    def case(self) -> WriterCase:
        """The writer under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture(scope="class")
    @classmethod
    def child(cls) -> Iterator[Worker]:
        """The child process that all jobs run in."""
        with Worker() as worker:
            yield worker

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


def _in_thread(call: Callable[[], Any], name: str) -> Any:
    """What a call returns, or the exception it raises, in a thread of this name."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()
    return results[0]
