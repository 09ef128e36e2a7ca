"""Distillation: a smaller student learns what the original, its teacher, gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from edgewright.errors import ModelError, UnsupportedError, UsageError
from edgewright.optimizers.graph import Array, rebuilt
from edgewright.optimizers.passes import PASSES, STRICT, KerasPass, Outcome, Task
from edgewright.optimizers.training import FitOptions
from edgewright.optimizers.training_data import predict

__all__ = ["Distill", "DistillOptions", "narrowed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillOptions(FitOptions):
    """How a student learns.

    Args:
        student: a .keras file with the same inputs and outputs as the original; None derives one by `width` and `depth`.
        width: factor of filters and units of every layer but the last ones.
        depth: share of the layers with kernels that the student keeps; those that leave the shape of what they are given as it
            is, residual blocks as a whole, are left out evenly.
        hints: pairs "teacher_layer=student_layer": what the student's layer gives is to lead, by one linear layer that is
            thrown away afterwards, to what the teacher's gives.
        scratch: start from fresh weights; only a given student can start from its own.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    epochs: int = 30
    learning_rate: float = 2e-3
    distill: float = 0.7
    student: str | None = None
    width: float = 0.5
    depth: float = 1.0
    hints: tuple[str, ...] = ()
    scratch: bool = True


@PASSES.register("distill")
class Distill(KerasPass):
    """Trains a student on labels and on the original's softened outputs; the student takes the model's place."""

    name: ClassVar[str] = "distill"
    Options: ClassVar[type[DistillOptions]] = DistillOptions

    def __init__(self, options: DistillOptions) -> None:
        super().__init__(options)
        for name in ("width", "depth"):
            if not 0.0 < getattr(options, name) <= 1.0:
                raise UsageError(f"option '{name}' is {getattr(options, name)}, it must be above 0 and at most 1")
        self.pairs = [_pair(text) for text in options.hints]

    def transform(self, task: Task) -> Outcome:
        """The trained student; see `KerasPass.transform`."""
        import keras

        keras.utils.set_random_seed(task.seed)
        if self.options.student is None:
            student = narrowed(task.model, self.options.width)
            if self.options.depth < 1.0:
                student = keras.models.clone_model(shortened(student, self.options.depth))
        else:
            student = _given(Path(self.options.student), task.model, fresh=self.options.scratch)
        before, after = task.model.count_params(), student.count_params()
        task.notes.append(f"the student has {after:,} values, {after / before:.0%} of the {before:,} of its teacher")
        if task.trainer is not None:
            task.trainer.fit(student, "distillation", hints=[self._hint(task, student, *pair) for pair in self.pairs])
        return Outcome(student)

    def _hint(self, task: Task, student: Any, taught: str, learning: str) -> tuple[Any, Array]:
        """The student's feature, led to the teacher's size, and the teacher's feature on every sample."""
        import keras

        if task.trainer is None:
            raise UsageError("hints need samples to train with, none were given", hint="add --samples")
        teacher = keras.Model(task.original.inputs, _layer(task.original, taught, "teacher").output)
        (wanted,) = predict(teacher, task.trainer.data.inputs)
        feature = _layer(student, learning, "student").output
        if tuple(feature.shape[1:-1]) != wanted.shape[1:-1]:
            raise UnsupportedError(
                f"hint '{taught}={learning}': the teacher's feature has shape {wanted.shape[1:]}, "
                f"the student's {tuple(feature.shape[1:])}",
                hint="they may differ in the last axis only: choose layers of the same resolution",
            )
        return keras.layers.Dense(wanted.shape[-1], name=f"hint_{learning}")(feature), wanted


def narrowed(model: Any, width: float) -> Any:
    """A model of the same graph with fewer filters and units, with fresh weights; what gives an output keeps its size.

    Args:
        model: functional or Sequential.
        width: factor; results are rounded to multiples of 4 where they are larger than 8, and at least 1.

    Raises:
        UnsupportedError: the graph holds fixed sizes that the narrower one does not fit.
    """
    import keras

    last = {tensor._keras_history.operation.name for tensor in model.outputs}

    def scaled(size: int) -> int:
        new = max(1, round(size * width))
        return new if new <= 8 else max(8, 4 * round(new / 4))

    def change(node: Any) -> Any:
        if isinstance(node, list):
            return [change(item) for item in node]
        if not isinstance(node, dict):
            return node
        changed = {key: change(value) for key, value in node.items()}
        changed.pop("build_config", None)  # holds the shapes of before
        config = changed.get("config")
        if isinstance(config, dict) and config.get("name") not in last:
            for key in ("filters", "units"):
                if isinstance(config.get(key), int):
                    config[key] = scaled(config[key])
        return changed

    try:
        student = type(model).from_config(change(model.get_config()))
    except Exception as error:  # Keras raises any type on sizes that do not fit
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedError(
            f"'{model.name}' cannot be made narrower by {width:g}: {first[:200]}", hint="build the student yourself: student=FILE"
        ) from error
    if [tuple(t.shape) for t in student.outputs] != [tuple(t.shape) for t in model.outputs]:
        raise UnsupportedError(
            f"a narrower '{model.name}' gives {[tuple(t.shape) for t in student.outputs]} instead of "
            f"{[tuple(t.shape) for t in model.outputs]}",
            hint="build the student yourself: student=FILE",
        )
    if not isinstance(student, keras.Model):
        raise UnsupportedError(f"'{model.name}' is no functional model", hint="build the student yourself: student=FILE")
    return student


