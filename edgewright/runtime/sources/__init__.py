"""Sources of frames and sensor samples: one file each, named as an address names them."""

from __future__ import annotations

from edgewright.registry import Kind
from edgewright.runtime.address import parse_address
from edgewright.runtime.frames import Source

__all__ = ["SOURCES", "open_source"]

SOURCES: Kind[Source] = Kind("source", "edgewright.runtime.sources")


def open_source(address: str) -> Source:
    """Open a source by its address, for example `file:clip.mp4`, `camera:0`, `rtsp://host/stream` or `csv:imu.csv?rate=50`.

    Raises:
        PluginError: there is no source of this kind.
        SourceError, UsageError, MissingPackageError: see `Source.of`.
    """
    parsed = parse_address(address)
    return SOURCES.get(parsed.scheme).of(parsed)
