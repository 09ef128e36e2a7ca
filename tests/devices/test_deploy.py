"""Deploy to this machine, over the real sshd, and through the real adb client: what runs there, and that it runs right."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgewright import deployment
from edgewright.artifact import Artifact, TensorSpec, file_digest
from edgewright.devices.deploy import deployed, rollback
from edgewright.devices.device import open_device
from edgewright.errors import DeviceBusyError, DeviceError, UsageError, VerificationError
from edgewright.runtime.golden import golden_path, make_golden, read_golden
from edgewright.testing_models import plus_one_openvino, plus_one_tflite, two_by_two_tflite


@pytest.fixture(params=["local", "ssh", "adb"])
def board(request):
    """Each way to a board; the Python there is this one."""
    return request.getfixturevalue(f"{request.param}_board")


@pytest.fixture
def models(tmp_path):
    """Two models whose outputs tell them apart, named alike."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return plus_one_tflite(tmp_path / "a" / "watch.tflite"), two_by_two_tflite(tmp_path / "b" / "watch.tflite")


def computed(device, name="watch"):
    """What the board's engine makes of the current version's golden vectors."""
    model = f"{device.folder}/models/{name}/current/{deployed(device, name)['models'][name]['current']['model']}"
    words = ["-m", "edgewright.runtime", "selftest", model, "--golden", f"{model}.golden.npz", "--json"]
    return device.json(words, timeout_s=120)["golden"]


def test_two_versions_and_back(board, models):
    first = deployment.deploy(models[0], board)
    assert (first["slot"][:5], first["from"], first["unchanged"]) == ("0001-", "", False)
    assert first["golden"]["passed"]
    second = deployment.deploy(models[1], board)
    assert (second["slot"][:5], second["from"]) == ("0002-", first["slot"])
    with open_device(board, what="x") as device:
        assert device.transport.sha256(second["model"]) == file_digest(models[1])
        device.ensure_runtime()
        assert [row["name"] for row in computed(device)["outputs"]] == ["sum", "product"]
        back = rollback(device, "watch")
        assert (back["slot"], back["from"]) == (first["slot"], second["slot"])
        assert device.transport.sha256(first["model"]) == file_digest(models[0])
        golden = computed(device)
        assert golden["passed"]
        assert [row["name"] for row in golden["outputs"]] == ["y"]
        with pytest.raises(DeviceError, match=f"watch has no earlier version than slot {first['slot']}"):
            rollback(device, "watch")
        assert rollback(device, "watch", to=2)["slot"] == second["slot"]
        history = deployed(device, "watch")["models"]["watch"]["history"]
    assert [(entry["action"], entry["slot"][:4], entry["from"][:4]) for entry in history] == [
        ("deploy", "0001", ""),
        ("deploy", "0002", "0001"),
        ("rollback", "0001", "0002"),
        ("rollback", "0002", "0001"),
    ]
    for entry in history:
        assert entry["host"] == os.uname().nodename
        assert entry["golden"]["passed"]
        assert entry["runtime"] == first["runtime"]
    assert {entry["sha256"] for entry in history} == {file_digest(model) for model in models}


def test_wrong_outputs_are_not_switched_to(board, models):
    first = deployment.deploy(models[0], board)
    golden = make_golden(models[1])
    results = [dict(result) for result in golden.results]
    results[2]["sum"] = results[2]["sum"] + np.float32([[0, 0, 9]])
    dataclasses.replace(golden, results=tuple(results)).write(golden_path(models[1]))
    with pytest.raises(VerificationError, match=r"output 'sum' on .* in inference 2 at \[0, 2\]") as caught:
        deployment.deploy(models[1], board)
    assert f"{golden.results[2]['sum'][0, 2]:g} instead of {results[2]['sum'][0, 2]:g}" in caught.value.message
    assert caught.value.exit_code == 4
    with open_device(board, what="x") as device:
        found = deployed(device, "watch")["models"]["watch"]
        assert found["current"]["slot"] == first["slot"]
        assert [slot["slot"] for slot in found["slots"]] == [first["slot"]]
        assert len(found["history"]) == 1
        device.ensure_runtime()
        assert computed(device)["passed"]
        home = Path(device.folder, "models", "watch")
    assert not list(home.glob("incoming/*"))


