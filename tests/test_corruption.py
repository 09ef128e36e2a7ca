"""Damaged, hostile and mislabelled models through every reader: success or one clear error, never more."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corruption_models
import pytest

from edgewright.converters.readers import find_reader
from edgewright.errors import EdgewrightError, WorkerCrashError, WorkerError, WorkerMemoryError, WorkerTimeoutError
from edgewright.worker import Limits, Worker

LIMITS = Limits(timeout_s=60, memory_bytes=6 << 30)
GROUPS = (("keras", "h5"), ("saved_model", "tflite", "onnx", "openvino"))
"""Readers whose files are opened one after another in one child; the groups run at the same time."""


class Opener:
    """Opens files as `edgewright inspect` does, but in one child until a file ends it."""

    def __init__(self):
        self.child = Worker(LIMITS)

    def open(self, path):
        """None if the file could be read, else what was raised."""
        try:
            find_reader(path)
            self.child.call(
                "edgewright.converters.jobs:inspect_model", what=f"reading {path.name}", path=str(path), trust=False, custom=None
            )
        except (WorkerCrashError, WorkerMemoryError, WorkerTimeoutError) as error:
            self.close()
            self.child = Worker(LIMITS)
            return error
        except BaseException as error:
            return error
        return None

    def close(self):
        self.child.close()


def outcomes_of(cases):
    opener = Opener()
    try:
        return [(reader, path, must_fail, opener.open(path)) for reader, path, must_fail in cases]
    finally:
        opener.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with Worker(LIMITS) as child:
            child.call("corruption_models:make", what="building models", folder=str(folder))
    return folder


@pytest.fixture(scope="module")
def cases(sound, tmp_path_factory):
    return corruption_models.write_cases(sound, tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="module")
def outcomes(sound, cases):
    """(reader, path, whether it must be refused, error or None) of every damaged file."""
    split = [[case for case in cases if case[0] in group] for group in GROUPS]
    with ThreadPoolExecutor(len(GROUPS)) as pool:
        return [outcome for part in pool.map(outcomes_of, split) for outcome in part]


def kind_of(error):
    return "ok" if error is None else type(error).__name__


def test_sound_models_are_read(sound):
    found = outcomes_of([("", sound / model, False) for model, _, _ in corruption_models.FLIPS.values()])
    assert [kind_of(error) for *_, error in found] == ["ok"] * len(found), found


CLI = ("empty_as.tflite", "png_as.keras", "bomb_model_4294967294.keras", "short_h5.keras", "no_bin.xml", "laughs.xml", "no_graph")


def test_the_command_line_prints_the_same_error_and_no_traceback(cases, tmp_path):
    chosen = [path for reader, path, must_fail in cases if must_fail and path.name in CLI]
    chosen += [next(p for r, p, must in cases if must and r == reader) for reader in ("h5", "saved_model", "tflite", "onnx")]
    assert len(chosen) >= 10
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(inspect_by_command, chosen))
    for path, result in zip(chosen, done, strict=True):
        assert result.returncode == 1, (path, result)
        assert "Traceback" not in result.stderr + result.stdout, result.stderr
        assert path.stem in result.stderr, result.stderr
        assert 1 <= len(result.stderr.strip().splitlines()) <= 6, result.stderr


def inspect_by_command(path):
    return subprocess.run(
        [sys.executable, "-m", "edgewright.cli", "inspect", str(path)], capture_output=True, text=True, timeout=120, check=False
    )


def test_summary(outcomes, capsys):
    counts = Counter((reader, kind_of(error)) for reader, _, _, error in outcomes)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(outcomes)} damaged models\n")
        for (reader, kind), count in sorted(counts.items()):
            sys.stdout.write(f"  {reader:12} {kind:20} {count:4}\n")
    assert len(outcomes) >= 200
    assert {reader for reader, _ in counts} == set(corruption_models.FLIPS)


@pytest.mark.parametrize("reader", corruption_models.FLIPS)
def test_every_file_is_read_or_gives_one_clear_error(outcomes, reader):
    wrong = []
    for _, path, must_fail, error in (outcome for outcome in outcomes if outcome[0] == reader):
        text = str(error)
        if error is None:
            wrong += [f"{path}: was read"] if must_fail else []
        elif not isinstance(error, EdgewrightError):
            wrong.append(f"{path}: {error!r}")
        elif path.stem not in text or "Traceback" in text or "\n" in text or len(text) > 1500:
            wrong.append(f"{path}: {text!r}")
        elif type(error) in (WorkerError, WorkerTimeoutError, WorkerMemoryError):
            wrong.append(f"{path}: {kind_of(error)}: {text}")
    assert not wrong, "\n" + "\n".join(wrong)
