"""Hold a board's lock: runs there, with the board's own Python and nothing of ours, until its standard input ends.

    python -c SOURCE FOLDER HOLDER WAIT_S SILENCE_S

It prints one line of JSON: {"held": true}, or {"held": false, "holder": ...} and ends after WAIT_S seconds; while it waits,
{"waiting": ...} once. Whoever holds writes a line now and then: after SILENCE_S without one the lock is let go, because a
connection that broke without a word would keep it for hours. An empty line says only that the holder lives. The line
{"governor": NAME, "root": FOLDER} has the clocks governed so, an empty NAME as they were before; each is answered by one line.

However this process ends, it sets the governors back. FOLDER/governors.json tells of them meanwhile: if this process was
killed, the next one sets them back, and names why in {"held": true, "left": ...} if it cannot.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

GOVERNORS = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
RECORD = "governors.json"


def say(**words: object) -> None:
    """Print one line of JSON at once."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def heard(seconds: float) -> bytes:
    """What standard input said within a time, empty if nothing; ends the process at its end, for the holder is gone."""
    if not select.select([0], [], [], seconds)[0]:
        return b""
    said = os.read(0, 4096)
    if not said:
        raise SystemExit(0)
    return said


def locked(path: str) -> int | None:
    """The lock file, locked; None if another has it. It is never removed, so that all lock the same file."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def holder_of(path: str) -> object:
    """What the present holder wrote of itself; an empty dictionary if it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def start_of_the_board() -> str:
    """What is another after each start of the board; empty if the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def recorded(folder: str) -> dict[str, list[str]]:
    """Old and new governor by file, of those that are not set back; none if the board was started since, which did that."""
    try:
        found = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
        return dict(found["files"]) if found["start"] == start_of_the_board() else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def record(folder: str, files: dict[str, list[str]]) -> None:
    """Write what `recorded` reads, which appears whole; nothing stays if it would be empty."""
    path, half = Path(folder, RECORD), Path(folder, f"{RECORD}.part")
    if not files:
        path.unlink(missing_ok=True)
        return
    half.write_text(json.dumps({"start": start_of_the_board(), "files": files}), encoding="utf-8")
    half.replace(path)


def govern(folder: str, governor: str, root: str) -> dict[str, object]:
    """Have every clock governed so; what they `was`, whether one was `changed`, and why one could not be (`failed`).

    The record is there before the first is changed; where it cannot be written, none is.
    """
    was: dict[str, str] = {}
    failed = ""
    for file in sorted(Path(root).glob(GOVERNORS)):
        try:
            was[str(file)] = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            failed = f"{file}: {error.strerror}"
    others = {path: name for path, name in was.items() if name != governor}
    left, changed = recorded(folder), False
    try:
        record(folder, {**left, **{path: [left.get(path, [name])[0], governor] for path, name in others.items()}})
    except OSError as error:
        others, failed = {}, f"{folder}/{RECORD}: {error.strerror}"
    for path in others:
        try:
            Path(path).write_text(governor, encoding="utf-8")
            changed = True
        except OSError as error:
            failed = f"{path}: {error.strerror}"
    return {"was": was, "changed": changed, "failed": failed}


def set_back(folder: str) -> str:
    """Have the clocks governed as the record says, but for those that somebody set anew; why one could not be, or empty."""
    left: dict[str, list[str]] = {}
    failed = ""
    for path, (old, new) in recorded(folder).items():
        try:
            if Path(path).read_text(encoding="utf-8").strip() == new:
                Path(path).write_text(old, encoding="utf-8")
        except OSError as error:
            left[path], failed = [old, new], f"{path}: {error.strerror}"
    with contextlib.suppress(OSError):
        record(folder, left)
    return failed


def answer(folder: str, line: bytes) -> None:
    """Do what a line asks for, and say what came of it."""
    request = json.loads(line)
    if request["governor"]:
        say(**govern(folder, request["governor"], request["root"]))
    else:
        say(failed=set_back(folder))


def keep(folder: str, silence_s: float) -> None:
    """Listen to the holder, and do what it asks for, until it is silent for too long."""
    pending = b""
    while said := heard(silence_s):
        *lines, pending = (pending + said).split(b"\n")
        for line in filter(bytes.strip, lines):
            answer(folder, line)


def end(number: int, frame: object) -> None:
    """End the process at a signal as at the end of its input."""
    raise SystemExit(128 + number)


def main(folder: str, holder: str, wait_s: float, silence_s: float) -> int:
    """Take the lock, tell so, hold it until standard input ends; the exit code."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = folder + "/lock"
    until, told = time.monotonic() + wait_s, False
    while True:
        handle = locked(path)
        if handle is not None:
            break
        if time.monotonic() >= until:
            say(held=False, holder=holder_of(path))
            return 0
        if not told:
            say(waiting=holder_of(path))
            told = True
        heard(0.2)
    signals = (signal.SIGTERM, signal.SIGHUP)  # adb hangs up when its connection breaks
    for number in signals:
        signal.signal(number, end)
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # only messages tell of it: a full disk is no matter
            os.pwrite(handle, holder.encode(), 0)
        # Nobody else is here now: what a killed run has left goes.
        shutil.rmtree(folder + "/tmp", ignore_errors=True)
        left = set_back(folder)
        say(held=True, **({"left": left} if left else {}))
        keep(folder, silence_s)
        say(lost=f"nothing was heard for {silence_s:g} s")
        return 1
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        set_back(folder)
        os.ftruncate(handle, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
