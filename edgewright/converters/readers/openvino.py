"""Reads OpenVINO IR (.xml and .bin): parsed by OpenVINO, never compiled or run."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from edgewright.artifact import TensorSpec, deflated_bytes, looks_like, raw_bytes
from edgewright.converters.macs import MacCount
from edgewright.converters.model_info import ModelInfo, corrupt, reading
from edgewright.converters.openvino_graph import ELEMENT_TYPES, nodes_of, ov_macs, ov_weights
from edgewright.converters.openvino_xml import check_ir
from edgewright.converters.readers import READERS
from edgewright.errors import needs

__all__ = ["OpenVinoReader"]


@READERS.register("openvino")
class OpenVinoReader:
    """An OpenVINO IR: an .xml file and, where it has weights, the .bin file of the same name beside it.

    Libraries with ops of third parties are never loaded.

    Args:
        path: the .xml file.
        trust: ignored, the format carries no code.
        custom: ignored.

    Raises:
        ModelError: a file is corrupt, truncated, or the .bin file is missing.
        UnsupportedError: an op is not of OpenVINO's own opsets.
    """

    format: ClassVar[str] = "openvino"
    consumes_code: ClassVar[bool] = False

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        self.path = path
        with reading(path):
            check_ir(path)
            self._model = _core().read_model(path)
            if not self._model.outputs:
                raise corrupt(path, "it has no output")
            self.specs()

    @staticmethod
    def sniff(path: Path) -> bool:
        """Whether the file is XML with a `net` element."""
        return looks_like(path) == "openvino"

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in the model's order.

        A tensor may have several names: the one that the model's rt_info `edgewright/names` has in its place
        ({"inputs": [..], "outputs": [..]}), else the shortest, of those the first in the alphabet, else the node's
        name. Scale and zero point are those of rt_info `edgewright/io` ({name: {"scale": .., "zero_point": ..}}).
        """
        names = self._rt_info("names")
        scales = self._rt_info("io")
        inputs = _names(self._model.inputs, names.get("inputs"))
        outputs = _names(self._model.outputs, names.get("outputs"))
        return (
            tuple(_spec(port, name, scales) for port, name in zip(self._model.inputs, inputs, strict=True)),
            tuple(_spec(port, name, scales) for port, name in zip(self._model.outputs, outputs, strict=True)),
        )

    def preprocess(self) -> dict[str, Any]:
        """The preprocessing that Edgewright stored in the file, by input name; empty if there is none."""
        return dict(self._rt_info("meta").get("preprocess") or {})

    def info(self) -> ModelInfo:
        """All that `inspect` shows; ops of loop bodies are counted once."""
        with reading(self.path):
            inputs, outputs = self.specs()
            weights, parameters = ov_weights(self._model)
            macs, macs_note = self._macs(inputs, outputs)
            skipped = {"Parameter", "Result", "Constant"}
            ops = Counter(kind for node in nodes_of(self._model) if (kind := node.get_type_name()) not in skipped)
            fake = ops.get("FakeQuantize", 0)
            notes = [f"{fake} FakeQuantize ops: a device that can runs what is between them in int8"] if fake else []
            return ModelInfo(
                format=self.format,
                inputs=inputs,
                outputs=outputs,
                ops=dict(sorted(ops.items())),
                weights=weights,
                parameters=parameters,
                macs=macs,
                macs_note=macs_note,
                raw_bytes=raw_bytes(self.path),
                deflated_bytes=deflated_bytes(self.path),
                notes=tuple(notes),
            )

    def _macs(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> tuple[int | None, str]:
        count = MacCount()
        model = self._model
        if any(size is None for spec in inputs for size in spec.shape):
            try:
                model = model.clone()
                model.reshape({at: [1 if size is None else size for size in spec.shape] for at, spec in enumerate(inputs)})
            except RuntimeError as error:
                return None, f"the model does not take free sizes as 1: {str(error).strip().splitlines()[-1][:200]}"
        ov_macs(model, count)
        return count.result(inputs, outputs)

    def _rt_info(self, key: str) -> dict[str, Any]:
        """A JSON object from the model's rt_info `edgewright/<key>`, empty if there is none."""
        path = ["edgewright", key]
        if not self._model.has_rt_info(path):
            return {}
        found = json.loads(self._model.get_rt_info(path).astype(str))
        if not isinstance(found, dict):
            raise corrupt(self.path, f"its rt_info edgewright/{key} is no JSON object")
        return found


def _core() -> Any:
    """An OpenVINO Core, without the telemetry that OpenVINO's import sends where its package is installed."""
    with needs("openvino"):
        if "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
            try:
                import openvino
            finally:
                del sys.modules["openvino_telemetry"]
        else:
            import openvino
    return openvino.Core()


def _names(ports: Any, chosen: Any) -> list[str]:
    """One name per port, see `OpenVinoReader.specs`."""
    chosen = chosen if isinstance(chosen, list) and len(chosen) == len(ports) else [None] * len(ports)
    found = []
    for port, wanted in zip(ports, chosen, strict=True):
        names = sorted(port.get_names(), key=lambda name: (len(name), name))
        own = names[0] if names else port.get_node().get_friendly_name()
        found.append(wanted if wanted in names else own)
    return found


def _spec(port: Any, name: str, scales: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(dim.get_length()) if dim.is_static else None for dim in port.get_partial_shape())
    kind = port.get_element_type().to_string()
    entry = scales.get(name) or {}
    scale, zero = entry.get("scale"), entry.get("zero_point", 0)
    if scale is None:
        return TensorSpec(name, shape, ELEMENT_TYPES.get(kind, kind))
    return TensorSpec(name, shape, ELEMENT_TYPES.get(kind, kind), float(scale), int(zero))
