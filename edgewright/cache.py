"""Finished steps, kept by the digest of all that went into them: a rerun costs nothing, and a killed run goes on where it was."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgewright.artifact import file_digest
from edgewright.errors import ArtifactError, EdgewrightError
from edgewright.locks import HINT, lock_file, writing

__all__ = ["Cache", "Entry", "code_digest", "default_root"]

log = logging.getLogger("edgewright")

RECORD = "entry.json"
"""The file that makes a folder an entry; written last."""

SCHEMA = 1

ENTRIES, MAKING, LOCKS, SCRATCH = "entries", "making", "locks", "scratch"
"""Folders of a cache: finished steps, those under way, and a lock file for each of these."""

USE = "cache"
"""The lock file of the whole cache: everyone who uses it shares the lock, `clear` has it alone."""

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
    lock file per entry, locked by the system for as long as its process lives, makes a second process (or thread) wait for
    the first; one for the whole cache keeps `clear` from removing what another process uses. Several threads may use one
    cache.

    Args:
        root: the folder; None takes `default_root`.

    Raises:
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (default_root() if root is None else root).absolute()
        self._unkept = ExitStack()
        self._use = ExitStack()
        self._closing = threading.Event()
        with writing(self.root):
            self._share()
            for name in (ENTRIES, MAKING):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        self._sweep()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cache, and remove what was made without a digest; threads that wait for a step stop waiting."""
        self._closing.set()
        self._unkept.close()
        self._use.close()

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
            UsageError: the step is being made by this very thread: it would wait for itself.
            EdgewrightError: what `make` raises; nothing is kept then.
        """
        if parts is None:
            return self._make_unkept(kind, what, make)
        key = _key(kind, parts)
        if found := self._load(key):
            return found
        with self._locked(key, what=what):
            if found := self._load(key):
                return found
            self._remove(key)
            self._make(key, kind, what, parts, make)
            found = _read(self._place(key))
        if found is None:
            raise ArtifactError(f"{self.root} does not keep what is written to it: the step '{what}' is gone", HINT)
        return replace(found, reused=False)

    def scratch(self, kind: str, parts: Mapping[str, Any] | None) -> Path | None:
        """A folder that outlives a kill, for what a long step needs to go on; None for what has no digest.

        Whoever uses it removes it when the step is done; `clear` does so too.
        """
        if parts is None:
            return None
        folder = self.root / SCRATCH / _key(kind, parts)
        with writing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget(self, kind: str, parts: Mapping[str, Any] | None) -> None:
        """Remove the entry of a step, so that it is done again."""
        if parts is not None:
            key = _key(kind, parts)
            with self._locked(key, what=kind):
                shutil.rmtree(self._place(key), ignore_errors=True)

    def entries(self) -> list[Entry]:
        """All finished steps, the one used last first."""
        folders = sorted((self.root / ENTRIES).glob("*/*"), key=_used, reverse=True)
        return [entry for folder in folders if (entry := _read(folder))]

    def size_bytes(self) -> int:
        """Bytes of all files, of unfinished steps too."""
        return _bytes_in(self.root)

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
        self._use.close()
        try:
            with lock_file(self.root / LOCKS / USE, wait=False):
                for folder in (self.root / ENTRIES).glob("*/*"):
                    if time.time() - _used(folder) >= older_than_s:
                        size += _bytes_in(folder)
                        count += 1
                        shutil.rmtree(folder, ignore_errors=True)
                for folder in (self.root / SCRATCH).glob("*"):
                    if time.time() - _used(folder) >= older_than_s:
                        shutil.rmtree(folder, ignore_errors=True)
                self._sweep()
        finally:
            self._share()
        return count, size

    def _share(self) -> None:
        """Tell `clear` of other processes that this one uses the cache."""
        self._use.enter_context(lock_file(self.root / LOCKS / USE, what="the cache is being cleared", shared=True))

    def _locked(self, key: str, *, what: str) -> AbstractContextManager[None]:
        """The lock of a step, which its maker has alone."""
        return lock_file(self.root / LOCKS / key, what=f"the step '{what}' is being done", stop=self._closing)

    def _place(self, key: str) -> Path:
        return self.root / ENTRIES / key[:2] / key

    def _make(self, key: str, kind: str, what: str, parts: Mapping[str, Any], make: Make) -> None:
        """Do a step in a folder of its own, then give that its place. The step's lock is held."""
        folder, target = self.root / MAKING / key, self._place(key)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with writing(self.root):
                folder.mkdir(parents=True)
            made = _made(folder, kind, what, make, kept=True)
            with writing(self.root):
                _write_record(made, parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_unkept(self, kind: str, what: str, make: Make) -> Entry:
        """Do a step whose files are gone at the end; those of a killed process are swept as unfinished ones are."""
        key = f"unkept-{uuid.uuid4().hex}"
        folder = self.root / MAKING / key
        with ExitStack() as stack:
            stack.enter_context(lock_file(self.root / LOCKS / key))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with writing(self.root):
                folder.mkdir(parents=True)
            made = _made(folder, kind, what, make, kept=False)
            self._unkept.push(stack.pop_all())
        return made

    def _load(self, key: str) -> Entry | None:
        """A finished entry whose files are what they were; None if there is none or it is damaged."""
        folder = self._place(key)
        found = _read(folder)
        if found is None or any(not _is(folder / name, digest) for name, digest in found.files.items()):
            return None
        try:
            os.utime(folder)
        except OSError:
            log.debug("the cache is read-only: the time of use is not noted")
        return found

    def _remove(self, key: str) -> None:
        """Remove a damaged entry. The step's lock is held: another process may just have mended it otherwise."""
        folder = self._place(key)
        if folder.exists():
            log.warning("the cached step in %s is damaged: it is done again", folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left: unfinished steps and lock files, wherever nobody holds the lock."""
        left = {name for folder in (MAKING, LOCKS) for name in _names_in(self.root / folder)} - {USE}
        for name in left:
            with suppress(EdgewrightError), lock_file(self.root / LOCKS / name, wait=False):
                shutil.rmtree(self.root / MAKING / name, ignore_errors=True)


def default_root() -> Path:
    """EDGEWRIGHT_CACHE, else edgewright in the user's cache folder, else a folder for temporary files."""
    try:
        if named := os.environ.get("EDGEWRIGHT_CACHE"):
            return Path(named).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright"
    except RuntimeError:  # no home folder, as in some containers
        return Path(tempfile.gettempdir()) / "edgewright-cache"


@functools.cache
def code_digest(*names: str) -> str:
    """Digest of Edgewright's own source: results of other code are other results. Files are read once per process.

    Args:
        names: modules and sub-packages, as paths without ending; none for the whole package.

    Raises:
        ValueError: there is no such module or sub-package.
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for name in names or ("",):
        module = root / f"{name}.py"
        files = [module] if module.is_file() else sorted(filter(_is_source, (root / name).rglob("*")))
        if not files:
            raise ValueError(f"Edgewright has no module or sub-package '{name}'")
        for file in files:
            digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _is_source(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")


_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What only writing fails with."""


def _key(kind: str, parts: Mapping[str, Any]) -> str:
    return _digest([kind, parts])


def _made(folder: Path, kind: str, what: str, make: Make, *, kept: bool) -> Entry:
    """What a step gave. Its OSErrors pass as they are, unless they are about the folder or a full disk."""
    started = time.monotonic()
    try:
        value = dict(make(folder))
    except OSError as error:
        named = [name for name in (error.filename, error.filename2) if name is not None]
        if not (any(_below(name, folder) for name in named) if named else error.errno in _FULL):
            raise
        with writing(folder.parents[1]):
            raise
    with writing(folder.parents[1]):
        files = {file.relative_to(folder).as_posix(): file_digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        size = sum((folder / name).stat().st_size for name in files)
    return Entry(folder, kind, what, value, time.monotonic() - started, files, size, reused=False, kept=kept)


def _below(name: Any, folder: Path) -> bool:
    return isinstance(name, (str, Path)) and Path(name).is_relative_to(folder)


_FIELDS = ("kind", "what", "value", "seconds", "files", "size_bytes")


def _write_record(entry: Entry, parts: Mapping[str, Any]) -> None:
    record = {"schema": SCHEMA, **{name: getattr(entry, name) for name in _FIELDS}, "parts": parts}
    text = json.dumps({**record, "sha256": _digest(record)}, indent=1)
    (entry.folder / RECORD).write_text(text, encoding="utf-8")


def _read(folder: Path) -> Entry | None:
    """The entry of a folder as its record tells it; None if there is no record, or not the one that was written."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.pop("sha256") != _digest(record) or _key(record["kind"], record["parts"]) != folder.name:
            return None
        return Entry(folder, **{name: record[name] for name in _FIELDS}) if record["schema"] == SCHEMA else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _digest(value: Any) -> str:
    """Digest of a JSON value, the same for what is to be written and for what is read back."""
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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


def _names_in(folder: Path) -> list[str]:
    """Names in a folder; none if it cannot be listed."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; what another process removes meanwhile is left out."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(root) / name).lstat().st_size
    return total