def test_second_deploy_is_refused_or_waits(board, models):
    with open_device(board, what="the one before"):
        with pytest.raises(DeviceBusyError, match=f"process {os.getpid()}, .*: the one before"):
            deployment.deploy(models[0], board)
    told = []
    with pytest.raises(DeviceBusyError, match="still after 1 s"), open_device(board, what="the one before"):
        deployment.deploy(models[0], board, wait_s=1, on_wait=told.append)
    assert "the one before: waiting up to 1 s" in told[0]
    assert deployment.deploy(models[0], board, wait_s=10)["slot"].startswith("0001-")


HOLDER = """
import json, sys
from edgewright.devices.boards import Board
from edgewright.devices.device import open_device
with open_device(Board(**json.loads(sys.argv[1])), what="the first run"):
    print("have it", flush=True)
    sys.stdin.read()
"""


def test_killed_holder_lets_go(board, models):
    plain = {**dataclasses.asdict(board), "file": None}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, json.dumps(plain)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "have it\n"
        with pytest.raises(DeviceBusyError, match=f"process {process.pid}, .*: the first run"):
            deployment.deploy(models[0], board)
        process.kill()
        process.wait(10)
        assert deployment.deploy(models[0], board, wait_s=30)["golden"]["passed"]


@pytest.mark.parametrize("text", ["pushing watch.tflite", "computing golden vectors on"])
def test_connection_that_breaks_leaves_the_old_version(new_sshd, tmp_path, models, text):
    server = new_sshd()
    board = server.board(str(tmp_path / "board"))
    first = deployment.deploy(models[0], board)

    def cut(share, told):
        if told.startswith(text):
            server.hang_up()

    with pytest.raises(DeviceError, match="pi"):
        deployment.deploy(models[1], board, progress=cut)
    with open_device(board, what="x", wait_s=30) as device:
        assert deployed(device, "watch")["models"]["watch"]["current"]["slot"] == first["slot"]
    done = deployment.deploy(models[1], board, wait_s=30)
    assert done["from"] == first["slot"]
    assert not list(Path(board.folder).rglob("incoming"))


# What every board does alike is tested on this one.


def test_weights_and_description_go_along(local_board, tmp_path):
    model = plus_one_openvino(tmp_path / "m.xml")
    specs = (TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 4), "float32"),)
    Artifact.of(model, "openvino", *specs).save()
    done = deployment.deploy(model, local_board, name="thing")
    names = sorted(path.name for path in Path(done["path"]).iterdir())
    assert names == ["m.bin", "m.xml", "m.xml.artifact.json", "m.xml.golden.npz", "slot.json"]
    assert done["model"].endswith("/models/thing/current/m.xml")
    assert done["golden"]["library"].startswith("openvino")
    record = json.loads(Path(done["path"], "slot.json").read_text())
    assert record["files"] == {name: file_digest(Path(done["path"], name)) for name in names[:4]}


def test_golden_vectors_are_kept_until_the_model_changes(local_board, models):
    deployment.deploy(models[0], local_board)
    kept = golden_path(models[0])
    for feed, result in zip(read_golden(kept).feeds, read_golden(kept).results, strict=True):
        np.testing.assert_array_equal(result["y"], feed["x"] + np.float32(1))
    before = kept.stat()
    assert deployment.deploy(models[0], local_board)["unchanged"]
    assert kept.stat().st_ino == before.st_ino
    models[0].write_bytes(models[1].read_bytes())
    done = deployment.deploy(models[0], local_board)
    assert not done["unchanged"]
    assert list(read_golden(kept).results[0]) == ["sum", "product"]


def test_samples_are_what_is_computed(local_board, models, tmp_path):
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.savez(tmp_path / "s.npz", x=x)
    deployment.deploy(models[0], local_board)
    done = deployment.deploy(models[0], local_board, samples=tmp_path / "s.npz")
    assert done["golden"]["source"] == str(tmp_path / "s.npz")
    golden = read_golden(Path(done["path"], "watch.tflite.golden.npz"))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in golden.feeds]), x[:8])


