"""Frames of a camera or server that sends JPEG images over HTTP, one after the other (MJPEG)."""

from __future__ import annotations

from typing import Any

from edgewright.errors import needs
from edgewright.runtime.address import Address, positive, whole
from edgewright.runtime.capture import OPEN_S, Link, LiveSource, from_network, without_password
from edgewright.runtime.mjpeg import connected
from edgewright.runtime.sources import SOURCES

__all__ = ["HttpSource"]


@SOURCES.register("http")
class HttpSource(LiveSource):
    """The newest frame of an MJPEG stream: uint8 (height, width, 3), BGR.

    Images that are not whole are left out and counted. A stream that breaks off or falls silent is told by name and connected
    to again after 0.5 s, then 1, 2, 4 and 8 s.

    Args:
        url: http:// or https://; a user and password in it are kept out of messages.
        silence_s: seconds without a frame after which it counts as silent; more than the server's slowest frame takes.
        retries: reconnections in a row without a frame before it is given up; None never gives up.

    Raises:
        SourceError: it cannot be opened at first.
    """

    def __init__(self, url: str, *, silence_s: float = 2.0, retries: int | None = None) -> None:
        with needs("video"):
            import cv2  # noqa: F401 - missing, it is to be told here and not in the thread that reads
        hint = "see in a browser whether the address shows moving images"

        def capture() -> Any:
            return connected(url, OPEN_S, silence_s + 1.0) or from_network(url, silence_s, "")

        super().__init__(Link(without_password(url), capture, silence_s, retries, hint=hint))
        # MJPEG has no rate: FFmpeg says 25 whatever is sent.
        self.period_s = None

    @classmethod
    def of(cls, address: Address) -> HttpSource:
        """See `Source.of`: `http://host/video#timeout=2&retries=10`; settings stand behind #, ? is the server's."""
        settings = address.options(timeout=positive, retries=whole())
        return cls(address.target, silence_s=settings.get("timeout", 2.0), retries=settings.get("retries"))
