"""Keras models: `.keras` archives of Keras 3, and `.h5` files of Keras 2 and 3."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgewright.artifact import TensorSpec, deflated_bytes, looks_like, raw_bytes
from edgewright.converters.keras_signature import call_flat, flattened, input_specs, output_specs
from edgewright.converters.lowering import count_lowered, lower_function
from edgewright.converters.model_info import ModelInfo, WeightInfo, describe_weight
from edgewright.converters.readers import READERS, LowerOptions
from edgewright.converters.untrusted import archive_config, corrupt, h5_config, refuse_code
from edgewright.errors import ModelError, UntrustedCodeError, needs

LAYER_STATISTICS = {
    "BatchNormalization": ("moving_mean", "moving_variance"),
    "BatchNormalizationBase": ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"),
    "Normalization": ("adapt_mean", "adapt_variance", "count"),
}
"""Attributes that are state, not parameters, by name of the class of Keras that has them."""


@READERS.register("keras")
class KerasReader:
    """A Keras model, loaded without its training configuration.

    Needs TensorFlow: make it in a worker. Sequential and functional models; subclassed ones when `custom` names the
    module that registers their class and the file tells the input shapes that it was built with (their inputs are
    taken to be float32, which the file does not tell).
    """

    format: ClassVar[str] = "keras"
    consumes_code: ClassVar[bool] = True

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        self.path = path
        kind = looks_like(path)
        config, version = archive_config(path) if kind == "keras" else (h5_config(path), "")
        refuse_code(path, config, trust=trust)
        if custom:
            _import_custom(custom, trust)
        releases = ("tf_keras",) if version.startswith("2.") else ("keras",) if kind == "keras" else ("keras", "tf_keras")
        self._traced: Any = None
        self._config: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
        self.model = _load(path, f".{kind}", releases, safe=not trust)

    @staticmethod
    def sniff(path: Path) -> bool:
        """A zip archive with a Keras configuration, or an HDF5 file."""
        return looks_like(path) in {"keras", "h5"}

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in Keras' order; names are those of the input layers and of the output layers or keys."""
        inputs = input_specs(self.model)
        outputs = output_specs(self.model, inputs)
        return inputs, outputs

    def reference(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs of the model in inference mode; arrays keep their leading batch axis."""
        inputs, outputs = self.specs()
        if self._traced is None:
            import tensorflow as tf

            signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]
            call = lambda *tensors: call_flat(self.model, tensors)  # noqa: E731 - tf.function wants a fresh one per model
            self._traced = tf.function(call, input_signature=signature, autograph=False, jit_compile=False)
        results = self._traced(*(feeds[spec.name].astype(spec.dtype, copy=False) for spec in inputs))
        return {spec.name: np.asarray(value) for spec, value in zip(outputs, results, strict=True)}

    def lower(self, out: Path, options: LowerOptions) -> None:
        """Write the model as a float32 TFLite file; see `ReferenceReader.lower`."""
        inputs, outputs = self.specs()
        with _unrolled(self.model, options.unroll), _marked(leaf_layers(self.model)) as marks:
            lower_function(
                lambda *tensors: call_flat(self.model, tensors),
                inputs,
                [spec.name for spec in outputs],
                out,
                batch=options.batch,
                select_tf=options.select_tf,
                marks=marks,
            )

    def recurrent_steps(self) -> dict[str, int | None]:
        """Sequence length of every recurrent layer, by layer name; None where it is free."""
        return {layer.name: _steps(layer) for layer in _recurrent(self.model)}

    def layer_names(self) -> list[str]:
        """Names of all layers that the user made, those of inner models included."""
        directions = {id(one) for layer in _all_layers(self.model) for one in _directions(layer)}  # Keras named these
        return [layer.name for layer in leaf_layers(self.model) if id(layer) not in directions]

    def compile_config(self) -> dict[str, Any] | None:
        """What the model was compiled with, as Keras 3 saved it; None if it was not, or by another release."""
        found = self._config.get("compile_config")
        return found if isinstance(found, dict) else None

    def info(self) -> ModelInfo:
        """Layer classes, weights and sizes; multiply-adds are counted in the lowered graph."""
        inputs, outputs = self.specs()
        macs, note = count_lowered(self, LowerOptions(unroll=128))
        weights = tuple(_weights(self.model))
        statistics = _statistics(self.model)
        layers = Counter(type(layer).__name__ for layer in leaf_layers(self.model) if type(layer).__name__ != "InputLayer")
        return ModelInfo(
            format=self.format,
            inputs=inputs,
            outputs=outputs,
            ops=dict(layers.most_common()),
            weights=tuple(sorted(weights, key=lambda w: -int(np.prod(w.shape)))),
            parameters=sum(int(np.prod(v.shape)) for v in self.model.weights if id(v) not in statistics),
            macs=macs,
            macs_note=note,
            raw_bytes=raw_bytes(self.path),
            deflated_bytes=deflated_bytes(self.path),
            notes=("ops are Keras layer classes",),
        )


def leaf_layers(model: Any) -> Iterator[Any]:
    """All layers of a model, models within it replaced by their layers; a shared layer once.

    A wrapper and what it wraps are a layer each, the two directions of a Bidirectional one; cells belong to their layer.
    """
    layers = _all_layers(model)
    seen = {id(inner) for layer in layers if _is_a(layer, "RNN") for inner in _within(layer.cell)}
    seen |= {id(inner) for layer in layers for other in _directions(layer)[1:] for inner in _within(other)}
    for layer in layers:
        if id(layer) not in seen and not hasattr(layer, "layers"):
            seen.add(id(layer))
            yield layer


def _all_layers(model: Any) -> list[Any]:
    """Everything that is a layer at any depth: inner models and cells too."""
    return list(model._flatten_layers(include_self=False, recursive=True))


def _within(layer: Any) -> list[Any]:
    """A layer and all in it; none for a cell that is no layer."""
    return [layer, *_all_layers(layer)] if hasattr(layer, "_flatten_layers") else []


def _directions(layer: Any) -> list[Any]:
    """The two layers that a Bidirectional made of the user's one, none for other layers."""
    return [layer.forward_layer, layer.backward_layer] if _is_a(layer, "Bidirectional") else []


def _is_a(layer: Any, name: str) -> bool:
    """Whether a layer is of a class of Keras, of either release."""
    return name in _keras_classes(layer)


def _keras_classes(layer: Any) -> list[str]:
    return [kind.__name__ for kind in type(layer).__mro__ if kind.__module__.partition(".")[0] in {"keras", "tf_keras"}]


def _statistics(model: Any) -> set[int]:
    """Ids of the variables that are state of their layer, not parameters, whatever the layer is called."""
    found: list[Any] = []
    for layer in _all_layers(model):
        names = {name for kind in _keras_classes(layer) for name in LAYER_STATISTICS.get(kind, ())}
        found += [getattr(layer, name, None) for name in names]
        found += [generator.state for generator in getattr(layer, "_seed_generators", ())]
    return {id(variable) for variable in found if variable is not None}


def _import_custom(module: str, trust: bool) -> None:
    if not trust:
        raise UntrustedCodeError(f"--custom {module} runs code", hint="add --trust")
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"the module '{module}' of custom objects cannot be imported: {error}", hint="run where it is importable"
        ) from error
    finally:
        sys.path.pop(0)


