"""Hold a board's lock: runs there, with the board's own Python and nothing of ours, until its standard input ends.

    python -c SOURCE FOLDER HOLDER WAIT_S SILENCE_S

It prints one line of JSON: {"held": true}, or {"held": false, "holder": ...} and ends after WAIT_S seconds; while it waits,
{"waiting": ...} once. Whoever holds writes a byte now and then: after SILENCE_S without one the lock is let go, because a
connection that broke without a word would keep it for hours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import sys
import time
from pathlib import Path


def say(**words: object) -> None:
    """Print one line of JSON at once."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def heard(seconds: float) -> bool:
    """Whether standard input said something within a time; ends the process at its end, for the holder is gone."""
    if not select.select([0], [], [], seconds)[0]:
        return False
    if not os.read(0, 4096):
        raise SystemExit(0)
    return True


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
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # only messages tell of it: a full disk is no matter
            os.pwrite(handle, holder.encode(), 0)
        # Nobody else is here now: what a killed run has left goes.
        shutil.rmtree(folder + "/tmp", ignore_errors=True)
        say(held=True)
        while heard(silence_s):
            pass
        say(lost=f"nothing was heard for {silence_s:g} s")
        return 1
    finally:
        os.ftruncate(handle, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
