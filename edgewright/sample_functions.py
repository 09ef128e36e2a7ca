"""Samples that a user's function gives, called anew for each pass."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError
from edgewright.labels import encode_labels
from edgewright.sample_origin import KINDS, Source, only_input

__all__ = ["FUNCTION", "source_of_function"]

Array = NDArray[Any]

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""How the name of a function is written: package.module:function."""


@dataclass(slots=True)
class _Function(Source):
    """What a user's function gives, called anew for each pass."""

    function: Callable[[], Iterable[Any]] = tuple
    inputs: tuple[TensorSpec, ...] = ()

    def items(self) -> Iterator[tuple[dict[str, Array], Any]]:
        """(arrays without batch axis, label or None) of each item; the user's exceptions become SamplesError."""
        names = {spec.name for spec in self.inputs}
        iterator = None
        while True:
            try:
                iterator = iter(self.function()) if iterator is None else iterator
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise SamplesError(f"{self.name} failed: {type(error).__name__}: {error}") from error
            data, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            data = data if isinstance(data, Mapping) else {only_input(self.inputs, f"an array of {self.name}"): data}
            if set(data) != names:
                given, wanted = ", ".join(sorted(map(str, data))), ", ".join(sorted(names))
                raise SamplesError(f"{self.name} gives the arrays {given}, the model has the inputs {wanted}")
            arrays = {spec.name: np.asarray(data[spec.name]) for spec in self.inputs}
            batched = {s.name for s in self.inputs if arrays[s.name].ndim == len(s.shape) > 0 and arrays[s.name].shape[0] == 1}
            yield {key: values[0] if key in batched else values for key, values in arrays.items()}, label

    def measure(self) -> None:
        """Count the items and keep their labels in one pass, or ask for the length where there is one and no labels."""
        labels: list[Mapping[str, Any]] = []
        for _, label in self.items():
            self.count += 1
            if label is None and self.count == 1 and (length := self.length()) is not None:
                self.count = length
                return
            if label is not None:
                labels.append(label if isinstance(label, Mapping) else {"y": label})
        if labels and (len(labels) != self.count or any(set(label) != set(labels[0]) for label in labels)):
            raise SamplesError(
                f"{self.name} gives {self.count} samples, {len(labels)} of them with a label, or labels of different outputs"
            )
        try:
            arrays = {key: np.asarray([label[key] for label in labels]) for key in (labels[0] if labels else ())}
        except ValueError as error:
            raise SamplesError(f"{self.name} gives labels of different shapes: {error}") from error
        for key, values in arrays.items():
            self.labels[key], self.classes = encode_labels(values, self.classes, f"of {self.name}")

    def length(self) -> int | None:
        try:
            return len(self.function())  # type: ignore[arg-type]
        except TypeError:
            return None

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        wanted, at = iter(indices), -1
        items = self.items()
        for index in wanted:
            while at < index:
                data, _ = next(items, ({}, None))
                at += 1
                if not data:
                    raise SamplesError(
                        f"{self.name} gave {at} samples, it had {self.count} before", hint="give the same ones each time"
                    )
            yield data

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        return f"change what {self.name} gives, or declare the preprocessing that leads to the input"

    def digest(self) -> str | None:
        try:
            return hashlib.sha256(inspect.getsource(sys.modules[self.function.__module__]).encode()).hexdigest()
        except (OSError, TypeError, KeyError, AttributeError):
            return None


def source_of_function(text: str, inputs: tuple[TensorSpec, ...]) -> Source:
    """What a function gives, called once to count its samples and to keep their labels.

    Args:
        text: `package.module:function`; modules in the current folder are found too.
        inputs: what the model takes.

    Raises:
        SamplesError: there is no such function, it fails, or what it gives does not go together.
    """
    module, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # and stays: the function may import its neighbours when it is called
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SamplesError(
            f"the function {text} cannot be loaded: {type(error).__name__}: {error}", hint=f"samples are {KINDS}"
        ) from error
    if not callable(function):
        raise SamplesError(f"{text} is a {type(function).__name__}, it must be a function")
    source = _Function(text, 0, function=function, inputs=inputs)
    source.measure()
    return source
