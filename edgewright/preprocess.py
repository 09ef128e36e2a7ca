"""What turns a raw sample into a model's input: declared once, saved with the model, the same code everywhere.

The rule: a declared `Preprocess` is applied to *raw* samples (images, sensor rows or windows, arrays), whatever source
they come from. Arrays that are model-ready already declare none and pass unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.declared import from_fields, read_settings
from edgewright.errors import SamplesError, ShapeError, UsageError, needs

__all__ = ["Placement", "Preprocess", "decode", "encode", "read_image"]

Array = NDArray[Any]
Numbers = float | tuple[float, ...]

RESIZES = ("stretch", "letterbox", "crop")
COLORS = ("rgb", "bgr", "gray")
LAYOUTS = ("hwc", "chw")
KEYS = ("size", "resize", "pad", "color", "layout", "scale", "offset", "mean", "std")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a raw image lies in the resized one, in pixels of the resized one.

    Args:
        height: of the raw image after scaling.
        width: of the raw image after scaling.
        top: rows above it; negative when `crop` cut some off.
        left: columns left of it; negative when `crop` cut some off.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What happens to one input's raw samples, in this order: resize, colour, value * scale + offset, layout.

    Setting `size` or `color`, or the layout "chw", declares images; otherwise any numeric array is taken and only scale
    and offset apply, along its last axis.

    Args:
        size: (height, width) in pixels; None keeps the size.
        resize: "stretch" to the size; "letterbox" keeps the aspect and pads; "crop" keeps it and cuts the centre.
            All interpolate bilinearly, in uint8.
        pad: value of the letterbox's bars, 0 to 255.
        color: "rgb", "bgr" or "gray" of the result; None keeps the channels that the image has (cv2 gives BGR).
        layout: "hwc" or "chw" of the result.
        scale: factor of every value, or one per channel.
        offset: added after scaling, one value or one per channel.

    Raises:
        UsageError: a field has a value that it cannot have.
    """

    size: tuple[int, int] | None = None
    resize: str = "stretch"
    pad: int = 0
    color: str | None = None
    layout: str = "hwc"
    scale: Numbers = 1.0
    offset: Numbers = 0.0

    def __post_init__(self) -> None:
        _known("resize", self.resize, RESIZES)
        _known("layout", self.layout, LAYOUTS)
        if self.color is not None:
            _known("color", self.color, COLORS)
        if self.size is not None and (len(self.size) != 2 or not all(type(n) is int and 0 < n < 1 << 15 for n in self.size)):
            raise UsageError(f"preprocess size is {self.size}, it must be a height and a width in pixels, 1 to 32767")
        if type(self.pad) is not int or not 0 <= self.pad <= 255:
            raise UsageError(f"preprocess pad is {self.pad}, it must be a whole number from 0 to 255")
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if not np.size(value) or not np.all(np.isfinite(value)):
                raise UsageError(f"preprocess {name} is {value}, it must be one finite number or one per channel")
        if len({len(value) for value in (self.scale, self.offset) if isinstance(value, tuple)}) > 1:
            raise UsageError(f"preprocess scale {self.scale} and offset {self.offset} are for different numbers of channels")

    @property
    def is_image(self) -> bool:
        """Whether the raw samples are images."""
        return self.size is not None or self.color is not None or self.layout == "chw"

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """A declaration from text such as `size=224x224,color=rgb,scale=1/127.5,offset=-1`.

        Sizes are HEIGHTxWIDTH. Numbers may be fractions; values per channel are separated by ":" or ";". `mean` and
        `std` come after scale and offset: (value * scale + offset - mean) / std.

        Raises:
            UsageError: a key or value is unknown, given twice, or no number; the message names the known ones.
        """
        given = read_settings(text, "preprocess", KEYS)
        if not given:
            raise UsageError("the preprocess declaration is empty", hint=f"known: {', '.join(KEYS)}")
        numbers: dict[str, Numbers] = {
            key: _numbers(key, given[key]) for key in ("scale", "offset", "mean", "std") if key in given
        }
        scale, offset = _standardized(numbers)
        return cls(
            size=_size(given["size"]) if "size" in given else None,
            resize=given.get("resize", "stretch"),
            pad=_pad(given.get("pad", "0")),
            color=given.get("color"),
            layout=given.get("layout", "hwc"),
            scale=scale,
            offset=offset,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is unknown (leaving it out would change the numbers) or has an impossible value.
        """
        return from_fields(cls, "preprocess", data)

    def placement(self, height: int, width: int) -> Placement:
        """Where a raw image of this height and width lies in the result; maps boxes back to the raw image."""
        if self.size is None or self.resize == "stretch":
            return Placement(*(self.size or (height, width)), 0, 0)
        ratios = (self.size[0] / height, self.size[1] / width)
        ratio = min(ratios) if self.resize == "letterbox" else max(ratios)
        scaled = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return Placement(*scaled, (self.size[0] - scaled[0]) // 2, (self.size[1] - scaled[1]) // 2)

    def apply(self, raw: Array) -> NDArray[np.float32]:
        """One raw sample as the model's input, without a batch axis.

        Args:
            raw: for images uint8 of shape (height, width) or (height, width, 1 or 3), BGR as cv2 gives it; otherwise
                any integer or floating array, for example (channels,) or (steps, channels).

        Returns:
            float32; (height, width, channels) or (channels, height, width) for images, else the raw shape.

        Raises:
            ShapeError: shape or dtype is not as above, or scale and offset are for another number of channels.
            MissingPackageError: resizing or grayscale is asked for and cv2 is not installed.
        """
        if self.is_image:
            raw = self._image(raw)
        elif raw.dtype.kind not in "fiub":
            raise ShapeError(f"a raw sample has dtype {raw.dtype}, preprocessing takes numbers")
        channels = raw.shape[-1] if raw.ndim else 1
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if isinstance(value, tuple) and len(value) != channels:
                raise ShapeError(
                    f"preprocess {name} has {len(value)} values, the sample of shape {raw.shape} has {channels} channels"
                )
        with np.errstate(over="ignore"):
            ready = np.multiply(raw, np.asarray(self.scale, np.float32), dtype=np.float32)
            ready = np.asarray(ready + np.asarray(self.offset, np.float32))
        return np.ascontiguousarray(ready.transpose(2, 0, 1)) if self.layout == "chw" else ready

    def _image(self, raw: Array) -> Array:
        """Resized and recoloured, still uint8: (height, width, channels)."""
        if raw.dtype != np.uint8 or raw.ndim not in {2, 3} or (raw.ndim == 3 and raw.shape[2] not in {1, 3}) or not raw.size:
            raise ShapeError(
                f"a raw image has shape {raw.shape} and dtype {raw.dtype}, "
                "preprocessing takes (height, width) or (height, width, 1 or 3) of uint8",
                hint="declare scale and offset only when the arrays are no raw images, or nothing when they are model-ready",
            )
        image = raw[..., np.newaxis] if raw.ndim == 2 else raw
        if self.size is not None and image.shape[:2] != self.size:
            image = self._resized(image)
        if self.color == "gray" and image.shape[2] == 3:
            with needs("video"):
                import cv2
            image = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY))[..., np.newaxis]
        elif self.color in {"rgb", "bgr"} and image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        elif self.color == "rgb":
            image = _swapped(image)
        return image

    def _resized(self, image: Array) -> Array:
        with needs("video"):
            import cv2
        height, width = self.size or image.shape[:2]
        place = self.placement(*image.shape[:2])
        resized = cv2.resize(np.ascontiguousarray(image), (place.width, place.height), interpolation=cv2.INTER_LINEAR)
        scaled = np.reshape(resized, (place.height, place.width, image.shape[2]))  # cv2 drops an axis of one channel
        if self.resize == "crop":
            return scaled[-place.top : height - place.top, -place.left : width - place.left]
        if self.resize == "stretch":
            return scaled
        boxed = np.full((height, width, image.shape[2]), self.pad, np.uint8)
        boxed[place.top : place.top + place.height, place.left : place.left + place.width] = scaled
        return boxed


def encode(spec: TensorSpec, values: Array) -> Array:
    """Real values as what the file stores: round(value / scale) + zero_point, halves to even, clipped to the dtype.

    Computed in float64, so that the result is the same for float32 and float64 values. Unquantized tensors are cast.

    Args:
        spec: the tensor; its dtype, scale and zero point count, its shape does not.
        values: numbers of any shape.

    Returns:
        an array of the same shape and of the spec's dtype.

    Raises:
        ShapeError: the spec's dtype is unknown, or the values cannot be cast to its integers without loss.
        SamplesError: NaN for an integer tensor, or values that float16 cannot hold.
    """
    dtype = _dtype(spec)
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ShapeError(f"values for '{spec.name}' have dtype {values.dtype}, the model takes {spec.dtype}")
    if values.dtype.kind == "f" and dtype.kind in "iub" and np.isnan(values).any():
        raise SamplesError(f"values for '{spec.name}' hold NaN, {spec.dtype} cannot hold it")
    if spec.scale is not None:
        limits = np.iinfo(dtype)
        stored = values / np.float64(spec.scale)
        np.rint(stored, out=stored)
        stored += spec.zero_point or 0
        return np.asarray(np.clip(stored, limits.min, limits.max).astype(dtype))
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(dtype, copy=False)
        if dtype.itemsize < values.dtype.itemsize and np.isinf(cast).sum() > np.isinf(values).sum():
            raise SamplesError(
                f"values for '{spec.name}' reach {np.abs(values).max():g}, {spec.dtype} ends at {np.finfo(dtype).max:g}"
            )
        return cast
    with np.errstate(invalid="ignore"):
        cast = values.astype(dtype, copy=False)
    lossy = np.asarray(cast != values)
    if lossy.any():
        raise ShapeError(f"values for '{spec.name}' hold {values[lossy].flat[0]}, the model takes {spec.dtype}")
    return cast


def decode(spec: TensorSpec, stored: Array) -> NDArray[np.float32] | NDArray[np.float64]:
    """What stored values mean: (stored - zero_point) * scale, or the numbers themselves if not quantized.

    Args:
        spec: the tensor; its scale and zero point count.
        stored: numbers of any shape, of the spec's dtype.

    Returns:
        float32, or float64 where the stored dtype has more than 24 bits (float64, int32, int64).

    Raises:
        ShapeError: the stored values are no numbers.
    """
    stored = np.asarray(stored)
    if stored.dtype.kind not in "fiub":
        raise ShapeError(f"values of '{spec.name}' have dtype {stored.dtype}, expected {spec.dtype}")
    wide = stored.dtype.itemsize > (4 if stored.dtype.kind == "f" else 2)
    real: NDArray[np.float32] | NDArray[np.float64] = stored.astype(np.float64 if wide else np.float32, copy=False)
    return (
        real if spec.scale is None else np.asarray((real - real.dtype.type(spec.zero_point or 0)) * real.dtype.type(spec.scale))
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as cv2 decodes it: uint8 of shape (height, width, 3), BGR, turned as its EXIF data says.

    Raises:
        SamplesError: the file cannot be read, is no image, or is truncated; the message has its path.
        MissingPackageError: cv2 is not installed.
    """
    with needs("video"):
        import cv2
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SamplesError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(b"\xff\xd8") and not _jpeg_ends(data):
        raise SamplesError(f"the image {path} is truncated: a JPEG without an end", hint="remove it or copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        raise SamplesError(f"the image {path} cannot be decoded: {error}".strip()) from error
    if image is None:
        raise SamplesError(f"the image {path} cannot be decoded: broken, or no image", hint="remove it or copy it again")
    return np.asarray(image, np.uint8)


def _swapped(image: Array) -> Array:
    """BGR to RGB: by cv2, which is 40 times faster, or by NumPy where only NumPy is installed."""
    try:
        import cv2
    except ModuleNotFoundError:
        return image[..., ::-1]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB))


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG has its end marker: older cv2 fills what a truncated one lacks with gray and says nothing.

    The segments before the first scan are stepped over, because a thumbnail in them has an end marker of its own.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda" and at + 4 <= len(data):
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise ShapeError(f"tensor '{spec.name}' has dtype {spec.dtype}, which NumPy does not know") from error
    if dtype.kind not in ("iu" if spec.quantized else "fiub"):
        raise ShapeError(f"tensor '{spec.name}' has dtype {spec.dtype}, which cannot be fed from numbers")
    return dtype


