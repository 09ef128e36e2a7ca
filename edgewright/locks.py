"""Lock files that the operating system lets go of when their process dies, however it dies."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from edgewright.artifact import process_lives
from edgewright.errors import ArtifactError, EdgewrightError, UsageError

__all__ = ["HINT", "lock_file", "writing"]

log = logging.getLogger("edgewright")

HINT = "free space there, clear it with 'edgewright cache clear', or name another folder in EDGEWRIGHT_CACHE"


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what the file system refuses within the block into one error.

    Raises:
        ArtifactError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise ArtifactError(f"the cache {root} cannot be used: {why[:1].lower()}{why[1:]}", hint=HINT) from error


_holders: dict[Path, int] = {}
"""The threads of this process that hold a lock for themselves alone, by lock file."""


@contextmanager
def lock_file(
    path: Path, *, what: str = "", shared: bool = False, wait: bool = True, stop: threading.Event | None = None
) -> Iterator[None]:
    """Hold a lock file that names this process; the system lets go of it when the process dies, however it dies.

    Args:
        path: the file.
        what: told once while waiting for another process.
        shared: let others hold it too, who also share it.
        wait: False refuses at once.
        stop: ends the waiting when it is set.

    Raises:
        UsageError: it is held by another process and `wait` is False, or by this thread.
        EdgewrightError: `stop` was set.
        ArtifactError: the file cannot be made or locked.
    """
    began, told = time.monotonic(), False
    while (handle := _try_lock(path, shared)) is None:
        if _holders.get(path.resolve()) == threading.get_ident():
            raise UsageError(f"{what} by this very thread: it waits for itself", hint="a step must not ask for its own result")
        if not wait:
            raise UsageError(f"the cache is in use{_by(path)}", hint="try again when that is done")
        if not told and time.monotonic() - began > 1:
            log.warning("%s%s: waiting for it", what, _by(path))
            told = True
        if stop is None:
            time.sleep(0.1)
        elif stop.wait(0.1):
            raise EdgewrightError(f"{what}{_by(path)}: waiting for it was given up")
    with handle:
        if shared:
            _sign(handle, [*_signed(path), os.getpid()])
        else:
            _sign(handle, [os.getpid()])
            _holders[path.resolve()] = threading.get_ident()
        try:
            yield
        finally:
            if shared:
                others = _signed(path)
                with suppress(ValueError):
                    others.remove(os.getpid())
                _sign(handle, others)
            else:
                del _holders[path.resolve()]
                with suppress(OSError):
                    path.unlink()


def _try_lock(path: Path, shared: bool) -> IO[str] | None:
    """The file, opened and locked; None if another holds it, or if its last holder has just removed it."""
    with writing(path.parents[1]), ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = stack.enter_context(path.open("a+", encoding="ascii"))
        if _system_lock(handle, shared) and _same(handle, path):
            stack.pop_all()
            return handle
    return None


def _same(handle: IO[str], path: Path) -> bool:
    """Whether the file that was locked is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _system_lock(handle: IO[str], shared: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: byte-range locks, always exclusive; sharing is given up
        import msvcrt

        if shared:
            return True
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(handle: IO[str], processes: list[int]) -> None:
    """Write into a lock file who holds it; only messages tell of it, so a full disk is no matter."""
    with suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.write(handle.fileno(), "".join(f"{process}\n" for process in processes).encode())


def _signed(path: Path) -> list[int]:
    """The living processes that have signed a lock file, one as often as it holds it."""
    try:
        numbers = path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
    return [int(number) for number in numbers if number.isdecimal() and len(number) < 10 and process_lives(int(number))]


def _by(path: Path) -> str:
    """Who holds a lock, in words."""
    signed = dict.fromkeys(_signed(path))
    others = [str(process) for process in signed if process != os.getpid()]
    if others:
        return f" by process {' and '.join(others)}"
    return " by this process" if signed else ""
