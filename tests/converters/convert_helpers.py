"""What the tests of conversion share: samples and answers of the models, other people's engines, signal to noise."""

import json
import platform
from pathlib import Path

import numpy as np

NARROW = "weights have 7 of 8 bits"
"""How the note begins that OpenVINO's int8 files have on CPUs whose int8 sums saturate."""


def has_vnni():
    """Whether this CPU multiplies 8-bit integers exactly; without, OpenVINO's int8 is some dB noisier."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return "x86" not in platform.machine() or "vnni" in flags or "amx_int8" in flags


LEVELS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


def known(folder, name):
    """Samples by input and Keras' own outputs by name, in the model's order."""
    with np.load(folder / f"{name}.npz") as found:
        feeds = {key[3:]: found[key] for key in found if key.startswith("in:")}
        return feeds, {key[4:]: found[key] for key in found if key.startswith("out:")}


def sqnr(wanted, found):
    """Signal to quantization noise in dB over all values; infinite where nothing differs."""
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    noise = np.square(wanted - found).sum()
    return np.inf if noise == 0 else 10 * np.log10(np.square(wanted).sum() / noise)


def encoded(spec, values):
    if spec.scale is None:
        return values.astype(spec.dtype)
    least, most = LEVELS[spec.dtype]
    return np.clip(np.rint(values / spec.scale) + spec.zero_point, least, most).astype(spec.dtype)


def decoded(spec, values):
    assert values.dtype == spec.dtype
    return values if spec.scale is None else (values.astype(np.float64) - spec.zero_point) * spec.scale


def run(artifact, feeds, batch=1):
    """Outputs of a written file by name over all samples, decoded with the artifact's own scales."""
    call = (_litert if artifact.format == "tflite" else _openvino)(artifact)
    count = len(next(iter(feeds.values())))
    results = {spec.name: [] for spec in artifact.outputs}
    for at in range(0, count, batch):
        given = {spec.name: encoded(spec, feeds[spec.name][at : at + batch]) for spec in artifact.inputs}
        for spec, values in zip(artifact.outputs, call(given), strict=True):
            results[spec.name].append(decoded(spec, values))
    return {name: np.concatenate(values) for name, values in results.items()}


def _litert(artifact):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact.path))
    runner = interpreter.get_signature_runner()

    def call(given):
        found = runner(**given)
        assert set(found) == {spec.name for spec in artifact.outputs}
        return [found[spec.name] for spec in artifact.outputs]

    return call


def _openvino(artifact):
    import openvino as ov

    compiled = ov.Core().compile_model(str(artifact.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def call(given):
        found = compiled([given[spec.name] for spec in artifact.inputs])
        return [found[index].copy() for index in range(len(artifact.outputs))]

    return call


def borders(path):
    """(name, dtype, scale, zero point) of inputs and outputs as another library reads them from the file."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        runner = interpreter.get_signature_runner()
        found = [*runner.get_input_details().items(), *runner.get_output_details().items()]
        return {
            (name, np.dtype(detail["dtype"]).name, *(detail["quantization"] if detail["quantization"][0] else (None, None)))
            for name, detail in found
        }
    import openvino as ov

    model = ov.Core().read_model(str(path))
    scales = json.loads(str(model.get_rt_info(["edgewright", "io"]).astype(str)))
    return {
        (name, np.dtype(port.get_element_type().to_dtype()).name, *(scales[name].values() if name in scales else (None, None)))
        for port in [*model.inputs, *model.outputs]
        for name in port.get_names()
    }
