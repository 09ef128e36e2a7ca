"""What is checked in a Keras file before Keras opens it: damage, absurd sizes, and code that would run on loading."""

from __future__ import annotations

import json
import re
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewright.converters import model_info
from edgewright.errors import EdgewrightError, ModelError, UntrustedCodeError, needs

__all__ = ["archive_config", "corrupt", "h5_config", "refuse_code"]

SAFE_MODULES = (
    "activations",
    "constraints",
    "dtype_policies",
    "engine",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "ops",
    "optimizers",
    "quantizers",
    "random",
    "regularizers",
)
"""Sub-modules of keras whose objects a model may name; everything else can reach code that a file should not choose."""

OWN_LAYERS = frozenset(
    ("edgewright.keras_layers", name)
    for name in (
        "FakeQuant RangedAttention RangedGRUCell RangedLSTMCell RangedSeparableConv1D RangedSeparableConv2D RangedSimpleRNNCell"
    ).split()
)
"""Layers that Edgewright's own passes put into a model."""

LOADERS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
"""Layers of Keras that load a second model, with code, from a path or from bytes."""

SAFE_TF_MODULES = frozenset(
    {"__operators__", "bitwise", "dtypes", "image", "linalg", "math", "nn", "random", "signal", "strings"}
)
CODE_FUNCTIONS = re.compile(r"func|load_|^print|custom_gradient|Module|Graph|^init_scope|call|wrap|_ops$")
"""Functions at TensorFlow's top level that call Python, load code or write; the other ones compute."""

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


def _code_in(config: Any) -> Iterator[str]:
    """What in a configuration would run code, in words; without recursion, as a file chooses the depth."""
    nodes = deque([config])
    while nodes:
        node = nodes.popleft()
        if isinstance(node, dict):
            yield from _code_of(node)
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)


def _code_of(node: dict[str, Any]) -> Iterator[str]:
    kind, module = str(node.get("class_name")), node.get("module")
    config = node["config"] if isinstance(node.get("config"), dict) else {}
    name = config.get("name", "")
    if kind in {"Lambda", "__lambda__"}:
        yield f"a Lambda layer '{name}'" if kind == "Lambda" else "a lambda function"
    elif kind in LOADERS:
        yield f"a {kind} layer '{name}', which loads more than this file"
    elif kind == "TFOpLambda" and not _safe_function(str(config.get("function"))):
        yield f"the function tf.{config.get('function')} in layer '{name}'"
    elif kind == "ClassMethod" and config.get("cls_symbol") not in {"RaggedTensor", "SparseTensor"}:
        yield f"a method of tf.{config.get('cls_symbol')} in layer '{name}'"
    elif isinstance(module, str) and not _safe_object(module, kind, node.get("config")):
        yield f"an object of module '{module}' ({kind if kind != 'function' else node.get('config')})"
    elif ">" in kind or (module is None and ">" in str(node.get("registered_name"))):
        yield f"a custom object '{kind if '>' in kind else node['registered_name']}'"
    elif isinstance(config.get("vocabulary"), str):
        yield f"a path in layer '{name}': its vocabulary is to be read from {config['vocabulary']}"


def _safe_function(symbol: str) -> bool:
    """Whether a TensorFlow function that Keras 2 stores by name only computes."""
    module, _, name = symbol.removeprefix("compat.v1.").rpartition(".")
    return module in SAFE_TF_MODULES or (not module and not CODE_FUNCTIONS.search(name))


def _safe_object(module: str, kind: str, config: Any) -> bool:
    """Whether Keras would look an object up among its own layers, functions and settings, and no further."""
    name = config if kind == "function" else kind
    if module == "builtins" or (module, kind) in OWN_LAYERS:
        return True
    package, _, rest = module.partition(".")
    if package not in {"keras", "tf_keras"} or not isinstance(name, str) or "." in name:
        return False
    part = rest.removeprefix("src.").split(".")[0]
    if part == "models":
        return kind in {"Functional", "Model", "Sequential"}
    return part in SAFE_MODULES if part else kind != "function"


def archive_config(path: Path) -> tuple[Any, str]:
    """The configuration of a `.keras` archive whose members were checked (sizes, CRCs, JSON, HDF5), and its Keras version.

    Raises:
        ModelError: the archive is damaged, has not the members of a Keras model, or would unpack to an absurd size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"config.json", "model.weights.h5"} <= names:
                raise ModelError(
                    f"{path} is a zip archive without a Keras model: config.json and model.weights.h5 expected, "
                    f"found {sorted(names)[:5]}",
                    hint="save the whole model: model.save('model.keras')",
                )
            members = archive.infolist()
            _refuse_bomb(path, sum(m.file_size for m in members), sum(m.compress_size for m in members))
            damaged = archive.testzip()
            if damaged:
                raise corrupt(path, f"the checksum of its member {damaged} does not match")
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
            with archive.open("model.weights.h5") as weights:
                _read_h5(path, weights)
            return config, str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""
    except EdgewrightError:
        raise
    except Exception as error:  # zipfile, zlib, json and h5py raise almost every built-in type on damaged files
        raise corrupt(path, error) from error


def h5_config(path: Path) -> Any:
    """The configuration of a whole-model HDF5 file; every dataset is read once, so that damage shows here.

    Raises:
        ModelError: the file is damaged, or holds weights only.
    """
    with needs("convert"):
        import h5py
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise ModelError(
                    f"{path} holds no model configuration, only weights or other data",
                    hint="save the whole model: model.save('model.keras')",
                )
            found = json.loads(config)
        _read_h5(path, path)
        return found
    except EdgewrightError:
        raise
    except Exception as error:  # h5py raises almost every built-in type on damaged files
        raise corrupt(path, error) from error


def _read_h5(path: Path, source: Any) -> None:
    """Read every dataset once; none may refer to other files or be much larger than what is stored of it."""
    with needs("convert"):
        import h5py
    total = [0, 0]

    def read(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        if node.external or node.is_virtual:
            raise corrupt(path, f"its dataset {name} refers to another file")
        total[0] += node.nbytes
        total[1] += node.id.get_storage_size()
        _refuse_bomb(path, *total)
        node[()]

    with h5py.File(source, "r") as file:
        file.visititems(read)


def _refuse_bomb(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > MAX_BYTES or (unpacked > 64 << 20 and unpacked > MAX_RATIO * max(packed, 1)):
        raise ModelError(
            f"{path} would unpack from {packed:,} to {unpacked:,} bytes; "
            f"at most {MAX_RATIO} times and {MAX_BYTES:,} bytes are allowed",
            hint="this looks like a zip bomb; get the model from its source again",
        )


def corrupt(path: Path, why: BaseException | str) -> ModelError:
    """The error for a file that its library could not read."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", str(why))  # TensorFlow's names of its own functions
    first = next((line for line in text.splitlines() if line.strip()), type(why).__name__)
    return model_info.corrupt(path, first[:200])
