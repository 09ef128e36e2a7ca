"""Start-up of the command line, and proof that looking at .tflite and IR files never imports TensorFlow.

`edgewright --help` and `python -c pass` run in turn. Then inspect, verify and convert run on .tflite and OpenVINO files with an
import hook, inherited by every child process, that refuses and logs each import of TensorFlow or Keras; the hook is
first shown to work. Prints Markdown tables.

    .venv/bin/python perf/startup.py [--runs 20] [--work FOLDER] [--check]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from models import CASES

HELP_LIMIT_S = 0.35
MODEL = "sequential"

HOOK = """\
import os
import sys
from importlib.abc import MetaPathFinder


class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "keras", "tf_keras"}:
            with open(os.environ["REFUSED_IMPORTS"], "a") as log:
                log.write(f"{name} in {sys.argv}\\n")
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Refuse())
"""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a command; returns its wall time in seconds and how it ended."""
    begin = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False)
    return time.perf_counter() - begin, done


def help_times(runs: int) -> tuple[list[float], list[float]]:
    """Wall times of a bare interpreter and of --help, run in turn after one warm-up."""
    bare, ours = [sys.executable, "-c", "pass"], [cli(), "--help"]
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(runs + 1):
        for command, found in zip((bare, ours), times, strict=True):
            seconds, done = run(command)
            if done.returncode:
                raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
            if index:
                found.append(seconds)
    return times


def cli() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("edgewright"))


def prepare(folder: Path) -> None:
    """A Keras model, its samples, and a float32 .tflite and IR of it; files that exist are kept."""
    if not (folder / f"{MODEL}.npz").exists():
        CASES[MODEL].write(folder)
    for suffix, target in ((".tflite", "tflite"), (".xml", "openvino")):
        out = folder / f"{MODEL}{suffix}"
        if not out.exists():
            _, done = run([cli(), "convert", str(CASES[MODEL].path(folder)), "-o", str(out), "--to", target, "--no-verify"])
            if done.returncode:
                raise RuntimeError(f"converting to {target} failed:\n{done.stderr[-2000:]}")


def audited(folder: Path, runs: int) -> list[tuple[str, float, str]]:
    """Each command with the hook in place: what it is, its median wall time in seconds, and "none" or what went wrong."""
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    log = folder / "refused.log"
    environment = {"PYTHONPATH": str(hooks), "REFUSED_IMPORTS": str(log)}
    for package in ("tensorflow", "keras"):
        log.unlink(missing_ok=True)
        _, done = run([sys.executable, "-c", f"import {package}"], environment)
        if done.returncode == 0 or not log.is_file():
            raise RuntimeError(f"the hook did not refuse {package}: nothing would be proven")
    tflite, ir, samples = (str(folder / f"{MODEL}{suffix}") for suffix in (".tflite", ".xml", ".npz"))
    quantized = [str(folder / f"{MODEL}_int8{suffix}") for suffix in (".tflite", ".xml")]
    calibrated = ["--precision", "int8", "--samples", samples]
    commands = {
        "inspect .tflite": ["inspect", tflite],
        "inspect .xml": ["inspect", ir],
        "verify .tflite against .xml": ["verify", tflite, "--against", ir, "--samples", samples],
        "verify .xml against .tflite": ["verify", ir, "--against", tflite, "--samples", samples],
        "convert .tflite to int8 .tflite": ["convert", tflite, "-o", quantized[0], *calibrated],
        "convert .tflite to int8 .xml": ["convert", tflite, "-o", quantized[1], "--to", "openvino", *calibrated],
    }
    rows = []
    for what, arguments in commands.items():
        log.unlink(missing_ok=True)
        results = [run([cli(), *arguments], environment) for _ in range(runs)]
        refused = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        failed = [done.stderr.strip().splitlines() or [""] for _, done in results if done.returncode]
        verdict = "; ".join([*dict.fromkeys(refused), *(f"failed: {lines[0]}" for lines in failed[:1])]) or "none"
        rows.append((what, statistics.median(seconds for seconds, _ in results), verdict))
    return rows


def main() -> int:
    """Measure, print the tables; with --check exit 1 if the limit is passed or TensorFlow was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of --help and of the bare interpreter (default 20)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-startup", help="where files stay")
    parser.add_argument("--check", action="store_true", help="exit 1 if the limit is passed or an import was refused")
    parser.add_argument("--prepare", action="store_true", help="only write the files (run in a child, it needs TensorFlow)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        prepare(args.work)
        return 0
    child = [sys.executable, __file__, "--prepare", "--work", str(args.work)]
    subprocess.run(child, check=True, stdout=subprocess.DEVNULL)
    bare, ours = help_times(args.runs)
    median = statistics.median(ours)
    print(f"| start, median of {args.runs} (range) | s | limit, s | within |")
    print("|---|---|---|---|")
    print(f"| python -c pass | {statistics.median(bare):.3f} ({min(bare):.3f} to {max(bare):.3f}) | | |")
    within = "yes" if median <= HELP_LIMIT_S else "NO"
    print(f"| edgewright --help | {median:.3f} ({min(ours):.3f} to {max(ours):.3f}) | {HELP_LIMIT_S:g} | {within} |")
    print("\n| command, median of 3 | s | TensorFlow or Keras imports |")
    print("|---|---|---|")
    rows = audited(args.work, 3)
    for what, seconds, verdict in rows:
        print(f"| {what} | {seconds:.2f} | {verdict} |")
    broken = median > HELP_LIMIT_S or any(verdict != "none" for *_, verdict in rows)
    return 1 if args.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
