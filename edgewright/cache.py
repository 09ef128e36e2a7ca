"""Finished steps, kept by the digest of all that went into them: a rerun costs nothing, and a killed run goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from edgewright.artifact import file_digest
from edgewright.errors import ArtifactError, UsageError

__all__ = ["Cache", "Entry", "code_digest", "default_root"]

log = logging.getLogger("edgewright")

RECORD = "entry.json"
"""The file that makes a folder an entry; written last."""

Make = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished step.

    Args:
        folder: where its files are.
        kind: what sort of step it was, for example "export:tflite".
        what: the step in words.
        value: what it gave besides files, as plain JSON values.
        seconds: how long it took when it was done.
        files: sha256 of each file, by name.
        size_bytes: of all files.
        reused: whether it was there already when it was asked for.
        kept: whether the next run will find it; False for what has no digest.
    """

    folder: Path
    kind: str
    what: str
    value: Mapping[str, Any]
    seconds: float
    files: Mapping[str, str]
    size_bytes: int
    reused: bool = True
    kept: bool = True

    def to_json(self) -> dict[str, Any]:
        """What a listing of the cache tells."""
        return {
            "kind": self.kind,
            "what": self.what,
            "folder": str(self.folder),
            "seconds": self.seconds,
            "bytes": self.size_bytes,
            "files": list(self.files),
            "used": datetime.fromtimestamp(_used(self.folder), timezone.utc).isoformat(timespec="seconds"),
        }


