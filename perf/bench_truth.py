"""Whether the benchmark tells the truth: p50 beside other people's, false alarms of the gate, slowdowns that it catches.

Run it on a machine with nothing else to do: about 22 minutes. What was measured is kept in the work folder, so a run that was
broken off goes on where it was; results of another file, duration, engine release or machine are not taken.

1. Agreement. Our p50 (with --exact) beside the median of OpenVINO's benchmark_app (-api sync -hint none -nthreads 1 -pin NO
   -infer_precision f32; it refuses -hint latency together with -nthreads, and sets PERFORMANCE_HINT LATENCY by itself) and beside
   a bare LiteRT loop (set_tensor, invoke, get_tensor). Every run is a process of its own, sides take turns (A B A B), medians
   over rounds are compared; the limit is 3 %. benchmark_app prints two decimals: 0.3 % of 1.5 ms.
2. The gate at its default level (a rise of 5 %, 15 processes of each file). Real processes are measured in rounds of three: A,
   A again, and S, which is the same file slowed by 10 %: every inference is followed by a busy-wait of a tenth of what that very
   inference took, inside the timed call, so that each of its figures is 10 % more by construction. A comparison takes consecutive
   rounds of this pool, from evenly spread places on (they overlap: 100 comparisons of processes of their own would take hours),
   and asks `compare` about two reports that hold the processes of these rounds. "in turns": A against A of the same rounds; which
   of the two is the first is drawn for each round. "one after the other": 15 rounds for the first report, the next 15 for the
   second, as two calls of the command line give them and `compare --no-rerun` judges them. "default": as `compare` judges them by
   itself: where they are not clearly within the limit, the rounds behind them, in turns, decide: 15, or as many as the width
   of the intervals asks for, 60 at most, and 60 where fewer decide nothing. The limits are 5 false alarms in 100 and 95 slowdowns
   caught in 100.

    .venv/bin/python perf/bench_truth.py [--rounds 12] [--pool 100] [--comparisons 100] [--duration 1] [--engines litert,openvino]
        [--tflite FILE --xml FILE] [--work DIR] [--out FILE] [--part agreement|gate] [--check]

Models: MobileNetV2 at 224 px of perf/models.py in int8 and float32, made on the first run (TensorFlow, about a minute); or the
files given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import file_sha256
from edgewright.benchmarks.bench import report_of
from edgewright.benchmarks.compare import FIGURES, compare
from edgewright.benchmarks.gate import DEFAULT_LIMIT, GATE_PROCESSES, MOST_AGAIN, Limit
from edgewright.benchmarks.rerun import MeasureAgain, rerun
from edgewright.runtime.machine import fingerprint, machine
from edgewright.worker import Limits, run

MEASURE = "edgewright.benchmarks.latency:measure"
SLOWED = "bench_truth:slowed"
SLOWDOWN = 0.10
AGREE = 0.03
LEAST_MS = 1.0
FALSE_ALARMS, CAUGHT = 5, 95
GATED: tuple[tuple[str, ...], ...] = (("p50",), ("p90",), ("p50", "p90"))
Record = dict[str, Any]
Sides = tuple[list[int], list[int]]
"""The places of the processes of two reports."""


# ---- one process each ---------------------------------------------------------------------------------------------------


def slowed(share: float, **arguments: Any) -> dict[str, Any]:
    """`latency.measure` of a session whose every inference takes so much longer than it did; a job for `worker.run`."""
    from edgewright.benchmarks import latency

    open_session = vars(latency)["open_session"]
    vars(latency)["open_session"] = lambda *given, **named: _Slowed(open_session(*given, **named), share)
    return latency.measure(**arguments)


class _Slowed:
    """A session with a busy-wait behind each inference."""

    def __init__(self, session: Any, share: float) -> None:
        self._session, self._share = session, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __enter__(self) -> _Slowed:
        self._session.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._session.__exit__(*error)

    def run(self, feeds: Mapping[str, Any]) -> Any:
        clock = time.perf_counter_ns
        begin = clock()
        results = self._session.run(feeds)
        now = clock()
        until = begin + (now - begin) * (1 + self._share)
        while clock() < until:
            pass
        return results


def ours(path: Path, engine: str, duration_s: float, *, exact: bool = False, slower: float = 0.0) -> Record:
    """What `edgewright bench` keeps of one process."""
    arguments: dict[str, Any] = {"path": str(path), "engine": engine, "threads": 1, "exact": exact, "duration_s": duration_s}
    arguments |= {"warmup_s": 0.3, "idle_gaps": 0, "meter": "none"} | ({"share": slower} if slower else {})
    return dict(run(SLOWED if slower else MEASURE, what=f"measuring {path.name}", limits=Limits(600), **arguments))


_BARE = """
import json, sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter
path, seconds = sys.argv[1], float(sys.argv[2])
interpreter = Interpreter(path, num_threads=1)
interpreter.allocate_tensors()
feed, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
rng, index = np.random.default_rng(0), feed["index"]
if feed["dtype"] == np.int8:
    x = rng.integers(-128, 127, feed["shape"], np.int8, endpoint=True)
