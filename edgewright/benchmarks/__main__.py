"""`python -m edgewright.benchmarks bench MODEL`: one measurement, with NumPy and an engine; `meters`: what can be metered."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.bench_settings import DEFAULTS
from edgewright.benchmarks.latency import measure
from edgewright.errors import EdgewrightError
from edgewright.runtime import ENGINES

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgewright.benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    bench = verbs.add_parser("bench", help="load a model here and time it once")
    bench.add_argument("model", help="a .tflite, .onnx or OpenVINO .xml file")
    bench.add_argument("--engine", help=f"one of {', '.join(ENGINES.names())}; default: by the file's format")
    bench.add_argument("--threads", type=int, default=1, help="threads of one call (default 1)")
    bench.add_argument("--exact", action="store_true", help="float32 even where the engine prefers a lower precision")
    bench.add_argument("--json", action="store_true", help="print one JSON object, with every latency, instead of text")
    bench.add_argument("--profile", action="store_true", help="time every op too, in runs of their own")
    bench.add_argument(
        "--meter", default=DEFAULTS.meter, help=f"a power meter NAME[:OPTION], auto or none (default {DEFAULTS.meter})"
    )
    bench.add_argument("--marker", action="store_true", help="begin and end the metered inferences with a pattern of load")
    bench.add_argument("--while-heard", action="store_true", help="end when standard input does: whoever asked is gone")
    for flag, name, kind, default, what in _NUMBERS:
        bench.add_argument(flag, dest=name, type=kind, default=default, help=f"{what} (default {default:g})")
    meters = verbs.add_parser("meters", help="list the power meters, and why one cannot be read here")
    meters.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    for verb in (bench, meters):
        verb.add_argument("--meter-root", default=DEFAULTS.meter_root, help="folder that stands for / (default /)")
    return parser


_NUMBERS: tuple[tuple[str, str, type, float, str], ...] = (
    ("--warmup", "warmup_s", float, 0.3, "seconds of inferences before the timed ones"),
    ("--duration", "duration_s", float, DEFAULTS.duration_s, "seconds of timed inferences"),
    ("--min-runs", "min_runs", int, 50, "timed inferences at least"),
    ("--max-runs", "max_runs", int, 20000, "timed inferences at most"),
    ("--idle-gaps", "idle_gaps", int, DEFAULTS.idle_gaps, "single inferences after idle gaps"),
    ("--gap-ms", "gap_ms", float, DEFAULTS.gap_ms, "milliseconds of an idle gap"),
    ("--energy-seconds", "energy_s", float, DEFAULTS.energy_s, "seconds of inferences under the meter"),
    ("--baseline-seconds", "baseline_s", float, DEFAULTS.baseline_s, "seconds of idling under the meter, before and behind"),
    ("--seed", "seed", int, 0, "of the random inputs"),
)
"""Options that go to `measure` as they are: flag, name, type, default, what it is."""


def _bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the arguments say."""
    if args.while_heard:
        threading.Thread(target=_end_with_input, name="hear", daemon=True).start()
    plain = ("engine", "threads", "exact", "profile", "meter", "meter_root", "marker")
    return measure(args.model, **{name: getattr(args, name) for name in (*plain, *(number[1] for number in _NUMBERS))})


def _end_with_input() -> None:
    """End the process, whatever it does, when its standard input ends."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _meters(args: argparse.Namespace) -> dict[str, Any]:
    """Every meter by name: whether it can be read below the root, else why not, and whether it stands beside the board."""
    from edgewright.benchmarks.power import METERS

    found = []
    for name in METERS.names():
        try:
            meter = METERS.get(name)
            why = meter.available(Path(args.meter_root))
            found.append({"name": name, "available": not why, "why": why, "external": meter.external})
        except (EdgewrightError, ImportError, OSError) as error:  # one that is broken must not hide the others
            found.append({"name": name, "available": False, "why": str(error), "external": False})
    return {"schema": 1, "root": args.meter_root, "meters": found}


_CAN_BE_READ = {False: "can be read", True: "can be read when its file or port is named"}


def _as_text(data: Mapping[str, Any]) -> list[str]:
    """The figures that a person looks for, as lines "name: value"."""
    if "meters" in data:
        return [f"{meter['name']}: {meter['why'] or _CAN_BE_READ[meter['external']]}" for meter in data["meters"]]
    latencies = np.asarray(data["latencies_ns"])
    execution, energy, peak, arena = data["execution"], data["energy"], data["rss"]["peak_bytes"], data["arena_bytes"]
    quantiles = ", ".join(f"p{q:g} {np.percentile(latencies, q) / 1e6:.4f}" for q in (50, 90, 99, 99.9))
    idle, gap_ms = data["after_idle_ns"]["latencies_ns"], data["after_idle_ns"]["gap_ms"]
    after = f"p50 {np.median(idle) / 1e6:.4f} ms ({len(idle)} gaps of {gap_ms:g} ms)" if idle else "not measured"
    per = energy.get("mj_per_inference")
    absent = energy.get("why_absent") or "this meter is read elsewhere: the windows are in the JSON"
    told = f"not measured: {absent}" if per is None else f"{per:.4g} mJ an inference ({energy['meter']})"
    lines = [
        f"engine: {data['library']}, {execution['precision']}, {execution['device']}, threads {data['threads']}",
        f"import: {data['import_ns'] / 1e6:.1f} ms",
        f"load: {data['load_ns'] / 1e6:.1f} ms",
        f"first inference: {data['first_ns'] / 1e6:.3f} ms",
        f"latency: {quantiles}, mean {latencies.mean() / 1e6:.4f} ms ({len(latencies)} calls, batch {data['batch']})",
        f"after idle: {after}",
        f"peak memory: {data['rss']['why_absent'] if peak is None else f'{peak / 2**20:.1f} MiB'}",
        f"arena: {data['arena_why_absent'] if arena is None else f'{arena:,} bytes'}",
        f"energy: {told}",
    ]
    state = data["conditions"]
    lines += [f"throttled: {state['why']}"] if state["throttled"] else []
    ops = sorted(data["profile"].get("ops", ()), key=lambda op: -float(op["ms"]))[:10]
    lines += [f"op: {op['ms']:.4f} ms, {op['share']:.1%}, {op['op']}, {op['name']}" for op in ops]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Results go to stdout, errors with their hint to stderr."""
    args = _parser().parse_args(argv)
    try:
        data = {"bench": _bench, "meters": _meters}[args.verb](args)
    except EdgewrightError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps(data) if args.json else "\n".join(_as_text(data)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
