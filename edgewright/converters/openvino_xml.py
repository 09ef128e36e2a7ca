"""Checks an OpenVINO IR before OpenVINO sees it: well-formed XML without entities, and weights where it says they are."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.parsers import expat

from edgewright.converters.model_info import corrupt
from edgewright.errors import ModelError, UnsupportedError

__all__ = ["check_ir"]

_OPSET = re.compile(r"(opset\d+|experimental|util|ie_internal_opset|type_relaxed_opset)?")


def check_ir(path: Path) -> None:
    """Check the XML of a model and that every constant lies within the .bin file beside it.

    Raises:
        ModelError: the XML is damaged, has a document type declaration, or the .bin file is missing or too short.
        UnsupportedError: an op is of a third party's opset, which would need a library of theirs.
    """
    scan = _Scan(path)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = scan.doctype
    parser.StartElementHandler = scan.element
    try:
        with path.open("rb") as handle:
            parser.ParseFile(handle)
    except expat.ExpatError as error:
        raise corrupt(path, f"XML: {error}") from error
    if scan.root != "net":
        raise corrupt(path, f"its root element is '{scan.root}', expected 'net'")
    if not scan.end:
        return
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(
            f"{path} needs its weights in {weights.name}, which is not beside it",
            hint=f"copy {weights.name} into {path.parent}",
        )
    size = weights.stat().st_size
    if scan.end > size:
        raise corrupt(weights, f"it has {size} bytes, {path.name} expects weights up to byte {scan.end}")


class _Scan:
    """Handlers of the XML parser: `end` is where the last constant's bytes end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = ""
        self.end = 0
        self.layer: dict[str, str] = {}

    def doctype(self, *_: Any) -> None:
        raise ModelError(
            f"{self.path} has a document type declaration, which OpenVINO never writes",
            hint="such XML can be made to exhaust memory; get the model from a source that you trust",
        )

    def element(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.root:
            self.root = tag
            if tag == "net" and attributes.get("version") not in {"10", "11"}:  # else OpenVINO tries its other front ends
                raise corrupt(self.path, f"its version is {attributes.get('version')}, expected 10 or 11")
        if tag == "layer":
            self.layer = attributes
            opset = attributes.get("version", "")
            if not _OPSET.fullmatch(opset):
                raise UnsupportedError(
                    f"{self.path} has the op '{attributes.get('type')}' of the opset '{opset}', which is not OpenVINO's own",
                    hint="ops of third parties need their library; export the model without them",
                )
        elif tag == "data" and self.layer.get("type") == "Const":
            self.constant(attributes)

    def constant(self, data: dict[str, str]) -> None:
        name = self.layer.get("name", "")
        try:
            offset, size = int(data["offset"]), int(data["size"])
            shape = [int(dim) for dim in data.get("shape", "").split(",") if dim.strip()]
        except (KeyError, ValueError) as error:
            raise corrupt(self.path, f"constant '{name}' has no valid offset, size and shape") from error
        if offset < 0 or size < 0 or any(dim < 0 for dim in shape):
            raise corrupt(self.path, f"constant '{name}' has a negative offset, size or shape")
        bits = _bits(data.get("element_type", ""))
        expected = (math.prod(shape) * bits + 7) // 8
        if bits and size != expected:
            raise corrupt(self.path, f"constant '{name}' of shape {shape} takes {expected} bytes, {size} are given")
        self.end = max(self.end, offset + size)


def _bits(element_type: str) -> int:
    """Bits per value, 0 if not known (strings, and types of newer releases)."""
    if element_type in {"i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "i4", "u4", "u1", "u2"}:
        return int(element_type[1:])
    return {"bf16": 16, "boolean": 8, "nf4": 4, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "f4e2m1": 4}.get(element_type, 0)
