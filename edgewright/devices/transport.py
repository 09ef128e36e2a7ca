"""What every way to a board can do: run a command there, put files on it and get them back, checked."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import file_digest
from edgewright.devices.link import Link
from edgewright.devices.running import Completed, Running
from edgewright.errors import DeviceError
from edgewright.registry import Kind

if TYPE_CHECKING:
    from edgewright.devices.boards import Board

__all__ = ["TRANSPORTS", "Completed", "Running", "Transport", "open_transport"]

log = logging.getLogger("edgewright")

_NO_FILE = 44
_IS_FOLDER = 45

_MAKE_FOLDER = 'mkdir -p "$1" || exit 1; df -Pk "$1" 2>/dev/null; exit 0'
_FREE = re.compile(r"\d+\s+\d+\s+(\d+)\s+\d+%")
_RENAME = f'if [ -d "$2" ]; then exit {_IS_FOLDER}; fi; sync "$1" 2>/dev/null; mv -f "$1" "$2"'
_DIGEST = f"""file=$1; shift
if [ ! -f "$file" ]; then exit {_NO_FILE}; fi
if command -v sha256sum >/dev/null 2>&1; then exec sha256sum < "$file"; fi
exec "$@" < "$file"
"""
_DIGEST_IN_PYTHON = """import hashlib, sys
digest = hashlib.sha256()
for chunk in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
    digest.update(chunk)
