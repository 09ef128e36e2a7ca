"""Labels: files that name the classes, and labels as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import SamplesError

__all__ = ["class_names_beside", "class_number", "encode_labels", "read_class_names"]

Array = NDArray[Any]


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes in the order of their numbers, from a UTF-8 file with one in each line; blank lines do not count.

    Raises:
        SamplesError: the file cannot be read or is no UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SamplesError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise SamplesError(
            f"{path} is not UTF-8 ({found})", hint="save it as UTF-8, with the name of a class in each line"
        ) from error
    return tuple(filter(None, map(str.strip, lines)))


def class_names_beside(folder: Path) -> tuple[str, ...]:
    """Names of classes from `labels.txt` in a folder; empty if there is none.

    Raises:
        SamplesError: see `read_class_names`.
    """
    path = folder / "labels.txt"
    return read_class_names(path) if path.is_file() else ()


def class_number(name: str, classes: tuple[str, ...], what: str) -> int:
    """The number of the class of a name.

    Raises:
        SamplesError: there is none, or several classes have the name.
    """
    if (count := classes.count(name)) != 1:
        named = f"{', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}"
        raise SamplesError(
            f"{what}: the class '{name}' is named {count} times, once is expected; the names are {named}",
            hint="name each class once in labels.txt, as it is called in the data",
        )
    return classes.index(name)


def encode_labels(values: Array, classes: tuple[str, ...], what: str) -> tuple[Array, tuple[str, ...]]:
    """Labels as numbers, and the names of the classes: texts become numbers of classes, numbers stay.

    Args:
        values: labels of any shape.
        classes: names of the classes; empty for the sorted texts among the labels.
        what: what messages call the labels.

    Raises:
        SamplesError: a text is no class, or a number is NaN, infinite or of no kind that a label can have.
    """
    if values.dtype.kind == "U":
        texts, places = np.unique(values, return_inverse=True)
        classes = classes or tuple(map(str, texts))
        numbers = [class_number(str(text), classes, f"labels {what}") for text in texts]
        return np.asarray(numbers, np.int64)[places].reshape(values.shape), classes
    if values.dtype.kind not in "fiub" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise SamplesError(f"labels {what} have dtype {values.dtype} or hold NaN, they must be numbers or texts")
    return values, classes
