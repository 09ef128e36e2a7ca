"""Inference engines: one file each, named as the user names the engine; the only places that execute models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewright.registry import Kind

if TYPE_CHECKING:
    from edgewright.runtime.session import Session

__all__ = ["ENGINES"]

ENGINES: Kind[Session] = Kind("engine", "edgewright.runtime.engines")