else:
    x = rng.standard_normal(feed["shape"]).astype(feed["dtype"])
clock, times = time.perf_counter_ns, []
def call():
    interpreter.set_tensor(index, x)
    interpreter.invoke()
    return interpreter.get_tensor(out)
until = clock() + 300_000_000
while clock() < until:
    call()
until = clock() + int(seconds * 1e9)
while True:
    begin = clock()
    call()
    end = clock()
    times.append(end - begin)
    if end >= until:
        break
print(json.dumps(float(np.median(times)) / 1e6))
"""


def bare_litert(path: Path, duration_s: float) -> Record:
    """The interpreter's three calls in a loop."""
    done = subprocess.run([sys.executable, "-c", _BARE, path, str(duration_s)], capture_output=True, text=True, check=True)
    return {"median_ms": float(json.loads(done.stdout.splitlines()[-1]))}


def benchmark_app(path: Path, duration_s: float) -> Record:
    """The median that OpenVINO's own tool prints."""
    tool = Path(sys.executable).with_name("benchmark_app")
    options = "-d CPU -api sync -hint none -nthreads 1 -pin NO -infer_precision f32".split()
    # It begins without a warm-up but for one inference: half a second more lets the median be that of a warm run.
    seconds = str(max(1, round(duration_s + 0.5)))
    done = subprocess.run([tool, "-m", path, *options, "-t", seconds], capture_output=True, text=True, check=False)
    found = [line.split("Median:")[1].split()[0] for line in done.stdout.splitlines() if "Median:" in line]
    if done.returncode or not found:
        raise SystemExit(f"benchmark_app failed on {path}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {"median_ms": float(found[0])}


# ---- models -------------------------------------------------------------------------------------------------------------


def models_of(work: Path, tflite: Path | None, xml: Path | None) -> dict[str, dict[str, Path]]:
    """Files by precision and engine; those given stand for int8."""
    if tflite and xml:
        return {"int8": {"litert": tflite, "openvino": fixed(xml, work)}}
    found = {kind: {"litert": work / f"{kind}.tflite", "openvino": work / f"{kind}.xml"} for kind in ("int8", "float32")}
    if not all(file.is_file() for files in found.values() for file in files.values()):
        make = "import sys; from pathlib import Path; import models; models.write_mobilenet(Path(sys.argv[1]))"
        subprocess.run(
            [sys.executable, "-c", make, work], check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        )
        source, samples = work / "mobilenet_v2_224.keras", work / "mobilenet_v2_224.npz"
        for kind, files in found.items():
            for target, file in zip(("tflite", "openvino"), files.values(), strict=True):
                command = [sys.executable, "-m", "edgewright.cli", "convert", str(source), "-p", kind, "--to", target]
                command += ["--batch", "1", "--samples", str(samples), "-o", str(file)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return found


def fixed(xml: Path, work: Path) -> Path:
    """The file with a batch of 1 where it is free, which benchmark_app would ask for."""
    target = work / f"{xml.stem}_batch1.xml"
    if not target.is_file():
        code = (
            "import sys, openvino as ov; m = ov.Core().read_model(sys.argv[1]); "
            "m.reshape({p: [1 if d.is_dynamic else d.get_length() for d in p.partial_shape] for p in m.inputs}); "
            "ov.save_model(m, sys.argv[2], compress_to_fp16=False)"
        )
        subprocess.run([sys.executable, "-c", code, xml, target], check=True)
    return target


# ---- results that are kept ----------------------------------------------------------------------------------------------


class Kept:
    """Records of finished processes by name, one JSON line each."""

    def __init__(self, file: Path, conditions: Mapping[str, Any]) -> None:
        self._file = file
        self._key = hashlib.sha256(json.dumps([conditions, fingerprint()], sort_keys=True).encode()).hexdigest()[:16]
        self._found: dict[str, Record] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # the run was broken off in the middle of it
                continue
            if entry["key"] == self._key:
                self._found[entry["name"]] = entry["record"]

    def get(self, name: str, make: Callable[[], Record]) -> Record:
        """The record of this name, measured now if it is not there."""
        if name not in self._found:
            self._found[name] = make()
            with self._file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"key": self._key, "name": name, "record": self._found[name]}) + "\n")
        return self._found[name]


