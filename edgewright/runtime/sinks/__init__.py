"""Sinks for results: one file each, named as an address names them."""

from __future__ import annotations

from edgewright.registry import Kind
from edgewright.runtime.address import Address, parse_address
from edgewright.runtime.frames import Sink

__all__ = ["SINKS", "open_sink"]

SINKS: Kind[Sink] = Kind("sink", "edgewright.runtime.sinks")


def open_sink(address: str) -> Sink:
    """Open a sink by its address, for example `out.jsonl`, `video:seen.ts`, `mqtt://host/topic` or `-` for standard output.

    Raises:
        PluginError: there is no sink of this kind.
        SinkError, UsageError, MissingPackageError: see `Sink.of`.
    """
    parsed = parse_address(address)
    if parsed.text == "-":
        parsed = Address("stdout", "-", {}, "-")
    elif parsed.scheme == "file" and not address.startswith("file:"):
        parsed = Address("video", parsed.target, parsed.settings, parsed.text)
    return SINKS.get(parsed.scheme).of(parsed)