class Cache:
    """A folder of finished steps; use it as a context manager.

    An entry is made in a folder of its own and appears by a rename: a process that is killed leaves no half an entry. A
    lock file per entry, locked by the system for as long as its process lives, makes a second process wait for the
    first; one for the whole cache keeps `clear` from removing what another process uses.

    Args:
        root: the folder; None takes `default_root`.

    Raises:
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_root() if root is None else root
        self._stack = ExitStack()
        try:
            for name in ("entries", "making", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.root, error) from error
        self._stack.enter_context(_lock(self.root / "locks" / "cache", shared=True, what="the cache is being cleared"))
        self._sweep()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cache, and remove what was made without a digest."""
        self._stack.close()

    def find(self, kind: str, parts: Mapping[str, Any] | None) -> Entry | None:
        """The entry of a step if it is finished and undamaged, else None.

        Args:
            kind: what sort of step it is.
            parts: everything that its result depends on, as plain JSON values; None if that cannot be told.
        """
        return None if parts is None else self._load(_key(kind, parts))

    def step(self, kind: str, what: str, parts: Mapping[str, Any] | None, make: Make) -> Entry:
        """The entry of a step, made now if it is not there.

        Args:
            kind: what sort of step it is, for example "export:tflite".
            what: the step in words.
            parts: everything that its result depends on, as plain JSON values; None if that cannot be told: the step is
                then done each time, and its files are gone when the cache is closed.
            make: does the step: writes files to the folder that it is given and returns plain JSON values.

        Raises:
            ArtifactError: the cache's folder is full or read-only.
            EdgewrightError: what `make` raises; nothing is kept then.
        """
        if parts is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewright-")))
            return _made(folder, kind, what, make, kept=False)
        key = _key(kind, parts)
        if found := self._load(key):
            return found
        with _lock(self.root / "locks" / key, what=f"another process is at the same step ({what})"):
            if found := self._load(key):
                return found
            folder = self.root / "making" / key
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir()
                made = _made(folder, kind, what, make, kept=True)
                _write_record(made, parts)
                target = self._place(key)
                target.parent.mkdir(exist_ok=True)
                folder.rename(target)
            except OSError as error:
                raise _unusable(self.root, error) from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        found = self._load(key)
        if found is None:
            raise ArtifactError(f"{self.root} does not keep what is written to it: the step '{what}' is gone", _HINT)
        return Entry(**{**_fields(found), "reused": False})

    def forget(self, kind: str, parts: Mapping[str, Any] | None) -> None:
        """Remove the entry of a step, so that it is done again."""
        if parts is not None:
            shutil.rmtree(self._place(_key(kind, parts)), ignore_errors=True)

    def entries(self) -> list[Entry]:
        """All finished steps, the one used last first."""
        folders = sorted((self.root / "entries").glob("*/*"), key=_used, reverse=True)
        return [entry for folder in folders if (entry := _read(folder))]

    def size_bytes(self) -> int:
        """Bytes of all files, of unfinished steps too."""
        return sum(file.stat().st_size for file in self.root.rglob("*") if file.is_file())

    def clear(self, older_than_s: float = 0.0) -> tuple[int, int]:
        """Remove entries that were not used for a time.

        Args:
            older_than_s: seconds since the last use; 0 removes everything.

        Returns:
            How many entries were removed, and how many bytes.

        Raises:
            UsageError: another process uses the cache.
        """
        count = size = 0
        self._stack.close()
        with _lock(self.root / "locks" / "cache", what="", wait=False):
            for folder in (self.root / "entries").glob("*/*"):
                if time.time() - _used(folder) >= older_than_s:
                    size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                    count += 1
                    shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.root / "making", ignore_errors=True)
        return count, size

    def _place(self, key: str) -> Path:
        return self.root / "entries" / key[:2] / key

    def _load(self, key: str) -> Entry | None:
        """A finished entry whose files are what they were; a damaged one is removed."""
        folder = self._place(key)
        if not folder.is_dir():
            return None
        found = _read(folder)
        if found is None or any(not _is(folder / name, digest) for name, digest in found.files.items()):
            log.warning("the cached step in %s is damaged: it is done again", folder)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        try:
            os.utime(folder)
        except OSError:
            log.debug("the cache is read-only: the time of use is not noted")
        return found

    def _sweep(self) -> None:
        """Remove what killed processes left unfinished: whatever nobody holds the lock of."""
        for folder in (self.root / "making").iterdir():
            try:
                with _lock(self.root / "locks" / folder.name, what="", wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
            except UsageError:
                continue


def default_root() -> Path:
    """EDGEWRIGHT_CACHE, else edgewright in the user's cache folder, else a folder for temporary files."""
    if named := os.environ.get("EDGEWRIGHT_CACHE"):
        return Path(named).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright"
    except RuntimeError:  # no home folder, as in some containers
        return Path(tempfile.gettempdir()) / "edgewright-cache"


@functools.cache
def code_digest(*names: str) -> str:
    """Digest of Edgewright's own source: results of other code are other results.

    Args:
        names: modules and sub-packages; none for the whole package.
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for name in names or ("",):
        module = root / f"{name}.py"
        for file in [module] if module.is_file() else sorted(f for f in (root / name).rglob("*.*") if f.suffix != ".pyc"):
            digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


_HINT = "free space there, clear it with 'edgewright cache clear', or name another folder in EDGEWRIGHT_CACHE"


def _unusable(root: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"the cache {root} cannot be used: {error.strerror or error}", hint=_HINT)


def _key(kind: str, parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([kind, parts], sort_keys=True).encode()).hexdigest()


def _made(folder: Path, kind: str, what: str, make: Make, *, kept: bool) -> Entry:
    started = time.monotonic()
    value = dict(make(folder))
    files = {file.relative_to(folder).as_posix(): file_digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    size = sum((folder / name).stat().st_size for name in files)
    return Entry(folder, kind, what, value, time.monotonic() - started, files, size, reused=False, kept=kept)


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Entry.__slots__}


def _write_record(entry: Entry, parts: Mapping[str, Any]) -> None:
    record = {name: getattr(entry, name) for name in ("kind", "what", "value", "seconds", "files", "size_bytes")}
    text = json.dumps({"schema": 1, **record, "parts": parts}, indent=1)
    (entry.folder / RECORD).write_text(text, encoding="utf-8")


def _read(folder: Path) -> Entry | None:
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = ("kind", "what", "value", "seconds", "files", "size_bytes")
        return Entry(folder, **{name: data[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is(file: Path, digest: str) -> bool:
    try:
        return file_digest(file) == digest
    except OSError:
        return False


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def _lock(path: Path, *, what: str, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock file that names this process; the system lets go of it when the process dies, however it dies.

    Args:
        path: the file.
        what: told once while waiting for another process.
        shared: let others hold it too, who also share it.
        wait: False refuses at once.

    Raises:
        UsageError: it is held by another process and `wait` is False.
    """
    told = False
    while True:
        handle = path.open("a+")
        if _try_lock(handle, shared) and _same(handle, path):
            break
        holder = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
        handle.close()
        if not wait:
            raise UsageError(f"the cache is in use by another process{f' ({holder})' if holder else ''}", hint="try again later")
        if not told and what:
            log.warning("%s%s: waiting for it", what, f", process {holder}" if holder else "")
            told = True
        time.sleep(0.1)
    with handle:
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
        if not shared:
            path.unlink(missing_ok=True)


def _try_lock(handle: IO[str], shared: bool) -> bool:
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


def _same(handle: IO[str], path: Path) -> bool:
    """Whether the file that was locked is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False
