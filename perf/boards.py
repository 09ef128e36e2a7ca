"""One model on three boards: deployed, checked by golden vectors, measured, rolled back; and two runs at once on one of them.

The boards are those of the tests, none of them a mock: this machine as it is; the real sshd on loopback, in front of an
arm64 Debian that qemu-aarch64 runs; the real adb client, in front of a device daemon. All is done by the command line
`edgewright` with a config folder of its own. Times of the emulated board say that it works there, not how fast an arm64 is.

    .venv/bin/python perf/boards.py [--duration 1] [--repeats 3] [--work FOLDER] [--out FILE]

It takes openssh-server, openssh-client, qemu-user, adb and `edgewright[ssh]`; tests/devices/arm_root.py fetches the arm64
system once.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgewright.devices.boards import Board
from edgewright.runtime.golden import golden_path, read_golden
from edgewright.runtime.machine import machine

HERE = Path(__file__).resolve().parent
MODEL = "u_net"
KINDS = ("int8", "float32")
PROGRAMS = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "qemu-aarch64": "qemu-user", "adb": "adb"}
"""What the boards are made of, and the package of Debian that has it."""

TITLE = (
    "| board | architecture | file | deploy, s | golden outputs | p50, ms (95 %) | p90, ms (95 %) | peak RSS, MB | placement "
    "| deploy and bench, s |"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A board, what the table calls it, its folder as this machine sees it, and options that its first deploy takes."""

    board: Board
    title: str
    folder: Path
    wheels: Sequence[str] = ()
    emulated: bool = False


class Cli:
    """The command line as people call it, with settings, history and cache of its own in a folder."""

    def __init__(self, home: Path) -> None:
        self.boards = home / "config" / "edgewright" / "boards"
        self.boards.mkdir(parents=True)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWRIGHT_")}
        self.environment |= {"XDG_CONFIG_HOME": str(home / "config"), "XDG_DATA_HOME": str(home / "data")}
        self.environment |= {"EDGEWRIGHT_CACHE": str(home / "cache")}

    def add(self, board: Board) -> None:
        """Write a board's profile."""
        texts = ("title", "architecture", "transport", "address", "python", "folder")
        lines = [f"{key} = {json.dumps(getattr(board, key))}" for key in texts if getattr(board, key)]
        options = [f"{key} = {json.dumps(value)}" for key, value in board.options.items()]
        (self.boards / f"{board.name}.toml").write_text("\n".join(["schema = 1", *lines, "[options]", *options]) + "\n")

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Begin a command."""
        command = [str(Path(sys.executable).with_name("edgewright")), *map(str, words)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, *words: object, code: int = 0) -> tuple[dict[str, Any], float]:
        """The JSON that a command prints and its wall time in seconds; ends the script if its exit code is another one."""
        begin = time.perf_counter()
        process = self.start(*words)
        out, err = process.communicate()
        if process.returncode != code:
            line = " ".join(map(str, words))
            raise SystemExit(f"edgewright {line} ended with {process.returncode} instead of {code}:\n{err[-2000:]}")
        return (json.loads(out) if "--json" in words else {}), time.perf_counter() - begin


def require_programs() -> None:
    """End with one sentence if a program or package is missing."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=search)]
    if missing:
        packages = " ".join(PROGRAMS[name] for name in missing)
        raise SystemExit(f"{', '.join(missing)} not found: install what has them with 'apt install {packages}'")
    if importlib.util.find_spec("asyncssh") is None:
        raise SystemExit("the package asyncssh is not installed: pip install 'edgewright[ssh]'")


def models_of(work: Path, cli: Cli) -> dict[str, Path]:
    """The int8 and the float32 file, made now if they are not there."""
    found = {kind: work / f"{MODEL}_{kind}.tflite" for kind in KINDS}
    samples = work / f"{MODEL}.npz"
    if not samples.is_file():
        subprocess.run([sys.executable, str(HERE / "models.py"), MODEL, str(work)], check=True, capture_output=True)
    for kind, file in found.items():
        if not file.is_file():
            precision = ["--precision", "int8", "--io", "int8", "--samples", samples] if kind == "int8" else []
            cli("convert", work / f"{MODEL}.keras", "-o", file, "--no-verify", *precision)
    return found


def make_boards(home: Path, stack: ExitStack) -> list[Place]:
    """The three boards; what serves them ends with the stack."""
    sys.path.insert(0, str(HERE.parent / "tests" / "devices"))
    from adb_client import AdbDevice, AdbServer
    from arm_root import ArmRootMissing, arm_root
    from ssh_server import SshServer, free_port

    try:
        root = arm_root()
    except ArmRootMissing as error:
        raise SystemExit(f"the emulated arm64 system cannot be made: {error}") from error
    here = Board("here", "This machine", "", "local", python=sys.executable, folder=str(home / "here"))
    server = SshServer(home / "sshd")
    stack.callback(server.stop)
    known = server.start().board(str(home / "arm"))
    arm = dataclasses.replace(known, name="arm", architecture="aarch64", python=str(root.python))
    (home / "adb").mkdir()
    (home / "phone").mkdir()
    adb = AdbServer(free_port())
    own = {**os.environ, "HOME": str(home / "adb"), "TMPDIR": str(home / "adb")}
    subprocess.run(["adb", "-P", str(adb.port), "start-server"], env=own, cwd=home, check=True, capture_output=True, timeout=60)
    stack.callback(adb.client, "kill-server")
    device = AdbDevice(adb, home / "phone")
    stack.callback(device.stop)
    return [
        Place(here, "local", home / "here"),
        Place(arm, "ssh, sshd on loopback", home / "arm", ("--wheels", str(root.wheels)), emulated=True),
        Place(device.board(), "adb, device daemon", home / "phone" / ".edgewright"),
    ]


