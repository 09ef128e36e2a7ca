"""Contract suite for engines, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import TensorSpec
from edgewright.errors import EngineError, ShapeError
from edgewright.runtime import Session, open_session

__all__ = ["EngineCase", "EngineContract"]

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

    @pytest.mark.parametrize("more", [True, False])
    def test_started_ahead(self, session: Session, more: bool) -> None:
        """Batches started one before the other end in their order with what `run` computes; too many, and none, are refused."""
        started: list[np.ndarray[Any, Any]] = []

        def end() -> None:
            got = session.finish()["y"]
            np.testing.assert_array_equal(got, started.pop(0) + np.float32(1))
            assert session.computed_ns >= 0

        for step in range(7):
            if started:
                for refused in (lambda: session.run({"x": self.x}), session.reset):
                    with pytest.raises(EngineError, match="underway"):
                        refused()
            if len(started) == session.ahead:
                with pytest.raises(EngineError, match="underway"):
                    session.start({"x": self.x})
                end()
            feed = self.x + np.float32(step)
            started.append(feed.copy())
            session.start({"x": feed}, more=more)
            feed[...] = 0
        while started:
            end()
        session.start({"x": self.x}, more=False)
        session.finish()
        assert 0 < session.computed_ns < 1e9
        with pytest.raises(EngineError, match="no batch is underway"):
            session.finish()
        with pytest.raises(ShapeError):
            session.start({"x": np.zeros((1, 5), np.float32)})
        np.testing.assert_array_equal(session.run({"x": self.x})["y"], self.x + np.float32(1))

    def test_started_in_other_batches(self, case: EngineCase) -> None:
        """The batch may change while another one is underway, and what ran before runs again."""
        if case.free is None:
            pytest.skip(f"{case.engine} has no files of free batch")
        with open_session(case.free, engine=case.engine) as session:
            for sizes in ((1, 3), (3, 1), (2, 2), (1, 3)):
                feeds = [np.full((size, 4), size, np.float32) for size in sizes[: session.ahead]]
                for feed in feeds:
                    session.start({"x": feed})
                for feed in feeds:
                    np.testing.assert_array_equal(session.finish()["y"], feed + np.float32(1))
                np.testing.assert_array_equal(session.run({"x": feeds[-1]})["y"], feeds[-1] + np.float32(1))

    def test_batch_that_is_known(self, case: EngineCase) -> None:
        """A session that is told its batch computes it as any other, and so do its clones."""
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        with open_session(case.free or case.model, engine=case.engine, batch=2 if case.free else 1) as session:
            for one in (session, session.clone()):
                feed = x if case.free else x[:1]
                np.testing.assert_array_equal(one.run({"x": feed})["y"], feed + np.float32(1))

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