def releases() -> dict[str, str]:
    """Of the packages whose speed is measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("edgewright", "ai-edge-litert", "openvino", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


# ---- 1. agreement -------------------------------------------------------------------------------------------------------


def agreement(models: Mapping[str, Mapping[str, Path]], args: argparse.Namespace) -> tuple[list[str], bool]:
    """Rows of the table, and whether all limits were kept."""
    lines = [
        "| model | beside | rounds | ours p50, ms | theirs, ms | difference | single rounds | within 3 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    good = True
    for kind, files in models.items():
        for engine in args.engines:
            path = files[engine]
            conditions = {"sha256": file_sha256(path), "duration": args.duration, "releases": releases(), "what": "agreement"}
            kept = Kept(args.work / "agreement.jsonl", conditions)
            mine, theirs = [], []
            for n in range(args.rounds):
                say(f"agreement, {kind} {engine}, round {n + 1} of {args.rounds}")
                record = kept.get(f"{engine} ours {n}", lambda: _median(ours(path, engine, args.duration, exact=True)))  # noqa: B023
                mine.append(record["median_ms"])
                peer = bare_litert if engine == "litert" else benchmark_app
                theirs.append(kept.get(f"{engine} theirs {n}", lambda: peer(path, args.duration))["median_ms"])  # noqa: B023
            a, b = statistics.median(mine), statistics.median(theirs)
            singles = [x / y - 1 for x, y in zip(mine, theirs, strict=True)]
            within = abs(a / b - 1) <= AGREE and a >= LEAST_MS
            good &= within
            name = "bare LiteRT loop" if engine == "litert" else "benchmark_app"
            word = "yes" if within else "NO" if a >= LEAST_MS else f"NO: less than {LEAST_MS:g} ms"
            lines.append(
                f"| {path.name} ({kind}) | {name} | {args.rounds} | {a:.3f} | {b:.3f} | {a / b - 1:+.2%} "
                f"| {min(singles):+.1%} to {max(singles):+.1%} | {word} |"
            )
    return lines, good


def _median(record: Mapping[str, Any]) -> Record:
    return {"median_ms": float(np.median(record["latencies_ns"])) / 1e6}


# ---- 2. the gate --------------------------------------------------------------------------------------------------------


def pool_of(path: Path, engine: str, args: argparse.Namespace) -> list[tuple[Record, Record, Record]]:
    """Rounds of A, A again and S."""
    conditions = {"sha256": file_sha256(path), "duration": args.duration, "releases": releases(), "what": "pool"}
    kept = Kept(args.work / f"pool-{engine}.jsonl", conditions)
    rounds = []
    for n in range(args.pool):
        say(f"gate, {engine}, round {n + 1} of {args.pool}")
        first, again = (kept.get(f"{side} {n}", lambda: ours(path, engine, args.duration)) for side in ("a", "a again"))
        rounds.append((first, again, kept.get(f"slowed {n}", lambda: ours(path, engine, args.duration, slower=SLOWDOWN))))
    return rounds


def pairs_of(
    pool: Sequence[tuple[int, ...]], processes: int, comparisons: int, seed: int
) -> Iterator[dict[str, tuple[Sides, Callable[[int], Sides] | None]]]:
    """By kind of comparison: the processes of both reports, and those of so many rounds in turns that decide a doubt.

    A round of the pool is A, A again, S. Each comparison begins at a place of its own; behind the last round comes the first.
    """
    rng = np.random.default_rng(seed)
    for k in range(comparisons):
        start = k * len(pool) // comparisons
        order = [*pool[start:], *pool[:start]]
        drawn = rng.integers(0, 2, len(pool))
        # A of these rounds, A again, S.
        sides = [(found[side], found[1 - side], found[2]) for found, side in zip(order, drawn, strict=True)]
        first, other, slow = map(list, zip(*sides, strict=True))
        now, later = slice(processes), slice(processes, 2 * processes)

        def again(side: list[int], count: int, first: list[int] = first) -> Sides:
            """So many rounds behind those of both reports."""
            behind = slice(2 * processes, 2 * processes + count)
            return first[behind], side[behind]

        yield {
            "A/A in turns": ((first[now], other[now]), None),
            "slowed, in turns": ((first[now], slow[now]), None),
            "A/A one after the other": ((first[now], first[later]), None),
            "slowed, one after the other": ((first[now], slow[later]), None),
            "A/A, default": ((first[now], first[later]), partial(again, other)),
            "slowed, default": ((first[now], slow[later]), partial(again, slow)),
        }


def gate(path: Path, engine: str, args: argparse.Namespace) -> tuple[list[str], list[str], bool]:
    """Rows of the table, rows of the spread, and whether all limits were kept."""
    processes = args.processes
    if args.pool < 2 * processes + MOST_AGAIN:
        raise SystemExit(f"--pool {args.pool} has too few rounds for two reports of {processes} processes and {MOST_AGAIN} more")
    pool = pool_of(path, engine, args)
    whole = report_of(path, {1: [record for found in pool for record in found]}).to_json()
    own = whole["details"]["processes"]  # a comparison looks at nothing else of these figures
    if any(FIGURES[name].process not in own[0] for gated in GATED for name in gated):
        raise SystemExit("reports keep no p90 of each process: nothing can be said of it")
    numbered = [tuple(range(start, start + 3)) for start in range(0, len(own), 3)]
    counts: dict[tuple[tuple[str, ...], str], Counter[str]] = {}
    for kinds in pairs_of(numbered, processes, args.comparisons, seed=0):
        for kind, (sides, again) in kinds.items():
            a, b = _reports(whole, own, sides)
            for gated in GATED:
                limits = {name: Limit(name, DEFAULT_LIMIT) for name in gated}
                # A core that a neighbour slowed is part of what is measured here, not a reason to refuse.
                found = compare(a, b, limits, allow=["throttled"])
                seen = counts.setdefault((gated, kind), Counter())
                if again and found.doubtful:
                    measure = _measured(whole, own, again)
                    found = rerun(a, b, limits, allow=["throttled"], measure=measure)
                    seen["again"] += 1
                    seen["processes"] += min(found.changes[0].processes)
                seen[found.verdict or "none"] += 1
    lines, good = [], True
    for (names, kind), seen in counts.items():
        alarms, total = seen["regressed"], args.comparisons
        slow = kind.startswith("slowed")
        met = alarms >= CAUGHT * total / 100 if slow else alarms <= FALSE_ALARMS * total / 100
        good &= met or "default" not in kind  # the others say what its parts are worth
        wanted = f"at least {CAUGHT} %" if slow else f"at most {FALSE_ALARMS} %"
        lines.append(
            f"| {engine} | {', '.join(names)} | {kind} | {processes} | {_again_words(seen) if 'default' in kind else ''} "
            f"| {alarms} of {total} | {seen['undecided']} | {seen['kept']} | {wanted}{'' if met else ': MISSED'} |"
        )
    return lines, spread_of(pool, engine), good


def _reports(whole: Mapping[str, Any], own: Sequence[Any], sides: Sides) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two reports that hold these processes."""
    a, b = ({**whole, "details": {"processes": [own[place] for place in side]}} for side in sides)
    return a, b


