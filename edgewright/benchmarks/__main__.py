"""`python -m edgewright.benchmarks bench MODEL`: one measurement of a model, with NumPy and an engine and nothing else."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

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
    bench.add_argument("--duration", type=float, default=1.0, help="seconds of timed inferences (default 1)")
    bench.add_argument("--exact", action="store_true", help="float32 even where the engine prefers a lower precision")
    bench.add_argument("--json", action="store_true", help="print one JSON object, with every latency, instead of text")
    return parser


def _as_text(data: dict[str, Any]) -> list[str]:
    """The figures that a person looks for, as lines "name: value"."""
    latencies = np.asarray(data["latencies_ns"])
    execution = data["execution"]
    quantiles = ", ".join(f"p{q} {np.percentile(latencies, q) / 1e6:.4f}" for q in (50, 90, 99))
    peak = data["rss"]["peak_bytes"]
    return [
        f"engine: {data['library']}, {execution['precision']}, {execution['device']}, threads {data['threads']}",
        f"import: {data['import_ns'] / 1e6:.1f} ms",
        f"load: {data['load_ns'] / 1e6:.1f} ms",
        f"first inference: {data['first_ns'] / 1e6:.3f} ms",
        f"latency: {quantiles}, mean {latencies.mean() / 1e6:.4f} ms ({len(latencies)} calls, batch {data['batch']})",
        f"peak memory: {data['rss']['why_absent'] if peak is None else f'{peak / 2**20:.1f} MiB'}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Results go to stdout, errors with their hint to stderr."""
    args = _parser().parse_args(argv)
    try:
        data = measure(args.model, engine=args.engine, threads=args.threads, exact=args.exact, duration_s=args.duration)
    except EdgewrightError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps(data) if args.json else "\n".join(_as_text(data)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
