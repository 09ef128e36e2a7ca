"""A model file and all that is known of it: tensors, lineage, preprocessing, kept in a sidecar beside the file."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgewright.errors import ArtifactError, ModelError

__all__ = [
    "Artifact",
    "ModelMeta",
    "StepRecord",
    "TensorSpec",
    "atomic_folder",
    "deflated_bytes",
    "file_digest",
    "file_sha256",
    "files_of",
    "looks_like",
    "process_lives",
    "raw_bytes",
    "sweep_leftovers",
    "write_atomic",
]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Args:
        name: the name that feeds and results are keyed by, the same in every format.
        shape: sizes; None stands for a size that is free at run time.
        dtype: NumPy name, for example "float32" or "int8".
        scale: step of the quantized values, real = scale * (stored - zero_point); None if not quantized.
        zero_point: stored value that means 0.0; None if not quantized.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def quantized(self) -> bool:
        """Whether stored values are integers that stand for real numbers."""
        return self.scale is not None

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scale": self.scale,
            "zero_point": self.zero_point,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Inverse of `to_json`."""
        return cls(data["name"], tuple(data["shape"]), data["dtype"], data.get("scale"), data.get("zero_point"))

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of how a file was made: the step's name, its options and what went in.

    Args:
        step: for example "write:tflite".
        options: the step's options as plain values.
        parent_sha256: digest of the file that the step was applied to.
        versions: releases of the libraries that did the work.
    """

    step: str
    options: Mapping[str, Any]
    parent_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "step": self.step,
            "options": dict(self.options),
            "parent_sha256": self.parent_sha256,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepRecord:
        """Inverse of `to_json`."""
        return cls(data["step"], data.get("options", {}), data.get("parent_sha256", ""), data.get("versions", {}))


@dataclass(frozen=True, slots=True)
class ModelMeta:
    """What a model file cannot say by itself.

    Args:
        preprocess: declaration per input name, see `edgewright.preprocess.Preprocess.to_json`.
        task: for example "classification"; None if not declared.
        labels: class names in output order.
        extra: fields of newer versions and of third parties, kept on rewriting.
    """

    preprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    task: str | None = None
    labels: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "preprocess": {name: dict(value) for name, value in self.preprocess.items()},
            "task": self.task,
            "labels": list(self.labels),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelMeta:
        """Inverse of `to_json`."""
        return cls(data.get("preprocess", {}), data.get("task"), tuple(data.get("labels", ())), data.get("extra", {}))


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model file on disk, its digest and what is known of it. Immutable: a step returns a new one.

    Args:
        path: the file (`.xml` for OpenVINO, the folder for a SavedModel).
        format: reader's name: keras, saved_model, onnx, tflite, openvino.
        inputs: in the model's own order.
        outputs: in the model's own order.
        sha256: digest of the file, or of the sorted (name, digest) pairs of a format of several files.
        lineage: the steps that led here, oldest first.
        meta: preprocessing, task, labels.
        unknown: fields that a newer version wrote into the sidecar, kept on rewriting.
    """

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str
    lineage: tuple[StepRecord, ...] = ()
    meta: ModelMeta = field(default_factory=ModelMeta)
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        format: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        lineage: tuple[StepRecord, ...] = (),
        meta: ModelMeta | None = None,
    ) -> Artifact:
        """An artifact of a file that exists: the digest is computed here."""
        return cls(path, format, inputs, outputs, file_sha256(path), lineage, meta or ModelMeta())

    @property
    def sidecar(self) -> Path:
        """Where `save` writes: the file's name with `.artifact.json` behind it."""
        return sidecar_of(self.path)

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            **self.unknown,
            "schema": SCHEMA,
            "format": self.format,
            "file": self.path.name,
            "sha256": self.sha256,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "lineage": [record.to_json() for record in self.lineage],
            "meta": self.meta.to_json(),
        }

    def save(self) -> None:
        """Write the sidecar, whole or not at all."""
        write_atomic(self.sidecar, (json.dumps(self.to_json(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Artifact | None:
        """The artifact that the sidecar beside a file describes, None if there is no sidecar.

        Raises:
            ArtifactError: the sidecar is no valid JSON, lacks a field, or was written for another file.
        """
        sidecar = sidecar_of(path)
        if not sidecar.is_file():
            return None
        try:
            data = json.loads(sidecar.read_text(encoding="utf-8"))
            for name in ("format", "sha256"):
                if not isinstance(data[name], str):
                    raise TypeError(f"{name} is {data[name]!r}, not a text")
            known = {"schema", "format", "file", "sha256", "inputs", "outputs", "lineage", "meta"}
            artifact = cls(
                path,
                data["format"],
                tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
                tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
                data["sha256"],
                tuple(StepRecord.from_json(record) for record in data.get("lineage", ())),
                ModelMeta.from_json(data.get("meta", {})),
                {key: value for key, value in data.items() if key not in known},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise ArtifactError(
                f"{sidecar} cannot be read as an artifact description ({type(error).__name__}: {error})",
                hint="delete it, or convert the model again",
            ) from error
        found = file_sha256(path)
        if found != artifact.sha256:
            raise ArtifactError(
                f"{path} has sha256 {found[:12]}, its description {sidecar.name} was written for {artifact.sha256[:12]}",
                hint="the model was changed after it was converted: delete the description, or convert again",
            )
        return artifact

    def with_meta(self, **changes: Any) -> Artifact:
        """A copy whose meta has some fields replaced."""
        return replace(self, meta=replace(self.meta, **changes))


def sidecar_of(path: Path) -> Path:
    """The sidecar's path for a model file or folder."""
    return path.with_name(path.name + ".artifact.json")


def files_of(path: Path) -> list[Path]:
    """All files that a model consists of: one, `.xml` and `.bin`, or the files of a folder, sorted.

    Raises:
        ModelError: there is nothing at this path.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        raise ModelError(f"there is no model at {path}", hint="check the path")
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]


def raw_bytes(path: Path, *also: Path) -> int:
    """Size of a model: the sum over its files and any others that it refers to."""
    return sum(file.stat().st_size for file in (*files_of(path), *also))


def deflated_bytes(path: Path, *also: Path) -> int:
    """Size after zlib level 9: the sum over its files and any others that it refers to, each compressed whole."""
    return sum(_deflated(file) for file in (*files_of(path), *also))


def _deflated(file: Path) -> int:
    packer = zlib.compressobj(9)
    total = 0
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())


def looks_like(path: Path) -> str | None:
    """The format that a file's or folder's content shows, whatever its name; None if none is recognised.

    Reads a few bytes and parses nothing, so it is safe on untrusted files. Formats: "tflite" (FlatBuffers identifier
    TFL3), "keras" (zip with config.json), "h5" (HDF5 signature; Keras' older format), "saved_model" (folder with
    saved_model.pb), "openvino" (XML with a `net` element), "onnx" (protobuf whose first fields are ModelProto's).
    """
    if path.is_dir():
        return "saved_model" if any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")) else None
    if not path.is_file():
        raise ModelError(f"there is no model at {path}", hint="check the path")
    try:
        with path.open("rb") as handle:
            head = handle.read(4096)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head.startswith(b"PK\x03\x04"):
        return "keras" if any(name in head for name in (b"config.json", b"metadata.json", b"model.weights.h5")) else None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<") and b"<net" in text:
        return "openvino"
    return "onnx" if _onnx_head(head) else None


def _onnx_head(head: bytes) -> bool:
    """Whether bytes start like a ModelProto: ir_version (field 1, varint 1-99), then any field that ModelProto has."""
    return (
        len(head) >= 4
        and head[0] == 0x08
        and 0 < head[1] < 100
        and head[2] >> 3 in {2, 3, 4, 5, 6, 7, 8, 14, 20}
        and head[2] & 7 in {0, 2}
    )


def file_sha256(path: Path) -> str:
    """Hex digest of a model: of its bytes, or of its sorted (name, digest) pairs if it has several files."""
    files = files_of(path)
    if files == [path]:
        return file_digest(path)
    root = path if path.is_dir() else path.parent
    pairs = sorted((file.relative_to(root).as_posix(), file_digest(file)) for file in files)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Hex digest of one file's bytes, whatever lies beside it."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(handle)


def _digest(handle: Any) -> str:
    digest = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: readers see the old one or the whole new one.

    A device or a pipe, such as /dev/null, is written to and stays what it is.

    Raises:
        ArtifactError: the folder is missing, full or read-only.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _unwritable(path, error) from error
        return
    with atomic_folder(path.parent) as folder:
        (folder / path.name).write_bytes(data)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder whose files are renamed into `target` when the block ends well, and removed when not.

    Files are moved in name order: the weights of an OpenVINO model (`.bin`) arrive before the graph (`.xml`) that
    refers to them. An OSError of the block that is not about writing here passes as it is.

    Raises:
        ArtifactError: the folder cannot be made or written (missing rights, full disk).
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=target)
    except OSError as error:
        raise _unwritable(target, error) from error
    with holder as temporary:
        folder = Path(temporary)
        try:
            yield folder
        except OSError as error:
            if error.errno in _FULL or _names(error, folder):
                raise _unwritable(target, error) from error
            raise
        try:
            for file in sorted(folder.iterdir()):
                file.replace(target / file.name)
        except OSError as error:
            raise _unwritable(target, error) from error


def sweep_leftovers(target: Path, prefix: str = "") -> None:
    """Remove the temporary folders that killed processes have left in a folder; those of living ones stay.

    Args:
        target: where they are.
        prefix: how their names begin, the process' number behind it; empty for those of `atomic_folder`.
    """
    prefix = prefix or _PREFIX
    for folder in target.glob(f"{prefix}*-*") if target.is_dir() else ():
        number = folder.name.removeprefix(prefix).partition("-")[0]
        if number.isdigit() and not process_lives(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def process_lives(process: int) -> bool:
    """Whether there is a process of this number; True where that cannot be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


_PREFIX = ".edgewright-"
"""How temporary folders begin; the number of their process follows."""

_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What only writing fails with, whether the error names a file or not."""


def _names(error: OSError, folder: Path) -> bool:
    """Whether an error is about a file below a folder."""
    return any(isinstance(name, (str, Path)) and Path(name).is_relative_to(folder) for name in (error.filename, error.filename2))


def _unwritable(target: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write to {target}: {error.strerror or error}", hint="check rights and free space, or name another place with -o"
    )


def element_count(shape: tuple[int | None, ...]) -> int:
    """Number of elements of a shape, free sizes counted as 1."""
    return math.prod(1 if size is None else size for size in shape)