def _load(path: Path, suffix: str, releases: tuple[str, ...], *, safe: bool) -> Any:
    """The model, by the first of Keras' releases that can load it.

    Raises:
        ModelError: none can; the message is that of the first.
    """
    with needs("convert"):
        import keras  # noqa: F401  # a missing package is not a broken model

        import edgewright.keras_layers  # noqa: F401  # registers our own layers
    first: Exception | None = None
    with _suffixed(path, suffix) as file:
        for release in releases:
            options = {"safe_mode": safe} if suffix == ".keras" or release == "keras" else {}
            try:
                return importlib.import_module(release).models.load_model(file, compile=False, **options)
            except MemoryError:
                raise
            except Exception as error:  # Keras raises any type on configurations it cannot build
                first = first or error
    why = first or ValueError("no release of Keras can load it")
    if suffix == ".h5" and isinstance(why, (OSError, RuntimeError, KeyError)):  # HDF5 has no checksums of its own
        raise corrupt(path, why) from why
    raise _refusal(path, why, safe) from why


@contextmanager
def _suffixed(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name that ends as Keras expects; it tells formats by suffix only."""
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, Path(folder) / f"model{suffix}"))


def _refusal(path: Path, error: Exception, safe: bool) -> ModelError:
    """The error for a file whose parts are sound, but of which Keras makes no model."""
    text = str(error)
    unknown = re.search(r"Could not locate \w+ '([^']+)'|Unknown \w+: '?([^'\s.]+)'?", text)
    if unknown:
        kind = UntrustedCodeError if safe else ModelError
        return kind(
            f"{path} uses the custom object '{unknown[1] or unknown[2]}', which Keras does not know",
            hint="register it with @keras.saving.register_keras_serializable and pass its module: --trust --custom MODULE",
        )
    first = next((line for line in text.splitlines() if line.strip()), "no message")
    return ModelError(
        f"Keras cannot load {path}: {type(error).__name__}: {first[:300]}",
        hint="load it where it was saved and export it there: model.export(FOLDER); or copy it again, it may be damaged",
    )


def _recurrent(model: Any) -> list[Any]:
    return [
        layer
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if hasattr(layer, "unroll") and hasattr(layer, "cell")
    ]


def _steps(layer: Any) -> int | None:
    """Sequence length of a recurrent layer, None if it is free or unknown."""
    nodes = getattr(layer, "_inbound_nodes", ())
    shapes = [tensor.shape for node in nodes for tensor in flattened(getattr(node, "input_tensors", ()))[:1]]
    if not shapes:
        config = (layer.get_build_config() or {}) if hasattr(layer, "get_build_config") else {}
        shapes = [config["input_shape"]] if config.get("input_shape") else []
    lengths = {shape[1] for shape in shapes}
    return max(lengths) if lengths and None not in lengths else None


@contextmanager
def _unrolled(model: Any, limit: int) -> Iterator[None]:
    """Within the block, recurrent layers of at most `limit` steps trace unrolled."""
    changed = [layer for layer in _recurrent(model) if not layer.unroll and (_steps(layer) or limit + 1) <= limit]
    for layer in changed:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in changed:
            layer.unroll = False


@contextmanager
def _marked(layers: Iterable[Any]) -> Iterator[dict[str, str]]:
    """Within the block, layers carry names that no other layer's can be taken for; gives their own ones by these.

    TensorFlow makes scopes unique by "_1", "_2", after which the scope of a layer "conv" may be called as the layer "conv_1".
    """
    marked = [(layer, layer.name) for layer in layers if not _is_a(layer, "InputLayer")]
    marks = {f"layer{index}x": name for index, (_, name) in enumerate(marked)}
    try:
        for mark, (layer, _) in zip(marks, marked, strict=True):
            _rename(layer, mark)
        yield marks
    finally:
        for layer, name in marked:
            _rename(layer, name)


def _rename(layer: Any, name: str) -> None:
    attribute = "_name" if type(layer.name) is str and isinstance(getattr(type(layer), "name", None), property) else "name"
    setattr(layer, attribute, name)


def _weights(model: Any) -> Iterator[WeightInfo]:
    for variable in model.weights:
        values = np.asarray(variable)
        if values.size > 1 and values.dtype.kind in "fiu":
            path = variable.path if hasattr(variable, "path") else variable.name
            yield describe_weight(path, values, channel_axis=_channel_axis(path, values.ndim))


def _channel_axis(path: str, ndim: int) -> int | None:
    """Keras keeps output channels last, except in transposed convolutions' and depthwise kernels."""
    if ndim < 2:
        return None
    if "transpose" in path and "kernel" in path:
        return ndim - 2
    return ndim - 2 if "depthwise" in path else ndim - 1
