"""Contract suite for readers, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import TensorSpec, files_of
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.readers import READERS, find_reader
from edgewright.errors import ModelError, UnsupportedError
from edgewright.testing_child import InChild
from edgewright.worker import Worker

__all__ = ["ReaderCase", "ReaderContract"]

_SNIFF = """
import sys
from pathlib import Path
from edgewright.converters.readers import READERS

before = set(sys.modules)
print([READERS.get(sys.argv[1]).sniff(Path(path)) for path in sys.argv[2:]])
heavy = {"tensorflow", "keras", "tf_keras", "torch", "onnx", "openvino", "nncf", "ai_edge_litert"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


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


class ReaderContract(InChild):
    """What every reader must do. Subclass it in a test module and give it a fixture `case` that returns a ReaderCase."""

    @pytest.fixture
    def case(self) -> ReaderCase:
        """The reader under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

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