def shortened(model: Any, depth: float) -> Any:
    """A model of the same graph without some of the parts that leave the shape of what they are given as it is.

    A part is what lies between two tensors through which everything passes: a layer, or a whole residual block.

    Args:
        model: functional or Sequential.
        depth: share of the layers with kernels to keep; parts are left out evenly along the graph until it is reached.

    Raises:
        UnsupportedError: there are not enough such parts.
    """
    model = rebuilt(model, lambda layer: layer, lambda layer, _, *args, **kwargs: layer(*args, **kwargs))
    parts = _parts(model)
    total, spare = sum(part.kernels for part in parts), [part for part in parts if part.removable and part.kernels]
    gone: list[_Part] = []
    for count in range(1, len(spare) + 1):
        gone = [spare[int((index + 0.5) * len(spare) / count)] for index in range(count)]
        if total - sum(part.kernels for part in gone) <= depth * total + 0.5:
            break
    left = total - sum(part.kernels for part in gone)
    if left > depth * total + 0.5:
        raise UnsupportedError(
            f"'{model.name}' cannot be shortened to {depth:g} of its {total} layers with kernels: {left} are the fewest, the "
            "others change the shape of what they are given",
            hint="use a larger depth, or build the student yourself: student=FILE",
        )
    ends = {id(part.operations[-1]): part for part in gone}
    kept: dict[int, Any] = {}

    def call(layer: Any, _: Any, *args: Any, **kwargs: Any) -> Any:
        part = ends.get(id(layer))
        result = kept[id(part.start)] if part is not None else layer(*args, **kwargs)
        kept[id(layer)] = result
        return result

    def entry(tensor: Any) -> Any:
        kept[id(tensor._keras_history.operation)] = tensor
        return tensor

    return rebuilt(model, lambda layer: layer, call, entry)


@dataclass(frozen=True, slots=True)
class _Part:
    """What lies between two tensors through which everything passes.

    Args:
        start: the operation that gives the first of them.
        operations: those of the part, the last one gives the second tensor.
        removable: whether the two have the same shape and the second is no output.
        kernels: number of layers with kernels.
    """

    start: Any
    operations: tuple[Any, ...]
    removable: bool
    kernels: int


def _parts(model: Any) -> list[_Part]:
    """The parts of a flat model's graph in order; none of a graph in which everything never passes through one tensor."""
    waiting = Counter(id(tensor) for nodes in model._nodes_by_depth.values() for node in nodes for tensor in node.input_tensors)
    calls = Counter(id(node.operation) for nodes in model._nodes_by_depth.values() for node in nodes)
    outputs = {id(tensor) for tensor in model.outputs}
    alive: dict[int, Any] = {id(tensor): tensor for tensor in model.inputs}
    start = model.inputs[0]
    found: list[_Part] = []
    since: list[Any] = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.input_tensors:
                continue
            since.append(node.operation)
            for tensor in node.input_tensors:
                waiting[id(tensor)] -= 1
                if not waiting[id(tensor)] and id(tensor) not in outputs:
                    alive.pop(id(tensor), None)
            alive |= {id(tensor): tensor for tensor in node.output_tensors}
            if len(alive) == 1:
                end = next(iter(alive.values()))
                same = tuple(end.shape) == tuple(start.shape) and end.dtype == start.dtype and id(end) not in outputs
                shared = any(calls[id(operation)] > 1 for operation in since)
                kernels = sum(hasattr(op, "kernel") or hasattr(op, "pointwise_kernel") for op in since)
                part = _Part(start._keras_history.operation, tuple(since), same and not shared, kernels)
                if found and found[-1].removable and part.removable and not kernels:  # its BatchNorm and activation go with it
                    last = found.pop()
                    part = replace(last, operations=(*last.operations, *part.operations))
                found.append(part)
                start, since = end, []
    return found


def _given(path: Path, model: Any, *, fresh: bool) -> Any:
    import keras

    try:
        student = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises any type on files that it cannot load
        raise ModelError(f"the student {path} cannot be loaded: {type(error).__name__}: {str(error)[:200]}") from error
    for kind in ("inputs", "outputs"):
        own, theirs = ([(t._keras_history.operation.name, tuple(t.shape)) for t in getattr(m, kind)] for m in (student, model))
        if own != theirs:
            raise UnsupportedError(
                f"the student's {kind} are {own}, the teacher's are {theirs}", hint="give them equal names and shapes"
            )
    return keras.models.clone_model(student) if fresh else student


def _pair(text: str) -> tuple[str, str]:
    teacher, equals, student = text.partition("=")
    if not (equals and teacher and student):
        raise UsageError(f"hint '{text}' is not of the form teacher_layer=student_layer")
    return teacher, student


def _layer(model: Any, name: str, whose: str) -> Any:
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise UsageError(f"the {whose} has no layer '{name}'", hint=f"layers: {', '.join(names[:30])}")
    return model.get_layer(name)
