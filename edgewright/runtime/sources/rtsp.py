"""Frames of a network camera or server that speaks RTSP."""

from __future__ import annotations

from edgewright.errors import needs
from edgewright.runtime.address import Address, one_of, positive, whole
from edgewright.runtime.capture import Link, LiveSource, from_network, without_password
from edgewright.runtime.sources import SOURCES

__all__ = ["RtspSource"]

_ANALYZE_US = 200_000
"""How much of the stream FFmpeg looks at before it opens: its own 5 s make opening take a second longer."""


@SOURCES.register("rtsp")
class RtspSource(LiveSource):
    """The newest frame of an RTSP stream: uint8 (height, width, 3), BGR.

    A stream that breaks off or falls silent is told by name and connected to again after 0.5 s, then 1, 2, 4 and 8 s.

    Args:
        url: rtsp:// or rtsps://; a user and password in it are kept out of messages.
        transport: "tcp" or "udp".
        silence_s: seconds without a frame after which it counts as silent.
        retries: reconnections in a row without a frame before it is given up; None never gives up.

    Raises:
        SourceError: it cannot be opened at first.
    """

    def __init__(self, url: str, *, transport: str = "tcp", silence_s: float = 2.0, retries: int | None = None) -> None:
        with needs("video"):
            import cv2  # noqa: F401 - missing, it is to be told here and not in the thread that reads
        options = f"rtsp_transport;{transport}|analyzeduration;{_ANALYZE_US}"
        hint = "see whether the server runs, the path is right, and whether it wants a user and password (rtsp://user:password@host/)"
        name = without_password(url)
        super().__init__(Link(name, lambda: from_network(url, silence_s, options), silence_s, retries, hint=hint))

    @classmethod
    def of(cls, address: Address) -> RtspSource:
        """See `Source.of`: `rtsp://host/path#timeout=2&transport=tcp&retries=10`; settings stand behind #, ? is the server's."""
        settings = address.options(timeout=positive, transport=one_of("tcp", "udp"), retries=whole())
        return cls(
            address.target,
            transport=settings.get("transport", "tcp"),
            silence_s=settings.get("timeout", 2.0),
            retries=settings.get("retries"),
        )