def test_other_samples_reach_the_version_that_runs(local_board, models, tmp_path):
    before = deployment.deploy(models[1], local_board)
    first = deployment.deploy(models[0], local_board)
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.savez(tmp_path / "s.npz", x=x)
    done = deployment.deploy(models[0], local_board, samples=tmp_path / "s.npz")
    assert (done["slot"], done["unchanged"], done["new_golden"], done["removed"]) == (first["slot"], True, True, [])
    assert (done["golden"]["source"], done["golden"]["calls"]) == (str(tmp_path / "s.npz"), 8)
    there = Path(done["path"])
    golden = read_golden(there / "watch.tflite.golden.npz")
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in golden.feeds]), x[:8])
    record = json.loads((there / "slot.json").read_text())
    assert record["files"] == {name: file_digest(there / name) for name in ("watch.tflite", "watch.tflite.golden.npz")}
    again = deployment.deploy(models[0], local_board)
    assert (again["new_golden"], again["golden"]["source"]) == (False, str(tmp_path / "s.npz"))
    with open_device(local_board, what="x") as device:
        history = deployed(device, "watch")["models"]["watch"]["history"]
        assert [entry["action"] for entry in history] == ["deploy", "deploy", "verify"]
        assert rollback(device, "watch")["slot"] == before["slot"]  # not the same file with the vectors before
        assert rollback(device, "watch", to=2)["golden"]["source"] == str(tmp_path / "s.npz")


def test_vectors_that_the_board_computes_otherwise_do_not_stay(local_board, models):
    first = deployment.deploy(models[0], local_board)
    golden = make_golden(models[0], seed=1)
    wrong = dataclasses.replace(golden, results=tuple({"y": result["y"] + np.float32(1)} for result in golden.results))
    wrong.write(golden_path(models[0]))
    with pytest.raises(VerificationError, match="output 'y' on"):
        deployment.deploy(models[0], local_board)
    assert read_golden(Path(first["path"], "watch.tflite.golden.npz")).source == "seed 0"
    with open_device(local_board, what="x") as device:
        device.ensure_runtime()
        assert computed(device)["passed"]
        assert len(deployed(device, "watch")["models"]["watch"]["history"]) == 1
    assert not list(Path(local_board.folder).rglob("incoming"))


def test_damaged_version_is_replaced_by_a_whole_one(local_board, models):
    first = deployment.deploy(models[0], local_board)
    Path(first["path"], "watch.tflite").write_bytes(models[1].read_bytes())
    done = deployment.deploy(models[0], local_board)
    assert (done["unchanged"], done["slot"][:5], done["from"]) == (False, "0002-", first["slot"])
    assert file_digest(Path(done["model"])) == file_digest(models[0])


def test_samples_fill_the_batch_of_a_model_of_batch_4(local_board, tmp_path):
    model = plus_one_tflite(tmp_path / "m.tflite", batch=4)
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    done = deployment.deploy(model, local_board, samples={"x": x})
    golden = read_golden(Path(done["path"], "m.tflite.golden.npz"))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in golden.feeds]), np.concatenate([x, x[-1:], x[-1:]]))


def test_same_again_is_no_new_version(local_board, models):
    first = deployment.deploy(models[0], local_board)
    again = deployment.deploy(models[0], local_board)
    assert again["unchanged"]
    assert again["slot"] == first["slot"]
    with open_device(local_board, what="x") as device:
        assert len(deployed(device, "watch")["models"]["watch"]["history"]) == 1


def test_old_versions_go_but_not_the_one_before(local_board, tmp_path):
    models = [plus_one_tflite(tmp_path / f"m{n}.tflite", sample=(n,)) for n in range(2, 7)]
    for model in models[:3]:
        deployment.deploy(model, local_board, name="m")
    with open_device(local_board, what="x") as device:
        rollback(device, "m", to=1)
    removed = [deployment.deploy(model, local_board, name="m", keep=2)["removed"] for model in models[3:]]
    assert [[slot[:4] for slot in one] for one in removed] == [["0002", "0003"], ["0001"]]
    slots = sorted(path.name[:4] for path in Path(local_board.folder, "models", "m", "slots").iterdir())
    assert slots == ["0004", "0005"]
    with open_device(local_board, what="x") as device:
        assert rollback(device, "m")["slot"].startswith("0004")


def test_numbers_of_removed_versions_are_not_used_again(local_board, tmp_path):
    for n in range(2, 5):
        deployment.deploy(plus_one_tflite(tmp_path / "m.tflite", sample=(n,)), local_board, keep=1)
    with open_device(local_board, what="x") as device, pytest.raises(DeviceError, match="no earlier version than slot 0003"):
        rollback(device, "m")


