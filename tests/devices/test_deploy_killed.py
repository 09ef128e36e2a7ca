"""kill -9 at every step of a deploy, here and on the board: one whole version always answers, and the next deploy succeeds."""

import dataclasses
import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright import deployment
from edgewright.artifact import file_digest
from edgewright.devices.deploy import deployed, rollback
from edgewright.devices.device import open_device
from edgewright.errors import DeviceError
from edgewright.runtime.golden import golden_path, make_golden
from edgewright.testing_models import plus_one_tflite, two_by_two_tflite

SCRIPT = Path(__file__).with_name("killed_deploy.py")


@pytest.fixture
def models(tmp_path):
    """The version that runs, and the one that is being deployed; golden vectors are beside both, so that they cost no time."""
    found = plus_one_tflite(tmp_path / "old.tflite"), two_by_two_tflite(tmp_path / "new.tflite")
    for model in found:
        make_golden(model).write(model.with_name(f"{model.name}.golden.npz"))
    return found


def plain(board):
    """A board as JSON."""
    fields = dataclasses.asdict(board)
    return {**fields, "engines": list(board.engines), "meters": [], "file": None}


def killed_at(board, model, operation, when):
    """Deploy in a child that kills itself at an operation; what it printed, None if it was killed."""
    work = {"board": plain(board), "model": str(model), "name": "watch", "at": operation, "when": when}
    words = [sys.executable, SCRIPT, json.dumps(work)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answers(board):
    """The current version's model, slot and history; it has computed its golden vectors just now, with its own runtime."""
    with open_device(board, what="looking", wait_s=60) as device:
        watch = deployed(device, "watch")["models"]["watch"]
        now = watch["current"]
        device.use_runtime(now["runtime"], now["packages"])
        model = f"{device.folder}/models/watch/current/{now['model']}"
        words = ["-m", "edgewright.runtime", "selftest", model, "--golden", f"{model}.golden.npz", "--json"]
        assert device.json(words, timeout_s=120)["golden"]["passed"]
        return now["model"], now["slot"], [entry["slot"] for entry in watch["history"]]


def nothing_half_way(board):
    """After a deploy that went well: no leftovers, and every slot is in the history."""
    with open_device(board, what="looking", wait_s=60) as device:
        home, watch = Path(device.folder), deployed(device, "watch")["models"]["watch"]
    assert watch["current"]["slot"] == watch["history"][-1]["slot"]
    names = {path.name for path in (home / "models" / "watch").iterdir()}
    assert names == {"slots", "current", "history.jsonl"}
    assert {slot["slot"] for slot in watch["slots"]} <= {entry["slot"] for entry in watch["history"]}
    assert {path.name for path in (home / "models" / "watch" / "slots").iterdir()} == {slot["slot"] for slot in watch["slots"]}
    assert not list(home.glob("tmp/*"))
    assert not [path for path in home.rglob("*") if path.name.endswith((".part", ".new", ".old"))]


def kill_everywhere(board, models, when, every=1):
    """Kill at each operation, or at each so many, until one deploy gets to its end.

    Before each, the old version is made the current one again.
    """
    deployment.deploy(models[0], board, name="watch")
    kept = shutil.copytree(board.folder, f"{board.folder}.kept", symlinks=True)
    switched = 0
    for operation in itertools.count(0, every):
        shutil.rmtree(board.folder)
        shutil.copytree(kept, board.folder, symlinks=True)
        if killed_at(board, models[1], operation, when) is not None:
            break
        model, slot, history = answers(board)
        if model == "new.tflite":  # killed after the switch: the new one, whole
            switched += 1
            assert slot.startswith("0002-")
        else:
            assert (model, slot[:5]) == ("old.tflite", "0001-")
            assert not switched, "an operation after the switch left the old version"
        assert history[-1] == slot
        deployment.deploy(models[1], board, name="watch", wait_s=60)  # computes the golden vectors once more
        nothing_half_way(board)
    assert operation >= 8
    return switched


@pytest.mark.parametrize(
    ("when", "every"),
    [("before", 4), *(pytest.param(when, 1, marks=pytest.mark.slow) for when in ("before", "within", "after"))],
)
def test_killed_at_every_operation(local_board, models, when, every):
    assert kill_everywhere(local_board, models, when, every) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "within", "after"])
