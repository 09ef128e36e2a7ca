"""Compression passes, one file each: a Keras model in, a Keras model out."""

from __future__ import annotations

from edgewright.registry import Kind
from edgewright.step import Step

__all__ = ["PASSES"]

PASSES: Kind[Step] = Kind("pass", "edgewright.optimizers.passes")