print(digest.hexdigest())
"""
_SYNC_S = 600.0
"""A file is on the medium before it gets its name, so that a power cut leaves no empty one; slow cards take their time."""

_CHUNK_BYTES = 1 << 17
_SLOWEST_BYTES_PER_S = 200_000
"""A board that hashes or takes less in a second is taken for one that hangs."""


class Transport(Link):
    """One way to one board; `open` it (or use it as a context manager) before anything else.

    A new kind of transport has the hooks `_open`, `_close` and `_start`. Files go through `cat`, `mkdir`, `mv` and
    `sha256sum` (else the board's Python) then, which every Linux board has; a transport that knows a better way overrides
    `_make_folder`, `_send`, `_fetch`, `_digest`, `_rename`, `_remove`. Paths there are absolute, or begin at the board's
    home: "~/models" and "models" are the same.

    Args:
        board: whose `address` and `options` say how to get there; nothing is connected yet.
    """

    @classmethod
    def check_address(cls, address: str) -> None:
        """Refuse what cannot be an address, when it is written into a profile; connects nothing.

        Raises:
            DeviceError: it is none; the message begins with "the address".
        """

    def push(self, source: Path, target: str, *, progress: Callable[[float], None] | None = None) -> None:
        """Put a file on the board; it appears under its name whole and checked there, or not at all.

        Args:
            source: a file here.
            target: where it goes; folders on the way are made.
            progress: called with growing shares between 0 and 1; 1 comes when the file has its name.

        Raises:
            DeviceError: there is no such file here, no room there, what arrived has another sha256, or the connection is lost.
        """
        try:
            size, digest = source.stat().st_size, file_digest(source)
        except OSError as error:
            raise DeviceError(f"cannot read {source} to put it on {self.where}: {_reason(error)}") from error
        target = self.expand(target)
        part, folder = f"{target}.part", posixpath.dirname(target)
        tell = _Growing(progress)
        free = self._make_folder(folder)
        if free is not None and free < size:
            raise self._full(source.name, size, folder, free)
        try:
            self._send(source, part, lambda sent: tell(0.99 * sent / max(size, 1)))
            found = self._digest(part, size)
            if found != digest:
                raise DeviceError(
                    f"{source.name} arrived changed on {self.where}: its sha256 is {_short(found)} there, {_short(digest)} here",
                    hint="try again; if it happens again, look at the connection and at the board's storage",
                )
            self._rename(part, target)
        except BaseException as error:
            free = self._clean_up(part, folder)
            if isinstance(error, DeviceError) and ("space left" in error.message or (free is not None and free < size)):
                raise self._full(source.name, size, folder, free) from error
            raise
        tell(1.0)

    def pull(self, source: str, target: Path) -> None:
        """Get a file from the board; it appears here whole and checked, or not at all.

        Args:
            source: the file there.
            target: where it goes here; folders on the way are made.

        Raises:
            DeviceError: there is no such file, what arrived has another sha256, it cannot be written, the connection is lost.
        """
        source = self.expand(source)
        expected = self.sha256(source)
        if expected is None:
            raise DeviceError(f"{self.where} has no file {source}")
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(source, part)
            found = file_digest(part)
            if found != expected:
                raise DeviceError(
                    f"{source} arrived changed from {self.where}: its sha256 is {_short(expected)} there, {_short(found)} here",
                    hint="try again, when nothing writes to the file there",
                )
            part.replace(target)
        except OSError as error:
            raise DeviceError(f"cannot write {target}, which {self.where} sends: {_reason(error)}") from error
        finally:
            part.unlink(missing_ok=True)

    def sha256(self, path: str) -> str | None:
        """Hex digest of a file there, made there; None if there is no such file.

        Raises:
            DeviceError: the file cannot be read, or the connection is lost.
        """
        return self._digest(self.expand(path), None)

    def _make_folder(self, folder: str) -> int | None:
        """Make a folder with those above it; the bytes that are free there, None if that cannot be told."""
        done = self._script(_MAKE_FOLDER, folder, what=f"making the folder {folder}")
        found = _FREE.search(done.stdout)
        return int(found[1]) * 1024 if found else None

    def _send(self, source: Path, target: str, sent: Callable[[int], None]) -> None:
        """Write a file here into one there; `sent` takes the bytes so far."""
        running = self._begin(["sh", "-c", 'exec cat > "$1"', "sh", target])
        try:
            with source.open("rb") as handle:
                self._pour(iter(lambda: handle.read(_CHUNK_BYTES), b""), running, sent)
            running.close_stdin()
            done = running.wait(60 + source.stat().st_size / _SLOWEST_BYTES_PER_S)
        finally:
            running.kill()
        if done.code:
            raise self._refused(f"writing {target}", done)

    def _pour(self, chunks: Iterator[bytes], running: Running, sent: Callable[[int], None]) -> None:
        total = 0
        for chunk in chunks:
            try:
                running.write(chunk)
            except DeviceError:  # a full disk ends `cat`, whose own words say it better; a lost connection raises again
                running.wait(10)
                return
            total += len(chunk)
            sent(total)

    def _fetch(self, source: str, target: Path) -> None:
        """Write a file there into one here."""
        with target.open("wb") as handle:
            running = self._begin(["cat", source], sink=handle.write)
            try:
                running.close_stdin()
                done = running.wait(24 * 3600)
            finally:
                running.kill()
        if done.code:
            raise self._refused(f"reading {source}", done)

    def _digest(self, path: str, size: int | None) -> str | None:
        """Hex digest of a file there, None if there is none; `size` in bytes if it is known, for the time limit."""
        words = shlex.split(self.board.python)
        python = [*(self.expand(word) if word.startswith("~/") else word for word in words), "-c", _DIGEST_IN_PYTHON]
        limit = 600 if size is None else 60 + size / _SLOWEST_BYTES_PER_S
        what = f"making the sha256 of {path}"
        done = self._script(_DIGEST, path, *python, what=what, timeout_s=limit, allowed=(_NO_FILE,))
        digest = done.stdout.split()[0] if done.stdout.split() else ""
        if done.code == _NO_FILE:
            return None
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise self._refused(what, done)
        return digest

    def _rename(self, source: str, target: str) -> None:
        what = f"renaming {source} to {target}"
        done = self._script(_RENAME, source, target, what=what, timeout_s=_SYNC_S, allowed=(_IS_FOLDER,))
        if done.code == _IS_FOLDER:
            raise DeviceError(f"{target} is a folder on {self.where}: no file can have its name")

    def _remove(self, path: str) -> None:
        """Remove a file there, if it is there."""
        self._script('rm -f "$1"', path, what=f"removing {path}", timeout_s=10)

    def _clean_up(self, part: str, folder: str) -> int | None:
        """Remove what a failed push left, if the board still answers; the bytes that are free then."""
        try:
            self._remove(part)
            return self._make_folder(folder)
        except Exception as error:
            log.debug("removing %s: %s", part, error)
            return None

    def _full(self, name: str, size: int, folder: str, free: int | None) -> DeviceError:
        room = "an unknown number of" if free is None else f"{free:,}"
        return DeviceError(
            f"{self.where} has no room for {name}: it takes {size:,} bytes, {room} bytes are free in {folder}",
            hint="free space there, or give the board's profile another folder",
        )


TRANSPORTS: Kind[Transport] = Kind("transport", "edgewright.devices.transports")


def open_transport(board: Board) -> Transport:
    """The transport that a board's profile names, not connected yet; `with` opens and closes it.

    Raises:
        PluginError: there is no transport of that name.
    """
    return TRANSPORTS.get(board.transport)(board)


class _Growing:
    """Passes shares on only as they grow."""

    def __init__(self, progress: Callable[[float], None] | None) -> None:
        self._progress = progress
        self._last = -1.0

    def __call__(self, share: float) -> None:
        if self._progress is not None and share > self._last:
            self._last = share
            self._progress(share)


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _short(digest: str | None) -> str:
    return f"{digest[:12]}..." if digest else "absent"
