"""Raw samples into a model's input, as `Preprocess` and `encode` do, at the speed of a video."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import ShapeError, needs
from edgewright.preprocess import Preprocess, encode
from edgewright.runtime.frames import Array

__all__ = ["Prepare"]

_ALL = np.arange(256, dtype=np.uint8)


class Prepare:
    """What a declaration makes of raw samples for one input: the values of `encode(spec, preprocess.apply(raw))[None]`.

    An 8-bit image can only hold 256 values, so scaling and quantizing are one look-up, and one exclusive or where the
    input's scale is that of the declaration.

    Args:
        spec: the input; a free batch is 1.
        preprocess: None where samples are model-ready.

    Raises:
        ShapeError: the input takes more than one sample at once.
        MissingPackageError: images are declared, and OpenCV is not installed.
    """

    def __init__(self, spec: TensorSpec, preprocess: Preprocess | None) -> None:
        if spec.shape and spec.shape[0] not in (1, None):
            raise ShapeError(
                f"input '{spec.name}' takes {spec.shape[0]} samples at once, a stream gives one",
                hint="convert the model with --batch 1",
            )
        self.spec, self.preprocess = spec, preprocess
        self.shape = (1, *(size or 1 for size in spec.shape[1:]))
        self._images = preprocess is not None and preprocess.is_image
        self._table: Array | None = None
        self._flips = False
        self._own = threading.local()  # workers that share this each have a scratch image of their own
        if self._images and preprocess is not None and preprocess.layout == "hwc":
            self._table = _table(spec, preprocess, self.shape[-1])
            flipped = (_ALL ^ 0x80).view(np.int8)
            self._flips = spec.dtype == "int8" and np.array_equal(self._table, flipped)
        if self._images:
            with needs("video"):  # missing, it is to be told now; and loading it takes longer than a first frame may wait
                import cv2  # noqa: F401

    @property
    def quick(self) -> bool:
        """Whether images are written into arrays of `slot`."""
        return self._table is not None

    def slot(self) -> Array:
        """A new array for one prepared sample."""
        return np.empty(self.shape, self.spec.dtype)

    def __call__(self, raw: Array, into: Array | None = None) -> Array:
        """One raw sample as the model's input.

        Args:
            raw: as `Preprocess.apply` takes it; without a declaration, of the input's shape without batch axis.
            into: an array of `slot` that is free to be overwritten.

        Returns:
            Shape (1, ...), of the input's dtype; `into` where the way is the quick one.

        Raises:
            ShapeError: the sample's shape or dtype is not what the declaration or the model takes.
            SamplesError: NaN for an integer input.
        """
        if self._images and self._table is not None and raw.dtype == np.uint8 and raw.ndim == 3 and raw.shape[2] == 3:
            return self._image(raw, into)
        ready = self.preprocess.apply(raw) if self.preprocess is not None else raw
        return self._fitting(encode(self.spec, ready))

    def real(self, raw: Array) -> Array:
        """What a raw sample is before it is stored as the input's dtype: float, of the input's shape without batch axis."""
        ready = self.preprocess.apply(raw) if self.preprocess is not None else raw
        return np.asarray(ready).reshape(self.shape[1:])

    def _fitting(self, stored: Array) -> Array:
        if stored.shape == self.shape[1:]:
            return stored[np.newaxis]
        if stored.size == np.prod(self.shape):  # (steps, channels) for (1, steps, channels, 1) and the like
            return stored.reshape(self.shape)
        raise ShapeError(
            f"a sample has shape {stored.shape}, input '{self.spec.name}' takes {self.shape[1:]}",
            hint="declare windows for sensors (--window length=...), or a size for images (--preprocess size=...)",
        )

    def _image(self, raw: Array, into: Array | None) -> Array:
        preprocess = self.preprocess
        if preprocess is None or self._table is None:
            raise ShapeError("no declaration for images")
        image = raw
        if preprocess.size is not None and raw.shape[:2] != preprocess.size:
            image = self._resized(raw, preprocess)
        if preprocess.color == "rgb":
            import cv2

            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image if image is getattr(self._own, "scaled", None) else None)
        elif preprocess.color == "gray":
            image = preprocess._image(image)
        if image.shape != self.shape[1:]:
            raise ShapeError(
                f"an image has shape {image.shape} after preprocessing, input '{self.spec.name}' takes {self.shape[1:]}",
                hint="declare the model's size: --preprocess size=HEIGHTxWIDTH,...",
            )
        result = self.slot() if into is None else into
        if self._flips:
            np.bitwise_xor(image, 0x80, out=result[0].view(np.uint8))
        else:
            import cv2

            result[0] = np.reshape(cv2.LUT(image, self._table), image.shape)
        return result

    def _resized(self, raw: Array, preprocess: Preprocess) -> Array:
        if preprocess.resize != "stretch" or preprocess.size is None:
            return preprocess._resized(raw)
        import cv2

        scaled = getattr(self._own, "scaled", None)
        if scaled is None:
            scaled = self._own.scaled = np.empty((*preprocess.size, 3), np.uint8)
        height, width = preprocess.size
        return np.asarray(cv2.resize(raw, (width, height), dst=scaled, interpolation=cv2.INTER_LINEAR))


def _table(spec: TensorSpec, preprocess: Preprocess, channels: int) -> Array:
    """What each value of a pixel is stored as: shape (256,), or (1, 256, channels) where channels differ."""
    scaling = Preprocess(scale=preprocess.scale, offset=preprocess.offset)
    wide = isinstance(preprocess.scale, tuple) or isinstance(preprocess.offset, tuple)
    values: Any = np.repeat(_ALL[:, None], channels if wide else 1, axis=1)
    table = np.asarray(encode(spec, scaling.apply(values)))
    return table[:, 0] if table.shape[1] == 1 else table[np.newaxis]  # as OpenCV takes tables