def row(place: Place, kind: str, file: Path, cli: Cli, args: argparse.Namespace) -> str:
    """Deploy a file to a board and measure it there: a line of the table."""
    words = ["deploy", file, place.board.name, "--name", MODEL, "--samples", file.with_name(f"{MODEL}.npz"), *place.wheels]
    deployed, deploy_s = cli(*words, "--json")
    bench, bench_s = cli(*bench_words(file, place, args.duration, args.repeats))
    metrics = {one["name"]: one for one in bench["metrics"]}
    p50, p90 = (
        f"{one['value']:.3f}" + ("" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})")
        for one in (metrics["latency_p50"], metrics["latency_p90"])
    )
    memory = metrics["peak_rss"]["value"]
    cells = [
        place.title,
        bench["settings"]["machine"]["architecture"] + (", emulated" if place.emulated else ""),
        kind,
        f"{deploy_s:.1f}",
        golden_words(deployed["golden"], file),
        p50,
        p90,
        metrics["peak_rss"]["why_absent"] if memory is None else f"{memory / 1e6:.0f}",
        placement_words(bench["details"]["placement"]),
        f"{deploy_s + bench_s:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def bench_words(file: Path, place: Place, duration_s: float, repeats: int) -> list[object]:
    """The command that measures a file on a board."""
    settings = ["--duration", duration_s, "--repeats", repeats, "--idle-gaps", 0, "--meter", "none", "--no-history", "--json"]
    return ["bench", file, "--device", place.board.name, *settings]


def golden_words(golden: Mapping[str, Any], file: Path) -> str:
    """How many values of all golden outputs are equal bit for bit, and the largest difference."""
    results, rows = read_golden(golden_path(file)).results, golden["outputs"]
    sizes = {one["name"]: sum(result[one["name"]].size for result in results) for one in rows}
    equal = sum(round(one["equal"] * sizes[one["name"]]) for one in rows)
    worst = max(rows, key=lambda one: one["difference"])
    unit = " steps" if "LSB" in worst["rule"] else ""
    return f"{equal:,} of {sum(sizes.values()):,} equal, largest difference {worst['difference']:.2g}{unit}"


def placement_words(placed: Mapping[str, Any]) -> str:
    """Where the ops run."""
    if "ops" not in placed:
        return f"not known: {placed['why_absent']}"
    return ", ".join(f"{one['ops']} of {placed['count']} ops on {one['device']}" for one in placed["devices"])


def at_once(place: Place, file: Path, cli: Cli) -> list[str]:
    """What a second run on a board does while a first one holds it: refused by name, or waiting for its end."""
    begin = time.perf_counter()
    first = cli.start(*bench_words(file, place, 5, 1))
    lock = place.folder / "lock"
    while not (lock.is_file() and lock.read_text()):  # the lock tells its holder, and is empty when nobody has it
        if first.poll() is not None:
            raise SystemExit(f"the first of two runs did not begin:\n{first.communicate()[1][-2000:]}")
        time.sleep(0.02)
    refused, refused_s = cli(*bench_words(file, place, 1, 1), code=1)
    _, waited_s = cli(*bench_words(file, place, 1, 1), "--wait", 300)
    first.communicate()
    if first.returncode:
        raise SystemExit(f"the first of two runs ended with {first.returncode} when a second one came")
    whole = time.perf_counter() - begin
    message = str(refused["error"]["message"]).replace(platform.node(), "HOST")
    return [
        f"Two at once on {place.title}: the second was refused after {refused_s:.1f} s, exit code 1:",
        "",
        f"    {message}",
        "",
        f"With `--wait` it waited for the first one's end and was done after {waited_s:.1f} s; all three took {whole:.1f} s.",
    ]


def back(place: Place, file: Path, cli: Cli) -> str:
    """What a rollback to the int8 file answers."""
    done, seconds = cli("rollback", place.board.name, MODEL, "--json")
    golden = f"{done['golden']['calls']} golden inferences, {golden_words(done['golden'], file)}"
    return f"| {place.title} | {done['from'][:4]} to {done['slot'][:4]} | {golden} | {seconds:.1f} |"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of timed inferences in each process (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each bench (default 3)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-boards", help="for models")
    parser.add_argument("--out", type=Path, help="write what is printed to this file, too")
    args = parser.parse_args()
    require_programs()
    begin = time.perf_counter()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgewright-boards-") as folder, ExitStack() as stack:
        cli = Cli(Path(folder))
        files = models_of(work, cli)
        places = make_boards(Path(folder), stack)
        rows = []
        for place in places:
            cli.add(place.board)
            rows += [row(place, kind, file, cli, args) for kind, file in files.items()]
        together = at_once(places[1], files["int8"], cli)
        rollbacks = [back(place, files["int8"], cli) for place in places]
    facts = machine()
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores, Python {platform.python_version()}; load average {os.getloadavg()[0]:.2f}",
        "",
        *(TITLE, "|---|---|---|---:|---|---|---|---:|---|---:|", *rows, ""),
        *(*together, ""),
        *("| rollback on | slots | outputs there | s |", "|---|---|---|---:|", *rollbacks, ""),
        f"{time.perf_counter() - begin:.0f} s in all",
    ]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