def _measured(whole: Mapping[str, Any], own: Sequence[Any], again: Callable[[int], Sides]) -> MeasureAgain:
    """Stands in for measuring again, by processes of the pool."""
    return lambda _reports_, _figures, count, _progress: _reports(whole, own, again(count))


def _again_words(seen: Mapping[str, int]) -> str:
    """How often files were measured again, and how many processes that took on average."""
    return f"{seen['again']}, by {seen['processes'] / seen['again']:.0f} each" if seen["again"] else "0"


def spread_of(pool: Sequence[tuple[Record, Record, Record]], engine: str) -> list[str]:
    """How much the pool's processes differ, and what the slowed ones have more."""
    lines = []
    for q in (50, 90):
        plain, slow = (
            np.array([np.percentile(found[side]["latencies_ns"], q) / 1e6 for found in pool for side in sides])
            for sides in ((0, 1), (2,))
        )
        logs = np.log(plain)
        lines.append(
            f"| {engine} | p{q} | {len(plain)} | {np.median(plain):.3f} | {logs.std(ddof=1):.1%} "
            f"| {plain.min() / np.median(plain) - 1:+.1%} to {plain.max() / np.median(plain) - 1:+.1%} "
            f"| {np.median(slow) / np.median(plain) - 1:+.1%} |"
        )
    return lines


