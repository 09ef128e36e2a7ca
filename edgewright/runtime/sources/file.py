"""Frames of a video file, as fast as they are taken or as a camera would have given them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar, Literal

from edgewright.errors import SourceError, needs
from edgewright.runtime.address import Address, flag, whole
from edgewright.runtime.capture import Pace, decoded, opened, plausible_rate
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.sources import SOURCES

__all__ = ["FileSource"]

_MISSING_FRAMES = 2
"""How many frames fewer than announced are no news: some writers count one or two that they never wrote."""
_MOST_FRAMES = 1e9


@SOURCES.register("file")
class FileSource(Source):
    """A video file's frames: uint8 (height, width, 3), BGR.

    Where the video changes its size, frames are as OpenCV gives them, and it does not say: OpenCV 5 scales to the first
    size, 4.6 repeats the last image before the change.

    Args:
        path: the file.
        threads: that decode; 0 leaves the number to OpenCV, which takes all cores; None begins with one, and the stream asks for
            more (`decode_on`) where decoding is what it waits for.
        loop: begin again at the end; `recorded_ns` goes on rising.
        realtime: give frames at the file's own rate, and skip those that were due while nobody asked, as a camera does.

    Raises:
        SourceError: there is no such file, or nothing in it can be decoded.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "image"

    def __init__(self, path: Path, *, threads: int | None = None, loop: bool = False, realtime: bool = False) -> None:
        if not path.is_file():
            raise SourceError(f"there is no video file {path}", hint="see whether the path is right, seen from this folder")
        self._path, self._loop, self.live = path, loop, realtime
        self.decode_threads, self.adapts = 1 if threads is None else threads, threads is None
        self._busy, self._closed = threading.Lock(), threading.Event()
        self.skipped = 0
        self._index = self._lap_place = self._place = 0
        self._lap_ns = self._recorded_ns = 0
        self._announced: int | None = None
        self._open()
        rate = plausible_rate(self._capture)
        self.period_s = 1 / rate if rate else None
        self.size = None if loop or realtime else self._announced
        if realtime and not self.period_s:
            self._capture.release()
            raise SourceError(f"{path} does not tell its frame rate", hint="leave realtime=yes away")
        self._pace = Pace(self.period_s) if realtime and self.period_s else None

    @classmethod
    def of(cls, address: Address) -> FileSource:
        """See `Source.of`: `file:clip.mp4?threads=1&loop=no&realtime=no`."""
        return cls(Path(address.target), **address.options(threads=whole(0, 64), loop=flag, realtime=flag))

    def read(self, into: Array | None = None) -> Frame | None:
        """See `Source.read`.

        Raises:
            SourceError: the file cannot be opened once more to begin again.
        """
        if self._closed.is_set():
            return None
        missed = self._pace.wait(self._place, self._closed) if self._pace else 0
        with self._busy:
            while not self._closed.is_set():
                if missed and self._grab():
                    self._grabbed, missed = False, missed - 1
                    self._place, self._lap_place, self.skipped = self._place + 1, self._lap_place + 1, self.skipped + 1
                elif self._grab() and (image := decoded(self._capture, into, grabbed=True, name=str(self._path))) is not None:
                    return self._frame(image)
                elif not self._begin_again():
                    return None
        return None

    def decode_on(self, threads: int) -> None:
        """Go on with another number of decoding threads; the next frame is the one that would have come.

        Raises:
            SourceError: the file cannot be opened once more.
        """
        with self._busy:
            if self._closed.is_set():
                return
            self.decode_threads = threads
            self._capture.release()
            self._open()
            for _ in range(self._lap_place):
                self._grabbed = bool(self._capture.grab())

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()
        if self._busy.acquire(timeout=0.5):
            self._capture.release()
            self._busy.release()

    def _open(self) -> None:
        with needs("video"):
            import cv2
        try:
            # Any other backend only where there is no FFmpeg: GStreamer hangs in a file that was cut off.
            there = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
            backend, threads = (cv2.CAP_FFMPEG, self.decode_threads or 0) if there else (cv2.CAP_ANY, 0)
            self._capture = opened(str(self._path), backend, threads=threads)
            self._grabbed = bool(self._capture.grab())
        except SourceError as error:
            raise SourceError(f"{self._path} cannot be opened as a video: {error}", hint=self._hint()) from error
        if not self._grabbed:
            self._capture.release()
            raise SourceError(f"{self._path} opens as a video, but not one frame of it can be decoded", hint=self._hint())
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._announced = round(announced) if 0 < announced < _MOST_FRAMES else None

    def _hint(self) -> str:
        size = self._path.stat().st_size if self._path.is_file() else 0
        return f"it has {size} bytes: copy it again if it was cut off, or convert it to H.264 in MP4"

    def _grab(self) -> bool:
        """Have a frame grabbed, if there is one."""
        self._grabbed = self._grabbed or bool(self._capture.grab())
        return self._grabbed

    def _frame(self, image: Array) -> Frame:
        import cv2

        captured_ns = time.monotonic_ns()
        position_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        by_place_ns = round(self._lap_place * (self.period_s or 0) * 1e9)
        # Containers without time stamps say 0 for each frame, broken ones go back.
        recorded_ns = self._lap_ns + (position_ns if position_ns > 0 or not self._lap_place else by_place_ns)
        self._recorded_ns = max(recorded_ns, self._recorded_ns)
        self._grabbed = False
        self._index, self._place, self._lap_place = self._index + 1, self._place + 1, self._lap_place + 1
        return Frame(image, self._index - 1, captured_ns, self._recorded_ns)

    def _begin_again(self) -> bool:
        """At the end: tell if it came early, and open the file again if it loops; False if that was all."""
        first_lap = self._place == self._lap_place
        if first_lap and self._announced and self._lap_place + _MISSING_FRAMES < self._announced:
            self.tell(
                f"{self._path} ends after {self._lap_place} frames, it announces {self._announced}: it is cut off or broken there"
            )
        self._capture.release()
        if not self._loop:
            self._closed.set()
            return False
        if not self._lap_place:
            raise SourceError(f"{self._path} gave 0 frames when it began again, {self._index} came before", hint=self._hint())
        self._open()
        self._lap_place, self._lap_ns = 0, self._recorded_ns + round((self.period_s or 0) * 1e9)
        return True