def _known(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"preprocess {key} is '{value}', it must be one of {', '.join(known)}")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"preprocess size is '{text}', it must be HEIGHTxWIDTH, for example 224x224")
    return int(height), int(width)


def _numbers(key: str, text: str) -> Numbers:
    """One number, or several separated by ':' or ';'; each may be a fraction such as 1/127.5."""
    values = []
    for part in text.replace(";", ":").split(":"):
        top, _, bottom = part.partition("/")
        try:
            values.append(float(Fraction(top.strip()) / Fraction(bottom.strip() or 1)))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise UsageError(f"preprocess {key} has '{part}', it must be a number or a fraction such as 1/127.5") from error
    return values[0] if len(values) == 1 else tuple(values)


def _pad(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"preprocess pad is '{text}', it must be a whole number from 0 to 255")
    return int(text)


def _standardized(
    numbers: Mapping[str, Numbers],
) -> tuple[Numbers, Numbers]:
    """Scale and offset that do the work of scale, offset, mean and std together."""
    scale, offset, mean, std = (
        np.asarray(numbers.get(key, default)) for key, default in (("scale", 1.0), ("offset", 0.0), ("mean", 0.0), ("std", 1.0))
    )
    if not std.all():
        raise UsageError("preprocess std is 0, it must be positive")
    try:
        pair = (scale / std, (offset - mean) / std)
    except ValueError as error:
        raise UsageError(f"preprocess values are for different numbers of channels: {dict(numbers)}") from error
    first, second = (tuple(float(v) for v in value) if value.ndim else float(value) for value in pair)
    return first, second
