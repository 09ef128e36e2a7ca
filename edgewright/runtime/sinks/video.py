"""Annotated video: what was found, drawn into the frames (`video:seen.mkv?fps=25`); a `.mkv` survives a crash whole."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgewright.errors import SinkError, needs
from edgewright.runtime.address import Address, positive
from edgewright.runtime.draw import draw
from edgewright.runtime.frames import Array, Result, Sink
from edgewright.runtime.matroska import MatroskaWriter
from edgewright.runtime.sinks import SINKS

__all__ = ["VideoSink"]

_CODECS = {".mkv": "MJPG", ".ts": "mp4v", ".avi": "MJPG", ".mp4": "mp4v", ".mov": "mp4v", ".webm": "VP80"}
_SPARE_BYTES = 4 << 20
"""A disk with less free space counts as full: OpenCV does not tell when writing fails."""
_JPEG_QUALITY = 85
_FPS = 25.0
_JUMP_NS = 500_000_000


@SINKS.register("video")
class VideoSink(Sink):
    """A video file with every result drawn into its image; opened with the first image, in that image's size.

    A `.mkv` of JPEG images is written frame by frame: after a crash of the process it has all of them. What OpenCV writes, all
    other containers and codecs, waits in blocks of 256 KiB: a crash loses the last one or two of them (seconds of a quiet
    scene), and of an `.mp4` everything. JPEG takes several times the space of the other codecs.

    In a `.mkv` of JPEG images each frame has its own time: of its capture from live sources, else of the recording. Other files
    and pictures without a time have a constant rate. Images of another size are fitted in with bars. A failed result is drawn
    with its error, on black if its image is lost too.

    Args:
        path: the file; its suffix chooses the container. A file that is there is replaced when the first result comes.
        fps: frames per second that players show; None: as the frames' times say, else 25.
        codec: four letters as OpenCV knows them; empty takes one that suits the container.

    Raises:
        SinkError: the folder is missing, or the suffix is of no known container.
        MissingPackageError: cv2 is not installed.
    """

    wants_images: ClassVar[bool] = True

    def __init__(self, path: Path, fps: float | None = None, codec: str = "") -> None:
        with needs("video"):
            import cv2  # noqa: F401
        if path.suffix.lower() not in _CODECS:
            raise SinkError(f"'{path}' has no suffix of a video that can be written", hint=f"known: {', '.join(_CODECS)}")
        if not path.parent.is_dir():
            raise SinkError(f"the folder of '{path}' does not exist", hint="make it first")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise SinkError(f"'{path}' cannot be written", hint="check rights, or name another place")
        self._path, self._fps = path, fps
        self._codec = codec or _CODECS[path.suffix.lower()]
        self._writer: Any = None
        self._zero_ns: int | None = None
        self._last_ns = 0
        self._sources: list[str] = []
        self._size: tuple[int, int] | None = None

    @classmethod
    def of(cls, address: Address) -> VideoSink:
        """From `video:PATH?fps=&codec=`."""
        return cls(Path(address.target), **address.options(fps=positive, codec=_four))

    def write(self, result: Result) -> None:
        """Draw one result and write the frame."""
        image = result.image
        if result.source not in self._sources:
            self._sources.append(result.source)
            if len(self._sources) == 2:
                self.tell(f"pictures of {' and '.join(self._sources)} take turns in one video")
        if image is None and self._size is None:
            raise SinkError(
                f"result {result.index} of '{result.source}' has no image to draw on",
                hint="a video takes results of a camera, a video or a folder of images",
            )
        if image is None:
            image = np.zeros((*(self._size or (0, 0)), 3), np.uint8)
        drawn = draw(image, result.answer, age_ms=result.age_ms, late=result.status == "late", error=result.error)
        if self._size is None:
            self._open((drawn.shape[0], drawn.shape[1]), timed=self._at_ms(result) is not None)
        fitted = _fitted(drawn, self._size or drawn.shape[:2])
        try:
            if isinstance(self._writer, MatroskaWriter):
                self._writer.write(_jpeg(fitted), self._at_ms(result))
            else:
                self._check_space()
                self._writer.write(fitted)
        except OSError as error:
            raise SinkError(f"'{self._path}' cannot be written: {error.strerror}", hint="free some space") from error

    def close(self) -> int:
        """Finish the file."""
        writer, self._writer = self._writer, None
        if isinstance(writer, MatroskaWriter):
            with suppress(OSError):  # it can be played without its duration
                writer.close()
        elif writer is not None:
            writer.release()
        return 0

    def _at_ms(self, result: Result) -> float | None:
        """When the frame is to be shown; None leaves it to a constant rate."""
        now = result.captured_ns if self.live else result.recorded_ns
        if self._fps is not None or now is None:
            return None
        if self._zero_ns is None:
            self._zero_ns = now
        elif now < self._last_ns - _JUMP_NS:  # a recording that begins again
            self._zero_ns -= self._last_ns - now + round(1e9 / _FPS)
        self._last_ns = now
        return (now - self._zero_ns) / 1e6

    def _open(self, size: tuple[int, int], timed: bool) -> None:
        import cv2

        if self._path.suffix.lower() == ".mkv" and self._codec == "MJPG":
            try:
                self._writer, self._size = MatroskaWriter(self._path, size, None if timed else self._fps or _FPS), size
            except OSError as error:
                raise SinkError(f"'{self._path}' cannot be written: {error.strerror}", hint="check rights and space") from error
            return
        self._check_space()
        code = cv2.VideoWriter.fourcc(*self._codec)
        writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, self._fps or _FPS, (size[1], size[0]))
        if not writer.isOpened():
            raise SinkError(
                f"no video of {size[1]}x{size[0]} pixels with codec '{self._codec}' can be written to '{self._path}'",
                hint="leave codec= out, or write a .mkv",
            )
        self._writer, self._size = writer, size

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < _SPARE_BYTES:
            raise SinkError(f"'{self._path}' cannot be written: {free} bytes are free", hint="free some space")


def _four(text: str) -> str:
    if len(text) not in {0, 4} or not text.isascii():
        raise ValueError("a codec has four letters, such as MJPG")
    return text


def _jpeg(image: Array) -> bytes:
    import cv2

    written, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not written:
        raise SinkError(f"an image of shape {image.shape} cannot be written as JPEG")
    return bytes(data)


def _fitted(image: Array, size: tuple[int, int]) -> Array:
    """An image with its aspect kept, in (height, width) with black bars."""
    if image.shape[:2] == size:
        return image
    import cv2

    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(n * factor)) for n in image.shape[:2])
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return canvas
