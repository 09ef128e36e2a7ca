"""Whether `edgewright compress` survives being killed at any moment: no finished step lost, no wrong file, no orphan.

One run is left alone; its files are the truth. A second one, with a cache and a folder of its own, is killed after a random
time and started again, many times: SIGKILL to the parent alone, so that its children must notice by themselves, and every
fifth time SIGINT (Ctrl-C). After each kill every step that was in the cache must be there still, byte for byte; every file
in the output folder must be the right one; no process of the run may be alive. In the end a run finishes, and its files
must be those of the run that was left alone. Prints a Markdown table; exit code 1 if anything was wrong. Linux only.

    .venv/bin/python perf/kill_compress.py [--kills 20] [--seed 0] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "edgewright" / "demo_data"
MODEL_FILES = [
    "watch_int8.bin",
    "watch_int8.tflite",
    "watch_int8.tflite.artifact.json",
    "watch_int8.xml",
    "watch_int8.xml.artifact.json",
]
MARK = "KILL_COMPRESS_RUN"
ORPHANS_S = 5.0
END_S = 600.0
CANCELLED = (130, -signal.SIGINT)
"""Exit codes of a run that was cancelled; the second if Python had not started it yet, which shells call 130, too."""

Entries = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Kill:
    """One kill, and what was found after it.

    Args:
        sent: the signal's name.
        after_s: when it was sent, from the start of the run.
        ending_s: how long the run took to end then.
        code: its exit code.
        before: finished steps in the cache when the run was started.
        after: finished steps when it was dead.
        files: visible files in the output folder.
        scratch: what it left in the folder for temporary files.
        wrong: everything that was not as it must be.
    """

    sent: str
    after_s: float
    ending_s: float
    code: int
    before: int
    after: int
    files: int
    scratch: int
    wrong: tuple[str, ...]


@dataclass
class Outcome:
    """What all kills showed.

    Args:
        alone_s: seconds that the undisturbed run took.
        kills: every kill.
        finished: runs that ended by themselves before they could be killed.
        wrong: what was wrong at the end.
    """

    alone_s: float = 0.0
    kills: list[Kill] = field(default_factory=list)
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Everything that was wrong."""
        return [f"kill {i}: {text}" for i, kill in enumerate(self.kills, 1) for text in kill.wrong] + self.wrong