@pytest.mark.parametrize("transport", ["ssh", "adb"])
def test_killed_at_every_operation_over_the_wire(request, models, transport, when):
    board = request.getfixturevalue(f"{transport}_board")
    if transport == "adb":
        with open_device(board, what="x") as device:
            board = dataclasses.replace(board, folder=device.folder)
    kill_everywhere(board, models, when)


def test_killed_while_the_runtime_is_pushed(local_board, models):
    for operation in range(3, 8):
        for when in ("before", "within"):
            shutil.rmtree(local_board.folder, ignore_errors=True)
            assert killed_at(local_board, models[0], operation, when) is None
            deployment.deploy(models[0], local_board, name="watch", wait_s=60)
            assert answers(local_board)[0] == "old.tflite"
            nothing_half_way(local_board)


HOOK = """
import os, signal, sys

CALLS = ("mkdir", "rename", "replace", "symlink", "unlink", "fsync", "sync", "write", "utime", "rmdir", "scandir", "open")
AT, WHEN, VERB = int(os.environ["KILL_AT"]), os.environ["KILL_WHEN"], os.environ["KILL_VERB"]
done = 0

def counted(true):
    def call(*args, **kwargs):
        global done
        if not any(f'"verb": "{VERB}"' in word for word in sys.argv[1:]):
            return true(*args, **kwargs)
        mine, done = done, done + 1
        if mine == AT and WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = true(*args, **kwargs)
        if mine == AT and WHEN == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for name in CALLS:
    setattr(os, name, counted(getattr(os, name)))
"""
"""Kills the program on the board at the N-th change that it makes to files."""


def hooked(board, folder, at, when, verb):
    """The board with a Python that kills itself."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nexport KILL_AT={at} KILL_WHEN={when} KILL_VERB={verb} PYTHONPATH="{folder}${{PYTHONPATH:+:$PYTHONPATH}}"\n'
        f'exec {board.python} "$@"\n'
    )
    script.chmod(0o755)
    return dataclasses.replace(board, python=str(script))


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", ["commit", "begin", "switch"])
def test_program_on_the_board_is_killed_at_every_change(local_board, models, tmp_path, verb, every):
    deployment.deploy(models[0], local_board, name="watch")
    if verb == "switch":  # what a rollback does
        deployment.deploy(models[1], local_board, name="watch")
    kept = shutil.copytree(local_board.folder, f"{local_board.folder}.kept", symlinks=True)
    before, after = ("new.tflite", "old.tflite") if verb == "switch" else ("old.tflite", "new.tflite")
    switched = False
    for at in itertools.count(0, every):
        shutil.rmtree(local_board.folder)
        shutil.copytree(kept, local_board.folder, symlinks=True)
        board = hooked(local_board, tmp_path / "hook", at, "before", verb)
        try:
            change(board, models, verb)
        except DeviceError as error:
            assert "137" in error.message or "-9" in error.message, error.message
        else:
            break
        model, slot, history = answers(local_board)
        switched |= model == after
        assert model == (after if switched else before)
        assert history[-1] == slot
        change(local_board, models, "commit")
        nothing_half_way(local_board)
    assert at > 5
    assert switched or verb == "begin"


def change(board, models, verb):
    """Roll back, or deploy the new model."""
    if verb == "switch":
        with open_device(board, what="x", wait_s=60) as device:
            return rollback(device, "watch")
    return deployment.deploy(models[1], board, name="watch", wait_s=60)


@pytest.mark.slow
def test_golden_vectors_are_renewed_as_a_whole(local_board, models, tmp_path):
    first = deployment.deploy(models[0], local_board, name="watch")["slot"]
    kept = shutil.copytree(local_board.folder, f"{local_board.folder}.kept", symlinks=True)
    make_golden(models[0], seed=1).write(golden_path(models[0]))
    for at in itertools.count():
        shutil.rmtree(local_board.folder)
        shutil.copytree(kept, local_board.folder, symlinks=True)
        try:
            deployment.deploy(models[0], hooked(local_board, tmp_path / "hook", at, "before", "renew"), name="watch", wait_s=60)
        except DeviceError as error:
            assert "137" in error.message or "-9" in error.message, error.message
        else:
            break
        assert answers(local_board)[:2] == ("old.tflite", first)
        done = deployment.deploy(models[0], local_board, name="watch", wait_s=60)
        assert (done["slot"], done["golden"]["source"]) == (first, "seed 1")
        record = json.loads(Path(done["path"], "slot.json").read_text())
        assert record["files"] == {name: file_digest(Path(done["path"], name)) for name in record["files"]}
        nothing_half_way(local_board)
    assert at > 5
