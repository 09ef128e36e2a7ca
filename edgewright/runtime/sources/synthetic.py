"""Made-up images and sensor samples, the same in every run: for trying a stream without a camera or a board."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np

from edgewright.errors import UsageError
from edgewright.runtime.address import Address, positive, whole
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.rows import Pace
from edgewright.runtime.sources import SOURCES

__all__ = ["SyntheticImages", "SyntheticSamples", "SyntheticSource"]

_SAMPLE_RATE_HZ = 50.0
"""Rate that sensor samples are made for if none is given."""


@SOURCES.register("synthetic")
class SyntheticSource(Source):
    """What both kinds share: the number of frames and their pace.

    Args:
        rate_hz: frame k comes at start + k / rate_hz, at once if that has passed, and the source is live; None makes frames as
            fast as they are taken.
        count: how many there are; None never ends.
    """

    def __init__(self, rate_hz: float | None, count: int | None) -> None:
        self.live, self.size = rate_hz is not None, count
        self.period_s = 1 / rate_hz if rate_hz else None
        self._rate_hz, self._index = rate_hz, 0
        self._closed = threading.Event()
        self._pace = Pace(self._closed)

    @classmethod
    def of(cls, address: Address) -> SyntheticSource:
        """Open `synthetic:image?width=640&height=480&rate=25&count=100` or `synthetic:sensor?channels=6&rate=50&seed=0`."""
        if address.target == "image":
            given = address.options(width=whole(1), height=whole(1), rate=positive, count=whole(1))
            return SyntheticImages(
                given.get("width", 640), given.get("height", 480), rate_hz=given.get("rate"), count=given.get("count")
            )
        if address.target == "sensor":
            given = address.options(channels=whole(1), rate=positive, count=whole(1), seed=whole())
            return SyntheticSamples(
                given.get("channels", 6), rate_hz=given.get("rate"), count=given.get("count"), seed=given.get("seed", 0)
            )
        raise UsageError(f"'{address.text}' is neither synthetic:image nor synthetic:sensor", hint="write one of the two")

    def read(self, into: Array | None = None) -> Frame | None:
        """The next frame; None after the last one."""
        index = self._index
        if self._closed.is_set() or (self.size is not None and index >= self.size):
            return None
        if self._rate_hz and not self._pace.wait(index / self._rate_hz):
            return None
        self._index += 1
        data = self.make(index, into)
        recorded_ns = None if self._rate_hz is None else round(index * 1e9 / self._rate_hz)
        return Frame(data, index, time.monotonic_ns(), recorded_ns)

    def close(self) -> None:
        """End a wait."""
        self._closed.set()

    @abstractmethod
    def make(self, index: int, into: Array | None) -> Array:
        """The data of one frame; depends on nothing but the index and the settings."""


class SyntheticImages(SyntheticSource):
    """Images of slanted colour gradients that move by two pixels a frame, under a bright square that crosses them.

    Frames are uint8 (height, width, 3), BGR.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "image"

    def __init__(self, width: int, height: int, *, rate_hz: float | None = None, count: int | None = None) -> None:
        super().__init__(rate_hz, count)
        rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
        base = np.stack([columns + rows, columns - rows, columns + 2 * rows], axis=2)
        self._base, self._side = base.astype(np.uint8), max(1, min(width, height) // 4)

    def make(self, index: int, into: Array | None) -> Array:
        """The image of one index, written into `into` if that is uint8 of the same shape."""
        fits = into is not None and into.shape == self._base.shape and into.dtype == np.uint8 and into.flags.writeable
        image = into if fits and into is not None else np.empty_like(self._base)
        np.add(self._base, np.uint8(2 * index % 256), out=image)
        height, width = image.shape[:2]
        left, top = 4 * index % max(1, width - self._side), 2 * index % max(1, height - self._side)
        image[top : top + self._side, left : left + self._side] = 255
        return image


class SyntheticSamples(SyntheticSource):
    """Sensor samples: channel c is a sine of 0.5 (c + 1) Hz with normal noise of 0.1.

    Frames are float32 (channels,).
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(self, channels: int, *, rate_hz: float | None = None, count: int | None = None, seed: int = 0) -> None:
        super().__init__(rate_hz, count)
        self._turns = 0.5 * np.arange(1, channels + 1) / (rate_hz or _SAMPLE_RATE_HZ)
        self._noise = np.random.default_rng(seed)

    def make(self, index: int, into: Array | None) -> Array:
        """The sample of one index; indices are asked for in order."""
        clean = np.sin(2 * np.pi * self._turns * index)
        sample: Array = (clean + 0.1 * self._noise.standard_normal(len(self._turns))).astype(np.float32)
        return sample
