"""Wall time and memory of converting MobileNetV2-224 to int8 TFLite, against a plain TFLiteConverter script.

Both sides start from the same .keras file and the same 100 samples and write an int8 file with int8 inputs and outputs. They
run in turn as whole processes in the same environment. The plain script does not compare its file with the model, so ours
runs with --no-verify; a third row shows the default, which does. Memory is the largest peak of any one process of each
side's tree. The files' signal-to-quantization-noise ratio against the Keras model over 20 samples stands beside them, so
that speed is not bought with quality. Prints a Markdown table.

    .venv/bin/python perf/convert.py [--runs 5] [--work FOLDER] [--check]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from models import write_mobilenet

from edgewright.benchmarks.fidelity import sqnr_db
from edgewright.worker import ENVIRONMENT

WALL_LIMIT = 0.65
CHECKED_SAMPLES = 20
POLL_S = 0.02

PLAIN_SCRIPT = """\
import sys

import keras
import numpy as np
import tensorflow as tf

model_path, samples_path, out = sys.argv[1:]
model = keras.models.load_model(model_path)
samples = np.load(samples_path)["image"]


def representative_dataset():
    for sample in samples:
        yield [sample[None]]


converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = representative_dataset
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = tf.int8
converter.inference_output_type = tf.int8
data = converter.convert()
with open(out, "wb") as file:
    file.write(data)
"""


@dataclass
class Side:
    """One of the two ways to convert, and what its runs took.

    Args:
        name: what the table calls it.
        command: the process to run.
        out: the file that it writes.
        seconds: wall time of each run.
        peaks: bytes of the largest process of each run.
        peak_names: which process that was, of each run.
    """

    name: str
    command: Sequence[str]
    out: Path
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    peak_names: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run the process once and note what it took.

        Raises:
            RuntimeError: it failed, or wrote no file.
        """
        self.out.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as log:
            begin = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
            peaks: dict[int, tuple[int, str]] = {}
            while process.poll() is None:
                _note_peaks(process.pid, peaks)
                time.sleep(POLL_S)
            self.seconds.append(time.perf_counter() - begin)
            if process.returncode or not self.out.is_file():
                log.seek(0)
                raise RuntimeError(f"{self.name} failed ({process.returncode}):\n{log.read().decode(errors='replace')[-3000:]}")
        peak, name = max(peaks.values())
        self.peaks.append(peak)
        self.peak_names.append(name)


def _note_peaks(root: int, peaks: dict[int, tuple[int, str]]) -> None:
    """Note the resident high-water mark of a process and all its descendants (Linux)."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        folder = Path(f"/proc/{pid}")
        try:
            waiting += [int(child) for task in (folder / "task").iterdir() for child in (task / "children").read_text().split()]
            status = (folder / "status").read_text(encoding="ascii", errors="replace")
            name = "parent" if pid == root else "child"
        except OSError:
            continue
        size = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
        peaks[pid] = max(peaks.get(pid, (0, name)), (size, name))


def prepare(folder: Path) -> None:
    """Write model, samples and the model's outputs for the first samples; files that exist are kept."""
    model_path, samples_path = write_mobilenet(folder)
    if not (folder / "reference.npy").exists():
        import keras

        model = keras.models.load_model(model_path)
        with np.load(samples_path) as arrays:
            np.save(folder / "reference.npy", model.predict(arrays["image"][:CHECKED_SAMPLES], verbose=0))


def quality_db(file: Path, folder: Path) -> float:
    """Signal-to-quantization-noise ratio of an int8 file against the Keras model, in dB."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    reference = np.load(folder / "reference.npy")
    with np.load(folder / "mobilenet_v2_224.npz") as arrays:
        samples = arrays["image"][: len(reference)]
    outputs = []
    for sample in samples:
        interpreter.set_tensor(source["index"], _quantized(sample[None], source))
        interpreter.invoke()
        scale, zero = result["quantization"]
        outputs.append((interpreter.get_tensor(result["index"])[0].astype(np.float32) - zero) * scale)
    return sqnr_db(reference, np.stack(outputs))


def _quantized(sample: Any, detail: Any) -> Any:
    scale, zero = detail["quantization"]
    if detail["dtype"] != np.int8:
        raise RuntimeError(f"input '{detail['name']}' is {detail['dtype'].__name__}, int8 was asked for")
    return np.clip(np.round(sample / scale) + zero, -128, 127).astype(np.int8)


def sides(folder: Path) -> list[Side]:
    """The plain script, ours without and ours with verification."""
    model, samples = str(folder / "mobilenet_v2_224.keras"), str(folder / "mobilenet_v2_224.npz")
    script, plain, ours = folder / "plain.py", folder / "plain.tflite", folder / "ours.tflite"
    script.write_text(PLAIN_SCRIPT, encoding="utf-8")
    cli = str(Path(sys.executable).with_name("edgewright"))
    options = ["-o", str(ours), "--to", "tflite", "--precision", "int8", "--io", "int8", "--samples", samples]
    return [
        Side("plain TFLiteConverter.from_keras_model script", [sys.executable, str(script), model, samples, str(plain)], plain),
        Side("edgewright convert --no-verify", [cli, "convert", model, *options, "--no-verify"], ours),
        Side("edgewright convert", [cli, "convert", model, *options], ours),
    ]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def report(compared: Sequence[Side], folder: Path) -> tuple[float, float]:
    """Print the table; returns the second side's ratios of wall time and of memory to the first's."""
    print(f"| route, median of {len(compared[0].seconds)} (range) | wall, s | largest process, MB | file, bytes | SQNR, dB |")
    print("|---|---|---|---|---|")
    for side in compared:
        wall, memory = _spread(side.seconds, ".2f"), _spread([peak / 1e6 for peak in side.peaks], ".0f")
        size, quality = side.out.stat().st_size, quality_db(side.out, folder)
        print(f"| {side.name} | {wall} | {memory}, {statistics.mode(side.peak_names)} | {size:,} | {quality:.1f} |")
    first, second = compared[:2]
    wall_ratio = statistics.median(second.seconds) / statistics.median(first.seconds)
    memory_ratio = statistics.median(second.peaks) / statistics.median(first.peaks)
    print(f"| second to first (limits {WALL_LIMIT:g} and 1) | {wall_ratio:.3f} | {memory_ratio:.3f} | | |")
    return wall_ratio, memory_ratio


def main() -> int:
    """Prepare, run both sides in turn, print the table; with --check exit 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default 5)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-convert", help="where files stay")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is passed")
    parser.add_argument(
        "--prepare", action="store_true", help="only write model and samples (run in a child, it needs TensorFlow)"
    )
    args = parser.parse_args()
    if args.prepare:
        prepare(args.work)
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--prepare", "--work", str(args.work)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    compared = sides(args.work)
    for index in range(args.runs):
        for side in compared:
            side.run()
            print(
                f"run {index + 1}: {side.name} {side.seconds[-1]:.2f} s {side.peaks[-1] / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    wall, memory = report(compared, args.work)
    return 1 if args.check and (wall > WALL_LIMIT or memory > 1.0) else 0


if __name__ == "__main__":
    sys.exit(main())