def test_rolling_back_to_a_damaged_version_is_refused(local_board, models):
    first = deployment.deploy(models[0], local_board)
    second = deployment.deploy(models[1], local_board)
    Path(first["path"], "watch.tflite").write_bytes(models[1].read_bytes())
    with open_device(local_board, what="x") as device:
        with pytest.raises(VerificationError, match="were made for a model with sha256"):
            rollback(device, "watch")
        assert deployed(device, "watch")["models"]["watch"]["current"]["slot"] == second["slot"]


def test_version_keeps_the_runtime_that_it_came_with(local_board, models, monkeypatch):
    from edgewright.devices import device as device_module

    first = deployment.deploy(models[0], local_board)
    true = device_module.build_wheel()
    for number in range(4):
        other = dataclasses.replace(true, digest=f"{number:016x}")
        monkeypatch.setattr(device_module, "build_wheel", lambda other=other: other)
        second = deployment.deploy(models[1], local_board)
        assert not second["unchanged"]
        time.sleep(0.02)
    there = {path.name for path in Path(local_board.folder, "runtime").iterdir()}
    assert first["runtime"] not in there  # three versions are kept, each with the runtime of its own
    assert {f"{number:016x}" for number in (1, 2, 3)} <= there
    with open_device(local_board, what="x") as device:
        back = rollback(device, "watch")
        assert back["runtime"] == f"{2:016x}"
        assert device.runtime["runtime"] == f"{2:016x}"


def test_runtime_that_somebody_removed_is_brought_again(local_board, models, monkeypatch):
    from edgewright.devices import device as device_module

    first = deployment.deploy(models[0], local_board)
    other = dataclasses.replace(device_module.build_wheel(), digest=f"{1:016x}")
    monkeypatch.setattr(device_module, "build_wheel", lambda: other)
    deployment.deploy(models[1], local_board)
    shutil.rmtree(Path(local_board.folder, "runtime", first["runtime"]))
    with open_device(local_board, what="x") as device:
        assert rollback(device, "watch")["runtime"] == other.digest


def test_too_little_space_is_told_before_anything_is_pushed(local_board, models):
    deployment.deploy(models[0], local_board)
    used = sum(path.stat().st_size for path in Path(local_board.folder).rglob("*") if path.is_file())
    full = dataclasses.replace(local_board, flash_bytes=used + 1000)
    with pytest.raises(DeviceError, match=r"watch\.tflite needs 0\.0 MiB on here, 0\.0 MiB are left of the \d\.\d MiB") as caught:
        deployment.deploy(models[1], full)
    assert "--keep" in caught.value.hint
    assert not list(Path(local_board.folder).rglob("incoming/*"))


def test_full_board_verifies_what_runs_there_again(local_board, models):
    """It takes no space that the board does not have: golden vectors alone if they are others."""
    first = deployment.deploy(models[0], local_board)
    with open_device(local_board, what="x") as device:
        used = device.survey()["used_bytes"]
    full = dataclasses.replace(local_board, flash_bytes=used)
    again = deployment.deploy(models[0], full)
    assert again["unchanged"] and again["slot"] == first["slot"]
    make_golden(models[0], seed=1).write(golden_path(models[0]))
    with pytest.raises(DeviceError, match=r"needs .* are left of the"):
        deployment.deploy(models[0], full)
    room = dataclasses.replace(local_board, flash_bytes=used + 2 * golden_path(models[0]).stat().st_size)
    assert deployment.deploy(models[0], room)["new_golden"]


def test_torn_line_of_the_history_costs_that_line_alone(local_board, models):
    deployment.deploy(models[0], local_board)
    history = Path(local_board.folder, "models", "watch", "history.jsonl")
    with history.open("a") as file:
        file.write('{"mark": "half of a li')
    deployment.deploy(models[1], local_board)
    with open_device(local_board, what="x") as device:
        found = deployed(device, "watch")["models"]["watch"]
        assert [entry["slot"][:4] for entry in found["history"]] == ["0001", "0002"]
        assert rollback(device, "watch")["slot"].startswith("0001")


