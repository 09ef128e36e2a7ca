"""An arm64 Debian under qemu behind the real sshd, as a Raspberry Pi 4: deploy there, same outputs, and the bench runs.

The first run builds the root file system (see arm_root.py), which takes seconds with a fast connection; without one, or without
qemu-user, these tests are skipped.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from arm_root import ArmRootMissing, arm_root

import edgewright
from edgewright import deployment
from edgewright.devices.deploy import deployed, rollback
from edgewright.devices.device import open_device
from edgewright.errors import DeviceError
from edgewright.runtime import open_session
from edgewright.runtime.golden import read_golden
from edgewright.testing_models import plus_one_tflite, two_by_two_tflite

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="session")
def root():
    try:
        return arm_root()
    except ArmRootMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def pi(ssh_board, root):
    """The "Pi 4": sshd on loopback, whose Python is arm64's."""
    return dataclasses.replace(ssh_board, name="pi4", architecture="aarch64", python=str(root.python), engines=("litert",))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A float model and an int8 one of it."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    plain = two_by_two_tflite(folder / "float.tflite")
    samples = {"zeta": rng.normal(size=(50, 4)).astype(np.float32), "alpha": rng.normal(size=(50, 3)).astype(np.float32)}
    int8 = edgewright.convert(plain, folder / "int8.tflite", precision="int8", io="int8", samples=samples)
    return plain, int8.path


def test_deploy_and_bench_on_arm64(pi, root, models, tmp_path):
    with pytest.raises(DeviceError, match=r"the Python 3\.11\.2 of pi4 has no NumPy") as caught:
        deployment.deploy(models[0], pi)
    assert "_aarch64" in caught.value.hint
    for model in models:
        done = deployment.deploy(model, pi, name="watch", wheels=root.wheels)
        assert done["golden"]["passed"]
        assert done["golden"]["library"].startswith("ai-edge-litert")
        for row in done["golden"]["outputs"]:
            assert row["difference"] <= (0 if model == models[1] else 1e-6), row
    assert [row["equal"] for row in done["golden"]["outputs"]] == [1.0, 1.0]  # int8: bit for bit

    with open_device(pi, what="bench") as device:
        device.ensure_runtime()  # goes on with the wheels that are there
        probe = device.json(["-m", "edgewright.runtime", "probe", "--json"], timeout_s=120)
        assert probe["machine"]["architecture"] == "aarch64"
        assert probe["engines"] == {"litert": done["golden"]["library"], "onnxruntime": None, "openvino": None}
        words = ["-m", "edgewright.benchmarks", "bench", done["model"], "--duration", "0.2", "--json"]
        bench = device.json(words, timeout_s=300)
        assert bench["machine"]["architecture"] == "aarch64"
        assert bench["execution"]["precision"] == "int8"
        assert len(bench["latencies_ns"]) >= 50
        assert rollback(device, "watch")["slot"].startswith("0001")
        assert deployed(device, "watch")["models"]["watch"]["current"]["model"] == "float.tflite"


def test_int8_outputs_are_those_of_this_machine_bit_for_bit(pi, root, models, tmp_path):
    """Not through the golden vectors: a program of the test's own, thousands of inputs, plain arrays."""
    rng = np.random.default_rng(1)
    zeta, alpha = rng.integers(-128, 128, (400, 4), np.int8), rng.integers(-128, 128, (400, 3), np.int8)
    np.savez(tmp_path / "in.npz", zeta=zeta, alpha=alpha)
    program = (
        "import sys, numpy as np; from ai_edge_litert.interpreter import Interpreter\n"
        "given = np.load(sys.argv[2]); run = Interpreter(model_path=sys.argv[1]).get_signature_runner()\n"
        "out = [run(zeta=z[None], alpha=a[None]) for z, a in zip(given['zeta'], given['alpha'])]\n"
        "np.savez(sys.argv[3], **{name: np.concatenate([one[name] for one in out]) for name in out[0]})\n"
    )
    with open_device(pi, what="x") as device:
        device.ensure_runtime(root.wheels)
        with device.temporary() as there:
            for file in (models[1], tmp_path / "in.npz"):
                device.transport.push(file, f"{there}/{file.name}")
            paths = [f"{there}/{name}" for name in (models[1].name, "in.npz", "out.npz")]
            done = device.python(["-c", program, *paths], timeout_s=300)
            assert done.code == 0, done.stderr
            device.transport.pull(paths[2], tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz")
    with open_session(models[1]) as session:
        for index in range(400):
            here = session.run({"zeta": zeta[index : index + 1], "alpha": alpha[index : index + 1]})
            for name, value in here.items():
                np.testing.assert_array_equal(found[name][index], value[0])


def test_wheels_of_another_machine_are_refused(pi, tmp_path):
    (tmp_path / "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"")
    with pytest.raises(DeviceError, match="do not fit the board") as caught:
        deployment.deploy(plus_one_tflite(tmp_path / "m.tflite"), pi, wheels=tmp_path)
    assert "Python 3.11 on aarch64 with glibc 2.36" in caught.value.message


def test_history_and_golden_vectors_on_arm64_are_those_made_here(pi, root, models):
    done = deployment.deploy(models[1], pi, name="watch", wheels=root.wheels)
    golden = read_golden(Path(done["path"], "int8.tflite.golden.npz"))
    assert golden.sha256 == done["sha256"]
    assert golden.made_by["engine"] == "litert"
    history = Path(pi.folder, "models", "watch", "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["slot"] for line in history] == [done["slot"]]
