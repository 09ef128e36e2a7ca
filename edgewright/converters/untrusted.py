"""What is checked in a Keras file before Keras opens it: damage, absurd sizes, and code that would run on loading."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import ModelError, UntrustedCodeError, needs

__all__ = ["archive_config", "corrupt", "h5_config", "refuse_code"]

SAFE_MODULES = (
    "activations",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "quantizers",
    "random",
    "regularizers",
)
"""Sub-modules of keras whose objects a model may name; everything else can reach code that a file should not choose."""

MAX_BYTES = 32 << 30
MAX_RATIO = 200


def refuse_code(path: Path, config: Any, *, trust: bool) -> None:
    """Look through a model's configuration for everything that would run code of the file's choosing.

    Raises:
        UntrustedCodeError: a Lambda layer, or an object of a module that is not Keras' own, while `trust` is False.
    """
    if trust:
        return
    for found in _code_in(config):
        raise UntrustedCodeError(
            f"{path} carries code: {found}",
            hint="if you trust where the file comes from, add --trust (and --custom MODULE for custom objects)",
        )


def _code_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        class_name, module = node.get("class_name"), node.get("module")
        name = (node.get("config") or {}).get("name", "") if isinstance(node.get("config"), dict) else ""
        if class_name in {"Lambda", "__lambda__", "TFOpLambda"} and class_name != "TFOpLambda":
            yield f"a Lambda layer '{name}'" if class_name == "Lambda" else "a lambda function"
        elif isinstance(module, str) and not _safe_module(module):
            yield f"an object of module '{module}' ({class_name})"
        elif node.get("registered_name") and module is None and ">" in str(node["registered_name"]):
            yield f"a custom object '{node['registered_name']}'"
        for value in node.values():
            yield from _code_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from _code_in(value)


def _safe_module(module: str) -> bool:
    parts = module.removeprefix("keras.src").removeprefix("keras").removeprefix("tf_keras.src").removeprefix(".").split(".")
    if module in {"builtins", "keras"}:
        return True
    return module.startswith(("keras.", "tf_keras.src.")) and parts[0] in SAFE_MODULES


def archive_config(path: Path) -> Any:
    """The configuration of a `.keras` archive whose members were checked: sizes, CRCs, JSON.

    Raises:
        ModelError: the archive is damaged, has not the members of a Keras model, or would unpack to an absurd size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"config.json", "model.weights.h5"} <= names:
                raise ModelError(
                    f"{path} is a zip archive without a Keras model: config.json and model.weights.h5 expected, "
                    f"found {sorted(names)[:5]}"
                )
            total = sum(member.file_size for member in archive.infolist())
            packed = sum(member.compress_size for member in archive.infolist())
            if total > MAX_BYTES or (total > 64 << 20 and total > MAX_RATIO * max(packed, 1)):
                raise ModelError(
                    f"{path} would unpack from {packed:,} to {total:,} bytes; "
                    f"at most {MAX_RATIO} times and {MAX_BYTES:,} bytes are allowed",
                    hint="this looks like a zip bomb; get the model from its source again",
                )
            damaged = archive.testzip()
            if damaged:
                raise ModelError(
                    f"{path} is corrupt: the checksum of its member {damaged} does not match", hint="copy or download it again"
                )
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise corrupt(path, error) from error


def corrupt(path: Path, error: BaseException) -> ModelError:
    """The error for a file that its library could not read."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ModelError(
        f"{path} is truncated or corrupt: {first[:200]}", hint="copy or export it again; -v shows the library's message"
    )


def h5_config(path: Path) -> Any:
    """The configuration of a whole-model HDF5 file; every dataset is read once, so that damage shows here.

    Raises:
        ModelError: the file is damaged, or holds weights only.
    """
    with needs("convert"):
        import h5py

    def touch(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            node[()]

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise ModelError(
                    f"{path} holds no model configuration, only weights or other data",
                    hint="save the whole model: model.save('model.keras')",
                )
            file.visititems(touch)
            return json.loads(config)
    except ModelError:
        raise
    except Exception as error:  # h5py raises almost every built-in type on damaged files
        raise corrupt(path, error) from error