def test_board_whose_files_cannot_be_links(local_board, models, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import errno, os\n\ndef symlink(*a, **k):\n    raise OSError(errno.EPERM, 'no links here')\n\nos.symlink = symlink\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{hook}${{PYTHONPATH:+:$PYTHONPATH}}" exec {local_board.python} "$@"\n')
    python.chmod(0o755)
    board = dataclasses.replace(local_board, python=str(python))
    first = deployment.deploy(models[0], board)
    assert Path(board.folder, "models", "watch", "current").read_text() == f"slots/{first['slot']}"
    second = deployment.deploy(models[1], board)
    with open_device(board, what="x") as device:
        assert deployed(device)["models"]["watch"]["current"]["slot"] == second["slot"]
        assert rollback(device, "watch")["slot"] == first["slot"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b", "x" * 65])
def test_names_that_are_no_folders(local_board, models, name):
    with pytest.raises(UsageError, match="cannot be a model's name"):
        deployment.deploy(models[0], local_board, name=name)


def test_engine_that_the_board_names_but_has_not(local_board, models):
    with pytest.raises(UsageError, match=r"watch\.tflite is tflite, the engines of here are onnxruntime"):
        deployment.deploy(models[0], dataclasses.replace(local_board, engines=("onnxruntime",)))
    done = deployment.deploy(models[0], dataclasses.replace(local_board, engines=("onnxruntime", "openvino", "litert")))
    assert done["golden"]["library"].startswith("openvino")


def test_unknown_model_and_slot(local_board, models):
    with open_device(local_board, what="x") as device:
        assert deployed(device) == {"models": {}}
        with pytest.raises(DeviceError, match="no model 'watch' is deployed there"):
            rollback(device, "watch")
    deployment.deploy(models[0], local_board)
    with open_device(local_board, what="x") as device:
        with pytest.raises(DeviceError, match="watch has no slot 7") as caught:
            rollback(device, "watch", to=7)
        assert "there are: 1" in caught.value.hint
        with pytest.raises(DeviceError, match="no model 'other'"):
            deployed(device, "other")


# The verbs.


@pytest.fixture
def verbs(place, here, local_board):
    """The command line, with a board "bench" in the user's profiles: (exit code, stdout, stderr)."""
    profiles = place / "config" / "edgewright" / "boards"
    profiles.mkdir(parents=True)
    (profiles / "bench.toml").write_text(
        f'schema = 1\ntitle = "Bench"\narchitecture = ""\ntransport = "local"\npython = "{local_board.python}"\n'
        f'folder = "{local_board.folder}"\n'
    )
    return here


def test_verbs_tell_what_was_done(verbs, models):
    code, out, err = verbs("deploy", models[0], "bench")
    assert code == 0, err
    assert "watch 0001-" in out
    assert "8 inferences (seed 0), equal outputs, ai-edge-litert" in out
    code, out, err = verbs("deploy", models[1], "bench", "--json")
    done = json.loads(out)
    assert (code, done["slot"][:4]) == (0, "0002")
    assert done["options"]["keep"] == {"value": 3, "from": "default"}
    code, out, _ = verbs("rollback", "bench", "watch")
    assert code == 0
    assert "watch 0001-" in out
    code, out, _ = verbs("deployed", "bench", "watch")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("20")] == ["rollback", "deploy", "deploy"]
    code, out, _ = verbs("deployed", "bench", "--json")
    assert json.loads(out)["models"]["watch"]["current"]["slot"].startswith("0001")


def test_verbs_tell_that_a_file_is_there_already(verbs, models):
    verbs("deploy", models[0], "bench")
    code, out, err = verbs("deploy", models[0], "bench")
    assert code == 0, err
    assert re.search(r"^note +this file is there already: it was verified again *$", out, re.MULTILINE)
    np.savez("s.npz", x=np.ones((3, 4), np.float32))
    code, out, err = verbs("deploy", models[0], "bench", "--samples", "s.npz")
    words = " ".join(out.split())
    assert code == 0, err
    assert "this file is there already: it was verified again, with new golden vectors" in words
    assert "golden vectors 3 inferences (" in words
    assert "/s.npz), equal outputs" in words
    code, out, _ = verbs("deployed", "bench", "watch")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("20")] == ["verify", "deploy"]


def test_verbs_tell_errors(verbs, models):
    code, _, err = verbs("rollback", "bench", "watch")
    assert code == 1
    assert err == "error: bench: no model 'watch' is deployed there\nhint: known: none\n"
    golden = make_golden(models[0])
    dataclasses.replace(golden, results=tuple({"y": result["y"] * 2} for result in golden.results)).write(golden_path(models[0]))
    code, out, err = verbs("deploy", models[0], "bench", "--json")
    assert code == 4
    assert json.loads(out)["error"]["type"] == "VerificationError"
    assert "nothing was switched" in err
    assert "Traceback" not in err
    code, _, err = verbs("deploy", models[0].with_name("none.tflite"), "bench")
    assert code == 1
    assert "there is no model at" in err