# ---- the script ---------------------------------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="of the agreement")
    parser.add_argument("--pool", type=int, default=100, help="rounds of three processes for the gate")
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--processes", type=int, default=GATE_PROCESSES, help="of each report")
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of timed inferences in each process")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=["litert", "openvino"])
    parser.add_argument("--gate-engines", type=lambda text: text.split(","), default=None, help="default: as --engines")
    parser.add_argument("--tflite", type=Path)
    parser.add_argument("--xml", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-bench-truth")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    parser.add_argument("--part", choices=("agreement", "gate"), default=None)
    parser.add_argument("--check", action="store_true", help="end with 1 where a limit is missed")
    return parser.parse_args()


def main() -> int:
    """Measure, and print the tables."""
    args = parsed()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    here = str(Path(__file__).resolve().parent)  # children import `slowed` from this file
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))
    began, load = time.monotonic(), os.getloadavg()[0]
    models = models_of(args.work, args.tflite, args.xml)
    facts = machine()
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {release}" for name, release in releases().items() if release)
        + f"; load average before: {load:.2f}",
        "",
    ]
    good = True
    if args.part != "gate":
        rows, met = agreement(models, args)
        lines += ["### p50 beside others", "", *rows, ""]
        good &= met
    if args.part != "agreement":
        rows, spreads = [], []
        for engine in args.gate_engines or args.engines:
            found, spread, met = gate(models["int8"][engine], engine, args)
            rows += found
            spreads += spread
            good &= met
        lines += [
            f"### The gate at {DEFAULT_LIMIT:.0%}, {args.comparisons} comparisons out of {args.pool} rounds of three processes",
            "",
            "| engine | limit on | comparison | processes | measured again | alarms | undecided | within | wanted |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "| engine | figure | processes | median, ms | standard deviation | single processes | slowed by 10 %: found |",
            "|---|---|---|---|---|---|---|",
            *spreads,
            "",
        ]
    text = "\n".join([*lines, f"{(time.monotonic() - began) / 60:.1f} minutes"])
    sys.stdout.write(text + "\n")
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
