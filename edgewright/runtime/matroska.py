"""A Matroska file of JPEG images that is whole after every frame: a killed process loses none, a full disk is an error."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["MatroskaWriter"]

_UNKNOWN = b"\x01" + b"\xff" * 7
"""Size of an element that ends with the file (RFC 8794, section 6.2)."""


class MatroskaWriter:
    """Writes Matroska (RFC 9559) with one track of codec V_MJPEG, a cluster per frame.

    Every frame goes to the operating system at once; the file can be played at any moment, and copied while it grows.

    Args:
        path: the file; what was there is replaced.
        size: (height, width) of all images in pixels.
        fps: frames per second; None: every frame comes with its time.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float | None) -> None:
        self._step_ms, self._next_ms, self._last_ms = 0.0 if fps is None else 1000 / fps, 0.0, -1
        self._shown_ms = 0.0
        self._file = path.open("wb", buffering=0)
        head = _element(
            0x1A45DFA3,
            _number(0x4286, 1) + _number(0x42F7, 1) + _number(0x42F2, 4) + _number(0x42F3, 8),
            _element(0x4282, b"matroska") + _number(0x4287, 4) + _number(0x4285, 2),
        )
        video = _element(0xE0, _number(0xB0, size[1]) + _number(0xBA, size[0]))
        track = _element(
            0xAE,
            _number(0xD7, 1) + _number(0x73C5, 1) + _number(0x83, 1) + _number(0x9C, 0),
            (b"" if fps is None else _number(0x23E383, round(1e9 / fps))) + _element(0x86, b"V_MJPEG") + video,
        )
        about = _number(0x2AD7B1, 1_000_000) + _element(0x4D80, b"Edgewright") + _element(0x5741, b"Edgewright")
        void = _element(0xEC, bytes(9))  # as long as the duration that `close` writes over it
        segment = bytes.fromhex("18538067") + _UNKNOWN
        self._segment = len(head) + 4
        info = _element(0x1549A966, void, about)
        self._duration = len(head) + len(segment) + len(info) - len(void) - len(about)
        self._end = 0
        try:
            self._append(head + segment + info + _element(0x1654AE6B, track))
        except OSError:
            self._file.close()
            raise

    def write(self, jpeg: bytes, at_ms: float | None = None) -> None:
        """Append one frame.

        Args:
            jpeg: an image as a JPEG file holds it, of the declared size.
            at_ms: its time in milliseconds, moved to one behind the frame before if it is earlier; None: a period behind that.

        Raises:
            OSError: the disk is full or gone; the frames before are whole, and a later call may succeed.
        """
        exact_ms = max(self._next_ms if at_ms is None else at_ms, self._last_ms + 1)
        time_ms = round(exact_ms)
        block = _element(0xA3, b"\x81\x00\x00\x80" + jpeg)  # track 1, 0 ms after its cluster, a key frame
        self._append(_element(0x1F43B675, _number(0xE7, time_ms) + block))
        self._last_ms, self._next_ms = time_ms, exact_ms + (self._step_ms or exact_ms - self._shown_ms)
        self._shown_ms = exact_ms

    def close(self) -> None:
        """Write size and duration into the head; twice is allowed.

        Raises:
            OSError: they cannot be written; the file can be played all the same.
        """
        if self._file.closed:
            return
        with self._file:
            self._file.seek(self._segment)
            self._file.write(struct.pack(">Q", (1 << 56) | (self._end - self._segment - 8)))
            self._file.seek(self._duration)
            self._file.write(_element(0x4489, struct.pack(">d", self._next_ms)))

    def _append(self, data: bytes) -> None:
        """All of it or nothing."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end += len(data)


def _element(name: int, *data: bytes) -> bytes:
    """Name, size and content of an element (RFC 8794, section 3)."""
    content = b"".join(data)
    size = len(content)
    length = next(count for count in range(1, 9) if size < (1 << 7 * count) - 1)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (size | 1 << 7 * length).to_bytes(length, "big") + content


def _number(name: int, value: int) -> bytes:
    return _element(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))
