"""Frames from a folder of image files, in the order of their names."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar, Literal

from edgewright.errors import SamplesError, SourceError, needs
from edgewright.preprocess import read_image
from edgewright.runtime.address import Address, flag, positive
from edgewright.runtime.capture import Pace
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.sources import SOURCES
from edgewright.sample_images import IMAGE_SUFFIXES

__all__ = ["ImagesSource"]


@SOURCES.register("images")
class ImagesSource(Source):
    """Image files of a folder as frames: uint8 (height, width, 3), BGR, each in its own size, turned as its EXIF data says.

    A file that cannot be decoded is told by name and left out.

    Args:
        folder: holds the files; its folders are not looked into. One file alone is allowed.
        loop: begin again after the last one.
        rate_hz: images per second to play them at; those that were due while nobody asked are skipped, as with a camera.
            None gives them as fast as they are taken.

    Raises:
        SourceError: there is no such folder, or no image in it.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "image"

    def __init__(self, folder: Path, *, loop: bool = False, rate_hz: float | None = None) -> None:
        with needs("video"):
            import cv2  # noqa: F401 - missing, it is to be told now and not at the first image
        self._name = str(folder)
        self._files = [folder] if folder.is_file() else self._listed(folder)
        self._found = len(self._files)
        self._loop, self.live = loop, rate_hz is not None
        self.period_s = 1 / rate_hz if rate_hz else None
        self.size = None if loop or rate_hz else self._found
        self.skipped = 0
        self._pace = Pace(self.period_s) if self.period_s else None
        self._closed = threading.Event()
        self._next = self._place = self._index = 0

    @classmethod
    def of(cls, address: Address) -> ImagesSource:
        """See `Source.of`: `images:folder?loop=no&rate=10`."""
        settings = address.options(loop=flag, rate=positive)
        return cls(Path(address.target), loop=settings.get("loop", False), rate_hz=settings.get("rate"))

    def read(self, into: Array | None = None) -> Frame | None:
        """See `Source.read`; `into` is not used: images differ in size.

        Raises:
            SourceError: not one of the files could be decoded.
        """
        missed = self._pace.wait(self._place, self._closed) if self._pace else 0
        self._skip(missed)
        while not self._closed.is_set() and (file := self._file()):
            try:
                image = read_image(file)
            except SamplesError as error:
                self.tell(f"left out: {error}")
                del self._files[self._next]
                self.broken += 1
                continue
            recorded_ns = round(self._place * self.period_s * 1e9) if self.period_s else None
            self._next, self._place, self._index = self._next + 1, self._place + 1, self._index + 1
            return Frame(image, self._index - 1, time.monotonic_ns(), recorded_ns)
        return None

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()

    def _file(self) -> Path | None:
        """The file whose turn it is, None after the last one."""
        if not self._files:
            raise SourceError(
                f"0 of the {self._found} images of {self._name} could be decoded, 1 is the least", hint="copy them again"
            )
        if self._next >= len(self._files):
            if not self._loop:
                return None
            self._next = 0
        return self._files[self._next]

    def _skip(self, missed: int) -> None:
        """Step over images whose time is over, without reading them."""
        for _ in range(missed):
            if not self._file():
                return
            self._next, self._place, self.skipped = self._next + 1, self._place + 1, self.skipped + 1

    @staticmethod
    def _listed(folder: Path) -> list[Path]:
        if not folder.is_dir():
            raise SourceError(f"there is no folder {folder}", hint="see whether the path is right, seen from this folder")
        files = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise SourceError(
                f"the folder {folder} holds 0 images, 1 is the least", hint=f"known: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return files
