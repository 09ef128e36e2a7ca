"""`python -m edgewright.runtime probe|selftest|run`: what a device can run, and a stream, with NumPy and an engine alone."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgewright.errors import EdgewrightError, PluginError
from edgewright.runtime import ENGINES, SINKS, SOURCES, open_session
from edgewright.runtime.golden import check_golden, read_golden, require_golden
from edgewright.runtime.lanes import POLICIES
from edgewright.runtime.machine import machine
from edgewright.runtime.opening import duration_s, stream_of_texts

__all__ = ["main", "probe", "selftest"]


def probe() -> dict[str, Any]:
    """The machine and the engines that are installed on it, as plain values.

    `engines` maps every known name to the library's name and release, or None if it is not installed.
    `memory_bytes` is None where the system does not tell.
    """
    engines: dict[str, str | None] = {}
    for name in ENGINES.names():
        try:
            engines[name] = ENGINES.get(name).version()
        except (ImportError, PluginError) as error:
            engines[name] = None
            print(f"engine {name} cannot be imported: {error}", file=sys.stderr)  # noqa: T201
    return {
        "schema": 1,
        "engines": engines,
        "machine": machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def selftest(path: Path, *, engine: str | None = None, threads: int = 1, exact: bool = False) -> dict[str, Any]:
    """Load a model, run it once on zeros and tell what came out, as plain values; a free size is taken as 1.

    Raises:
        EdgewrightError: what `open_session` and `Session.run` raise.
    """
    with open_session(path, engine=engine, threads=threads, exact=exact) as session:
        feeds = {spec.name: np.zeros([1 if n is None else n for n in spec.shape], spec.dtype) for spec in session.inputs}
        results = session.run(feeds)
        return {
            "schema": 1,
            "model": str(path),
            "engine": session.engine,
            "library": session.version(),
            "execution": session.execution.to_json(),
            "inputs": [spec.to_json() for spec in session.inputs],
            "outputs": [spec.to_json() for spec in session.outputs],
            "results": {name: {"shape": list(value.shape), "dtype": value.dtype.name} for name, value in results.items()},
        }


def _run(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Stream until the sources end, the time is over, or the process is told to end; the account and the exit code.

    Raises:
        EdgewrightError: what opening raises, and what a source broke off with; the account is on standard error then.
    """
    own = {name: value for name, value in vars(args).items() if name not in ("verb", "json", "duration", "model", "sources")}
    seconds = duration_s(args.duration) if args.duration else None
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    code = 0
    with stream_of_texts(args.model, args.sources, **own) as running:
        timer = running.stop_after(seconds) if seconds is not None else None
        try:
            for _ in running:
                pass
        except (KeyboardInterrupt, SystemExit) as ending:
            code = int(ending.code or 0) if isinstance(ending, SystemExit) else 130
            print("cancelled", file=sys.stderr)  # noqa: T201
        except EdgewrightError:
            print(json.dumps(running.summary()), file=sys.stderr)  # noqa: T201
            raise
        finally:
            if timer is not None:
                timer.cancel()
    return running.summary(), code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgewright.runtime", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    probing = verbs.add_parser("probe", help="list the engines that are installed and what machine this is")
    testing = verbs.add_parser("selftest", help="load a model and run it once on zeros")
    testing.add_argument("model", type=Path, help="a .tflite, .onnx or OpenVINO .xml file")
    testing.add_argument("--golden", type=Path, help="golden vectors (.npz) to compare with; exit code 4 if they differ")
    running = verbs.add_parser("run", help="run a model on sources and tell what became of every frame")
    running.add_argument("model", type=Path, help="a .tflite, .onnx or OpenVINO .xml file with one input")
    running.add_argument(
        "sources", nargs="+", help=f"addresses, for example csv:imu.csv?rate=50; kinds: {', '.join(SOURCES.names())}"
    )
    running.add_argument("--out", "-o", action="append", default=[], help=f"address of a sink; kinds: {', '.join(SINKS.names())}")
    running.add_argument("--policy", choices=POLICIES, help="when the buffer is full")
    for name in ("deadline", "preprocess", "window", "smoothing", "detection", "task", "labels", "fuse", "duration"):
        running.add_argument(f"--{name}", help="see edgewright run --help")
    for name, kind in (
        ("buffer", int),
        ("workers", int),
        ("rate", float),
        ("downscale", int),
        ("threshold", float),
        ("learn", int),
        ("count", int),
    ):
        running.add_argument(
            f"--{name}", type=kind, default={"workers": 1, "learn": 0}.get(name), help="see edgewright run --help"
        )
    running.add_argument("--track", action="store_true", help="number boxes over frames")
    running.add_argument("--declare", action="store_true", help="keep what is said of the model in its artifact.json")
    for verb in (testing, running):
        verb.add_argument("--engine", help=f"one of {', '.join(ENGINES.names())}; default: by the file's format")
        verb.add_argument("--threads", type=int, default=1, help="threads of one call (default 1)")
        verb.add_argument("--exact", action="store_true", help="float32 even where the engine prefers a lower precision")
    for verb in (probing, testing, running):
        verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _as_text(data: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested plain values as lines "key.key: value"."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _as_text(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{prefix}{key}: {json.dumps(item)}" for item in value]
        else:
            lines.append(f"{prefix}{key}: {'not installed' if value is None and prefix == 'engines.' else value}")
    return lines


def _told(error: EdgewrightError) -> int:
    """Print an error and its hint; its exit code."""
    print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
    return error.exit_code


def _golden_code(data: dict[str, Any]) -> int:
    """The exit code of a self-test's golden vectors, whose figures are printed already; 0 if there are none."""
    try:
        if "golden" in data:
            require_golden(data["golden"], platform.node() or "this machine")
    except EdgewrightError as error:
        return _told(error)
    return 0


def _print(text: str, to: TextIO) -> int:
    """Print to a standard stream; the exit code if nobody reads it, or its disk is full."""
    try:
        print(text, file=to, flush=True)
        return 0
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())  # Python flushes once more at its end
        if isinstance(error, BrokenPipeError):
            return 1
        return _told(EdgewrightError(f"cannot write the output: {error.strerror}", hint="check free space where it goes"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Results go to stdout, errors with their hint to stderr."""
    args = _parser().parse_args(argv)
    code = 0
    try:
        if args.verb == "probe":
            data = probe()
        elif args.verb == "run":
            data, code = _run(args)
        else:
            how = {"engine": args.engine, "threads": args.threads, "exact": args.exact}
            data = selftest(args.model, **how)
            if args.golden:
                data["golden"] = check_golden(args.model, read_golden(args.golden), **how)
    except KeyboardInterrupt:
        return 130
    except EdgewrightError as error:
        return _told(error)
    to = sys.stderr if "-" in getattr(args, "out", ()) else sys.stdout
    return _print(json.dumps(data, indent=2) if args.json else "\n".join(_as_text(data)), to) or code or _golden_code(data)


if __name__ == "__main__":
    sys.exit(main())
