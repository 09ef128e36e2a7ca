"""Model files and their sidecars: round trips, damage, digests, and files that appear whole or not at all."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from edgewright import testing
from edgewright.artifact import (
    Artifact,
    ModelMeta,
    StepRecord,
    TensorSpec,
    atomic_folder,
    file_sha256,
    files_of,
    looks_like,
    write_atomic,
)
from edgewright.errors import ArtifactError, ModelError

DEMO = Path(__file__).parents[1] / "edgewright" / "demo_data"


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"....TFL3 something")
    return Artifact.of(
        path,
        "tflite",
        (TensorSpec("x", (None, 3), "int8", 0.5, -3),),
        (TensorSpec("y", (1,), "float32"),),
        (StepRecord("read:keras", {"batch": 1}, "ab" * 32, {"keras": "3.1"}),),
        ModelMeta({"x": {"scale": 2.0}}, "classification", ("a", "ü"), {"theirs": [1]}),
    )


def test_sidecar_there_and_back(artifact):
    artifact.save()
    assert artifact.sidecar.name == "model.tflite.artifact.json"
    assert Artifact.load(artifact.path) == artifact
    assert artifact.sha256 == hashlib.sha256(b"....TFL3 something").hexdigest()


def test_no_sidecar_is_no_artifact(tmp_path):
    assert Artifact.load(tmp_path / "model.tflite") is None


def test_fields_of_a_newer_version_are_kept(artifact):
    data = artifact.to_json() | {"schema": 2, "signed_by": {"name": "someone"}}
    artifact.sidecar.write_text(json.dumps(data))
    again = Artifact.load(artifact.path)
    again.with_meta(task="detection").save()
    written = json.loads(artifact.sidecar.read_text())
    assert written["signed_by"] == {"name": "someone"}
    assert written["meta"]["task"] == "detection"
    assert written["meta"]["extra"] == {"theirs": [1]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"text"', "{}", '{"format": "tflite"}', "\udcff", "[" * 100_000],
    ids=["empty", "cut", "list", "null", "number", "string", "no fields", "few fields", "no utf-8", "deep"],
)
def test_a_corrupt_sidecar_is_named(artifact, text):
    artifact.sidecar.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=r"model\.tflite\.artifact\.json cannot be read") as caught:
        Artifact.load(artifact.path)
    assert "delete it" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [{"inputs": 3}, {"inputs": [{}]}, {"outputs": ["x"]}, {"meta": []}, {"lineage": [{}]}, {"sha256": None}, {"format": 7}],
)
def test_a_sidecar_with_wrong_types_is_named(artifact, change):
    artifact.sidecar.write_text(json.dumps(artifact.to_json() | change))
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.load(artifact.path)


def test_a_sidecar_of_another_file_is_refused_with_both_digests(artifact):
    artifact.save()
    artifact.path.write_bytes(b"changed")
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(artifact.path)
    assert artifact.sha256[:12] in caught.value.message
    assert hashlib.sha256(b"changed").hexdigest()[:12] in caught.value.message


def test_files_arrive_together_and_replace_earlier_ones(tmp_path):
    (tmp_path / "m.xml").write_text("old")
    with atomic_folder(tmp_path) as folder:
        (folder / "m.xml").write_text("new")
        (folder / "m.bin").write_text("weights")
        assert (tmp_path / "m.xml").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"m.xml": "new", "m.bin": "weights"}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path, kind):
    (tmp_path / "m.tflite").write_text("old")
    with pytest.raises(kind), atomic_folder(tmp_path) as folder:
        (folder / "m.tflite").write_text("half")
        raise kind
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"m.tflite": "old"}


def test_a_killed_writer_leaves_the_earlier_file_whole(tmp_path):
    target = tmp_path / "m.tflite"
    target.write_bytes(b"old" * 1000)
    code = (
        "import sys, time; from pathlib import Path; from edgewright.artifact import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'm.tflite').write_bytes(b'half'); print('half', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "half\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert target.read_bytes() == b"old" * 1000
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"


def test_writing_to_a_pipe_leaves_it_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, b"data")
    assert os.read(reader, 99) == b"data" and pipe.is_fifo()
    os.close(reader)
    full = Path("/dev/full")
    if full.is_char_device():
        with pytest.raises(ArtifactError, match="cannot write to /dev/full: No space left"):
            write_atomic(full, b"data")
        assert full.is_char_device()


def test_a_block_that_fails_for_another_reason_keeps_its_error(tmp_path):
    """ "Cannot write" would send its user to the wrong place."""
    with pytest.raises(FileNotFoundError, match=r"samples\.npz"), atomic_folder(tmp_path / "out"):
        (tmp_path / "samples.npz").open("rb")
    with pytest.raises(ConnectionRefusedError), atomic_folder(tmp_path / "out"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match=f"cannot write to .*{tmp_path.name}: No space left") as caught:
        write_atomic(tmp_path / "m.tflite", b"data")
    assert "free space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk(tmp_path):
    """On a file system of 64 kB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        write_atomic(disk / "m.tflite", b"old")
        with pytest.raises(ArtifactError, match="No space left"):
            write_atomic(disk / "m.tflite", b"x" * 200_000)
        assert {p.name: p.read_bytes() for p in disk.iterdir()} == {"m.tflite": b"old"}
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("place", ["file/out", "file"])
def test_a_target_that_is_no_folder(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write to"):
        write_atomic(tmp_path / place / "m.tflite", b"data")


def test_a_read_only_target(tmp_path):
    """/proc refuses even the superuser."""
    where = Path("/proc/edgewright") if os.name == "posix" and Path("/proc/self").exists() else tmp_path / "locked"
    if not where.parent.samefile("/proc"):
        where.mkdir(mode=0o500)
    with pytest.raises(ArtifactError, match="cannot write to"):
        write_atomic(where / "m.tflite", b"data")


def test_a_folder_where_the_file_belongs(tmp_path):
    (tmp_path / "m.tflite").mkdir()
    with pytest.raises(ArtifactError, match="cannot write to"):
        write_atomic(tmp_path / "m.tflite", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_digest_of_a_folder_follows_names_and_contents(tmp_path):
    def make(name, files):
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return file_sha256(tmp_path / name)

    first = make("a", {"saved_model.pb": "graph", "variables/index": "w"})
    pairs = sorted(
        [name, hashlib.sha256(content.encode()).hexdigest()]
        for name, content in {"saved_model.pb": "graph", "variables/index": "w"}.items()
    )
    assert first == hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    assert first == make("b", {"variables/index": "w", "saved_model.pb": "graph"})
    assert first != make("c", {"saved_model.pb": "graph", "variables/other": "w"})
    assert first != make("d", {"saved_model.pb": "graph", "variables/index": "v"})


def test_digest_of_an_ir_covers_its_weights(tmp_path):
    xml, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    xml.write_text("<net/>")
    alone = file_sha256(xml)
    assert alone == hashlib.sha256(b"<net/>").hexdigest()
    weights.write_bytes(b"one")
    assert files_of(xml) == [xml, weights]
    one = file_sha256(xml)
    weights.write_bytes(b"two")
    assert len({alone, one, file_sha256(xml)}) == 3


def test_digest_does_not_depend_on_where_the_file_lies(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.xml").write_text("<net/>")
        (tmp_path / folder / "m.bin").write_bytes(b"w")
    assert file_sha256(tmp_path / "a" / "m.xml") == file_sha256(tmp_path / "b" / "m.xml")


def test_nothing_there(tmp_path):
    for look in (files_of, file_sha256, looks_like):
        with pytest.raises(ModelError, match="there is no model at"):
            look(tmp_path / "none.tflite")


def test_looks_like_goes_by_content_not_by_name(tmp_path):
    """The real writers' files, each under a name that says nothing."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "h5_model", "w") as file:
        file.attrs["keras_version"] = "3"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "saved_model.pb").write_bytes(b"")
    shutil.copy(DEMO / "watch.keras", tmp_path / "keras_model")
    made = {
        "h5": tmp_path / "h5_model",
        "saved_model": tmp_path / "folder",
        "keras": tmp_path / "keras_model",
        "tflite": testing.plus_one_tflite(tmp_path / "a.tflite").rename(tmp_path / "tflite_model"),
        "onnx": testing.plus_one_onnx(tmp_path / "a.onnx").rename(tmp_path / "onnx_model"),
        "openvino": testing.plus_one_openvino(tmp_path / "a.xml").rename(tmp_path / "ir_model"),
    }
    assert {format: looks_like(path) for format, path in made.items()} == {format: format for format in made}


def _zip(name):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(name, "{}")
    return memory.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08", b"TFL3", b"#!/bin/sh\n", b"<html></html>", b"\x89PNG\r\n\x1a\n", _zip("word/document.xml"),
     b"\x08\x96\x01\x12", b"\x00" * 64, bytes(range(256)), b"\x93NUMPY\x01\x00", b'{"net": 1}', b"\xff\xfe<\x00n\x00e\x00t"],
)  # fmt: skip
def test_nonsense_looks_like_nothing(tmp_path, content):
    path = tmp_path / "nonsense.tflite"
    path.write_bytes(content)
    assert looks_like(path) is None


def test_an_empty_folder_looks_like_nothing(tmp_path):
    assert looks_like(tmp_path) is None


def test_spec_text():
    assert str(TensorSpec("x", (None, 3), "int8", 0.5, 0)) == "x: int8[?, 3]"
    assert TensorSpec("x", (1,), "int8", 0.5, 0).quantized and not TensorSpec("x", (1,), "int8").quantized


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from edgewright.artifact import write_atomic\n"
        "for _ in range(150): write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * 50_000)\n"
    )
    target = tmp_path / "m.tflite"
    children = [subprocess.Popen([sys.executable, "-c", code, target, letter]) for letter in "ab"]
    seen = set()
    while any(child.poll() is None for child in children):
        if target.exists():
            seen.add(target.read_bytes())
        time.sleep(0.001)
    assert [child.wait() for child in children] == [0, 0]
    assert seen <= {b"a" * 50_000, b"b" * 50_000} and seen
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]
