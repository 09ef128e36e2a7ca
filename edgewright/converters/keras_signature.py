"""What a Keras model takes and gives: names, shapes and dtypes in Keras' order, and a call on a flat list in that order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgewright.artifact import TensorSpec
from edgewright.errors import UnsupportedError

__all__ = ["call_flat", "flattened", "input_specs", "output_specs"]


def input_specs(model: Any) -> tuple[TensorSpec, ...]:
    """The inputs: shape and dtype, named after their layers, or after the keys and arguments of a subclassed model.

    Raises:
        UnsupportedError: the model is subclassed and does not tell the shapes that it was built with.
    """
    tensors = getattr(model, "inputs", None)
    if tensors:
        names = _unique([_operation_name(tensor) for tensor in tensors])
        return tuple(TensorSpec(name, _shape(t.shape), _dtype(t.dtype)) for name, t in zip(names, tensors, strict=True))
    shapes = _built_shapes(model)
    if shapes is None:
        raise UnsupportedError(
            f"the subclassed model '{model.name}' does not tell its input shape",
            hint="call it once on data before saving, or save it with model.export(FOLDER) and convert the folder",
        )
    names = _names(shapes, [f"input_{index}" for index, _ in enumerate(_leaves(shapes))])
    dtype = _dtype(getattr(model, "input_dtype", None) or "float32")
    return tuple(TensorSpec(name, (None, *s[1:]), dtype) for name, (_, s) in zip(names, _leaves(shapes), strict=True))


def _built_shapes(model: Any) -> Any:
    """Input shapes that a subclassed model was built with, in the structure that it was called with; None if not told."""
    built = (model.get_build_config() or {}) if hasattr(model, "get_build_config") else {}
    found = built.get("shapes_dict") or built.get("input_shape")
    return None if found is None else _tuples(found)


def _tuples(shapes: Any) -> Any:
    """Shapes that went through JSON: those that are lists of sizes become tuples again."""
    if isinstance(shapes, Mapping):
        return {str(name).removesuffix("_shape"): _tuples(shape) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return _Shape(shapes)
    return [_tuples(shape) for shape in shapes]


class _Shape(tuple[Any, ...]):
    """A shape that is a leaf of a structure."""


def output_specs(model: Any, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The outputs: shape and dtype, named after their keys or layers; one that is named as an input ends in "_output".

    Args:
        model: the Keras model.
        inputs: what `input_specs` gave.
    """
    tensors = getattr(model, "outputs", None)
    if tensors:
        names = _names(_struct(model, "outputs"), [_operation_name(tensor) for tensor in tensors])
    else:
        result = _symbolic(model, inputs)
        tensors = flattened(result)
        names = _names(result, [f"output_{index}" for index in range(len(tensors))])
    taken = {spec.name for spec in inputs}
    names = [f"{name}_output" if name in taken else name for name in names]
    return tuple(TensorSpec(name, _shape(t.shape), _dtype(t.dtype)) for name, t in zip(names, tensors, strict=True))


def _symbolic(model: Any, inputs: tuple[TensorSpec, ...]) -> Any:
    import keras

    return _apply(model, [keras.KerasTensor(spec.shape, dtype=spec.dtype) for spec in inputs])


def call_flat(model: Any, tensors: Any) -> list[Any]:
    """Outputs of a model in inference mode, in the order of `output_specs`, for tensors in that of `input_specs`."""
    return flattened(_apply(model, list(tensors)))


def _apply(model: Any, flat: list[Any]) -> Any:
    """What a model returns for inputs in the order of its specs."""
    struct = _struct(model, "inputs")
    if struct is not None:
        return model(_pack(struct, iter(flat)), training=False)
    shapes = None if getattr(model, "inputs", None) else _built_shapes(model)
    if shapes is None:
        return model(flat if len(flat) > 1 else flat[0], training=False)
    feed = _pack(shapes, iter(flat))
    if "shapes_dict" in (model.get_build_config() or {}):  # `call` has several arguments
        return model(**feed, training=False)
    return model(feed, training=False)


def _struct(model: Any, which: str) -> Any:
    """Structure of a functional model's inputs or outputs, in either release of Keras; None if it has none."""
    functional = getattr(model, "_functional", None) or model  # a Sequential model keeps one inside
    found = getattr(functional, f"_{which}_struct", None)
    return getattr(functional, f"_nested_{which}", None) if found is None else found


def _leaves(struct: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of everything in nested mappings and sequences, in Keras' order: keys sorted."""
    if isinstance(struct, Mapping):
        for key in sorted(struct):
            yield from _leaves(struct[key], (*path, str(key)))
    elif isinstance(struct, (list, tuple)) and not isinstance(struct, _Shape):
        for index, item in enumerate(struct):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, struct


def _pack(struct: Any, flat: Iterator[Any]) -> Any:
    """Inverse of `_leaves`: the structure with other values."""
    if isinstance(struct, Mapping):
        packed = {key: _pack(struct[key], flat) for key in sorted(struct)}
        return {key: packed[key] for key in struct}
    if isinstance(struct, (list, tuple)) and not isinstance(struct, _Shape):
        items = [_pack(item, flat) for item in struct]
        return tuple(items) if isinstance(struct, tuple) else items
    return next(flat)


def flattened(result: Any) -> list[Any]:
    """Values of nested mappings and sequences in Keras' order: keys sorted."""
    return [value for _, value in _leaves(result)]


def _names(struct: Any, plain: list[str]) -> list[str]:
    """Names of a structure's leaves: their keys where there are any, else the plain ones; made unique."""
    paths = [path for path, _ in _leaves(struct)]
    keyed = any(not part.isdigit() for path in paths for part in path)
    return _unique(["_".join(path) for path in paths] if keyed and len(paths) == len(plain) else plain)


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
