"""Samples that are image files: folders by class or flat, and those that a COCO file lists; decoded one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.coco import read_coco
from edgewright.errors import SamplesError
from edgewright.labels import class_names_beside, class_number
from edgewright.preprocess import read_image
from edgewright.sample_origin import Source, only_input

__all__ = ["IMAGE_SUFFIXES", "source_of_coco", "source_of_folder"]

Array = NDArray[Any]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
"""Endings of the files that are read as images."""


@dataclass(slots=True)
class _Images(Source):
    """Image files, decoded one by one."""

    input: str = ""
    files: list[Path] = field(default_factory=list)

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        for index in indices:
            yield {self.input: read_image(self.files[index])}

    def digest(self) -> str | None:
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.relative_to(self.name).as_posix()}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        return "declare the preprocessing of the images, for example size=224x224,color=rgb,scale=1/255"


def source_of_folder(folder: Path, inputs: tuple[TensorSpec, ...]) -> Source:
    """Images of one folder per class, or of a flat folder without labels.

    Raises:
        SamplesError: there is no image, or `labels.txt` does not name the class of a folder.
    """
    name = only_input(inputs, f"the folder of images {folder}")
    classes = class_names_beside(folder)
    folders = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))
    if not folders:
        files = _images_in(folder)
        if not files:
            raise SamplesError(
                f"the folder {folder} holds 0 images, 1 is the least", hint=f"known: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return _Images(str(folder), len(files), classes=classes, input=name, files=files)
    known = classes or tuple(child.name for child in folders)
    numbers = [class_number(child.name, known, f"the class folders in {folder}") for child in folders]
    found = [(file, number) for child, number in zip(folders, numbers, strict=True) for file in _images_in(child)]
    if not found:
        raise SamplesError(f"the class folders in {folder} hold 0 images, 1 is the least")
    labels = {"y": np.asarray([label for _, label in found], np.int64)}
    return _Images(str(folder), len(found), labels, classes=known, input=name, files=[file for file, _ in found])


@dataclass(slots=True)
class _Annotated(_Images):
    """Image files that a COCO file lists, with the boxes in them."""

    def digest(self) -> str | None:
        total = hashlib.sha256(Path(self.name).read_bytes())
        for file in self.files:
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()


def source_of_coco(path: Path, inputs: tuple[TensorSpec, ...]) -> Source:
    """Images with the labels `boxes` and `size`; see `edgewright.coco`.

    Raises:
        SamplesError: see `read_coco`.
    """
    found = read_coco(path)
    labels = {"boxes": found.boxes, "size": found.sizes}
    name = only_input(inputs, f"the images of {path}")
    return _Annotated(str(path), len(found.files), labels, classes=found.classes, input=name, files=found.files)


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))
