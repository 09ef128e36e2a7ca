"""Keras models: `.keras` archives of Keras 3, and `.h5` files of Keras 2 and 3."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgewright.artifact import TensorSpec, looks_like
from edgewright.converters.lowering import lower_function
from edgewright.converters.model_info import ModelInfo, WeightInfo, deflated_bytes, describe_weight, raw_bytes
from edgewright.converters.readers import READERS, LowerOptions
from edgewright.converters.untrusted import archive_config, corrupt, h5_config, refuse_code
from edgewright.errors import EdgewrightError, ModelError, UnsupportedError, UntrustedCodeError, needs

STATISTICS = (
    "moving_mean",
    "moving_variance",
    "seed_generator_state",
    "normalization/mean",
    "normalization/variance",
    "normalization/count",
)
"""Ends of variable paths that are state, not parameters."""


@READERS.register("keras")
class KerasReader:
    """A Keras model, loaded without its training configuration.

    Needs TensorFlow: make it in a worker. Sequential and functional models; subclassed ones when `custom` names the
    module that registers their class and the file tells the input shape it was built with.
    """

    format: ClassVar[str] = "keras"
    consumes_code: ClassVar[bool] = True

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        self.path = path
        kind = looks_like(path)
        config = archive_config(path) if kind == "keras" else h5_config(path)
        refuse_code(path, config, trust=trust)
        if custom:
            _import_custom(custom, trust)
        self.model = _load(path, safe=not trust, legacy=kind == "h5")

    @staticmethod
    def sniff(path: Path) -> bool:
        """A zip archive with a Keras configuration, or an HDF5 file."""
        return looks_like(path) in {"keras", "h5"}

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in Keras' order; names are those of the input layers and of the output layers or keys."""
        inputs = _input_specs(self.model)
        outputs = _output_specs(self.model, inputs)
        return inputs, outputs

    def reference(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs of the model in inference mode; arrays keep their leading batch axis."""
        inputs, outputs = self.specs()
        results = _call(self.model, [feeds[spec.name] for spec in inputs])
        return {spec.name: np.asarray(value) for spec, value in zip(outputs, results, strict=True)}

    def lower(self, out: Path, options: LowerOptions) -> None:
        """Write the model as a float32 TFLite file; see `ReferenceReader.lower`."""
        inputs, outputs = self.specs()
        if options.unroll:
            _unroll(self.model, options.unroll)
        lower_function(
            lambda *tensors: _call(self.model, tensors),
            inputs,
            [spec.name for spec in outputs],
            out,
            batch=options.batch,
            select_tf=options.select_tf,
        )

    def recurrent_steps(self) -> dict[str, int | None]:
        """Sequence length of every recurrent layer, by layer name; None where it is free."""
        return {layer.name: _steps(layer) for layer in _recurrent(self.model)}

    def layer_names(self) -> list[str]:
        """Names of all layers, those of inner models included."""
        return [layer.name for layer in leaf_layers(self.model)]

    def info(self) -> ModelInfo:
        """Layer classes, weights and sizes; multiply-adds are counted in the lowered graph."""
        inputs, outputs = self.specs()
        macs, note = count_lowered(self, LowerOptions(unroll=128))
        weights = tuple(_weights(self.model))
        layers = Counter(type(layer).__name__ for layer in leaf_layers(self.model) if type(layer).__name__ != "InputLayer")
        return ModelInfo(
            format=self.format,
            inputs=inputs,
            outputs=outputs,
            ops=dict(layers.most_common()),
            weights=tuple(sorted(weights, key=lambda w: -int(np.prod(w.shape)))),
            parameters=sum(
                int(np.prod(v.shape)) for v in self.model.weights if not is_statistic(v.path if hasattr(v, "path") else v.name)
            ),
            macs=macs,
            macs_note=note,
            raw_bytes=raw_bytes(self.path),
            deflated_bytes=deflated_bytes(self.path),
            notes=("ops are Keras layer classes",),
        )


def count_lowered(reader: Any, options: LowerOptions) -> tuple[int | None, str]:
    """Multiply-adds of a model, counted in the TFLite graph it lowers to; or None and why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lowered.tflite"
        try:
            reader.lower(file, options)
            info = READERS.get("tflite")(file).info()
        except EdgewrightError as error:
            return None, str(error)
    return info.macs, info.macs_note


def is_statistic(path: str) -> bool:
    """Whether a variable is state (BatchNorm statistics, random seeds), not a trained parameter."""
    return path.split(":")[0].endswith(STATISTICS)


def leaf_layers(model: Any) -> Iterator[Any]:
    """All layers of a model, models within it replaced by their layers; a shared layer once."""
    seen: set[int] = set()
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if id(layer) not in seen and not hasattr(layer, "layers"):
            seen.add(id(layer))
            yield layer


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


def _load(path: Path, *, safe: bool, legacy: bool) -> Any:
    with needs("convert"):
        import keras
    try:
        return keras.models.load_model(path, compile=False, safe_mode=safe)
    except Exception as error:  # Keras raises any type on configurations it cannot build
        if legacy:
            return _load_keras2(path, error)
        text = str(error)
        if "Could not locate" in text or "Unknown layer" in text or "cannot be deserialized" in text:
            name = text.split("'")[1] if text.count("'") > 1 else "an object"
            raise UntrustedCodeError(
                f"{path} uses the custom class '{name}', which Keras does not know",
                hint="register it with @keras.saving.register_keras_serializable and pass its module: --trust --custom MODULE",
            ) from error
        raise corrupt(path, error) from error


def _load_keras2(path: Path, first: Exception) -> Any:
    try:
        with needs("convert"):
            import tf_keras
        return tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # as above
        raise corrupt(path, first) from error


def _input_specs(model: Any) -> tuple[TensorSpec, ...]:
    tensors = getattr(model, "inputs", None)
    if tensors:
        names = _unique([_operation_name(tensor) for tensor in tensors])
        return tuple(TensorSpec(name, _shape(t.shape), _dtype(t.dtype)) for name, t in zip(names, tensors, strict=True))
    shapes = _build_shapes(model)
    if not shapes:
        raise UnsupportedError(
            f"the subclassed model '{model.name}' does not tell its input shape",
            hint="call it once on data before saving, or save it with model.export(FOLDER) and convert the folder",
        )
    return tuple(
        TensorSpec(name, shape, _dtype(getattr(model, "input_dtype", None) or "float32")) for name, shape in shapes.items()
    )


def _build_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """Input shapes that a subclassed model was built with, by argument name."""
    built = (model.get_build_config() or {}) if hasattr(model, "get_build_config") else {}
    shapes = built.get("input_shape") or built.get("shapes_dict")
    if isinstance(shapes, dict):
        return {name.removesuffix("_shape"): (None, *shape[1:]) for name, shape in shapes.items()}
    return {"input_0": (None, *shapes[1:])} if shapes else {}


def _output_specs(model: Any, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    tensors = getattr(model, "outputs", None)
    if tensors:
        struct = getattr(model, "_outputs_struct", None)
        names = sorted(struct) if isinstance(struct, dict) else _unique([_operation_name(t) for t in tensors])
    else:
        result = _symbolic(model, inputs)
        tensors = _flat(result)
        names = sorted(result) if isinstance(result, dict) else [f"output_{index}" for index in range(len(tensors))]
    taken = {spec.name for spec in inputs}
    names = [f"{name}_output" if name in taken else name for name in names]
    return tuple(TensorSpec(name, _shape(t.shape), _dtype(t.dtype)) for name, t in zip(names, tensors, strict=True))


def _symbolic(model: Any, inputs: tuple[TensorSpec, ...]) -> Any:
    import keras

    tensors = [keras.KerasTensor(spec.shape, dtype=spec.dtype) for spec in inputs]
    return model(tensors if len(tensors) > 1 else tensors[0], training=False)


def _call(model: Any, tensors: Any) -> list[Any]:
    """Outputs of a model as a flat list in the order of its specs."""
    struct = getattr(model, "_inputs_struct", None)
    flat = list(tensors)
    if isinstance(struct, dict):
        feed: Any = dict(zip(sorted(struct), flat, strict=True))
    else:
        feed = flat if len(flat) > 1 or isinstance(struct, (list, tuple)) else flat[0]
    return _flat(model(feed, training=False))


def _flat(result: Any) -> list[Any]:
    if isinstance(result, Mapping):
        return [leaf for key in sorted(result) for leaf in _flat(result[key])]
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in _flat(item)]
    return [result]


def _operation_name(tensor: Any) -> str:
    history = getattr(tensor, "_keras_history", None)
    operation = getattr(history, "operation", None) or getattr(history, "layer", None)
    return str(operation.name if operation is not None else tensor.name)


def _unique(names: list[str]) -> list[str]:
    counts: Counter[str] = Counter()
    result = []
    for name in names:
        result.append(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return result


def _shape(shape: Any) -> tuple[int | None, ...]:
    return tuple(None if size is None else int(size) for size in shape)


def _dtype(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _recurrent(model: Any) -> list[Any]:
    return [
        layer
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if hasattr(layer, "unroll") and hasattr(layer, "cell")
    ]


def _steps(layer: Any) -> int | None:
    """Sequence length of a recurrent layer, None if it is free or unknown."""
    nodes = getattr(layer, "_inbound_nodes", ())
    shapes = [tensor.shape for node in nodes for tensor in getattr(node, "input_tensors", ())[:1]]
    if not shapes:
        config = (layer.get_build_config() or {}) if hasattr(layer, "get_build_config") else {}
        shapes = [config["input_shape"]] if config.get("input_shape") else []
    lengths = {shape[1] for shape in shapes}
    return max(lengths) if lengths and None not in lengths else None


def _unroll(model: Any, limit: int) -> None:
    for layer in _recurrent(model):
        steps = _steps(layer)
        if steps is not None and steps <= limit:
            layer.unroll = True


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
