"""Images with boxes as a COCO file has them: which image files, what stands in each, and how large they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import SamplesError

__all__ = ["Annotated", "read_coco"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """Images and what stands in them.

    Args:
        files: image files, in the order of their names in the file.
        boxes: float64 (images, most boxes of an image, 6): left, top, right, bottom in pixels, number of the class, 1 for a
            crowd; NaN behind an image's last box.
        sizes: int64 (images, 2): height and width in pixels.
        classes: names in the order of the category ids.
    """

    files: list[Path]
    boxes: Array
    sizes: Array
    classes: tuple[str, ...]


def read_coco(path: Path) -> Annotated:
    """Read the file, whose format is that of COCO's instances (T.-Y. Lin et al., "Microsoft COCO", ECCV 2014).

    Image files are looked for beside it, and in a folder `images` there.

    Raises:
        SamplesError: it is no such file, a box names an image or a category that there is not, or image files are missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = [(one["id"], str(one["file_name"]), int(one["height"]), int(one["width"])) for one in data["images"]]
        categories = sorted((one["id"], str(one["name"])) for one in data["categories"])
        found = [(one["image_id"], one["category_id"], one["bbox"], one.get("iscrowd", 0)) for one in data["annotations"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SamplesError(
            f"{path} is no COCO file ({type(error).__name__}: {error})",
            hint="it must have images (id, file_name, height, width), annotations (image_id, category_id, bbox), categories",
        ) from error
    if not images or not categories:
        raise SamplesError(f"{path} has {len(images)} images and {len(categories)} categories, one of each is the least")
    images.sort(key=lambda image: image[1])
    place = {image[0]: at for at, image in enumerate(images)}
    number = {category[0]: at for at, category in enumerate(categories)}
    rows: list[list[list[float]]] = [[] for _ in images]
    for image, category, box, crowd in found:
        if image not in place or category not in number:
            raise SamplesError(f"{path}: a box is of image {image} and category {category}, which are not both in the file")
        rows[place[image]].append([*_edges(path, box), number[category], float(bool(crowd))])
    boxes = np.full((len(images), max([1, *map(len, rows)]), 6), np.nan)
    for at, own in enumerate(rows):
        if own:
            boxes[at, : len(own)] = own
    sizes = np.asarray([image[2:] for image in images], np.int64)
    return Annotated(_files(path, [image[1] for image in images]), boxes, sizes, tuple(name for _, name in categories))


def _edges(path: Path, box: Any) -> list[float]:
    """Left, top, right, bottom of COCO's left, top, width, height."""
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError) as error:
        raise SamplesError(f"{path}: a bbox is {box}, four numbers are expected") from error
    if not np.isfinite([left, top, width, height]).all() or width < 0 or height < 0:
        raise SamplesError(f"{path}: a bbox is {box}, finite numbers and no negative sizes are expected")
    return [left, top, left + width, top + height]


def _files(path: Path, names: list[str]) -> list[Path]:
    for folder in (path.parent, path.parent / "images"):
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return files
    missing = [name for name in names if not (path.parent / name).is_file() and not (path.parent / "images" / name).is_file()]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise SamplesError(
        f"{path} names {len(names)} images, {len(missing)} of them are not there: {', '.join(missing[:3])}{more}",
        hint="put the images beside the file, or into a folder 'images' there",
    )