class Place:
    """A cache, an output folder and a folder for temporary files, in which runs are started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.out, self.scratch = folder, folder / "cache", folder / "out", folder / "tmp"
        self.clear()

    def clear(self) -> None:
        """Forget all runs."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def start(self, mark: str) -> subprocess.Popen[bytes]:
        """Start a run whose processes all carry a mark in their environment."""
        arguments = ["--recipe", "int8", "--to", "tflite,openvino", "--repeats", "1", "--duration", "0.1", "-o", str(self.out)]
        data = ["--samples", str(DATA / "watch_calib.npz"), "--eval", str(DATA / "watch_test.npz")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWRIGHT_")}
        environment |= {"EDGEWRIGHT_CACHE": str(self.cache), "TMPDIR": str(self.scratch), MARK: mark}
        command = [sys.executable, "-m", "edgewright.cli", "compress", str(DATA / "watch.keras"), *arguments, *data]
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
        try:
            with (self.folder / "stderr.txt").open("w") as log:
                return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        finally:
            signal.signal(signal.SIGINT, before)

    def said(self) -> str:
        """The end of the last run's standard error."""
        return (self.folder / "stderr.txt").read_text(errors="replace")[-2000:]

    def digests(self) -> dict[str, str]:
        """Of every visible file in the output folder."""
        files = sorted(self.out.iterdir()) if self.out.is_dir() else []
        return {file.name: digest(file) for file in files if not file.name.startswith(".")}

    def hidden(self) -> list[str]:
        """Names of hidden files and folders in the output folder."""
        return sorted(path.name for path in self.out.glob(".*")) if self.out.is_dir() else []

    def entries(self) -> Entries:
        """Every step in the cache: digests of its files."""
        folders = (folder for folder in sorted((self.cache / "entries").glob("*/*")))
        return {
            folder.name: {file.relative_to(folder).as_posix(): digest(file) for file in folder.rglob("*") if file.is_file()}
            for folder in folders
        }


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def marked(mark: str) -> list[int]:
    """Living processes that carry a mark, whoever their parent is by now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lives = (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if lives and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def orphans(mark: str) -> list[int]:
    """Processes of a dead run that are alive after five seconds."""
    end = time.monotonic() + ORPHANS_S
    while (found := marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def wrong_entries(before: Entries, place: Place) -> list[str]:
    """Steps that were lost, changed, or are there by half: each entry's record names its files and their digests."""
    after, wrong = place.entries(), []
    for name, files in before.items():
        if name not in after:
            wrong.append(f"the finished step {name[:8]} is gone")
        elif after[name] != files:
            wrong.append(f"the finished step {name[:8]} has changed")
    for name, files in after.items():
        try:
            told = json.loads((place.cache / "entries" / name[:2] / name / "entry.json").read_text())["files"]
        except (OSError, ValueError, KeyError) as error:
            wrong.append(f"the step {name[:8]} has no record: {error}")
            continue
        if told != {file: value for file, value in files.items() if file != "entry.json"}:
            wrong.append(f"the step {name[:8]} is not whole")
    return wrong


def wrong_files(place: Place, truth: dict[str, str]) -> list[str]:
    """Visible files that are not those of the undisturbed run; reports hold measurements and only have to be whole."""
    wrong = []
    for name, found in place.digests().items():
        text = (place.out / name).read_text(errors="replace") if name.startswith("report.") else ""
        if name == "report.json":
            try:
                json.loads(text)
            except ValueError:
                wrong.append("report.json is no JSON")
        elif name == "report.html" and not text.rstrip().endswith("</html>"):
            wrong.append("report.html is cut off")
        elif name.startswith("report.") and not text.endswith("\n") and name != "report.html":
            wrong.append(f"{name} is cut off")
        elif not name.startswith("report.") and truth.get(name) != found:
            wrong.append(f"{name} is {found[:8]}, not {truth.get(name, 'there')[:8]}")
    return wrong


def finish(place: Place, mark: str) -> float:
    """Let a run finish; seconds that it took.

    Raises:
        RuntimeError: it failed.
    """
    begin = time.monotonic()
    code = place.start(mark).wait(END_S)
    if code:
        raise RuntimeError(f"a run that nobody disturbed ended with exit code {code}: {place.said()}")
    return time.monotonic() - begin


def kill_once(place: Place, truth: dict[str, str], sent: signal.Signals, after_s: float) -> Kill | None:
    """Start a run and kill it; None if it ended before."""
    before = place.entries()
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    known = set(place.scratch.iterdir())
    process = place.start(mark)
    try:
        code = process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    else:
        if code:
            raise RuntimeError(f"a run that nobody disturbed ended with exit code {code}: {place.said()}")
        return None
    begin = time.monotonic()
    code = process.wait(END_S)
    ending_s = time.monotonic() - begin
    if code == 0:  # it was done in the very moment of the signal
        return None
    left = orphans(mark)
    wrong = [f"process {number} is alive {ORPHANS_S:g} s later" for number in left]
    for number in left:
        os.kill(number, signal.SIGKILL)
    wrong += [*wrong_entries(before, place), *wrong_files(place, truth)]
    scratch = set(place.scratch.iterdir()) - known
    if sent == signal.SIGINT:
        if code not in CANCELLED:
            wrong.append(f"the exit code after Ctrl-C is {code}, not 130: {place.said().strip()[-300:]}")
        wrong += [f"Ctrl-C left {name}" for name in [*place.hidden(), *(path.name for path in scratch)]]
    return Kill(
        sent.name, after_s, ending_s, code, len(before), len(place.entries()), len(place.digests()), len(scratch), tuple(wrong)
    )


def kill_many(folder: Path, kills: int, seed: int, every: int = 5, tell: Callable[[str], object] = str) -> Outcome:
    """Kill runs at random moments.

    Args:
        folder: where caches and files go.
        kills: how many runs are killed; ones that end before do not count.
        seed: of the moments.
        every: every so many kills is a SIGINT.
        tell: called with a line of text after each run.
    """
    rng, outcome = random.Random(seed), Outcome()
    alone, place = Place(folder / "alone"), Place(folder / "killed")
    outcome.alone_s = finish(alone, "alone")
    truth = alone.digests()
    missing = {*MODEL_FILES, "report.json", "report.html"} - set(truth)
    if missing or alone.hidden():
        outcome.wrong.append(f"the undisturbed run left out {sorted(missing)} and left {alone.hidden()}")
    while len(outcome.kills) < kills:
        sent = signal.SIGINT if (len(outcome.kills) + 1) % every == 0 else signal.SIGKILL
        done = kill_once(place, truth, sent, rng.uniform(0, outcome.alone_s))
        if done is not None:
            outcome.kills.append(done)
            tell(line(len(outcome.kills), done))
            continue
        outcome.finished += 1
        tell("a run was done before its kill: cache and files are removed")
        outcome.wrong += end_of_run(place, truth)
        place.clear()
    before = place.entries()
    finish(place, "last")
    outcome.wrong += [*end_of_run(place, truth), *wrong_entries(before, place)]
    return outcome


def end_of_run(place: Place, truth: dict[str, str]) -> list[str]:
    """What is wrong after a run that finished."""
    wrong = wrong_files(place, truth)
    if set(place.digests()) != set(truth):
        wrong.append(f"the files are {sorted(place.digests())}, not {sorted(truth)}")
    wrong += [f"the run left {name}" for name in place.hidden()]
    unfinished = [path.name for name in ("making", "locks") for path in (place.cache / name).iterdir() if path.name != "cache"]
    return wrong + [f"the run left {name} in the cache" for name in unfinished]


def line(number: int, kill: Kill) -> str:
    """One kill as a line of the table."""
    cells = [f"{kill.after_s:.1f}", f"{kill.ending_s:.2f}", kill.before, kill.after, kill.files, kill.scratch]
    return f"| {number} | {kill.sent} | {' | '.join(map(str, cells))} | {'; '.join(kill.wrong) or 'nothing'} |"


def table(outcome: Outcome) -> str:
    """The outcome as Markdown: one line per kill and a summary."""
    lines = ["| kill | signal | after, s | ended in, s | steps before | steps after | files in -o | left in TMPDIR | wrong |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    lines += [line(number, kill) for number, kill in enumerate(outcome.kills, 1)]
    gained = sum(max(kill.after - kill.before, 0) for kill in outcome.kills)
    lines += [
        "",
        f"{len(outcome.kills)} kills at random moments of the {outcome.alone_s:.1f} s of an undisturbed run; {outcome.finished} "
        f"other runs were done before their kill. The killed runs added {gained} finished steps. Lost steps, wrong files and "
        f"orphans: {sum(len(kill.wrong) for kill in outcome.kills)}. The last run gave the undisturbed run's files: "
        f"{'NO: ' + '; '.join(outcome.wrong) if outcome.wrong else 'yes'}.",
    ]
    return "\n".join(lines)


def tell(text: str) -> None:
    """Show how far it is."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Kill, print the table; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="runs to kill (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--work", type=Path, help="where caches and files stay; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-compress-") as folder:
        outcome = kill_many((args.work or Path(folder)).resolve(), args.kills, args.seed, tell=tell)
    print(table(outcome))
    for failure in outcome.failures:
        print(failure, file=sys.stderr)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
