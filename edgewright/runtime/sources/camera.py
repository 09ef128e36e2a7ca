"""Frames of a camera at this machine."""

from __future__ import annotations

import sys
from typing import Any

from edgewright.errors import needs
from edgewright.runtime.address import Address, positive, whole
from edgewright.runtime.capture import Link, LiveSource, opened
from edgewright.runtime.sources import SOURCES

__all__ = ["CameraSource"]


@SOURCES.register("camera")
class CameraSource(LiveSource):
    """The newest frame of a camera: uint8 (height, width, 3), BGR; a camera that was unplugged is waited for.

    Args:
        device: its number, or on Linux a path as /dev/video0.
        width: of the image in pixels; a camera that cannot do it gives the nearest that it can, which is told.
        height: as `width`.
        rate_hz: frames per second that it is asked for.
        silence_s: seconds without a frame after which it is opened again.
        retries: attempts in a row before it is given up; None never gives up.

    Raises:
        SourceError: there is no such camera, or another program uses it.
    """

    def __init__(
        self,
        device: int | str,
        *,
        width: int | None = None,
        height: int | None = None,
        rate_hz: float | None = None,
        silence_s: float = 2.0,
        retries: int | None = None,
    ) -> None:
        with needs("video"):
            import cv2
        asked = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: rate_hz}
        asked = {key: value for key, value in asked.items() if value}
        given: dict[int, float] = {}

        def capture() -> Any:
            backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
            camera = opened(device, backend)
            for key, value in {**asked, cv2.CAP_PROP_BUFFERSIZE: 1}.items():
                camera.set(key, value)
            given.update({key: camera.get(key) for key in asked})
            return camera

        hint = "see which there are (Linux: ls /dev/video*), that no other program uses it and that you may read it (group video)"
        super().__init__(Link(f"camera {device}", capture, silence_s, retries, hint=hint))
        names = {cv2.CAP_PROP_FRAME_WIDTH: "width", cv2.CAP_PROP_FRAME_HEIGHT: "height", cv2.CAP_PROP_FPS: "rate"}
        others = [f"{names[key]} {given[key]:g} (asked for: {value:g})" for key, value in asked.items() if given[key] != value]
        self.notice = f"camera {device} gives {', '.join(others)}" if others else ""

    @classmethod
    def of(cls, address: Address) -> CameraSource:
        """See `Source.of`: `camera:0?width=640&height=480&rate=30&timeout=2&retries=10`."""
        settings = address.options(width=whole(), height=whole(), rate=positive, timeout=positive, retries=whole())
        device = address.target or "0"
        return cls(
            int(device) if device.isdecimal() else device,
            width=settings.get("width"),
            height=settings.get("height"),
            rate_hz=settings.get("rate"),
            silence_s=settings.get("timeout", 2.0),
            retries=settings.get("retries"),
        )
