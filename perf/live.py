"""A live source that is faster than the model: ages of results, the account of all frames, and memory over a long run.

A synthetic 25 fps camera feeds a convolutional network that takes about 200 ms; the default policy for live sources keeps the
newest frame. Printed: the model's period, the age of results, what became of every frame, and the slope of memory.

    .venv/bin/python perf/live.py [--minutes 30] [--source synthetic:image?rate=25] [--work DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edgewright.preprocess import Preprocess
from edgewright.runtime import stream

_MAKE = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
keras.utils.set_random_seed(0)
image = keras.Input((224, 224, 3), batch_size=1, name="image")
x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(image)
for _ in range(LAYERS):
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
keras.Model(image, keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))).save(sys.argv[1])
"""
DECLARED = "size=224x224,color=rgb,scale=1/255"


def model_of(work: Path, layers: int) -> Path:
    """A float32 .tflite file of so many convolutions of 1.85 billion multiply-adds each."""
    file = work / f"slow_{layers}.tflite"
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        keras = work / f"slow_{layers}.keras"
        subprocess.run([sys.executable, "-c", _MAKE.replace("LAYERS", str(layers)), str(keras)], check=True)
        subprocess.run([sys.executable, "-m", "edgewright.cli", "convert", keras, "-o", file], check=True)
    return file


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--source", default="synthetic:image?rate=25")
    parser.add_argument("--layers", type=int, default=12, help="convolutions: more are slower")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-live")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with stream(model_of(args.work, args.layers), args.source, preprocess=Preprocess.parse(DECLARED)) as running:
        timer = running.stop_after(60 * args.minutes)
        for _ in running:
            pass
        timer.cancel()
    account = running.summary()
    (lane,) = account["sources"].values()
    used, age, infer = account["resources"], lane["age"], lane["stages"]["infer"]
    classes = {name: lane[name] for name in ("done", "late", "failed")} | {f"dropped, {k}": n for k, n in lane["dropped"].items()}
    total = sum(classes.values())
    slope = used["rss_slope_bytes_per_minute"]
    lines = [
        f"| {args.source} | {account['seconds'] / 60:.1f} min |",
        "|---|---:|",
        f"| model period, p50 / p99 | {infer['p50_ms']:.0f} / {infer['p99_ms']:.0f} ms |",
        f"| age of results, p50 / p99 / largest | {age['p50_ms']:.0f} / {age['p99_ms']:.0f} / {age['max_ms']:.0f} ms |",
        f"| p99 age in model periods (p50) | {age['p99_ms'] / infer['p50_ms']:.2f} |",
        f"| captured | {lane['captured']:,} |",
        *(f"| {name} | {count:,} |" for name, count in classes.items()),
        f"| adds up | {'yes' if total == lane['captured'] and not lane['waiting'] else f'no: {total:,}'} |",
        f"| memory at most | {used['peak_rss_bytes'] / 1e6:.1f} MB |",
        f"| slope of memory, second half | {'too short' if slope is None else f'{slope / 1e3:+.1f} kB/min'} |",
    ]
    print("\n".join(lines))
    if account["events"]:
        print("\n" + json.dumps(account["events"], indent=1))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
